"""The session object: how it begins, how updates change it, and what it means for turn taking."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from ...streaming.engine.protocol import EngineInfo
from ...streaming.turns import TurnOptions
from ..client_events import event_error
from ..event_objects import (
    AudioInput,
    AudioOutput,
    SemanticVad,
    ServerVad,
    Session,
    SessionAudio,
    Transcription,
    new_id,
)
from ..events import EventError
from ..settings import Settings
from .endpointing import silence_ms
from .function_calls import check_tools

_FIXED = {"id", "object", "model", "expires_at"}
_NULLABLE = {"turn_detection", "transcription", "noise_reduction"}

_FOREIGN_VOICES = {
    *("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable"),
    *("marin", "nova", "onyx", "sage", "shimmer", "verse"),
}
"""Names that stock clients ask for by default; they get the voice the session has."""


def first_session(settings: Settings, model: str, voice: str) -> Session:
    """The session before the client has said anything: server VAD, transcripts, speech in `voice`."""
    detection = ServerVad(
        type="server_vad",
        threshold=settings.vad_threshold,
        prefix_padding_ms=settings.prefix_padding_ms,
        silence_duration_ms=settings.silence_ms,
    )
    sound = AudioInput(transcription=Transcription(model=model), turn_detection=detection)
    return Session(
        id=new_id("sess"),
        model=model,
        instructions=settings.instructions,
        audio=SessionAudio(input=sound, output=AudioOutput(voice=voice)),
    )


def updated_session(session: Session, update: dict[str, Any], info: EngineInfo) -> Session:
    """The session with a client's changes, or an EventError that names the field at fault; nothing changes then."""
    if update.get("type", "realtime") != "realtime":
        raise EventError("invalid_value", "only sessions of type 'realtime' are served", "session.type")
    fields = {name: value for name, value in update.items() if name not in _FIXED}
    try:
        merged = Session.model_validate(_merge(session.model_dump(), fields))
    except ValidationError as error:
        raise event_error(error, prefix="session") from None
    output = merged.audio.output
    check_tools(merged.tools, info, "session.tools")
    output.voice = known_voice(output.voice, info.voices, session.audio.output.voice, "session.audio.output.voice")
    return merged


def known_voice(name: str, voices: tuple[str, ...], default: str, param: str) -> str:
    """The voice to speak in when `name` was asked for. Raises EventError for one that does not exist."""
    if name in voices:
        return name
    if name in _FOREIGN_VOICES:
        return default
    raise EventError("invalid_value", f"unknown voice {name[:80]!r}: choose one of {', '.join(voices)}", param)


def turn_options(settings: Settings, detection: ServerVad | SemanticVad, words: str = "") -> TurnOptions:
    """How the segmenter shall find turns. words: heard in the present turn so far; semantic_vad waits by them."""
    if isinstance(detection, ServerVad):
        threshold, padding = detection.threshold, detection.prefix_padding_ms
        silence = detection.silence_duration_ms
    else:
        threshold, padding = settings.vad_threshold, settings.prefix_padding_ms
        silence = silence_ms(detection.eagerness, words)
    return TurnOptions(
        threshold=threshold,
        min_speech_ms=settings.min_speech_ms,
        resume_ms=settings.resume_ms,
        prefix_padding_ms=padding,
        soft_end_ms=min(settings.soft_end_ms, silence),
        silence_ms=silence,
        max_turn_s=settings.max_turn_s,
    )


def _merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """`update` over `base`; objects are merged, unless their type differs. Null resets only what may be null."""
    merged = dict(base)
    for name, value in update.items():
        old = merged.get(name)
        if value is None:
            if name in _NULLABLE:
                merged[name] = None
        elif (
            isinstance(value, dict) and isinstance(old, dict) and value.get("type", old.get("type")) == old.get("type")
        ):
            merged[name] = _merge(old, value)
        else:
            merged[name] = value
    return merged
