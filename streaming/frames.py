"""Audio and its clock: samples, frames and levels.

Inside the house audio is 16 kHz mono float32 in [-1, 1], as 1-D numpy arrays. One frame is 320 samples, 20 ms,
one semantic unit. Time is counted in samples of audio and turned into seconds only where a person reads it.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..models.errors import AudioError

Pcm: TypeAlias = NDArray[np.float32]
"""Mono audio at 16 kHz in [-1, 1], shape (N,)."""

SAMPLE_RATE = 16_000
FRAME = 320
FRAME_RATE = SAMPLE_RATE // FRAME
SILENCE_DB = -100.0


def samples(seconds: float) -> int:
    """The whole number of samples nearest to `seconds`."""
    return round(seconds * SAMPLE_RATE)


def samples_of_ms(milliseconds: float) -> int:
    """The whole number of samples nearest to `milliseconds`."""
    return round(milliseconds * SAMPLE_RATE / 1000)


def seconds(count: int) -> float:
    """How long `count` samples last, in seconds."""
    return count / SAMPLE_RATE


def milliseconds(count: int) -> float:
    """How long `count` samples last, in milliseconds."""
    return count * 1000 / SAMPLE_RATE


def frames(count: int) -> int:
    """How many frames `count` samples touch: ceil(count / 320)."""
    return -(-count // FRAME)


def as_pcm(audio: NDArray[np.floating] | Pcm) -> Pcm:
    """Check one block of audio at the door of the streaming floor; float64 is narrowed, nothing is copied otherwise.

    Raises:
        AudioError: it is not a 1-D float array.
    """
    if audio.ndim != 1 or audio.dtype.kind != "f":
        raise AudioError(
            f"audio has shape {audio.shape} and type {audio.dtype}; give mono float32 in [-1, 1], shape (samples,)"
        )
    return audio.astype(np.float32, copy=False)


def dbfs(pcm: Pcm) -> float:
    """Level of a block in dBFS: 0 is a full-scale square wave, a full-scale sine is -3.01, silence is -100."""
    if len(pcm) == 0:
        return SILENCE_DB
    power = float(np.dot(pcm, pcm)) / len(pcm)
    return max(10 * math.log10(power), SILENCE_DB) if power > 0 else SILENCE_DB


class Framer:
    """Cuts audio that comes in any chunks into windows of one size.

    Args:
        size: samples per window.
    """

    def __init__(self, size: int = FRAME) -> None:
        if size < 1:
            raise ValueError(f"a window of {size} samples is impossible")
        self.size = size
        self._rest: Pcm = np.zeros(0, np.float32)

    @property
    def pending(self) -> int:
        """Samples that wait for the rest of their window."""
        return len(self._rest)

    def push(self, pcm: Pcm) -> list[Pcm]:
        """Add audio of any length; returns the windows that became whole, each (size,)."""
        audio = np.concatenate((self._rest, pcm)) if len(self._rest) else pcm
        whole = len(audio) // self.size
        # The remainder is copied: the caller may reuse its buffer, and a view would keep a big chunk alive.
        self._rest = audio[whole * self.size :].copy()
        return list(audio[: whole * self.size].reshape(whole, self.size).copy()) if whole else []

    def flush(self) -> Pcm:
        """Hand out and forget what waits, (pending,), without padding."""
        rest, self._rest = self._rest, np.zeros(0, np.float32)
        return rest
