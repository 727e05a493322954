"""What everything behind the MQTT door works with: engine, settings, clock, and the way out to the broker."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...streaming.clock import Clock
from ...streaming.vad import Vad, make_vad
from .. import metrics
from ..settings import Settings
from ..speech import Phrases
from ..voices import VoiceBook
from .messages import HermesError

log = logging.getLogger(__name__)

_ECHOES = ("hermes/asr/startListening", "hermes/asr/stopListening")
"""Topics that we write and read."""


class Out(Protocol):
    """The way to the broker; see Link."""

    connected: bool

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[None]: ...


@dataclass
class Desk:
    """vad: makes a detector for each conversation."""

    engine: VoiceBook
    settings: Settings
    clock: Clock
    phrases: Phrases
    link: Out
    vad: Callable[[], Vad] | None = None
    _echoes: Counter[tuple[str, bytes]] = field(default_factory=Counter)

    def make_vad(self) -> Vad:
        """A detector of its own for a conversation."""
        return self.vad() if self.vad is not None else make_vad(self.settings.vad)

    def publish(self, topic: str, **fields: Any) -> None:
        """Send a JSON message; fields that are None are left out."""
        payload = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
        if topic in _ECHOES:
            if len(self._echoes) > 100:
                self._echoes.clear()  # of a broker that was away
            self._echoes[topic, payload] += 1
        self.link.send(topic, payload)

    def is_echo(self, topic: str, payload: bytes) -> bool:
        """Whether this message is one of ours, on its way back; each is recognised once."""
        if not self._echoes[topic, payload]:
            del self._echoes[topic, payload]
            return False
        self._echoes[topic, payload] -= 1
        return True

    def complain(self, error: HermesError, context: str | None = None) -> None:
        """Tell of what could not be done, on the error topic of the component concerned."""
        metrics.ERRORS.labels(error.component).inc()
        log.info("MQTT: %s", error)
        self.publish(
            f"hermes/error/{error.component}",
            error=str(error),
            context=context,
            siteId=error.site or "default",
            sessionId=error.session,
        )
