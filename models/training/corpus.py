"""A prepared corpus: one flat file of 16 kHz samples, with its texts, pairs and earlier turns.

`prepare.py` writes it. Reading it needs numpy alone, so that a bare machine with a GPU can.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..semantic.pieces import Message


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


@dataclass(frozen=True)
class Pair:
    """A question and its answer as texts; `before` is what was said earlier, oldest first, `ways` are other words for
    the question."""

    pair: str
    split: str
    question: str
    answer: str
    before: tuple[Message, ...] = ()
    ways: tuple[str, ...] = ()


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
        self.texts = {q.pair: Pair(q.pair, q.split, q.text, a.text) for q, a in self.pairs()} | {
            row["pair"]: Pair(**{**row, "before": _turns(row["before"]), "ways": tuple(row["ways"])})
            for row in _rows(cache / "pairs.json")
        }
        """Every pair, recorded or not."""

    @property
    def digest(self) -> str:
        """Tells corpora apart by what was said in them, by whom and how long it is."""
        return f"{zlib.crc32((self.cache / 'index.json').read_bytes()):08x}"

    def audio(self, utterance: Utterance) -> NDArray[np.float32]:
        """Samples of one utterance in [-1, 1], shape (samples,)."""
        view = self.samples[utterance.start : utterance.start + utterance.samples]
        return view.astype(np.float32) / 32768.0

    def split(self, name: str) -> list[Utterance]:
        """Utterances of the split `train` or `valid`."""
        return [u for u in self.utterances if u.split == name]

    def pairs(self) -> Iterator[tuple[Utterance, Utterance]]:
        """(question, answer) recordings, each reading of a question with its answer."""
        answers = {u.pair: u for u in self.utterances if u.kind == "answer"}
        return ((q, answers[q.pair]) for q in self.utterances if q.kind == "question" and q.pair in answers)


def _rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return found


def _turns(texts: list[str]) -> tuple[Message, ...]:
    return tuple(Message("assistant" if n % 2 else "user", text) for n, text in enumerate(texts))
