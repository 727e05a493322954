"""A stream equals the offline masked run, whatever the arrival of its units."""

import itertools
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from speechgpt_gen.kernels.linear import quantize_linears_
from speechgpt_gen.models.perceptual.block_causal import BlockCausalConfig, BlockCausalFlow
from speechgpt_gen.models.perceptual.flow_matching import Solver
from speechgpt_gen.models.perceptual.schedule import BlockSchedule
from speechgpt_gen.models.perceptual.streaming import FlowPrompt, StreamingFlow, solve_offline

SCHEDULE = BlockSchedule((3, 5, 7, 2, 7, 6))
FRAMES = 47  # blocks of 3, 5, 7, 2, 7, 6, 6, 6 and a partial 5; the window of 11 is far shorter
LATENT = 6


def awake(**options: object) -> BlockCausalFlow:
    """A model with every parameter at random and latents that are far from standard.

    Standard deviation 0.2: the velocity is of order 1 while one run's own float32 rounding stays below 5e-6. (At 0.3 it
    is 7e-5, and two exact orders of summation may differ by more than 1e-5.)
    """
    torch.manual_seed(1)
    sizes = {"latent_dim": LATENT, "dim": 16, "depth": 3, "heads": 2, "window_frames": 11}
    model = BlockCausalFlow(BlockCausalConfig(**{**sizes, **options})).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.latent_mean.normal_()
    model.latent_std.uniform_(0.5, 2.0)
    return model


def units(frames: int = FRAMES, batch: int = 1) -> Tensor:
    return torch.randn(batch, frames, LATENT, generator=torch.Generator().manual_seed(2))


def voice(frames: int = 9) -> tuple[Tensor, Tensor]:
    latents, v1 = torch.randn(2, frames, LATENT, generator=torch.Generator().manual_seed(3))
    return latents, v1


def streamed(
    flow: StreamingFlow, v1: Tensor, arrival: list[int], prompt: FlowPrompt | None = None, seed: int = 5
) -> Tensor:
    """Latents of a stream whose units come in pieces of `arrival` frames, then the rest at once."""
    stream, blocks, at = flow.stream(seed, prompt), [], 0
    for length in [*arrival, v1.shape[1]]:
        blocks += stream.push(v1[:, at : at + length])
        at += length
    blocks += stream.finish()
    assert stream.finish() == []
    assert [block.shape[1] for block in blocks] == flow.schedule.lengths(v1.shape[1])
    return torch.cat(blocks, dim=1)


FLOWS = [
    {"chain": "implicit", "prior": "semantic"},
    {"chain": "implicit", "prior": "gaussian", "sigma_min": 0.1},
    {"chain": "explicit", "prior": "gaussian", "prior_sigma": 0.7},
    {"chain": "implicit", "prior": "semantic", "prior_sigma": 0.5, "concat_cond": False},
    {"chain": "implicit", "prior": "semantic", "detail": 3},
]


@pytest.mark.parametrize("options", FLOWS)
@pytest.mark.parametrize("solver", [Solver("euler", 3), Solver("midpoint", 4)])
@pytest.mark.parametrize("with_prompt", [False, True])
def test_stream_equals_offline(options: dict[str, object], solver: Solver, with_prompt: bool) -> None:
    model = awake(**options)
    digits = torch.randn(1, FRAMES, model.config.detail)
    latents, of_voice = voice()
    known = latents, torch.cat((of_voice, torch.zeros(len(latents), model.config.detail)), dim=-1)
    v1 = torch.cat((units(), digits), dim=-1)
    flow = StreamingFlow(model, solver, SCHEDULE)
    prompt = flow.prompt(*known) if with_prompt else None
    offline = solve_offline(model, v1, seed=5, solver=solver, schedule=SCHEDULE, prompt=known if with_prompt else None)
    assert offline.shape == (1, FRAMES, LATENT)
    assert offline.std() > 0.3
    torch.testing.assert_close(streamed(flow, v1, [4, 4, 9], prompt), offline, atol=1e-5, rtol=1e-5)


@given(arrival=st.lists(st.integers(0, 20), max_size=12))
@settings(max_examples=25, deadline=None)
def test_arrival_changes_not_one_bit(arrival: list[int]) -> None:
    flow = StreamingFlow(MODEL, Solver("euler", 2), SCHEDULE)
    assert torch.equal(streamed(flow, units(), arrival, PROMPT), streamed(flow, units(), [1] * FRAMES, PROMPT))


MODEL = awake()
PROMPT = StreamingFlow(MODEL, Solver("euler", 2), SCHEDULE).prompt(*voice())


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    window=st.integers(0, 20),
    frames=st.integers(1, 40),
    prompt_frames=st.integers(0, 5),
)
@settings(max_examples=25, deadline=None)
def test_any_schedule_and_window_stream_as_offline(
    sizes: list[int], window: int, frames: int, prompt_frames: int
) -> None:
    model, solver, schedule = awake(window_frames=window, depth=2), Solver("euler", 2), BlockSchedule(tuple(sizes))
    flow = StreamingFlow(model, solver, schedule)
    prompt = voice(prompt_frames) if prompt_frames else None
    offline = solve_offline(model, units(frames), seed=5, solver=solver, schedule=schedule, prompt=prompt)
    got = streamed(flow, units(frames), [], None if prompt is None else flow.prompt(*prompt))
    torch.testing.assert_close(got, offline, atol=1e-5, rtol=1e-5)


def test_the_end_of_an_utterance_does_not_change_its_finished_blocks() -> None:
    flow = StreamingFlow(MODEL, Solver("euler", 2), SCHEDULE)
    short, whole = flow.stream(5), flow.stream(5)
    assert all(torch.equal(a, b) for a, b in zip(short.push(units()[:, :30]), whole.push(units()), strict=False))


def test_sessions_and_rows_do_not_disturb_each_other() -> None:
    flow = StreamingFlow(MODEL, Solver("euler", 2), SCHEDULE)
    alone = [streamed(flow, v1, [], PROMPT, seed) for v1, seed in ((units(), 1), (-units(), 2))]
    first, second = flow.stream(1, PROMPT), flow.stream(2, PROMPT)
    together = [
        torch.cat([*a, *b], dim=1)
        for a, b in zip(
            *(
                ([s.push(v1[:, :20]) for s, v1 in ((first, units()), (second, -units()))]),
                ([s.push(v1[:, 20:]) + s.finish() for s, v1 in ((first, units()), (second, -units()))]),
            ),
            strict=True,
        )
    ]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    state = flow.open(1, PROMPT, batch=2)
    rows = flow.step(torch.cat((units(), -units()))[:, :3], state)
    torch.testing.assert_close(rows[:1], alone[0][:, :3], atol=1e-6, rtol=1e-6)
    offline = solve_offline(
        MODEL,
        torch.cat((units(), -units()))[:, :3],
        seed=1,
        solver=Solver("euler", 2),
        schedule=SCHEDULE,
        prompt=voice(),
    )
    torch.testing.assert_close(rows, offline, atol=1e-5, rtol=1e-5)


def test_voice_and_seed_are_heard() -> None:
    flow = StreamingFlow(MODEL, Solver("euler", 2), SCHEDULE)
    base = streamed(flow, units(), [], PROMPT)
    for other in (streamed(flow, units(), []), streamed(flow, units(), [], PROMPT, seed=6)):
        assert all((a - b).abs().max() > 1e-3 for a, b in zip(base[0], other[0], strict=True))


def test_memory_is_bounded_and_long_streams_stay_exact() -> None:
    flow = StreamingFlow(MODEL, Solver("euler", 2), BlockSchedule((4, 6)))
    v1 = units(600)
    stream = flow.stream(5, PROMPT)
    size = stream.state.memory.numel()
    blocks = list(itertools.chain.from_iterable(stream.push(piece) for piece in v1.split(10, dim=1)))
    blocks += stream.finish()
    assert stream.state.memory.numel() == size == 2 * 3 * 2 * 16 * (9 + 11 + 6)
    assert stream.state.frame == 600
    offline = solve_offline(
        MODEL, v1, seed=5, solver=Solver("euler", 2), schedule=BlockSchedule((4, 6)), prompt=voice()
    )
    torch.testing.assert_close(torch.cat(blocks, dim=1), offline, atol=1e-5, rtol=1e-5)


def test_bf16_weights_stream_close_to_offline() -> None:
    model = awake().to(torch.bfloat16)
    flow = StreamingFlow(model, Solver("euler", 2), SCHEDULE)
    offline = solve_offline(model, units(), seed=5, solver=Solver("euler", 2), schedule=SCHEDULE, prompt=voice())
    got = streamed(flow, units(), [], flow.prompt(*voice()))
    assert got.dtype == torch.float32
    assert float((got - offline).norm() / offline.norm()) < 2e-2


@pytest.mark.parametrize(("dtype", "bound"), [("bf16", 2e-2), ("int8", 5e-2)])
def test_lighter_linears_stay_close_and_arrival_still_changes_nothing(
    dtype: Literal["bf16", "int8"], bound: float
) -> None:
    solver, whole = Solver("euler", 2), units()
    exact = streamed(StreamingFlow(awake(), solver, SCHEDULE), whole, [])
    model = awake()
    quantize_linears_(model.blocks, dtype)
    flow = StreamingFlow(model, solver, SCHEDULE)
    got = streamed(flow, whole, [])
    assert 0 < float((got - exact).norm() / exact.norm()) < bound
    assert torch.equal(got, streamed(flow, whole, [1] * FRAMES))


def test_misuse_is_named() -> None:
    flow = StreamingFlow(MODEL, Solver("euler", 2), SCHEDULE)
    with pytest.raises(ValueError, match="takes 1 to 7"):
        flow.step(units(8), flow.open(0))
    with pytest.raises(ValueError, match="a prompt needs"):
        flow.prompt(torch.zeros(0, LATENT), torch.zeros(0, LATENT))
    with pytest.raises(ValueError, match="a prompt needs"):
        flow.prompt(torch.zeros(4, LATENT), torch.zeros(5, LATENT))
    with pytest.raises(ValueError, match="a prompt needs"):
        flow.prompt(torch.zeros(4, LATENT - 1), torch.zeros(4, LATENT))
    with pytest.raises(ValueError, match="this flow takes"):
        StreamingFlow(awake(detail=3), Solver("euler", 2), SCHEDULE).step(units(4), flow.open(0))
