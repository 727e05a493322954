"""The session itself: updates, bad input, limits, the slot."""

import pytest

from speechgpt_gen.models.errors import EngineFullError
from speechgpt_gen.streaming.engine.protocol import Finished

BAD = {
    "not json": ("{", "invalid_json", None),
    "nested too deep": ("[" * 100_000, "invalid_json", None),
    "an array": ("[]", "invalid_event", None),
    "no type": ("{}", "missing_required_parameter", "type"),
    "type of a wrong type": ('{"type": 5}', "missing_required_parameter", "type"),
    "unknown type": ('{"type": "session.explode"}', "unknown_event", "type"),
    "missing field": ('{"type": "input_audio_buffer.append"}', "missing_required_parameter", "audio"),
    "wrong type": ('{"type": "input_audio_buffer.append", "audio": 7}', "invalid_type", "audio"),
    "not base64": ('{"type": "input_audio_buffer.append", "audio": "a$b="}', "invalid_value", "audio"),
    "half a sample": ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "invalid_value", "audio"),
    "bad enum": (
        '{"type": "response.create", "response": {"output_modalities": ["smell"]}}',
        "invalid_value",
        "response.output_modalities[0]",
    ),
    "content of the other side": (
        '{"type": "conversation.item.create", "item": {"type": "message", "role": "user", '
        '"content": [{"type": "output_text", "text": "x"}]}}',
        "invalid_value",
        "item",
    ),
    "content without text": (
        '{"type": "conversation.item.create", "item": {"type": "message", "role": "user", '
        '"content": [{"type": "input_text"}]}}',
        "missing_required_parameter",
        "item.content[0].text",
    ),
    "negative position": (
        '{"type": "conversation.item.truncate", "item_id": "a", "content_index": 0, "audio_end_ms": -1}',
        "invalid_value",
        "audio_end_ms",
    ),
    "bad session": ('{"type": "session.update", "session": {"tools": 3}}', "invalid_type", "session.tools"),
    "bad speed": (
        '{"type": "session.update", "session": {"audio": {"output": {"speed": 2}}}}',
        "invalid_value",
        "session.audio.output.speed",
    ),
    "bad rate": (
        '{"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 8000}}}}}',
        "invalid_value",
        "session.audio.input.format.rate",
    ),
    "bad voice": (
        '{"type": "session.update", "session": {"audio": {"output": {"voice": "nobody"}}}}',
        "invalid_value",
        "session.audio.output.voice",
    ),
    "unknown session field": (
        '{"type": "session.update", "session": {"voice": "x"}}',
        "unknown_parameter",
        "session.voice",
    ),
    "unsupported session field": (
        '{"type": "session.update", "session": {"prompt": {"id": "p"}}}',
        "unsupported_parameter",
        "session.prompt",
    ),
    "unsupported detection": (
        '{"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"idle_timeout_ms": 5000}}}}}',
        "unsupported_parameter",
        "session.audio.input.turn_detection.idle_timeout_ms",
    ),
    "bad detection": (
        '{"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"threshold": 7}}}}}',
        "invalid_value",
        "session.audio.input.turn_detection.threshold",
    ),
    "transcription session": (
        '{"type": "session.update", "session": {"type": "transcription"}}',
        "invalid_value",
        None,
    ),
    "playback of a websocket": ('{"type": "output_audio_buffer.clear"}', "invalid_event", "type"),
    "previous item unknown": (
        '{"type": "conversation.item.create", "previous_item_id": "zz", "item": {"type": "message", "role": "user", '
        '"content": [{"type": "input_text", "text": "x"}]}}',
        "item_not_found",
        "previous_item_id",
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_events_get_an_error_and_the_session_goes_on(call, case):
    message, code, param = BAD[case]
    caller = call(words=1)
    await caller.clock.settle()
    before = caller.one("session.created")["session"]
    await caller.raw(message)
    error = caller.one("error")["error"]
    assert error["code"] == code
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]
    if param is not None:
        assert error["param"] == param
    await caller.send("session.update", session={})
    assert caller.one("session.updated")["session"] == before
    await caller.say(1.0, 2.0)
    assert caller.answers == [("completed", "one")]


async def test_an_event_beyond_the_cap_is_an_error(call):
    caller = call(words=1, max_event_bytes=2000)
    await caller.send("input_audio_buffer.append", audio="A" * 3000)
    assert caller.one("error")["error"]["code"] == "event_too_large"
    await caller.say(1.0, 2.0)
    assert caller.answers == [("completed", "one")]


async def test_append_over_webrtc_is_an_error(call):
    caller = call(transport="webrtc")
    await caller.append(0.1)
    assert caller.one("error")["error"]["code"] == "invalid_event"


async def test_updates_merge_and_are_echoed_whole(call):
    caller = call()
    update = {
        "type": "realtime",
        "model": "gpt-realtime",
        "tracing": "auto",
        "instructions": None,
        "tools": [],
        "audio": {
            "input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}, "noise_reduction": None},
            "output": {"voice": {"id": "second"}, "speed": 1},
        },
    }
    await caller.send("session.update", session=update)
    session = caller.one("session.updated")["session"]
    created = caller.one("session.created")["session"]
    assert session["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad",
        "eagerness": "low",
        "create_response": True,
        "interrupt_response": True,
    }
    assert session["audio"]["output"]["voice"] == "second"
    assert session["model"] == created["model"] == "fake"
    assert session["audio"]["input"]["transcription"] == created["audio"]["input"]["transcription"]
    assert session["tools"] == update["tools"]


async def test_silence_and_voice_of_the_session_are_used(call):
    caller = call(words=1)
    detection = {"silence_duration_ms": 1000, "prefix_padding_ms": 0}
    audio = {"input": {"turn_detection": detection}, "output": {"voice": "second"}}
    await caller.send("session.update", session={"audio": audio})
    await caller.say(0.5, 0.8)
    assert "input_audio_buffer.committed" not in caller.types
    await caller.listen(1.0)
    assert caller.one("input_audio_buffer.speech_stopped")["audio_end_ms"] == 1500
    (session,) = caller.engine.sessions
    assert session.voice == "second"


async def test_foreign_voice_names_of_stock_clients_keep_the_voice(call):
    caller = call()
    await caller.send("session.update", session={"audio": {"output": {"voice": "marin"}}})
    assert caller.one("session.updated")["session"]["audio"]["output"]["voice"] == "first"


async def test_without_transcription_there_are_no_transcripts(call):
    caller = call(words=1)
    await caller.send("session.update", session={"audio": {"input": {"transcription": None}}})
    await caller.say(1.0, 2.0, 1.0, 2.0)
    assert not any("input_audio_transcription" in name for name in caller.types)
    assert caller.history == [("user", "hello"), ("assistant", "one")]


async def test_turning_detection_off_and_on_keeps_positions(call):
    caller = call(words=1)
    await caller.manual()
    await caller.listen(1.0)
    await caller.send("input_audio_buffer.clear")
    await caller.send("session.update", session={"audio": {"input": {"turn_detection": {"type": "server_vad"}}}})
    await caller.say(0, 1.0, 1.0, 1.0)
    assert caller.one("input_audio_buffer.speech_started")["audio_start_ms"] == 1700


async def test_an_idle_session_ends_and_says_so(call):
    caller = call(idle_timeout_s=5.0, words=1)
    await caller.say(1.0, 3.0)
    await caller.clock.advance(2.5)
    assert not caller.task.done()
    await caller.clock.advance(2.0)
    assert caller.task.done()
    assert caller.one("error")["error"]["code"] == "session_idle"
    assert caller.conversation.reason == "session_idle"
    assert caller.engine.in_use == 0


async def test_a_session_ends_at_its_longest(call):
    caller = call(session_max_s=3.0)
    await caller.say(*[0.5, 0.2] * 5)
    assert caller.task.done()
    assert caller.one("error")["error"]["code"] == "session_expired"


async def test_close_frees_the_slot_at_once_in_every_state(call):
    for speak, pause in ((0.0, 0.2), (0.5, 0.0), (0.5, 0.2), (0.5, 1.0)):
        caller = call(delay=0.4)
        await caller.say(speak, pause)
        before = len(caller.seen)
        caller.conversation.close("gone")
        await caller.clock.settle()
        assert caller.task.done()
        assert caller.engine.in_use == 0
        assert len(caller.seen) == before
        assert caller.playout.waiting == 0
        caller.conversation.receive("{}")
        await caller.conversation.settled()


async def test_a_full_engine_refuses_before_anything_is_sent(call):
    first = call()
    first.engine._info = type(first.engine.info)("fake", 1, ("first",))
    await first.clock.settle()
    sent: list[object] = []
    second = type(first.conversation)(
        first.engine,
        first.conversation._settings,
        send=sent.append,
        playout=first.playout,
        transport="websocket",
        clock=first.clock,
    )
    with pytest.raises(EngineFullError):
        await second.run()
    assert sent == []


async def test_an_engine_that_breaks_its_promise_closes_the_answer(call, monkeypatch):
    caller = call()

    class Broken:
        id = caller.engine.next_id()

        async def __aiter__(self):
            raise RuntimeError("no")
            yield

        def cancel(self):
            pass

    await caller.clock.settle()
    (session,) = caller.engine.sessions
    monkeypatch.setattr(session, "generate", lambda request: Broken())
    await caller.text("Hi.")
    await caller.send("response.create")
    assert caller.one("response.done")["response"]["status"] == "failed"
    monkeypatch.undo()
    await caller.text("Hi.")
    await caller.send("response.create")
    assert caller.conversation.state == "speaking"


async def test_a_transcript_that_cannot_be_had_is_told(call, monkeypatch):
    caller = call()

    class Failed:
        id = caller.engine.next_id()

        async def __aiter__(self):
            yield Finished("failed", "the ear is broken")

        def cancel(self):
            pass

    detection = {"type": "server_vad", "create_response": False}
    await caller.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
    (session,) = caller.engine.sessions
    monkeypatch.setattr(session, "generate", lambda request: Failed())
    await caller.say(0.3, 1.0)
    failed = caller.one("conversation.item.input_audio_transcription.failed")
    assert failed["item_id"] == caller.one("input_audio_buffer.committed")["item_id"]
    assert failed["error"]["message"] == "the ear is broken"
    assert not caller.all("conversation.item.input_audio_transcription.completed")


async def test_the_oldest_items_are_forgotten(call):
    caller = call(max_items=3)
    for index in range(5):
        await caller.text(str(index))
    await caller.send("response.create")
    (session,) = caller.engine.sessions
    assert session.requests[0].text == "2 3 4"
