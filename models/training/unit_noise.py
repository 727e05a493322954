"""What a listener has to do without: units that are nearly right, and spans of them that are lost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..semantic.vocabulary import N_UNITS
from ..speech_tokenizer.fsq import FiniteScalarQuantizer

_LEVELS = FiniteScalarQuantizer.levels
_SHORTEST, _LONGEST = 3, 8
"""Frames of a span that is lost: less than most syllables last, so that words can still be told."""


def blur(
    units: NDArray[np.int16],
    detail: NDArray[np.int64] | None,
    rng: np.random.Generator,
    *,
    near: float = 0.0,
    lost: float = 0.0,
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Units (T,) and their detail (T,) as another voice or a worse microphone may give them, of the same length.

    near: share that is off by a level in one digit of the unit, and in each digit of the detail; lost: share that lies,
    on average, in spans of 60 to 160 ms with random units and no detail in their place (the masks in time of
    SpecAugment, arXiv 1904.08779).
    """
    made = units.astype(np.int64)
    told = None if detail is None else detail.copy()
    if near:
        digit = rng.integers(FiniteScalarQuantizer.digits, size=len(made))
        _move(made, digit, rng.random(len(made)) < near, rng)
        if told is not None:
            told -= 1
            for number in range(_digits(told)):
                _move(told, np.full(len(told), number), rng.random(len(told)) < near, rng)
            told += 1
    if lost:
        for start in np.flatnonzero(rng.random(len(made)) < lost * 2 / (_SHORTEST + _LONGEST)):
            span = slice(start, start + int(rng.integers(_SHORTEST, _LONGEST + 1)))
            made[span] = rng.integers(N_UNITS, size=len(made[span]))
            if told is not None:
                told[span] = 0
    return made, told


def _move(
    numbers: NDArray[np.int64], digit: NDArray[np.int64], moved: NDArray[np.bool_], rng: np.random.Generator
) -> None:
    """Let a digit of some of the numbers be off by a level, in place."""
    weight = _LEVELS ** digit.astype(np.int64)
    level = numbers // weight % _LEVELS
    up = np.where(level == 0, True, np.where(level == _LEVELS - 1, False, rng.random(len(numbers)) < 0.5))
    numbers[moved] += (np.where(up, 1, -1) * weight)[moved]


def _digits(detail: NDArray[np.int64]) -> int:
    """Digits that the largest of these numbers has."""
    return int(np.ceil(np.log2(int(detail.max(initial=0)) + 1) / np.log2(_LEVELS)))
