"""Conversation in text for Wyoming: each request comes on a connection of its own and names its conversation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator

from ...models.errors import EngineError
from ...models.semantic.pieces import Message
from ...streaming.clock import Clock
from ...streaming.engine.protocol import Engine, Finished, Request, Text
from ..settings import Settings

REMEMBERED = 256
"""Conversations kept in memory; the least recently used goes."""


class Conversations:
    """What was said in each conversation, while it is remembered: `idle_timeout_s` after its last words."""

    def __init__(self, engine: Engine, settings: Settings, clock: Clock) -> None:
        self._engine, self._settings, self._clock = engine, settings, clock
        self._known: OrderedDict[str, tuple[float, tuple[Message, ...]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    async def answer(self, text: str, conversation: str | None) -> AsyncIterator[str]:
        """The answer to a text in pieces; both are remembered when it is whole. Raises EngineError, EngineFullError."""
        settings = self._settings
        history = self._recall(conversation)
        system = (Message("system", settings.instructions),) if settings.instructions.strip() else ()
        slot = await self._engine.open()
        said = ""
        try:
            slot.begin_turn((*system, *history[max(0, len(history) - 2 * settings.shown_turns) :]))
            generation = slot.generate(Request("reply", text, speak=False, max_seconds=settings.max_answer_s))
            async for output in generation:
                if isinstance(output, Text):
                    said += output.text
                    yield output.text
                elif isinstance(output, Finished) and output.reason in ("failed", "cancelled"):
                    raise EngineError(output.error or "the engine has stopped this answer")
        finally:
            await slot.close()
        if conversation is not None and said.strip():
            self._keep(conversation, (*history, Message("user", text), Message("assistant", said.strip())))

    def _recall(self, conversation: str | None) -> tuple[Message, ...]:
        now = self._clock.now()
        while self._known and now - next(iter(self._known.values()))[0] > self._settings.idle_timeout_s:
            self._known.popitem(last=False)
        return self._known.get(conversation or "", (now, ()))[1]

    def _keep(self, conversation: str, history: tuple[Message, ...]) -> None:
        self._known[conversation] = (self._clock.now(), history[-2 * max(1, self._settings.shown_turns) :])
        self._known.move_to_end(conversation)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
