"""What every connection with a server has in common, whichever transport carries it."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit, urlunsplit

from ...models.errors import SpeechGPTGenError
from ...streaming.clock import Clock
from ...streaming.frames import Pcm
from ...streaming.playout import Source

if TYPE_CHECKING:
    from aiortc import RTCIceTransport

Transport = Literal["webrtc", "websocket"]
Event = dict[str, Any]
"""One event of the OpenAI Realtime protocol, as JSON."""

PATH = "/v1/realtime"


class ServerError(SpeechGPTGenError):
    """The server could not be reached, is full, or the connection with it was lost: trying again may help.

    Attributes:
        retry_after: seconds after which the server asks to be tried again; None where it says nothing.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RefusedError(ServerError):
    """The server will not have this client, however often it asks: a wrong token, address or offer."""


class Sink(Protocol):
    """Where the agent's voice goes: a `Speaker`, an `Ear`."""

    def begin(self, *, paced: bool) -> None:
        """A connection opens. paced: its sound comes in real time; otherwise it may come ahead of its playing."""
        ...

    def push(self, pcm: Pcm) -> None:
        """The next sound, (n,) at 16 kHz."""
        ...

    def expect(self, more: bool) -> None:
        """Whether an answer is on its way, so that running dry is a fault."""
        ...

    def flush(self) -> int:
        """Drop what has not been played; returns how many samples that were."""
        ...


class Network(Protocol):
    """Stands between a client and the real network; measurements lose and delay packets here."""

    def attach(self, transport: RTCIceTransport) -> None:
        """Take over the packets of a connected ICE transport, both ways."""
        ...

    async def dial(self, host: str, port: int) -> socket.socket:
        """A connected TCP socket. Raises OSError."""
        ...


@dataclass(frozen=True)
class Address:
    """A server and how to be let in.

    Attributes:
        url: http or https, ending in /v1/realtime.
        token: bearer token, if the server wants one.
        model: name to ask for; a server with one model ignores it.
    """

    url: str
    token: str | None = None
    model: str | None = None

    @classmethod
    def of(cls, url: str, token: str | None = None, model: str | None = None) -> Address:
        """The address a person writes: http(s) or ws(s), with or without /v1 or /v1/realtime behind the host.

        Raises:
            RefusedError: it is no address.
        """
        scheme, place, path, _, _ = urlsplit(url)
        scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
        if scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise RefusedError(f"{url!r} is no address of a server: write http://host:port")
        prefix = path.rstrip("/").removesuffix("/realtime").removesuffix("/v1")
        return cls(urlunsplit((scheme, place, prefix + PATH, "", "")), token, model)

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that let the client in."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def query(self) -> str:
        """Query string that names the model, or nothing."""
        return f"?model={self.model}" if self.model else ""

    @property
    def host(self) -> str:
        """Host name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def site(self) -> str:
        """The server as a person names it."""
        scheme, place, _, _, _ = urlsplit(self.url)
        return f"{scheme}://{place}"


class Connection(Protocol):
    """One connection, from `open` to `close`; never used again after it was lost.

    Attributes:
        events: what the server says; a ServerError is the last thing in it, when the connection is lost.
    """

    events: asyncio.Queue[Event | ServerError]

    def __init__(
        self, address: Address, source: Source, sink: Sink, clock: Clock, network: Network | None = None
    ) -> None: ...

    async def open(self) -> None:
        """Connect. Raises ServerError."""
        ...

    def send(self, event: Event) -> None:
        """Send one client event; nothing happens when the connection is lost."""
        ...

    async def close(self) -> None:
        """Hang up."""
        ...


def refusal(site: str, status: int, body: bytes, fallback: str, retry_after: str | None) -> ServerError:
    """The error of an HTTP answer that is none of 2xx: full and failing servers may be asked again, others not."""
    try:
        said = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = fallback
    message = f"{site} refused the call: {' '.join(said.split()) or status}"
    if status == 429 or status >= 500:
        return ServerError(message, float(retry_after) if retry_after and retry_after.isdigit() else None)
    return RefusedError(message)
