"""A caller over WebSocket: PCM16 at 24 kHz in events, both ways."""

import asyncio
import base64
import json
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from ...models.errors import AudioError
from ...streaming.clock import Clock
from ...streaming.frames import FRAME, SAMPLE_RATE, milliseconds
from ...streaming.pcm import from_pcm16, to_pcm16
from ...streaming.playout import Source
from ...streaming.resample import StreamResampler
from .connection import Address, Event, Network, ServerError, Sink, refusal

_WIRE_RATE = 24_000
_TICK = 0.02
_MAX_EVENT = 2**24


class WebSocketConnection:
    """The client's part of a spoken turn: it plays the answer, and when it is interrupted says how far it came."""

    def __init__(
        self, address: Address, source: Source, sink: Sink, clock: Clock, network: Network | None = None
    ) -> None:
        self.events: asyncio.Queue[Event | ServerError] = asyncio.Queue()
        self._address, self._source, self._sink, self._clock, self._network = address, source, sink, clock, network
        self._socket: ClientConnection | None = None
        self._outgoing: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._resampler = StreamResampler(_WIRE_RATE, SAMPLE_RATE)
        self._interruptible = True
        self._item = ""
        self._received = 0

    async def open(self) -> None:
        """Connect and begin to stream the microphone. Raises ServerError."""
        self._sink.begin(paced=False)
        site, headers = self._address.site, self._address.headers
        address = "ws" + self._address.url.removeprefix("http") + self._address.query
        try:
            place = urlsplit(address)
            port = place.port or (443 if place.scheme == "wss" else 80)
            socket = await self._network.dial(self._address.host, port) if self._network is not None else None
            self._socket = await connect(address, additional_headers=headers, max_size=_MAX_EVENT, sock=socket)
        except InvalidStatus as error:
            answer = error.response
            after = answer.headers.get("Retry-After")
            raise refusal(site, answer.status_code, bytes(answer.body or b""), answer.reason_phrase, after) from None
        except (OSError, InvalidHandshake, ValueError) as error:
            raise ServerError(f"cannot open a WebSocket with {site}: {' '.join(str(error).split())}") from None
        self._tasks = [asyncio.create_task(work()) for work in (self._speak, self._write, self._read)]

    def send(self, event: Event) -> None:
        self._outgoing.put_nowait(json.dumps(event))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    async def _speak(self) -> None:
        resampler = StreamResampler(SAMPLE_RATE, _WIRE_RATE)
        due = self._clock.now()
        while True:
            pcm = resampler.process(self._source.pull(FRAME))
            if len(pcm):
                audio = base64.b64encode(to_pcm16(pcm)).decode()
                self.send({"type": "input_audio_buffer.append", "audio": audio})
            # A machine that slept does not send the sleep's silence in one burst.
            due = max(due + _TICK, self._clock.now() - 10 * _TICK)
            await self._clock.sleep(due - self._clock.now())

    async def _write(self) -> None:
        assert self._socket is not None
        try:
            while True:
                await self._socket.send(await self._outgoing.get())
        except ConnectionClosed:
            self._tasks[0].cancel()  # the reader tells; the microphone must not fill the queue meanwhile

    async def _read(self) -> None:
        assert self._socket is not None
        why = ""
        try:
            async for text in self._socket:
                event: Event = json.loads(text)
                self._play(event)
                self.events.put_nowait(event)
        except (ConnectionClosed, ValueError, AudioError) as error:
            why = str(error)
        self._tasks[0].cancel()
        why = why or f"it closed with {self._socket.close_code} {self._socket.close_reason or ''}".strip()
        self.events.put_nowait(ServerError(f"the connection with {self._address.site} was lost: {why}"))

    def _play(self, event: Event) -> None:
        kind = event["type"]
        if kind == "response.output_audio.delta":
            if event.get("item_id") != self._item:
                self._item, self._received = event.get("item_id", ""), 0
            pcm = self._resampler.process(from_pcm16(base64.b64decode(event["delta"])))
            self._received += len(pcm)
            self._sink.push(pcm)
            self._sink.expect(True)
        elif kind == "response.output_audio.done":
            rest = self._resampler.flush()
            self._received += len(rest)
            self._sink.push(rest)
            self._sink.expect(False)
        elif kind in ("session.created", "session.updated"):
            turns = event["session"].get("audio", {}).get("input", {}).get("turn_detection") or {}
            self._interruptible = turns.get("interrupt_response") is not False
        elif (kind == "input_audio_buffer.speech_started" and self._interruptible) or (
            kind == "response.done" and event["response"].get("status") == "cancelled"
        ):
            self._interrupt()

    def _interrupt(self) -> None:
        """Stop the sound. Only this end knows where, so it tells the server what was heard of the answer."""
        unplayed = self._sink.flush()
        self._sink.expect(False)
        self._resampler.flush()
        if unplayed and self._item:
            heard = int(milliseconds(max(0, self._received - unplayed)))
            cut = {"item_id": self._item, "content_index": 0, "audio_end_ms": heard}
            self.send({"type": "conversation.item.truncate", **cut})
