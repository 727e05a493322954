"""Speech corpora as people have them, read into one list of recordings. Nothing is decoded here.

| layout | what tells it | where texts and speakers come from |
|---|---|---|
| ours | `manifest.tsv` | the manifest; Ogg files in `shards/*.tar` |
| LibriSpeech | `SPEAKER/CHAPTER/*.trans.txt` | its lines; the folder |
| MLS | `transcripts.txt` beside `audio/SPEAKER/BOOK/` | its lines; the id |
| VCTK | `txt/SPEAKER/ID.txt` beside `wav48*/` | the file; the folder |
| TSV | a file, or `corpus.tsv` in the folder | columns audio, text, speaker [id, kind, pair, split] |
| folder | anything else | `NAME.txt` beside the recording; the folder it lies in |
"""

from __future__ import annotations

import csv
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError, ConfigError

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
KINDS = ("question", "answer", "sentence", "nothing")
"""`nothing` is sound without speech: its text is empty, and there is nothing to answer."""
MANIFEST = ("id", "shard", "speaker", "kind", "pair", "split", "text")
_VALID_SHARE = 0.05
TURN = " | "
"""Between the turns of the column `history` of `pairs.tsv`: user, assistant, user, ..."""


@dataclass(frozen=True)
class Recording:
    """One file of a corpus; `member` names it inside the tar `path`. `pair` joins a question with its answer."""

    id: str
    path: Path
    speaker: str
    text: str
    kind: str = "sentence"
    pair: str = ""
    split: str = "train"
    member: str = ""

    def load(self, max_seconds: float = 60.0) -> NDArray[np.float32]:
        """16 kHz mono (N,). Raises AudioError."""
        from ..audio import load_audio  # here, because a corpus is decoded where not all of it is installed

        if not self.member:
            return load_audio(self.path, max_seconds=max_seconds)
        try:
            with tarfile.open(self.path) as archive:
                handle = archive.extractfile(self.member)
                data = handle.read() if handle is not None else b""
        except (OSError, tarfile.TarError, KeyError) as error:
            raise AudioError(f"{self.path} has no {self.member} that can be read: {error}") from None
        return load_audio(io.BytesIO(data), max_seconds=max_seconds)


def read_sources(sources: Sequence[Path]) -> list[Recording]:
    """Every recording of one corpus or several. Raises ConfigError if one is none, or when two have the same id."""
    return _unique((r for source in sources for r in read_source(source)), " and ".join(map(str, sources)))


def read_source(source: Path) -> list[Recording]:
    """Every recording that a corpus names, in a fixed order. Raises ConfigError if it is no corpus."""
    if source.is_file():
        return _unique(_tsv(source), str(source))
    if not source.is_dir():
        raise ConfigError(f"no corpus in {source}: give a folder or a TSV with the columns audio, text, speaker")
    found = next((reader for there, reader in _LAYOUTS if there(source)), _folder)
    recordings = _unique(found(source), str(source))
    if not recordings:
        raise ConfigError(f"{source} holds no recording with a text: see `speechgpt-gen train prepare --help`")
    return recordings


def rows_of(path: Path, required: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a TSV without quoting. Raises ConfigError when it cannot be read or lacks a column."""
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
            if missing := [name for name in required if name not in (reader.fieldnames or ())]:
                raise ConfigError(f"{path} lacks the columns {', '.join(missing)}: it needs {', '.join(required)}")
            return [{key: value or "" for key, value in row.items() if key} for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def _unique(recordings: Iterator[Recording], source: str) -> list[Recording]:
    made = list(recordings)
    if len({r.id for r in made}) < len(made):
        seen: set[str] = set()
        twice = next(r.id for r in made if r.id in seen or seen.add(r.id))  # type: ignore[func-returns-value]
        raise ConfigError(f"{source} has the id {twice!r} twice: ids must differ")
    return made


def _split(name: str, folder: str = "") -> str:
    """`valid` for what lies in a dev or test folder, else for a twentieth of ids, the same ones every time."""
    if folder.startswith(("dev", "test", "valid")):
        return "valid"
    return "valid" if zlib.crc32(name.encode()) % 1000 < 1000 * _VALID_SHARE else "train"


def _ours(source: Path) -> Iterator[Recording]:
    for row in rows_of(source / "manifest.tsv", MANIFEST):
        yield Recording(
            row["id"],
            source / "shards" / row["shard"],
            row["speaker"],
            row["text"],
            row["kind"],
            row["pair"],
            row["split"],
            member=f"{row['id']}.ogg",
        )


def _tsv(table: Path) -> Iterator[Recording]:
    for number, row in enumerate(rows_of(table, ("audio", "text", "speaker")), 2):
        kind = row.get("kind") or "sentence"
        if kind not in KINDS:
            raise ConfigError(f"{table}, line {number}: kind is {kind!r}: give {', '.join(KINDS)}")
        split = row.get("split", "")
        name = row.get("id") or row["audio"]
        if split not in ("", "train", "valid"):
            raise ConfigError(f"{table}, line {number}: split is {split!r}: give train or valid")
        pair = row.get("pair", "")
        split = split or _split(pair or name)  # a question and its answer go to one side
        yield Recording(name, table.parent / row["audio"], row["speaker"], row["text"], kind, pair, split)


def _librispeech(source: Path) -> Iterator[Recording]:
    for table in sorted(source.rglob("*.trans.txt")):
        for line in table.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            if name:
                split = _split(name, table.parent.parent.parent.name)
                yield Recording(name, table.parent / f"{name}.flac", name.split("-")[0], text.lower(), split=split)


def _mls(source: Path) -> Iterator[Recording]:
    for table in sorted({*source.glob("transcripts.txt"), *source.glob("*/transcripts.txt")}):
        for line in table.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition("\t")
            speaker, book = [*name.split("_"), "", ""][:2]
            stem = table.parent / "audio" / speaker / book / name
            # MLS comes as FLAC or as Opus, one or the other throughout.
            path = next(
                (p for s in SUFFIXES if (p := stem.with_name(name + s)).is_file()), stem.with_name(f"{name}.flac")
            )
            yield Recording(name, path, speaker, text, split=_split(name, table.parent.name))


def _vctk(source: Path) -> Iterator[Recording]:
    folder = next(p for p in sorted(source.glob("wav*")) if p.is_dir())
    for file in sorted(source.glob("txt/*/*.txt")):
        speaker, name = file.parent.name, file.stem
        candidates = [folder / speaker / f"{name}{end}{s}" for end in ("", "_mic1") for s in SUFFIXES]
        path = next((p for p in candidates if p.is_file()), candidates[0])
        yield Recording(name, path, speaker, _text(file), split=_split(name))


def _folder(source: Path) -> Iterator[Recording]:
    for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES):
        text = next((p for end in (".txt", ".normalized.txt", ".lab") if (p := path.with_suffix(end)).is_file()), None)
        name = str(path.relative_to(source).with_suffix(""))
        yield Recording(name, path, path.parent.name, _text(text) if text else "", split=_split(name))


def _text(file: Path) -> str:
    return " ".join(file.read_text(encoding="utf-8", errors="replace").split())


_LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Iterator[Recording]]], ...] = (
    (lambda p: (p / "manifest.tsv").is_file(), _ours),
    (lambda p: (p / "corpus.tsv").is_file(), lambda p: _tsv(p / "corpus.tsv")),
    (lambda p: any(p.glob("transcripts.txt")) or any(p.glob("*/transcripts.txt")), _mls),
    (lambda p: (p / "txt").is_dir() and any(q.is_dir() for q in p.glob("wav*")), _vctk),
    (lambda p: next(p.rglob("*.trans.txt"), None) is not None, _librispeech),
)


def held_out(recordings: list[Recording]) -> list[Recording]:
    """Recordings of speakers that training never hears: those with nothing in the split `train`."""
    trained = {r.speaker for r in recordings if r.split == "train"}
    return [replace(r, split="valid") for r in recordings if r.speaker not in trained]
