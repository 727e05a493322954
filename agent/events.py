"""Every event of the OpenAI Realtime protocol (GA names) that this server takes and sends, defined once.

Of the protocol's server events these are never sent, and so not defined: `rate_limits.updated`, `mcp_*`,
`response.function_call_arguments.*` and `response.mcp_*` (no tools), `...transcription.segment` (no diarisation),
`input_audio_buffer.timeout_triggered` and `.dtmf_event_received`.
"""

from __future__ import annotations

import base64
import json
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError

from .event_objects import (
    Item,
    Object,
    Response,
    ResponseError,
    ResponseOptions,
    Session,
    new_id,
)


class EventError(Exception):
    """A client event that cannot be done; becomes an `error` event, and the connection stays.

    code: machine-readable; message: one line; param: path of the field at fault; event_id: of the client's event.
    """

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        event_id: str | None = None,
        type: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.param, self.event_id, self.type = code, message, param, event_id, type

    def event(self) -> Error:
        """The `error` event that tells the client."""
        return Error(
            error=ErrorDetails(
                type=self.type, code=self.code, message=self.message, param=self.param, event_id=self.event_id
            )
        )


# Client events ------------------------------------------------------------------------------------------------------


class ClientEvent(Object):
    """Base of what a client may send."""

    event_id: str | None = Field(None, max_length=512)


class SessionUpdate(ClientEvent):
    """Change the session. `session` holds only what changes; its fields are checked when merged."""

    type: Literal["session.update"]
    session: dict[str, Any]


class AudioAppend(ClientEvent):
    """More of the user's audio (WebSocket): base64 in the session's input format."""

    type: Literal["input_audio_buffer.append"]
    audio: str


class AudioCommit(ClientEvent):
    """Manual turn: what was appended becomes a user item."""

    type: Literal["input_audio_buffer.commit"]


class AudioClear(ClientEvent):
    """Forget what was appended and not committed."""

    type: Literal["input_audio_buffer.clear"]


class OutputClear(ClientEvent):
    """Stop the sound and drop what was not played (WebRTC)."""

    type: Literal["output_audio_buffer.clear"]


class ItemCreate(ClientEvent):
    """Add an item after `previous_item_id` ("root": at the front; None: at the end)."""

    type: Literal["conversation.item.create"]
    previous_item_id: str | None = None
    item: Item


class ItemRetrieve(ClientEvent):
    """Ask for an item as the server has it."""

    type: Literal["conversation.item.retrieve"]
    item_id: str


class ItemDelete(ClientEvent):
    """Remove an item from history."""

    type: Literal["conversation.item.delete"]
    item_id: str


class ItemTruncate(ClientEvent):
    """Cut an assistant item to what was heard, `audio_end_ms` from its begin."""

    type: Literal["conversation.item.truncate"]
    item_id: str
    content_index: int = Field(ge=0)
    audio_end_ms: int = Field(ge=0)


class ResponseCreate(ClientEvent):
    """Answer now."""

    type: Literal["response.create"]
    response: ResponseOptions | None = None


class ResponseCancel(ClientEvent):
    """Stop the answer on its way."""

    type: Literal["response.cancel"]
    response_id: str | None = None


_CLIENT_EVENTS: dict[str, type[ClientEvent]] = {
    str(event.model_fields["type"].annotation.__args__[0]): event  # type: ignore[union-attr]
    for event in (
        SessionUpdate,
        AudioAppend,
        AudioCommit,
        AudioClear,
        OutputClear,
        ItemCreate,
        ItemRetrieve,
        ItemDelete,
        ItemTruncate,
        ResponseCreate,
        ResponseCancel,
    )
}

# pydantic puts the chosen member of a union into the path of a faulty field; clients know no such step.
_UNION_STEPS = {
    *("message", "function_call", "function_call_output", "item_reference"),
    *("server_vad", "semantic_vad", "audio/pcm", "audio/pcmu", "audio/pcma"),
    *("int", "constrained-int", "literal['inf']", "str", "dict[str,any]"),
}


def parse_client_event(text: str, *, max_bytes: int = 15 * 2**20) -> ClientEvent:
    """One client event from its JSON.

    Raises EventError when it is larger than `max_bytes`, not a JSON object, of an unknown type, or has a field that
    is missing or wrong. The error names the client's event_id where one can be read.
    """
    # Most text is ASCII, so its length bounds its bytes from below and encoding it is needed only near the limit.
    if len(text) > max_bytes or (4 * len(text) > max_bytes and len(text.encode(errors="replace")) > max_bytes):
        raise EventError("event_too_large", f"the event is larger than {max_bytes} bytes: send audio in smaller pieces")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise EventError("invalid_json", "the event is not valid JSON") from None
    if not isinstance(fields, dict):
        raise EventError("invalid_event", f"an event is a JSON object, not {_json_name(fields)}")
    given_id = fields.get("event_id")
    event_id = given_id if isinstance(given_id, str) and len(given_id) <= 512 else None
    name = fields.get("type")
    if not isinstance(name, str):
        raise EventError("missing_required_parameter", "the event has no type", "type", event_id)
    if name not in _CLIENT_EVENTS:
        known = ", ".join(sorted(_CLIENT_EVENTS))
        raise EventError("unknown_event", f"unknown event type {name[:80]!r}: send one of {known}", "type", event_id)
    try:
        return _CLIENT_EVENTS[name].model_validate(fields)
    except ValidationError as error:
        raise event_error(error, event_id=event_id) from None


def event_error(error: ValidationError, prefix: str = "", event_id: str | None = None) -> EventError:
    """The first fault pydantic found, as one line with the path of the field."""
    fault = error.errors(include_url=False, include_input=False)[0]
    steps = [prefix] if prefix else []
    for step in fault["loc"]:
        if isinstance(step, int):
            steps[-1:] = [f"{steps[-1]}[{step}]"] if steps else [f"[{step}]"]
        elif step.lower() not in _UNION_STEPS:
            steps.append(step)
    param = ".".join(steps) or None
    if fault["type"] == "missing":
        return EventError("missing_required_parameter", f"missing required parameter: {param}", param, event_id)
    code = "invalid_type" if fault["type"].endswith("_type") else "invalid_value"
    return EventError(
        code, f"invalid {param or 'event'}: {fault['msg'].removeprefix('Value error, ')}", param, event_id
    )


def _json_name(value: object) -> str:
    return {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")


# Server events ------------------------------------------------------------------------------------------------------


class ServerEvent(Object):
    """Base of what the server sends: every event carries an event_id."""

    event_id: str = Field(default_factory=lambda: new_id("event"))

    def to_json(self) -> str:
        """The event as one line of JSON."""
        return self.model_dump_json()


class ErrorDetails(Object):
    """type: invalid_request_error (the client's fault) or server_error."""

    type: str
    code: str | None = None
    message: str
    param: str | None = None
    event_id: str | None = None


class Error(ServerEvent):
    type: Literal["error"] = "error"
    error: ErrorDetails


class SessionCreated(ServerEvent):
    type: Literal["session.created"] = "session.created"
    session: Session


class SessionUpdated(ServerEvent):
    type: Literal["session.updated"] = "session.updated"
    session: Session


class SpeechStarted(ServerEvent):
    """audio_start_ms: from the begin of all audio appended in this session, pre-roll included."""

    type: Literal["input_audio_buffer.speech_started"] = "input_audio_buffer.speech_started"
    audio_start_ms: int
    item_id: str


class SpeechStopped(ServerEvent):
    type: Literal["input_audio_buffer.speech_stopped"] = "input_audio_buffer.speech_stopped"
    audio_end_ms: int
    item_id: str


class AudioCommitted(ServerEvent):
    nullable = frozenset({"previous_item_id"})
    type: Literal["input_audio_buffer.committed"] = "input_audio_buffer.committed"
    item_id: str
    previous_item_id: str | None


class AudioCleared(ServerEvent):
    type: Literal["input_audio_buffer.cleared"] = "input_audio_buffer.cleared"


class ItemEvent(ServerEvent):
    nullable: ClassVar[frozenset[str]] = frozenset({"previous_item_id"})
    item: Item
    previous_item_id: str | None


class ItemAdded(ItemEvent):
    type: Literal["conversation.item.added"] = "conversation.item.added"


class ItemDone(ItemEvent):
    type: Literal["conversation.item.done"] = "conversation.item.done"


class ItemRetrieved(ServerEvent):
    type: Literal["conversation.item.retrieved"] = "conversation.item.retrieved"
    item: Item


class ItemDeleted(ServerEvent):
    type: Literal["conversation.item.deleted"] = "conversation.item.deleted"
    item_id: str


class ItemTruncated(ServerEvent):
    type: Literal["conversation.item.truncated"] = "conversation.item.truncated"
    item_id: str
    content_index: int
    audio_end_ms: int


class DurationUsage(Object):
    """What a transcript cost: seconds of audio."""

    type: Literal["duration"] = "duration"
    seconds: float


class TranscriptionDelta(ServerEvent):
    type: Literal["conversation.item.input_audio_transcription.delta"] = (
        "conversation.item.input_audio_transcription.delta"
    )
    item_id: str
    content_index: int = 0
    delta: str


class TranscriptionCompleted(ServerEvent):
    type: Literal["conversation.item.input_audio_transcription.completed"] = (
        "conversation.item.input_audio_transcription.completed"
    )
    item_id: str
    content_index: int = 0
    transcript: str
    usage: DurationUsage


class TranscriptionFailed(ServerEvent):
    type: Literal["conversation.item.input_audio_transcription.failed"] = (
        "conversation.item.input_audio_transcription.failed"
    )
    item_id: str
    content_index: int = 0
    error: ResponseError


class ResponseCreated(ServerEvent):
    type: Literal["response.created"] = "response.created"
    response: Response


class ResponseDone(ServerEvent):
    type: Literal["response.done"] = "response.done"
    response: Response


class OutputItemEvent(ServerEvent):
    response_id: str
    output_index: int = 0
    item: Item


class OutputItemAdded(OutputItemEvent):
    type: Literal["response.output_item.added"] = "response.output_item.added"


class OutputItemDone(OutputItemEvent):
    type: Literal["response.output_item.done"] = "response.output_item.done"


class PartEvent(ServerEvent):
    """Base of what happens to one content part of a response."""

    response_id: str
    item_id: str
    output_index: int = 0
    content_index: int = 0


class Part(Object):
    """A content part; `audio` is never sent again here."""

    type: Literal["text", "audio"]
    text: str | None = None
    transcript: str | None = None


class PartAdded(PartEvent):
    type: Literal["response.content_part.added"] = "response.content_part.added"
    part: Part


class PartDone(PartEvent):
    type: Literal["response.content_part.done"] = "response.content_part.done"
    part: Part


class TextDelta(PartEvent):
    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str


class TextDone(PartEvent):
    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str


class OutputTranscriptDelta(PartEvent):
    type: Literal["response.output_audio_transcript.delta"] = "response.output_audio_transcript.delta"
    delta: str


class OutputTranscriptDone(PartEvent):
    type: Literal["response.output_audio_transcript.done"] = "response.output_audio_transcript.done"
    transcript: str


class OutputAudioDelta(PartEvent):
    """delta: base64 in the session's output format."""

    type: Literal["response.output_audio.delta"] = "response.output_audio.delta"
    delta: str


class OutputAudioDone(PartEvent):
    type: Literal["response.output_audio.done"] = "response.output_audio.done"


class PlaybackEvent(ServerEvent):
    response_id: str


class PlaybackStarted(PlaybackEvent):
    """WebRTC: the sound of a response begins to leave."""

    type: Literal["output_audio_buffer.started"] = "output_audio_buffer.started"


class PlaybackStopped(PlaybackEvent):
    """WebRTC: all of it has left."""

    type: Literal["output_audio_buffer.stopped"] = "output_audio_buffer.stopped"


class PlaybackCleared(PlaybackEvent):
    """WebRTC: the rest of it was dropped."""

    type: Literal["output_audio_buffer.cleared"] = "output_audio_buffer.cleared"


def encode_base64(data: bytes) -> str:
    """Bytes as the base64 text of audio fields."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str, param: str = "audio") -> bytes:
    """Bytes of an audio field. Raises EventError when it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise EventError("invalid_value", f"{param} is not base64", param) from None
