"""Clocks: real time for a server, virtual time for a test that must be exact and quick.

Nothing above this module reads the system's clock or calls `asyncio.sleep` for a delay; it asks the clock it was given.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable
from typing import Protocol, TypeVar

T = TypeVar("T")

ROUNDS = 10_000
"""Passes of the event loop after which tasks that never wait count as a busy loop."""


class Clock(Protocol):
    """Time in seconds from an arbitrary origin; it never goes backwards."""

    def now(self) -> float:
        """Seconds since the clock's origin."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait until `now()` has grown by `seconds`; zero or less gives way to other tasks once."""
        ...


class RealClock:
    """The machine's monotonic clock and asyncio's sleep."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))


async def within(clock: Clock, seconds: float, awaitable: Awaitable[T]) -> T:
    """Await something for at most `seconds` of a clock; then it is cancelled. Raises TimeoutError."""
    work = asyncio.ensure_future(awaitable)
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({work, timer}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise TimeoutError
        return work.result()
    finally:
        timer.cancel()
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


class VirtualClock:
    """A clock that moves only when it is told to (`advance`), or when everything waits (`run`).

    Sleepers wake in the order of their deadlines, those of one deadline in the order in which they fell asleep, and
    every consequence of one wake-up is worked off before the next, so that a run is the same each time.
    It sees the tasks of its event loop, not other threads: code under test that computes on a thread must be
    awaited in some other way.

    Args:
        start: the first value of `now()`, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), waiter))
        await waiter

    async def settle(self) -> None:
        """Let every task run until all of them wait; time stands still.

        Raises:
            RuntimeError: some task never waits.
        """
        loop = asyncio.get_running_loop()
        quiet = 0
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
            # A loop shows no public sign that nothing is ready to run. Two quiet passes: the pass between them
            # has also polled the sockets.
            quiet = quiet + 1 if not loop._ready else 0  # type: ignore[attr-defined]
            if quiet == 2:
                return
        raise RuntimeError(f"some task was still running after {ROUNDS} passes of the event loop: it never waits")

    async def advance(self, seconds: float) -> None:
        """Move time by `seconds`, waking every sleeper on the way at its own instant."""
        until = self._now + seconds
        await self.settle()
        while (deadline := self._next()) is not None and deadline <= until:
            await self._wake()
        self._now = until
        await self.settle()

    async def run(self, awaitable: Awaitable[T], *, limit: float = 3600.0) -> T:
        """Await something while time jumps to the next deadline whenever everything waits.

        Args:
            awaitable: a coroutine or future; it is cancelled if this fails.
            limit: seconds of virtual time it may take.

        Raises:
            TimeoutError: it takes more than `limit` seconds of virtual time.
            RuntimeError: everything waits, but for something that is not time: it would wait for ever.
        """
        until = self._now + limit
        task = asyncio.ensure_future(awaitable)
        try:
            while True:
                await self.settle()
                if task.done():
                    return task.result()
                deadline = self._next()
                if deadline is None:
                    raise RuntimeError("everything waits and nobody sleeps: this would wait for ever")
                if deadline > until:
                    raise TimeoutError(f"not done within {limit} s of virtual time")
                await self._wake()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _next(self) -> float | None:
        """The first deadline that somebody still waits for; cancelled sleepers are forgotten here."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    async def _wake(self) -> None:
        deadline, _, waiter = heapq.heappop(self._sleepers)
        self._now = deadline
        waiter.set_result(None)
        await self.settle()
