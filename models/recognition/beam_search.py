"""The most likely words behind letters that a CTC model reads: prefix beam search with a word model.

As in Hannun et al. (arXiv 1408.2873): a hypothesis is a text; its ways through the frames that end in a blank and those
that end in its last letter are summed apart. Each word that is complete is weighed by the word model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .letters import BLANK, SPACE, SYMBOLS
from .word_model import Context, WordModel

_NEVER: Final = -1e30


@dataclass(frozen=True)
class SearchConfig:
    """How letters and words are weighed against each other."""

    width: int = 24
    """Hypotheses that are followed."""
    word_weight: float = 0.7
    """Of the word model's log-probabilities, beside those of the letters."""
    word_bonus: float = 1.5
    """For each word: the word model has none for short texts, and letters are sure of more than they should be."""
    unlikely: float = -9.0
    """A letter whose log-probability in a frame is less is not considered there."""
    silent: float = -0.01
    """A frame whose blank is likelier than this brings nothing new."""


class Hypothesis(NamedTuple):
    """A text so far, and the log-probabilities of its letters by how its ways end.

    words: what its complete words weigh, with their bonus. context: of the word that is being read, `letters`.
    """

    text: str
    blank: float
    letter: float
    words: float
    context: Context
    letters: str

    @property
    def sound(self) -> float:
        """Of all its ways."""
        return _add(self.blank, self.letter)


Beam = tuple[Hypothesis, ...]
"""Hypotheses that are followed, the likeliest first. A value: an older one may be gone on from as well."""


class BeamSearch:
    """Beams of texts, frame by frame; any cutting of the frames into calls gives the same."""

    def __init__(self, words: WordModel, config: SearchConfig) -> None:
        self._words, self._config = words, config

    def begin(self) -> Beam:
        """The beam before any frame."""
        return (Hypothesis("", 0.0, _NEVER, 0.0, self._words.begin, ""),)

    def step(self, beam: Beam, log_probs: NDArray[np.float32]) -> Beam:
        """A beam after more frames: log-probabilities of `SYMBOLS` (T, 29)."""
        for frame in log_probs.tolist():
            beam = self._frame(beam, frame)
        return beam

    def texts(self, beam: Beam) -> list[str]:
        """What was said if the turn ends here, the likeliest first: words by their letters, between single spaces."""
        scored: dict[str, float] = {}
        for hypothesis in beam:
            weight, context = hypothesis.words, hypothesis.context
            if hypothesis.letters:
                weight += self._weigh(hypothesis)
                context = self._words.after(context, hypothesis.letters)
            weight += self._config.word_weight * self._words.log_end(context)
            text = hypothesis.text.strip()
            scored[text] = _add(scored.get(text, _NEVER), hypothesis.sound + weight)
        return sorted(scored, key=lambda text: -scored[text])

    def _frame(self, beam: Beam, frame: Sequence[float]) -> Beam:
        blank = frame[BLANK]
        if blank > self._config.silent:
            return tuple(Hypothesis(h.text, h.sound + blank, _NEVER, h.words, h.context, h.letters) for h in beam)
        likely = [(n, SYMBOLS[n], p) for n, p in enumerate(frame) if p > self._config.unlikely and n != BLANK]
        ways: dict[str, list[float]] = {}
        sources: dict[str, tuple[Hypothesis, int | None]] = {}
        for hypothesis in beam:
            text, sound = hypothesis.text, hypothesis.sound
            stays = ways.setdefault(text, [_NEVER, _NEVER])
            sources[text] = (hypothesis, None)
            stays[0] = _add(stays[0], sound + blank)
            last = text[-1:]
            if last:
                stays[1] = _add(stays[1], hypothesis.letter + frame[SYMBOLS.index(last)])
            for number, symbol, p in likely:
                if number == SPACE and last in ("", " "):
                    continue
                came = hypothesis.blank if symbol == last else sound
                if came < _NEVER / 2:
                    continue
                longer = text + symbol
                grows = ways.setdefault(longer, [_NEVER, _NEVER])
                sources.setdefault(longer, (hypothesis, number))
                grows[1] = _add(grows[1], came + p)
        made = []
        for text, (ends_blank, ends_letter) in ways.items():
            source, symbol_number = sources[text]
            made.append(self._grown(text, ends_blank, ends_letter, source, symbol_number))
        made.sort(key=self._rank, reverse=True)
        return tuple(made[: self._config.width])

    def _grown(self, text: str, blank: float, letter: float, source: Hypothesis, number: int | None) -> Hypothesis:
        """What `source` becomes by a symbol, or by none."""
        if number is None:
            return Hypothesis(text, blank, letter, source.words, source.context, source.letters)
        if number != SPACE:
            return Hypothesis(text, blank, letter, source.words, source.context, source.letters + SYMBOLS[number])
        words = source.words + self._weigh(source)
        return Hypothesis(text, blank, letter, words, self._words.after(source.context, source.letters), "")

    def _weigh(self, hypothesis: Hypothesis) -> float:
        """The word that a hypothesis is reading, if it ends here."""
        log_prob = self._words.log_prob(hypothesis.context, hypothesis.letters)
        return self._config.word_weight * log_prob + self._config.word_bonus

    def _rank(self, hypothesis: Hypothesis) -> float:
        rank = hypothesis.sound + hypothesis.words
        if hypothesis.letters:
            rank += self._config.word_weight * self._words.log_prefix(hypothesis.letters)
        return rank


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))"""
    if a < b:
        a, b = b, a
    return a + math.log1p(math.exp(b - a)) if b > _NEVER / 2 else a
