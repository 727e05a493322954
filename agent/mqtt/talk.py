"""The agent and a person on one site: listening, answering, listening again, until nobody speaks any more.

A satellite hears itself, so it is not listened to while it plays (`mqtt_barge_in`: unless it cancels its echo).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from ...models.errors import SpeechGPTGenError
from ...streaming.frames import Pcm, milliseconds
from .. import events
from ..event_objects import MessageItem, Response
from ..events import ServerEvent
from ..speech import without_gaps
from .desk import Desk
from .line import Line
from .messages import HermesError
from .orders import End, Order
from .player import Player

OUTAGE_S = 30.0
"""Seconds that a session waits for a broker that is away."""

TICK_S = 0.02


class Talk:
    """One stretch of a session, on one engine slot.

    history: (role, text) of what was said before in the session; what is said now is added. ordered: takes the next
    order for the session, if there is one.
    """

    def __init__(
        self,
        desk: Desk,
        player: Player,
        line: Line,
        *,
        site: str,
        session: str,
        history: list[tuple[str, str]],
        ordered: Callable[[], Order | None],
        wakeword: str | None,
        tell_unrecognised: bool,
    ) -> None:
        self.turns = 0
        self._desk, self._player, self._line, self._site, self._session = desk, player, line, site, session
        self._history, self._ordered = history, ordered
        self._wakeword, self._tell_unrecognised = wakeword, tell_unrecognised
        self._since = self._heard_at = self._asked_at = desk.clock.now()
        self._speaking = False
        self._away_since: float | None = None
        self._listening = False
        self._muted = False
        self._answer: asyncio.Task[None] | None = None
        self._answered = asyncio.Event()
        self._item_id: str | None = None
        self._failed = False

    def hear(self, pcm: Pcm) -> None:
        """The site's microphone, (N,) at 16 kHz."""
        if self._muted or (self._player.sounding and not self._desk.settings.mqtt_barge_in):
            return
        self._heard_at = self._desk.clock.now()
        if not self._line.hear(pcm):
            self._complain("more sound comes than can be heard: some of it was lost")

    def mute(self, muted: bool) -> None:
        """Do not listen, or listen again; what was being said is forgotten."""
        if muted and not self._muted:
            self._line.send("input_audio_buffer.clear")
            self._speaking = False
        self._muted = muted
        self._since = self._desk.clock.now()

    def stop_listening(self) -> None:
        """The person has let go of the button: the turn is over."""
        self._line.send("input_audio_buffer.commit")

    def nudge(self) -> None:
        """There is an order: do not wait until something else happens."""
        self._line.events.put_nowait(None)

    async def run(self) -> Order | None:
        """Talk until an order comes, or (None) nobody speaks any more."""
        for role, text in self._history:
            kind = "input_text" if role == "user" else "output_text"
            item = {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}
            self._line.send("conversation.item.create", item=item)
        self._listen()
        try:
            while True:
                event = await self._line.events.get()
                if (order := self._ordered()) is not None:
                    return order
                if event is not None:
                    self._on_event(event)
                elif (over := self._over()) is not None:
                    return over
                elif self._is_quiet():
                    return None
        finally:
            await self._stop_playing()

    # Time ----------------------------------------------------------------------------------------------------------

    def _over(self) -> Order | None:
        """An end that nobody ordered."""
        now = self._desk.clock.now()
        if self._desk.link.connected:
            self._away_since = None
        else:
            self._since = self._heard_at = now
            self._away_since = self._away_since if self._away_since is not None else now
            if now - self._away_since > OUTAGE_S:
                return End("error", error=f"the broker was away for over {OUTAGE_S:g} s")
        if (reason := self._line.ended) is not None:
            return End("timeout" if reason.startswith("session_") else "error", error=reason)
        return None

    def _is_quiet(self) -> bool:
        waited = self._desk.clock.now() - (self._heard_at if self._speaking else self._since)
        return self._answer is None and waited > self._desk.settings.mqtt_follow_up_s

    def _listen(self) -> None:
        self._since = self._desk.clock.now()
        self._listening = True
        self._desk.publish("hermes/asr/startListening", siteId=self._site, sessionId=self._session, stopOnSilence=True)

    def _hush(self) -> None:
        if self._listening:
            self._listening = False
            self._desk.publish("hermes/asr/stopListening", siteId=self._site, sessionId=self._session)

    # Events of the conversation --------------------------------------------------------------------------------------

    def _on_event(self, event: ServerEvent) -> None:
        now = self._desk.clock.now()
        match event:
            case events.SpeechStarted():
                self._speaking = True
                self._interrupt()
            case events.SpeechStopped():
                self._speaking = False
                self._since = self._asked_at = now
                self._hush()
            case events.TranscriptionCompleted(transcript=text):
                self._since = now
                self._captured(text.strip())
            case events.ResponseCreated():
                self._answered.clear()
                self._failed = False
                self._answer = asyncio.create_task(self._speak())
                self._answer.add_done_callback(self._spoken)
            case events.OutputItemAdded(item=MessageItem(id=id)):
                self._item_id = id
            case events.ResponseDone(response=response):
                self._done(response)
            case events.Error(error=error) if error.code != "input_audio_buffer_commit_empty":
                self._complain(error.message)

    def _captured(self, text: str) -> None:
        if not text:
            return
        self.turns += 1
        self._history.append(("user", text))
        self._desk.publish(
            "hermes/asr/textCaptured",
            text=text,
            likelihood=1.0,
            seconds=round(self._desk.clock.now() - self._asked_at, 3),
            siteId=self._site,
            sessionId=self._session,
            wakewordId=self._wakeword,
        )

    def _done(self, response: Response) -> None:
        said = " ".join(
            part.transcript or "" for item in response.output if isinstance(item, MessageItem) for part in item.content
        ).strip()
        if said:
            self._history.append(("assistant", said))
        error = response.status_details.error if response.status_details is not None else None
        self._failed = error is not None and error.code != "no_speech"
        if error is not None and not self._failed and self._tell_unrecognised:
            self._desk.publish(
                "hermes/dialogueManager/intentNotRecognized", input="", siteId=self._site, sessionId=self._session
            )
        self._answered.set()

    # The answer ------------------------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        """Play the answer; where it fails, say so aloud."""
        await self._player.play(without_gaps(self._sound(), self._desk.clock, self._desk.phrases.wait))
        if self._failed:
            await self._player.play(_once(self._desk.phrases.sorry))

    async def _sound(self) -> AsyncIterator[Pcm]:
        playout = self._line.playout
        while True:
            if playout.waiting:
                yield playout.pull(playout.waiting)
            elif self._answered.is_set():
                return
            else:
                playout.pull(0)  # lets a voice that has said everything go
                await self._desk.clock.sleep(TICK_S)

    def _spoken(self, answer: asyncio.Task[None]) -> None:
        if answer is not self._answer:
            return
        self._answer = None
        if not answer.cancelled():
            if (error := answer.exception()) is not None:
                message = str(error) if isinstance(error, SpeechGPTGenError) else "the answer could not be played"
                self._complain(message)
            self._listen()

    def _interrupt(self) -> None:
        """The person speaks while the site plays: stop, and keep of the answer what was heard."""
        answer, self._answer = self._answer, None
        if answer is None:
            return
        answer.cancel()
        heard = int(milliseconds(self._player.heard))
        if self._item_id is not None and self._player.sounding:
            self._line.send("conversation.item.truncate", item_id=self._item_id, content_index=0, audio_end_ms=heard)
        self._listen()

    async def _stop_playing(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await answer

    def _complain(self, message: str) -> None:
        self._desk.complain(HermesError("dialogueManager", message, self._site, self._session))


async def _once(pcm: Pcm) -> AsyncIterator[Pcm]:
    yield pcm
