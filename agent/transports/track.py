"""The agent's voice on its way out: a media track that pulls 20 ms from playout at each tick of its clock."""

from fractions import Fraction

import av
import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from ...streaming.clock import Clock
from ...streaming.frames import SAMPLE_RATE, Pcm
from ...streaming.playout import Source
from ...streaming.resample import StreamResampler

RATE = 48_000
FRAME = RATE // 50
_PERIOD = 0.02
_TIME_BASE = Fraction(1, RATE)
_PULL = SAMPLE_RATE // 200
_LATE = 10 * _PERIOD
"""A tick later than this (a suspended machine, a blocked loop) restarts the clock instead of sending a burst."""


class PlayoutTrack(MediaStreamTrack):
    """48 kHz mono frames of 20 ms, paced by `clock`; silence while `source` is idle.

    What is pulled here counts as heard, so nothing is pulled ahead of time but the resampler's 10-15 ms.
    """

    kind = "audio"

    def __init__(self, source: Source, clock: Clock) -> None:
        super().__init__()
        self._source = source
        self._clock = clock
        self._resampler = StreamResampler(SAMPLE_RATE, RATE)
        self._ready: Pcm = np.zeros(0, np.float32)
        self._due: float | None = None
        self._pts = 0

    async def recv(self) -> av.AudioFrame:
        """The next frame, when its time has come. Raises MediaStreamError once the track is stopped."""
        if self._due is None:
            self._due = self._clock.now()
        if (wait := self._due - self._clock.now()) > 0:
            await self._clock.sleep(wait)
        if self.readyState != "live":
            raise MediaStreamError
        missed = self._clock.now() - self._due
        if missed > _LATE:
            # The listener's time went on too: timestamps jump with it, or its jitter buffer would stay that long.
            self._pts += int(missed / _PERIOD) * FRAME
            self._due = self._clock.now()
        self._due += _PERIOD
        frame = _frame(self._next(), self._pts)
        self._pts += FRAME
        return frame

    def _next(self) -> Pcm:
        while len(self._ready) < FRAME:
            self._ready = np.concatenate((self._ready, self._resampler.process(self._source.pull(_PULL))))
        out, self._ready = self._ready[:FRAME], self._ready[FRAME:]
        return out


def _frame(pcm: Pcm, pts: int) -> av.AudioFrame:
    coded = np.round(np.clip(pcm, -1, 1) * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(coded[None], format="s16", layout="mono")
    frame.sample_rate = RATE
    frame.time_base = _TIME_BASE
    frame.pts = pts
    return frame
