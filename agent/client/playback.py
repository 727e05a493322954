"""Sound between the network and a loudspeaker: as little of it as the network's unrest allows.

A loudspeaker asks for sound at its own pace. Where none is left it plays silence, and what comes later is heard later:
each gap adds to the delay. Sound that comes in real time (WebRTC) would keep that delay for ever, so what was more than
enough for a while is left out again, in a pause of the voice if there is one.
"""

from collections import deque

import numpy as np

from ...streaming.frames import FRAME, Pcm, dbfs, samples

_WINDOW = samples(0.4)
"""Over this long the lowest level of the buffer is watched: what was never needed in it was too much."""

_FLOOR = samples(0.02)
_CEILING = samples(0.12)
_ACCIDENT = samples(0.13)
"""A network from which nothing comes for longer had an accident, against which no reserve would have helped. Loss and
50 ms of jitter, with the wait for what is missing, leave up to 130 ms without sound; an outage that is no longer than
that is taken for unrest, and its delay may stay for seconds."""

_RECOVERY = samples(1.0)
_SHORT_WINDOW = samples(0.2)
"""Behind an accident comes a burst of what it held up. The sound is torn already: rather a cut more than a delay."""

_SLACK = samples(0.02)
_QUIET_DB = -50.0
_MUCH = samples(0.06)
_BLOCK = samples(0.01)
_CALM = 0.97


class Playback:
    """A buffer that a loudspeaker pulls from. Not thread-safe.

    Args:
        paced: the sound comes in real time; otherwise (WebSocket) it may come ahead, and nothing of it is left out.

    Attributes:
        played: samples of the stream that have been pulled or left out, without the silence between.
        gaps: lengths in samples of the silences that were heard because an expected answer ran dry.
    """

    def __init__(self, *, paced: bool) -> None:
        self.played = 0
        self.gaps: deque[int] = deque(maxlen=10_000)
        self._paced = paced
        self._blocks: deque[Pcm] = deque()
        self._depth = 0
        self._expecting = False
        self._filling = True
        self._gap = 0
        self._dry = 0
        self._outage = self._without = 0
        self._recovering = self._owed = 0
        self._reserve = _FLOOR
        self._lowest = self._highest = 0
        self._watched = 0
        self._surplus = 0

    @property
    def depth(self) -> int:
        """Samples that wait to be played."""
        return self._depth

    @property
    def idle(self) -> bool:
        """There is nothing to play, and nothing on its way."""
        return not self._depth and not self._expecting

    def push(self, pcm: Pcm) -> None:
        """The next sound, (n,) at 16 kHz."""
        if len(pcm):
            self._outage, self._without = max(self._outage, self._without), 0
            self._blocks.append(pcm)
            self._depth += len(pcm)

    def expect(self, more: bool) -> None:
        """Whether an answer is on its way: running dry is a gap only then."""
        self._expecting = more
        if not more:
            self._gap = 0

    def flush(self) -> int:
        """Drop what was not played; returns how many samples that were."""
        dropped, self._depth = self._depth, 0
        self._blocks.clear()
        self._filling, self._gap, self._surplus = True, 0, 0
        return dropped

    def pull(self, n: int) -> Pcm:
        """What the loudspeaker plays next, (n,): silence until a reserve is there, and where there is nothing."""
        self._without += n
        if self._filling and self._depth < (self._reserve if self._expecting or self._paced else 1):
            self._miss(n)
            return np.zeros(n, np.float32)
        if self._filling:
            self._end_gap()
        if self._paced:
            self._leave_out(n)
        pcm = self._take(n)
        if self._depth == 0 and len(pcm) < n:
            self._filling = True
            self._miss(n - len(pcm))
            return np.concatenate((pcm, np.zeros(n - len(pcm), np.float32)))
        return pcm

    def _take(self, n: int) -> Pcm:
        taken: list[Pcm] = [np.zeros(0, np.float32)]
        missing = min(n, self._depth)
        self._depth -= missing
        self.played += missing
        while missing:
            block = self._blocks.popleft()
            if len(block) > missing:
                self._blocks.appendleft(block[missing:])
                block = block[:missing]
            taken.append(block)
            missing -= len(block)
        return np.concatenate(taken)

    def _miss(self, n: int) -> None:
        self._dry += n
        if self._expecting:
            self._gap += n

    def _end_gap(self) -> None:
        self._filling = False
        self._lowest = self._highest = self._depth
        self._watched = 0
        if self._gap:
            self.gaps.append(self._gap)
        if self._outage > _ACCIDENT:
            self._recovering, self._owed = _RECOVERY, self._dry
        elif self.played:
            self._reserve = min(_CEILING, self._reserve + self._dry)
        self._gap = self._dry = 0

    def _leave_out(self, n: int) -> None:
        """Give back the delay that is not needed any more."""
        self._lowest = min(self._lowest, self._depth - n)
        self._highest = max(self._highest, self._depth)
        self._watched += n
        self._recovering = max(0, self._recovering - n)
        if self._watched >= (_SHORT_WINDOW if self._recovering else _WINDOW):
            surplus = self._lowest - self._reserve
            if self._recovering:  # as late as before the accident is late enough, whatever the reserve
                surplus = max(surplus, min(self._owed, self._lowest - _FLOOR))
            if surplus > (_SLACK if self._recovering else _MUCH) and (self._surplus or self._recovering):
                self._take(surplus)  # no pause came
                self._owed = max(0, self._owed - surplus)
                surplus = 0
            self._surplus = surplus if surplus > _SLACK else 0
            # Sound comes a frame at a time. A network that is calm again needs no reserve for its one accident.
            unrest = self._highest - self._lowest - FRAME
            if not self._recovering:
                self._reserve = max(_FLOOR, min(round(self._reserve * _CALM), _FLOOR + 2 * unrest))
            self._lowest = self._highest = self._depth
            self._watched = 0
            self._outage = 0
        while self._surplus >= _BLOCK and self._depth > n + _BLOCK and dbfs(self._head()) < _QUIET_DB:
            self._take(_BLOCK)
            self._surplus -= _BLOCK
            self._lowest -= _BLOCK

    def _head(self) -> Pcm:
        return self._blocks[0][:_BLOCK]
