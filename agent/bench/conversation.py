"""Voice to voice, measured from outside: the user's last voiced sample to the first voiced sample of the answer."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TypeAlias

from ...models.errors import AudioError
from ...streaming.clock import Clock, within
from ...streaming.frames import SAMPLE_RATE, Pcm
from ...streaming.playout import Playout
from ..client import Client, Ear, Event, ServerError
from ..client.ear import voiced

PARTS = ("end_of_turn", "first_token", "first_audio", "played")
"""Stages that our server tells in response.done, each in ms from the user's last voiced sample."""

PAUSE = 1.0
"""Seconds of silence between two turns, so that none begins inside the other."""

_LOOK = 0.02

Caller: TypeAlias = Client[Playout, Ear]
"""A client that says what a program gives it, and hears without a sound card."""


@dataclass
class Turn:
    """One question and its answer. Times are milliseconds from the last voiced sample of the question.

    voice_to_voice: first voice at the ear; None if no answer was heard (`error` says why).
    endpointing: the server's word that the turn is over has come; None if it said so before the question's end, because
        it took a pause in the question for the end.
    parts: what our server tells besides, by its own clock.
    transport: what of voice_to_voice the server does not know of: both ways through network, codecs and buffers, and
        where its detector and ours differ about the voice's end.
    underruns, stall: gaps in the answer, and the longest of them.
    barge_in: from the first voiced sample of the next question, which interrupts this answer, to this answer's last
        sound at the ear; None if it was not interrupted.
    """

    voice_to_voice: float | None = None
    endpointing: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    transport: float | None = None
    underruns: int = 0
    stall: float = 0.0
    barge_in: float | None = None
    heard: str = ""
    answer: str = ""
    error: str | None = None

    @property
    def answering(self) -> float | None:
        """What comes after endpointing, until the first voice: thinking, speaking, and the way back."""
        if self.voice_to_voice is None or self.endpointing is None:
            return None
        return self.voice_to_voice - self.endpointing


async def hold_conversation(
    client: Caller,
    question: Pcm,
    clock: Clock,
    *,
    turns: int,
    patience: float = 30.0,
    barge_in: float | None = None,
) -> AsyncGenerator[Turn, None]:
    """Ask `question` (N,) at 16 kHz `turns` times in real time; each turn as it ends.

    Args:
        patience: seconds after the question to wait for the answer's end before the turn counts as failed.
        barge_in: seconds of an answer after which the next question interrupts it; None lets it finish.

    Raises:
        AudioError: nothing in the question is voiced.
    """
    span = voiced(question)
    if span is None:
        raise AudioError("the question has no voiced sample above -40 dBFS: record it louder")
    asking = _Asking(client, question, span, clock, patience)
    interrupted: Turn | None = None
    for number in range(1, turns + 1):
        if number > 1 and interrupted is None:
            await clock.sleep(PAUSE)
            client.speaker.forget()
        began = await asking.begin(number)
        turn = await asking.hear(began, barge_in if number < turns else None)
        if interrupted is not None:
            interrupted.barge_in = asking.stopped_after(began)
            yield interrupted
        interrupted = turn if asking.interrupting else None
        if interrupted is None:
            yield turn


class _Asking:
    """One user with one question."""

    def __init__(self, client: Caller, question: Pcm, span: tuple[int, int], clock: Clock, patience: float) -> None:
        self.interrupting = False
        self._client, self._question, self._clock, self._patience = client, question, clock, patience
        self._first, self._last = (sample / SAMPLE_RATE for sample in span)

    async def begin(self, number: int) -> float:
        """Begin to ask; returns the instant at which the question's first sample was sent. Raises ServerError."""
        begun: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        microphone = self._client.microphone
        microphone.on_started = lambda _: begun.set_result(self._clock.now()) if not begun.done() else None
        microphone.push(number, self._question)
        microphone.end(number)
        try:
            return await within(self._clock, self._patience, begun)
        except TimeoutError:
            raise ServerError("the call was lost: nothing asks for the user's voice any more") from None

    async def hear(self, began: float, barge_in: float | None) -> Turn:
        """The answer to the question that began at an instant; `interrupting` tells whether it is still sounding."""
        client, clock, ear = self._client, self._clock, self._client.speaker
        stopped = began + self._last
        talk, turn = Talk(), Turn()
        gaps = len(ear.gaps)
        self.interrupting = False
        follow = asyncio.create_task(talk.follow(client, clock))
        try:
            while not (follow.done() and ear.quiet):
                await clock.sleep(_LOOK)
                first = ear.first_voiced(stopped)
                if barge_in is not None and first is not None and clock.now() >= first + barge_in:
                    self.interrupting = not follow.done()
                    if self.interrupting:
                        break
                if clock.now() >= stopped + self._patience:
                    turn.error = f"no answer within {self._patience:.0f} s"
                    break
            if follow.done():
                follow.result()
        finally:
            follow.cancel()
            await asyncio.gather(follow, return_exceptions=True)
        first = ear.first_voiced(stopped)
        if first is not None and turn.error is None:
            turn.voice_to_voice = 1000 * (first - stopped)
        elif turn.error is None:
            turn.error = "the answer was silent"
        if talk.ended is not None and talk.ended > stopped:
            turn.endpointing = 1000 * (talk.ended - stopped)
        turn.parts = {name: float(talk.metadata[f"{name}_ms"]) for name in PARTS if f"{name}_ms" in talk.metadata}
        if turn.voice_to_voice is not None and "played" in turn.parts:
            turn.transport = turn.voice_to_voice - turn.parts["played"]
        dry = ear.gaps[gaps:]
        turn.underruns = int(talk.metadata.get("underruns", 0)) + len(dry)
        turn.stall = 1000 * max(dry, default=0.0)
        turn.heard, turn.answer, turn.error = talk.heard, talk.answer, talk.error or turn.error
        return turn

    def stopped_after(self, began: float) -> float:
        """Milliseconds that the old answer went on sounding after this question, begun at an instant, was audible."""
        first, last = began + self._first, began + self._last
        end = self._client.speaker.last_voiced(first, last)
        return 1000 * (end - first) if end is not None else 0.0


class Talk:
    """What the events of one turn tell. Those of an answer that the turn interrupts are none of its own."""

    def __init__(self) -> None:
        self.heard = ""
        self.answer = ""
        self.error: str | None = None
        self.metadata: dict[str, str] = {}
        self.ended: float | None = None
        self._response: str | None = None
        self._done = False
        self._sounding = False

    async def follow(self, client: Caller, clock: Clock) -> None:
        """Read events until the answer is complete and, where the server tells, its sound has ended."""
        while not self._done or self._sounding:
            self.take(await anext(client), clock.now())

    def take(self, event: Event, now: float) -> None:
        """One event that came at an instant."""
        kind = event["type"]
        if kind == "input_audio_buffer.speech_stopped":
            self.ended = now
        elif kind == "conversation.item.input_audio_transcription.completed":
            self.heard = event.get("transcript") or ""
        elif kind == "response.created":
            self._response, self._done, self.error, self.answer = event["response"]["id"], False, None, ""
        elif kind == "error":
            self.error = event["error"]["message"]
        elif kind == "client.reconnecting":
            self.error = event["reason"]
        elif self._response is not None and self._response in (event.get("response_id"), _id(event)):
            self._take_own(event)

    def _take_own(self, event: Event) -> None:
        match event["type"]:
            case "response.output_audio_transcript.done":
                self.answer = event["transcript"]
            case "output_audio_buffer.started":
                self._sounding = True
            case "output_audio_buffer.stopped" | "output_audio_buffer.cleared":
                self._sounding = False
            case "response.done":
                self._done = True
                response = event["response"]
                self.metadata = response.get("metadata") or {}
                if response.get("status") != "completed":
                    self.error = f"the answer ended as {response.get('status')}"


def _id(event: Event) -> str | None:
    response = event.get("response")
    return response.get("id") if isinstance(response, dict) else None
