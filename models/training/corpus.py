"""A prepared corpus: one flat file of 16 kHz samples, with its texts, pairs and earlier turns.

`prepare.py` writes it. Reading it needs numpy alone, so that a bare machine with a GPU can.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
        told = cache / "history.json"
        turns: dict[str, list[str]] = json.loads(told.read_text()) if told.is_file() else {}
        self.history = {
            pair: [Message("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)]
            for pair, texts in turns.items()
        }
        """What was said before a pair's question, oldest first, of the pairs that follow something."""

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
