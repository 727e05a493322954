"""A bad network on purpose: packets lost and late, in both directions, on the client's side of the wire."""

import asyncio
import random
import socket
from collections import deque
from collections.abc import Awaitable, Callable

from aiortc import RTCIceTransport

RETRANSMISSION = 0.2
"""Seconds after which TCP sends a lost segment again, at the earliest (Linux: TCP_RTO_MIN)."""

_SEGMENT = 1400


class BadNetwork:
    """Loses each packet with one probability and delays it by a random time, alike for all sessions and both ways.

    Over WebRTC every packet is touched once the call stands: sound, reports and events. They overtake each other. Over
    WebSocket TCP repairs what is lost, so that a loss becomes a wait for the segment and for all that come after it.

    Args:
        loss: probability of a loss, 0 to below 1.
        jitter: greatest delay in seconds; each packet's is drawn evenly from 0 to this.
        seed: of the random numbers.
    """

    def __init__(self, loss: float, jitter: float, seed: int = 0) -> None:
        self.loss, self.jitter = loss, jitter
        self._random = random.Random(seed)
        self._relays: set[asyncio.Task[None]] = set()

    @property
    def lost(self) -> bool:
        """Whether the next packet is lost."""
        return self._random.random() < self.loss

    @property
    def delay(self) -> float:
        """Seconds by which the next packet is late."""
        return self._random.uniform(0.0, self.jitter)

    def attach(self, transport: RTCIceTransport) -> None:
        """Touch every packet of a connected ICE transport from now on. Its keep-alives stay whole."""
        send, receive = transport._send, transport._recv
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[bytes | ConnectionError] = asyncio.Queue()

        def transmit(data: bytes) -> None:
            task = loop.create_task(_quietly(send, data))
            self._relays.add(task)
            task.add_done_callback(self._relays.discard)

        async def send_late(data: bytes) -> None:
            if not self.lost:
                loop.call_later(self.delay, transmit, data)

        async def take() -> None:
            try:
                while True:
                    data = await receive()
                    if not self.lost:
                        loop.call_later(self.delay, arrived.put_nowait, data)
            except ConnectionError as error:
                arrived.put_nowait(error)

        async def receive_late() -> bytes:
            data = await arrived.get()
            if isinstance(data, ConnectionError):
                raise data
            return data

        transport._send, transport._recv = send_late, receive_late
        task = loop.create_task(take())
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)

    async def dial(self, host: str, port: int) -> socket.socket:
        """A TCP connection by way of this network. Raises OSError."""
        far_reader, far_writer = await asyncio.open_connection(host, port)
        ours, relayed = socket.socketpair()
        ours.setblocking(False)
        near_reader, near_writer = await asyncio.open_connection(sock=relayed)
        for reader, writer in ((near_reader, far_writer), (far_reader, near_writer)):
            task = asyncio.create_task(self._relay(reader, writer))
            self._relays.add(task)
            task.add_done_callback(self._relays.discard)
        return ours

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass segments on in order, each at its time and none before those ahead of it."""
        loop = asyncio.get_running_loop()
        waiting: deque[bytes] = deque()
        due = 0.0

        def put() -> None:
            data = waiting.popleft()
            if writer.is_closing():
                return
            if data:
                writer.write(data)
            else:
                writer.close()

        data = b"first"
        while data:
            try:
                data = await reader.read(_SEGMENT)
            except OSError:
                data = b""
            due = max(due, loop.time() + self.delay + (RETRANSMISSION if self.lost else 0.0))
            waiting.append(data)
            loop.call_at(due, put)


async def _quietly(send: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
    """A packet that is late may find its connection closed."""
    try:
        await send(data)
    except ConnectionError:
        return
