"""Minutes of a bad network in virtual time: from a sender's packets to a listener's ear."""

from __future__ import annotations

import heapq
import random

import numpy as np
import pytest

from speechgpt_gen.agent.bench.report import raised
from speechgpt_gen.agent.client.ear import Ear
from speechgpt_gen.agent.transports.jitter import FRAME, JitterBuffer
from speechgpt_gen.agent.transports.receive import AudioReceiver
from speechgpt_gen.agent.transports.track import OpusEncoder
from speechgpt_gen.streaming.clock import VirtualClock

LOSS, JITTER = 0.05, 0.05
SILENT_PACKET = bytes([31 << 3, 0xFF, 0xFE])
"""Opus, 20 ms, as its coder writes silence."""

STALL = 0.1
BACK_WITHIN = 1.0


async def listen(
    seconds: float,
    *,
    seed: int,
    stalls: tuple[float, ...] = (),
    stall: float = 0.3,
    loss: float = LOSS,
    jitter: float = JITTER,
    packet: bytes = SILENT_PACKET,
) -> tuple[Ear, JitterBuffer, float]:
    """A stream of so many seconds, heard through loss and jitter; all packets wait at `stalls`, for `stall` seconds."""
    clock, rng = VirtualClock(), random.Random(seed)
    ear = Ear(clock)
    ear.begin(paced=True)
    ear.expect(True)
    receiver = AudioReceiver(ear.push, clock)
    packets: list[tuple[float, int]] = []
    for number in range(round(seconds * 50)):
        sent = number * 0.02
        if rng.random() < loss:
            continue
        held = next((at + stall - sent for at in stalls if at <= sent < at + stall), 0.0)
        heapq.heappush(packets, (sent + held + rng.uniform(0, jitter), number))
    ticks = 0
    while packets:
        due, number = packets[0]
        if (ticks + 1) * 0.02 < due:
            ticks += 1
            await clock.advance(ticks * 0.02 - clock.now())
            receiver.tick()
            continue
        heapq.heappop(packets)
        await clock.advance(max(0.0, due - clock.now()))
        receiver.receive(number % 2**16, number * FRAME % 2**32, packet)
    return ear, receiver.buffer, clock.now()


async def test_loss_and_jitter_neither_stall_nor_delay_for_long() -> None:
    ear, buffer, end = await listen(60, seed=60)
    assert buffer.stats.lost == pytest.approx(LOSS * 60 * 50, rel=0.35)
    assert buffer.stats.longest_gap / 48_000 <= STALL
    assert max(ear.gaps, default=0.0) < STALL
    usual, most, longest = raised(ear.lags, end)
    assert usual < 0.2
    assert most < 0.3
    assert longest <= BACK_WITHIN


async def test_a_network_that_stood_still_is_caught_up_with() -> None:
    ear, _, end = await listen(60, seed=1, stalls=(10.0, 25.0, 40.0))
    _, most, longest = raised(ear.lags, end)
    assert max(ear.gaps) > 0.05, "0.3 s without a packet are heard"
    assert most < 0.5
    assert longest <= BACK_WITHIN
    assert np.mean([lag for at, lag in ear.lags if at > 50]) - min(lag for _, lag in ear.lags) < 0.25


@pytest.mark.parametrize(("stall", "jitter", "seed"), [(0.06, 0.005, 1), (0.06, 0.01, 2), (0.07, 0.02, 1)])
async def test_one_accident_of_a_calm_network_is_soon_made_good(stall: float, jitter: float, seed: int) -> None:
    ear, _, end = await listen(40, seed=seed, stalls=(20.0,), stall=stall, loss=0, jitter=jitter)
    assert len(ear.gaps) > 1, "it is heard"
    _, most, longest = raised(ear.lags, end)
    assert most > 0.05
    assert 0 < longest <= BACK_WITHIN


@pytest.mark.parametrize("pauses", [True, False])
@pytest.mark.parametrize(
    ("stall", "loss", "jitter", "seed"),
    [
        (0.15, 0.0, 0.03, 1),
        (0.15, LOSS, JITTER, 3),
        (0.2, LOSS, JITTER, 2),
        (0.3, 0.0, 0.0, 0),
        (0.3, LOSS, JITTER, 2),
        (0.3, LOSS, JITTER, 3),
    ],
)
async def test_an_outage_on_top_of_jitter_is_caught_up_with_within_a_second(
    stall: float, loss: float, jitter: float, seed: int, pauses: bool
) -> None:
    """Also where the voice makes no pause in which sound could be left out."""
    packet = SILENT_PACKET if pauses else voice_packet()
    ear, _, end = await listen(24, seed=seed, stalls=(8.0, 16.0), stall=stall, loss=loss, jitter=jitter, packet=packet)
    _, most, longest = raised(ear.lags, end)
    assert max(ear.gaps) > 0.05, "it is heard"
    assert most > 0.1
    assert 0 < longest <= BACK_WITHIN


def voice_packet() -> bytes:
    """20 ms that are never quiet."""
    encoder = OpusEncoder()
    tone = (0.2 * np.sin(2 * np.pi * 300 * np.arange(320) / 16_000)).astype(np.float32)
    return [bytes(encoder.encode(tone)) for _ in range(5)][-1]
