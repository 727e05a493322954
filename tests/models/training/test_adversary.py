"""Adversarial losses: each side learns from its own, and a decoder's training with them resumes."""

import pytest
import torch

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.training.acoustic import AcousticConfig
from speechgpt_gen.models.training.adversary import Adversary, AdversaryConfig, alike, convinced, told_apart
from speechgpt_gen.models.training.decoder import DecoderConfig
from speechgpt_gen.models.training.discriminators import FFT_SIZES, PERIODS, SCALES, Discriminators

WEIGHTS = AdversaryConfig(adversarial=0.5, features=2.0, waveform=3.0, channels=4)


@pytest.fixture
def truth() -> torch.Tensor:
    return torch.sin(torch.arange(4000) * torch.tensor([[0.05], [0.2]])) * 0.3


def made_of(truth: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (0.5 * truth + 0.1 * torch.randn(truth.shape, generator=generator)).requires_grad_()


def test_each_side_learns_from_its_own_terms(truth: torch.Tensor) -> None:
    torch.manual_seed(0)
    adversary = Adversary(WEIGHTS).eval()  # spectral norms stay as they are, so that the losses can be made again
    assert adversary.discriminators is not None
    weights = list(adversary.discriminators.parameters())
    made = made_of(truth)
    terms = adversary.beside((made - truth).square().mean(), made, truth)
    found = torch.autograd.grad(terms["loss"], [made, *weights])

    of_truth = adversary.discriminators(truth)
    theirs = torch.autograd.grad(told_apart(of_truth, adversary.discriminators(made.detach())), weights)
    for ours, alone in zip(found[1:], theirs, strict=True):
        torch.testing.assert_close(ours, alone)
    opinions = adversary.discriminators(made)
    loss = (made - truth).square().mean() + 3 * (made - truth).abs().mean()
    loss = loss + 0.5 * convinced(opinions) + 2 * alike(opinions, of_truth)
    torch.testing.assert_close(found[0], torch.autograd.grad(loss, made)[0])
    assert all(p.requires_grad for p in weights)


def test_discriminators_learn_to_tell_and_see_in_every_way(truth: torch.Tensor) -> None:
    torch.manual_seed(0)
    discriminators = Discriminators(4)
    noise = torch.randn(truth.shape) * 0.3
    optimizer = torch.optim.Adam(discriminators.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss = told_apart(discriminators(truth), discriminators(noise))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    members = len(PERIODS) + SCALES + len(FFT_SIZES)
    assert losses[0] == pytest.approx(members, rel=0.3), "at first each is as far from 1 as from 0"
    assert losses[-1] < 0.6 * losses[0]
    opinions = discriminators(truth)
    assert len(opinions) == members
    assert all(len(features) >= 5 and all(f.requires_grad for f in features) for _, features in opinions)


def test_the_published_width_has_the_published_size() -> None:
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in member.parameters()) for member in Discriminators(32).members]
    periods, scales = sum(sizes[: len(PERIODS)]), sum(sizes[len(PERIODS) :][:SCALES])
    assert round(periods / 1e6, 1) == 41.1  # HiFi-GAN's
    assert round(scales / 1e6, 1) == 29.6


def test_without_weights_nobody_is_trained(truth: torch.Tensor) -> None:
    adversary = Adversary(AdversaryConfig())
    made = made_of(truth)
    spectral = (made - truth).square().mean()
    assert adversary.discriminators is None
    assert adversary.beside(spectral, made, truth) == {"loss": spectral, "spectral": spectral}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"features": 1.0}, "nobody trains"), ({"adversarial": 1.0, "channels": 6}, "multiple of 4")],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AdversaryConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [AcousticConfig, DecoderConfig])
def test_crops_too_short_to_be_looked_at_are_refused(config: type[AcousticConfig] | type[DecoderConfig]) -> None:
    config(crop_frames=6)
    config(crop_frames=7, adversary=WEIGHTS)
    with pytest.raises(ConfigError, match="7 frames at least"):
        config(crop_frames=6, adversary=WEIGHTS)
