"""What one site plays: sounds one after the other, each sent in pieces while it is still being made.

A piece is a whole WAV; the next is sent when the site says that it has played the last one. Satellites without
`playFinished` are given the time that a piece lasts. Pieces are short, because a piece that was sent cannot be stopped,
and are cut where it is quiet, because players pause between two.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any
from uuid import uuid4

import numpy as np

from ...streaming.clock import Clock, within
from ...streaming.frames import FRAME, Pcm, samples, seconds
from .desk import Desk
from .wav import encode_wav

SHORTEST, LONGEST = samples(1.0), samples(5.0)
"""Samples that are waited for before a piece is sent, and at most in one."""

AHEAD = 2 * LONGEST
"""Samples that are taken of a sound before they can be sent; the rest stays where it is made."""

SOON_S, LATER_S = 0.5, 2.0
"""Seconds without more sound after which less than that is sent, too: as the first piece, and later."""

GRACE_S = 2.0
"""Seconds beyond a piece's length that a site may take to say that it has played it."""

QUIET = 0.01


class Player:
    """The loudspeaker of a site.

    Attributes:
        sounding: whether a piece is being played now.
        heard: samples that the site has played of the sound that is, or was last, playing.
    """

    def __init__(self, desk: Desk, site: str) -> None:
        self.sounding = False
        self._desk, self._site = desk, site
        self._turn = asyncio.Lock()
        self._awaited = ""
        self._finished = asyncio.Event()
        self._tells = True
        self._played = 0
        self._piece: tuple[float, int] | None = None

    @property
    def heard(self) -> int:
        if self._piece is None:
            return self._played
        since, length = self._piece
        return self._played + min(length, max(0, samples(self._clock.now() - since)))

    @property
    def _clock(self) -> Clock:
        return self._desk.clock

    async def play(self, sound: AsyncIterator[Pcm], id: str | None = None, volume: float = 1.0) -> None:
        """Play a sound to its end, behind those that wait already. Cancel it to stop behind the piece under way.

        id: the request id of the first piece. Raises what `sound` raises, and LinkFullError.
        """
        id = id or str(uuid4())
        async with self._turn:
            self._played, self._piece = 0, None
            pieces = _Pieces(sound, self._clock)
            try:
                for number in count():
                    piece = await pieces.next()
                    if piece is None:
                        break
                    await self._play(piece * np.float32(volume), f"{id}-{number}" if number else id)
            finally:
                await pieces.close()

    def finished(self, id: str) -> None:
        """The site says that it has played a piece."""
        if id == self._awaited:
            self._tells = True
            self._finished.set()

    async def _play(self, piece: Pcm, id: str) -> None:
        self._awaited = id
        self._finished.clear()
        self.sounding = True
        try:
            await self._desk.link.send(f"hermes/audioServer/{self._site}/playBytes/{id}", encode_wav(piece))
            self._piece = (self._clock.now(), len(piece))
            grace = GRACE_S if self._tells else 0.0
            try:
                await within(self._clock, seconds(len(piece)) + grace, self._finished.wait())
            except TimeoutError:
                self._tells = False
            self._played += len(piece)
            self._piece = None
        finally:
            if self._piece is not None:
                self._played, self._piece = self.heard, None
            self.sounding = False


class _Pieces:
    """A sound that is being made, in pieces that are worth sending."""

    def __init__(self, sound: AsyncIterator[Pcm], clock: Clock) -> None:
        self._sound, self._clock, self._patience = sound, clock, SOON_S
        self._buffer = np.zeros(0, np.float32)
        self._grown, self._taken = asyncio.Event(), asyncio.Event()
        self._source = asyncio.create_task(self._collect())

    async def next(self) -> Pcm | None:
        """The next piece; None when the sound has ended."""
        while len(self._buffer) < SHORTEST and not self._source.done():
            grown = asyncio.ensure_future(self._grown.wait())
            late = asyncio.ensure_future(self._clock.sleep(self._patience))
            waiting: set[asyncio.Future[Any]] = {grown, late, self._source}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for waiter in (grown, late):
                waiter.cancel()
            if not self._grown.is_set() and len(self._buffer):
                break
            self._grown.clear()
        if not len(self._buffer):
            self._source.result()
            return None
        self._patience = LATER_S
        at = self._cut()
        piece, self._buffer = self._buffer[:at], self._buffer[at:]
        self._taken.set()
        return piece

    async def close(self) -> None:
        """Stop the making of it."""
        self._source.cancel()
        await asyncio.gather(self._source, return_exceptions=True)

    async def _collect(self) -> None:
        async for pcm in self._sound:
            self._buffer = np.concatenate((self._buffer, pcm))
            self._grown.set()
            while len(self._buffer) > AHEAD:
                self._taken.clear()
                await self._taken.wait()

    def _cut(self) -> int:
        """Where the next piece ends: behind its last quiet frame, unless there is little or no more to come."""
        end = min(len(self._buffer), LONGEST)
        if end < SHORTEST or (self._source.done() and end == len(self._buffer)):
            return end
        begin = SHORTEST // 2
        frames = self._buffer[begin : end - (end - begin) % FRAME].reshape(-1, FRAME)
        quiet = np.flatnonzero(np.abs(frames).max(axis=1) < QUIET)
        return begin + FRAME * int(quiet[-1] + 1) if len(quiet) else end
