"""A conversation whose user speaks through a satellite: its sound waits in a bounded queue, its events in another."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from ...streaming.frames import Pcm
from ...streaming.playout import Playout
from ..events import ServerEvent
from ..session.conversation import Conversation
from .desk import Desk

MAX_WAITING = 512
"""Pieces of sound that may wait to be heard; more are lost."""

TICK_S = 0.1


class Line:
    """A conversation on a slot, from `open` to `close`.

    Attributes:
        events: what the conversation tells, and None every 0.1 s.
        playout: the agent's voice, to be pulled.
    """

    def __init__(self, desk: Desk) -> None:
        self.events: asyncio.Queue[ServerEvent | None] = asyncio.Queue()
        self.playout = Playout()
        self._desk = desk
        self._incoming: asyncio.Queue[Pcm | str] = asyncio.Queue(MAX_WAITING)
        self._conversation = Conversation(
            desk.engine,
            desk.settings,
            send=self.events.put_nowait,
            playout=self.playout,
            transport="mqtt",
            clock=desk.clock,
            vad=desk.make_vad(),
        )
        self._talk: asyncio.Task[None] | None = None
        self._work: list[asyncio.Task[None]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, desk: Desk, *changes: dict[str, Any]) -> AsyncIterator[Line]:
        """A line that is open. changes: to the session. Raises EngineFullError, ConfigError."""
        line = cls(desk)
        await line._conversation.open(*changes)
        line._talk = asyncio.create_task(line._conversation.run())
        line._work = [asyncio.create_task(line._feed()), asyncio.create_task(line._tick())]
        try:
            yield line
        finally:
            line._conversation.close("session_ended")
            for task in line._work:
                task.cancel()
            await asyncio.gather(line._talk, *line._work, return_exceptions=True)

    @property
    def ended(self) -> str | None:
        """Why the conversation is over, None while it lasts."""
        if self._talk is not None and self._talk.done():
            return self._conversation.reason or "failed"
        return None

    def hear(self, pcm: Pcm) -> bool:
        """The user's sound, (N,) at 16 kHz; False when it was lost because too much waits."""
        return self._put(pcm)

    def send(self, type: str, **fields: Any) -> bool:
        """A client event of the Realtime protocol, behind what came before it; False when it was lost likewise."""
        return self._put(json.dumps({"type": type, **fields}))

    def _put(self, what: Pcm | str) -> bool:
        try:
            self._incoming.put_nowait(what)
        except asyncio.QueueFull:
            return False
        return True

    async def _feed(self) -> None:
        """Bring what came to the conversation, no faster than it works it off."""
        while True:
            what = await self._incoming.get()
            if isinstance(what, str):
                self._conversation.receive(what)
            else:
                self._conversation.hear(what)
            await self._conversation.settled()

    async def _tick(self) -> None:
        while True:
            await self._desk.clock.sleep(TICK_S)
            self.events.put_nowait(None)
