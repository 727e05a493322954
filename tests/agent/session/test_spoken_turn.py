"""Spoken turns with server VAD: the order of events, preemptive answers, barge-in."""

import pytest

SPOKEN_TURN = [
    "session.created",
    "input_audio_buffer.speech_started",
    "conversation.item.input_audio_transcription.delta",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "conversation.item.input_audio_transcription.completed",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]


async def test_events_of_a_spoken_turn_in_order(call):
    caller = call(words=2)
    await caller.say(1.0, 2.0)
    assert caller.types == SPOKEN_TURN
    assert caller.answers == [("completed", "one two")]
    events = [event for _, event in caller.seen]
    assert len({event["event_id"] for event in events}) == len(events)
    started, committed = caller.one("input_audio_buffer.speech_started"), caller.one("input_audio_buffer.committed")
    assert started["item_id"] == committed["item_id"]
    assert committed["previous_item_id"] is None
    done = caller.one("response.done")["response"]
    assert done["usage"]["output_token_details"]["audio_tokens"] == 50
    assert done["status_details"] == {"type": "completed"}


async def test_order_over_webrtc_has_playback_events_instead_of_audio(call):
    caller = call(words=2, transport="webrtc")
    for _ in range(150):
        await caller.say(0.02 if caller.clock.now() < 1 else 0, 0.02 if caller.clock.now() >= 1 else 0)
        caller.playout.pull(320)
    kinds = [name for name in caller.types if "transcription" not in name][6:]
    assert kinds == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "output_audio_buffer.started",
        "response.output_audio_transcript.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
        "output_audio_buffer.stopped",
    ]


async def test_positions_are_audio_time_with_pre_roll(call):
    caller = call()
    await caller.say(0, 1.0, 0.5, 1.0)
    # Onset at 1000 ms less 300 ms of pre-roll; the turn ends 400 ms after the last voiced sample at 1500 ms.
    assert caller.one("input_audio_buffer.speech_started")["audio_start_ms"] == 700
    assert caller.one("input_audio_buffer.speech_stopped")["audio_end_ms"] == 1900


async def test_history_has_both_sides_of_the_last_three_turns(call):
    caller = call(words=1, transcript="hello there")
    for _ in range(5):
        await caller.say(1.0, 2.0)
    assert caller.history == [("user", "hello there"), ("assistant", "one")] * 3


async def test_an_answer_prepared_at_the_soft_end_is_kept_when_the_turn_ends(call):
    caller = call(words=2, delay=0.2)
    await caller.say(1.0, 3.0)
    (session,) = caller.engine.sessions
    assert len(session.requests) == 1
    done = caller.one("response.done")["response"]["metadata"]
    # Asked 160 ms after the last voiced sample, the engine is ready 200 ms later: before the turn ends at 400 ms.
    assert done["preemptive"] == "true"
    assert float(done["first_token_ms"]) == pytest.approx(360, abs=25)
    assert float(done["end_of_turn_ms"]) == pytest.approx(400, abs=25)
    assert float(done["played_ms"]) == pytest.approx(400, abs=25)


async def test_an_answer_prepared_too_early_is_rolled_back_when_the_user_goes_on(call):
    caller = call(words=2, delay=0.05)
    await caller.say(0.6, 0.3, 0.6)
    assert "response.created" not in caller.types
    assert "conversation.item.input_audio_transcription.completed" not in caller.types
    await caller.listen(3.0)
    (session,) = caller.engine.sessions
    assert len(session.requests) == 2
    assert caller.answers == [("completed", "one two")]
    assert len(caller.all("input_audio_buffer.speech_started")) == 1
    # The engine heard the whole turn once, without a hole: 0.6 + 0.3 + 0.6 s and the silence behind it.
    assert session.samples == pytest.approx((1.5 + 0.4) * 16_000, abs=640)


async def test_without_preemption_the_engine_is_asked_at_the_end_of_the_turn(call):
    caller = call(words=1, delay=0.2, preemptive=False)
    await caller.say(0.6, 0.3, 0.6, 3.0)
    (session,) = caller.engine.sessions
    assert len(session.requests) == 1
    done = caller.one("response.done")["response"]["metadata"]
    assert done["preemptive"] == "false"
    assert float(done["played_ms"]) == pytest.approx(600, abs=30)


async def test_barge_in_stops_at_once_and_keeps_exactly_the_words_heard(call):
    caller = call(words=10)
    await caller.say(1.0, 2.65)
    assert caller.conversation.state == "speaking"
    await caller.say(0.2)
    interrupted = caller.seen[-1][0]
    heard = caller.audible(interrupted)
    assert heard == [1, 2, 3, 4, 5]
    assert caller.answers == [("cancelled", "one two three four five")]
    done = caller.one("response.done")["response"]
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert done["output"][0]["status"] == "incomplete"
    last_sound = max(time for time, event in caller.seen if event["type"] == "response.output_audio.delta")
    await caller.say(0.4, 3.0)
    assert caller.history == [("user", "hello"), ("assistant", "one two three four five")]
    late = [t for t, event in caller.seen if event["type"] == "response.output_audio.delta" and t > last_sound]
    assert min(late) > caller.clock.now() - 3.0, "no sound of the cut answer came after it was cut"
    kinds = caller.types
    begin = kinds.index("input_audio_buffer.speech_started", kinds.index("response.created"))
    assert kinds[begin + 1 : begin + 7] == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]


async def test_the_sound_stops_within_200_ms_of_the_first_voiced_sample(call):
    caller = call(words=10)
    await caller.say(1.0, 2.0)
    begun = caller.clock.now()
    await caller.say(0.4)
    assert caller.all("response.done")[-1]["response"]["status"] == "cancelled"
    (_, second) = [time for time, event in caller.seen if event["type"] == "input_audio_buffer.speech_started"]
    assert second - begun <= 0.2


async def test_barge_in_over_webrtc_truncates_and_clears(call):
    caller = call(words=10, transport="webrtc")
    await caller.say(1.0, 0.5)
    heard = 0
    while heard < 16_000 * 1.3:
        caller.playout.pull(320)
        heard += 320
        await caller.listen(0.02)
    await caller.say(0.2)
    assert caller.answers == [("cancelled", "one two three")]
    assert caller.one("conversation.item.truncated")["audio_end_ms"] == pytest.approx(1300, abs=20)
    assert caller.one("output_audio_buffer.cleared")["response_id"] == caller.one("response.done")["response"]["id"]
    assert caller.playout.waiting == 0


async def test_interrupt_response_false_lets_the_answer_finish_and_answers_afterwards(call):
    caller = call(words=4)
    detection = {"type": "server_vad", "interrupt_response": False}
    await caller.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
    await caller.say(1.0, 0.8, 0.5, 6.0)
    assert caller.answers == [("completed", "one two three four")] * 2
    assert caller.history == [("user", "hello"), ("assistant", "one two three four")]


async def test_create_response_false_transcribes_and_waits_for_the_client(call):
    caller = call(words=1)
    detection = {"type": "server_vad", "create_response": False}
    await caller.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
    await caller.say(1.0, 1.0)
    assert caller.one("conversation.item.input_audio_transcription.completed")["transcript"] == "hello"
    assert "response.created" not in caller.types
    await caller.send("response.create")
    await caller.listen(1.0)
    assert caller.answers == [("completed", "one")]
    assert len(caller.all("conversation.item.input_audio_transcription.completed")) == 1


@pytest.mark.parametrize("transcript", ["", " "])
async def test_noise_without_words_gets_no_answer_and_is_nobodys_error(call, transcript):
    caller = call(transcript=transcript)
    await caller.say(0.5, 1.0)
    assert "error" not in caller.types
    assert caller.one("response.done")["response"]["status"] == "failed"
    assert caller.one("response.done")["response"]["status_details"]["error"]["code"] == "no_speech"
    assert "response.output_audio.delta" not in caller.types
    caller.engine.transcript = "hello"
    await caller.say(1.0, 6.0)
    assert caller.answers[-1][0] == "completed"
    assert caller.history == []


async def test_an_engine_failure_is_told_and_the_session_lives(call):
    caller = call(words=5, fail_at=3)
    await caller.say(1.0, 1.0)
    error = caller.one("error")["error"]
    assert (error["type"], error["code"]) == ("server_error", "engine_error")
    assert caller.one("response.done")["response"]["status"] == "failed"
    caller.engine.fail_at = None
    await caller.say(1.0, 4.0)
    assert caller.answers[-1] == ("completed", "one two three four five")


async def test_an_engine_slower_than_speech_counts_underruns_and_still_ends(call):
    caller = call(words=3, pace=1.5)
    await caller.say(1.0, 5.0)
    assert caller.answers == [("completed", "one two three")]
    assert int(caller.one("response.done")["response"]["metadata"]["underruns"]) > 0


async def test_sound_is_paced_and_done_is_held_until_it_was_played(call):
    caller = call(words=4)
    await caller.say(1.0, 4.0)
    begun = caller.at("response.output_audio.delta")
    assert caller.at("response.done") - begun == pytest.approx(2.0, abs=0.05)
    sent = 0.0
    for time, event in caller.seen:
        if event["type"] == "response.output_audio.delta":
            sent += len(event["delta"]) * 3 / 4 / 2 / 24_000
            assert sent <= time - begun + 0.2 + 0.001
    assert sent == pytest.approx(2.0, abs=0.001)
    assert caller.audible(caller.clock.now()) == [1, 2, 3, 4]
