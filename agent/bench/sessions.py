"""Several users at once, and what was measured of each."""

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass, field

from ...models.errors import SpeechGPTGenError
from ...streaming.clock import Clock
from ...streaming.frames import Pcm
from ...streaming.playout import Playout
from ..client import Client, Ear, ServerError, Transport
from ..client.webrtc import WebRtcConnection
from .conversation import Turn, hold_conversation
from .lateness import Lateness
from .network import BadNetwork

STAGGER = 3.0
"""Seconds over which the sessions begin: people do not speak in step."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    question: (N,) at 16 kHz. turns: asked by each session. seconds: stop asking after this long, if not None.
    barge_in: seconds of an answer after which it is interrupted; None for never. loss: probability; jitter: seconds.
    """

    url: str
    question: Pcm
    transport: Transport = "webrtc"
    turns: int = 10
    seconds: float | None = None
    sessions: int = 1
    barge_in: float | None = None
    loss: float = 0.0
    jitter: float = 0.0
    token: str | None = None
    model: str | None = None


@dataclass
class Session:
    """One user's turns, and the sound between them.

    lateness: seconds that each packet came later than the quickest ones (WebRTC). lags: see `Ear`. lasted: seconds.
    concealed: longest hole in a row that the listener had to invent sound for, seconds. lost: share of packets.
    """

    number: int
    turns: list[Turn] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    lags: list[tuple[float, float]] = field(default_factory=list)
    lasted: tuple[float, float] = (0.0, 0.0)
    concealed: float = 0.0
    lost: float = 0.0


async def measure(plan: Plan, clock: Clock, on_turn: Callable[[int, Turn], None] = lambda *_: None) -> list[Session]:
    """Hold all conversations of a plan in real time.

    A session that is cut off counts its turn as failed and asks no more; the others go on.

    Raises:
        ServerError: the first session cannot be opened.
        AudioError: the question is silent.
    """
    network = BadNetwork(plan.loss, plan.jitter) if plan.loss or plan.jitter else None
    sessions = [Session(number) for number in range(1, plan.sessions + 1)]

    async def user(session: Session) -> None:
        await clock.sleep(STAGGER * (session.number - 1) / plan.sessions)
        try:
            await _talk(plan, session, clock, network, on_turn)
        except ServerError as error:
            if plan.sessions == 1 and not session.turns:
                raise
            session.turns.append(Turn(error=str(error)))
            on_turn(session.number, session.turns[-1])

    # Collecting all that is loaded takes 70 ms, for which these listeners would blame the server.
    gc.collect()
    gc.freeze()
    try:
        async with asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(user(session))
    finally:
        gc.unfreeze()
    return sessions


async def _talk(
    plan: Plan, session: Session, clock: Clock, network: BadNetwork | None, on_turn: Callable[[int, Turn], None]
) -> None:
    client = Client(
        plan.url,
        Playout(),
        Ear(clock),
        transport=plan.transport,
        token=plan.token,
        model=plan.model,
        reconnect=False,
        clock=clock,
        network=network,
    )
    async with client:
        call = client.connection if isinstance(client.connection, WebRtcConnection) else None
        lateness = Lateness(call, clock) if call is not None else None
        began = clock.now()
        talk = hold_conversation(client, plan.question, clock, turns=plan.turns, barge_in=plan.barge_in)
        try:
            async for turn in talk:
                session.turns.append(turn)
                on_turn(session.number, turn)
                if plan.seconds is not None and clock.now() - began >= plan.seconds:
                    break
        finally:
            await talk.aclose()
            session.lasted = (began, clock.now())
            session.lags = client.speaker.lags
            if call is not None and lateness is not None:
                session.lateness = lateness.seconds
                stats = call.receiver.stats
                session.concealed = stats.longest_gap / 48_000
                session.lost = stats.lost / max(1, stats.lost + stats.received)


def first_error(error: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a group of sessions failed of: a user's mistake if there is one among them."""
    first: BaseException = error.subgroup(SpeechGPTGenError) or error
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
