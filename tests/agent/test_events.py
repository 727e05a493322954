"""Events against the stock SDK's own types: what it sends is understood, what is sent to it is what it expects."""

import json
import re
import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent, RealtimeSessionCreateRequest
from openai.types.realtime.realtime_response_create_params import RealtimeResponseCreateParams
from pydantic import TypeAdapter

from speechgpt_gen.agent import client_events, events
from speechgpt_gen.agent.client_events import parse_client_event
from speechgpt_gen.agent.event_objects import (
    Content,
    MessageItem,
    Response,
    ResponseError,
    ResponseOptions,
    ServerVad,
    Session,
    StatusDetails,
)
from speechgpt_gen.agent.events import EventError, ServerEvent

ITEM = MessageItem(id="item_1", role="user", content=[Content(type="input_audio")])
SAMPLES = {
    "session": Session(id="sess_1", model="nano"),
    "error": events.ErrorDetails(type="invalid_request_error", message="no", code="x"),
    "item": ITEM,
    "usage": events.DurationUsage(seconds=1.5),
    "part": events.Part(type="audio", transcript=""),
    "response": Response(id="resp_1", status="cancelled", status_details=StatusDetails(type="cancelled")),
}


def server_events() -> list[type[ServerEvent]]:
    found = [value for value in vars(events).values() if isinstance(value, type) and issubclass(value, ServerEvent)]
    return [event for event in found if "type" in event.model_fields]


def sample(event: type[ServerEvent]) -> ServerEvent:
    """An event with every required field filled."""
    fields = {}
    for name, field in event.model_fields.items():
        if field.is_required():
            if name == "error" and event is events.TranscriptionFailed:
                fields[name] = ResponseError(code="x", message="no")
            else:
                fields[name] = SAMPLES.get(name, 3 if field.annotation is int else "text")
    return event(**fields)


@pytest.mark.parametrize("event", server_events(), ids=lambda event: event.model_fields["type"].default)
def test_the_stock_sdk_takes_every_server_event_for_what_it_is(event):
    sent = json.loads(sample(event).to_json())
    known = {
        model.model_fields["type"].annotation.__args__[0]: model
        for model in typing.get_args(typing.get_args(RealtimeServerEvent)[0])
        if hasattr(model, "model_fields") and "type" in model.model_fields
    }
    parsed = TypeAdapter(known[sent["type"]]).validate_python(sent, strict=False)
    assert parsed.event_id == sent["event_id"]
    assert not parsed.model_extra, "no field that the protocol does not have"


def test_none_is_left_out_except_where_clients_need_the_key():
    assert '"transcript":null' in events.ItemRetrieved(item=ITEM).to_json()
    assert '"previous_item_id":null' in events.ItemAdded(item=ITEM, previous_item_id=None).to_json()
    session = Session(id="s", model="m").model_dump()
    assert session["audio"]["input"]["turn_detection"] is None
    assert "expires_at" not in session
    part = events.PartAdded(response_id="r", item_id="i", part=events.Part(type="text", text="")).to_json()
    assert "transcript" not in part
    assert "null" not in EventError("c", "m").event().to_json()


def test_event_ids_are_unique():
    assert len({events.AudioCleared().event_id for _ in range(1000)}) == 1000


def test_an_error_names_the_clients_event():
    with pytest.raises(EventError) as error:
        parse_client_event('{"type": "conversation.item.delete", "event_id": "mine"}')
    assert (error.value.event_id, error.value.param) == ("mine", "item_id")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"type": "response.create", "future": {}}, "unknown_parameter", "future"),
        ({"type": "response.create", "response": {"x": 1}}, "unknown_parameter", "response.x"),
        (
            {"type": "response.create", "response": {"prompt": {"id": "p"}}},
            "unsupported_parameter",
            "response.prompt",
        ),
        (
            {
                "type": "conversation.item.create",
                "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a", "b": 1}]},
            },
            "unknown_parameter",
            "item.content[0].b",
        ),
        (
            {
                "type": "conversation.item.create",
                "item": {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "data:"}]},
            },
            "invalid_value",
            "item.content[0].type",
        ),
    ],
)
def test_fields_that_are_unknown_or_not_supported_are_named(fields, code, param):
    with pytest.raises(EventError) as error:
        parse_client_event(json.dumps({**fields, "event_id": "mine"}))
    assert (error.value.code, error.value.param, error.value.event_id) == (code, param, "mine")


def test_hints_that_make_no_difference_are_taken_and_not_echoed():
    session = Session(id="s", model="m", tracing="auto", truncation={"type": "auto"}, include=[], prompt=None)
    assert not {"tracing", "truncation", "include", "prompt"} & set(session.model_dump())


@pytest.mark.parametrize("model", [RealtimeSessionCreateRequest, RealtimeResponseCreateParams])
def test_every_field_of_the_stock_sdk_is_known(model):
    ours = Session if model is RealtimeSessionCreateRequest else ResponseOptions
    assert set(model.model_fields) <= set(ours.model_fields)


def test_an_error_never_repeats_a_long_or_broken_line():
    item = {"type": "x\ny" * 50_000, "role": "user", "content": []}
    with pytest.raises(EventError) as caught:
        parse_client_event(json.dumps({"type": "conversation.item.create", "item": item}))
    assert len(caught.value.message) < 300
    assert "\n" not in caught.value.message
    assert "'message'" in caught.value.message


def test_size_is_counted_in_bytes():
    text = json.dumps({"type": "response.cancel", "response_id": "é" * 100}, ensure_ascii=False)
    parse_client_event(text, max_bytes=len(text.encode()))
    with pytest.raises(EventError, match="larger than"):
        parse_client_event(text, max_bytes=len(text.encode()) - 1)


def test_a_vad_without_type_is_not_guessed():
    with pytest.raises(ValueError, match="type"):
        ServerVad.model_validate({"threshold": 0.5})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(
    type=st.sampled_from(sorted(client_events._CLIENT_EVENTS)),
    fields=st.dictionaries(
        st.sampled_from(["item", "item_id", "session", "response", "audio", "event_id", "content_index"]), json_values
    ),
)
def test_anything_is_either_an_event_or_an_event_error(type, fields):
    try:
        event = parse_client_event(json.dumps({**fields, "type": type}))
    except EventError as error:
        answer = error.event()
    else:
        answer = event
    assert isinstance(answer, client_events.ClientEvent) or "\n" not in answer.error.message


@given(st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_text_is_an_event_error(text):
    with pytest.raises(EventError):
        parse_client_event(text)


def kinds(union: object) -> set[str]:
    """Types of all events of one side, by the stock SDK."""
    models = typing.get_args(typing.get_args(union)[0])
    return {model.model_fields["type"].annotation.__args__[0] for model in models}


DOCS = Path(__file__).parents[2] / "docs" / "realtime.md"


def test_the_documentation_has_every_event_and_field_of_the_protocol():
    text = DOCS.read_text()
    sections = re.split(r"^#+ ", text, flags=re.MULTILINE)
    table = {section.partition("\n")[0]: section for section in sections}
    named = {short for row in table["Client events"].splitlines() for short in re.findall(r"`([a-z_.]+)`", row)}
    named |= {"conversation.item.delete"}  # told as `conversation.item.retrieve` `.delete`
    assert kinds(RealtimeClientEvent) <= named
    listed = set()
    for row in table["Server events"].splitlines():
        prefix = ""
        for name in re.findall(r"`([a-z_.]+)`", row.split("|")[1] if "|" in row else ""):
            prefix = name.rpartition(".")[0] if not name.startswith(".") else prefix
            listed.add(prefix + name if name.startswith(".") else name)
    assert kinds(RealtimeServerEvent) == listed
    for fields, title in ((RealtimeSessionCreateRequest, "`session`"), (RealtimeResponseCreateParams, "`response`")):
        told = set(re.findall(r"`([a-z_]+)[`.]", table[title]))
        assert set(fields.model_fields) <= told
    sent = {event.model_fields["type"].default for event in server_events()}
    assert sent <= kinds(RealtimeServerEvent), "and no event is sent that the protocol lacks"
