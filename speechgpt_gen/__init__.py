"""SpeechGPT-Gen: real-time streaming speech-to-speech dialogue.

>>> from speechgpt_gen import SpeechGPTGen
>>> model = SpeechGPTGen.load("nano")
>>> model.say("Hello there.").pcm        # float32, 16 kHz
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models.audio import load_audio, write_wav
    from .models.errors import (
        AudioError,
        CheckpointError,
        ConfigError,
        EngineError,
        EngineFullError,
        ModelNotFoundError,
        SpeechGPTGenError,
        TextError,
    )
    from .models.facade import Chunk, SpeechGPTGen
    from .models.semantic.pieces import Message
    from .models.semantic.sampling import SamplingOptions
    from .models.voice import Voice

_HOMES = {
    ".models.audio": ("load_audio", "write_wav"),
    ".models.errors": (
        "AudioError",
        "CheckpointError",
        "ConfigError",
        "EngineError",
        "EngineFullError",
        "ModelNotFoundError",
        "SpeechGPTGenError",
        "TextError",
    ),
    ".models.facade": ("Chunk", "SpeechGPTGen"),
    ".models.semantic.pieces": ("Message",),
    ".models.semantic.sampling": ("SamplingOptions",),
    ".models.voice": ("Voice",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AudioError",
    "CheckpointError",
    "Chunk",
    "ConfigError",
    "EngineError",
    "EngineFullError",
    "Message",
    "ModelNotFoundError",
    "SamplingOptions",
    "SpeechGPTGen",
    "SpeechGPTGenError",
    "TextError",
    "Voice",
    "load_audio",
    "write_wav",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use (PEP 562): importing torch takes seconds that `speechgpt-gen --help` need not wait for.
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
