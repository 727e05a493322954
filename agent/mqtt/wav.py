"""Sound on MQTT: every message is a whole WAV file."""

from __future__ import annotations

import io
import wave

import numpy as np

from ...models.audio import write_wav
from ...models.errors import AudioError
from ...streaming.frames import SAMPLE_RATE, Pcm
from ...streaming.pcm import from_linear
from ...streaming.resample import StreamResampler

MAX_WAV = 2**20
"""Bytes of one message with sound."""


class WavDecoder:
    """A stream of WAV files of any rate, width and channels, as one stream at 16 kHz."""

    def __init__(self) -> None:
        self._resampler = StreamResampler(SAMPLE_RATE, SAMPLE_RATE)

    def __call__(self, data: bytes) -> Pcm:
        """The next file's sound, (N,). Raises AudioError for what is no WAV file of PCM, or too large."""
        if len(data) > MAX_WAV:
            raise AudioError(f"a WAV of {len(data)} bytes is too large: send at most {MAX_WAV}")
        try:
            with wave.open(io.BytesIO(data)) as file:
                rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
                sound = file.readframes(file.getnframes())
        except (wave.Error, EOFError, OverflowError, ValueError, ZeroDivisionError):
            raise AudioError("the message is no WAV file of PCM") from None
        if width == 1:  # WAV counts eight bits from 0 up
            sound = (np.frombuffer(sound, np.uint8) ^ 0x80).tobytes()
        pcm = from_linear(sound[: len(sound) // (width * channels) * width * channels], width, channels)
        if rate != self._resampler.source:
            self._resampler = StreamResampler(rate, SAMPLE_RATE)
        return self._resampler.process(pcm)


def encode_wav(pcm: Pcm) -> bytes:
    """Sound (N,) at 16 kHz as a WAV file, 16 bits mono."""
    target = io.BytesIO()
    write_wav(target, pcm)
    return target.getvalue()
