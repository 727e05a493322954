"""Hermes sessions, in virtual time."""

from itertools import pairwise

import numpy as np
import pytest

WAKE = ["hermes/dialogueManager/sessionStarted", "hermes/hotword/toggleOff", "hermes/asr/startListening"]


async def test_a_session_from_the_wake_word_to_its_end(house):
    h = house(words=4, transcript="turn it off")
    await h.wake("kitchen", "hey_friend")
    assert h.topics == WAKE
    session = h.one("sessionStarted")["sessionId"]
    await h.say(1.0, 0.6, site="kitchen")
    captured = h.one("textCaptured")
    assert captured["text"] == "turn it off"
    assert (captured["siteId"], captured["sessionId"], captured["wakewordId"]) == ("kitchen", session, "hey_friend")
    await h.clock.advance(4)
    assert h.words("kitchen") == [1, 2, 3, 4]
    await h.clock.advance(9)
    ended = h.one("sessionEnded")
    assert ended["termination"] == {"reason": "nominal"}
    assert (ended["siteId"], ended["sessionId"]) == ("kitchen", session)
    assert h.topics[len(WAKE) :] == [
        "hermes/asr/stopListening",
        "hermes/asr/textCaptured",
        "hermes/audioServer/kitchen/playBytes",
        "hermes/asr/startListening",
        "hermes/dialogueManager/sessionEnded",
        "hermes/hotword/toggleOn",
    ]
    assert h.engine.in_use == 0
    assert not h.all("error/dialogueManager")


async def test_a_session_goes_on_for_as_long_as_somebody_speaks(house):
    h = house()
    await h.wake()
    for _ in range(3):
        await h.say(0.5, 0.6)
        await h.clock.advance(5)
    assert len(h.all("textCaptured")) == 3
    assert not h.all("sessionEnded")
    (slot,) = h.engine.sessions
    assert [message.role for message in slot.history] == ["user", "assistant"] * 2
    await h.clock.advance(9)
    assert h.one("sessionEnded")["termination"]["reason"] == "nominal"


async def test_a_session_in_which_nobody_speaks_times_out(house):
    h = house(mqtt_follow_up_s=4.0)
    await h.wake()
    await h.say(0, 5)
    assert h.one("sessionEnded")["termination"]["reason"] == "timeout"
    assert not h.pieces()


async def test_a_satellite_that_stops_sending_within_a_word_does_not_hold_the_session(house):
    h = house(mqtt_follow_up_s=4.0)
    await h.wake()
    await h.say(0.5)
    await h.clock.advance(5)
    assert h.one("sessionEnded")["termination"]["reason"] == "timeout"


async def test_it_does_not_hear_itself(house):
    h = house(words=6)
    await h.wake()
    await h.say(0.5, 0.5)
    assert h.pieces()
    await h.say(2.0)  # what the loudspeaker plays comes back by the microphone
    await h.clock.advance(4)
    assert len(h.all("textCaptured")) == 1
    assert h.words() == [1, 2, 3, 4, 5, 6]


async def test_with_barge_in_a_person_stops_the_agent_and_history_is_what_was_heard(house):
    h = house(words=30, mqtt_barge_in=True)
    await h.wake()
    await h.say(0.5, 0.5)
    first = h.pieces()[0][0]
    await h.clock.advance(first + 2.6 - h.clock.now())
    await h.say(0.5, 0.5)
    assert len(h.all("textCaptured")) == 2
    (slot,) = h.engine.sessions
    heard = slot.history[-1].text.split()
    assert slot.history[-1].role == "assistant"
    assert len(heard) in (5, 6)  # 2.6 s of words of half a second, and what it took to find that somebody speaks


async def test_a_long_answer_comes_in_pieces_without_gaps_and_cut_where_it_is_quiet(house):
    h = house(words=40)
    await h.wake()
    await h.say(0.5, 0.5)
    await h.clock.advance(25)
    pieces = h.pieces()
    assert h.words() == list(range(1, 41))
    assert len(pieces) > 3
    assert max(len(pcm) for _, pcm in pieces) <= 5 * 16_000
    for (time, pcm), (later, _) in pairwise(pieces):
        assert later - time == pytest.approx(len(pcm) / 16_000, abs=0.03)
    for _, pcm in pieces:
        assert np.abs(pcm[-320:]).max() < 0.01


async def test_a_satellite_that_does_not_tell_when_it_has_played_gets_the_time_it_takes(house):
    h = house(words=40, tells=False)
    await h.wake()
    await h.say(0.5, 0.5)
    await h.clock.advance(30)
    assert h.words() == list(range(1, 41))
    times = [time for time, _ in h.pieces()]
    lengths = [len(pcm) / 16_000 for _, pcm in h.pieces()]
    waits = [later - time - length for time, later, length in zip(times, times[1:], lengths, strict=False)]
    assert waits[0] == pytest.approx(2.0, abs=0.05)  # the first time it might still tell
    assert max(waits[1:]) < 0.05


async def test_a_late_answer_begins_with_a_filler_within_five_seconds(house):
    h = house(words=2, delay=9.0)
    await h.wake()
    await h.say(0.5, 0.5)
    asked = h.clock.now()
    await h.clock.advance(20)
    times = [time for time, _ in h.pieces()]
    assert h.words() == [99, 1, 2]
    assert times[0] - asked < 5


async def test_an_answer_that_fails_is_told_aloud_and_on_the_error_topic(house):
    h = house(words=5, fail_at=3)
    await h.wake()
    await h.say(0.5, 0.5)
    await h.clock.advance(5)
    assert h.words()[-1] == 98
    error = h.one("hermes/error/dialogueManager")
    assert "word 3" in error["error"]
    assert error["sessionId"] == h.one("sessionStarted")["sessionId"]
    assert len(h.all("startListening")) == 2  # and the session goes on


async def test_start_session_says_its_text_first_and_carries_custom_data(house):
    h = house()
    init = {"type": "action", "text": "what can I do"}
    h.tell("hermes/dialogueManager/startSession", siteId="hall", init=init, customData="mine", lang="en")
    await h.clock.advance(3)
    assert h.words("hall") == [1, 2, 3, 4]
    started = h.one("sessionStarted")
    assert (started["customData"], started["lang"]) == ("mine", "en")
    assert h.one("startListening")["sessionId"] == started["sessionId"]
    await h.say(0.5, 0.5, site="hall")
    (slot,) = h.engine.sessions
    assert [(message.role, message.text) for message in slot.history] == [("assistant", "what can I do")]
    await h.clock.advance(15)
    assert h.one("sessionEnded")["customData"] == "mine"


async def test_a_notification_is_spoken_and_ends(house):
    h = house()
    h.tell("hermes/dialogueManager/startSession", init={"type": "notification", "text": "tea is ready"})
    await h.clock.advance(3)
    assert h.words() == [1, 2, 3]
    assert h.one("sessionEnded")["termination"]["reason"] == "nominal"
    assert not h.all("startListening")


async def test_sessions_queue_up_or_take_over(house):
    h = house()
    await h.wake()
    h.tell("hermes/dialogueManager/startSession", init={"type": "notification", "text": "one"}, customData="queued")
    await h.clock.settle()
    assert h.one("sessionQueued")["customData"] == "queued"
    h.tell("hermes/dialogueManager/startSession", init={"canBeEnqueued": False}, customData="at once")
    await h.clock.advance(0.5)
    assert [end["termination"]["reason"] for end in h.all("sessionEnded")] == ["abortedByUser"]
    assert [start.get("customData") for start in h.all("sessionStarted")] == [None, "at once"]
    await h.clock.advance(15)
    assert [start.get("customData") for start in h.all("sessionStarted")] == [None, "at once", "queued"]
    assert len(h.all("sessionEnded")) == 3


async def test_a_wake_word_stops_an_answer_and_starts_anew(house):
    h = house(words=30)
    await h.wake()
    await h.say(0.5, 0.5)
    await h.clock.advance(1)
    await h.wake()
    await h.clock.advance(1)
    assert h.one("sessionEnded")["termination"]["reason"] == "abortedByUser"
    assert len(h.all("sessionStarted")) == 2
    sent = len(h.pieces())
    await h.clock.advance(3)
    assert len(h.pieces()) == sent


async def test_a_skill_continues_and_ends_a_session(house):
    h = house(words=2)
    await h.wake()
    session = h.one("sessionStarted")["sessionId"]
    await h.say(0.5, 0.5)
    await h.clock.advance(3)
    h.tell("hermes/dialogueManager/continueSession", sessionId=session, text="which room do you mean")
    await h.clock.advance(4)
    assert h.words() == [1, 2, 1, 2, 3, 4, 5]
    await h.say(0.5, 0.5)
    (slot,) = h.engine.sessions
    assert [(message.role, message.text) for message in slot.history] == [
        ("user", "hello"),
        ("assistant", "one two which room do you mean"),
    ]
    await h.clock.advance(3)
    h.tell("hermes/dialogueManager/endSession", sessionId=session, text="good night")
    await h.clock.advance(3)
    assert h.words()[-2:] == [1, 2]
    assert h.one("sessionEnded")["termination"]["reason"] == "nominal"
    h.tell("hermes/dialogueManager/endSession", sessionId=session)
    await h.clock.settle()
    assert h.one("error/dialogueManager")["error"] == "there is no such session"


async def test_noise_is_told_as_not_recognised_to_who_asked_for_it(house):
    h = house(transcript="")
    h.tell("hermes/dialogueManager/startSession", init={"sendIntentNotRecognized": True}, customData="c")
    await h.clock.settle()
    await h.say(0.5, 0.5)
    await h.clock.advance(1)
    assert h.one("intentNotRecognized")["sessionId"] == h.one("sessionStarted")["sessionId"]
    assert not h.all("textCaptured")
    assert not h.pieces()


async def test_a_button_ends_the_turn(house):
    h = house()
    await h.wake()
    session = h.one("sessionStarted")["sessionId"]
    await h.say(0.5)
    h.tell("hermes/asr/stopListening", siteId="default", sessionId=session)
    await h.clock.settle()
    assert h.one("textCaptured")["text"] == "hello"


async def test_asr_is_toggled_off_and_on_by_reasons(house):
    h = house()
    await h.wake()
    h.tell("hermes/asr/toggleOff", reason="ttsSay")
    h.tell("hermes/asr/toggleOff", reason="playAudio")
    h.tell("hermes/asr/toggleOn", reason="ttsSay")
    await h.say(0.5, 0.5)
    assert not h.all("textCaptured")
    h.tell("hermes/asr/toggleOn", reason="playAudio")
    await h.say(0.5, 0.5)
    assert len(h.all("textCaptured")) == 1


async def test_several_sites_at_once_and_a_refusal_when_it_is_full(house):
    h = house(words=5, slots=2)
    for site in ("kitchen", "hall", "attic"):
        await h.wake(site)
    await h.clock.advance(0.2)
    assert h.one("sessionEnded")["termination"]["reason"] == "error"
    assert h.one("sessionEnded")["siteId"] == "attic"
    assert "slots are taken" in h.one("error/dialogueManager")["error"]
    await h.say(0.5, site="kitchen")
    await h.say(0.5, site="hall")
    for site in ("kitchen", "hall"):
        await h.say(0, 0.5, site=site)
    await h.clock.advance(4)
    assert h.words("kitchen") == h.words("hall") == [1, 2, 3, 4, 5]
    assert {message["siteId"] for message in h.all("textCaptured")} == {"kitchen", "hall"}
    await h.wake("garden")
    assert h.all("sessionStarted", "garden")


async def test_sites_of_others_are_left_alone(house):
    h = house(mqtt_sites=["kitchen"])
    await h.wake("hall")
    h.tell("hermes/tts/say", siteId="hall", text="hello")
    await h.clock.advance(1)
    assert not h.sent
    await h.wake("kitchen")
    assert h.all("sessionStarted", "kitchen")


async def test_a_session_waits_for_a_broker_that_comes_back_and_loses_nothing(house):
    h = house(words=20)
    await h.wake()
    await h.say(0.5, 0.5)
    await h.clock.advance(4)
    before = len(h.pieces())
    h.connected = False
    await h.clock.advance(20)
    assert len(h.pieces()) == before
    h.reconnect()
    await h.clock.advance(12)
    assert h.words() == list(range(1, 21))
    await h.say(0.5, 0.5)
    assert len(h.all("textCaptured")) == 2
    assert not h.all("sessionEnded")


async def test_a_session_whose_broker_stays_away_ends_and_says_why(house):
    h = house(words=20)
    await h.wake()
    await h.say(0.5, 0.5)
    await h.clock.advance(3)
    h.connected = False
    await h.clock.advance(40)
    assert h.engine.in_use == 0
    h.reconnect()
    termination = h.one("sessionEnded")["termination"]
    assert termination["reason"] == "error"
    assert "broker" in termination["error"]


async def test_a_server_that_stops_ends_its_sessions(house):
    h = house()
    await h.wake()
    await h.door.close()
    assert h.one("sessionEnded")["termination"] == {"reason": "error", "error": "the server stops"}
    assert h.engine.in_use == 0
