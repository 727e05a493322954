"""One WebRTC call: a peer connection, a conversation, and the rules by which both end together."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
)

from ...streaming.clock import Clock
from ...streaming.engine.protocol import Engine
from ...streaming.playout import Playout
from ..events import EventError, ServerEvent
from ..limits import Bucket
from ..refusals import Refused
from ..session.conversation import Conversation
from ..settings import Settings, is_loopback
from .channel import CHANNEL, MAX_MESSAGE, Outbox, lose_quietly
from .ice import choose_addresses, host_addresses, ice_servers, is_alive
from .offer import Offer
from .receive import AudioReceiver, tap
from .track import PlayoutTrack

log = logging.getLogger(__name__)

MAX_WAITING = 256
"""Client events that may wait to be worked off; a data channel cannot be told to wait, so a flood ends the call."""

_TICK = 0.02
_LOOK = 0.5
_GRACE = 2.0
"""Seconds that a conversation may take to end by itself before it is cancelled."""


class Call:
    """One caller, from the offer to the hang-up.

    Args:
        id: names the call in its URL.
        on_end: called once, when the call is over and its slot is free.

    Attributes:
        reason: why it ended, one word; None while it lasts.
    """

    def __init__(
        self, id: str, engine: Engine, settings: Settings, clock: Clock, on_end: Callable[["Call"], None]
    ) -> None:
        self.id = id
        self.reason: str | None = None
        self.playout = Playout()
        self.conversation = Conversation(
            engine, settings, send=self._send, playout=self.playout, transport="webrtc", clock=clock
        )
        self.receiver = AudioReceiver(self.conversation.hear, clock)
        self._settings = settings
        self._clock = clock
        self._on_end = on_end
        self._outbox: Outbox | None = None
        self._inbox: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        self._hung_up = asyncio.Event()
        self._peer: RTCPeerConnection | None = None
        self._talk: asyncio.Task[None] | None = None
        self._life: asyncio.Task[None] | None = None

    async def answer(self, offer: Offer, session: dict[str, Any]) -> str:
        """Take a slot and answer the offer. session: changes to the session, before those that come with the offer.

        Returns:
            SDP with all our candidates.

        Raises:
            EngineFullError: no slot is free.
            Refused: aiortc cannot answer this offer.
            EventError: the session cannot be had.
        """
        if offer.events:
            self._outbox = Outbox(self._settings.max_outgoing_bytes)
        await self.conversation.open(session, offer.session or {})
        self._talk = asyncio.create_task(self.conversation.run(), name=f"conversation of {self.id}")
        self._life = asyncio.create_task(self._live(), name=f"call {self.id}")
        try:
            return await self._negotiate(offer)
        except BaseException as error:
            await self.hang_up("offer_failed")
            if isinstance(error, Exception) and not isinstance(error, Refused):
                log.info("call %s: offer refused: %r", self.id, error)
                raise Refused(400, "malformed_sdp", f"the offer cannot be answered: {_one_line(error)}") from None
            raise

    async def hang_up(self, reason: str) -> None:
        """End the call; returns when its slot is free and its sockets are closed."""
        self._end(reason)
        if self._life is not None and self._life is not asyncio.current_task():
            await asyncio.shield(self._life)

    async def _negotiate(self, offer: Offer) -> str:
        peer = self._peer = RTCPeerConnection(RTCConfiguration(iceServers=ice_servers(self._settings)))
        peer.on("datachannel", self._on_channel)
        peer.on("connectionstatechange", self._on_state)
        peer.addTrack(PlayoutTrack(self.playout, self._clock))
        transceiver = peer.getTransceivers()[0]
        capabilities = RTCRtpReceiver.getCapabilities("audio")
        transceiver.setCodecPreferences(
            [codec for codec in capabilities.codecs if codec.mimeType == "audio/opus"] if capabilities else []
        )
        tap(transceiver.receiver, self.receiver)
        # Firefox ends its list of candidates in the offer. Where none of them resolves (mDNS names), aioice would then
        # give up the component before gathering ours; peers reach us without a candidate of theirs.
        sdp = offer.sdp.replace("a=end-of-candidates\r\n", "")
        await peer.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        addresses = self._settings.ice_addresses or host_addresses(loopback=is_loopback(self._settings.host))
        transports = {transceiver.sender.transport}
        if peer.sctp is not None:
            transports.add(peer.sctp.transport)
            lose_quietly(peer.sctp)
        for dtls in transports:
            choose_addresses(dtls.transport, addresses)
            # A peer that says good-bye closes DTLS; the connection's own state would only notice by ICE, 30 s later.
            dtls.on("statechange", self._on_state)
        await peer.setLocalDescription(await peer.createAnswer())
        if not any(dtls.transport.iceGatherer.getLocalCandidates() for dtls in transports):
            raise Refused(503, "no_address", "this server has no network address to offer; set ice_addresses")
        answer: str = peer.localDescription.sdp
        return answer

    async def _live(self) -> None:
        """Everything that has to happen while the call lasts, and its end."""
        assert self._talk is not None
        talk = self._talk
        talk.add_done_callback(lambda _: self._end("conversation_ended"))
        work = [
            asyncio.create_task(self._tick(), name=f"ticks of {self.id}"),
            asyncio.create_task(self._watch(), name=f"watch of {self.id}"),
            asyncio.create_task(self._read(), name=f"events of {self.id}"),
        ]
        try:
            await self._hung_up.wait()
        finally:
            for task in work:
                task.cancel()
            self.conversation.close(self.reason or "server_stopped")
            await asyncio.wait({talk}, timeout=_GRACE)
            talk.cancel()
            await asyncio.gather(talk, *work, return_exceptions=True)
            if not talk.cancelled() and (error := talk.exception()) is not None:
                log.error("call %s: the conversation failed", self.id, exc_info=error)
            await self._close_peer()
            log.info("call %s ended: %s; %s", self.id, self.reason, self.receiver.stats)
            self._on_end(self)

    async def _read(self) -> None:
        """Bring client events to the conversation, no faster than it works them off or than is allowed."""
        rate = self._settings.events_per_second
        events = Bucket(rate, 2 * rate, self._clock)
        while True:
            await events.wait()
            self.conversation.receive(await self._inbox.get())
            await self.conversation.settled()

    async def _tick(self) -> None:
        """Keep the receiver's time."""
        while True:
            await self._clock.sleep(_TICK)
            self.receiver.tick()

    async def _watch(self) -> None:
        """End a call that never connects, or whose peer is gone without a good-bye (a closed tab says none)."""
        now = self._clock.now()
        connect_by, last_sign, received = now + self._settings.connect_timeout_s, now, -1
        while True:
            await self._clock.sleep(_LOOK)
            now = self._clock.now()
            peer = self._peer
            if peer is None or peer.connectionState != "connected":
                if now > connect_by:
                    self._end("not_connected")
                last_sign = now
                continue
            connect_by = float("inf")
            count = await _packets_received(peer)
            if count != received or await is_alive(peer.getTransceivers()[0].sender.transport.transport):
                received, last_sign = count, self._clock.now()
            elif now - last_sign > self._settings.peer_timeout_s:
                self._end("peer_silent")

    async def _close_peer(self) -> None:
        if self._peer is None:
            return
        for _ in range(25):  # let the last events out: they say why
            if self._outbox is None or self._outbox.empty or self._peer.connectionState != "connected":
                break
            await self._clock.sleep(_TICK)
        await self._peer.close()

    def _end(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
        self._hung_up.set()

    def _send(self, event: ServerEvent) -> None:
        if self._outbox is not None and not self._outbox.put(event.to_json()):
            self._end("slow_reader")

    def _on_state(self) -> None:
        assert self._peer is not None
        transports = [transceiver.sender.transport for transceiver in self._peer.getTransceivers()]
        if self._peer.connectionState in ("failed", "closed") or any(
            dtls.state in ("closed", "failed") for dtls in transports
        ):
            self._end("disconnected")

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label != CHANNEL or self._outbox is None:
            channel.close()
            return
        channel.on("message", self._on_message)
        channel.on("close", lambda: self._end("disconnected"))
        self._outbox.attach(channel)

    def _on_message(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            message = message.decode("utf-8", errors="replace")
        if len(message) > MAX_MESSAGE:
            error = EventError(
                "event_too_large", f"a data channel takes events of up to {MAX_MESSAGE} bytes: send less"
            )
            self._send(error.event())
            return
        try:
            self._inbox.put_nowait(message)
        except asyncio.QueueFull:
            self._end("flooded")


async def _packets_received(peer: RTCPeerConnection) -> int:
    report = await peer.getStats()
    return sum(stats.packetsReceived for stats in report.values() if stats.type == "transport")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
