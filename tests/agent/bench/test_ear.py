"""When a measured client counts sound as heard."""

import numpy as np
import pytest

from speechgpt_gen.agent.bench.conversation import percentiles
from speechgpt_gen.agent.bench.ear import Ear, voiced

TONE = (0.2 * np.sin(2 * np.pi * 300 * np.arange(16_000) / 16_000)).astype(np.float32)
SILENCE = np.zeros(16_000, np.float32)


def test_voice_is_found_to_ten_milliseconds() -> None:
    recording = np.concatenate((SILENCE[:3200], TONE[:4800], SILENCE))
    assert voiced(recording) == (3200, 7999)
    assert voiced(SILENCE) is None
    assert voiced(TONE[:50]) == (0, 49)
    quiet = recording * 1e-4
    assert voiced(quiet) is None


def test_a_paced_block_is_audible_when_it_arrives() -> None:
    ear = Ear(paced=True)
    for number in range(10):
        ear.hear(SILENCE[:320], 1.0 + 0.02 * number)
    for _ in range(10):  # a stall, then a burst
        ear.hear(SILENCE[:320], 1.5)
    ear.hear(TONE[:320], 1.52)
    assert ear.first_voiced(1.0) == pytest.approx(1.52)
    assert ear.underruns == 0


def test_sound_in_advance_plays_after_what_came_before() -> None:
    ear = Ear(paced=False)
    ear.hear(SILENCE, 1.0)
    ear.expect(True)
    ear.hear(np.concatenate((SILENCE[:1600], TONE)), 1.2)
    assert ear.first_voiced(0.0) == pytest.approx(2.1)
    assert ear.plays_until == pytest.approx(3.1)
    ear.hear(TONE, 3.5)
    assert ear.underruns == 1
    ear.expect(False)
    ear.hear(TONE, 9.0)
    assert ear.underruns == 1


def test_an_interruption_drops_what_was_not_played() -> None:
    ear = Ear(paced=False)
    ear.hear(TONE, 1.0)
    ear.hear(TONE, 1.0)
    ear.stop(1.25)
    assert len(ear.recording()) == 4000
    assert ear.plays_until == 1.25
    assert ear.first_voiced(1.3) is None


def test_voice_that_sounded_before_is_not_the_answer() -> None:
    ear = Ear(paced=True)
    ear.hear(TONE, 1.0)
    ear.hear(SILENCE, 2.0)
    ear.hear(TONE, 3.0)
    assert ear.first_voiced(2.0) == pytest.approx(3.0)


def test_percentiles_skip_what_is_not_there() -> None:
    assert percentiles([None, 100.0, 200.0]) == {"p50": 150.0, "p95": 195.0}
    assert percentiles([None]) is None
