"""Sound files that are sent while they are made: wav, raw pcm, mp3, opus, aac, flac, at any speed."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.filter import Graph

from ...streaming.frames import SAMPLE_RATE, Pcm
from ...streaming.pcm import to_pcm16
from ...streaming.resample import StreamResampler

Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]


@dataclass(frozen=True)
class _Kind:
    """How a format is made: FFmpeg's container, codec and sample format, bits a second where it is lossy."""

    media_type: str
    container: str = ""
    codec: str = ""
    samples: str = "s16"
    rate: int = 24_000
    bits: int = 0
    options: dict[str, str] = field(default_factory=dict)


_KINDS: dict[Format, _Kind] = {
    # A stream cannot go back to fill in the header that tells its length.
    "mp3": _Kind("audio/mpeg", "mp3", "libmp3lame", "fltp", bits=96_000, options={"write_xing": "0"}),
    # Pages of 20 ms instead of a second: the first sound leaves at once.
    "opus": _Kind("audio/ogg", "ogg", "libopus", "flt", 48_000, 48_000, {"page_duration": "20000"}),
    "aac": _Kind("audio/aac", "adts", "aac", "fltp", bits=96_000),
    "flac": _Kind("audio/flac", "flac", "flac"),
    "wav": _Kind("audio/wav", "wav", "pcm_s16le"),
    "pcm": _Kind("audio/pcm"),
}


def media_type(name: Format) -> str:
    """MIME type of a format."""
    return _KINDS[name].media_type


class SoundFile:
    """One file on its way. `pcm` is signed 16-bit little-endian at 24 kHz, without a header.

    speed: 0.25 to 4; the pitch stays.
    """

    def __init__(self, name: Format, speed: float = 1.0) -> None:
        kind = _KINDS[name]
        self._tempo = _Tempo(speed) if speed != 1.0 else None
        self._resampler = StreamResampler(SAMPLE_RATE, kind.rate)
        self._muxer = _Muxer(kind) if kind.container else None

    def write(self, pcm: Pcm) -> bytes:
        """More sound, (N,) at 16 kHz; returns the bytes that are ready, which may be none."""
        return self._encode(self._resampler.process(pcm if self._tempo is None else self._tempo.push(pcm)))

    def close(self) -> bytes:
        """The rest of the file. Nothing may be written any more."""
        tail = np.zeros(0, np.float32) if self._tempo is None else self._tempo.finish()
        end = self._encode(np.concatenate((self._resampler.process(tail), self._resampler.flush())))
        return end + (self._muxer.close() if self._muxer is not None else b"")

    def _encode(self, pcm: Pcm) -> bytes:
        if self._muxer is None:
            return to_pcm16(pcm)
        return self._muxer.write(pcm)


class _Muxer:
    """FFmpeg's encoder and container, written to memory that is taken away at once."""

    def __init__(self, kind: _Kind) -> None:
        self._kind = kind
        self._sink = _Sink()
        self._file = av.open(self._sink, "w", format=kind.container, options={**kind.options, "flush_packets": "1"})
        stream = self._file.add_stream(kind.codec, rate=kind.rate, layout="mono")
        assert isinstance(stream, AudioStream)
        self._stream = stream
        self._stream.codec_context.format = kind.samples
        if kind.bits:
            self._stream.bit_rate = kind.bits
        self._format = AudioResampler(format=kind.samples, layout="mono", rate=kind.rate)
        self._position = 0

    def write(self, pcm: Pcm) -> bytes:
        if len(pcm):
            frame = _frame(pcm, self._kind.rate, self._position)
            self._position += len(pcm)
            self._mux(*self._format.resample(frame))
        return self._sink.take()

    def close(self) -> bytes:
        self._mux(None)
        self._file.close()
        return self._sink.take()

    def _mux(self, *frames: AudioFrame | None) -> None:
        for frame in frames:
            for packet in self._stream.encode(frame):
                self._file.mux(packet)


class _Sink:
    """A file that cannot seek; what is written waits to be taken."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        self._bytes += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken


class _Tempo:
    """Quicker or slower sound of the same pitch, by FFmpeg's atempo (overlap and add)."""

    def __init__(self, speed: float) -> None:
        graph = Graph()
        tick = Fraction(1, SAMPLE_RATE)
        chain = [graph.add_abuffer(format="flt", sample_rate=SAMPLE_RATE, layout="mono", time_base=tick)]
        while speed < 0.5:  # a single atempo does no less
            chain.append(graph.add("atempo", "0.5"))
            speed /= 0.5
        chain += [graph.add("atempo", f"{speed}"), graph.add("abuffersink")]
        graph.link_nodes(*chain).configure()
        self._graph = graph
        self._position = 0

    def push(self, pcm: Pcm) -> Pcm:
        if len(pcm) == 0:
            return pcm
        self._graph.push(_frame(pcm, SAMPLE_RATE, self._position))
        self._position += len(pcm)
        return self._pull()

    def finish(self) -> Pcm:
        self._graph.push(None)
        return self._pull()

    def _pull(self) -> Pcm:
        pieces: list[Pcm] = [np.zeros(0, np.float32)]
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return np.concatenate(pieces)
            assert isinstance(frame, AudioFrame)
            pieces.append(frame.to_ndarray()[0])


def _frame(pcm: Pcm, rate: int, position: int) -> AudioFrame:
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(pcm[None]), format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
    return frame
