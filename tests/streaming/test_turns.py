"""Turns: exact with a scripted detector, the same for any chunking, right with the real ones."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.streaming.frames import SAMPLE_RATE, Pcm
from speechgpt_gen.streaming.turns import (
    SoftEnd,
    Speech,
    SpeechResumed,
    SpeechStarted,
    TurnEnded,
    TurnEvent,
    TurnOptions,
    TurnSegmenter,
    TurnState,
)
from speechgpt_gen.streaming.vad import VADS, make_vad

MS = 16
W = 20 * MS


class LoudnessVad:
    """The probability is the audio itself: the mean of a 20 ms window."""

    window: ClassVar[int] = W

    def __init__(self) -> None:
        self.resets = 0

    def speech(self, pcm: Pcm) -> float:
        assert len(pcm) == W
        return float(np.mean(pcm))

    def reset(self) -> None:
        self.resets += 1


def script(*parts: tuple[float, float]) -> Pcm:
    """Audio from (probability, milliseconds) pairs."""
    return np.concatenate([np.full(round(ms * MS), p, np.float32) for p, ms in parts])


def segmenter(**options: float) -> TurnSegmenter:
    return TurnSegmenter(LoudnessVad(), TurnOptions(**options))  # type: ignore[arg-type]


def marks(events: Sequence[TurnEvent]) -> list[TurnEvent]:
    return [event for event in events if not isinstance(event, Speech)]


def names(events: Sequence[TurnEvent]) -> list[str]:
    return [type(event).__name__ for event in marks(events)]


def audio_of(events: Sequence[TurnEvent]) -> Pcm:
    """All audio that turns carried, in order."""
    pieces = [
        e.pre_roll if isinstance(e, SpeechStarted) else e.pcm
        for e in events
        if hasattr(e, "pcm") or hasattr(e, "pre_roll")
    ]
    return np.concatenate([np.zeros(0, np.float32), *pieces])


def plain(events: Sequence[TurnEvent]) -> list[tuple[object, ...]]:
    """Events as comparable values."""
    return [
        (type(e).__name__, *[v.tobytes() if isinstance(v, np.ndarray) else v for v in vars(e).values()]) for e in events
    ]


def test_one_turn_to_the_sample() -> None:
    turns = segmenter()
    audio = script((0, 1000), (1, 600), (0, 600))
    events = turns.push(audio)
    started, soft, ended = marks(events)
    assert isinstance(started, SpeechStarted)
    assert (started.onset, started.start, started.at) == (1000 * MS, 700 * MS, 1100 * MS)
    assert np.array_equal(started.pre_roll, audio[700 * MS : 1100 * MS])
    assert soft == SoftEnd(at=1760 * MS, last_voiced=1600 * MS)
    assert ended == TurnEnded(at=2000 * MS, last_voiced=1600 * MS, reason="silence")
    assert np.array_equal(audio_of(events), audio[700 * MS : 2000 * MS])
    assert turns.position == len(audio)
    assert turns.state is TurnState.IDLE


def test_a_click_is_not_a_turn_and_a_doubtful_window_does_not_matter() -> None:
    assert segmenter().push(script((0, 500), (1, 80), (0, 500))) == []
    (started,) = marks(segmenter().push(script((0, 500), (1, 60), (0.1, 20), (1, 60))))
    assert isinstance(started, SpeechStarted)
    assert started.onset == 500 * MS


def test_a_turn_goes_on_after_a_soft_end() -> None:
    events = marks(segmenter().push(script((1, 500), (0, 300), (1, 40), (0, 20), (1, 100), (0, 500))))
    assert names(events) == ["SpeechStarted", "SoftEnd", "SpeechResumed", "SoftEnd", "TurnEnded"]
    assert events[2] == SpeechResumed(at=920 * MS, onset=800 * MS)
    assert events[4] == TurnEnded(at=1360 * MS, last_voiced=960 * MS, reason="silence")


def test_a_flicker_in_the_silence_does_not_delay_the_end() -> None:
    events = marks(segmenter().push(script((1, 500), (0, 240), (1, 40), (0, 500))))
    assert names(events) == ["SpeechStarted", "SoftEnd", "TurnEnded"]
    assert events[2] == TurnEnded(at=900 * MS, last_voiced=500 * MS, reason="silence")


def test_speech_at_the_last_moment_keeps_the_turn() -> None:
    events = marks(segmenter().push(script((1, 500), (0, 380), (1, 200), (0, 500))))
    assert names(events) == ["SpeechStarted", "SoftEnd", "SpeechResumed", "SoftEnd", "TurnEnded"]


def test_within_a_turn_a_lower_probability_is_speech() -> None:
    events = marks(segmenter().push(script((1, 200), (0.4, 800), (0, 500))))
    assert names(events) == ["SpeechStarted", "SoftEnd", "TurnEnded"]
    assert events[-1] == TurnEnded(at=1400 * MS, last_voiced=1000 * MS, reason="silence")
    assert segmenter().push(script((0.4, 1000))) == []


def test_pre_roll_never_holds_audio_of_the_turn_before() -> None:
    turns = segmenter()
    audio = script((1, 300), (0, 500), (1, 300), (0, 500))
    events = turns.push(audio)
    first_end, second = marks(events)[2:4]
    assert isinstance(first_end, TurnEnded)
    assert isinstance(second, SpeechStarted)
    assert first_end.at == second.start == 700 * MS
    assert np.array_equal(audio_of(events), audio[: 1500 * MS])


def test_a_longest_turn_is_cut_and_the_next_follows_without_a_gap() -> None:
    audio = script((1, 2500), (0, 500))
    events = segmenter(max_turn_s=1).push(audio)
    ends = [event for event in events if isinstance(event, TurnEnded)]
    assert [(end.at // MS, end.reason) for end in ends] == [(1000, "length"), (2000, "length"), (2900, "silence")]
    assert np.array_equal(audio_of(events), audio[: 2900 * MS])


def test_a_forced_end_gives_all_audio() -> None:
    turns = segmenter()
    assert turns.end() == []
    audio = script((1, 333.5))
    events = turns.push(audio) + turns.end()
    assert marks(events)[-1] == TurnEnded(at=len(audio), last_voiced=320 * MS, reason="forced")
    assert np.array_equal(audio_of(events), audio)
    assert turns.position == len(audio)


def test_reset_drops_the_turn_but_not_the_time() -> None:
    turns = segmenter()
    turns.push(script((1, 505)))
    turns.reset()
    assert turns.state is TurnState.IDLE
    assert turns.position == 505 * MS
    (started,) = marks(turns.push(script((1, 100))))
    assert isinstance(started, SpeechStarted)
    assert (started.start, started.onset) == (505 * MS, 505 * MS)


def test_a_short_gap_is_silence() -> None:
    audio = script((0, 400), (1, 305), (0, 250), (1, 207), (0, 700))
    with_gap = segmenter()
    events = with_gap.push(audio[: 705 * MS]) + with_gap.gap(250 * MS) + with_gap.push(audio[955 * MS :])
    assert plain(events) == plain(segmenter().push(audio))


def test_a_long_gap_ends_the_turn_and_costs_little() -> None:
    vad = LoudnessVad()
    turns = TurnSegmenter(vad)
    turns.push(script((1, 500)))
    hour = 3600 * SAMPLE_RATE
    assert names(turns.gap(hour)) == ["SoftEnd", "TurnEnded"]
    assert turns.position == 500 * MS + hour
    assert vad.resets == 1
    (started,) = marks(turns.push(script((1, 100))))
    assert isinstance(started, SpeechStarted)
    assert started.start == started.onset == 500 * MS + hour


def test_a_gap_ends_a_turn_even_if_the_detector_hears_voices() -> None:
    class Hallucinating(LoudnessVad):
        def speech(self, pcm: Pcm) -> float:
            return 1.0

    turns = TurnSegmenter(Hallucinating())
    turns.push(script((0, 500)))
    events = turns.gap(60 * SAMPLE_RATE)
    assert marks(events)[-1] == TurnEnded(at=turns.position, last_voiced=1900 * MS, reason="gap")


def test_options_may_change_between_windows() -> None:
    turns = segmenter()
    turns.push(script((1, 500), (0, 300)))
    turns.options = TurnOptions(silence_ms=200)
    assert names(turns.push(script((0, 20)))) == ["TurnEnded"]


@pytest.mark.parametrize(
    ("name", "value"), [("threshold", 1.5), ("silence_ms", -1), ("max_turn_s", 0), ("prefix_padding_ms", 10**9)]
)
def test_impossible_options(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"turn option {name} is {value}"):
        TurnOptions(**{name: value})  # type: ignore[arg-type]


PARTS = st.lists(st.tuples(st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([7, 20, 65, 130, 300, 510])), max_size=14)


@settings(max_examples=60, deadline=None)
@given(parts=PARTS, cuts=st.lists(st.integers(1, 6000), max_size=30), longest=st.sampled_from([1.0, 60.0]))
def test_any_chunking_gives_the_same_events(parts: list[tuple[float, float]], cuts: list[int], longest: float) -> None:
    audio = script((0, 0), *parts)
    whole = segmenter(max_turn_s=longest).push(audio)
    turns = segmenter(max_turn_s=longest)
    events: list[TurnEvent] = []
    rest = audio
    for cut in cuts:
        events += turns.push(rest[:cut])
        rest = rest[cut:]
    events += turns.push(rest)
    assert plain(events) == plain(whole)
    assert turns.position == len(audio)


@settings(max_examples=60, deadline=None)
@given(parts=PARTS)
def test_turns_are_well_formed(parts: list[tuple[float, float]]) -> None:
    """Each turn is one unbroken stretch of the audio, turns do not overlap, and events alternate as they must."""
    audio = script((0, 0), *parts)
    follows = {
        "SpeechStarted": {"Speech"},
        "Speech": {"Speech", "SoftEnd", "SpeechResumed", "TurnEnded"},
        "SoftEnd": {"Speech"},
        "SpeechResumed": {"Speech", "TurnEnded"},
        "TurnEnded": {"SpeechStarted"},
    }
    before, reached, turn_end = "TurnEnded", 0, 0
    for event in segmenter(max_turn_s=1).push(audio):
        name = type(event).__name__
        assert name in follows[before]
        if isinstance(event, SpeechStarted):
            assert turn_end <= event.start <= event.onset < event.at
            assert np.array_equal(event.pre_roll, audio[event.start : event.at])
        elif isinstance(event, Speech):
            assert np.array_equal(event.pcm, audio[reached : event.at])
        elif isinstance(event, SoftEnd | TurnEnded):
            assert event.last_voiced <= event.at == reached
            turn_end = event.at
        before, reached = name, event.at


@pytest.mark.parametrize("name", sorted(VADS))
def test_real_detectors_find_the_turn(name: str, speech: Pcm, noise: Pcm) -> None:
    audio = np.concatenate((noise, speech, noise))
    turns = TurnSegmenter(make_vad(name))
    events = turns.push(audio)
    assert names(events) == ["SpeechStarted", "SoftEnd", "TurnEnded"]
    started, _, ended = marks(events)
    assert isinstance(started, SpeechStarted)
    assert isinstance(ended, TurnEnded)
    begin, end = len(noise), len(noise) + len(speech)
    assert begin - 40 * MS <= started.onset <= begin + 40 * MS
    assert started.at <= begin + 160 * MS, "slow to notice an interruption"
    assert end - 100 * MS <= ended.last_voiced <= end + 260 * MS
    assert 400 * MS <= ended.at - ended.last_voiced <= 432 * MS
    again = TurnSegmenter(make_vad(name))
    chunked = [event for start in range(0, len(audio), 441) for event in again.push(audio[start : start + 441])]
    assert plain(chunked) == plain(events)
