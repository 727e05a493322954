"""The listening end of a measurement: what a user would hear, and when."""

import numpy as np

from ...streaming.frames import SAMPLE_RATE, Pcm, dbfs

VOICED_DB = -40.0
"""Level of a 10 ms window from which it counts as voice; speech is at -25, Opus' comfort noise below -60."""

_WINDOW = SAMPLE_RATE // 100


def voiced(pcm: Pcm, threshold: float = VOICED_DB) -> tuple[int, int] | None:
    """First and last voiced sample of a recording (N,) at 16 kHz, to 10 ms; None if nothing is voiced."""
    levels = [dbfs(pcm[start : start + _WINDOW]) for start in range(0, len(pcm), _WINDOW)]
    loud = [index for index, level in enumerate(levels) if level >= threshold]
    return (loud[0] * _WINDOW, min((loud[-1] + 1) * _WINDOW, len(pcm)) - 1) if loud else None


class Ear:
    """Plays what arrives at once and without a buffer, and notes when it was audible.

    Args:
        paced: the sender keeps real time (WebRTC), so that a block is audible when it arrives and a burst after a stall
            adds no lasting delay; otherwise (WebSocket) a block plays after all that came before it.

    Attributes:
        underruns: how often a voice that was being received ran dry before its end.
    """

    def __init__(self, *, paced: bool) -> None:
        self.underruns = 0
        self._paced = paced
        self._blocks: list[tuple[float, Pcm]] = []
        self._until = 0.0
        self._expecting = False

    def hear(self, pcm: Pcm, now: float) -> None:
        """Audio (N,) at 16 kHz that arrived at `now` seconds."""
        if not self._paced and self._expecting and now > self._until:
            self.underruns += 1
        start = now if self._paced else max(now, self._until)
        self._blocks.append((start, pcm))
        self._until = start + len(pcm) / SAMPLE_RATE

    def expect(self, more: bool) -> None:
        """Whether an answer is on its way, so that running dry is an underrun."""
        self._expecting = more

    def stop(self, now: float) -> None:
        """Drop what has not been played at `now`, as a client does when it is interrupted."""
        kept: list[tuple[float, Pcm]] = []
        for start, pcm in self._blocks:
            played = max(0, round((now - start) * SAMPLE_RATE))
            if played:
                kept.append((start, pcm[:played]))
        self._blocks = kept
        self._until = min(self._until, now)

    @property
    def plays_until(self) -> float:
        """When the last sample that has arrived will have been played."""
        return self._until

    def first_voiced(self, after: float) -> float | None:
        """When the first voiced sample after the time `after` was audible; None if there was none yet."""
        for start, pcm in self._blocks:
            if start + len(pcm) / SAMPLE_RATE <= after:
                continue
            skip = max(0, round((after - start) * SAMPLE_RATE))
            found = voiced(pcm[skip:])
            if found is not None:
                return max(start, after) + found[0] / SAMPLE_RATE
        return None

    def recording(self, since: float = 0.0) -> Pcm:
        """Everything heard since a time, (N,), without the pauses between blocks."""
        return np.concatenate([np.zeros(0, np.float32), *(pcm for start, pcm in self._blocks if start >= since)])
