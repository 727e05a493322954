"""One answer between the engine's threads and the event loop: a mailbox that closes once."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from ...models.audio import HOP, SAMPLE_RATE
from .protocol import Audio, Finished, FinishReason, Output, Request


class LocalGeneration:
    """What the models' threads `put` and the event loop iterates.

    Whoever ends it first, wins: `finish` from a thread lets the outputs before it through, `cancel` drops them.
    now: seconds, monotonic; changed: called (on any thread) when the generation is cancelled.
    """

    def __init__(self, number: int, request: Request, now: Callable[[], float], changed: Callable[[], None]) -> None:
        self.id = number
        self.request = request
        self._now = now
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._filled = asyncio.Event()
        self._lock = threading.Lock()
        self._outputs: deque[Output] = deque()
        self._end: tuple[FinishReason, str | None] | None = None
        self._began = now()
        self._timings: dict[str, float] = {}
        self._parts: dict[str, float] = {}
        self._frames = 0
        self.audible_since: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will be let through; the threads ask before every token and every block."""
        return self._end is not None

    def mark(self, name: str) -> None:
        """Note when something happened for the first time."""
        self._timings.setdefault(name, 1000 * (self._now() - self._began))

    def spend(self, part: str, seconds: float) -> None:
        """Note time that went into a part of the work, or into waiting for it; only what the first sound waits for."""
        with self._lock:
            if self.audible_since is None:
                self._parts[part] = self._parts.get(part, 0.0) + 1000 * seconds

    def put(self, output: Output) -> None:
        """Give one output to the listener; after the end it is dropped."""
        with self._lock:
            if self._end is not None:
                return
            if isinstance(output, Audio) and self.audible_since is None:
                self.audible_since = self._now()
                self.mark("first_audio")
            self._outputs.append(output)
        self._wake()

    def finish(self, reason: FinishReason, error: str | None = None) -> None:
        """End after what was put so far. Only the first end counts."""
        self._close(reason, error)

    def cancel(self) -> None:
        if self._close("cancelled", None):
            self._changed()

    def _close(self, reason: FinishReason, error: str | None) -> bool:
        with self._lock:
            if self._end is not None:
                # What is complete but not yet taken can still be cancelled: the listener wants no more of it.
                if reason != "cancelled" or not self._outputs:
                    return False
            else:
                self.mark("total")
            if reason == "cancelled":
                self._outputs.clear()
            self._end = (reason, error)
        self._wake()
        return True

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._filled.set)

    async def __aiter__(self) -> AsyncIterator[Output]:
        while True:
            self._filled.clear()
            while (output := self._take()) is not None:
                yield output
                if isinstance(output, Finished):
                    return
            await self._filled.wait()

    def _take(self) -> Output | None:
        with self._lock:
            if self._outputs:
                output = self._outputs.popleft()
                if isinstance(output, Audio):
                    self._frames = output.end_frame
                return output
            if self._end is None:
                return None
            reason, error = self._end
            spoken = self._frames * HOP / SAMPLE_RATE
            return Finished(reason, error, dict(self._timings), self._frames, spoken, dict(self._parts))
