"""The figures of a turn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.streaming.clock import VirtualClock
from speechgpt_gen.streaming.timing import LatencyWindow, Stopwatch, TurnTimeline, percentile


async def test_stopwatch() -> None:
    clock = VirtualClock(start=5)
    watch = Stopwatch(clock)
    await clock.advance(1.5)
    assert watch.elapsed == 1.5
    assert watch.restart() == 1.5
    await clock.advance(0.25)
    assert watch.elapsed == 0.25


def test_a_turn_is_timed_from_the_last_speech() -> None:
    timeline = TurnTimeline.of_turn(now=100.0, position=48_000, last_voiced=41_600)
    assert timeline.speech_end == pytest.approx(99.6)
    timeline.mark("first_token", 99.9)
    timeline.mark("first_audio", 100.25)
    timeline.mark("first_audio", 100.5)
    assert timeline.milliseconds() == {"turn_end_ms": 400.0, "first_token_ms": 300.0, "first_audio_ms": 650.0}


def test_nothing_is_earlier_than_the_speech() -> None:
    timeline = TurnTimeline(speech_end=10.0)
    timeline.mark("first_token", 9.0)
    assert timeline.milliseconds() == {"first_token_ms": 0.0}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(0, 100))
def test_percentile_is_numpy_s(values: list[float], q: float) -> None:
    assert percentile(values, q) == pytest.approx(float(np.percentile(values, q)), rel=1e-9, abs=1e-6)


def test_percentile_of_nothing() -> None:
    assert math.isnan(percentile([], 50))


def test_window_forgets_old_turns() -> None:
    window = LatencyWindow(size=3)
    for value in (1000.0, 1.0, 2.0, 3.0):
        window.add({"turn_end_ms": value})
    window.add({"first_audio_ms": 7.0})
    assert window.summary() == {
        "turn_end_ms": {"p50": 2.0, "p95": pytest.approx(2.9), "count": 3},
        "first_audio_ms": {"p50": 7.0, "p95": 7.0, "count": 1},
    }
