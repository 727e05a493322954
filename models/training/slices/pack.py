"""What a bare machine needs for a stage, in folders small enough to carry: recordings as they are, texts, the recipe,
and the wheels that read recordings.

    pack-00/   recipe.toml, wheels/*.whl, corpus-0/manifest.tsv, corpus-0/pairs.tsv, corpus-0/shards/*.tar
    pack-01/   corpus-0/shards/*.tar, corpus-1/manifest.tsv ...
    pack-0n/   teacher/*: the semantic teacher, if the recipe names one
    pack-0n/   earlier/*: pieces of earlier slices, if there are any
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ...errors import ConfigError, SpeechGPTGenError
from ..recipe import load_recipe
from ..teachers import save_teacher
from .pieces import find_pieces

MAX_BYTES: Final = 60 * 2**20
_WHEELS: Final = ("soundfile", "cffi", "pycparser")
_BESIDE: Final = {
    "tokenizer": ("voices.safetensors",),
    "decoder": (),
    "semantic": ("tokenizer.json", "vocabulary.json"),
    "recognizer": ("words.safetensors",),
    "perceptual": (),
}
_PLATFORM: Final = (
    "--python-version",
    "3.12",
    "--platform",
    "manylinux_2_28_x86_64",
    "--platform",
    "manylinux2014_x86_64",
)


class Packer:
    """Fills `pack-00`, `pack-01`, ... in `target` with files, each pack up to MAX_BYTES."""

    def __init__(self, target: Path) -> None:
        self.target, self.used = target, list[int]()

    def add(self, file: Path, folder: str) -> None:
        """Copy a file into `folder` of the first pack that has room. Raises ConfigError for one too large for any."""
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{file.name} has {size >> 20} MiB, a pack holds {MAX_BYTES >> 20}: make it smaller")
        number = next((n for n, used in enumerate(self.used) if used + size <= MAX_BYTES), len(self.used))
        if number == len(self.used):
            self.used.append(0)
        self.used[number] += size
        place = self.target / f"pack-{number:02d}" / folder
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place / file.name)


def write_packs(
    sources: Sequence[Path], target: Path, recipe: Path, *, earlier: Sequence[Path] = (), wheels: bool = True
) -> list[int]:
    """Spread corpora over packs of at most MAX_BYTES in `target`, which is replaced; returns the sizes.

    earlier: folders of results, whose newest pieces of every stage come along. wheels: also fetch, from the package
    index, what reads Ogg on a machine with Python 3.12 on x86-64 Linux.
    Raises ConfigError when a source is no corpus or a file is too large for a pack.
    """
    for source in sources:
        if not (source / "manifest.tsv").is_file():
            raise ConfigError(f"no manifest.tsv in {source}: give the folder of a corpus")
    shutil.rmtree(target, ignore_errors=True)
    packer = Packer(target)
    for number, source in enumerate(sources):
        for table in ("manifest.tsv", "pairs.tsv"):  # earlier turns stand in the second
            if (source / table).is_file():
                packer.add(source / table, f"corpus-{number}")
    with tempfile.TemporaryDirectory() as scratch:
        settings = Path(scratch) / "recipe.toml"
        shutil.copyfile(recipe, settings)
        packer.add(settings, "")
        if (teacher := load_recipe(recipe).units.teacher) is not None:
            save_teacher(teacher, Path(scratch) / "teacher")
            for file in sorted((Path(scratch) / "teacher").iterdir()):
                packer.add(file, "teacher")
        if wheels:
            for wheel in _fetch_wheels(Path(scratch)):
                packer.add(wheel, "wheels")
    for stage, beside in _BESIDE.items():
        found = find_pieces(earlier, stage)
        names = () if found is None else (f"{stage}-*.safetensors", *beside)
        for pattern in names:
            for file in sorted(found.glob(pattern)) if found else ():
                packer.add(file, f"earlier/{stage}")
    for number, source in enumerate(sources):
        for shard in sorted((source / "shards").glob("*.tar")):
            packer.add(shard, f"corpus-{number}/shards")
    (target / "pack-00" / "packs").write_text(str(len(packer.used)))
    return packer.used


def _fetch_wheels(folder: Path) -> list[Path]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += [*_PLATFORM, "--dest", str(folder), *_WHEELS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"cannot fetch wheels: {done.stderr.strip().splitlines()[-1]}")
    return sorted(folder.glob("*.whl"))


def unpacked(packs: Path, joined: Path) -> list[Path]:
    """Make `joined` one folder out of all packs below `packs`, by links; returns its corpora. Wheels become importable.

    Raises ConfigError when a pack is missing.
    """
    first = packs / "pack-00"
    if not (first / "packs").is_file():
        raise ConfigError(f"no pack-00 in {packs}: write the packs first (make gpu-pack)")
    count = int((first / "packs").read_text())
    missing = [f"pack-{n:02d}" for n in range(count) if not (packs / f"pack-{n:02d}").is_dir()]
    if missing:
        raise ConfigError(f"{packs} lacks {', '.join(missing)} of {count} packs: carry them too")
    for number in range(count):
        pack = packs / f"pack-{number:02d}"
        for file in sorted(p for p in pack.rglob("*") if p.is_file()):
            link = joined / file.relative_to(pack)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    _import_wheels(sorted(joined.glob("wheels/*.whl")), joined / "site")
    return sorted(joined.glob("corpus-*"))


def _import_wheels(wheels: list[Path], site: Path) -> None:
    """Unpack wheels beside the data and put them last on the path, for this process and its children."""
    for wheel in wheels:
        shutil.unpack_archive(wheel, site, "zip")
    if wheels:
        sys.path.append(str(site))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(site)]))


def main() -> None:
    """`python -m speechgpt_gen.models.training.slices.pack SOURCE ... TARGET [--recipe FILE] [--no-wheels]`."""
    parser = argparse.ArgumentParser(description="Pack what a bare machine needs to train.")
    parser.add_argument("sources", type=Path, nargs="+", help="corpus folders: manifest.tsv and shards/")
    parser.add_argument("target", type=Path)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).parents[1] / "nano.toml")
    parser.add_argument("--earlier", type=Path, nargs="*", default=[], help="folders with results of earlier slices")
    parser.add_argument("--no-wheels", dest="wheels", action="store_false")
    given = parser.parse_args()
    try:
        sizes = write_packs(given.sources, given.target, given.recipe, earlier=given.earlier, wheels=given.wheels)
    except SpeechGPTGenError as error:
        sys.exit(f"error: {error}")
    for number, size in enumerate(sizes):
        print(f"{given.target}/pack-{number:02d}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
