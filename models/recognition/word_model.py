"""Which words follow which: an n-gram model of words, as a trie in arrays.

Probabilities are interpolated by absolute discounting (Ney, Essen and Kneser 1994); what is pruned is backed off to, so
that those of all words still sum to one.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import CheckpointError
from .letters import spell

_DISCOUNT: Final = 0.75
_START: Final = "<s>"
_END: Final = "</s>"
_UNKNOWN: Final = -9.0
_LETTER: Final = -2.5
"""Log-probability that a word is none of the model's, and for each of its letters."""

Context = tuple[int, ...]
"""The last words, by number; the newest last."""

_W = TypeVar("_W")
_Counts = defaultdict[tuple[_W, ...], float]

_ARRAYS: Final = ("words", "log_probs", "backoffs", "first")
_LAST: Final = ("words", "log_probs", "first")
"""What is kept of a level; nothing is longer than the last one's n-grams, to be backed off from."""


@dataclass(frozen=True, eq=False)
class _Level:
    """The n-grams of one length, sorted; those that begin with n-gram i of the level above are rows `first[i]` to
    `first[i + 1]`."""

    words: NDArray[np.integer]
    log_probs: NDArray[np.float16]
    backoffs: NDArray[np.float16]
    first: NDArray[np.int32]

    def find(self, parent: int, word: int) -> int | None:
        """The row of the n-gram that continues row `parent` of the level above with a word."""
        low, high = int(self.first[parent]), int(self.first[parent + 1])
        row = low + int(np.searchsorted(self.words[low:high], word))
        return row if row < high and self.words[row] == word else None


class WordModel:
    """Probability of a word, given by its letters, after others.

    written: how each word is written where a sentence does not begin, by its letters ("paris" -> "Paris").
    """

    def __init__(self, written: Mapping[str, str], levels: list[_Level]) -> None:
        self.written = dict(written)
        self._levels = levels
        spelled = sorted(self.written)
        self._spelled = spelled
        self._numbers = {word: number for number, word in enumerate((_START, _END, *spelled))}
        self._known: dict[tuple[Context, int], float] = {}

    @property
    def order(self) -> int:
        """Words that an n-gram has at most."""
        return len(self._levels)

    @property
    def begin(self) -> Context:
        """Where a turn begins."""
        return (0,)

    def after(self, context: Context, word: str) -> Context:
        """The context once a word has followed; a word that is not known tells nothing of the next."""
        number = self._numbers.get(word)
        return () if number is None else (*context, number)[1 - self.order :]

    def log_prob(self, context: Context, word: str) -> float:
        """Of a word by its letters, in nats."""
        number = self._numbers.get(word)
        return self._of(context, number) if number is not None else _UNKNOWN + _LETTER * len(word)

    def log_end(self, context: Context) -> float:
        """That the turn ends."""
        return self._of(context, 1)

    def log_prefix(self, letters: str) -> float:
        """That a word begins with these letters, whatever went before: a bound to go by while it is read."""
        low = bisect_left(self._spelled, letters)
        high = bisect_right(self._spelled, letters + "~", lo=low)  # which comes after every letter
        mass = self._mass[high] - self._mass[low]
        return math.log(mass) if mass > 0 else _UNKNOWN + _LETTER * len(letters)

    @cached_property
    def _mass(self) -> list[float]:
        """Probability of all words before each, in the order of their letters."""
        alone = np.exp(self._levels[0].log_probs[2:].astype(np.float64))
        return [0.0, *np.cumsum(alone).tolist()]

    def _of(self, context: Context, word: int) -> float:
        known = self._known.get((context, word))
        if known is None:
            if len(self._known) > 200_000:
                self._known.clear()
            known = self._known[context, word] = self._look_up(context, word)
        return known

    def _look_up(self, context: Context, word: int) -> float:
        parent = self._row(context)
        if parent is None:
            return self._of(context[1:], word)
        row = word if not context else self._levels[len(context)].find(parent, word)
        if row is not None:
            return float(self._levels[len(context)].log_probs[row])
        return float(self._levels[len(context) - 1].backoffs[parent]) + self._of(context[1:], word)

    def _row(self, context: Context) -> int | None:
        """The row of a context in its level; of none, the one above all."""
        row = 0
        for depth, word in enumerate(context):
            found = word if depth == 0 else self._levels[depth].find(row, word)
            if found is None:
                return None
            row = found
        return row

    # Making one

    @classmethod
    def fit(cls, texts: Iterable[tuple[str, float]], *, order: int = 3, rare: float = 1.0) -> WordModel:
        """Count texts, each so many times as its weight says, in n-grams of up to `order` words, two at least.

        N-grams of two words and more that are counted less than `rare` times are pruned.
        """
        counts: list[_Counts[str]] = [defaultdict(float) for _ in range(order)]
        written: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        for text, weight in texts:
            words, begins = [_START], True
            for word in text.split():
                if letters := spell(word):
                    words.append(letters)
                    plain = word.strip(".,?!;:\"()'")
                    written[letters][plain] += 0 if begins else weight
                begins = word[-1] in ".?!:"
            words.append(_END)
            for n, level in enumerate(counts):
                for at in range(max(1, n), len(words)):
                    level[tuple(words[at - n : at + 1])] += weight
        counts[0][_START,] = 0.0
        return cls({word: _plainest(ways) for word, ways in written.items()}, _levels(counts, rare))

    def tensors(self) -> dict[str, Tensor]:
        """What `from_tensors` reads back."""
        lines = "\n".join(self.written[word] for word in self._spelled) + "\n" + "\n".join(self._spelled)
        made = {"words": torch.frombuffer(bytearray(lines.encode("ascii", "replace")), dtype=torch.uint8)}
        for n, level in enumerate(self._levels, 1):
            for name in _ARRAYS if n < self.order else _LAST:
                made[f"{n}.{name}"] = torch.from_numpy(getattr(level, name))
        return made

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], source: str) -> WordModel:
        """Raises CheckpointError for tensors that are no word model's."""
        try:
            lines = bytes(tensors["words"].numpy()).decode("ascii").split("\n")
            order = sum(name.endswith(".first") for name in tensors)
            last = torch.zeros_like(tensors[f"{order}.log_probs"])
            told = {f"{order}.backoffs": last, **tensors}
            levels = [_Level(*(told[f"{n}.{name}"].numpy() for name in _ARRAYS)) for n in range(1, order + 1)]
            half = len(lines) // 2
            fits = 2 * half == len(lines) and len(levels[0].words) == half + 2
            for above, level in pairwise(levels):
                fits = fits and len(level.first) == len(above.words) + 1 and int(level.first[-1]) == len(level.words)
        except (KeyError, IndexError, UnicodeDecodeError, TypeError) as error:
            raise CheckpointError(f"{source} holds no word model ({error})") from None
        if not fits:
            raise CheckpointError(f"{source} holds no word model whose levels belong together")
        return cls(dict(zip(lines[half:], lines[:half], strict=True)), levels)


def _plainest(ways: Mapping[str, float]) -> str:
    return min(ways, key=lambda way: (-ways[way], way[:1].isupper(), way))


def _levels(counts: list[_Counts[str]], rare: float) -> list[_Level]:
    """Counted n-grams as levels of a trie, pruned from the longest on."""
    names = sorted(word for (word,) in counts[0] if word not in (_START, _END))
    numbers = {word: number for number, word in enumerate((_START, _END, *names))}
    kept = [{tuple(map(numbers.__getitem__, gram)): count for gram, count in level.items()} for level in counts]
    probs = _interpolated(kept)
    for n in range(len(kept) - 1, 0, -1):
        needed = {gram[:-1] for gram in kept[n + 1]} if n + 1 < len(kept) else set()
        kept[n] = {gram: count for gram, count in kept[n].items() if count >= rare or gram in needed}
    levels = []
    rows: dict[Context, int] = {(): 0}
    for n, grams in enumerate(kept):
        found = sorted(grams)
        parents = np.array([rows[gram[:-1]] for gram in found], np.int64)
        first = np.searchsorted(parents, np.arange(len(rows) + 1)).astype(np.int32)
        left = _left_over(kept[n + 1], probs) if n + 1 < len(kept) else {}
        levels.append(
            _Level(
                np.array([gram[-1] for gram in found], np.uint16 if len(names) < 2**16 - 2 else np.int32),
                np.array([math.log(probs[n][gram]) for gram in found], np.float16),
                np.array([left.get(gram, 0.0) for gram in found], np.float16),
                first,
            )
        )
        rows = {gram: row for row, gram in enumerate(found)}
    return levels


def _interpolated(counts: list[dict[Context, float]]) -> list[dict[Context, float]]:
    """Probability of each n-gram's last word after the others; part of each count goes to the shorter context."""
    probs: list[dict[Context, float]] = []
    for n, level in enumerate(counts):
        total: defaultdict[Context, float] = defaultdict(float)
        spared: defaultdict[Context, float] = defaultdict(float)
        for gram, count in level.items():
            total[gram[:-1]] += count
            spared[gram[:-1]] += _DISCOUNT * min(1.0, count)
        even = 1.0 / len(level)
        probs.append(
            {
                gram: (
                    count - _DISCOUNT * min(1.0, count) + spared[gram[:-1]] * (probs[n - 1][gram[1:]] if n else even)
                )
                / total[gram[:-1]]
                for gram, count in level.items()
            }
        )
    return probs


def _left_over(grams: Mapping[Context, float], probs: list[dict[Context, float]]) -> dict[Context, float]:
    """By context, the log of what shorter contexts' probabilities are weighed by for words that do not follow it."""
    here: defaultdict[Context, float] = defaultdict(float)
    shorter: defaultdict[Context, float] = defaultdict(float)
    for gram in grams:
        here[gram[:-1]] += probs[len(gram) - 1][gram]
        shorter[gram[:-1]] += probs[len(gram) - 2][gram[1:]]
    return {context: math.log(max(1e-6, 1 - here[context]) / max(1e-6, 1 - shorter[context])) for context in here}
