"""From RTP packets to 16 kHz audio: jitter buffer, Opus, concealment, resampling, and the tap into aiortc.

Cause: aiortc's own audio path is `JitterBuffer(capacity=16, prefetch=4)`, which adds 80 ms; one lost packet stalls it
for 280 ms, and it stays that far behind for the rest of the call. It conceals nothing: a loss shortens time.
Remedy: the receiver keeps its RTP parsing and RTCP reports, but the buffer that it hands packets to is ours, and it
never gets a frame back to decode. Remove `tap` when aiortc lets a receiver's jitter buffer be chosen or adapts its own.
"""

from collections.abc import Callable
from typing import Any, Protocol

import av
import numpy as np
from aiortc import RTCRtpReceiver
from numpy.typing import NDArray

from ...streaming.clock import Clock
from ...streaming.frames import SAMPLE_RATE, Pcm
from ...streaming.resample import StreamResampler
from .jitter import FRAME, RTP_CLOCK, Coded, JitterBuffer, JitterStats, Slice

_FADE = RTP_CLOCK * 60 // 1000
_JOIN = RTP_CLOCK * 5 // 1000
_SHORTEST_PITCH = RTP_CLOCK // 400
_LONGEST_PITCH = RTP_CLOCK // 66
_MEMORY = 2 * FRAME


class Concealer:
    """Hides missing audio by repeating the last pitch period, fading to silence within 60 ms.

    libopus conceals better from inside the decoder, but its interface is not exposed by PyAV.
    """

    def __init__(self) -> None:
        self._past: Pcm = np.zeros(_MEMORY, np.float32)
        self._period: Pcm | None = None
        self._filled = 0

    def fill(self, samples: int) -> Pcm:
        """Audio for a gap of `samples` at 48 kHz, (samples,), going on from what was heard last."""
        out = self._extend(samples)
        self._filled += samples
        return out

    def join(self, pcm: Pcm) -> Pcm:
        """Decoded audio, (N,) at 48 kHz; after a gap its first 5 ms are blended with the concealment."""
        if self._filled and len(pcm):
            n = min(_JOIN, len(pcm))
            rise = np.linspace(0.0, 1.0, n, dtype=np.float32)
            pcm = np.concatenate((pcm[:n] * rise + self._extend(n) * (1 - rise), pcm[n:]))
        self._filled = 0
        self._period = None
        self._past = np.concatenate((self._past, pcm))[-_MEMORY:]
        return pcm

    def _extend(self, samples: int) -> Pcm:
        if self._filled >= _FADE:
            return np.zeros(samples, np.float32)
        if self._period is None:
            self._period = self._past[-_pitch(self._past) :]
        index = np.arange(self._filled, self._filled + samples)
        gain = np.clip(1 - index / _FADE, 0, 1).astype(np.float32)
        return np.asarray(self._period[index % len(self._period)] * gain, np.float32)


def _pitch(past: Pcm) -> int:
    """Period in samples (2.5-15 ms) at which the end of `past` repeats best."""
    window = past[-FRAME:]
    energy = np.concatenate(([0.0], np.cumsum(past.astype(np.float64) ** 2)))
    lags = np.arange(_SHORTEST_PITCH, _LONGEST_PITCH + 1)
    starts = len(past) - FRAME - lags
    match = np.correlate(past[starts[-1] : len(past) - _SHORTEST_PITCH], window, "valid")[::-1]
    return int(lags[np.argmax(match / np.sqrt(energy[starts + FRAME] - energy[starts] + 1e-6))])


class OpusStream:
    """Slices of one Opus stream to exactly as much mono audio at 48 kHz."""

    def __init__(self) -> None:
        self._concealer = Concealer()
        self._decoder = av.AudioCodecContext.create("libopus", "r")
        self._decoder.format = av.AudioFormat("s16")
        self._decoder.layout = "mono"  # libopus mixes stereo down itself
        self._decoder.sample_rate = RTP_CLOCK

    def decode(self, piece: Slice) -> Pcm:
        """Audio of one slice, (piece.samples,); what cannot be decoded is concealed like a loss."""
        if not isinstance(piece, Coded):
            return self._concealer.fill(piece.samples)
        try:
            frames = self._decoder.decode(av.Packet(piece.payload))
        except av.FFmpegError:
            return self._concealer.fill(piece.samples)
        if not frames:
            return self._concealer.fill(piece.samples)
        coded: NDArray[np.int16] = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        pcm = coded.astype(np.float32) / 32768
        exact = np.zeros(piece.samples, np.float32)
        exact[: len(pcm)] = pcm[: piece.samples]
        return self._concealer.join(exact)


class AudioReceiver:
    """One caller's microphone: RTP packets in, 16 kHz audio to `sink` as soon as it is in order.

    Decoding happens here, on the event loop: 0.1 ms per packet, less than a thread's hand-over costs.
    """

    def __init__(self, sink: Callable[[Pcm], None], clock: Clock, buffer: JitterBuffer | None = None) -> None:
        self.buffer = buffer or JitterBuffer()
        self._sink = sink
        self._clock = clock
        self._opus = OpusStream()
        self._resampler = StreamResampler(RTP_CLOCK, SAMPLE_RATE)

    @property
    def stats(self) -> JitterStats:
        """What the network did so far."""
        return self.buffer.stats

    def receive(self, sequence: int, timestamp: int, payload: bytes) -> None:
        """Take one RTP packet's 16-bit sequence number, 32-bit timestamp and Opus payload."""
        self._deliver(self.buffer.push(sequence, timestamp, payload, self._clock.now()))

    def tick(self) -> None:
        """Let time pass; call every 20 ms, so that a loss or a silence is noticed without a further packet."""
        self._deliver(self.buffer.poll(self._clock.now()))

    def _deliver(self, pieces: list[Slice]) -> None:
        if not pieces:
            return
        pcm = self._resampler.process(np.concatenate([self._opus.decode(piece) for piece in pieces]))
        if len(pcm):
            self._sink(pcm)


class _RtpPacket(Protocol):
    sequence_number: int
    timestamp: int
    _data: bytes


class _Tap:
    """Stands where aiortc's JitterBuffer stood; it passes packets on and never has a frame."""

    def __init__(self, receiver: AudioReceiver) -> None:
        self._receiver = receiver

    def add(self, packet: _RtpPacket) -> tuple[bool, None]:
        self._receiver.receive(packet.sequence_number, packet.timestamp, packet._data)
        return False, None


def tap(rtp: RTCRtpReceiver, receiver: AudioReceiver) -> None:
    """Send every packet of an aiortc audio receiver to `receiver`; its track then only tells the end of the stream.

    Raises:
        RuntimeError: this aiortc keeps its jitter buffer elsewhere.
    """
    inner: Any = rtp
    name = "_RTCRtpReceiver__jitter_buffer"
    if not hasattr(inner, name):
        raise RuntimeError("this version of aiortc has no audio jitter buffer to replace; install aiortc 1.15 or 1.16")
    setattr(inner, name, _Tap(receiver))
