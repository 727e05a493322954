"""What a listener has to do without: units that are nearly right, and spans of them that are lost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..semantic.vocabulary import N_UNITS
from ..speech_tokenizer.semantic_encoder import FiniteScalarQuantizer

_DIGITS, _LEVELS = FiniteScalarQuantizer.digits, FiniteScalarQuantizer.levels
_SHORTEST, _LONGEST = 3, 8
"""Frames of a span that is lost: less than most syllables last, so that words can still be told."""


def blur(
    units: NDArray[np.int16], rng: np.random.Generator, *, near: float = 0.0, lost: float = 0.0
) -> NDArray[np.int16]:
    """Units (T,) as another voice or a worse microphone may give them, of the same length.

    near: share that is off by a level in one digit; lost: share that lies, on average, in spans of 60 to 160 ms with
    random units in their place (the masks in time of SpecAugment, arXiv 1904.08779).
    """
    made = units.astype(np.int64)
    if near:
        weight = _LEVELS ** rng.integers(_DIGITS, size=len(made))
        level = made // weight % _LEVELS
        up = np.where(level == 0, True, np.where(level == _LEVELS - 1, False, rng.random(len(made)) < 0.5))
        moved = rng.random(len(made)) < near
        made[moved] += (np.where(up, 1, -1) * weight)[moved]
    if lost:
        for start in np.flatnonzero(rng.random(len(made)) < lost * 2 / (_SHORTEST + _LONGEST)):
            span = made[start : start + int(rng.integers(_SHORTEST, _LONGEST + 1))]
            span[:] = rng.integers(N_UNITS, size=len(span))
    return made.astype(np.int16)
