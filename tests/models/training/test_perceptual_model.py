"""What the perceptual model is trained on: detail as it may be made up, and weights that knew none."""

from dataclasses import replace

import torch

from speechgpt_gen.models.perceptual.block_causal import BlockCausalConfig, BlockCausalFlow
from speechgpt_gen.models.perceptual.schedule import BlockSchedule
from speechgpt_gen.models.speech_tokenizer.detail import detail_of, levels_of
from speechgpt_gen.models.training.corpus import Utterance
from speechgpt_gen.models.training.perceptual_model import PerceptualRecipe, join, misjudged, nearby, widened

DIGITS = 12
CONFIG = BlockCausalConfig(latent_dim=6, dim=16, depth=2, heads=2, ff_mult=2.0)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_detail_is_off_by_a_level_or_missing_as_often_as_asked() -> None:
    levels = torch.randint(0, 4, (300, 40, DIGITS), generator=generator())
    detail = detail_of(levels)
    detail[:, 7] = 0  # a frame of which nothing is told
    exact = misjudged(detail, DIGITS, PerceptualRecipe(without_detail=0.0, near_detail=0.0), generator())
    assert torch.equal(exact, detail)
    made = misjudged(detail, DIGITS, PerceptualRecipe(without_detail=0.2, near_detail=0.4), generator())
    told = (made > 0).any(1)
    assert (made[told][:, 7] == 0).all()
    assert (made[told][:, :7] > 0).all()
    assert 0.7 < told.float().mean() < 0.9
    moved = (levels_of(made, DIGITS) - levels)[told][:, :7]
    assert moved.abs().max() == 1
    of_row = moved.abs().float().mean((1, 2))
    assert 0.1 < of_row.mean() < 0.2, "half of 0.4, but for what lay at the edge"
    assert of_row.max() > 0.25
    assert of_row.min() < 0.05


def test_units_are_off_by_a_level_in_one_digit_as_often_as_asked() -> None:
    units = torch.randint(0, 1024, (300, 40), generator=generator())
    made = nearby(units, PerceptualRecipe(near_units=0.4), generator())
    levels, before = (each[..., None] // 4 ** torch.arange(5) % 4 for each in (made, units))
    moved = (levels - before).abs()
    assert moved.sum(-1).max() == 1
    off = moved.sum(-1).float().mean(1)
    assert 0.1 < off.mean() < 0.2, "half of 0.4, but for what lay at the edge"
    assert off.max() > 0.25
    assert torch.equal(nearby(units, PerceptualRecipe(), generator()), units)


def test_weights_that_knew_no_detail_go_on_as_they_were() -> None:
    before = BlockCausalFlow(CONFIG)
    for parameter in before.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    after = BlockCausalFlow(replace(CONFIG, detail=3))
    after.load_state_dict(widened(before.state_dict(), after))
    x, v1, context = torch.randn(3, 2, 10, 6)
    block_of = BlockSchedule((5,)).table(10, 0)
    t = torch.tensor([0.2, 0.7])
    told = torch.cat((v1, torch.randn(2, 10, 3)), dim=-1)
    torch.testing.assert_close(
        after.velocity(x, t, told, context, block_of), before.velocity(x, t, v1, context, block_of)
    )
    assert widened(after.state_dict(), after)["in_proj.weight"].shape == after.in_proj.weight.shape


def test_rows_join_recordings_of_one_speaker_until_they_are_long_enough() -> None:
    utterances = [Utterance(str(n), "abc"[n % 3], "sentence", "", "train", "", 0, 320 * 30) for n in range(120)]
    recipe = PerceptualRecipe(joined=0.5, longest_frames=100)
    rows = join(utterances, recipe)
    assert sorted(u.id for row in rows for u in row) == sorted(u.id for u in utterances)
    assert all(len({u.speaker for u in row}) == 1 for row in rows)
    assert all(len(row) <= 4 for row in rows), "three are 90 frames, four more than fit"
    assert sum(len(row) < 4 for row in rows if len(row) > 1) <= 3, "a speaker's last row alone may be short"
    assert 0.3 < sum(len(row) for row in rows if len(row) > 1) / 120 < 0.7
    assert join(utterances, recipe) == rows
    assert all(len(row) == 1 for row in join(utterances, PerceptualRecipe(longest_frames=100)))
