"""The doors beside HTTP: protocols of voice assistants, opened and closed with the server."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from ..models.errors import ConfigError
from ..streaming.clock import Clock
from .settings import Settings
from .speech import Phrases
from .voices import VoiceBook

log = logging.getLogger(__name__)


class Door(Protocol):
    """One protocol."""

    async def open(self) -> None:
        """Let people in. Raises ConfigError when it cannot."""
        ...

    async def close(self) -> None:
        """End what it holds and give everything back."""
        ...


class Doors:
    """The doors that the settings ask for. Raises ConfigError for settings that cannot work."""

    def __init__(self, engine: VoiceBook, settings: Settings, clock: Clock) -> None:
        self._engine, self._settings = engine, settings
        self._phrases = Phrases()
        self._doors: list[Door] = []
        if settings.wyoming:
            try:
                from .wyoming.door import WyomingDoor
            except ModuleNotFoundError:
                raise ConfigError("--wyoming needs a package: pip install 'speechgpt-gen[wyoming]'") from None
            self._doors.append(WyomingDoor(engine, settings, clock, self._phrases))
        if settings.mqtt:
            try:
                from .mqtt.door import MqttDoor
            except ModuleNotFoundError:
                raise ConfigError("--mqtt needs a package: pip install 'speechgpt-gen[mqtt]'") from None
            self._doors.append(MqttDoor(engine, settings, clock, self._phrases))

    async def open(self) -> None:
        """Open them, once the engine runs."""
        if self._doors:
            await self._phrases.make(self._engine, self._settings.voice)
        for door in self._doors:
            await door.open()

    async def close(self) -> None:
        """Close them, before the engine stops. One that stumbles does not keep the others open."""
        for failure in await asyncio.gather(*(door.close() for door in self._doors), return_exceptions=True):
            if failure is not None:
                log.error("a door did not close well", exc_info=failure)
