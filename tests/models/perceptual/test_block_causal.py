"""The block-causal velocity network: what sees what, and that it learns."""

import random

import pytest
import torch
from torch import Tensor, nn

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.perceptual.block_causal import BlockCausalConfig, BlockCausalFlow, rotate
from speechgpt_gen.models.perceptual.objective import Situation, draw_situation, flow_loss
from speechgpt_gen.models.perceptual.schedule import BlockSchedule, visible

TINY = BlockCausalConfig(latent_dim=6, dim=16, depth=2, heads=2, window_frames=8)
FRAMES, PROMPT_FRAMES = 30, 5
TABLE = BlockSchedule((3, 4)).table(FRAMES - PROMPT_FRAMES, PROMPT_FRAMES)


def awake(config: BlockCausalConfig = TINY) -> BlockCausalFlow:
    """A model with every parameter at random: at its own initialisation the velocity is 0."""
    torch.manual_seed(1)
    model = BlockCausalFlow(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.latent_mean.normal_()
    model.latent_std.uniform_(0.5, 2.0)
    return model


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, v1, context = torch.randn(3, batch, FRAMES, TINY.latent_dim)
    return x, torch.rand(batch), v1, context.masked_fill((TABLE != 0)[:, None], 0.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"dim": 18, "heads": 6},
        {"depth": 0},
        {"window_frames": -1},
        {"detail": -1},
        {"detail": 3, "concat_cond": False},
        {"chain": "explicit", "prior": "semantic"},
    ],
)
def test_impossible_configurations_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        BlockCausalConfig(**bad)  # type: ignore[arg-type]


def test_fresh_model_estimates_no_velocity() -> None:
    x, t, v1, context = inputs()
    assert BlockCausalFlow(TINY).velocity(x, t, v1, context, TABLE).abs().max() == 0


@torch.no_grad()
def test_a_frame_changes_only_what_may_see_it_through_all_layers() -> None:
    model = awake()
    x, t, v1, context = inputs()
    before = model.velocity(x, t, v1, context, TABLE)
    mask = visible(TABLE, TINY.window_frames)
    reach = (mask.float() @ mask.float()) > 0  # two layers of attention
    for frame in range(PROMPT_FRAMES, FRAMES):
        changed = v1.clone()
        changed[:, frame] += 1.0
        difference = (model.velocity(x, t, changed, context, TABLE) - before).abs().amax(dim=(0, 2))
        assert torch.equal(difference > 0, reach[:, frame])


@torch.no_grad()
def test_the_prompt_reaches_every_frame_and_its_noise_none() -> None:
    model = awake()
    x, t, v1, context = inputs()
    before = model.velocity(x, t, v1, context, TABLE)
    other_noise = x.clone()
    other_noise[:, :PROMPT_FRAMES] = 7.0
    assert torch.equal(model.velocity(other_noise, t, v1, context, TABLE), before)
    other_voice = context.clone()
    other_voice[:, 0] += 1.0
    difference = (model.velocity(x, t, v1, other_voice, TABLE) - before).abs().amax(dim=(0, 2))
    assert bool((difference > 1e-6).all())


@torch.no_grad()
def test_padding_changes_nothing_and_rows_do_not_mix() -> None:
    model = awake()
    x, t, v1, context = inputs()
    valid = torch.ones(2, FRAMES, dtype=torch.bool)
    valid[1, 22:] = False
    before = model.velocity(x, t, v1, context, TABLE, valid=valid)
    torch.testing.assert_close(before[0], model.velocity(x, t, v1, context, TABLE)[0], atol=1e-5, rtol=1e-5)
    cut = model.velocity(x[1:, :22], t[1:], v1[1:, :22], context[1:, :22], TABLE[:22])
    torch.testing.assert_close(before[1:, :22], cut, atol=1e-5, rtol=1e-5)
    assert before.isfinite().all()


def test_rotary_scores_depend_on_distance_alone() -> None:
    model = awake()
    q, k = torch.randn(2, 1, 1, 1, 8)

    def score(query_at: int, key_at: int) -> Tensor:
        return (
            rotate(q, model.rotation(torch.tensor([query_at]))) * rotate(k, model.rotation(torch.tensor([key_at])))
        ).sum()

    torch.testing.assert_close(score(9, 4), score(100_009, 100_004), atol=1e-4, rtol=1e-4)
    assert abs(float(score(9, 4) - score(9, 5))) > 1e-3
    assert torch.equal(rotate(q, model.rotation(torch.tensor([0]))), q)


def test_v1_reaches_the_network_only_when_asked() -> None:
    x, t, v1, context = inputs()
    blind = awake(BlockCausalConfig(**{**vars(TINY), "concat_cond": False}))
    assert torch.equal(blind.velocity(x, t, v1, context, TABLE), blind.velocity(x, t, v1 + 1, context, TABLE))


def test_normalisation_round_trips() -> None:
    model = awake()
    latents = torch.randn(2, 7, 6) * 3 + 1
    torch.testing.assert_close(model.denormalise(model.normalise(latents)), latents)
    centred = model.normalise(model.latent_mean.expand(1, 4, 6))
    assert centred.abs().max() == 0


def test_situations_leave_targets_and_vary() -> None:
    rng = random.Random(0)
    drawn = [draw_situation(120, rng) for _ in range(100)]
    assert all(0 <= situation.prompt <= 60 for situation in drawn)
    assert 10 < sum(situation.prompt == 0 for situation in drawn) < 40
    assert 30 < sum(situation.gap > 0 for situation in drawn) < 70
    assert draw_situation(1, rng).block_of(1).tolist() == [1]
    situation = Situation(prompt=2, schedule=BlockSchedule(), gap=10)
    assert situation.positions(4).tolist() == [0, 1, 12, 13]


def test_loss_counts_valid_target_frames_alone() -> None:
    model = awake()
    latents, v1 = torch.randn(2, 2, 20, 6)
    situation = Situation(prompt=6, schedule=BlockSchedule((5,)))
    valid = torch.ones(2, 20, dtype=torch.bool)
    valid[0, 15:] = False

    def loss(latents: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return flow_loss(model, latents, v1, situation, valid=valid, generator=generator)

    padded = latents.clone()
    padded[0, 15:] = 9.0
    torch.testing.assert_close(loss(padded), loss(latents))
    other = latents.clone()
    other[1, 18] += 5.0
    assert abs(float((loss(other) - loss(latents)).detach())) > 1e-3


def test_detail_tells_of_the_target_and_never_of_the_prompt() -> None:
    model = awake(BlockCausalConfig(**{**vars(TINY), "detail": 3}))
    latents, v1 = torch.randn(2, 20, 6), torch.randn(2, 20, 9)
    situation = Situation(prompt=6, schedule=BlockSchedule((5,)))

    def loss(v1: Tensor) -> Tensor:
        return flow_loss(model, latents, v1, situation, generator=torch.Generator().manual_seed(3))

    of_prompt, of_target = v1.clone(), v1.clone()
    of_prompt[:, :6, 6:] += 1.0
    of_target[:, 6:, 6:] += 1.0
    assert torch.equal(loss(of_prompt), loss(v1))
    assert abs(float((loss(of_target) - loss(v1)).detach())) > 1e-3
    plain = awake()
    assert torch.equal(plain.normalise_semantics(v1), plain.normalise(v1[..., :6])), "what it does not know of"


def test_it_learns_a_toy_relation() -> None:
    torch.manual_seed(0)
    rng = random.Random(0)
    codebook = torch.randn(8, 6)
    model = BlockCausalFlow(TINY)
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
    losses = []
    for _ in range(120):
        v1 = codebook[torch.randint(0, 8, (8, 24))]
        loss = flow_loss(model, -v1, v1, draw_situation(24, rng))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    first, last = sum(losses[:10]) / 10, sum(losses[-20:]) / 20
    assert last < 0.2 * first
