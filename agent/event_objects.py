"""The objects inside Realtime events: session, items, responses (OpenAI Realtime, GA names).

A field that is None is left out of the JSON, because stock clients treat most of them as optional but not nullable;
`nullable` names the ones that a class sends as null.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic import model_validator as validator

Modality = Literal["text", "audio"]
Status = Literal["in_progress", "completed", "incomplete"]


def new_id(prefix: str) -> str:
    """A fresh identifier such as `item_3f2a...` (80 random bits)."""
    return f"{prefix}_{secrets.token_hex(10)}"


class Object(BaseModel):
    """Base of everything in an event: unknown fields are refused, None is left out unless `nullable`."""

    model_config = ConfigDict(extra="forbid", validate_assignment=False)
    nullable: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _leave_out_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if value is not None or name in self.nullable}


Unsupported: TypeAlias = None
"""Type of a field that the protocol has and this server does not: only null is taken for it."""

Ignored = Annotated[None, BeforeValidator(lambda _: None)]
"""Type of a hint that makes no difference here: anything is taken for it, and nothing is echoed."""

Text = Annotated[str, Field(max_length=100_000)]
"""Words of any kind: a conversation keeps hundreds of them."""

ShortText = Annotated[str, Field(max_length=512)]
"""A name."""


# Audio formats ------------------------------------------------------------------------------------------------------


class PcmFormat(Object):
    """Signed 16-bit little-endian mono at 24 kHz."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = 24000


class G711Format(Object):
    """G.711 at 8 kHz, one byte per sample."""

    type: Literal["audio/pcmu", "audio/pcma"]


AudioFormat = Annotated[PcmFormat | G711Format, Field(discriminator="type")]


# Session ------------------------------------------------------------------------------------------------------------


class ServerVad(Object):
    """A turn ends after `silence_duration_ms` of silence."""

    type: Literal["server_vad"]
    threshold: float = Field(0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(300, ge=0, le=5000)
    silence_duration_ms: int = Field(400, ge=20, le=10_000)
    idle_timeout_ms: Unsupported = None
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(Object):
    """A turn ends after a silence that depends on what was said, and on how eager the agent shall be."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


TurnDetection = Annotated[ServerVad | SemanticVad, Field(discriminator="type")]


class Transcription(Object):
    """The model writes down what it hears anyway; `model`, `language` and `prompt` are only echoed."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    languages: Ignored = None
    keywords: Ignored = None
    delay: Ignored = None


class AudioInput(Object):
    """How the user's audio comes; `turn_detection` None means manual turns, `transcription` None no transcripts."""

    nullable = frozenset({"transcription", "turn_detection", "noise_reduction"})
    format: AudioFormat = Field(default_factory=PcmFormat)
    noise_reduction: Ignored = None
    transcription: Transcription | None = None
    turn_detection: TurnDetection | None = None


def voice_name(value: object) -> object:
    """The name of a voice given as {"id": name}."""
    return value["id"] if isinstance(value, dict) and set(value) == {"id"} else value


class AudioOutput(Object):
    """How the answer sounds. Speed is always 1."""

    format: AudioFormat = Field(default_factory=PcmFormat)
    voice: Annotated[str, BeforeValidator(voice_name)] = ""
    speed: float = Field(1.0, ge=1, le=1)


class SessionAudio(Object):
    """Both directions of sound."""

    input: AudioInput = Field(default_factory=AudioInput)
    output: AudioOutput = Field(default_factory=AudioOutput)


class FunctionTool(Object):
    """A function that the model may ask the client to call. parameters: JSON Schema of its arguments."""

    type: Literal["function"] = "function"
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Ignored = None


class FunctionChoice(Object):
    """The one function that must be called."""

    type: Literal["function"] = "function"
    name: str


ToolChoice = Literal["auto", "none", "required"] | FunctionChoice


class Session(Object):
    """The whole session, as echoed by session.created and session.updated."""

    type: Literal["realtime"] = "realtime"
    object: Literal["realtime.session"] = "realtime.session"
    id: str
    model: str
    expires_at: int | None = None
    instructions: Text = ""
    output_modalities: list[Modality] = Field(["audio"], min_length=1, max_length=1)
    audio: SessionAudio = Field(default_factory=SessionAudio)
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31)] | Literal["inf"] = "inf"
    tools: list[FunctionTool] = Field(default_factory=list, max_length=128)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: Ignored = None
    reasoning: Ignored = None
    tracing: Ignored = None
    truncation: Ignored = None
    include: Annotated[Unsupported, BeforeValidator(lambda wanted: wanted or None)] = None
    prompt: Unsupported = None


# Items --------------------------------------------------------------------------------------------------------------


class Content(Object):
    """One part of a message. `audio` is base64 in the session's input format; the server never echoes it."""

    type: Literal["input_text", "input_audio", "output_text", "output_audio"]
    text: Text | None = None
    audio: str | None = None
    transcript: Text | None = None

    @model_serializer(mode="wrap")
    def _leave_out_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        # Clients require the key `transcript` on heard audio from the first, when it is not known yet.
        keep = "transcript" if self.type == "input_audio" else ""
        return {name: value for name, value in fields.items() if value is not None or name == keep}


_CONTENT_OF_ROLE = {
    "system": {"input_text"},
    "user": {"input_text", "input_audio"},
    "assistant": {"output_text", "output_audio"},
}


class MessageItem(Object):
    """Something said or written by one side."""

    id: ShortText = ""
    object: Literal["realtime.item"] = "realtime.item"
    type: Literal["message"] = "message"
    status: Status = "completed"
    role: Literal["system", "user", "assistant"]
    content: list[Content]

    @validator(mode="after")
    def _fits_its_role(self) -> MessageItem:
        for content in self.content:
            if content.type not in _CONTENT_OF_ROLE[self.role]:
                raise ValueError(f"a {self.role} message cannot have {content.type} content")
        return self


class FunctionCallItem(Object):
    """A function call that the model made."""

    id: ShortText = ""
    object: Literal["realtime.item"] = "realtime.item"
    type: Literal["function_call"] = "function_call"
    status: Status = "completed"
    call_id: ShortText | None = None
    name: ShortText
    arguments: Text


class FunctionCallOutputItem(Object):
    """The result of a function call, which the client brings."""

    id: ShortText = ""
    object: Literal["realtime.item"] = "realtime.item"
    type: Literal["function_call_output"] = "function_call_output"
    status: Status = "completed"
    call_id: ShortText
    output: Text


Item = Annotated[MessageItem | FunctionCallItem | FunctionCallOutputItem, Field(discriminator="type")]


class ItemReference(Object):
    """An item of the conversation, named as input of one response."""

    type: Literal["item_reference"]
    id: str


InputItem = Annotated[
    MessageItem | FunctionCallItem | FunctionCallOutputItem | ItemReference, Field(discriminator="type")
]


# Responses ----------------------------------------------------------------------------------------------------------


class ResponseError(Object):
    """Why a response failed."""

    type: str = "server_error"
    code: str
    message: str


class StatusDetails(Object):
    """Why a response ended as it did."""

    type: Literal["completed", "cancelled", "incomplete", "failed"]
    reason: Literal["turn_detected", "client_cancelled", "max_output_tokens"] | None = None
    error: ResponseError | None = None


class TokenDetails(Object):
    """Tokens by kind: `audio_tokens` are semantic units (20 ms each)."""

    text_tokens: int = 0
    audio_tokens: int = 0


class Usage(Object):
    """Counts of one response. Text is not counted."""

    total_tokens: int
    input_tokens: int
    output_tokens: int
    input_token_details: TokenDetails
    output_token_details: TokenDetails


class ResponseAudioOutput(Object):
    """Voice and format of one response."""

    voice: str | None = None
    format: AudioFormat | None = None


class ResponseAudio(Object):
    """Sound of one response."""

    output: ResponseAudioOutput = Field(default_factory=ResponseAudioOutput)


class Response(Object):
    """One answer, as in response.created and response.done."""

    nullable = frozenset({"status_details", "usage", "metadata"})
    id: str
    object: Literal["realtime.response"] = "realtime.response"
    status: Literal["in_progress", "completed", "cancelled", "incomplete", "failed"] = "in_progress"
    status_details: StatusDetails | None = None
    output: list[Item] = Field(default_factory=list)
    conversation_id: str | None = None
    output_modalities: list[Modality] = Field(["audio"])
    max_output_tokens: int | Literal["inf"] = "inf"
    audio: ResponseAudio = Field(default_factory=ResponseAudio)
    usage: Usage | None = None
    metadata: dict[str, str] | None = None


class ResponseOptions(Object):
    """What response.create asks for; None takes the session's."""

    conversation: Literal["auto", "none"] = "auto"
    input: list[InputItem] | None = None
    instructions: Text | None = None
    output_modalities: Annotated[list[Modality], Field(min_length=1, max_length=1)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31)] | Literal["inf"] | None = None
    metadata: Annotated[dict[ShortText, ShortText], Field(max_length=16)] | None = None
    audio: ResponseAudio | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: Ignored = None
    reasoning: Ignored = None
    prompt: Unsupported = None
