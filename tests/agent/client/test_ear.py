"""When a client counts sound as heard, and what its buffer does with a restless network. In virtual time."""

import numpy as np
import pytest

from speechgpt_gen.agent.client.ear import Ear, voiced
from speechgpt_gen.agent.client.playback import Playback
from speechgpt_gen.streaming.clock import VirtualClock

TONE = (0.2 * np.sin(2 * np.pi * 300 * np.arange(16_000) / 16_000)).astype(np.float32)
SILENCE = np.zeros(16_000, np.float32)
FRAME = 320


def test_voice_is_found_to_ten_milliseconds() -> None:
    recording = np.concatenate((SILENCE[:3200], TONE[:4800], SILENCE))
    assert voiced(recording) == (3200, 7999)
    assert voiced(SILENCE) is None
    assert voiced(TONE[:50]) == (0, 49)
    assert voiced(recording * np.float32(1e-4)) is None


async def stream(ear: Ear, clock: VirtualClock, pcm: np.ndarray) -> None:
    """Sound in real time, a frame at each instant."""
    for start in range(0, len(pcm), FRAME):
        ear.push(pcm[start : start + FRAME])
        await clock.advance(0.02)


async def test_sound_in_real_time_is_heard_a_frame_later_and_a_stall_leaves_no_delay() -> None:
    clock = VirtualClock()
    ear = Ear(clock)
    ear.begin(paced=True)
    await stream(ear, clock, np.concatenate((SILENCE[:8000], TONE[:8000])))
    assert ear.first_voiced(0.0) == pytest.approx(0.5, abs=0.021)
    ear.expect(True)
    await clock.advance(0.3)  # a stall, then what was sent meanwhile in one burst
    for _ in range(15):
        ear.push(TONE[:FRAME])
    await stream(ear, clock, TONE)
    stalled = max(lag for _, lag in ear.lags) - ear.lags[0][1]
    assert stalled == pytest.approx(0.3, abs=0.04)
    assert [pytest.approx(gap, abs=0.04) for gap in ear.gaps] == [0.3]
    await stream(ear, clock, np.concatenate((SILENCE[:4800], TONE[:4800])))
    assert ear.lags[-1][1] - ear.lags[0][1] < 0.16
    await stream(ear, clock, np.concatenate([SILENCE] * 10))
    assert ear.lags[-1][1] - ear.lags[0][1] < 0.13  # the reserve it has learnt to need, at most


async def test_sound_in_advance_plays_after_what_came_before() -> None:
    clock = VirtualClock(1.0)
    ear = Ear(clock)
    ear.begin(paced=False)
    ear.push(SILENCE)
    await clock.advance(0.2)
    ear.expect(True)
    ear.push(np.concatenate((SILENCE[:1600], TONE)))
    await clock.advance(2.3)
    assert ear.first_voiced(0.0) == pytest.approx(2.1)
    assert ear.last_voiced(0.0, 9.0) == pytest.approx(3.1)
    assert ear.last_voiced(0.0, 2.5) == pytest.approx(2.5, abs=0.011)
    ear.push(TONE)  # 0.4 s too late
    assert not ear.quiet
    await clock.advance(2.0)
    assert ear.gaps == [pytest.approx(0.4, abs=0.011)]
    ear.expect(False)
    assert ear.quiet
    await clock.advance(5.0)
    ear.push(TONE)
    await clock.advance(2.0)
    assert len(ear.gaps) == 1


async def test_an_interruption_drops_what_was_not_played() -> None:
    clock = VirtualClock(1.0)
    ear = Ear(clock)
    ear.begin(paced=False)
    ear.push(TONE)
    ear.push(TONE)
    await clock.advance(0.25)
    assert ear.flush() == 28_000
    await clock.advance(1.0)
    assert len(ear.recording()) == 4000
    assert ear.quiet
    assert ear.first_voiced(1.3) is None


async def test_voice_that_sounded_before_is_not_the_answer() -> None:
    clock = VirtualClock()
    ear = Ear(clock)
    ear.begin(paced=True)
    await stream(ear, clock, np.concatenate((TONE, SILENCE, TONE, SILENCE[:1600])))
    assert ear.first_voiced(1.5) == pytest.approx(2.0, abs=0.021)
    ear.forget()
    assert ear.first_voiced(0.0) is None


@pytest.mark.parametrize("paced", [True, False])
def test_nothing_is_lost_or_doubled(paced: bool) -> None:
    playback = Playback(paced=paced)
    rng = np.random.default_rng(1)
    sound = rng.uniform(0.1, 0.2, 40_000).astype(np.float32)
    heard, given = [], 0
    while given < len(sound):
        n = int(rng.integers(0, 700))
        playback.push(sound[given : given + n])
        given += n
        heard.append(playback.pull(160))
    while playback.depth:
        heard.append(playback.pull(160))
    out = np.concatenate(heard)
    kept = out[out > 0]
    assert playback.played == len(sound)
    if not paced:
        np.testing.assert_array_equal(kept, sound)
    else:
        assert len(kept) < len(sound), "sound that piles up in a stream in real time is left out"
        assert set(kept.tolist()) <= set(sound.tolist())
