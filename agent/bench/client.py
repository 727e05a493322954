"""A user as a program: speaks recordings in real time over WebRTC or WebSocket, hears the answers, reads the events."""

import asyncio
import base64
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from ...models.errors import SpeechGPTGenError
from ...streaming.clock import Clock
from ...streaming.frames import FRAME, SAMPLE_RATE
from ...streaming.playout import Playout
from ...streaming.resample import StreamResampler
from ..settings import is_loopback
from ..transports.ice import choose_addresses, host_addresses
from ..transports.receive import AudioReceiver, tap
from ..transports.track import PlayoutTrack
from .ear import Ear

Transport = Literal["webrtc", "websocket"]
Event = dict[str, Any]

_WIRE_RATE = 24_000
_TICK = 0.02


class ServerError(SpeechGPTGenError):
    """The server could not be reached, or refused."""


class Client(Protocol):
    """One connection. `mic` holds what the user says (silence when idle), `ear` what came back."""

    mic: Playout
    ear: Ear
    events: asyncio.Queue[Event]

    def send(self, event: Event) -> None:
        """Send one client event."""
        ...


@asynccontextmanager
async def connect_client(
    url: str, transport: Transport, clock: Clock, token: str | None = None
) -> AsyncIterator[Client]:
    """A connected client of the server at `url` (http or https); hangs up at the end.

    Raises:
        ServerError: unreachable, refused, or no connection within 15 s.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ServerError(f"{url!r} is no address of a server: write http://host:port")
    kind = WebRtcClient if transport == "webrtc" else WebSocketClient
    client = kind(url.rstrip("/"), clock, token)
    try:
        try:
            async with asyncio.timeout(15):
                await client.open()
        except TimeoutError:
            raise ServerError(f"no {transport} connection with {url} within 15 s") from None
        yield client
    finally:
        await client.close()


class WebRtcClient:
    """A caller by aiortc, with this package's jitter buffer on its side too: no playout delay is added."""

    def __init__(self, url: str, clock: Clock, token: str | None = None) -> None:
        self.mic = Playout()
        self.ear = Ear(paced=True)
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.receiver = AudioReceiver(lambda pcm: self.ear.hear(pcm, clock.now()), clock)
        self.location: str | None = None
        self._url = url
        self._clock = clock
        self._token = token
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._channel: RTCDataChannel | None = None
        self._ticking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Offer, answer, and wait until the data channel is open."""
        self._channel = channel = self._peer.createDataChannel("oai-events")
        opened = asyncio.Event()
        channel.on("open", opened.set)
        channel.on("message", lambda text: self.events.put_nowait(json.loads(text)))
        self._peer.addTrack(PlayoutTrack(self.mic, self._clock))
        transceiver = self._peer.getTransceivers()[0]
        tap(transceiver.receiver, self.receiver)
        assert self._peer.sctp is not None
        addresses = host_addresses(loopback=is_loopback(urlsplit(self._url).hostname or ""))
        for dtls in (transceiver.sender.transport, self._peer.sctp.transport):
            choose_addresses(dtls.transport, addresses)
        await self._peer.setLocalDescription(await self._peer.createOffer())
        answer = await asyncio.to_thread(self._post, self._peer.localDescription.sdp)
        await self._peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        self._ticking = asyncio.create_task(self._tick())
        await opened.wait()

    def send(self, event: Event) -> None:
        assert self._channel is not None
        self._channel.send(json.dumps(event))

    async def close(self) -> None:
        """Hang up."""
        if self._ticking is not None:
            self._ticking.cancel()
        await self._peer.close()

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(_TICK)
            self.receiver.tick()

    def _post(self, offer: str) -> str:
        headers = {"Content-Type": "application/sdp"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url + "/v1/realtime/calls", offer.encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=15) as response:
                self.location = response.headers.get("Location")
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            raise ServerError(f"{self._url} refused the call: {_reason(error.read(), error.reason)}") from None
        except (OSError, ValueError) as error:
            raise ServerError(f"cannot reach {self._url}: {getattr(error, 'reason', error)}") from None


class WebSocketClient:
    """A caller over WebSocket: PCM16 at 24 kHz both ways."""

    def __init__(self, url: str, clock: Clock, token: str | None = None) -> None:
        self.mic = Playout()
        self.ear = Ear(paced=False)
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._url = url
        self._clock = clock
        self._token = token
        self._socket: ClientConnection | None = None
        self._outgoing: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Connect and begin to stream the microphone."""
        scheme, place, path, _, _ = urlsplit(self._url)
        address = urlunsplit(({"https": "wss"}.get(scheme, "ws"), place, path + "/v1/realtime", "model=bench", ""))
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            self._socket = await connect(address, additional_headers=headers, max_size=2**24)
        except (OSError, InvalidHandshake, ValueError) as error:
            raise ServerError(f"cannot open a WebSocket with {self._url}: {' '.join(str(error).split())}") from None
        self._tasks = [asyncio.create_task(work()) for work in (self._speak, self._write, self._read)]

    def send(self, event: Event) -> None:
        self._outgoing.put_nowait(json.dumps(event))

    async def close(self) -> None:
        """Close the socket."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    async def _speak(self) -> None:
        resampler = StreamResampler(SAMPLE_RATE, _WIRE_RATE)
        due = self._clock.now()
        while True:
            pcm = resampler.process(self.mic.pull(FRAME))
            if len(pcm):
                coded = np.round(np.clip(pcm, -1, 1) * 32767).astype("<i2").tobytes()
                self.send({"type": "input_audio_buffer.append", "audio": base64.b64encode(coded).decode()})
            due += _TICK
            await self._clock.sleep(due - self._clock.now())

    async def _write(self) -> None:
        assert self._socket is not None
        while True:
            await self._socket.send(await self._outgoing.get())

    async def _read(self) -> None:
        assert self._socket is not None
        resampler = StreamResampler(_WIRE_RATE, SAMPLE_RATE)
        try:
            async for text in self._socket:
                event: Event = json.loads(text)
                if event["type"] == "response.output_audio.delta":
                    coded = np.frombuffer(base64.b64decode(event["delta"]), "<i2")
                    pcm = coded.astype(np.float32) / np.float32(32768)
                    self.ear.hear(resampler.process(pcm), self._clock.now())
                    self.ear.expect(True)
                elif event["type"] in ("response.output_audio.done", "response.done"):
                    self.ear.expect(False)
                elif event["type"] == "input_audio_buffer.speech_started":
                    self.ear.stop(self._clock.now())
                self.events.put_nowait(event)
        except ConnectionClosed as closed:
            self.events.put_nowait(
                {"type": "error", "error": {"message": f"the server closed the connection: {closed}"}}
            )


def _reason(body: bytes, fallback: str) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return fallback
