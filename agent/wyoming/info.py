"""What this server says of itself when a client asks it to describe itself."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from wyoming.info import AsrModel, AsrProgram, Attribution, HandleModel, HandleProgram, Info, TtsProgram, TtsVoice

from ..voices import VoiceBook

NAME = "speechgpt-gen"
LANGUAGES = ["en"]
_ATTRIBUTION = Attribution(name="SpeechGPT-Gen", url="https://arxiv.org/abs/2401.13527")


def describe(engine: VoiceBook) -> Info:
    """Programs for listening, speaking and answering, each with the model that runs; voices as they are now."""
    model = engine.info.name
    return Info(
        asr=[
            AsrProgram(
                models=[AsrModel(languages=LANGUAGES, **_artifact(model, "Transcribes while it listens"))],
                supports_transcript_streaming=True,
                **_artifact(NAME, "SpeechGPT-Gen listens"),
            )
        ],
        tts=[
            TtsProgram(
                voices=[TtsVoice(languages=LANGUAGES, **_artifact(key, name)) for key, name in engine.catalogue()],
                supports_synthesize_streaming=True,
                **_artifact(NAME, "SpeechGPT-Gen speaks"),
            )
        ],
        handle=[
            HandleProgram(
                models=[HandleModel(languages=LANGUAGES, **_artifact(model, "Answers in words"))],
                supports_handled_streaming=True,
                **_artifact(NAME, "SpeechGPT-Gen answers"),
            )
        ],
    )


def _artifact(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "attribution": _ATTRIBUTION,
        "installed": True,
        "description": description,
        "version": _version(),
    }


def _version() -> str:
    try:
        return version("speechgpt-gen")
    except PackageNotFoundError:
        return "0"
