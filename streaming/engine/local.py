"""The engine on this machine: one thread for the language model, one for the sound, a queue of units between them."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...models.audio import SAMPLE_RATE
from ...models.bundle import Bundle, load_bundle
from ...models.errors import AudioError, ConfigError, EngineError, EngineFullError
from ...models.generation import Listener, Speaker, make_voice
from ...models.semantic.pieces import Unit
from .generation import LocalGeneration
from .listening import ListeningThread
from .one_at_a_time import OneAtATime
from .protocol import EngineInfo, Message, Request, Voice
from .slots import Answer, Command, Listen, Slot, Turn, one_line
from .speaking import SpeakingThread

T = TypeVar("T")


class LocalEngine:
    """Engine over a bundle.

    bundle: a loaded one, or the name or folder of one, which `start` loads to `device` in `precision` (see
    `load_bundle`; by default int8 on the CPU, bfloat16 elsewhere). slots: conversations at a time; each reserves a
    key/value cache. now: seconds, monotonic; only the pacing of long answers and the timings ask it.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        slots: int = 2,
        *,
        device: str = "cpu",
        precision: str | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if slots < 1:
            raise ConfigError(f"an engine of {slots} slots serves nobody: give at least 1")
        self._source = bundle
        self._count = slots
        self._device = device
        self._precision = precision or ("int8" if device == "cpu" else "bfloat16")
        self._now = now
        self._ids = count(1)
        self._parts: Parts | None = None
        self._free: list[Slot] = []
        self._sessions: set[LocalSession] = set()

    @property
    def info(self) -> EngineInfo:
        bundle = self._running.bundle
        return EngineInfo(bundle.info.name, self._count, tuple(bundle.voices))

    @property
    def device(self) -> torch.device:
        """Where the models are, or will be."""
        return self._source.device if isinstance(self._source, Bundle) else torch.device(self._device)

    @property
    def in_use(self) -> int:
        return len(self._sessions)

    async def start(self) -> None:
        if self._parts is None:
            self._parts = await asyncio.to_thread(self._build)
            self._free = list(self._parts.slots)

    async def stop(self) -> None:
        for session in list(self._sessions):
            await session.close()
        if self._parts is not None:
            parts, self._parts, self._free = self._parts, None, []
            await asyncio.to_thread(parts.stop)

    async def open(self, *, voice: str | Voice | None = None) -> LocalSession:
        bundle = self._running.bundle
        chosen = bundle.voice(voice)
        if not self._free:
            raise EngineFullError(f"all {self._count} slots are taken: try again when somebody has hung up")
        session = LocalSession(self, self._free.pop(), chosen)
        self._sessions.add(session)
        return session

    async def make_voice(self, pcm: NDArray[np.float32], name: str) -> Voice:
        parts = self._running
        return await asyncio.wrap_future(parts.speaking.call(lambda: make_voice(parts.bundle, pcm, name)))

    # For the sessions.

    def voice(self, voice: str | Voice) -> Voice:
        """A voice by name. Raises ConfigError."""
        return self._running.bundle.voice(voice)

    def send(self, slot: Slot, command: Command) -> None:
        """Queue a command; a new turn makes those before it void."""
        with slot.changed:
            if isinstance(command, Turn):
                slot.inbox.clear()
            slot.inbox.append(command)
            slot.changed.notify()

    def generation(self, request: Request, slot: Slot) -> LocalGeneration:
        """A new generation that wakes the threads when it is cancelled."""
        return LocalGeneration(next(self._ids), request, self._now, lambda: self._cancelled(slot))

    def release(self, session: LocalSession, slot: Slot) -> None:
        """Take a slot back; what its threads still do for it is void."""
        self._sessions.discard(session)
        self.send(slot, Turn())
        self._free.append(slot)

    def _cancelled(self, slot: Slot) -> None:
        with slot.changed:
            slot.changed.notify()
        if (parts := self._parts) is not None:
            parts.speaking.forget()

    @property
    def _running(self) -> Parts:
        if self._parts is None:
            raise EngineError("the engine is not running: start it first")
        return self._parts

    def _build(self) -> Parts:
        bundle = self._source
        if not isinstance(bundle, Bundle):
            bundle = load_bundle(bundle, self._device, self._precision)
        if bundle.device.type == "cpu":
            # Threads of one core each: with more, OpenMP's barriers make each wait for the other's cores.
            torch.set_num_threads(1)
        return self._assemble(bundle)

    def _assemble(self, bundle: Bundle) -> Parts:
        """Threads and slots over a bundle, warmed up and running."""
        turns, changed = OneAtATime(), threading.Condition()
        speaking = SpeakingThread(Speaker(bundle), turns)
        slots = [Slot(bundle, speaking.speak, self._now, changed) for _ in range(self._count)]
        listening = ListeningThread(slots, changed, self._now, turns if bundle.device.type == "cpu" else None)
        parts = Parts(bundle, slots, [listening], speaking)
        warm_up(bundle, Listener(bundle), Speaker(bundle).open(bundle.voice(None), 0).speak)
        parts.start()
        return parts


class Sounding(Protocol):
    """A thread that makes sound: SpeakingThread, or its batch twin."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def call(self, function: Callable[[], T]) -> Future[T]: ...

    def forget(self) -> None: ...


class Stoppable(Protocol):
    """A thread."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Parts:
    """What exists while the engine runs. others: threads that the listening ones wait for, so they stop first."""

    def __init__(
        self,
        bundle: Bundle,
        slots: Sequence[Slot],
        listening: Sequence[ListeningThread],
        speaking: Sounding,
        others: Sequence[Stoppable] = (),
    ) -> None:
        self.bundle = bundle
        self.slots = slots
        self.speaking = speaking
        self._threads = (*others, *listening, speaking)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        for thread in self._threads:
            thread.stop()


class LocalSession:
    """One slot of a LocalEngine."""

    def __init__(self, engine: LocalEngine, slot: Slot, voice: Voice) -> None:
        self._engine = engine
        self._slot: Slot | None = slot
        self._voice = voice
        self._turn = Turn()
        self._generation: LocalGeneration | None = None
        engine.send(slot, self._turn)

    @property
    def heard(self) -> str:
        return self._turn.heard

    def begin_turn(self, history: Sequence[Message]) -> None:
        slot = self._open_slot
        self._cancel()
        self._turn = Turn(tuple(history))
        self._engine.send(slot, self._turn)

    def listen(self, pcm: NDArray[np.float32]) -> None:
        slot = self._open_slot
        pcm = np.array(pcm, dtype=np.float32)  # a copy: the caller may use its buffer again
        if not np.isfinite(pcm).all():
            raise AudioError("the audio holds NaN or infinite samples: repair it first")
        self._engine.send(slot, Listen(pcm))

    def generate(self, request: Request) -> LocalGeneration:
        slot = self._open_slot
        self._cancel()
        seed = secrets.randbits(63) if request.seed is None else request.seed
        self._generation = self._engine.generation(request, slot)
        self._engine.send(slot, Answer(self._generation, self._voice, seed))
        return self._generation

    def set_voice(self, voice: str | Voice) -> None:
        self._voice = self._engine.voice(voice)

    async def close(self) -> None:
        self._cancel()
        if self._slot is not None:
            slot, self._slot = self._slot, None
            self._engine.release(self, slot)

    def _cancel(self) -> None:
        if self._generation is not None:
            self._generation.cancel()

    @property
    def _open_slot(self) -> Slot:
        if self._slot is None:
            raise EngineError("this engine session is closed: open another")
        return self._slot


def warm_up(bundle: Bundle, listener: Listener, speak: Callable[[Sequence[int]], object]) -> None:
    """Hear and say something once: what is broken shows now, and the first listener doesn't pay for first calls.

    speak: makes sound of a block of units and raises an EngineError for numbers that are not finite.
    """
    try:
        noise = 0.01 * np.random.default_rng(0).standard_normal(SAMPLE_RATE)
        listener.listen(noise.astype(np.float32))
        for _ in listener.transcribe():
            pass
        said = listener.say("hello", seed=0)
        units = [piece.index for piece, _ in zip(said, range(40), strict=False) if isinstance(piece, Unit)]
        said.close()
        schedule = bundle.config.blocks
        for length in (schedule.size(0), schedule.longest):
            speak((units + [0] * length)[:length])
    except Exception as error:
        raise EngineError(f"the engine's warm-up failed: {one_line(error)}") from error
