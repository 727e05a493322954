"""Audio of WebSocket events: base64 of PCM16 at 24 kHz or G.711 at 8 kHz, to and from 16 kHz inside."""

from __future__ import annotations

import numpy as np

from ...models.errors import AudioError
from ...streaming.frames import SAMPLE_RATE, Pcm
from ...streaming.pcm import from_alaw, from_mulaw, from_pcm16, to_alaw, to_mulaw, to_pcm16
from ...streaming.resample import StreamResampler
from ..event_objects import AudioFormat, PcmFormat
from ..events import EventError, decode_base64, encode_base64

_DECODE = {"audio/pcm": from_pcm16, "audio/pcmu": from_mulaw, "audio/pcma": from_alaw}
_ENCODE = {"audio/pcm": to_pcm16, "audio/pcmu": to_mulaw, "audio/pcma": to_alaw}


def _rate(audio_format: AudioFormat) -> int:
    return 24_000 if isinstance(audio_format, PcmFormat) else 8_000


class AudioDecoder:
    """A stream of the client's audio fields, in any pieces."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._decode = _DECODE[audio_format.type]
        self._resampler = StreamResampler(_rate(audio_format), SAMPLE_RATE)

    def __call__(self, audio: str, param: str = "audio") -> Pcm:
        """More audio, (N,) at 16 kHz. Raises EventError for what is not base64 or half a sample."""
        try:
            return self._resampler.process(self._decode(decode_base64(audio, param)))
        except AudioError as error:
            raise EventError("invalid_value", f"{param}: {error}", param) from None

    def flush(self) -> Pcm:
        """The rest of the stream, which begins anew."""
        return self._resampler.flush()


class AudioEncoder:
    """A stream of the server's audio fields: one per answer."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._encode = _ENCODE[audio_format.type]
        self._resampler = StreamResampler(SAMPLE_RATE, _rate(audio_format))

    def __call__(self, pcm: Pcm) -> str:
        """The next audio, (N,) at 16 kHz; empty when the resampler holds all of it back."""
        return encode_base64(self._encode(self._resampler.process(pcm)))

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        return encode_base64(self._encode(self._resampler.flush()))


def decode_recording(audio: str, audio_format: AudioFormat, param: str) -> Pcm:
    """The whole audio of an item, (N,) at 16 kHz."""
    decoder = AudioDecoder(audio_format)
    return np.concatenate((decoder(audio, param), decoder.flush()))
