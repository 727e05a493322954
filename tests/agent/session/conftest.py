"""A caller with a virtual clock: speaks, sends events, keeps what comes back and when, and listens like a client."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from speechgpt_gen.agent.events import ServerEvent
from speechgpt_gen.agent.session.conversation import Conversation
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.streaming.clock import VirtualClock
from speechgpt_gen.streaming.engine.fake import FakeEngine
from speechgpt_gen.streaming.engine.tones import decode_words
from speechgpt_gen.streaming.playout import Playout

Pcm = NDArray[np.float32]


class EnergyVad:
    """Speech is what is loud: exact to the frame."""

    window: ClassVar[int] = 320

    def speech(self, pcm: Pcm) -> float:
        return float(np.abs(pcm).max() > 0.01)

    def reset(self) -> None:
        """Remembers nothing."""


class Caller:
    """One conversation with a FakeEngine, and everything the client saw of it."""

    def __init__(self, engine: FakeEngine, clock: VirtualClock, transport: str = "websocket", **settings: Any) -> None:
        self.engine, self.clock = engine, clock
        self.seen: list[tuple[float, dict[str, Any]]] = []
        self.playout = Playout()
        self.conversation = Conversation(
            engine,
            Settings(**settings),
            send=self._saw,
            playout=self.playout,
            transport=transport,  # type: ignore[arg-type]
            clock=clock,
            vad=EnergyVad(),
        )
        self.task = asyncio.ensure_future(self.conversation.run())

    def _saw(self, event: ServerEvent) -> None:
        self.seen.append((self.clock.now(), json.loads(event.to_json())))

    async def say(self, *parts: float) -> None:
        """Speak, pause, speak, ...: seconds of each, in steps of 20 ms."""
        for index, seconds in enumerate(parts):
            for _ in range(round(seconds * 50)):
                self.conversation.hear(np.full(320, 0.0 if index % 2 else 0.1, np.float32))
                await self.clock.advance(0.02)

    async def listen(self, seconds: float) -> None:
        """Say nothing for a while."""
        await self.say(0, seconds)

    async def send(self, type: str, **fields: Any) -> None:
        """Send one event and let it be worked off."""
        await self.raw(json.dumps({"type": type, **fields}))

    async def raw(self, message: str) -> None:
        """Send any text as an event."""
        self.conversation.receive(message)
        await self.clock.settle()

    async def append(self, seconds: float, level: float = 0.1) -> None:
        """Append sound by events, 24 kHz."""
        pcm = np.full(round(seconds * 24_000), round(level * 32767), "<i2")
        await self.send("input_audio_buffer.append", audio=base64.b64encode(pcm.tobytes()).decode())

    async def manual(self, **session: Any) -> None:
        """Turn the detection of turns off."""
        await self.send("session.update", session={"audio": {"input": {"turn_detection": None}}, **session})

    async def text(self, text: str) -> None:
        """Add a typed item."""
        content = [{"type": "input_text", "text": text}]
        await self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})

    @property
    def types(self) -> list[str]:
        """Types of the events so far, repeated ones once."""
        return [name for name, _ in groupby(event["type"] for _, event in self.seen)]

    def all(self, type: str) -> list[dict[str, Any]]:
        """Events of a type."""
        return [event for _, event in self.seen if event["type"] == type]

    def one(self, type: str) -> dict[str, Any]:
        """The only event of a type."""
        (event,) = self.all(type)
        return event

    def at(self, type: str) -> float:
        """When the first event of a type came."""
        return next(time for time, event in self.seen if event["type"] == type)

    @property
    def answers(self) -> list[tuple[str, str]]:
        """(status, words) of the answers that are done."""
        found = []
        for event in self.all("response.done"):
            (item,) = event["response"]["output"]
            part = item["content"][0]
            found.append((event["response"]["status"], part.get("transcript", part.get("text"))))
        return found

    @property
    def history(self) -> list[tuple[str, str]]:
        """What the engine was shown at its last turn."""
        (session,) = self.engine.sessions
        return [(message.role, message.text) for message in session.history]

    def audible(self, until: float) -> list[int]:
        """Numbers of the words that a client which plays what it gets, at once and without gaps, played until then."""
        played = np.zeros(round(until * 24_000) + 24_000, np.float32)
        end = 0
        for time, event in self.seen:
            if event["type"] == "response.output_audio.delta" and time <= until:
                pcm = np.frombuffer(base64.b64decode(event["delta"]), "<i2").astype(np.float32) / 32768
                begin = max(end, round(time * 24_000))
                end = begin + len(pcm)
                played[begin : min(end, len(played))] = pcm[: max(0, len(played) - begin)]
        return decode_words(played[: round(until * 24_000)], 24_000)


Call = Callable[..., Caller]


@pytest.fixture
async def call() -> AsyncIterator[Call]:
    """call(words=10, transcript="hello", delay=0.0, slots=4, pace=0.0, fail_at=None, transport=..., **settings)."""
    callers: list[Caller] = []
    clock = VirtualClock()

    def make(
        words: int = 10,
        transcript: str = "hello",
        delay: float = 0.0,
        pace: float = 0.0,
        fail_at: int | None = None,
        **rest: Any,
    ) -> Caller:
        engine = FakeEngine(words, 4, transcript, delay, pace=pace, clock=clock, fail_at=fail_at)
        callers.append(Caller(engine, clock, **rest))
        return callers[-1]

    yield make
    for caller in callers:
        caller.task.cancel()
        await asyncio.gather(caller.task, return_exceptions=True)


@pytest.fixture(scope="session")
def caller_class() -> type[Caller]:
    """The caller, for tests that make their own event loop."""
    return Caller
