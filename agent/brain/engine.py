"""An engine that thinks elsewhere: the inner engine hears and speaks, a chat model decides what is said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from ...streaming.clock import Clock
from ...streaming.engine.generation import LocalGeneration
from ...streaming.engine.protocol import Engine, EngineInfo, EngineSession, Message, Request, Voice
from ...streaming.frames import Pcm
from .chat import ChatModel
from .thinking import Thinking

log = logging.getLogger(__name__)


class BrainEngine:
    """An engine around another one: its replies come from `brain`. All else the inner engine does as ever."""

    def __init__(self, engine: Engine, brain: ChatModel, clock: Clock) -> None:
        self.brain = brain
        self._engine, self._clock = engine, clock
        self._ids = count(1)

    @property
    def info(self) -> EngineInfo:
        """The inner engine's; this one can call functions."""
        return replace(self._engine.info, calls=True)

    @property
    def in_use(self) -> int:
        """Slots taken now."""
        return self._engine.in_use

    async def start(self) -> None:
        """Start the inner engine. The brain need not be there yet."""
        await self._engine.start()
        log.info("%s thinks", self.brain.where)

    async def stop(self) -> None:
        """Stop the inner engine and hang up on the brain."""
        await self._engine.stop()
        await self.brain.close()

    async def open(self, *, voice: str | Voice | None = None) -> EngineSession:
        """Take a slot of the inner engine."""
        return _Session(await self._engine.open(voice=voice), self.brain, self._clock, self._ids)

    async def make_voice(self, pcm: Pcm, name: str) -> Voice:
        """A voice of the inner engine."""
        return await self._engine.make_voice(pcm, name)


class _Session:
    """A slot whose answers are thought elsewhere."""

    def __init__(self, slot: EngineSession, brain: ChatModel, clock: Clock, ids: count[int]) -> None:
        self._slot, self._brain, self._clock, self._ids = slot, brain, clock, ids
        self._history: tuple[Message, ...] = ()
        self._samples = 0
        self._generation: LocalGeneration | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def heard(self) -> str:
        return self._slot.heard

    def begin_turn(self, history: Sequence[Message]) -> None:
        self._cancel()
        self._history, self._samples = tuple(history), 0
        # Hearing needs no history, and the inner model was not trained on one as long as a brain can use.
        self._slot.begin_turn(())

    def listen(self, pcm: Pcm) -> None:
        self._slot.listen(pcm)
        self._samples += len(pcm)

    def generate(self, request: Request) -> LocalGeneration:
        self._cancel()
        loop, tasks = asyncio.get_running_loop(), list[asyncio.Task[None]]()

        def cancelled() -> None:
            loop.call_soon_threadsafe(tasks[0].cancel)

        generation = LocalGeneration(next(self._ids), request, self._clock.now, cancelled)
        thinking = Thinking(self._slot, self._brain, self._clock, generation)
        task = asyncio.create_task(thinking.run(self._history, heard=self._samples > 0))
        tasks.append(task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._generation = generation
        return generation

    def set_voice(self, voice: str | Voice) -> None:
        self._slot.set_voice(voice)

    async def close(self) -> None:
        self._cancel()
        await self._slot.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cancel(self) -> None:
        if self._generation is not None:
            self._generation.cancel()
