"""Decode a speech corpus once into the folder that `Corpus` reads.

`sources.py` says which corpora are understood. Decoding goes part by part, in several processes if asked, and is
resumable: parts that are in the cache are not decoded again. What cannot be used is left out and listed in
`problems.tsv`; nothing that a file holds stops the work.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError, ConfigError
from .corpus import Corpus
from .sources import TURN, Recording, read_sources, rows_of
from .synthesis.other_words import ways_of

SAMPLE_RATE = 16_000
_FILES_A_PART = 200
_FASTEST = 35.0
"""Characters a second that nobody speaks: the text is another recording's."""


@dataclass(frozen=True)
class Problem:
    """A recording that was left out: kind is one of missing, unreadable, empty, too long, wrong rate, no text,
    wrong text."""

    id: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Limits:
    """What a recording must be. Seconds; `min_rate` in Hz: what was sampled lower lacks the upper half of speech."""

    max_seconds: float = 30.0
    min_seconds: float = 0.2
    min_rate: int = 16_000


@dataclass(frozen=True)
class _Part:
    """A stretch of the corpus that one process decodes at a go: a tar, or up to 200 files."""

    name: str
    recordings: Sequence[Recording]


def prepare(
    sources: Path | Sequence[Path],
    cache: Path,
    *,
    limits: Limits | None = None,
    check: Callable[[Recording, NDArray[np.float32]], str | None] | None = None,
    rates: Sequence[float] = (),
    pool: Executor | None = None,
    progress: bool = True,
) -> Corpus:
    """Decode a corpus, or several as one, into `cache` and return it.

    check: looks at each decoded recording (N,) and says why its text is wrong, or None. pool: decodes in its processes;
    then `check` must be a function of a module. rates: what is to be trained on, but for answers, is kept once more at
    one of them, as somebody else (NAME@1.1: higher, and shorter by a tenth). Raises ConfigError when a source is no
    corpus, two have the same id, nothing can be used, a rate is not between 0.5 and 2, or the disk is full.
    """
    if wrong := [rate for rate in rates if not 0.5 <= rate <= 2.0]:
        raise ConfigError(f"a rate must be between 0.5 and 2, not {wrong[0]:g}")
    folders = [sources] if isinstance(sources, Path) else list(sources)
    recordings = read_sources(folders)
    parts = list(_parts(recordings))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _forget_other(cache, folders, limits or Limits(), recordings, rates)
        decode = partial(_decode, cache, limits or Limits(), check, rates)
        for number, _ in enumerate((pool.map if pool else map)(decode, parts), 1):
            if progress:
                print(f"decoded {number}/{len(parts)} parts", flush=True)
        _join(cache, parts)
        _keep_texts(folders, cache)
    except OSError as error:
        raise ConfigError(f"{cache} cannot be written: {error.strerror or error}; run the command again") from None
    return Corpus(cache)


def problems_of(cache: Path) -> list[Problem]:
    """What `prepare` left out of a cache."""
    return [Problem(row["id"], row["kind"], row["reason"]) for row in rows_of(cache / "problems.tsv", ("id", "kind"))]


def summary(problems: Sequence[Problem]) -> str:
    """Counts by kind on one line, the most frequent first; empty when nothing was left out."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(p.kind for p in problems).most_common())


def _parts(recordings: list[Recording]) -> Iterator[_Part]:
    tarred = sorted((r for r in recordings if r.member), key=lambda r: (r.path, r.id))
    for number, (path, group) in enumerate(groupby(tarred, key=lambda r: r.path)):
        yield _Part(f"{number:05d}-{path.name}", list(group))  # two corpora may have shards of the same name
    files = [r for r in recordings if not r.member]
    for start in range(0, len(files), _FILES_A_PART):
        yield _Part(f"files-{start:07d}", files[start : start + _FILES_A_PART])


def _forget_other(
    cache: Path, sources: Sequence[Path], limits: Limits, recordings: list[Recording], rates: Sequence[float]
) -> None:
    """Drop parts that were decoded from something else: another source, other limits, other recordings or rates."""
    stamp = {"sources": [str(source.resolve()) for source in sources], **asdict(limits), "recordings": len(recordings)}
    stamp["rates"] = list(rates)
    note = cache / "source.json"
    if not note.is_file() or json.loads(note.read_text()) != stamp:
        shutil.rmtree(cache / "parts", ignore_errors=True)
        note.write_text(json.dumps(stamp) + "\n")
    (cache / "parts").mkdir(exist_ok=True)


def _decode(
    cache: Path,
    limits: Limits,
    check: Callable[[Recording, NDArray[np.float32]], str | None] | None,
    rates: Sequence[float],
    part: _Part,
) -> None:
    """Decode a part into `parts/NAME.i16` and, last, `parts/NAME.json`, which says that it is done."""
    done = cache / "parts" / f"{part.name}.json"
    if done.is_file():
        return
    rows: list[dict[str, object]] = []
    problems: list[Problem] = []
    with (cache / "parts" / f"{part.name}.i16").open("wb") as out:
        for recording, data in _contents(part):
            try:
                pcm = _usable(recording, data, limits)
            except _Unusable as error:
                problems.append(Problem(recording.id, error.kind, str(error)))
                continue
            if (
                check is not None
                and recording.text
                and (wrong := check(recording, np.asarray(pcm / 32768, np.float32)))
            ):
                problems.append(Problem(recording.id, "wrong text", wrong))
                continue
            for made, sound in [(recording, pcm), *_at_another_rate(recording, pcm, rates)]:
                out.write(sound.tobytes())
                fields = {k: getattr(made, k) for k in ("id", "speaker", "kind", "pair", "split", "text")}
                rows.append({**fields, "samples": len(sound)})
    unfinished = done.with_suffix(".part")
    unfinished.write_text(json.dumps({"rows": rows, "problems": [asdict(p) for p in problems]}))
    os.replace(unfinished, done)


class _Unusable(Exception):
    """Why a recording is left out; its message is one line."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def _contents(part: _Part) -> Iterator[tuple[Recording, Path | io.BytesIO | None]]:
    """Each recording with its file; a tar is read once, from front to back. None is what is not there."""
    if not part.recordings[0].member:
        for recording in part.recordings:
            yield recording, recording.path if recording.path.is_file() else None
        return
    wanted = {r.member: r for r in part.recordings}
    try:
        with tarfile.open(part.recordings[0].path) as archive:
            for member in archive:
                handle = archive.extractfile(member) if member.name in wanted else None
                if handle is not None:
                    yield wanted.pop(member.name), io.BytesIO(handle.read())
    except (OSError, tarfile.TarError):
        pass  # what it did not give is listed as missing
    for recording in wanted.values():
        yield recording, None


def _usable(recording: Recording, data: Path | io.BytesIO | None, limits: Limits) -> NDArray[np.int16]:
    """16 kHz mono (N,) int16, within the limits, or _Unusable."""
    if data is None:
        raise _Unusable("missing", f"{recording.path} {recording.member}".strip() + " is not there or cannot be opened")
    if not recording.text.strip() and recording.kind != "nothing":
        raise _Unusable("no text", "it has no text")
    pcm = _decoded(data, limits)
    if len(pcm) < limits.min_seconds * SAMPLE_RATE or not np.any(pcm):
        raise _Unusable("empty", f"{len(pcm) / SAMPLE_RATE:.2f} s, or silent throughout")
    if len(recording.text) > _FASTEST * len(pcm) / SAMPLE_RATE:
        raise _Unusable("wrong text", f"{len(recording.text)} characters in {len(pcm) / SAMPLE_RATE:.1f} s")
    return pcm


def _at_another_rate(
    recording: Recording, pcm: NDArray[np.int16], rates: Sequence[float]
) -> Iterator[tuple[Recording, NDArray[np.int16]]]:
    """The same at one of `rates`, by somebody else. An answer is the answering voice's alone, and a sound nobody's."""
    if not rates or recording.split != "train" or recording.kind in ("answer", "nothing"):
        return
    from ..audio import load_audio

    rate = random.Random(recording.id).choice(rates)
    other = replace(recording, id=f"{recording.id}@{rate:g}", speaker=f"{recording.speaker}@{rate:g}")
    yield other, _int16(load_audio((pcm / np.float32(32768), round(SAMPLE_RATE * rate))))


def _int16(pcm: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(np.rint(pcm * 32768), -32768, 32767).astype(np.int16)


def _decoded(data: Path | io.BytesIO, limits: Limits) -> NDArray[np.int16]:
    import soundfile  # here, because what is prepared is read where it is not installed

    try:
        with soundfile.SoundFile(data) as sound:
            if sound.frames == 0:
                raise _Unusable("empty", "it holds no samples")
            if sound.samplerate < limits.min_rate:
                raise _Unusable("wrong rate", f"sampled at {sound.samplerate} Hz, less than {limits.min_rate}")
            if sound.frames > limits.max_seconds * sound.samplerate:
                raise _Unusable(
                    "too long", f"{sound.frames / sound.samplerate:.1f} s, more than {limits.max_seconds:g}"
                )
            if sound.samplerate == SAMPLE_RATE and sound.channels == 1 and sound.format == "OGG":
                return np.asarray(sound.read(dtype="int16"), np.int16)
        from ..audio import load_audio

        pcm = load_audio(data, max_seconds=limits.max_seconds)
    except (RuntimeError, AudioError, OSError) as error:
        raise _Unusable("unreadable", " ".join(str(error).split())) from None
    return _int16(pcm)


def _join(cache: Path, parts: list[_Part]) -> None:
    """All parts as one, and the index last: without it the corpus is not there."""
    index, problems, start = [], [], 0
    samples = cache / "samples.part"
    with samples.open("wb") as out:
        for part in parts:
            found = json.loads((cache / "parts" / f"{part.name}.json").read_text())
            with (cache / "parts" / f"{part.name}.i16").open("rb") as handle:
                shutil.copyfileobj(handle, out)
            for row in found["rows"]:
                index.append({**row, "start": start})
                start += row["samples"]
            problems += found["problems"]
    with (cache / "problems.tsv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        writer.writerow(("id", "kind", "reason"))
        writer.writerows((p["id"], p["kind"], p["reason"].replace("\t", " ").replace("\\", "/")) for p in problems)
    if not index:
        kinds = summary([Problem(**p) for p in problems])
        raise ConfigError(f"nothing of this corpus can be used: {kinds}; see {cache / 'problems.tsv'}")
    os.replace(samples, cache / "samples.i16")
    (cache / "index.json").write_text(json.dumps(index))
    shutil.rmtree(cache / "parts")


def _keep_texts(sources: Sequence[Path], cache: Path) -> None:
    """Pairs as texts, from `pairs.tsv` where there is one: earlier turns, and other words for what is asked."""
    tables = [table for source in sources if (table := source / "pairs.tsv").is_file()]
    rows = [row for table in tables for row in rows_of(table, ("pair", "question", "answer"))]
    made = [
        {"pair": row["pair"], "split": row.get("split") or "train", "question": row["question"],
         "answer": row["answer"], "before": row["history"].split(TURN) if row.get("history") else [], "ways": ways}
        for row, ways in zip(rows, ways_of(rows), strict=True)
    ]  # fmt: skip
    (cache / "pairs.json").write_text(json.dumps(made))
