"""The connection to the broker: kept, and renewed when it breaks, so that nothing we had to say is lost.

Messages wait here until the broker has confirmed them (QoS 1). One that was on its way when the connection broke is
sent again, so that it may come twice but never not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiomqtt import Client, MqttError, Will

from ...models.errors import SpeechGPTGenError
from ...streaming.clock import Clock, within
from .address import Broker

log = logging.getLogger(__name__)

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0
"""Waits between attempts to connect: doubled each time, and up to a quarter longer by chance."""

SETTLE_S = 1.0
"""Seconds after a renewed connection until we send again: who listens needs time to connect again, too."""

MAX_WAITING = 2**24
"""Bytes that may wait for the broker."""

MAX_INCOMING = 1000
"""Messages that may wait to be taken; more are dropped."""

GOODBYE_S = 2.0


class LinkFullError(SpeechGPTGenError):
    """More waits for the broker than may."""


@dataclass
class _Waiting:
    topic: str
    payload: bytes
    retain: bool
    done: asyncio.Future[None]


class Link:
    """One client of one broker.

    Args:
        take: gets topic and payload of each message; must not block.
        topics: to subscribe to, each with its QoS.
        status: topic that holds "online" while we are connected and "offline" otherwise (last will, retained).

    Attributes:
        connected: whether messages come and go now.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        take: Callable[[str, bytes], None],
        topics: Sequence[tuple[str, int]],
        status: str,
    ) -> None:
        self.connected = False
        self._broker, self._clock, self._take, self._topics, self._status = broker, clock, take, topics, status
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Connect, and stay so."""
        self._life = asyncio.create_task(self._live(), name="mqtt link")

    async def close(self) -> None:
        """Send what is left, if there is a connection, and say good-bye."""
        if self._life is None:
            return
        if self.connected:
            with contextlib.suppress(TimeoutError, LinkFullError):
                await within(self._clock, GOODBYE_S, self.send(self._status, b"offline", retain=True))
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)
        for waiting in self._waiting:
            waiting.done.cancel()

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[None]:
        """Queue a message; what is returned is done when the broker has it. Cancelled, the message is not sent.

        Ends with LinkFullError when too much waits already.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_seen)
        if self._bytes + len(payload) > MAX_WAITING:
            done.set_exception(LinkFullError(f"over {MAX_WAITING} bytes wait for the broker: is it there?"))
            return done
        self._waiting.append(_Waiting(topic, payload, retain, done))
        self._bytes += len(payload)
        self._filled.set()
        return done

    async def _live(self) -> None:
        delay, renewed = FIRST_DELAY_S, False
        while True:
            try:
                async with self._client() as client:
                    await self._greet(client)
                    log.info("connected to the MQTT broker %s", self._broker.shown)
                    if renewed:
                        await self._clock.sleep(SETTLE_S)
                    delay, renewed, self.connected = FIRST_DELAY_S, True, True
                    await self._exchange(client)
            except MqttError as error:
                log.warning("MQTT broker %s: %s; trying again in %.1f s", self._broker.shown, _why(error), delay)
            finally:
                self.connected = False
            await self._clock.sleep(delay * (1 + random.random() / 4))
            delay = min(2 * delay, LONGEST_DELAY_S)

    def _client(self) -> Client:
        broker = self._broker
        return Client(
            broker.host,
            broker.port,
            username=broker.username,
            password=broker.password,
            identifier=broker.identifier,
            tls_context=broker.tls,
            will=Will(self._status, b"offline", qos=1, retain=True),
            max_queued_incoming_messages=MAX_INCOMING,
            timeout=10,
            keepalive=20,
        )

    async def _greet(self, client: Client) -> None:
        granted = await client.subscribe(list(self._topics))
        for (topic, _), code in zip(self._topics, granted, strict=False):
            if getattr(code, "is_failure", False):
                log.error("the MQTT broker does not let us read %s", topic)
        await client.publish(self._status, b"online", qos=1, retain=True)

    async def _exchange(self, client: Client) -> None:
        """Carry messages both ways until the connection breaks."""
        ways = {asyncio.create_task(self._read(client)), asyncio.create_task(self._write(client))}
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _read(self, client: Client) -> None:
        async for message in client.messages:
            payload = message.payload if isinstance(message.payload, bytes) else b""
            try:
                self._take(str(message.topic), payload)
            except Exception:
                log.exception("a message on %s made us stumble", str(message.topic)[:200])

    async def _write(self, client: Client) -> None:
        while True:
            self._filled.clear()
            while self._waiting:
                first = self._waiting[0]
                if not first.done.done():
                    await client.publish(first.topic, first.payload, qos=1, retain=first.retain)
                self._waiting.popleft()
                self._bytes -= len(first.payload)
                if not first.done.done():
                    first.done.set_result(None)
            await self._filled.wait()


def _seen(future: asyncio.Future[None]) -> None:
    """Not everybody waits to hear that a message was not taken."""
    if not future.cancelled():
        future.exception()


def _why(error: MqttError) -> str:
    return " ".join(str(error).split()) or type(error).__name__
