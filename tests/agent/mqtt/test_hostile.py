"""Hostile Hermes messages, made from the protocol's own shapes: each an error topic, and nobody else notices."""

import asyncio
import io
import json
import wave
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechgpt_gen.agent.mqtt.messages import MAX_JSON, MAX_TEXT
from speechgpt_gen.agent.mqtt.wav import MAX_WAV

junk: st.SearchStrategy[Any] = st.one_of(
    st.integers(), st.booleans(), st.lists(st.integers(), max_size=3), st.just({"a": 1}), st.floats(allow_nan=True)
)
"""JSON values that are no text."""

START, CONTINUE, END = (f"hermes/dialogueManager/{name}Session" for name in ("start", "continue", "end"))
JSON_TOPICS = [
    *(START, CONTINUE, END),
    *("hermes/asr/startListening", "hermes/asr/stopListening", "hermes/asr/toggleOn", "hermes/asr/toggleOff"),
    *("hermes/tts/say", "rhasspy/tts/getVoices", "hermes/hotword/w/detected", "hermes/audioServer/calm/playFinished"),
]
SITED = [topic for topic in JSON_TOPICS if topic.startswith("hermes") and "audioServer" not in topic]
NEEDED: dict[str, Any] = {"init": {}, "sessionId": "s", "text": "hello"}
FRAME = "hermes/audioServer/calm/audioFrame"


def message(topic: str, **fields: Any) -> tuple[str, bytes]:
    return topic, json.dumps(fields).encode()


def is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


bad_names = st.one_of(junk, st.sampled_from(["", "a/b", "+", "#", "a\nb", "\0", "x" * 200]))
bad_json = st.one_of(
    st.binary(max_size=80).filter(lambda data: not is_object(data)),
    st.just(b"[" * 30_000),
    st.just(b'{"a":' * 10_000),
    st.just(b'{"text": "' + b"a" * MAX_JSON + b'"}'),
)

hostile = st.one_of(
    st.tuples(st.sampled_from(JSON_TOPICS), bad_json),
    st.tuples(st.sampled_from(SITED), bad_names).map(lambda pair: message(pair[0], **NEEDED, siteId=pair[1])),
    st.tuples(st.sampled_from([CONTINUE, END]), junk | st.none() | st.text(max_size=20)).map(
        lambda pair: message(pair[0], sessionId=pair[1])
    ),
    (junk.filter(lambda init: init != {"a": 1}) | st.none() | st.text(max_size=5)).map(
        lambda init: message(START, init=init)
    ),
    (junk | st.text(max_size=8).filter(lambda kind: kind not in ("action", "notification"))).map(
        lambda kind: message(START, init={"type": kind})
    ),
    junk.map(lambda text: message(START, init={"text": text})),
    st.just(message(START, init={"text": "a" * (MAX_TEXT + 1)})),
    st.just(message(START, init={}, customData="a" * 9000)),
    (junk | st.none()).map(lambda text: message("hermes/tts/say", text=text)),
    st.just(message("hermes/tts/say", text="a" * (MAX_TEXT + 1))),
    st.text(alphabet=" .,!?\n", max_size=20).map(lambda text: message("hermes/tts/say", text=text)),
    bad_names.map(lambda id: message("hermes/tts/say", text="hello", id=id)),
    (st.floats(min_value=1.01) | st.floats(max_value=-0.01) | st.just("loud")).map(
        lambda volume: message("hermes/tts/say", text="hello", volume=volume)
    ),
    (junk | st.text(min_size=1, max_size=6)).map(lambda reason: message("hermes/asr/toggleOff", reason=reason)),
    junk.map(lambda session: message("hermes/asr/startListening", sessionId=session)),
    st.just(message("hermes/asr/startListening", sessionId="x" * 200)),
    junk.map(lambda id: message("hermes/audioServer/calm/playFinished", id=id)),
    junk.map(lambda model: message("hermes/hotword/w/detected", modelId=model)),
    st.binary(max_size=100).map(lambda data: (FRAME, data)),
    st.just((FRAME, b"\0" * (MAX_WAV + 1))),
)


def wav(rate: int, channels: int, frames: int) -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\0" * (2 * channels * frames))
    return target.getvalue()


strange_wavs = st.one_of(
    st.tuples(st.integers(1, 3999) | st.integers(400_000, 2**31 - 1), st.just(1), st.integers(0, 50)),
    st.tuples(st.just(16_000), st.integers(9, 500), st.integers(0, 50)),
).map(lambda form: (FRAME, wav(*form)))


def test_two_hundred_hostile_messages_each_get_an_error_and_others_notice_nothing(house_class):
    with asyncio.Runner() as runner:
        h = runner.run(make(house_class))

        async def strike(topic: str, payload: bytes) -> None:
            before = len([name for _, name, _ in h.sent if name.startswith("hermes/error/")])
            await h.clock.advance(1.0)
            h.door.take(topic, payload)
            await h.clock.advance(0.1)
            errors = [json.loads(data) for _, name, data in h.sent if name.startswith("hermes/error/")][before:]
            assert len(errors) == 1, f"{len(errors)} errors for {topic} {payload[:200]!r}"
            assert "\n" not in errors[0]["error"]
            assert "inside the server" not in errors[0]["error"]

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(hostile | strange_wavs)
        def attack(struck: tuple[str, bytes]) -> None:
            runner.run(strike(*struck))

        try:
            attack()
            runner.run(works(h))
        finally:
            runner.run(h.door.close())


async def make(house_class):
    """A house in which one site has a session all the while."""
    from speechgpt_gen.streaming.clock import VirtualClock
    from speechgpt_gen.streaming.engine.fake import FakeEngine

    clock = VirtualClock()
    # In the session of the site called calm nothing is said: its patience has to outlast the attack.
    long = {"mqtt_follow_up_s": 600.0, "idle_timeout_s": 600.0}
    h = house_class(FakeEngine(words=2, clock=clock), clock, **long)
    await h.wake("calm")
    return h


async def works(h) -> None:
    """The session of the one site goes on."""
    assert [start["siteId"] for start in h.all("sessionStarted")] == ["calm"]
    assert not h.all("sessionEnded")
    await h.say(0.5, 0.6, site="calm")
    await h.clock.advance(2)
    assert h.one("textCaptured", "calm")["text"] == "hello"
    assert h.words("calm") == [1, 2]
    assert h.engine.in_use == 1
