"""A speech corpus decoded once into one flat file of 16 kHz samples, with its texts and pairs.

The source is a folder with `manifest.tsv` (id, shard, speaker, speed, seconds, kind, pair, split, text), `pairs.tsv`
and tar shards of `ID.ogg`. Decoding is resumable: shards already in the cache are skipped.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

SAMPLE_RATE = 16_000
_REQUIRED = {"id", "shard", "speaker", "kind", "pair", "split", "text"}


@dataclass(frozen=True)
class Utterance:
    """One recording: `start` and `samples` locate it in the corpus' flat array of samples."""

    id: str
    speaker: str
    kind: str
    pair: str
    split: str
    text: str
    start: int
    samples: int

    @property
    def frames(self) -> int:
        """Number of 20 ms frames, the last one possibly partial."""
        return -(-self.samples // 320)


class Corpus:
    """Utterances and their audio (int16, memory mapped).

    Parameters: `cache` is a folder written by `prepare`.
    """

    def __init__(self, cache: Path) -> None:
        index = cache / "index.json"
        if not index.is_file():
            raise ConfigError(f"no prepared corpus in {cache}: run `speechgpt-gen train prepare` first")
        self.cache = cache
        self.utterances = [Utterance(**row) for row in json.loads(index.read_text())]
        self.samples = np.memmap(cache / "samples.i16", dtype=np.int16, mode="c")
        self.speakers = sorted({u.speaker for u in self.utterances})
        self.by_id = {u.id: u for u in self.utterances}

    def audio(self, utterance: Utterance) -> NDArray[np.float32]:
        """Samples of one utterance in [-1, 1], shape (samples,)."""
        view = self.samples[utterance.start : utterance.start + utterance.samples]
        return view.astype(np.float32) / 32768.0

    def split(self, name: str) -> list[Utterance]:
        """Utterances of the split `train` or `valid`."""
        return [u for u in self.utterances if u.split == name]

    def pairs(self, split: str) -> Iterator[tuple[Utterance, Utterance]]:
        """(question, answer) recordings of a split, each reading of a question with its answer."""
        answers = {u.pair: u for u in self.utterances if u.kind == "answer"}
        for u in self.utterances:
            if u.kind == "question" and u.split == split and u.pair in answers:
                yield u, answers[u.pair]


def _decode_shard(tar: Path, part: Path) -> dict[str, int]:
    """Decode every recording of a shard into `part` (int16); returns samples by id, in file order."""
    import soundfile  # here, because a prepared corpus is read where it is not installed

    lengths: dict[str, int] = {}
    with tarfile.open(tar) as archive, part.open("wb") as out:
        for member in archive:
            handle = archive.extractfile(member) if member.isfile() else None
            if handle is None or not member.name.endswith(".ogg"):
                continue
            pcm, rate = soundfile.read(io.BytesIO(handle.read()), dtype="int16")
            if rate != SAMPLE_RATE or pcm.ndim != 1 or len(pcm) == 0:
                continue
            out.write(pcm.tobytes())
            lengths[Path(member.name).stem] = len(pcm)
    return lengths


def decode_shards(source: Path, cache: Path, pool: Executor) -> None:
    """Decode the shards in `source` that are not in `cache` yet, side by side; `prepare` puts them together."""
    cache.mkdir(parents=True, exist_ok=True)
    waiting = [tar for tar in sorted((source / "shards").glob("*.tar")) if not (cache / f"{tar.name}.json").is_file()]
    for tar, found in zip(
        waiting, pool.map(_decode_shard, waiting, [cache / f"{t.name}.i16" for t in waiting]), strict=True
    ):
        (cache / f"{tar.name}.json").write_text(json.dumps(found))


def prepare(source: Path, cache: Path, *, progress: bool = True) -> Corpus:
    """Decode `source` into `cache` and return the corpus.

    Raises ConfigError when the manifest is missing or lacks a column. Recordings that cannot be read are left out.
    """
    manifest = source / "manifest.tsv"
    if not manifest.is_file():
        raise ConfigError(f"no manifest.tsv in {source}: give the folder of a corpus")
    cache.mkdir(parents=True, exist_ok=True)
    with manifest.open(newline="") as handle:
        reader = csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not set(reader.fieldnames or ()) >= _REQUIRED:
            raise ConfigError(f"{manifest} lacks the columns {sorted(_REQUIRED - set(reader.fieldnames or ()))}")
        rows = {row["id"]: row for row in reader}
    shards = sorted({row["shard"] for row in rows.values()})
    lengths: dict[str, dict[str, int]] = {}
    for number, shard in enumerate(shards, 1):
        done = cache / f"{shard}.json"
        if not done.is_file():
            found = _decode_shard(source / "shards" / shard, cache / f"{shard}.i16")
            done.write_text(json.dumps(found))
        lengths[shard] = json.loads(done.read_text())
        if progress:
            print(f"decoded {number}/{len(shards)} shards", flush=True)
    index, start = [], 0
    with (cache / "samples.i16").open("wb") as out:
        for shard in shards:
            part = cache / f"{shard}.i16"
            out.write(part.read_bytes())
            for name, samples in lengths[shard].items():
                row = rows.get(name)
                if row is not None:
                    fields = {key: row[key] for key in ("id", "speaker", "kind", "pair", "split", "text")}
                    index.append({**fields, "start": start, "samples": samples})
                start += samples
    (cache / "index.json").write_text(json.dumps(index))
    for shard in shards:
        (cache / f"{shard}.i16").unlink()
        (cache / f"{shard}.json").unlink()
    return Corpus(cache)
