"""The data channel of a call, which carries its events."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from aiortc import RTCDataChannel, RTCSctpTransport
from aiortc.exceptions import InvalidStateError

CHANNEL = "oai-events"
MAX_MESSAGE = 256 * 1024
"""Bytes of one data-channel message: what aiortc announces in the answer, but does not enforce."""


class Outbox:
    """Server events on their way to the data channel: kept while it is not open, bounded always."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._channel: RTCDataChannel | None = None
        self._waiting: deque[str] = deque()
        self._bytes = 0

    def attach(self, channel: RTCDataChannel) -> None:
        """Send over this channel from now on, beginning with what waits."""
        self._channel = channel
        channel.on("open", self._flush)
        self._flush()

    def put(self, text: str) -> bool:
        """Queue or send one event; False if the client is so far behind that it must be dropped."""
        self._waiting.append(text)
        self._bytes += len(text)
        self._flush()
        buffered = self._channel.bufferedAmount if self._channel is not None else 0
        return self._bytes + buffered <= self._limit

    @property
    def empty(self) -> bool:
        """Nothing is left to send."""
        return not self._waiting and (self._channel is None or self._channel.bufferedAmount == 0)

    def _flush(self) -> None:
        while self._waiting and self._channel is not None and self._channel.readyState == "open":
            text = self._waiting.popleft()
            self._bytes -= len(text)
            try:
                self._channel.send(text)
            except (ConnectionError, InvalidStateError):
                return


def lose_quietly(sctp: RTCSctpTransport) -> None:
    """Let what SCTP sends over a connection that is gone be lost, as on a network, where its timers see to it.

    Cause: aiortc sends from tasks that nobody awaits, so that the end of a connection would be logged as "Task
    exception was never retrieved" whenever an event or a repetition is on its way. Remove when aiortc catches it.
    """
    dtls = sctp.transport
    send = dtls._send_data

    async def send_or_lose(data: bytes) -> None:
        with suppress(ConnectionError):
            await send(data)

    dtls._send_data = send_or_lose  # type: ignore[method-assign]
