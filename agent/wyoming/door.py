"""The Wyoming server: a TCP port, who may connect to it, and its announcement on the local network."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from functools import partial
from urllib.parse import urlsplit

from wyoming.error import Error
from wyoming.event import async_write_event

from ...models.errors import ConfigError
from ...streaming.clock import Clock
from .. import metrics
from ..settings import Settings
from ..speech import Phrases
from ..voices import VoiceBook
from .announcement import Announcement
from .connection import Connection
from .handling import Conversations
from .speaking import Speaker
from .wire import MAX_LINE, hang_up

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64


class WyomingDoor:
    """Takes Wyoming connections while it is open.

    Raises ConfigError for an address that is none, or one that others reach while nobody is allowed by name: the
    protocol knows no passwords.
    """

    def __init__(self, engine: VoiceBook, settings: Settings, clock: Clock, phrases: Phrases) -> None:
        self._engine, self._settings, self._clock, self._phrases = engine, settings, clock, phrases
        self._host, self._port = _address(settings.wyoming or "")
        self._allowed = [_network(name) for name in settings.wyoming_allow]
        if not self._allowed and not _is_loopback(self._host):
            raise ConfigError(
                f"others reach {self._host}, and Wyoming knows no passwords: "
                "list who may connect with --wyoming-allow, such as 192.168.1.0/24"
            )
        self._conversations = Conversations(engine, settings, clock)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._announcement: Announcement | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def open(self) -> None:
        """Listen. Raises ConfigError when the port is taken."""
        try:
            self._server = await asyncio.start_server(self._accept, self._host, self._port, limit=MAX_LINE)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"cannot listen for Wyoming on {self._host}:{self._port}: {reason}") from None
        log.info("Wyoming listens on tcp://%s:%d", self._host, self.port)
        if self._settings.wyoming_announce:
            self._announcement = Announcement(self._host, self.port)
            await self._announcement.open()

    async def close(self) -> None:
        """End every connection and give the port back."""
        if self._announcement is not None:
            await self._announcement.close()
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        refusal = self._refusal(writer)
        if refusal is not None:
            metrics.REFUSED.labels(refusal.code or "").inc()
            with contextlib.suppress(ConnectionError):
                await async_write_event(refusal.event(), writer)
            await hang_up(reader, writer, self._clock)
            return
        connection = Connection(
            reader,
            writer,
            engine=self._engine,
            settings=self._settings,
            clock=self._clock,
            conversations=self._conversations,
            speaker=lambda write: Speaker(self._engine, self._clock, self._phrases, write, self._settings.voice),
        )
        task = asyncio.create_task(connection.run())
        self._connections.add(task)
        metrics.SESSIONS.labels("wyoming").inc()
        task.add_done_callback(partial(_ended, self._connections))

    def _refusal(self, writer: asyncio.StreamWriter) -> Error | None:
        peer = writer.get_extra_info("peername")
        address = ipaddress.ip_address(peer[0].partition("%")[0]) if peer else ipaddress.ip_address("0.0.0.0")
        address = getattr(address, "ipv4_mapped", None) or address
        if self._allowed and not any(address in network for network in self._allowed):
            return Error(f"{address} may not connect: list it in `wyoming_allow`", "not-allowed")
        if len(self._connections) >= MAX_CONNECTIONS:
            return Error(f"{MAX_CONNECTIONS} clients are connected already: try again later", "full")
        return None


def _ended(connections: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    connections.discard(task)
    metrics.SESSIONS.labels("wyoming").dec()
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a Wyoming connection failed", exc_info=error)


def _address(uri: str) -> tuple[str, int]:
    """Host and port of tcp://host:port."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None or parts.scheme != "tcp":
        raise ConfigError(f"wyoming is {uri!r}: give tcp://host:port, such as tcp://127.0.0.1:10700")
    return host, port


def _network(name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(name, strict=False)
    except ValueError:
        raise ConfigError(
            f"wyoming_allow: {name!r} is no address or network: give 192.168.1.5 or 192.168.1.0/24"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
