"""One conversation: events and sound in, events and sound out.

There is one writer: a task that takes actions from an inbox, one after the other. Transports, the engine's outputs and
the clock only put actions in, so no two things ever happen at once and nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Literal

from ...models.errors import ConfigError, SpeechGPTGenError
from ...streaming.clock import Clock
from ...streaming.engine.protocol import Engine, EngineSession, Finished, Generation
from ...streaming.frames import SAMPLE_RATE, Pcm
from ...streaming.playout import Playout
from ...streaming.vad import Vad, make_vad
from .. import client_events as asked
from .. import events, metrics
from ..client_events import ClientEvent, parse_client_event
from ..event_objects import ResponseOptions, Session, new_id
from ..events import EventError, ServerEvent
from ..settings import Settings
from ..voices import VoiceBook
from .codec import AudioDecoder
from .config import first_session, updated_session
from .floor import Floor
from .function_calls import check_item, check_tools
from .items import Entry, Items
from .pacing import Pacer
from .plan import item_speech

log = logging.getLogger(__name__)

TICK = 0.02
"""Seconds between two looks at what has been played: one frame."""

Action = Callable[[], "Coroutine[Any, Any, None] | None"]


class Conversation:
    """One session of the Realtime protocol on one engine slot, whatever carries it.

    Args:
        engine: gives the slot. Recorded voices are known if it is a VoiceBook.
        send: takes each server event; must not block.
        playout: the agent's voice; the transport pulls it, but with "websocket" the conversation does and sends it in
            events, paced by `clock`.
        vad: the detector of the user's speech; None makes the one that the settings name.

    Attributes:
        reason: why it ended; None while it lasts.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        send: Callable[[ServerEvent], None],
        playout: Playout,
        transport: Literal["websocket", "webrtc", "mqtt"],
        clock: Clock,
        vad: Vad | None = None,
    ) -> None:
        self.reason: str | None = None
        self._engine, self._settings, self._clock = engine, settings, clock
        self._send_event, self._playout, self._transport = send, playout, transport
        self._vad = vad
        self._inbox: asyncio.Queue[Action] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._slot: EngineSession | None = None
        self._items = Items(settings.max_items)
        self._began = self._active_at = clock.now()

    @property
    def state(self) -> Literal["listening", "thinking", "speaking"]:
        """What the agent does now."""
        return self._floor.state if self._slot is not None else "listening"

    async def open(self, *changes: dict[str, Any]) -> None:
        """Take a slot of the engine; `run` does it where nobody did before.

        changes: to the session before it is told, one after the other, as in session.update. Raises EventError for
        impossible ones, EngineFullError, ConfigError.
        """
        if self._slot is not None:
            return
        info = self._engine.info
        voice = self._settings.voice or info.voices[0]
        self._session = first_session(self._settings, info.name, voice)
        for change in changes:
            self._session = updated_session(self._session, change, info)
        self._slot = await self._engine.open(voice=self._session.audio.output.voice)
        self._decoder = AudioDecoder(self._session.audio.input.format)
        websocket = self._transport == "websocket"
        self._floor = Floor(
            slot=self._slot,
            voices=lambda: self._engine.info.voices,
            session=self._session,
            items=self._items,
            settings=self._settings,
            playout=self._playout,
            pacer=Pacer(self._clock, self._settings.lead_ms) if websocket else None,
            clock=self._clock,
            vad=self._vad or make_vad(self._settings.vad),
            emit=self._send,
            follow=self._follow,
        )
        self._began = self._active_at = self._clock.now()

    async def run(self) -> None:
        """Hold the conversation until `close` or a limit; then the slot is free again.

        Raises EngineFullError before anything is sent when the engine has no slot.
        """
        await self.open()
        assert self._slot is not None
        metrics.SESSIONS.labels(self._transport).inc()
        floor = self._floor
        self._playout.on_started = lambda id: self._post(partial(floor.speaker.started, id, self._clock.now()))
        self._playout.on_drained = lambda id: self._post(partial(floor.speaker.drained, id))
        try:
            self._send(events.SessionCreated(session=self._session.model_copy(deep=True)))
            self._spawn(self._watch())
            while self.reason is None:
                await self._work(await self._inbox.get())
        finally:
            self.reason = self.reason or "cancelled"
            metrics.SESSIONS.labels(self._transport).dec()
            metrics.SESSIONS_ENDED.labels(self._transport, self.reason).inc()
            metrics.SESSION_SECONDS.observe(self._clock.now() - self._began)
            self._playout.stop()
            for task in self._tasks:
                task.cancel()
            await self._slot.close()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            while not self._inbox.empty():
                self._inbox.get_nowait()
                self._inbox.task_done()

    def hear(self, pcm: Pcm) -> None:
        """The user's microphone: float32 (N,) at 16 kHz, any N. Never blocks."""
        self._post(partial(self._hear, pcm))

    def receive(self, message: str) -> None:
        """One client event as JSON. Never blocks; what is wrong with it is answered with an `error` event."""
        self._post(partial(self._receive, message))

    def close(self, reason: str) -> None:
        """End the conversation. The first reason counts."""
        self._post(partial(self._close, reason))

    async def settled(self) -> None:
        """Wait until everything that came in has been worked off: a transport reads no faster than that."""
        if self.reason is None:
            await self._inbox.join()

    # The inbox -----------------------------------------------------------------------------------------------------

    def _post(self, action: Action) -> None:
        if self.reason is None:
            self._inbox.put_nowait(action)

    async def _work(self, action: Action) -> None:
        try:
            waiting = action()
            if waiting is not None:
                await waiting
        except EventError as error:
            self._send(error.event())
        except SpeechGPTGenError as error:
            self._send(EventError("engine_error", str(error), type="server_error").event())
        except Exception:
            log.exception("a conversation stumbled")
            message = "something went wrong inside the server; the conversation goes on"
            self._send(EventError("internal_error", message, type="server_error").event())
        finally:
            self._inbox.task_done()
            # A long queue of one session must not hold up the others.
            await asyncio.sleep(0)

    def _send(self, event: ServerEvent) -> None:
        if isinstance(event, events.Error):
            metrics.ERRORS.labels(event.error.code or "").inc()
        self._send_event(event)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _follow(self, generation: Generation) -> None:
        """Bring a generation's outputs to the inbox."""

        async def follow() -> None:
            try:
                async for output in generation:
                    self._post(partial(self._floor.on_output, generation.id, output))
            except Exception as error:
                # An engine should end with Finished("failed"); one that breaks must not leave the answer open.
                log.exception("a generation broke")
                failed = Finished("failed", f"the engine broke: {type(error).__name__}")
                self._post(partial(self._floor.on_output, generation.id, failed))

        self._spawn(follow())

    async def _watch(self) -> None:
        """The clock's part: playing, idle and length limits."""
        limits = self._settings
        while True:
            await self._clock.sleep(TICK)
            now = self._clock.now()
            if self._floor.speaker.reply is not None:
                self._post(self._floor.speaker.tick)
            if self._floor.turn is not None or self._floor.speaker.reply is not None:
                self._active_at = now
            if now - self._active_at >= limits.idle_timeout_s:
                message = f"nobody has spoken for {limits.idle_timeout_s:g} s: the session ends"
                self._post(partial(self._expire, "session_idle", message))
                return
            if now - self._began >= limits.session_max_s:
                message = f"the session has lasted {limits.session_max_s:g} s, its limit: connect anew"
                self._post(partial(self._expire, "session_expired", message))
                return

    def _expire(self, code: str, message: str) -> None:
        self._send(EventError(code, message).event())
        self._close(code)

    def _close(self, reason: str) -> None:
        self.reason = self.reason or reason

    # What comes in -------------------------------------------------------------------------------------------------

    async def _hear(self, pcm: Pcm) -> None:
        for begin in range(0, len(pcm), SAMPLE_RATE):
            self._floor.hear(pcm[begin : begin + SAMPLE_RATE])
            if begin:
                await asyncio.sleep(0)  # minutes of sound in one event are judged a second at a time

    async def _receive(self, message: str) -> None:
        event = parse_client_event(message, max_bytes=self._settings.max_event_bytes)
        del message
        try:
            if isinstance(event, asked.AudioAppend):
                await self._append(event)
            else:
                self._active_at = self._clock.now()
                await self._on_event(event)
        except EventError as error:
            error.event_id = error.event_id or event.event_id
            raise

    async def _append(self, event: asked.AudioAppend) -> None:
        if self._transport == "webrtc":
            raise EventError("invalid_event", "over WebRTC sound comes by the track, not in events", "type")
        await self._hear(self._decoder(event.audio))

    async def _on_event(self, event: ClientEvent) -> None:
        if isinstance(event, asked.SessionUpdate):
            await self._update_session(event)
        elif isinstance(event, asked.AudioCommit):
            self._floor.commit()
        elif isinstance(event, asked.AudioClear):
            self._floor.clear()
        elif isinstance(event, asked.OutputClear):
            if self._transport == "websocket":
                raise EventError(
                    "invalid_event", "over WebSocket the client has the sound: use response.cancel", "type"
                )
            self._floor.clear_output()
        elif isinstance(event, asked.ItemCreate):
            self._create_item(event)
        elif isinstance(event, asked.ItemRetrieve):
            item = self._items.get(event.item_id).item
            self._send(events.ItemRetrieved(item=item.model_copy(deep=True)))
        elif isinstance(event, asked.ItemDelete):
            self._delete_item(event.item_id)
        elif isinstance(event, asked.ItemTruncate):
            if event.content_index:
                raise EventError("invalid_value", "spoken items have one content part, of index 0", "content_index")
            self._floor.truncate(self._items.get(event.item_id), event.audio_end_ms)
        elif isinstance(event, asked.ResponseCreate):
            options = event.response or ResponseOptions()
            check_tools(options.tools, self._engine.info, "response.tools")
            for index, given in enumerate(options.input or ()):
                check_item(given, self._engine.info, f"response.input[{index}].type")
            if options.audio is not None and options.audio.output.voice:
                await self._prepare(options.audio.output.voice, "response.audio.output.voice")
            self._floor.respond(options)
        elif isinstance(event, asked.ResponseCancel):
            self._floor.cancel(event.response_id)

    async def _prepare(self, voice: str, param: str) -> None:
        """Have a recorded voice made, should it be one that waits for that. Raises EventError when it cannot be."""
        try:
            if isinstance(self._engine, VoiceBook):
                await self._engine.prepare(voice)
        except ConfigError as error:
            raise EventError("invalid_value", str(error), param) from None

    async def _update_session(self, event: asked.SessionUpdate) -> None:
        session: Session = updated_session(self._session, event.session, self._engine.info)
        await self._prepare(session.audio.output.voice, "session.audio.output.voice")
        if session.audio.input.format != self._session.audio.input.format:
            self._decoder = AudioDecoder(session.audio.input.format)
        self._session = session
        self._floor.configure(session)
        self._send(events.SessionUpdated(session=session.model_copy(deep=True)))

    def _create_item(self, event: asked.ItemCreate) -> None:
        item = event.item
        check_item(item, self._engine.info, "item.type")
        item.id = item.id or new_id("item")
        item.status = "completed"
        speech = item_speech(item, self._session, "item")
        if speech is not None:
            self._items.forget_sound()
        previous = self._items.add(Entry(item, speech=speech), event.previous_item_id)
        self._send(events.ItemAdded(item=item.model_copy(deep=True), previous_item_id=previous))
        self._send(events.ItemDone(item=item.model_copy(deep=True), previous_item_id=previous))

    def _delete_item(self, item_id: str) -> None:
        entry = self._items.get(item_id)
        reply = self._floor.speaker.reply
        if reply is not None and reply.entry is entry:
            self._floor.interrupt("client_cancelled")
        self._items.delete(item_id)
        self._send(events.ItemDeleted(item_id=item_id))
