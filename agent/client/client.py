"""The client: one conversation with a server, over however many connections it takes."""

import asyncio
from types import TracebackType
from typing import Generic, TypeVar

from ...models.errors import ConfigError
from ...streaming.clock import Clock, RealClock
from ...streaming.playout import Source
from .connection import Address, Connection, Event, Network, RefusedError, ServerError, Sink, Transport
from .memory import Memory

CONNECT_WITHIN = 15.0
TRIES = 8
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds between tries: they double, so that a server that comes back is not met by everybody at once."""

_ENDED_BY_SERVER = ("session_idle", "session_expired")

SourceT = TypeVar("SourceT", bound=Source)
SinkT = TypeVar("SinkT", bound=Sink)


class Client(Generic[SourceT, SinkT]):
    """Speaks what `microphone` gives, plays the answers on `speaker`, and yields the server's events.

    An asynchronous context manager and iterator. A lost connection is made again with growing pauses, and told what the
    session was set to and what was said. Between, the iterator gives one event of the client's own for each try,
    `{"type": "client.reconnecting", "reason": ..., "attempt": 1, "in_seconds": 0.5}`. It ends when the client is
    closed, or when the server ends the session by its own rules (`session_idle`, `session_expired`).

    Args:
        url: the server, http://host:port; also with /v1 behind it, or as ws://.
        microphone: where the user's voice comes from, 16 kHz.
        speaker: where the agent's voice goes.
        transport: "webrtc" hears and speaks by Opus tracks, "websocket" in events.
        token: bearer token or client secret, if the server asks for one.
        model: name of the model, where a server has several.
        reconnect: False raises ServerError from the iterator when the connection is lost.
        clock: time; only tests need another than the real one.
        network: stands between the client and the network; only measurements need one.

    Raises:
        ServerError: on entering, the server cannot be reached, is full (`retry_after`) or refuses (RefusedError); from
            the iterator, it did not come back in eight tries.
        ConfigError: the transport is unknown.
    """

    def __init__(
        self,
        url: str,
        microphone: SourceT,
        speaker: SinkT,
        *,
        transport: Transport = "webrtc",
        token: str | None = None,
        model: str | None = None,
        reconnect: bool = True,
        clock: Clock | None = None,
        network: Network | None = None,
    ) -> None:
        if transport not in ("webrtc", "websocket"):
            raise ConfigError(f"transport {transport!r} is unknown: choose webrtc or websocket")
        self.microphone = microphone
        self.speaker = speaker
        self.transport = transport
        self._address = Address.of(url, token, model)
        self._reconnect = reconnect
        self._clock = clock or RealClock()
        self._network = network
        self._memory = Memory()
        self._connection: Connection | None = None
        self._lost: ServerError | None = None
        self._tries = 0
        self._announced = False
        self._over = False

    @property
    def connection(self) -> Connection | None:
        """The connection that stands now; None between two."""
        return self._connection

    async def __aenter__(self) -> "Client[SourceT, SinkT]":
        await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> "Client[SourceT, SinkT]":
        return self

    async def __anext__(self) -> Event:
        """The next event. May be cancelled at any time, as by a time-out; nothing is lost."""
        while not self._over:
            if self._connection is None:
                if not self._announced:
                    return self._announce()
                await self._try_again()
                continue
            event = await self._connection.events.get()
            if isinstance(event, ServerError):
                await self._drop(event)
                continue
            self._memory.received(event)
            if event["type"] == "error" and event["error"].get("code") in _ENDED_BY_SERVER:
                self._reconnect = False
                self._over = True
            elif event["type"] == "session.created":
                self._tries = 0
            return event
        raise StopAsyncIteration

    def send(self, event: Event) -> None:
        """Send one client event of the protocol, e.g. `{"type": "response.cancel"}`.

        Between two connections a `session.update` is kept for the next one, anything else is dropped.
        """
        self._memory.sent(event)
        if self._connection is not None:
            self._connection.send(event)

    async def close(self) -> None:
        """Hang up. The iterator ends."""
        self._over = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connect(self) -> None:
        if self.transport == "websocket":
            from .websocket import WebSocketConnection as Kind
        else:
            # aiortc takes a second to import, which a client over WebSocket need not wait for.
            from .webrtc import WebRtcConnection as Kind  # type: ignore[assignment]
        connection = Kind(self._address, self.microphone, self.speaker, self._clock, self._network)
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                await connection.open()
        except TimeoutError:
            await connection.close()
            where = f"{self.transport} connection with {self._address.site}"
            raise ServerError(f"no {where} within {CONNECT_WITHIN:.0f} s") from None
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        for event in self._memory.replay():
            connection.send(event)

    async def _drop(self, why: ServerError) -> None:
        connection, self._connection = self._connection, None
        self._lost, self._announced = why, False
        self.speaker.flush()
        self.speaker.expect(False)
        if connection is not None:
            await connection.close()
        if not self._reconnect:
            self._over = True
            raise why

    def _announce(self) -> Event:
        assert self._lost is not None
        self._announced = True
        if self._tries == TRIES:
            self._over = True
            raise ServerError(f"{self._lost}; it did not come back in {TRIES} tries")
        self._tries += 1
        return {
            "type": "client.reconnecting",
            "reason": str(self._lost),
            "attempt": self._tries,
            "in_seconds": self._pause(),
        }

    async def _try_again(self) -> None:
        await self._clock.sleep(self._pause())
        try:
            await self._connect()
        except RefusedError:
            self._over = True
            raise
        except ServerError as error:
            self._lost, self._announced = error, False

    def _pause(self) -> float:
        asked = self._lost.retry_after if self._lost is not None else None
        pause: float = min(LONGEST_PAUSE, max(asked or 0.0, FIRST_PAUSE * 2 ** (self._tries - 1)))
        return pause
