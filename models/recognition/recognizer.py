"""A turn read as it is heard, and the whole of it written down when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from .beam_search import Beam, BeamSearch, SearchConfig
from .reader import LetterReader
from .word_model import WordModel

_BLOCK: Final = 48
"""Frames that are read at once, at absolute places: how a turn is cut into calls cannot change a bit."""


@dataclass(frozen=True)
class Hearing:
    """How far a turn was read: its units, frames that the search has seen, and its beam. A value, as beams are."""

    units: tuple[int, ...]
    frames: int
    beam: Beam


class Recognizer:
    """Reads units as they are heard, with their detail, and writes words. Holds nothing of any turn."""

    def __init__(self, reader: LetterReader, words: WordModel, config: SearchConfig | None = None) -> None:
        self.reader, self.words = reader, words
        self._search = BeamSearch(words, config or SearchConfig())

    def begin(self) -> Hearing:
        """A turn of which nothing was heard."""
        return Hearing((), 0, self._search.begin())

    def hear(self, hearing: Hearing, units: Sequence[int]) -> Hearing:
        """The turn after more units; what lies far enough back is read now."""
        hearing = replace(hearing, units=(*hearing.units, *units))
        while len(hearing.units) >= hearing.frames + _BLOCK + self.reader.config.reach:
            hearing = self._read(hearing, hearing.frames + _BLOCK)
        return hearing

    def text(self, hearing: Hearing) -> str:
        """What was said if the turn ends here, without commas and stops; "" for nothing."""
        hearing = self._read(hearing, len(hearing.units))
        best = self._search.texts(hearing.beam)[0]
        written = " ".join(self.words.written.get(word, word) for word in best.split())
        return written[:1].upper() + written[1:]

    @torch.inference_mode()
    def _read(self, hearing: Hearing, end: int) -> Hearing:
        """Search the frames up to `end`, by letters that depend on `reach` more to either side."""
        start, reach = hearing.frames, self.reader.config.reach
        if start == end:
            return hearing
        first = max(0, start - reach)
        device = self.reader.letters.weight.device
        units = torch.tensor(hearing.units[first : end + reach], device=device)
        letters = self.reader(units[None])[0, start - first : end - first].cpu().numpy()
        return Hearing(hearing.units, end, self._search.step(hearing.beam, letters))
