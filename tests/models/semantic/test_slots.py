"""Many sequences on static slots against one that has the model to itself: the same tokens, whoever else decodes."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from speechgpt_gen.kernels.graph import Lane
from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.models.semantic.decoder import Draws, LocalDecoder
from speechgpt_gen.models.semantic.grammar import DecodingLimits, Grammar, Phase
from speechgpt_gen.models.semantic.llama import SemanticModel
from speechgpt_gen.models.semantic.sampling import SamplingOptions
from speechgpt_gen.models.semantic.slots import BROKEN, FULL, NOTHING, Chunk, SlotModel, SlotOptions, Start

BUNDLE = load_bundle("tiny")
VOCABULARY = BUNDLE.vocabulary
GRAMMAR = Grammar(VOCABULARY, DecodingLimits(word_frames=6, text_tokens=9, word_characters=3))
LIVELY = SamplingOptions(temperature=1.0, text_temperature=0.8, top_k=0, top_p=0.95, repetition_penalty=1.3)
TOP = SamplingOptions(top_k=5)
PROMPTS = ([VOCABULARY.human, 7, 8], [VOCABULARY.human, *range(40)], [VOCABULARY.speechgpt, VOCABULARY.ua])
CASES = [
    (PROMPTS[0], Phase.TEXT_FIRST, LIVELY, 11),
    (PROMPTS[1], Phase.SPELL_FIRST, LIVELY, 12),
    (PROMPTS[2], Phase.WORD_FIRST, TOP, 13),
    (PROMPTS[0], Phase.SPELL_FIRST, TOP, 2**63 - 5),
]


@cache
def fused() -> SemanticModel:
    return load_bundle("tiny").semantic.fuse_()


@pytest.fixture
def slots() -> SlotModel:
    options = SlotOptions(slots=4, capacity=64, buckets=(1, 2, 4), burst={1: 3, 2: 2}, candidates=VOCABULARY.size)
    made = SlotModel(fused(), GRAMMAR, options, Lane(torch.device("cpu")))
    made.capture()
    return made


def alone(prompt: list[int], phase: Phase, options: SamplingOptions, seed: int, capacity: int = 64) -> list[int]:
    decoder = LocalDecoder(BUNDLE.semantic, GRAMMAR, capacity)
    drawn = []
    for token in decoder.draw(0, prompt, phase, Draws(options, seed)):
        drawn.append(token)
        if len(drawn) == 40:
            break
    return drawn


def feed(slots: SlotModel, slot: int, prompt: list[int], start: Start | None) -> int:
    """Prefill in the chunks that fit, and what was drawn at the end."""
    told = NOTHING
    at = 0
    while at < len(prompt):
        chunk = prompt[at : at + 16]
        if start is not None and at + len(chunk) == len(prompt):
            slots.set(slot, start)
        told = int(slots.prefill([Chunk(slot, at, chunk)]).take()[0][0, -1])
        at += len(chunk)
    return told


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_slots_draw_what_each_would_draw_alone(slots: SlotModel, order: tuple[int, ...]) -> None:
    drawn: dict[int, list[int]] = {}
    waiting = list(zip(order, CASES, strict=True))
    running: list[int] = []
    while waiting or running:
        if waiting:  # one joins before every burst
            slot, (prompt, phase, options, seed) = waiting.pop()
            drawn[slot] = [feed(slots, slot, prompt, Start(len(prompt), phase, Draws(options, seed)))]
            running.append(slot)
        told = slots.burst(running).take()[0]
        for row, slot in enumerate(list(running)):
            tokens = [int(token) for token in told[:, row] if token >= 0]
            drawn[slot] += tokens
            if len(tokens) < len(told) or len(drawn[slot]) >= 40:
                running.remove(slot)
    for slot, case in zip(order, CASES, strict=True):
        assert drawn[slot][:40] == alone(*case)


def test_a_slot_can_stop_go_back_and_start_again(slots: SlotModel) -> None:
    prompt, phase, options, seed = CASES[1]
    wanted = alone(*CASES[1])
    start = Start(len(prompt), phase, Draws(options, seed))
    first = feed(slots, 2, prompt, start)
    slots.burst([2]).take()
    assert feed(slots, 2, prompt, start) == first == wanted[0]
    told = slots.burst([2]).take()[0][:, 0].tolist()
    assert told == wanted[1:4]
    # Taken up again from what the host knows, as after an error.
    at, count = int(phase), 0
    for token in wanted[:2]:
        at, count = GRAMMAR.follow(at, count, token)
    slots.set(2, Start(len(prompt) + 1, at, Draws(options, seed), count, 2, wanted[1]))
    assert slots.burst([2]).take()[0][:, 0].tolist() == wanted[2:5]


def test_scores_are_those_of_the_sequence_alone(slots: SlotModel) -> None:
    given = [VOCABULARY.human, VOCABULARY.sosp, *(VOCABULARY.told(i + 1024 * (5 * i % 65)) for i in range(12))]
    decoder = LocalDecoder(BUNDLE.semantic, GRAMMAR, 64)
    for most, last in ((VOCABULARY.listen, VOCABULARY.listen), (VOCABULARY.listen, VOCABULARY.eoh)):
        stops = [most] * (len(given) - 1) + [last]
        wanted = decoder.score(0, given, stops)
        told = slots.prefill([Chunk(1, 0, given, stops), Chunk(3, 0, given[:5], stops[:5])]).take()[0]
        for row, count in ((0, len(given)), (1, 5)):
            codes = told[row, :count].tolist()
            assert [(code // 2, bool(code % 2)) for code in codes] == [(s.text, s.wanted) for s in wanted[:count]]


def test_a_full_memory_ends_as_it_does_alone() -> None:
    options = SlotOptions(slots=1, capacity=20, buckets=(1,), burst={1: 8}, candidates=VOCABULARY.size)
    slots = SlotModel(fused(), GRAMMAR, options, Lane(torch.device("cpu")))
    slots.capture()
    prompt, phase, sampling, seed = [5] * 15, Phase.SPELL_FIRST, TOP, 3
    told = [feed(slots, 0, prompt, Start(15, phase, Draws(sampling, seed)))]
    told += slots.burst([0]).take()[0][:, 0].tolist()
    wanted = alone(prompt, phase, sampling, seed, capacity=20)
    assert told == [*wanted, FULL, *[NOTHING] * (8 - len(wanted))]


def test_numbers_that_break_down_end_their_own_slot_only(slots: SlotModel) -> None:
    for slot in (0, 1):
        prompt, phase, options, seed = CASES[3]
        feed(slots, slot, prompt, Start(len(prompt), phase, Draws(options, seed)))
    slots.cache[:, :, 0, 1] = torch.nan
    told = slots.burst([0, 1]).take()[0]
    assert told[:, 0].tolist() == [BROKEN, NOTHING]
    assert told[:, 1].tolist() == alone(*CASES[3])[1:3]


def test_few_candidates_are_the_likeliest() -> None:
    options = SlotOptions(slots=1, capacity=64, buckets=(1,), burst={1: 8}, candidates=5)
    slots = SlotModel(fused(), GRAMMAR, options, Lane(torch.device("cpu")))
    slots.capture()
    prompt, phase, _, seed = CASES[2]
    told = [feed(slots, 0, prompt, Start(len(prompt), phase, Draws(LIVELY, seed)))]
    told += slots.burst([0]).take()[0][:, 0].tolist()
    wanted = alone(prompt, phase, replace(LIVELY, top_k=5), seed)
    assert [token for token in told if token >= 0] == wanted[:9]


def test_no_pass_takes_more_than_there_is(slots: SlotModel) -> None:
    assert slots.shape(1, 17) == (1, 64)
    assert slots.shape(2, 3) == (4, 16)
    with pytest.raises(ValueError, match="no prefill pass takes 2 chunks of 17"):
        slots.shape(2, 17)


def rounded(slots: int = 4) -> SlotModel:
    options = SlotOptions(slots, 64, (slots,), {slots: 3}, candidates=VOCABULARY.size, fp8_cache=True)
    made = SlotModel(fused(), GRAMMAR, options, Lane(torch.device("cpu")))
    made.capture()
    return made


def read(slots: SlotModel, tokens: torch.Tensor, slot: int = 0) -> torch.Tensor:
    """Logits after each of (n,) tokens, eight a pass: later ones read earlier ones from the cache."""
    given = []
    with torch.inference_mode():
        for start in range(0, len(tokens), 8):
            at = torch.tensor([start], dtype=torch.int32)
            given.append(slots.logits(slots.states(tokens[None, start : start + 8], at.new_tensor([slot]), at)[0]))
    return torch.cat(given)


def test_a_cache_in_fp8_is_half_as_large_and_little_less_exact() -> None:
    tokens = torch.randint(VOCABULARY.size, (48,), generator=torch.Generator().manual_seed(1))
    slots = rounded()
    assert slots.cache.element_size() == 1
    with torch.inference_mode():
        exact = BUNDLE.semantic(tokens[None])[0]
    given = read(slots, tokens)
    error = float((given - exact).square().mean().sqrt() / exact.std())
    assert 1e-4 < error < 0.03
    assert torch.equal(read(slots, tokens, slot=2), given), "whichever slot"


def test_what_an_fp8_cache_holds_is_worth_what_the_scales_say() -> None:
    """The stored bytes times their heads' scales are the keys and values of the plain model, to 3 bits of mantissa."""
    tokens = torch.randint(VOCABULARY.size, (32,), generator=torch.Generator().manual_seed(2))
    slots = rounded(1)
    read(slots, tokens[:8])
    plain = BUNDLE.semantic.empty_cache(8)
    with torch.inference_mode():
        BUNDLE.semantic(tokens[None, :8], plain)
    assert slots.cache_scales is not None
    stored = slots.cache[:, :, 0, :8].float() * slots.cache_scales[:, :, None, :, None]
    exact = torch.stack((plain.keys[:, 0], plain.values[:, 0]), 1)
    # Layer 0 sees the same inputs in both; half a step of 3 bits, and of the smallest number that there is.
    smallest = 2.0**-10 * slots.cache_scales[0, :, None, :, None]
    assert ((stored - exact)[0].abs() <= exact[0].abs() / 16 * 1.01 + smallest).all()
    assert (stored != exact).any()


def test_rows_of_an_fp8_cache_are_their_own() -> None:
    slots = rounded()
    given: list[list[int]] = []
    for others in ((), (0, 3)):
        firsts = {}
        for slot in (2, *others):
            prompt, phase, options, seed = CASES[3 if slot == 2 else 1]
            firsts[slot] = feed(slots, slot, prompt, Start(len(prompt), phase, Draws(options, seed)))
        given.append([firsts[2], *slots.burst([*others, 2]).take()[0][:, -1].tolist()])
    assert given[0] == given[1]
