"""Recorded voices: an engine that also knows, by name, the voices its users have given it."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..models.errors import ConfigError, SpeechGPTGenError
from ..models.semantic.pieces import Message
from ..streaming.engine.protocol import Engine, EngineInfo, EngineSession, Generation, Request, Voice
from ..streaming.frames import Pcm
from .event_objects import new_id
from .voice_files import VoiceFiles

log = logging.getLogger(__name__)


@dataclass
class _Recorded:
    """A voice that was given to us. made: None until it is chosen for the first time since the server started."""

    name: str
    made: Voice | None = None


class VoiceBook:
    """An engine around another one. Voices made here can be chosen by their id like the engine's own.

    Those of earlier days are listed at once and made when they are first chosen: making one takes as long as seconds
    of speech, and a server that knows many shall not start later for it.

    limit: recorded voices kept; the least recently used goes. files: where they outlive the server; None for nowhere.
    """

    def __init__(self, engine: Engine, limit: int, files: VoiceFiles | None = None) -> None:
        self._engine = engine
        self._limit = limit
        self._files = files
        self._voices: OrderedDict[str, _Recorded] = OrderedDict()
        self._making = asyncio.Lock()

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
        """Start the engine, and look up the voices that were recorded before."""
        await self._engine.start()
        if self._files is not None:
            kept = (await asyncio.to_thread(self._files.kept))[-self._limit :]
            self._voices.update((key, _Recorded(name)) for key, name in kept)

    async def stop(self) -> None:
        """Stop the engine."""
        await self._engine.stop()

    async def open(self, *, voice: str | Voice | None = None) -> EngineSession:
        """Take a slot of the engine. Raises EngineFullError; ConfigError for a voice that cannot be had."""
        if isinstance(voice, str):
            await self.prepare(voice)
        return _Slot(await self._engine.open(voice=self.resolve(voice) if voice is not None else None), self)

    async def prepare(self, voice: str) -> None:
        """Make a recorded voice, so that a slot can be set to it. Nothing to do for one that is ready, or any other.

        Raises ConfigError when its recording cannot be used any more; then it is not offered any longer.
        """
        recorded = self._voices.get(voice)
        if recorded is None or recorded.made is not None:
            return
        async with self._making:  # two who choose it at once
            if recorded.made is None:
                recorded.made = await self._remake(voice, recorded.name)

    async def _remake(self, key: str, name: str) -> Voice:
        assert self._files is not None, "only a voice from a file is not made yet"
        try:
            return await self.make_voice(await asyncio.to_thread(self._files.load, key), name)
        except SpeechGPTGenError as error:
            self._voices.pop(key, None)
            log.warning("the recorded voice %s is left out: %s", key, error)
            raise ConfigError(str(error)) from None

    async def make_voice(self, pcm: Pcm, name: str) -> Voice:
        """Make a voice and forget it."""
        return await self._engine.make_voice(pcm, name)

    async def add_voice(self, pcm: Pcm, name: str) -> str:
        """Make a voice and keep it; returns the id it can be chosen by. Raises AudioError."""
        voice = await self.make_voice(pcm, name)
        key = new_id("voice")
        if self._files is not None:
            await asyncio.to_thread(self._files.save, key, name, pcm)
        self._voices[key] = _Recorded(name, voice)
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
        """The recorded voice of an id that was prepared, anything else as it is."""
        recorded = self._voices.get(voice) if isinstance(voice, str) else None
        if recorded is None or recorded.made is None:
            return voice
        assert isinstance(voice, str)
        self._voices.move_to_end(voice)
        if self._files is not None:
            self._files.used(voice)
        return recorded.made


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
