"""One site: a satellite's microphone and loudspeaker, and who uses them now."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any

from ...models.errors import AudioError, SpeechGPTGenError
from .desk import Desk
from .dialogue import Dialogue, speak
from .messages import AsrToggle, Component, HermesError, Say, StartListening, StartSession, StopListening
from .orders import End
from .player import Player
from .scribe import Scribe
from .wav import WavDecoder

log = logging.getLogger(__name__)

MAX_QUEUED = 8
"""Sessions, and texts to be said, that may wait on one site."""

QUIET_S = 1.0
"""Sound that cannot be heard is told of at most this often: it comes fifty times a second."""


class Site:
    """At most one dialogue at a time, and listening for others' sessions beside it."""

    def __init__(self, desk: Desk, name: str) -> None:
        self.name = name
        self.dialogue: Dialogue | None = None
        self.player = Player(desk, name)
        self._desk = desk
        self._ears: dict[str | None, WavDecoder] = {}
        self._queue: deque[StartSession] = deque()
        self._successor: tuple[StartSession, str | None] | None = None
        self._scribes: dict[str | None, Scribe] = {}
        self._saying = 0
        self._muted: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._complained_at = float("-inf")

    @property
    def busy(self) -> bool:
        """Whether anything goes on here, or is to be remembered."""
        return bool(self._tasks or self._queue or self._muted)

    async def close(self) -> None:
        """End everything; the session is told why."""
        self._queue.clear()
        self._successor = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Microphone ------------------------------------------------------------------------------------------------------

    def hear(self, wav: bytes, session: str | None = None) -> None:
        """A message with sound, for everybody who listens, or for one session only. Raises HermesError."""
        dialogue = self.dialogue if self.dialogue is not None and session in (None, self.dialogue.id) else None
        scribes = [scribe for name, scribe in self._scribes.items() if session in (None, name)]
        listeners: list[Dialogue | Scribe] = [*([dialogue] if dialogue is not None else []), *scribes]
        if not listeners:
            self._ears.pop(session, None)
            return
        try:
            pcm = self._ears.setdefault(session, WavDecoder())(wav)
        except AudioError as error:
            now = self._desk.clock.now()
            if now - self._complained_at >= QUIET_S:
                self._complained_at = now
                raise HermesError("asr", str(error), self.name, session) from None
            return
        for listener in listeners:
            listener.hear(pcm)

    def toggle(self, toggle: AsrToggle, on: bool) -> None:
        """Whether to listen; each reason not to must be taken back."""
        (self._muted.discard if on else self._muted.add)(toggle.reason or "")
        for listener in (self.dialogue, *self._scribes.values()):
            if listener is not None:
                listener.mute(bool(self._muted))

    def start_listening(self, start: StartListening) -> None:
        """Transcribe an utterance for somebody else's session."""
        if self.dialogue is not None and start.session_id == self.dialogue.id:
            return
        if len(self._scribes) >= MAX_QUEUED:
            raise HermesError("asr", f"{MAX_QUEUED} listen to this site already", self.name, start.session_id)
        if start.session_id in self._scribes:
            return
        scribe = self._scribes[start.session_id] = Scribe(self._desk, start)
        scribe.mute(bool(self._muted))

        async def listen() -> None:
            try:
                await scribe.run()
            finally:
                del self._scribes[start.session_id]

        self._do(listen(), "asr", start.session_id)

    def stop_listening(self, stop: StopListening) -> None:
        """An utterance is over."""
        if stop.session_id in self._scribes:
            self._scribes[stop.session_id].stop_listening()
        elif self.dialogue is not None and stop.session_id in (None, self.dialogue.id):
            self.dialogue.stop_listening()

    # Loudspeaker -----------------------------------------------------------------------------------------------------

    def say(self, say: Say) -> None:
        """Speak a text, behind what is being played. Raises HermesError when too much waits."""
        if self._saying >= MAX_QUEUED:
            raise HermesError("tts", f"{MAX_QUEUED} texts wait on this site already", self.name, say.session_id)
        self._saying += 1

        async def speech() -> None:
            try:
                await speak(self._desk, self.player, say.text, say.id, 1.0 if say.volume is None else say.volume)
            finally:
                self._saying -= 1
                # Also after a failure, which is told: who waits for the end must not wait for ever.
                self._desk.publish("hermes/tts/sayFinished", id=say.id, siteId=self.name, sessionId=say.session_id)

        self._do(speech(), "tts", say.session_id)

    # Dialogue --------------------------------------------------------------------------------------------------------

    def wake(self, start: StartSession, wakeword: str) -> None:
        """A wake word was heard: what goes on gives way."""
        self._supersede(start, wakeword)

    def start(self, start: StartSession) -> None:
        """Begin a session, or let it wait for the end of the present one. Raises HermesError when too many wait."""
        if self.dialogue is None or start.init.can_be_enqueued is False:
            self._supersede(start)
            return
        if len(self._queue) >= MAX_QUEUED:
            raise HermesError("dialogueManager", f"{MAX_QUEUED} sessions wait on this site already", self.name)
        self._queue.append(start)
        self._desk.publish(
            "hermes/dialogueManager/sessionQueued",
            siteId=self.name,
            sessionId=self.dialogue.id,
            customData=start.custom_data,
        )

    def _supersede(self, start: StartSession, wakeword: str | None = None) -> None:
        if self.dialogue is None:
            self._begin(start, wakeword)
            return
        if self._successor is None:
            self.dialogue.order(End("abortedByUser"))
        self._successor = (start, wakeword)

    def _begin(self, start: StartSession, wakeword: str | None = None) -> None:
        dialogue = self.dialogue = Dialogue(self._desk, self.player, start, wakeword)
        dialogue.mute(bool(self._muted))

        async def hold() -> None:
            try:
                await dialogue.run()
            finally:
                self.dialogue = None
            successor, self._successor = self._successor, None
            if successor is not None:
                self._begin(*successor)
            elif self._queue:
                self._begin(self._queue.popleft())

        self._do(hold(), "dialogueManager", dialogue.id)

    def _do(self, work: Coroutine[Any, Any, None], component: Component, session: str | None) -> None:
        """Work on something that may fail; then it is told."""

        async def watched() -> None:
            try:
                await work
            except SpeechGPTGenError as error:
                self._desk.complain(HermesError(component, str(error), self.name, session))
            except Exception:
                log.exception("work on a Hermes site failed")
                message = "something went wrong inside the server"
                self._desk.complain(HermesError(component, message, self.name, session))

        task = asyncio.create_task(watched())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
