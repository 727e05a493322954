"""What a bare machine needs for a stage, in folders small enough to carry: recordings as they are, texts, the recipe,
and the wheels that read recordings.

    pack-00/   manifest.tsv, recipe.toml, wheels/*.whl, shards/*.tar
    pack-01/   shards/*.tar ...
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from ...errors import ConfigError, SpeechGPTGenError

MAX_BYTES: Final = 60 * 2**20
_WHEELS: Final = ("soundfile", "cffi", "pycparser")
_PLATFORM: Final = (
    "--python-version",
    "3.12",
    "--platform",
    "manylinux_2_28_x86_64",
    "--platform",
    "manylinux2014_x86_64",
)


def write_packs(source: Path, target: Path, recipe: Path, *, wheels: bool = True) -> list[Path]:
    """Spread the corpus in `source` over packs of at most MAX_BYTES in `target`, which is replaced.

    wheels: also fetch, from the package index, what reads Ogg on a machine with Python 3.12 on x86-64 Linux.
    Raises ConfigError when `source` is no corpus or a file is too large for a pack.
    """
    manifest = source / "manifest.tsv"
    if not manifest.is_file():
        raise ConfigError(f"no manifest.tsv in {source}: give the folder of a corpus")
    shutil.rmtree(target, ignore_errors=True)
    first = target / "pack-00"
    (first / "shards").mkdir(parents=True)
    shutil.copyfile(manifest, first / "manifest.tsv")
    shutil.copyfile(recipe, first / "recipe.toml")
    if wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run(
            [*command, *_PLATFORM, "--dest", str(first / "wheels"), *_WHEELS],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ConfigError(f"cannot fetch wheels: {done.stderr.strip().splitlines()[-1]}")
    packs, used = [first], _size(first)
    for shard in sorted((source / "shards").glob("*.tar")):
        size = shard.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{shard.name} has {size >> 20} MiB, a pack holds {MAX_BYTES >> 20}: make smaller shards")
        if used + size > MAX_BYTES:
            packs.append(target / f"pack-{len(packs):02d}")
            (packs[-1] / "shards").mkdir(parents=True)
            used = 0
        shutil.copyfile(shard, packs[-1] / "shards" / shard.name)
        used += size
    (first / "packs").write_text(str(len(packs)))
    return packs


def unpacked(packs: Path) -> Path:
    """One corpus folder out of all packs below `packs`, by links; wheels become importable here.

    Raises ConfigError when a pack is missing.
    """
    first = packs / "pack-00"
    if not (first / "packs").is_file():
        raise ConfigError(f"no pack-00 in {packs}: write the packs first (make gpu-pack)")
    count = int((first / "packs").read_text())
    missing = [n for n in range(count) if not (packs / f"pack-{n:02d}" / "shards").is_dir()]
    if missing:
        raise ConfigError(f"{packs} lacks {', '.join(f'pack-{n:02d}' for n in missing)} of {count} packs")
    joined = Path(tempfile.mkdtemp(prefix="packs-"))
    (joined / "shards").mkdir()
    for number in range(count):
        for shard in sorted((packs / f"pack-{number:02d}" / "shards").iterdir()):
            (joined / "shards" / shard.name).symlink_to(shard.resolve())
    for name in ("manifest.tsv", "recipe.toml"):
        (joined / name).symlink_to((first / name).resolve())
    _import_wheels(sorted((first / "wheels").glob("*.whl")), joined / "site")
    return joined


def _import_wheels(wheels: list[Path], site: Path) -> None:
    """Unpack wheels beside the data and put them last on the path, for this process and its children."""
    for wheel in wheels:
        shutil.unpack_archive(wheel, site, "zip")
    if wheels:
        sys.path.append(str(site))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(site)]))


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def main() -> None:
    """`python -m speechgpt_gen.models.training.slices.pack SOURCE TARGET [--recipe FILE] [--no-wheels]`."""
    parser = argparse.ArgumentParser(description="Pack what a bare machine needs to train.")
    parser.add_argument("source", type=Path, help="corpus folder: manifest.tsv and shards/")
    parser.add_argument("target", type=Path)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).parents[1] / "nano.toml")
    parser.add_argument("--no-wheels", dest="wheels", action="store_false")
    given = parser.parse_args()
    try:
        packs = write_packs(given.source, given.target, given.recipe, wheels=given.wheels)
    except SpeechGPTGenError as error:
        sys.exit(f"error: {error}")
    for pack in packs:
        print(f"{pack}: {_size(pack) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
