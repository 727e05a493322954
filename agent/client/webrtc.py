"""A caller over WebRTC: an Opus track each way and events on the data channel `oai-events`."""

import asyncio
import json
import urllib.error
import urllib.request

import numpy as np
from aiortc import RTCConfiguration, RTCDataChannel, RTCIceTransport, RTCPeerConnection, RTCSessionDescription
from aiortc.exceptions import InvalidStateError

from ...streaming.clock import Clock
from ...streaming.frames import Pcm
from ...streaming.playout import Source
from ..settings import is_loopback
from ..transports.channel import CHANNEL, lose_quietly
from ..transports.ice import choose_addresses, host_addresses, is_alive
from ..transports.receive import AudioReceiver, tap
from ..transports.track import PlayoutTrack
from .connection import Address, Event, Network, ServerError, Sink, refusal

_TICK = 0.02
_LOOK = 0.5
_IN_FLIGHT = 0.15
"""Seconds that the tail of an answer that was cut may take to arrive; the next answer takes longer."""

_SILENT = 6.0
"""Seconds without a packet or an answer to a check after which a server counts as gone."""


class WebRtcConnection:
    """aiortc, with this package's jitter buffer in place of aiortc's own.

    Attributes:
        receiver: the way in of the agent's voice.
        location: URL path of the call, if the server gives one.
    """

    def __init__(
        self, address: Address, source: Source, sink: Sink, clock: Clock, network: Network | None = None
    ) -> None:
        self.events: asyncio.Queue[Event | ServerError] = asyncio.Queue()
        self.receiver = AudioReceiver(self._hear, clock)
        self.location: str | None = None
        self._address, self._source, self._sink, self._clock, self._network = address, source, sink, clock, network
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._channel: RTCDataChannel | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._deaf_until = clock.now()

    async def open(self) -> None:
        """Offer, answer, and wait until the data channel is open. Raises ServerError."""
        self._sink.begin(paced=True)
        self._channel = channel = self._peer.createDataChannel(CHANNEL)
        opened = asyncio.Event()
        channel.on("open", opened.set)
        channel.on("message", self._take)
        channel.on("close", lambda: self._lose("the server has hung up"))
        self._peer.on("connectionstatechange", self._on_state)
        self._peer.addTrack(PlayoutTrack(self._source, self._clock))
        tap(self._peer.getTransceivers()[0].receiver, self.receiver)
        assert self._peer.sctp is not None
        lose_quietly(self._peer.sctp)
        addresses = host_addresses(loopback=is_loopback(self._address.host))
        for transport in self._transports():
            choose_addresses(transport, addresses)
        await self._peer.setLocalDescription(await self._peer.createOffer())
        answer = await asyncio.to_thread(self._post, self._peer.localDescription.sdp)
        try:
            await self._peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        except (ValueError, InvalidStateError) as error:
            raise ServerError(f"{self._address.site} gave no usable SDP answer: {error}") from None
        self._tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self._watch())]
        await opened.wait()
        if self._network is not None:
            for transport in self._transports():
                self._network.attach(transport)

    def send(self, event: Event) -> None:
        if self._channel is not None and self._channel.readyState == "open":
            self._channel.send(json.dumps(event))

    async def close(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await self._peer.close()

    def _transports(self) -> list[RTCIceTransport]:
        assert self._peer.sctp is not None
        dtls = {self._peer.getTransceivers()[0].sender.transport, self._peer.sctp.transport}
        return [each.transport for each in dtls]

    def _take(self, text: str) -> None:
        event: Event = json.loads(text)
        kind = event["type"]
        if kind == "output_audio_buffer.started":
            self._sink.expect(True)
        elif kind in ("output_audio_buffer.stopped", "output_audio_buffer.cleared"):
            self._sink.expect(False)
        if kind == "output_audio_buffer.cleared":
            # The server is silent already: what it sent before need not be heard to its end.
            self._sink.flush()
            self._deaf_until = self._clock.now() + _IN_FLIGHT
        self.events.put_nowait(event)

    def _hear(self, pcm: Pcm) -> None:
        self._sink.push(np.zeros_like(pcm) if self._clock.now() < self._deaf_until else pcm)

    def _on_state(self) -> None:
        if self._peer.connectionState in ("failed", "closed"):
            self._lose("no more packets get through")

    def _lose(self, why: str) -> None:
        if not self._closed:
            self._closed = True
            self.events.put_nowait(ServerError(f"the call with {self._address.site} was lost: {why}"))

    async def _tick(self) -> None:
        """Keep the receiver's time."""
        while True:
            await self._clock.sleep(_TICK)
            self.receiver.tick()

    async def _watch(self) -> None:
        """Notice a server that is gone without a good-bye; ICE itself takes half a minute to believe in that."""
        transport = self._peer.getTransceivers()[0].sender.transport.transport
        last_sign, received = self._clock.now(), -1
        while True:
            await self._clock.sleep(_LOOK)
            count = self.receiver.stats.received
            connected = self._peer.connectionState == "connected"
            if not connected or count != received or await is_alive(transport):
                last_sign, received = self._clock.now(), count
            elif self._clock.now() - last_sign > _SILENT:
                return self._lose("the server is silent")

    def _post(self, offer: str) -> str:
        url = f"{self._address.url}/calls{self._address.query}"
        headers = {"Content-Type": "application/sdp", **self._address.headers}
        request = urllib.request.Request(url, offer.encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=15) as response:
                self.location = response.headers.get("Location")
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            after = error.headers.get("Retry-After")
            raise refusal(self._address.site, error.code, error.read(), error.reason, after) from None
        except (OSError, ValueError) as error:
            raise ServerError(f"cannot reach {self._address.site}: {getattr(error, 'reason', error)}") from None
