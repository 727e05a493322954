"""A Hermes session: from the wake word, or from startSession, to sessionEnded with its reason."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from uuid import uuid4

from ...models.errors import SpeechGPTGenError
from ...streaming.frames import Pcm
from ..sentences import passages
from ..speech import say_all, without_gaps
from .desk import Desk
from .line import Line
from .messages import HermesError, StartSession
from .orders import End, Order
from .player import Player
from .talk import Talk

log = logging.getLogger(__name__)


class Dialogue:
    """One session on one site.

    wakeword: its id, if that is what began it.
    """

    def __init__(self, desk: Desk, player: Player, start: StartSession, wakeword: str | None = None) -> None:
        self.id = str(uuid4())
        self.site = start.site_id
        self._desk, self._player, self._start, self._wakeword = desk, player, start, wakeword
        self._custom_data = start.custom_data
        self._orders: deque[Order] = deque()
        self._ordered = asyncio.Event()
        self._history: list[tuple[str, str]] = []
        self._talk: Talk | None = None
        self._muted = False
        self._turns = 0

    def hear(self, pcm: Pcm) -> None:
        """The site's microphone, (N,) at 16 kHz."""
        if self._talk is not None:
            self._talk.hear(pcm)

    def mute(self, muted: bool) -> None:
        """Whether the site may be listened to."""
        self._muted = muted
        if self._talk is not None:
            self._talk.mute(muted)

    def stop_listening(self) -> None:
        """The turn of the person is over."""
        if self._talk is not None:
            self._talk.stop_listening()

    def order(self, order: Order, custom_data: str | None = None) -> None:
        """Continue in another way, or end."""
        self._custom_data = custom_data if custom_data is not None else self._custom_data
        self._orders.append(order)
        self._ordered.set()
        if self._talk is not None:
            self._talk.nudge()

    async def run(self) -> None:
        """Hold the session; however it ends, that is told."""
        about = {"siteId": self.site, "sessionId": self.id}
        self._desk.publish(
            "hermes/dialogueManager/sessionStarted", **about, customData=self._custom_data, lang=self._start.lang
        )
        self._desk.publish("hermes/hotword/toggleOff", siteId=self.site, reason="dialogueSession")
        end = End("error", error="the server stops")
        try:
            end = await self._hold()
        except SpeechGPTGenError as error:
            end = End("error", error=str(error))
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a Hermes session stumbled")
            end = End("error", error="something went wrong inside the server")
        finally:
            if end.error is not None:
                self._desk.complain(HermesError("dialogueManager", end.error, self.site, self.id))
            termination = {"reason": end.reason, **({"error": end.error} if end.error else {})}
            self._desk.publish(
                "hermes/dialogueManager/sessionEnded", termination=termination, **about, customData=self._custom_data
            )
            self._desk.publish("hermes/hotword/toggleOn", siteId=self.site, reason="dialogueSession")

    async def _hold(self) -> End:
        init = self._start.init
        if init.text:
            await self._say(init.text)
        if init.type == "notification":
            return self._end() or End()
        while True:
            order = self._next() or await self._converse()
            if order is None:
                return End("nominal" if self._turns else "timeout")
            if order.text:
                await self._say(order.text)
            if isinstance(order, End):
                return order

    async def _converse(self) -> Order | None:
        """Let the agent talk with the person until something is ordered, or nobody speaks any more."""
        async with Line.on(self._desk) as line:
            self._talk = Talk(
                self._desk,
                self._player,
                line,
                site=self.site,
                session=self.id,
                history=self._history,
                ordered=self._next,
                wakeword=self._wakeword,
                tell_unrecognised=bool(self._start.init.send_intent_not_recognized),
            )
            self._talk.mute(self._muted)
            try:
                return await self._talk.run()
            finally:
                self._turns += self._talk.turns
                self._talk = None

    async def _say(self, text: str) -> None:
        """Speak a text, as words of the agent; an end other than nominal cuts it short."""
        self._history.append(("assistant", text))
        speech = asyncio.create_task(speak(self._desk, self._player, text))
        try:
            while not speech.done():
                self._ordered.clear()
                ordered = asyncio.ensure_future(self._ordered.wait())
                await asyncio.wait({speech, ordered}, return_when=asyncio.FIRST_COMPLETED)
                ordered.cancel()
                if any(isinstance(order, End) and order.reason != "nominal" for order in self._orders):
                    return
            speech.result()
        finally:
            speech.cancel()
            await asyncio.gather(speech, return_exceptions=True)

    def _next(self) -> Order | None:
        return self._orders.popleft() if self._orders else None

    def _end(self) -> End | None:
        return next((order for order in self._orders if isinstance(order, End)), None)


async def speak(desk: Desk, player: Player, text: str, id: str | None = None, volume: float = 1.0) -> None:
    """Speak a text on a site, on a slot of its own. Raises TextError, EngineFullError, EngineError, LinkFullError."""
    slot = await desk.engine.open(voice=desk.settings.voice)
    try:
        await player.play(without_gaps(say_all(slot, passages(text)), desk.clock, desk.phrases.wait), id, volume)
    finally:
        await slot.close()
