"""Speech for listeners who cannot wait: text as sound, a spoken filler where it is late, and never a long gap.

Voice assistants give up in silence: Home Assistant's devices after five seconds without the first sound, and some of
them hang when a stream that has begun pauses for as long. So a late answer begins with "One moment.", and a stream that
pauses goes on with silence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

import numpy as np

from ..models.errors import EngineError, SpeechGPTGenError
from ..streaming.clock import Clock
from ..streaming.engine.protocol import Audio, Engine, EngineSession, Finished, Request
from ..streaming.frames import Pcm, samples
from .sentences import speakable

log = logging.getLogger(__name__)

PATIENCE = 3.0
"""Seconds without sound before it is filled: what generation and network add must stay within five."""

PAUSE = np.zeros(samples(0.25), np.float32)

WAIT, SORRY = "One moment.", "Sorry, that did not work."


class Phrases:
    """What is said when there is no time, or no way, to make speech: spoken once, when the doors open.

    Attributes:
        wait: for an answer that is late. sorry: for one that failed. Both (N,) at 16 kHz; silence until made.
    """

    def __init__(self) -> None:
        self.wait: Pcm = PAUSE
        self.sorry: Pcm = PAUSE

    async def make(self, engine: Engine, voice: str | None) -> None:
        """Let the engine speak them. An engine that cannot leaves them silent, and the log says so."""
        try:
            slot = await engine.open(voice=voice)
            try:
                self.wait = await _whole(slot, WAIT)
                self.sorry = await _whole(slot, SORRY)
            finally:
                await slot.close()
        except SpeechGPTGenError as error:
            log.warning("the fillers for late answers stay silent: %s", error)


async def say(slot: EngineSession, text: str) -> AsyncGenerator[Pcm, None]:
    """Speak a text: its sound in pieces, each (N,) at 16 kHz. Raises EngineError when it cannot be spoken."""
    slot.begin_turn(())
    # A second of English holds some fifteen characters; with fewer than three the model rambles.
    longest_s = 5 + len(text) / 3
    async for pcm in sound_of(slot, Request("say", text, max_seconds=longest_s, max_ahead_seconds=None)):
        yield pcm


async def say_all(slot: EngineSession, texts: Iterable[str]) -> AsyncGenerator[Pcm, None]:
    """Speak texts one after the other."""
    for text in texts:
        async for pcm in say(slot, text):
            yield pcm


async def sound_of(slot: EngineSession, request: Request) -> AsyncGenerator[Pcm, None]:
    """The sound of a generation, in pieces, each (N,) at 16 kHz. Raises EngineError when it fails."""
    generation = slot.generate(request)
    try:
        async for output in generation:
            if isinstance(output, Audio):
                yield output.pcm
            elif isinstance(output, Finished) and output.reason in ("failed", "cancelled"):
                raise EngineError(output.error or "the engine has stopped this speech")
    finally:
        generation.cancel()


async def say_each(slot: EngineSession, sentences: AsyncIterator[str]) -> AsyncIterator[Pcm]:
    """Speak sentences as they come, one after the other; those of which the voice knows nothing are passed over."""
    async for sentence in sentences:
        if speakable(sentence):
            async for pcm in say(slot, sentence):
                yield pcm


async def without_gaps(sound: AsyncIterator[Pcm], clock: Clock, filler: Pcm) -> AsyncIterator[Pcm]:
    """The same sound; `filler` where the first of it is late, and short silences where it pauses later."""
    step: asyncio.Future[Pcm | None] | None = None
    begun = False
    try:
        while True:
            step = step or asyncio.ensure_future(anext(sound, None))
            timer = asyncio.ensure_future(clock.sleep(PATIENCE))
            waiting: set[asyncio.Future[Any]] = {step, timer}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            timer.cancel()
            if not step.done():
                yield PAUSE if begun else filler
            else:
                pcm, step = step.result(), None
                if pcm is None:
                    return
                yield pcm
            begun = True
    finally:
        if step is not None:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


async def _whole(slot: EngineSession, text: str) -> Pcm:
    return np.concatenate([pcm async for pcm in say(slot, text)])
