"""One Wyoming client: its events in, ours out. A client may send several requests; they are answered in order.

A request that cannot be done gets an `error` event and the end of its connection: clients such as Home Assistant open a
connection for each request and wait for its result, so that an error alone would leave them waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from wyoming.audio import AudioChunk
from wyoming.error import Error
from wyoming.event import Event, async_write_event
from wyoming.handle import Handled, HandledChunk, HandledStart, HandledStop, NotHandled
from wyoming.ping import Pong
from wyoming.tts import SynthesizeStart, SynthesizeStopped

from ...models.errors import EngineFullError, SpeechGPTGenError
from ...streaming.clock import Clock, within
from .. import metrics
from ..event_objects import new_id
from ..settings import Settings
from ..voices import VoiceBook
from .handling import Conversations
from .info import describe
from .listening import Listener
from .speaking import MAX_TEXT, Speaker, TextStream
from .wire import WyomingError, hang_up, read_event

log = logging.getLogger(__name__)

T = TypeVar("T")

WRITE_S = 10.0
"""Seconds that a client may take to make room for an event."""

STALLED_S = 60.0
"""Seconds without an event after which a request that was begun is given up: it holds a slot."""

MAX_WAITING = 4
"""Requests that may wait on one connection."""

_CALM = frozenset({"select-program", "played", "voice-started", "voice-stopped", "streaming-started"}) | frozenset(
    {"streaming-stopped", "transcript-start", "transcript-chunk", "transcript-stop", "pong", "info"}
)
"""Events that only tell something: nothing has to be done about them."""


class Connection:
    """A connection from the first event to the last.

    speaker: makes one for this connection, given how to send an event.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        engine: VoiceBook,
        settings: Settings,
        clock: Clock,
        conversations: Conversations,
        speaker: Callable[[Callable[[Event], Awaitable[None]]], Speaker],
    ) -> None:
        self._reader, self._writer = reader, writer
        self._engine, self._settings, self._clock = engine, settings, clock
        self._conversations = conversations
        self._speaker = speaker(self._write)
        self._jobs: asyncio.Queue[Callable[[], Coroutine[Any, Any, None]]] = asyncio.Queue(MAX_WAITING)
        self._working = False
        self._listener: Listener | None = None
        self._listeners: set[Listener] = set()
        self._text: TextStream | None = None
        self._active_at = clock.now()

    async def run(self) -> None:
        """Serve the client until it goes, errs or is silent for too long; then its slots are free again."""
        tasks = {asyncio.create_task(part()) for part in (self._read, self._work, self._watch)}
        failure: BaseException | None = None
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            failure = next((error for task in done if (error := task.exception()) is not None), None)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for listener in self._listeners:
                await listener.close()
            if failure is not None:
                await self._fail(failure)
            self._writer.close()

    async def _read(self) -> None:
        while True:
            try:
                event = await read_event(self._reader, self._settings.max_event_bytes)
                if event is None:
                    return
                self._active_at = self._clock.now()
                await self._take(event)
            except WyomingError as error:
                if error.fatal or error.code != "unknown-event":
                    raise
                await self._tell(error.code, str(error))

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            self._working = True
            await job()
            self._working = False
            self._active_at = self._clock.now()

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(1.0)
            begun = self._listener is not None or self._text is not None
            limit = min(STALLED_S, self._settings.idle_timeout_s) if begun else self._settings.idle_timeout_s
            if self._clock.now() - self._active_at > limit and (begun or not self._working):
                raise WyomingError("timeout", f"nothing has come for {limit:g} s: the connection ends")

    # Events --------------------------------------------------------------------------------------------------------

    async def _take(self, event: Event) -> None:
        match event.type:
            case "describe":
                await self._write(describe(self._engine).event())
            case "ping":
                await self._write(Pong(_optional(event, "text")).event())
            case "transcribe":
                _optional(event, "name")
                _optional(event, "language")
            case "audio-start":
                _audio_format(event)
                await self._listen()
            case "audio-chunk":
                listener = _begun(self._listener, event, "audio-start")
                await listener.hear(AudioChunk(**_audio_format(event), audio=event.payload or b""))
            case "audio-stop":
                listener, self._listener = _begun(self._listener, event, "audio-start"), None
                self._do(partial(self._transcribe, listener))
            case "synthesize" if self._text is None:
                voice = self._speaker.choose(_voice(event))
                self._do(partial(self._speaker.speak, _text(event), voice))
            case "synthesize":
                pass  # the same text once more, for servers that cannot take it in pieces
            case "synthesize-start":
                if self._text is not None:
                    raise WyomingError("invalid-event", "synthesize-start again before synthesize-stop")
                voice = self._speaker.choose(_voice(event))
                self._text = TextStream()
                self._do(partial(self._speak_stream, self._text, voice))
            case "synthesize-chunk":
                _begun(self._text, event, "synthesize-start").push(_text(event))
            case "synthesize-stop":
                _begun(self._text, event, "synthesize-start").end()
                self._text = None
            case "transcript":
                self._do(partial(self._answer, _text(event), _conversation(event)))
            case kind if kind in _CALM:
                pass
            case kind:
                raise WyomingError("unknown-event", f"{kind[:80]!r} is not served here: ask `describe` for what is")

    def _do(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull:
            raise WyomingError("busy", f"{MAX_WAITING} requests wait already: wait for their results") from None

    async def _listen(self) -> None:
        if self._listener is not None:
            await self._forget(self._listener)
        self._listener = Listener(await self._engine.open(), self._write, self._settings.max_turn_s)
        self._listeners.add(self._listener)

    async def _forget(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        await listener.close()

    # Requests ------------------------------------------------------------------------------------------------------

    async def _transcribe(self, listener: Listener) -> None:
        try:
            await listener.finish()
        finally:
            await self._forget(listener)

    async def _speak_stream(self, text: TextStream, voice: str | None) -> None:
        await self._speaker.speak(text, voice)
        await self._write(SynthesizeStopped().event())

    async def _answer(self, text: str, conversation: str) -> None:
        context = {"conversation_id": conversation}
        said = ""
        async for piece in self._conversations.answer(text, conversation):
            if not said:
                await self._write(HandledStart(context).event())
            said += piece
            await self._write(HandledChunk(piece).event())
        if said:
            await self._write(HandledStop().event())
            await self._write(Handled(said.strip(), context).event())
        else:
            await self._write(NotHandled("I have no answer to that.", context).event())

    # What goes out -------------------------------------------------------------------------------------------------

    async def _write(self, event: Event) -> None:
        await within(self._clock, WRITE_S, async_write_event(event, self._writer))

    async def _tell(self, code: str, message: str) -> None:
        metrics.ERRORS.labels(code).inc()
        await self._write(Error(message, code).event())

    async def _fail(self, failure: BaseException) -> None:
        """Tell the client why its connection ends, if it still takes anything."""
        if isinstance(failure, ConnectionError | TimeoutError):
            return
        code, message = "internal", "something went wrong inside the server"
        if isinstance(failure, WyomingError):
            code, message = failure.code, str(failure)
        elif isinstance(failure, SpeechGPTGenError):
            full = isinstance(failure, EngineFullError)
            code, message = "full" if full else "failed", str(failure)
            if full:
                metrics.REFUSED.labels("full").inc()
        else:
            log.error("a Wyoming connection stumbled", exc_info=failure)
        with contextlib.suppress(ConnectionError, TimeoutError):
            await self._tell(code, message)
        await hang_up(self._reader, self._writer, self._clock)


# Fields --------------------------------------------------------------------------------------------------------------


def _begun(thing: T | None, event: Event, opener: str) -> T:
    if thing is None:
        raise WyomingError("invalid-event", f"{event.type} without {opener} before it")
    return thing


def _optional(event: Event, name: str, limit: int = 512) -> str | None:
    value = event.data.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > limit):
        raise WyomingError("invalid-event", f"{name} of {event.type} is not a text of at most {limit} characters")
    return value


def _text(event: Event) -> str:
    text = _optional(event, "text", MAX_TEXT)
    if text is None:
        raise WyomingError("invalid-event", f"{event.type} has no text")
    return text


def _audio_format(event: Event) -> dict[str, int]:
    form = {name: event.data.get(name) for name in ("rate", "width", "channels")}
    for name, value in form.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**6:
            raise WyomingError("invalid-event", f"{name} of {event.type} is not a usable number")
    return form  # type: ignore[return-value]


def _voice(event: Event) -> Any:
    if event.data.get("text_format") not in (None, "text"):
        raise WyomingError("invalid-event", "only plain text is spoken, not SSML")
    voice = event.data.get("voice") or {}
    if not isinstance(voice, dict) or not all(isinstance(value, str | None) for value in voice.values()):
        raise WyomingError("invalid-event", f"the voice of {event.type} is not an object of texts")
    return SynthesizeStart.from_event(Event(event.type, {"voice": voice})).voice


def _conversation(event: Event) -> str:
    context = event.data.get("context") or {}
    name = context.get("conversation_id") if isinstance(context, dict) else 0
    if name is not None and (not isinstance(name, str) or len(name) > 512):
        raise WyomingError("invalid-event", "the context's conversation_id is not a text of at most 512 characters")
    return name or new_id("conv")
