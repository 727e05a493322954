"""Every event of the OpenAI Realtime protocol (GA names) that this server takes, and how one is read from its JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import from_json

from .event_objects import Item, Object, ResponseOptions
from .events import EventError


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
    *("functionchoice", "literal['auto','none','required']"),
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
        # Unlike json.loads it refuses NaN, and halves of surrogate pairs, which could never be sent back.
        fields = from_json(text, allow_inf_nan=False)
    except ValueError:
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
    param = ".".join(steps)[:200] or None
    if fault["type"] == "missing":
        return EventError("missing_required_parameter", f"missing required parameter: {param}", param, event_id)
    if fault["type"] == "extra_forbidden":
        return EventError("unknown_parameter", f"unknown parameter: {param}", param, event_id)
    if fault["type"] == "none_required":
        message = f"{param} is not supported by this server: leave it out or send null"
        return EventError("unsupported_parameter", message, param, event_id)
    if fault["type"] == "union_tag_invalid":  # pydantic would repeat the whole tag, which may be megabytes
        tag, known = str(fault["ctx"]["tag"])[:80], fault["ctx"]["expected_tags"]
        return EventError("invalid_value", f"invalid {param or 'event'}: {tag!r} is none of {known}", param, event_id)
    code = "invalid_type" if fault["type"].endswith("_type") else "invalid_value"
    reason = fault["msg"].removeprefix("Value error, ")[:400]
    return EventError(code, f"invalid {param or 'event'}: {reason}", param, event_id)


def _json_name(value: object) -> str:
    return {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
