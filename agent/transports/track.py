"""The agent's voice on its way out: a media track that pulls 20 ms from playout at each tick of its clock.

Cause: aiortc's own way with sound is a level counted sample by sample in Python, a thread's hand-over, and Opus at
48 kHz in stereo: together most of what a call cost. Remedy: a track may give packets that are coded already, which
aiortc sends as they are, so the 16 kHz sound is coded here, on the event loop, in 0.06 ms.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TypeAlias

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from ...streaming import frames
from ...streaming.clock import Clock
from ...streaming.frames import SAMPLE_RATE, Pcm
from ...streaming.pcm import to_int16
from ...streaming.playout import Source
from .jitter import FRAME, RTP_CLOCK

OpusPacket: TypeAlias = "av.Packet[av.AudioStream]"

_PERIOD = 0.02
_TIME_BASE = Fraction(1, RTP_CLOCK)
_BIT_RATE = 64_000
_LATE = 10 * _PERIOD
"""A tick later than this (a suspended machine, a blocked loop) restarts the clock instead of sending a burst."""


class PlayoutTrack(MediaStreamTrack):
    """Opus packets of 20 ms, paced by `clock`; silence while `source` is idle. What is pulled here counts as heard."""

    kind = "audio"

    def __init__(self, source: Source, clock: Clock) -> None:
        super().__init__()
        self._source = source
        self._clock = clock
        self._opus = OpusEncoder()
        self._due: float | None = None
        self._pts = 0

    async def recv(self) -> OpusPacket:
        """The next packet, when its time has come. Raises MediaStreamError once the track is stopped."""
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
        packet = self._opus.encode(self._source.pull(frames.FRAME))
        packet.pts, packet.time_base = self._pts, _TIME_BASE
        self._pts += FRAME
        return packet


class OpusEncoder:
    """Speech at 16 kHz as Opus: the low-delay mode codes wideband mono transparently at this rate, 4 ms sooner than
    the mode for speech and in half its time."""

    def __init__(self) -> None:
        self._codec = av.AudioCodecContext.create("libopus", "w")
        self._codec.format = av.AudioFormat("s16")
        self._codec.layout = "mono"
        self._codec.sample_rate = SAMPLE_RATE
        self._codec.bit_rate = _BIT_RATE
        self._codec.options = {"application": "lowdelay"}

    def encode(self, pcm: Pcm) -> OpusPacket:
        """The packet of one frame, (320,)."""
        frame = av.AudioFrame.from_ndarray(to_int16(pcm)[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        packet: OpusPacket
        (packet,) = self._codec.encode(frame)
        return packet
