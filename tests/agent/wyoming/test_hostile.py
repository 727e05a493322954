"""Hostile Wyoming messages, made from the protocol's own shapes: each gets an error, and nobody else notices."""

import asyncio
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event, async_read_event
from wyoming.ping import Ping

from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.agent.speech import Phrases
from speechgpt_gen.agent.voices import VoiceBook
from speechgpt_gen.agent.wyoming.door import WyomingDoor
from speechgpt_gen.agent.wyoming.speaking import MAX_TEXT
from speechgpt_gen.agent.wyoming.wire import MAX_DATA, MAX_LINE
from speechgpt_gen.streaming.clock import RealClock
from speechgpt_gen.streaming.engine.fake import FakeEngine

MAX_PAYLOAD = 5000
FORMAT = {"rate": 16_000, "width": 2, "channels": 1}

junk: st.SearchStrategy[Any] = st.one_of(
    st.integers(), st.floats(allow_nan=True), st.booleans(), st.lists(st.integers(), max_size=3), st.just({"a": 1})
)
"""JSON values that are no text."""

numbers = st.one_of(st.just(0), st.integers(max_value=-1), st.integers(min_value=10**6), st.text(max_size=4), st.none())
"""What no rate, width or number of channels can be."""


def event(type: object, data: object = None, payload: bytes = b"", **more: Any) -> bytes:
    """An event as bytes, whatever it holds."""
    header = {"type": type, "data": data, "payload_length": len(payload) or None, **more}
    return json.dumps(header).encode() + b"\n" + payload


def is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def broken_format(form: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A chunk whose sound cannot be: after a start that is right."""
    start = event("audio-start", FORMAT)
    return st.tuples(st.sampled_from(sorted(FORMAT)), numbers).map(
        lambda wrong: start + event("audio-chunk", {**form, wrong[0]: wrong[1]}, b"\0\0")
    )


bad_framing = st.one_of(
    st.binary(max_size=60).map(lambda line: line.replace(b"\n", b" ") + b"\n").filter(lambda line: not is_object(line)),
    st.just(b"[" * 40_000 + b"\n"),
    st.just(b"x" * (MAX_LINE + 10)),
    st.tuples(
        st.sampled_from(["data_length", "payload_length"]), st.integers(min_value=2**25) | st.integers(max_value=-1)
    ).map(lambda length: event("describe", **{length[0]: length[1]})),
    st.tuples(st.sampled_from(["data_length", "payload_length"]), st.text(max_size=3) | st.booleans()).map(
        lambda length: event("ping", **{length[0]: length[1]})
    ),
    st.binary(min_size=1, max_size=30)
    .filter(lambda data: not is_object(data))
    .map(lambda data: event("ping", data_length=len(data)) + data),
    st.just(event("describe", data_length=MAX_DATA + 1)),
    st.just(event("audio-chunk", FORMAT, b"\0" * (MAX_PAYLOAD + 2))),
)

bad_fields = st.one_of(
    (junk | st.none()).map(event),
    st.tuples(
        st.sampled_from(["describe", "ping", "synthesize"]), st.text() | st.integers() | st.lists(st.integers())
    ).map(lambda pair: event(*pair)),
    st.text(min_size=1, max_size=200).map(lambda name: event(f"x-{name}")),
    st.sampled_from(["detect", "recognize", "run-pipeline", "run-satellite", "detection"]).map(event),
    st.sampled_from(["audio-stop", "synthesize-stop"]).map(event),
    st.just(event("audio-chunk", FORMAT, b"\0\0")),
    st.just(event("synthesize-chunk", {"text": "hello"})),
    st.just(2 * event("synthesize-start", {})),
    st.tuples(st.sampled_from(["synthesize", "transcript"]), junk | st.none()).map(
        lambda pair: event(pair[0], {"text": pair[1]})
    ),
    junk.map(lambda text: event("synthesize-start", {}) + event("synthesize-chunk", {"text": text})),
    junk.map(lambda text: event("ping", {"text": text})),
    junk.map(lambda name: event("transcribe", {"language": name})),
    (junk | st.just({"name": 3}) | st.text(min_size=1).map(lambda name: {"name": f"no {name}"})).map(
        lambda voice: event("synthesize", {"text": "hello", "voice": voice or 1})
    ),
    st.just(event("synthesize", {"text": "<speak>hi</speak>", "text_format": "ssml"})),
    st.text(alphabet=" .,!?\n", max_size=20).map(lambda text: event("synthesize", {"text": text})),
    st.just(event("synthesize", {"text": "a" * (MAX_TEXT + 1)})),
    st.just(event("synthesize-start", {}) + 3 * event("synthesize-chunk", {"text": "a" * (MAX_TEXT // 2)})),
    (st.integers(min_value=1) | st.lists(st.integers(), min_size=1)).map(
        lambda name: event("transcript", {"text": "hi", "context": {"conversation_id": name}})
    ),
    st.just(event("transcript", {"text": "hi", "context": {"conversation_id": "x" * 600}})),
    st.tuples(st.sampled_from(sorted(FORMAT)), numbers).map(
        lambda wrong: event("audio-start", {**FORMAT, wrong[0]: wrong[1]})
    ),
    broken_format(FORMAT),
    st.just(event("audio-start", FORMAT) + event("audio-chunk", {**FORMAT, "rate": 17}, b"\0\0")),
    st.just(event("audio-start", FORMAT) + event("audio-chunk", {**FORMAT, "width": 9}, b"\0" * 9)),
    st.just(event("audio-start", FORMAT) + event("audio-chunk", {**FORMAT, "channels": 99}, b"\0" * 198)),
    st.just(event("audio-start", FORMAT) + 10 * event("audio-chunk", FORMAT, b"\0" * 4800)),
)


class Target:
    """A door under attack, and a client that only wants to be answered."""

    async def open(self) -> None:
        self.engine = FakeEngine(words=2)
        config = Settings(wyoming="tcp://127.0.0.1:0", max_event_bytes=MAX_PAYLOAD, max_turn_s=1.0)
        self.door = WyomingDoor(VoiceBook(self.engine, 2), config, RealClock(), Phrases())
        await self.door.open()
        self.bystander = AsyncTcpClient("127.0.0.1", self.door.port, read_timeout=60)
        await self.bystander.connect()

    async def close(self) -> None:
        await self.bystander.disconnect()
        await self.door.close()

    async def strike(self, message: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.door.port)
        writer.write(message)
        async with asyncio.timeout(60):
            while (answer := await async_read_event(reader)) is not None and answer.type != "error":
                pass
        assert answer is not None, "the connection ended without a word"
        assert answer.data["code"] != "internal"
        assert answer.data["text"]
        assert "\n" not in answer.data["text"]
        writer.close()
        await self.bystander.write_event(Ping("here").event())
        pong = await self.bystander.read_event()
        assert pong is not None
        assert pong.data == {"text": "here"}

    async def still_works(self) -> None:
        async with AsyncTcpClient("127.0.0.1", self.door.port, read_timeout=60) as client:
            for sent in (AudioStart(**FORMAT), AudioChunk(**FORMAT, audio=b"\0" * 4000), AudioStop()):
                await client.write_event(sent.event())
            answer: Event | None = None
            while answer is None or answer.type != "transcript":
                answer = await client.read_event()
                assert answer is not None
        async with asyncio.timeout(60):
            while self.engine.in_use:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def test_two_hundred_hostile_messages_each_get_an_error_and_others_notice_nothing():
    with asyncio.Runner() as runner:
        target = Target()
        runner.run(target.open())

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(bad_framing | bad_fields)
        def attack(message: bytes) -> None:
            runner.run(target.strike(message))

        try:
            attack()
            runner.run(target.still_works())
        finally:
            runner.run(target.close())
