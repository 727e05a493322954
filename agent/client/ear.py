"""A listener without a sound card: plays what arrives as a loudspeaker would, and notes what was audible when."""

import numpy as np

from ...streaming.clock import Clock
from ...streaming.frames import SAMPLE_RATE, Pcm, dbfs, samples, seconds
from .playback import Playback

VOICED_DB = -40.0
"""Level of a 10 ms window from which it counts as voice; speech is at -25, Opus' comfort noise below -60."""

_WINDOW = samples(0.01)
_BLOCK = 0.01
_PAUSE = 0.4
"""Seconds without voice after which speech in real time has ended; words pause for less."""


def voiced(pcm: Pcm, threshold: float = VOICED_DB) -> tuple[int, int] | None:
    """First and last voiced sample of a recording (N,) at 16 kHz, to 10 ms; None if nothing is voiced."""
    levels = [dbfs(pcm[start : start + _WINDOW]) for start in range(0, len(pcm), _WINDOW)]
    loud = [index for index, level in enumerate(levels) if level >= threshold]
    return (loud[0] * _WINDOW, min((loud[-1] + 1) * _WINDOW, len(pcm)) - 1) if loud else None


class Ear:
    """Pulls 10 ms at a time from a `Playback`, each at its instant of the clock, however late this is called.

    Attributes:
        lags: (instant, seconds that the sound of a paced stream is behind its beginning), one for each change: a
            network that delays raises it, a listener that catches up lowers it.
        level: of the last 10 ms, dBFS.
    """

    def __init__(self, clock: Clock) -> None:
        self.lags: list[tuple[float, float]] = []
        self.level = -100.0
        self._clock = clock
        self._paced = False
        self._playback = Playback(paced=False)
        self._gaps: list[float] = []
        self._at = clock.now()
        self._blocks: list[tuple[float, Pcm, bool]] = []

    def begin(self, *, paced: bool) -> None:
        self._gaps = self.gaps
        self._paced, self._playback = paced, Playback(paced=paced)

    def push(self, pcm: Pcm) -> None:
        self._play()
        self._playback.push(pcm)

    def expect(self, more: bool) -> None:
        self._play()
        self._playback.expect(more)

    def flush(self) -> int:
        self._play()
        return self._playback.flush()

    @property
    def gaps(self) -> list[float]:
        """Seconds of each silence in the middle of an answer because no more sound had come."""
        self._play()
        return self._gaps + [seconds(gap) for gap in self._playback.gaps]

    @property
    def quiet(self) -> bool:
        """Whether all that has come was played, and the voice has ended."""
        self._play()
        if not self._paced:
            return self._playback.depth == 0
        return not any(loud for _, _, loud in self._blocks[-round(_PAUSE / _BLOCK) :])

    def first_voiced(self, after: float) -> float | None:
        """When the first voice after an instant was audible; None if there was none yet."""
        self._play()
        return next((max(at, after) for at, _, loud in self._blocks if loud and at + _BLOCK > after), None)

    def last_voiced(self, after: float, before: float) -> float | None:
        """When the last voice between two instants ended; None if there was none."""
        self._play()
        ends = [at + _BLOCK for at, _, loud in reversed(self._blocks) if loud and after < at + _BLOCK and at < before]
        return ends[0] if ends else None

    def recording(self, since: float = float("-inf")) -> Pcm:
        """Everything heard since an instant, (N,), without the time in which nothing was sent."""
        self._play()
        return np.concatenate([np.zeros(0, np.float32), *(pcm for at, pcm, _ in self._blocks if at >= since)])

    def forget(self) -> None:
        """Drop what was heard until now."""
        self._play()
        self._blocks.clear()

    def _play(self) -> None:
        now = self._clock.now()
        playback = self._playback
        if not self._paced and playback.idle:
            self._at = now
            return
        while self._at + _BLOCK <= now + 1e-9:  # many hundredths do not add up exactly
            pcm = playback.pull(_WINDOW)
            self.level = dbfs(pcm)
            self._blocks.append((self._at, pcm, self.level >= VOICED_DB))
            lag = self._at - seconds(playback.played)
            if self._paced and playback.depth and (not self.lags or abs(self.lags[-1][1] - lag) > 0.5 / SAMPLE_RATE):
                self.lags.append((self._at, lag))
            self._at += _BLOCK
