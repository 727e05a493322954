"""Voice to voice, measured from outside: the user's last voiced sample to the first voiced sample of the answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...models.errors import AudioError
from ...streaming.clock import Clock
from ...streaming.frames import SAMPLE_RATE, Pcm
from .client import Client, Event, Transport
from .ear import voiced

PARTS = ("end_of_turn", "first_token", "first_audio", "played")
"""Stages that the server tells in response.done, each in ms from the user's last voiced sample."""

PAUSE = 1.0
"""Seconds of silence between two turns, so that none begins inside the other."""


@dataclass(frozen=True)
class Turn:
    """One question and its answer. Times are milliseconds from the last voiced sample of the question.

    voice_to_voice: first voiced sample at the client; None if no answer was heard (`error` says why).
    transport: what of it the server does not know of: both ways through network, codecs and buffers.
    """

    voice_to_voice: float | None
    parts: dict[str, float] = field(default_factory=dict)
    transport: float | None = None
    underruns: int = 0
    heard: str = ""
    answer: str = ""
    error: str | None = None


async def hold_conversation(
    client: Client, question: Pcm, clock: Clock, *, turns: int, patience: float = 30.0
) -> AsyncIterator[Turn]:
    """Ask `question` (N,) at 16 kHz `turns` times in real time; each turn as it ends.

    Args:
        patience: seconds after the question to wait for the answer's end before the turn counts as failed.

    Raises:
        AudioError: nothing in the question is voiced.
    """
    span = voiced(question)
    if span is None:
        raise AudioError("the question has no voiced sample above -40 dBFS: record it louder")
    for number in range(1, turns + 1):
        if number > 1:
            await clock.sleep(PAUSE)
        yield await _turn(client, question, clock, last_voiced=span[1], number=number, patience=patience)


async def _turn(client: Client, question: Pcm, clock: Clock, *, last_voiced: int, number: int, patience: float) -> Turn:
    while not client.events.empty():
        client.events.get_nowait()
    underruns = client.ear.underruns
    begun: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    client.mic.on_started = lambda _: begun.set_result(clock.now()) if not begun.done() else None
    client.mic.push(number, question)
    client.mic.end(number)
    stopped = await begun + last_voiced / SAMPLE_RATE
    talk = _Talk()
    left = stopped + patience - clock.now()
    try:
        async with asyncio.timeout(left):
            await talk.follow(client, until_quiet=lambda: client.ear.plays_until <= clock.now(), clock=clock)
    except TimeoutError:
        return Turn(
            None, error=talk.error or f"no answer within {patience:.0f} s", heard=talk.heard, answer=talk.answer
        )
    first = client.ear.first_voiced(stopped)
    if first is None:
        return Turn(None, error=talk.error or "the answer was silent", heard=talk.heard, answer=talk.answer)
    total = 1000 * (first - stopped)
    parts = {name: float(talk.metadata[f"{name}_ms"]) for name in PARTS if f"{name}_ms" in talk.metadata}
    transport = total - parts["played"] if "played" in parts else None
    server_underruns = int(talk.metadata.get("underruns", 0))
    dry = server_underruns + client.ear.underruns - underruns
    return Turn(total, parts, transport, dry, talk.heard, talk.answer, talk.error)


class _Talk:
    """What the events of one turn tell."""

    def __init__(self) -> None:
        self.heard = ""
        self.answer = ""
        self.error: str | None = None
        self.metadata: dict[str, str] = {}
        self._done = False
        self._sounding = False

    async def follow(self, client: Client, *, until_quiet: Callable[[], bool], clock: Clock) -> None:
        """Read events until the answer is complete and its sound has ended."""
        while not self._done or self._sounding:
            self._take(await client.events.get())
        while not until_quiet():
            await clock.sleep(0.02)

    def _take(self, event: Event) -> None:
        match event["type"]:
            case "conversation.item.input_audio_transcription.completed":
                self.heard = event["transcript"]
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
            case "error":
                self.error = event["error"]["message"]


def report(turns: list[Turn], *, url: str, transport: Transport) -> dict[str, Any]:
    """The figures of a conversation as one JSON object; percentiles over the turns that were answered."""
    answered = [turn for turn in turns if turn.voice_to_voice is not None]
    return {
        "url": url,
        "transport": transport,
        "turns": len(turns),
        "failed": len(turns) - len(answered),
        "underruns": sum(turn.underruns for turn in turns),
        "voice_to_voice_ms": percentiles([turn.voice_to_voice for turn in answered]),
        "parts_ms": {name: percentiles([turn.parts.get(name) for turn in answered]) for name in PARTS},
        "transport_ms": percentiles([turn.transport for turn in answered]),
        "each": [
            {
                "voice_to_voice_ms": rounded(turn.voice_to_voice),
                "parts_ms": turn.parts,
                "transport_ms": rounded(turn.transport),
                "underruns": turn.underruns,
                "heard": turn.heard,
                "answer": turn.answer,
                "error": turn.error,
            }
            for turn in turns
        ],
    }


def percentiles(values: list[float | None]) -> dict[str, float] | None:
    """p50 and p95 of the values that are there, in ms to 0.1; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"p50": round(float(np.percentile(known, 50)), 1), "p95": round(float(np.percentile(known, 95)), 1)}


def rounded(value: float | None) -> float | None:
    """To 0.1."""
    return None if value is None else round(value, 1)
