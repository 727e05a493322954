"""Recorded voices: an engine that also knows, by name, the voices its users have given it."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from ..models.errors import SpeechGPTGenError
from ..models.semantic.pieces import Message
from ..streaming.engine.protocol import Engine, EngineInfo, EngineSession, Generation, Request, Voice
from ..streaming.frames import Pcm
from .event_objects import new_id
from .voice_files import VoiceFiles

log = logging.getLogger(__name__)


class VoiceBook:
    """An engine around another one. Voices made here can be chosen by their id like the engine's own.

    limit: recorded voices kept; the least recently used goes. files: where they outlive the server; None for nowhere.
    """

    def __init__(self, engine: Engine, limit: int, files: VoiceFiles | None = None) -> None:
        self._engine = engine
        self._limit = limit
        self._files = files
        self._voices: OrderedDict[str, Voice] = OrderedDict()

    @property
    def info(self) -> EngineInfo:
        """The engine's, with the recorded voices behind its own."""
        info = self._engine.info
        return replace(info, voices=(*info.voices, *self._voices))

    @property
    def in_use(self) -> int:
        """Slots taken now."""
        return self._engine.in_use

    async def start(self) -> None:
        """Start the engine, and make the voices that were recorded before."""
        await self._engine.start()
        if self._files is None:
            return
        for key, name, pcm in (await asyncio.to_thread(self._files.load))[-self._limit :]:
            try:
                self._voices[key] = await self.make_voice(pcm, name)
            except SpeechGPTGenError as error:
                log.warning("the recorded voice %s is left out: %s", key, error)

    async def stop(self) -> None:
        """Stop the engine."""
        await self._engine.stop()

    async def open(self, *, voice: str | Voice | None = None) -> EngineSession:
        """Take a slot of the engine."""
        return _Slot(await self._engine.open(voice=self.resolve(voice) if voice is not None else None), self)

    async def make_voice(self, pcm: Pcm, name: str) -> Voice:
        """Make a voice and forget it."""
        return await self._engine.make_voice(pcm, name)

    async def add_voice(self, pcm: Pcm, name: str) -> str:
        """Make a voice and keep it; returns the id it can be chosen by. Raises AudioError."""
        voice = await self.make_voice(pcm, name)
        key = new_id("voice")
        if self._files is not None:
            await asyncio.to_thread(self._files.save, key, name, pcm)
        self._voices[key] = voice
        while len(self._voices) > self._limit:
            await self.delete_voice(next(iter(self._voices)))
        return key

    async def delete_voice(self, key: str) -> bool:
        """Forget a recorded voice, whoever speaks in it now goes on; False if there is none of this id."""
        if self._voices.pop(key, None) is None:
            return False
        if self._files is not None:
            await asyncio.to_thread(self._files.delete, key)
        return True

    def catalogue(self) -> list[tuple[str, str]]:
        """(id, name) of all voices, the default first."""
        own = [(name, name) for name in self._engine.info.voices]
        return own + [(key, voice.name) for key, voice in self._voices.items()]

    def resolve(self, voice: str | Voice) -> str | Voice:
        """The recorded voice of an id, anything else as it is."""
        if isinstance(voice, str) and voice in self._voices:
            self._voices.move_to_end(voice)
            if self._files is not None:
                self._files.used(voice)
            return self._voices[voice]
        return voice


class _Slot:
    """An engine's session that knows recorded voices."""

    def __init__(self, slot: EngineSession, book: VoiceBook) -> None:
        self._slot, self._book = slot, book

    @property
    def heard(self) -> str:
        return self._slot.heard

    def begin_turn(self, history: Sequence[Message]) -> None:
        self._slot.begin_turn(history)

    def listen(self, pcm: Pcm) -> None:
        self._slot.listen(pcm)

    def generate(self, request: Request) -> Generation:
        return self._slot.generate(request)

    def set_voice(self, voice: str | Voice) -> None:
        self._slot.set_voice(self._book.resolve(voice))

    async def close(self) -> None:
        await self._slot.close()
