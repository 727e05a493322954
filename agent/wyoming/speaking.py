"""Text to speech for Wyoming requests: a whole text, or text in pieces that is spoken while it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event
from wyoming.tts import SynthesizeVoice

from ...models.errors import ConfigError, TextError
from ...streaming.clock import Clock
from ...streaming.engine.protocol import Engine
from ...streaming.frames import SAMPLE_RATE, Pcm
from ...streaming.pcm import to_pcm16
from ..sentences import Sentences, passages
from ..speech import Phrases, say_all, say_each, without_gaps
from .wire import WyomingError

MAX_TEXT = 4000
"""Characters of one request."""

_FORMAT = {"rate": SAMPLE_RATE, "width": 2, "channels": 1}


class TextStream:
    """Text on its way in, cut into sentences. Raises WyomingError where it grows too long."""

    def __init__(self) -> None:
        self._sentences = Sentences()
        self._ready: asyncio.Queue[str | None] = asyncio.Queue()
        self._length = 0

    def push(self, piece: str) -> None:
        """More text."""
        self._length += len(piece)
        if self._length > MAX_TEXT:
            raise WyomingError("too-long", f"at most {MAX_TEXT} characters are spoken at a time")
        for sentence in self._sentences.push(piece):
            self._ready.put_nowait(sentence)

    def end(self) -> None:
        """That was all of it."""
        for sentence in [*self._sentences.flush(), None]:
            self._ready.put_nowait(sentence)

    async def __aiter__(self) -> AsyncIterator[str]:
        while (sentence := await self._ready.get()) is not None:
            yield sentence


class Speaker:
    """Speaks for one connection. write: sends an event. voice: of who asks for none."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        phrases: Phrases,
        write: Callable[[Event], Awaitable[None]],
        voice: str | None,
    ) -> None:
        self._engine, self._clock, self._phrases, self._write, self._voice = engine, clock, phrases, write, voice

    def choose(self, voice: SynthesizeVoice | None) -> str | None:
        """The engine's voice of a request. Raises ConfigError for a name that it does not have."""
        if voice is None or voice.name is None:
            return self._voice
        names = self._engine.info.voices
        if voice.name not in names:
            raise ConfigError(f"unknown voice {voice.name!r}: choose one of {', '.join(names)}")
        return voice.name

    async def speak(self, text: str | TextStream, voice: str | None) -> None:
        """Send the sound of a text. Raises EngineFullError, EngineError, TextError."""
        if isinstance(text, str) and not any(c.isalnum() for c in text):
            raise TextError("there is nothing to say: give text with at least one letter or digit")
        slot = await self._engine.open(voice=voice)
        try:
            sound = say_all(slot, passages(text)) if isinstance(text, str) else say_each(slot, aiter(text))
            await self._play(without_gaps(sound, self._clock, self._phrases.wait))
        finally:
            await slot.close()

    async def _play(self, sound: AsyncIterator[Pcm]) -> None:
        await self._write(AudioStart(**_FORMAT).event())
        async for pcm in sound:
            await self._write(AudioChunk(**_FORMAT, audio=to_pcm16(pcm)).event())
        await self._write(AudioStop().event())
