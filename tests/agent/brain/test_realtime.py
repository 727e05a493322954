"""An outside brain over the Realtime protocol: the stock `openai` SDK, the real server, a real chat server (llmock)."""

from __future__ import annotations

import asyncio
import base64
import json
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import uvicorn
from openai import AsyncOpenAI

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.brain.thinking import SORRY
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.streaming.engine.fake import FakeEngine
from speechgpt_gen.streaming.engine.tones import decode_words
from speechgpt_gen.streaming.resample import resample

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
MANUAL = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}


@pytest.fixture
async def connect(llmock):
    """connect(**settings): the SDK's connection to a server; without `brain=None` llmock thinks."""
    started: list[Any] = []

    async def start(transcript: str = "what is the time", **settings: Any) -> Any:
        llmock.tool_mode("off")
        brain = {"brain": llmock.base_url(), "brain_model": "gpt-4o", "brain_timeout_s": 30.0}
        known = Settings(vad="webrtc", **{**brain, **settings})
        app = create_app(FakeEngine(transcript=transcript), known)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="websockets-sansio"))
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.01)
        where = f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        sdk = AsyncOpenAI(api_key="local", base_url=f"http://{where}", websocket_base_url=f"ws://{where}")
        connection = await sdk.realtime.connect(model="nano").enter()
        started.append((server, task, connection))
        await until(connection, "session.created")
        return connection

    yield start
    for server, task, connection in started:
        await connection.close()
        server.should_exit = True
        await task


async def until(connection: Any, *types: str) -> list[Any]:
    """Events up to the first of these types."""
    events = []
    async with asyncio.timeout(60):
        async for event in connection:
            events.append(event)
            if event.type in types:
                return events
    raise AssertionError(f"the connection ended without {types}")


async def ask(connection: Any, text: str, **response: Any) -> list[Any]:
    """Events of a typed turn."""
    content = [{"type": "input_text", "text": text}]
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
    await connection.response.create(response=response)
    return await until(connection, "response.done")


def spoken(events: list[Any]) -> list[int]:
    """Numbers of the words in the sound of an answer."""
    data = b"".join(base64.b64decode(event.delta) for event in events if event.type == "response.output_audio.delta")
    return decode_words(np.frombuffer(data, "<i2") / np.float32(32768), 24_000)


def transcript(events: list[Any]) -> str:
    return next(event.transcript for event in events if event.type == "response.output_audio_transcript.done")


async def test_a_spoken_turn_is_thought_by_the_brain(connect, llmock, speechlike):
    connection = await connect()
    llmock.reply("It is noon. Go eat!")
    await connection.session.update(session=MANUAL)
    pcm = (32767 * resample(speechlike(0.5), 16_000, 24_000)).astype("<i2").tobytes()
    await connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())
    await connection.input_audio_buffer.commit()
    await connection.response.create()
    events = await until(connection, "response.done")
    assert events[-1].response.status == "completed"
    assert transcript(events) == "It is noon. Go eat!"
    assert spoken(events) == [1, 2, 3, 1, 2]
    assert llmock.last_request.body["messages"][-1] == {"role": "user", "content": "what is the time"}


async def test_turns_found_by_the_server_and_a_barge_in(connect, llmock, speechlike):
    """The user speaks while the brain still writes: it is hung up on, and the next answer knows what was heard."""
    connection = await connect(preemptive=False)
    llmock.pace(30)
    llmock.reply("Once upon a time there was a king. " * 30).reply("Very well.")

    async def say(seconds: float) -> None:
        pcm = np.concatenate([speechlike(seconds), np.zeros(8000, np.float32)])
        data = (32767 * resample(pcm, 16_000, 24_000)).astype("<i2").tobytes()
        for begin in range(0, len(data), 4800):
            await connection.input_audio_buffer.append(audio=base64.b64encode(data[begin : begin + 4800]).decode())

    await say(1.0)
    await until(connection, "response.output_audio.delta")
    await say(1.0)
    events = await until(connection, "response.done")
    assert events[-1].response.status == "cancelled"
    (first,) = events[-1].response.output
    (heard,) = (part.transcript for part in first.content)
    assert transcript(await until(connection, "response.done")) == "Very well."
    asked = [
        [(message["role"], message["content"]) for message in request.body["messages"][1:]]
        for request in llmock.requests
    ]
    assert len(asked) == 2
    assert asked[0] == [("user", "what is the time")]
    assert asked[-1][0] == asked[-1][-1] == ("user", "what is the time")
    assert asked[-1][1:-1] == ([("assistant", heard)] if heard else [])


async def test_only_what_was_heard_goes_to_the_brain(connect, llmock):
    connection = await connect()
    llmock.reply("One two three four five six seven eight. Nine ten.")
    content = [{"type": "input_text", "text": "Count."}]
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
    await connection.response.create()
    events = await until(connection, "response.output_audio_transcript.delta")
    item = events[-1].item_id
    while sum(event.type == "response.output_audio_transcript.delta" for event in events) < 4:
        events += await until(connection, "response.output_audio_transcript.delta")
    await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=1000)
    await until(connection, "conversation.item.truncated")
    llmock.reply("Fine.")
    await ask(connection, "Go on.")
    said = [(message["role"], message["content"]) for message in llmock.last_request.body["messages"][1:]]
    assert said == [("user", "Count."), ("assistant", "One two"), ("user", "Go on.")]


async def test_a_function_is_called_by_the_client_and_the_answer_goes_on(connect, llmock):
    connection = await connect()
    await connection.session.update(session={"type": "realtime", "tools": [WEATHER], "tool_choice": "auto"})
    updated = (await until(connection, "session.updated", "error"))[-1]
    assert updated.session.tools[0].name == "weather"
    llmock.call_tool("weather", {"city": "Rome"})
    events = await ask(connection, "What is the weather in Rome?")
    types = [name for name, _ in groupby(event.type for event in events)]
    assert types[types.index("response.created") :] == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    (call,) = events[-1].response.output
    assert (call.type, call.name, call.status) == ("function_call", "weather", "completed")
    deltas = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert json.loads(call.arguments) == json.loads(deltas) == {"city": "Rome"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"degrees": 21}'}
    await connection.conversation.item.create(item=result)
    llmock.reply("It is mild.")
    await connection.response.create()
    events = await until(connection, "response.done")
    assert transcript(events) == "It is mild."
    messages = llmock.last_request.body["messages"][1:]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == call.call_id
    assert messages[2]["content"] == '{"degrees": 21}'
    llmock.reply("You are welcome.")
    await ask(connection, "Thanks.")
    roles = [message["role"] for message in llmock.last_request.body["messages"][1:]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


async def test_words_before_a_call_are_an_item_before_it(connect, llmock):
    connection = await connect()
    llmock.call_tool("weather", {"city": "Rome"}, text="Let me look.")
    events = await ask(connection, "Weather?", tools=[WEATHER], tool_choice={"type": "function", "name": "weather"})
    assert [item.type for item in events[-1].response.output] == ["message", "function_call"]
    assert transcript(events) == "Let me look."
    added = [(event.output_index, event.item.type) for event in events if event.type == "response.output_item.added"]
    assert added == [(0, "message"), (1, "function_call")]
    assert {event.output_index for event in events if event.type.startswith("response.function_call")} == {1}
    assert llmock.last_request.body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}


async def test_arguments_that_are_cut_off_are_not_called(connect, llmock):
    connection = await connect()
    llmock.call_tool("weather", {"city": "Rome" * 50}).disconnect(after_chunks=3)
    events = await ask(connection, "Weather?", tools=[WEATHER])
    done = events[-1].response
    assert (done.status, done.status_details.error.code) == ("failed", "brain_error")
    calls = [item for item in done.output if item.type == "function_call"]
    assert [call.status for call in calls] == ["incomplete"]
    assert transcript(events) == SORRY


async def test_a_brain_that_fails_is_excused_aloud_and_told_in_an_event(connect, llmock):
    connection = await connect(brain_retries=0)
    llmock.fail(500)
    events = await ask(connection, "Hello?")
    (error,) = (event.error for event in events if event.type == "error")
    assert (error.type, error.code) == ("server_error", "brain_error")
    assert "answers 500" in error.message
    assert transcript(events) == SORRY
    assert spoken(events) == list(range(1, len(SORRY.split()) + 1))
    assert events[-1].response.status == "failed"
    llmock.reply("Here I am.")
    assert transcript(await ask(connection, "And now?")) == "Here I am."


async def test_without_a_brain_functions_are_refused_by_the_field_that_needs_it(connect, llmock):
    connection = await connect(brain=None)
    await connection.session.update(session={"type": "realtime", "tools": [WEATHER]})
    assert (await until(connection, "error", "session.updated"))[-1].error.param == "session.tools"
    await connection.response.create(response={"tools": [WEATHER]})
    assert (await until(connection, "error", "response.created"))[-1].error.param == "response.tools"
    result = {"type": "function_call_output", "call_id": "call_1", "output": "21"}
    await connection.conversation.item.create(item=result)
    assert (await until(connection, "error", "conversation.item.added"))[-1].error.param == "item.type"
    await connection.response.create(response={"input": [result]})
    assert (await until(connection, "error", "response.created"))[-1].error.param == "response.input[0].type"
    await connection.session.update(session={"type": "realtime", "tools": []})
    await until(connection, "session.updated")
    events = await ask(connection, "Hello.", output_modalities=["text"])
    assert events[-1].response.status == "completed"
    assert llmock.requests == []


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "session.tools[0].type"),
        ({"tools": [{"type": "function"}]}, "session.tools[0].name"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "session.tools[0].name"),
        ({"tool_choice": "whatever"}, "session.tool_choice"),
    ],
)
async def test_tools_that_are_none(connect, session, param):
    connection = await connect()
    await connection.session.update(session={"type": "realtime", **session})
    assert (await until(connection, "error", "session.updated"))[-1].error.param == param


async def test_the_named_function_must_be_offered(connect):
    connection = await connect()
    await connection.response.create(
        response={"instructions": "Go.", "tool_choice": {"type": "function", "name": "nothing"}}
    )
    assert (await until(connection, "error", "response.created"))[-1].error.param == "response.tool_choice"
