"""The engine whose answers are thought elsewhere, with a real server of chat completions (llmock)."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from speechgpt_gen.agent.brain.chat import ChatModel
from speechgpt_gen.agent.brain.engine import BrainEngine
from speechgpt_gen.agent.brain.thinking import SORRY
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.streaming.clock import RealClock
from speechgpt_gen.streaming.engine.fake import FakeEngine
from speechgpt_gen.streaming.engine.protocol import (
    Audio,
    CallMessage,
    Finished,
    FunctionCall,
    Message,
    Request,
    ResultMessage,
    Text,
    Tool,
    Transcript,
    Trouble,
    Word,
)
from speechgpt_gen.streaming.engine.tones import decode_words

HEARD = (0.1 * np.sin(np.arange(16_000))).astype(np.float32)
WEATHER = Tool("weather", "Weather in a city.", {"type": "object", "properties": {"city": {"type": "string"}}})


@pytest.fixture
async def think(llmock):
    """think(**settings): an engine with the server as its brain."""
    engines = []

    async def start(inner=None, **settings):
        llmock.tool_mode("off")
        known = Settings(**{"brain": llmock.base_url(), "brain_model": "gpt-4o", "brain_timeout_s": 30.0, **settings})
        engine = BrainEngine(inner or FakeEngine(transcript="what is the time"), ChatModel(known), RealClock())
        await engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        await engine.stop()


REPLY = Request()


async def answer(engine, request=REPLY, history=(), heard=HEARD):
    session = await engine.open()
    session.begin_turn(history)
    if heard is not None:
        session.listen(heard)
    outputs = [output async for output in session.generate(request)]
    await session.close()
    assert isinstance(outputs[-1], Finished)
    assert sum(isinstance(output, Finished) for output in outputs) == 1
    return outputs


def text(outputs):
    return "".join(output.text for output in outputs if isinstance(output, Text))


def words(outputs):
    return [(output.text, output.frame) for output in outputs if isinstance(output, Word)]


def sound(outputs):
    return np.concatenate([output.pcm for output in outputs if isinstance(output, Audio)] or [np.zeros(0, np.float32)])


def trouble(outputs):
    return [output for output in outputs if isinstance(output, Trouble)]


async def test_what_was_heard_is_asked_and_what_comes_back_is_spoken(think, llmock):
    engine = await think()
    llmock.reply("It is noon. You are late!")
    history = [Message("system", "Be kind."), Message("user", "Hello."), Message("assistant", "Hello there.")]
    outputs = await answer(engine, history=history)
    assert outputs[0] == Transcript("what is the time", final=True)
    assert text(outputs) == "It is noon. You are late!"
    assert words(outputs) == [("It", 0), ("is", 25), ("noon.", 50), ("You", 75), ("are", 100), ("late!", 125)]
    assert decode_words(sound(outputs)) == [1, 2, 3, 1, 2, 3], "two sentences"
    assert outputs[-1].reason == "completed"
    assert outputs[-1].units == 150
    asked = llmock.last_request.body
    assert (asked["model"], asked["stream"]) == ("gpt-4o", True)
    assert asked["messages"][0]["content"].endswith("\n\nBe kind.")
    assert [(message["role"], message["content"]) for message in asked["messages"][1:]] == [
        ("user", "Hello."),
        ("assistant", "Hello there."),
        ("user", "what is the time"),
    ]
    assert "tools" not in asked
    llmock.assert_resilient(strict=True)


async def test_the_first_sentence_is_spoken_before_the_last_is_written(think, llmock):
    engine = await think()
    llmock.pace(40)
    llmock.reply("One. " + "and so on, " * 20 + "to the end.")
    session = await engine.open()
    session.begin_turn(())
    kinds = [type(output) async for output in session.generate(Request(text="Tell me."))]
    await session.close()
    assert Text in kinds[kinds.index(Audio) :]


async def test_typed_and_written(think, llmock):
    engine = await think()
    llmock.reply("Noon.")
    outputs = await answer(engine, Request(text="What time is it?", speak=False, instructions="Be curt."), heard=None)
    assert [type(output) for output in outputs] == [Text] * (len(outputs) - 1) + [Finished]
    assert text(outputs) == "Noon."
    messages = llmock.last_request.body["messages"]
    assert messages[0]["content"].endswith("Be curt.")
    assert messages[-1] == {"role": "user", "content": "What time is it?"}


async def test_other_requests_are_the_inner_engines(think, llmock):
    engine = await think()
    said = await answer(engine, Request("say", "Hello you."))
    assert words(said) == [("Hello", 0), ("you.", 25)]
    assert (await answer(engine, Request("transcribe")))[0] == Transcript("what is the time", final=True)
    assert len(sound(await answer(engine, Request("convert")))) == len(HEARD)
    assert llmock.requests == []


async def test_nothing_heard_is_not_asked(think, llmock):
    engine = await think(FakeEngine(transcript=""))
    outputs = await answer(engine)
    assert outputs[-1].reason == "failed"
    assert (await answer(engine, heard=None))[-1].reason == "failed"
    assert llmock.requests == []


async def test_a_function_is_called_and_its_result_answered(think, llmock):
    engine = await think()
    llmock.call_tool("weather", {"city": "Rome"}, text="Let me look.")
    outputs = await answer(engine, Request(tools=(WEATHER,)))
    calls = [output for output in outputs if isinstance(output, FunctionCall)]
    assert {(call.name, call.call_id) for call in calls} == {("weather", calls[0].call_id)}
    assert "".join(call.arguments for call in calls).replace(" ", "") == '{"city":"Rome"}'
    assert [call.last for call in calls] == [False] * (len(calls) - 1) + [True]
    assert [word for word, _ in words(outputs)] == ["Let", "me", "look."]
    asked = llmock.last_request.body
    assert asked["tools"][0]["function"]["name"] == "weather"
    assert asked["tool_choice"] == "auto"
    history = [
        Message("user", "what is the weather in rome"),
        CallMessage("assistant", "", calls[0].call_id, "weather", '{"city": "Rome"}'),
        ResultMessage("user", "21 degrees", calls[0].call_id),
    ]
    llmock.reply("It is mild.")
    outputs = await answer(engine, Request(tools=(WEATHER,)), history, heard=None)
    assert text(outputs) == "It is mild."
    roles = [message["role"] for message in llmock.last_request.body["messages"]]
    assert roles == ["system", "user", "assistant", "tool"]


async def test_busy_brains_are_asked_again_after_the_time_they_name(think, llmock):
    engine = await think()
    llmock.rate_limit(times=2, retry_after=0.3).reply("Here I am.")
    outputs = await answer(engine)
    assert text(outputs) == "Here I am."
    assert not trouble(outputs)
    assert len(llmock.requests) == 3
    llmock.assert_resilient()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda it: it.outage(), "answers 503"),
        (lambda it: it.fail(401), "answers 401"),
        (lambda it: it.context_overflow(), "answers 400"),
        (lambda it: it.reply("I say. " * 9).disconnect(after_chunks=3), "failed"),
        (lambda it: it.reply("I say. " * 9).truncate(after_chunks=3), "broke off"),
        (lambda it: it.reply("I say. " * 9).corrupt(after_chunks=3), "failed"),
        (lambda it: it.reply("I say. " * 9).stall(after_chunks=3, seconds=60), "said nothing for 1 s"),
        (lambda it: it.slow_first_token(60), "said nothing for 1 s"),
    ],
)
async def test_a_brain_that_fails_is_excused_aloud_with_the_reason(think, llmock, fault, reason):
    engine = await think(brain_retries=0, brain_timeout_s=1.0)
    fault(llmock)
    outputs = await answer(engine)
    (told,) = trouble(outputs)
    assert told.code == "brain_error"
    assert reason in told.message
    assert "\n" not in told.message
    assert text(outputs).endswith(SORRY)
    assert [word for word, _ in words(outputs)][-len(SORRY.split()) :] == SORRY.split()
    assert outputs[-1].reason == "completed"


async def test_what_cannot_be_spoken_is_passed_over(think, llmock):
    engine = await think()
    llmock.reply("\u4f60\u597d\u3002\nHello you.\n\n*** \U0001f600")
    outputs = await answer(engine)
    assert [word for word, _ in words(outputs)] == ["Hello", "you."]
    assert not trouble(outputs)
    llmock.reply("\u4f60\u597d\u3002")
    outputs = await answer(engine)
    assert trouble(outputs)[0].code == "unspeakable_answer"
    assert [word for word, _ in words(outputs)] == SORRY.split()


async def test_nobody_there(think, unused_tcp_port):
    engine = await think(brain=f"http://127.0.0.1:{unused_tcp_port}/v1", brain_retries=0)
    (told,) = trouble(await answer(engine))
    assert "failed" in told.message


async def test_cancelling_hangs_up_on_the_brain_and_the_turn_goes_on(think, llmock):
    engine = await think()
    llmock.pace(50)
    llmock.reply("Never to be said. " * 40)
    session = await engine.open()
    session.begin_turn(())
    session.listen(HEARD)
    generation = session.generate(Request())
    async for output in generation:
        if isinstance(output, Audio):
            generation.cancel()
        if isinstance(output, Finished):
            assert output.reason == "cancelled"
    session.listen(HEARD)
    llmock.reply("Good.")
    outputs = [output async for output in session.generate(Request())]
    assert text(outputs) == "Good."
    await session.close()
    assert engine.in_use == 0


async def test_the_longest_answer_and_the_lead(think, llmock):
    engine = await think()
    llmock.reply("One two three. Four five six. Seven.")
    outputs = await answer(engine, Request(max_seconds=2.0))
    assert outputs[-1].reason == "length"
    assert len(sound(outputs)) == 2 * 16_000
    llmock.reply("One two. Three four. Five six.")
    begin = asyncio.get_running_loop().time()
    outputs = await answer(engine, Request(max_ahead_seconds=1.5))
    assert len(words(outputs)) == 6
    assert asyncio.get_running_loop().time() - begin >= 0.5, "the last sentence begins when 1.5 s are ahead, not 2"


def test_settings_that_lack_something():
    with pytest.raises(ConfigError, match="brain_model"):
        ChatModel(Settings(brain="http://localhost/v1"))


@pytest.mark.parametrize(("settings", "sent"), [({}, "Bearer none"), ({"brain_key": "own"}, "Bearer own")])
async def test_a_key_of_the_environment_is_not_sent(think, monkeypatch, settings, sent):
    monkeypatch.setenv("OPENAI_API_KEY", "of somebody else")
    seen = []

    async def refuse(reader, writer):
        seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await answer(await think(brain=f"http://127.0.0.1:{port}/v1", **settings))
    assert f"authorization: {sent}\r\n" in seen[0].lower().replace("bearer", "Bearer")
