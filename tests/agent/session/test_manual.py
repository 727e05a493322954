"""Turns by hand, typed turns, response.create and cancel, items."""

import base64

import numpy as np
import pytest


async def test_manual_turn_commit_then_create(call):
    caller = call(words=2)
    await caller.manual()
    assert caller.one("session.updated")["session"]["audio"]["input"]["turn_detection"] is None
    await caller.append(1.0)
    await caller.append(0.5, level=0.0)
    assert "input_audio_buffer.speech_started" not in caller.types
    await caller.send("input_audio_buffer.commit")
    assert caller.types[-4:] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "conversation.item.input_audio_transcription.completed",
    ]
    assert "response.created" not in caller.types
    await caller.send("response.create")
    await caller.clock.advance(2.0)
    assert caller.answers == [("completed", "one two")]
    (session,) = caller.engine.sessions
    assert session.samples == pytest.approx(1.5 * 16_000, abs=400)


async def test_commit_of_nothing_and_of_too_little_are_errors(call):
    caller = call()
    await caller.manual()
    await caller.send("input_audio_buffer.commit", event_id="c1")
    await caller.append(0.05)
    await caller.send("input_audio_buffer.commit", event_id="c2")
    errors = [event["error"] for event in caller.all("error")]
    assert [error["code"] for error in errors] == ["input_audio_buffer_commit_empty"] * 2
    assert [error["event_id"] for error in errors] == ["c1", "c2"]


async def test_clear_forgets_what_was_appended(call):
    caller = call()
    await caller.manual()
    await caller.append(1.0)
    await caller.send("input_audio_buffer.clear")
    assert caller.types[-1] == "input_audio_buffer.cleared"
    await caller.send("input_audio_buffer.commit")
    assert caller.one("error")["error"]["code"] == "input_audio_buffer_commit_empty"


async def test_clear_drops_the_turn_under_way_with_server_vad(call):
    caller = call()
    await caller.say(0.5)
    await caller.send("input_audio_buffer.clear")
    await caller.listen(1.0)
    assert "input_audio_buffer.committed" not in caller.types


async def test_commit_ends_a_turn_early_with_server_vad(call):
    caller = call(words=1)
    await caller.say(0.5)
    await caller.send("input_audio_buffer.commit")
    await caller.listen(1.0)
    assert caller.answers == [("completed", "one")]


async def test_a_manual_turn_longer_than_allowed_is_an_error_and_can_still_be_committed(call):
    caller = call(max_turn_s=2.0)
    await caller.manual()
    for _ in range(3):
        await caller.append(0.9)
    assert caller.one("error")["error"]["code"] == "input_audio_buffer_full"
    await caller.send("input_audio_buffer.commit")
    assert caller.types[-1] == "conversation.item.input_audio_transcription.completed"


async def test_minutes_of_sound_in_one_event_are_heard_in_order(call):
    caller = call(words=1, max_turn_s=200.0)
    await caller.manual()
    await caller.append(120.0)
    await caller.send("input_audio_buffer.commit")
    (session,) = caller.engine.sessions
    assert session.samples == pytest.approx(120 * 16_000, abs=400)


async def test_push_to_talk_over_a_track_that_never_pauses(call):
    caller = call(words=1, transport="webrtc", max_turn_s=2.0)
    await caller.manual()
    await caller.say(0, 5.0)
    await caller.send("input_audio_buffer.clear")
    await caller.say(1.0)
    (session,) = caller.engine.sessions
    assert session.samples == 16_000, "the engine hears it while the button is held"
    await caller.send("input_audio_buffer.commit")
    await caller.send("response.create")
    assert session.samples == 16_000
    await caller.send("response.cancel")
    await caller.send("input_audio_buffer.clear")
    await caller.say(3.0)
    await caller.send("input_audio_buffer.commit")
    assert session.samples == 32_000, "what is longer than a turn may be is dropped"
    assert "error" not in caller.types


async def test_typed_turn_in_text(call):
    caller = call(words=3)
    await caller.text("Hello there.")
    await caller.send("response.create", response={"output_modalities": ["text"], "metadata": {"who": "me"}})
    await caller.clock.advance(0.1)
    assert caller.answers == [("completed", "one two three")]
    assert "response.output_audio.delta" not in caller.types
    assert "".join(event["delta"] for event in caller.all("response.output_text.delta")) == "one two three"
    assert caller.one("response.content_part.done")["part"] == {"type": "text", "text": "one two three"}
    assert caller.one("response.done")["response"]["metadata"]["who"] == "me"
    (session,) = caller.engine.sessions
    assert session.requests[0].text == "Hello there."
    assert not session.requests[0].speak


async def test_several_typed_items_are_one_turn_and_history_is_before_them(call):
    caller = call(words=1)
    for texts in (["My name is Ada."], ["What", "is my name?"]):
        for text in texts:
            await caller.text(text)
        await caller.send("response.create")
        await caller.listen(1.0)
    (session,) = caller.engine.sessions
    assert session.requests[1].text == "What is my name?"
    assert caller.history == [("user", "My name is Ada."), ("assistant", "one")]


async def test_instructions_become_the_system_message(call):
    caller = call(words=1)
    await caller.send("session.update", session={"instructions": "Be brief."})
    await caller.text("Hi.")
    await caller.send("response.create")
    assert caller.history == [("system", "Be brief.")]


async def test_an_item_with_audio_is_heard(call):
    caller = call(words=1)
    audio = base64.b64encode(np.full(24_000, 3000, "<i2").tobytes()).decode()
    item = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": audio}]}
    await caller.send("conversation.item.create", item=item)
    assert caller.one("conversation.item.added")["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    await caller.send("response.create")
    await caller.listen(1.0)
    (session,) = caller.engine.sessions
    assert session.samples == 16_000
    assert caller.answers == [("completed", "one")]


async def test_a_response_with_its_own_input_stays_outside_the_conversation(call):
    caller = call(words=1)
    content = [{"type": "input_text", "text": "aside"}]
    options = {"conversation": "none", "input": [{"type": "message", "role": "user", "content": content}]}
    await caller.send("response.create", response=options)
    await caller.listen(1.0)
    assert caller.answers == [("completed", "one")]
    assert "conversation.item.added" not in caller.types
    await caller.send("response.create")
    assert caller.one("error")["error"]["code"] == "nothing_to_answer"


async def test_cancel_with_nothing_active_is_a_harmless_error(call):
    caller = call(words=1)
    await caller.send("response.cancel", event_id="x1")
    error = caller.one("error")["error"]
    assert (error["code"], error["event_id"]) == ("response_cancel_not_active", "x1")
    await caller.say(1.0, 2.0)
    assert caller.answers == [("completed", "one")]


async def test_cancel_keeps_what_was_heard(call):
    caller = call(words=10)
    await caller.say(1.0, 0.4)
    begun = caller.at("response.output_audio.delta")
    await caller.listen(begun + 1.4 - caller.clock.now())
    await caller.send("response.cancel")
    assert caller.answers == [("cancelled", "one two three")]
    assert caller.one("response.done")["response"]["status_details"]["reason"] == "client_cancelled"
    assert caller.audible(caller.clock.now()) == [1, 2, 3]
    sounds = len(caller.all("response.output_audio.delta"))
    await caller.listen(2.0)
    assert len(caller.all("response.output_audio.delta")) == sounds


async def test_cancel_while_thinking(call):
    caller = call(words=3, delay=1.0)
    await caller.say(1.0, 0.6)
    assert caller.conversation.state == "thinking"
    await caller.send("response.cancel")
    await caller.listen(3.0)
    assert caller.answers == [("cancelled", "")]
    assert "response.output_audio.delta" not in caller.types
    await caller.say(1.0, 4.0)
    assert caller.answers[-1] == ("completed", "one two three")
    assert caller.history == [("user", "hello")]


async def test_only_one_response_at_a_time(call):
    caller = call()
    await caller.text("Hi.")
    await caller.send("response.create")
    await caller.send("response.create", event_id="agents_js_response_create_2")
    error = caller.one("error")["error"]
    assert error["code"] == "conversation_already_has_active_response"
    assert error["event_id"] == "agents_js_response_create_2"


@pytest.mark.parametrize(
    ("end_ms", "words"), [(0, ""), (200, ""), (300, "one"), (740, "one"), (760, "one two"), (1400, "one two three")]
)
async def test_truncate_cuts_history_to_the_clients_clock(call, end_ms, words):
    caller = call(words=10)
    await caller.say(1.0, 2.4)
    item = caller.one("response.output_item.added")["item"]["id"]
    await caller.say(0.2)
    await caller.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=end_ms)
    assert caller.one("conversation.item.truncated")["audio_end_ms"] == end_ms
    await caller.send("conversation.item.retrieve", item_id=item)
    retrieved = caller.one("conversation.item.retrieved")["item"]
    assert retrieved["content"] == [{"type": "output_audio", "transcript": words}]
    await caller.say(0.3, 1.0)
    assert caller.history == [("user", "hello"), *([("assistant", words)] if words else [])]


async def test_truncate_of_more_than_was_sent_or_of_a_users_item_is_an_error(call):
    caller = call(words=2)
    await caller.say(1.0, 2.0)
    item = caller.one("response.output_item.added")["item"]["id"]
    user = caller.one("input_audio_buffer.committed")["item_id"]
    await caller.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=1500)
    await caller.send("conversation.item.truncate", item_id=user, content_index=0, audio_end_ms=100)
    await caller.send("conversation.item.truncate", item_id="nobody", content_index=0, audio_end_ms=100)
    assert [event["error"]["param"] for event in caller.all("error")] == ["audio_end_ms", "item_id", "item_id"]


async def test_items_can_be_placed_retrieved_and_deleted(call):
    caller = call()
    for name, after in (("b", None), ("a", "root"), ("c", "b"), ("d", "a")):
        item = {"id": name, "type": "message", "role": "user", "content": [{"type": "input_text", "text": name}]}
        await caller.send("conversation.item.create", item=item, previous_item_id=after)
    added = [(event["item"]["id"], event["previous_item_id"]) for event in caller.all("conversation.item.added")]
    assert added == [("b", None), ("a", None), ("c", "b"), ("d", "a")]
    await caller.send("conversation.item.delete", item_id="b")
    assert caller.one("conversation.item.deleted")["item_id"] == "b"
    await caller.send("conversation.item.retrieve", item_id="b")
    assert caller.one("error")["error"]["code"] == "item_not_found"
    await caller.send("response.create")
    (session,) = caller.engine.sessions
    assert session.requests[0].text == "a d c"


async def test_deleting_the_item_being_spoken_stops_it(call):
    caller = call()
    await caller.say(1.0, 1.0)
    await caller.send("conversation.item.delete", item_id=caller.one("response.output_item.added")["item"]["id"])
    assert caller.types[-1] == "conversation.item.deleted"
    assert caller.conversation.state == "listening"


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
async def test_g711_both_ways(call, kind):
    caller = call(words=1)
    await caller.manual(output_modalities=["audio"])
    audio = {"input": {"format": {"type": kind}}, "output": {"format": {"type": kind}}}
    await caller.send("session.update", session={"audio": audio})
    await caller.send("input_audio_buffer.append", audio=base64.b64encode(bytes(8000)).decode())
    await caller.send("input_audio_buffer.commit")
    await caller.send("response.create")
    await caller.listen(1.0)
    (session,) = caller.engine.sessions
    assert session.samples == pytest.approx(16_000, abs=700)
    sent = b"".join(base64.b64decode(event["delta"]) for event in caller.all("response.output_audio.delta"))
    assert len(sent) == 4000


async def test_max_output_tokens_cut_the_answer(call):
    caller = call(words=10)
    await caller.text("Hi.")
    await caller.send("response.create", response={"max_output_tokens": 50})
    await caller.listen(2.0)
    done = caller.one("response.done")["response"]
    assert done["status"] == "incomplete"
    assert done["status_details"]["reason"] == "max_output_tokens"
    assert caller.answers == [("incomplete", "one two")]


async def test_max_output_tokens_cut_a_written_answer(call):
    caller = call(words=10)
    await caller.text("Count.")
    await caller.send("response.create", response={"output_modalities": ["text"], "max_output_tokens": 3})
    await caller.listen(0.1)
    done = caller.one("response.done")["response"]
    assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")
    assert caller.one("response.output_text.done")["text"] == "one two three"
    assert done["output"][0]["status"] == "incomplete"


async def test_a_response_may_have_a_format_of_its_own(call):
    caller = call(words=2)
    await caller.text("Hi.")
    output = {"format": {"type": "audio/pcmu"}, "voice": "second"}
    await caller.send("response.create", response={"audio": {"output": output}})
    await caller.listen(2.0)
    assert caller.one("response.created")["response"]["audio"]["output"] == output
    sent = b"".join(base64.b64decode(event["delta"]) for event in caller.all("response.output_audio.delta"))
    assert len(sent) == 8000


async def test_the_output_buffer_can_be_cleared_at_any_time_over_webrtc(call):
    caller = call(words=4, transport="webrtc")
    await caller.send("output_audio_buffer.clear")
    assert caller.one("output_audio_buffer.cleared")["response_id"] == ""
    await caller.text("Hi.")
    await caller.send("response.create")
    for _ in range(40):
        caller.playout.pull(320)
        await caller.listen(0.02)
    await caller.send("output_audio_buffer.clear")
    assert caller.answers == [("cancelled", "one two")]
    response = caller.one("response.done")["response"]["id"]
    await caller.send("output_audio_buffer.clear")
    assert [event["response_id"] for event in caller.all("output_audio_buffer.cleared")[1:]] == [response] * 2
