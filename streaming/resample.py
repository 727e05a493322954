"""Sample rates change once at each door, by one stateful resampler per direction."""

from __future__ import annotations

import numpy as np
import soxr

from ..models.errors import AudioError
from .frames import Pcm

LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000


class StreamResampler:
    """Mono audio of one rate in any chunks, the same audio at another rate out.

    What comes out depends only on what went in, never on how it was cut. All calls together give
    round(samples * target / source) samples, the last of them from `flush`.

    This is soxr in its variable-rate mode. Its fixed-rate mode has the sharper filter, but works in FFT blocks and
    hands its output over in bursts: measured with 20 ms chunks, up to 37 ms are held back between 48 and 16 kHz, 114 ms
    from 8 to 16 kHz. Variable-rate mode holds back a constant 10-15 ms (30 ms from 8 kHz), with aliases below -110 dB.

    Args:
        source: rate of what comes in, Hz.
        target: rate of what goes out, Hz. When both are equal the audio passes untouched.

    Raises:
        AudioError: a rate that no device has.
    """

    def __init__(self, source: int, target: int) -> None:
        for rate in (source, target):
            if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                raise AudioError(f"a sample rate of {rate} Hz is not usable; give {LOWEST_RATE} to {HIGHEST_RATE} Hz")
        self.source = source
        self.target = target
        self._taken = 0
        self._given = 0
        self._stream = None if source == target else soxr.ResampleStream(source, target, 1, dtype="float32", vr=True)

    @property
    def delay(self) -> float:
        """Seconds of audio that went in and has not come out yet: what this door adds to the latency now."""
        return self._taken / self.source - self._given / self.target

    def process(self, pcm: Pcm) -> Pcm:
        """Add audio at the source rate, (N,); returns what is ready at the target rate, (M,), often M = 0 at first."""
        if self._stream is None:
            self._count(pcm, pcm)
            return pcm
        if len(pcm) == 0:
            return np.zeros(0, np.float32)
        return self._count(pcm, self._stream.resample_chunk(np.ascontiguousarray(pcm, np.float32)))

    def flush(self) -> Pcm:
        """End the stream: returns all that is held back, (M,), and starts afresh for the next stream."""
        if self._stream is None:
            rest: Pcm = np.zeros(0, np.float32)
        else:
            # soxr may end a sample or two short of the exact length: a little silence behind the end makes it longer.
            behind = np.zeros(4 * max(1, self.source // self.target), np.float32)
            missing = round(self._taken * self.target / self.source) - self._given
            ends = [self._stream.resample_chunk(behind), self._stream.resample_chunk(behind[:0], last=True)]
            rest = np.concatenate(ends)[:missing]
            self._stream.clear()
        self._taken = self._given = 0
        return rest

    def _count(self, taken: Pcm, given: Pcm) -> Pcm:
        self._taken += len(taken)
        self._given += len(given)
        return given


def resample(pcm: Pcm, source: int, target: int) -> Pcm:
    """A whole recording (N,) at another rate, (round(N * target / source),), as the stream would have given it."""
    resampler = StreamResampler(source, target)
    return np.concatenate((resampler.process(pcm), resampler.flush()))
