"""A Wyoming door on a free port, with a fake engine behind it, and the protocol's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from wyoming.client import AsyncTcpClient
from wyoming.event import Event

from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.agent.speech import Phrases
from speechgpt_gen.agent.voices import VoiceBook
from speechgpt_gen.agent.wyoming.door import WyomingDoor
from speechgpt_gen.streaming.clock import Clock, RealClock
from speechgpt_gen.streaming.engine.fake import FakeEngine


class Service:
    """One open door."""

    def __init__(self, engine: FakeEngine, door: WyomingDoor, phrases: Phrases) -> None:
        self.engine, self.door, self.phrases = engine, door, phrases

    def connect(self) -> AsyncTcpClient:
        """A client, to be entered."""
        return AsyncTcpClient("127.0.0.1", self.door.port, read_timeout=60)

    async def ask(self, *events: Event) -> list[Event]:
        """Send events on a connection of their own, as Home Assistant does; returns what comes of it."""
        async with self.connect() as client:
            for event in events:
                await client.write_event(event)
            return await replies(client)


LAST = {"transcript", "audio-stop", "handled", "not-handled", "error", "info", "pong", "synthesize-stopped"}


async def replies(client: AsyncTcpClient, last: set[str] | None = None) -> list[Event]:
    """Events up to one that ends a request."""
    found = []
    while (event := await client.read_event()) is not None:
        found.append(event)
        if event.type in (last or LAST):
            break
    return found


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Service]]]:
    """await serve(engine=None, clock=None, **settings): an open door."""
    doors: list[WyomingDoor] = []

    async def start(engine: FakeEngine | None = None, clock: Clock | None = None, **settings: Any) -> Service:
        engine = engine or FakeEngine(words=3)
        phrases = Phrases()
        settings.setdefault("wyoming", "tcp://127.0.0.1:0")
        door = WyomingDoor(VoiceBook(engine, 4), Settings(**settings), clock or RealClock(), phrases)
        await door.open()
        doors.append(door)
        return Service(engine, door, phrases)

    yield start
    for door in doors:
        await door.close()
