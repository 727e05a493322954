"""Every event of the OpenAI Realtime protocol (GA names) that this server sends, defined once.

Of the protocol these are never sent, and so not defined: `rate_limits.updated`, `mcp_*` and `response.mcp_*`,
`...transcription.segment` (no diarisation), `input_audio_buffer.timeout_triggered` and `.dtmf_event_received`.
"""

from __future__ import annotations

import base64
from typing import ClassVar, Literal

from pydantic import Field

from .event_objects import Item, Object, Response, ResponseError, Session, new_id


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


class ArgumentsEvent(ServerEvent):
    """Base of what happens to the arguments of one function call."""

    response_id: str
    item_id: str
    output_index: int
    call_id: str


class ArgumentsDelta(ArgumentsEvent):
    type: Literal["response.function_call_arguments.delta"] = "response.function_call_arguments.delta"
    delta: str


class ArgumentsDone(ArgumentsEvent):
    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str


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
