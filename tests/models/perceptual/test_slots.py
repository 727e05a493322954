"""Blocks of many utterances in one batch against the whole utterance in one masked run, and against other company."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from speechgpt_gen.kernels.graph import Lane
from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.models.perceptual.schedule import BlockSchedule
from speechgpt_gen.models.perceptual.slots import FlowSlots
from speechgpt_gen.models.perceptual.streaming import StreamingFlow, solve_offline

BUNDLE = load_bundle("tiny")
SCHEDULE = BlockSchedule((3, 5, 8))
SOLVER = BUNDLE.config.solver
CODEBOOK = BUNDLE.tokenizer.codebooks.vectors[0]
VOICE = BUNDLE.voice("first")
VOICE_V1 = BUNDLE.tokenizer.semantics(VOICE.units)


def new_slots(count: int = 3, buckets: Sequence[int] = (1, 3)) -> FlowSlots:
    lane = Lane(torch.device("cpu"))
    made = FlowSlots(
        BUNDLE.perceptual, CODEBOOK, SOLVER, SCHEDULE, lane, slots=count, prompt=VOICE.frames, buckets=buckets
    )
    made.capture()
    return made


def some_units(n: int, seed: int) -> list[int]:
    """Units with some detail, or with none."""
    generator = torch.Generator().manual_seed(seed)
    detail = torch.randint(0, 4**BUNDLE.perceptual.config.detail + 1, (n,), generator=generator)
    return (torch.randint(0, 1024, (n,), generator=generator) + 1024 * detail).tolist()


def blocks_of(units: Sequence[int]) -> list[Sequence[int]]:
    blocks, at = [], 0
    for length in SCHEDULE.lengths(len(units)):
        blocks.append(units[at : at + length])
        at += length
    return blocks


def open_voice(slots: FlowSlots, slot: int, seed: int, *, prompt: bool = True) -> None:
    flow = StreamingFlow(BUNDLE.perceptual, SOLVER, SCHEDULE)
    slots.open(slot, seed, flow.prompt(VOICE.latents, VOICE_V1) if prompt else None)


def stream(slots: FlowSlots, slot: int, units: Sequence[int]) -> Tensor:
    """An utterance on its own in the batch."""
    parts = []
    for block in blocks_of(units):
        slots.solve([(slot, block)])
        parts.append(slots.latents[0, : len(block)].clone())
    return torch.cat(parts)


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("length", [2, 8, 61])
def test_a_stream_equals_the_masked_run(prompt: bool, length: int) -> None:
    units = some_units(length, 1)
    slots = new_slots()
    open_voice(slots, 1, 5, prompt=prompt)
    offline = solve_offline(
        BUNDLE.perceptual,
        BUNDLE.tokenizer.semantics(torch.tensor([units])),
        seed=5,
        solver=SOLVER,
        schedule=SCHEDULE,
        prompt=(VOICE.latents, VOICE_V1) if prompt else None,
    )
    torch.testing.assert_close(stream(slots, 1, units), offline[0], atol=1e-5, rtol=1e-5)


def test_company_and_place_change_no_bit() -> None:
    units = [some_units(n, n) for n in (61, 40, 23)]
    alone = []
    for number, own in enumerate(units):
        slots = new_slots(buckets=(3,))
        open_voice(slots, 2, number)
        alone.append(stream(slots, 2, own))
    slots = new_slots(buckets=(3,))
    waiting = [list(blocks_of(own)) for own in units]
    parts: list[list[Tensor]] = [[], [], []]
    order = torch.Generator().manual_seed(3)
    for number in range(3):
        open_voice(slots, number, number)
    while any(waiting):
        some = [n for n in torch.randperm(3, generator=order).tolist() if waiting[n] and torch.rand(1) < 0.7]
        batch = [(n, waiting[n].pop(0)) for n in some]
        if batch:
            slots.solve(batch)
        for row, (number, block) in enumerate(batch):
            parts[number].append(slots.latents[row, : len(block)].clone())
    for number in range(3):
        assert torch.equal(torch.cat(parts[number]), alone[number])


def test_a_slot_that_broke_down_is_as_new_for_the_next() -> None:
    units = some_units(20, 4)
    slots = new_slots(2)
    open_voice(slots, 0, 7)
    good = stream(slots, 0, units)
    open_voice(slots, 1, 7)
    slots.ring[:, :, :, 0] = torch.nan
    slots.solve([(0, units[:3]), (1, units[:3])])
    assert slots.latents[0, :3].isnan().any()
    torch.testing.assert_close(slots.latents[1, :3], good[:3], atol=1e-6, rtol=1e-6)
    open_voice(slots, 0, 7)
    assert torch.equal(stream(slots, 0, units), good)


def test_what_does_not_fit_is_refused() -> None:
    slots = new_slots()
    flow = StreamingFlow(BUNDLE.perceptual, SOLVER, SCHEDULE)
    long = flow.prompt(VOICE.latents.repeat(2, 1), VOICE_V1.repeat(2, 1))
    with pytest.raises(ValueError, match="prompt of 40 frames; these slots take 20"):
        slots.open(0, 1, long)
    slots.open(0, 1)
    with pytest.raises(ValueError, match="block of 9 frames"):
        slots.solve([(0, [1] * 9)])
