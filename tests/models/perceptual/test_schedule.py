"""Block schedules, the mask made from them, and the rows of the stream's buffer."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.perceptual.schedule import PROMPT, BlockSchedule, FrameSlots, visible

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple)


def test_default_grows_and_then_repeats() -> None:
    assert BlockSchedule().lengths(90) == [10, 15, 25, 25, 15]
    assert BlockSchedule().table(27, prompt=3).tolist() == [PROMPT] * 3 + [1] * 10 + [2] * 15 + [3] * 2
    assert BlockSchedule.constant(4).lengths(9) == [4, 4, 1]
    assert BlockSchedule().lengths(0) == []


@pytest.mark.parametrize("bad", [(), (10, 0), (-1,)])
def test_impossible_sizes_are_refused(bad: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="positive block sizes"):
        BlockSchedule(bad)


@given(sizes=sizes, frames=st.integers(0, 60), more=st.integers(0, 30))
@settings(max_examples=50, deadline=None)
def test_a_longer_utterance_is_cut_alike(sizes: tuple[int, ...], frames: int, more: int) -> None:
    schedule = BlockSchedule(sizes)
    assert sum(schedule.lengths(frames)) == frames
    assert torch.equal(schedule.table(frames + more)[:frames], schedule.table(frames))


def test_training_schedules_vary_and_cover_the_utterance() -> None:
    rng = random.Random(0)
    drawn = [BlockSchedule.random(200, rng) for _ in range(60)]
    assert BlockSchedule() in drawn
    assert BlockSchedule.constant(200) in drawn
    assert len({schedule.lengths(200)[0] for schedule in drawn}) > 15
    assert any(len(set(schedule.lengths(200)[:-1])) > 4 for schedule in drawn)


@given(sizes=sizes, frames=st.integers(1, 30), prompt=st.integers(0, 6), window=st.integers(0, 20))
@settings(max_examples=50, deadline=None)
def test_mask_says_own_block_window_and_prompt(sizes: tuple[int, ...], frames: int, prompt: int, window: int) -> None:
    table = BlockSchedule(sizes).table(frames, prompt).tolist()
    mask = visible(torch.tensor(table), window)
    for query, query_block in enumerate(table):
        for key, key_block in enumerate(table):
            age = table.index(query_block) - table.index(key_block)
            expected = key_block == PROMPT or (key_block <= query_block and age <= window)
            assert bool(mask[query, key]) == expected


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40), window=st.integers(0, 25))
@settings(max_examples=100, deadline=None)
def test_slots_hold_exactly_the_visible_frames(lengths: list[int], window: int) -> None:
    """Play the bookkeeping on a list of frame numbers and compare with the mask."""
    table = torch.tensor([number for number, length in enumerate(lengths, 1) for _ in range(length)])
    mask = visible(table, window)
    slots = FrameSlots(window, longest=9)
    rows: list[int] = [-1] * slots.capacity
    frame = 0
    for length in lengths:
        new, moves = slots.advance(length)
        for source, target in moves:
            rows[target] = rows[source]
        for row in new:
            rows[row] = frame
            frame += 1
        live = rows[: slots.live]
        assert len(set(live)) == slots.live <= slots.capacity
        assert sorted(live) == mask[frame - 1, :frame].nonzero().flatten().tolist()


def test_slots_copy_nothing_in_a_steady_stream_and_refuse_long_blocks() -> None:
    slots = FrameSlots(window=100, longest=25)
    assert all(not slots.advance(length)[1] for length in [10, 15, *[25] * 20])
    for length in (0, 26):
        with pytest.raises(ValueError, match="takes 1 to 25"):
            slots.advance(length)
