"""Draws follow the distribution that the options describe, and nothing but seed and position decides them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.semantic.sampling import Sampler, SamplingOptions

EVERYTHING = {"top_k": 0, "top_p": 1.0}
LOGITS = torch.tensor([2.0, 0.5, 0.0, 1.0, 3.0, -1.0])
ALLOWED = torch.tensor([0, 1, 3, 5])


def frequencies(options: SamplingOptions, temperature: float, draws: int = 4000) -> torch.Tensor:
    sampler = Sampler(options, seed=5, vocabulary_size=6)
    drawn = [sampler.draw(LOGITS, i, ALLOWED, temperature=temperature) for i in range(draws)]
    return torch.bincount(torch.tensor(drawn), minlength=6) / draws


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_temperature(temperature: float) -> None:
    expected = torch.zeros(6)
    expected[ALLOWED] = (LOGITS[ALLOWED] / temperature).softmax(0)
    assert (frequencies(SamplingOptions(**EVERYTHING), temperature) - expected).abs().max() < 0.03


def test_top_k_and_top_p_cut_the_tail() -> None:
    assert frequencies(SamplingOptions(top_k=2, top_p=1.0), 1.0, 300).nonzero().flatten().tolist() == [0, 3]
    # probabilities 0.61, 0.22, 0.14, 0.03: the first reaches 0.6 alone, two reach 0.8, three 0.9
    for top_p, kept in ((0.6, [0]), (0.8, [0, 3]), (0.9, [0, 1, 3])):
        options = SamplingOptions(top_k=0, top_p=top_p)
        assert frequencies(options, 1.0, 300).nonzero().flatten().tolist() == kept


def test_greedy_takes_the_best_allowed() -> None:
    sampler = Sampler(SamplingOptions(), seed=1, vocabulary_size=6)
    assert sampler.draw(LOGITS, 0, ALLOWED, temperature=0.0) == 0
    assert sampler.draw(LOGITS, 0, torch.tensor([2, 5]), temperature=0.0) == 2


def test_repetition_is_penalised_on_either_side_of_zero() -> None:
    sampler = Sampler(SamplingOptions(repetition_penalty=4.0), seed=1, vocabulary_size=6)
    assert sampler.draw(LOGITS, 0, ALLOWED, temperature=0.0, history=[0, 0, 4]) == 3
    below = torch.tensor([-1.0, -2.0])
    assert sampler.draw(below, 0, torch.tensor([0, 1]), temperature=0.0, history=[0]) == 1
    assert LOGITS[0] == 2.0, "the caller's logits were changed"


@settings(max_examples=30, deadline=None)
@given(positions=st.lists(st.integers(0, 200), min_size=1, max_size=20), seed=st.integers(0, 2**63))
def test_a_draw_depends_on_seed_and_position_only(positions: list[int], seed: int) -> None:
    options = SamplingOptions(**EVERYTHING)
    logits = torch.zeros(50)
    allowed = torch.arange(50)
    together = Sampler(options, seed, 50)
    for position in positions:
        alone = Sampler(options, seed, 50).draw(logits, position, allowed, temperature=1.0)
        assert together.draw(logits, position, allowed, temperature=1.0) == alone


def test_seeds_differ() -> None:
    drawn = {
        tuple(
            Sampler(SamplingOptions(**EVERYTHING), s, 50).draw(torch.zeros(50), p, torch.arange(50), temperature=1.0)
            for p in range(8)
        )
        for s in range(20)
    }
    assert len(drawn) == 20


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_k": -1}, {"repetition_penalty": 0.0}],
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SamplingOptions(**wrong)  # type: ignore[arg-type]
