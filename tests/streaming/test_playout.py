"""Playout: exactly what is asked for, a heard position that is the truth, nothing stale, no clicks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.models.errors import AudioError
from speechgpt_gen.streaming.frames import FRAME, Pcm, dbfs
from speechgpt_gen.streaming.playout import FADE, Playout, PlayoutFullError


def tone(n: int, value: float = 0.5) -> Pcm:
    return np.full(n, value, np.float32)


def test_silence_when_idle() -> None:
    playout = Playout()
    assert np.array_equal(playout.pull(FRAME), np.zeros(FRAME, np.float32))
    assert playout.playing is None
    assert playout.underruns == 0
    assert playout.level == -100


def test_what_is_pushed_is_what_is_pulled_and_counted() -> None:
    playout = Playout()
    told: list[tuple[str, int]] = []
    playout.on_started = lambda generation: told.append(("started", generation))
    playout.on_drained = lambda generation: told.append(("drained", generation))
    pcm = np.linspace(-0.9, 0.9, 1000, dtype=np.float32)
    assert playout.push(7, pcm[:300])
    assert playout.push(7, pcm[300:])
    playout.end(7)
    assert (playout.playing, playout.waiting, playout.heard(7), told) == (7, 1000, 0, [])
    first = playout.pull(600)
    assert (playout.heard(7), told) == (600, [("started", 7)])
    second = playout.pull(600)
    assert np.array_equal(np.concatenate((first, second)), np.concatenate((pcm, np.zeros(200, np.float32))))
    assert (playout.heard(7), playout.playing) == (1000, None)
    assert told == [("started", 7), ("drained", 7)]
    assert playout.underruns == 0


@settings(max_examples=60, deadline=None)
@given(
    pushes=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 500)), max_size=12),
    pulls=st.lists(st.integers(0, 700), min_size=1, max_size=12),
)
def test_any_cut_gives_the_same_sound(pushes: list[tuple[int, int]], pulls: list[int]) -> None:
    """Pushed before the first pull, generations sound one after the other, however they are pulled."""
    playout = Playout()
    drained: list[int] = []
    playout.on_drained = drained.append
    expected: list[Pcm] = []
    rng = np.random.default_rng(0)
    generations = sorted(generation for generation, _ in pushes)
    for generation, (_, n) in zip(generations, pushes, strict=True):
        pcm = rng.uniform(-1, 1, n).astype(np.float32)
        assert playout.push(generation, pcm)
        expected.append(pcm)
    if generations:
        playout.end(generations[-1])
    sound = np.concatenate([playout.pull(n) for n in pulls])
    whole = np.concatenate([np.zeros(0, np.float32), *expected, np.zeros(len(sound), np.float32)])
    assert np.array_equal(sound, whole[: len(sound)])
    total = sum(len(pcm) for pcm in expected)
    assert sum(playout.heard(generation) for generation in set(generations)) == min(total, len(sound))
    playout.pull(total)
    assert drained == sorted(set(generations))


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 500)), max_size=30))
def test_nothing_is_lost_or_heard_twice(steps: list[tuple[bool, int]]) -> None:
    """However pushes and pulls alternate: heard and waiting add up, and every gap counts once."""
    playout = Playout()
    pushed = heard = gaps = 0
    dry = False
    for push, n in steps:
        if push:
            playout.push(1, np.full(n, 0.5, np.float32))
            pushed += n
        else:
            taken = min(n, pushed - heard)
            heard += taken
            dry = dry and not taken
            if taken < n and heard and not dry:
                dry = True
                gaps += 1
            assert len(playout.pull(n)) == n
        assert (playout.heard(1), playout.waiting, playout.underruns) == (heard, pushed - heard, gaps)
    playout.end(1)
    playout.pull(pushed + 2 * FADE)
    assert playout.heard(1) == pushed
    assert playout.playing is None
    assert np.all(playout.pull(FRAME) == 0)


def test_stop_reports_what_was_heard_and_fades() -> None:
    playout = Playout()
    drained: list[int] = []
    playout.on_drained = drained.append
    playout.push(1, tone(16_000))
    playout.pull(FRAME)
    assert playout.stop() == FRAME
    after = playout.pull(FRAME)
    assert after[0] == pytest.approx(0.5, abs=0.01)
    assert np.all(np.diff(after) <= 0)
    assert np.abs(np.diff(after)).max() < 0.02
    assert np.all(after[FADE:] == 0)
    assert playout.heard(1) == FRAME
    assert np.all(playout.pull(FRAME) == 0)
    assert playout.stop() == 0
    assert (drained, playout.underruns, playout.waiting) == ([], 0, 0)


def test_a_stopped_generation_stays_silent() -> None:
    playout = Playout()
    playout.push(1, tone(FRAME))
    playout.stop()
    assert not playout.push(1, tone(FRAME))
    assert playout.push(2, tone(FRAME))
    assert not playout.push(1, tone(FRAME))
    playout.pull(FRAME)
    assert (playout.heard(1), playout.heard(2)) == (0, FRAME)


def test_stop_reaches_a_generation_that_has_not_spoken_yet() -> None:
    playout = Playout()
    assert playout.stop(upto=5) == 0
    assert not playout.push(5, tone(FRAME))
    assert playout.push(6, tone(FRAME))


def test_nothing_follows_the_end() -> None:
    playout = Playout()
    playout.push(1, tone(10))
    playout.end(1)
    assert not playout.push(1, tone(10))
    assert playout.waiting == 10


def test_an_answer_without_sound_drains_at_once() -> None:
    playout = Playout()
    drained: list[int] = []
    playout.on_drained = drained.append
    playout.end(3)
    assert drained == [3]
    assert playout.playing is None


def test_a_newer_generation_waits_for_the_older() -> None:
    playout = Playout()
    order: list[int] = []
    playout.on_started = order.append
    playout.push(1, tone(100, 0.1))
    playout.push(2, tone(100, 0.2))
    assert not playout.push(1, tone(100, 0.1))
    out = playout.pull(200)
    assert np.array_equal(out, np.concatenate((tone(100, 0.1), tone(100, 0.2))))
    assert order == [1, 2]


def test_an_underrun_is_counted_once_per_gap_and_does_not_click() -> None:
    playout = Playout()
    playout.push(1, np.zeros(0, np.float32))
    playout.pull(FRAME)
    assert playout.underruns == 0, "waiting for the first sample is not an underrun"
    playout.push(1, tone(FRAME + 40))
    sound = [playout.pull(n) for n in (FRAME, 0, FRAME, FRAME)]
    assert playout.underruns == 1
    playout.push(1, tone(FRAME))
    sound.append(playout.pull(FRAME))
    assert playout.underruns == 1
    playout.pull(0)
    sound.append(playout.pull(FRAME))
    assert playout.underruns == 2, "a gap that begins at the edge of a pull counts too"
    heard = np.concatenate(sound)
    assert np.abs(np.diff(heard)).max() < 0.02
    assert np.all(heard[2 * FRAME : 3 * FRAME] == 0)
    assert playout.heard(1) == 2 * FRAME + 40
    playout.end(1)
    playout.pull(FRAME)
    assert playout.underruns == 2
    assert playout.playing is None


def test_memory_is_bounded() -> None:
    playout = Playout(capacity=0.1)
    assert playout.room == 1600
    playout.push(1, tone(1500))
    with pytest.raises(PlayoutFullError, match=r"0\.1 s of audio are unplayed"):
        playout.push(1, tone(101))
    assert playout.push(1, tone(100))
    playout.pull(FRAME)
    assert playout.room == FRAME


def test_positions_of_long_past_generations_are_forgotten() -> None:
    playout = Playout()
    for generation in range(200):
        playout.push(generation, tone(1))
        playout.pull(1)
    assert playout.heard(199) == 1
    assert playout.heard(0) == 0


def test_a_callback_may_stop_the_sound() -> None:
    playout = Playout()
    playout.on_started = lambda _: playout.stop() and None
    playout.push(1, tone(1000))
    playout.pull(FRAME)
    assert playout.heard(1) == FRAME
    assert np.all(playout.pull(FRAME)[FADE:] == 0)


def test_level_and_bad_audio() -> None:
    playout = Playout()
    playout.push(1, tone(FRAME))
    playout.pull(FRAME)
    assert playout.level == pytest.approx(dbfs(tone(1)))
    with pytest.raises(AudioError, match="mono float32"):
        playout.push(1, np.zeros((2, 10), np.float32))
