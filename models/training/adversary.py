"""The published losses of a decoder beside the spectral one: samples, discriminators and what they look at.

Source: the training code of SpeechTokenizer (arXiv 2308.16692), whose adversarial loss is that of least squares.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .discriminators import FFT_SIZES, Discriminators, Opinion
from .precision import mixed
from .recordings import HOP


@dataclass(frozen=True)
class AdversaryConfig:
    """Weights beside that of the spectral loss, which is 1; published are, with a spectral loss of 45, waveform 500,
    adversarial 1 and features 2."""

    adversarial: float = 0.0
    """0: nobody is to be convinced, and no discriminator is trained."""
    features: float = 0.0
    """Of the distance between what discriminators see in made and in recorded speech."""
    waveform: float = 0.0
    """Of the distance between samples."""
    channels: int = 32
    """Width of the discriminators; the published one is 32, 71 million weights in all."""

    def __post_init__(self) -> None:
        if self.features and not self.adversarial:
            raise ConfigError("features of discriminators that nobody trains: give adversarial a weight as well")
        if self.channels < 4 or self.channels % 4:
            raise ConfigError(f"channels = {self.channels}: give the discriminators a multiple of 4")

    def check_crop(self, frames: int) -> None:
        """Raise ConfigError when crops of so many frames are too short to be looked at."""
        if self.adversarial and frames * HOP < max(FFT_SIZES):
            raise ConfigError(
                f"crop_frames = {frames}: discriminators look at {-(-max(FFT_SIZES) // HOP)} frames at least"
            )


class Adversary(nn.Module):
    """Judges what a generator makes, and learns to: its discriminators learn beside the module of a `Loop`."""

    def __init__(self, config: AdversaryConfig) -> None:
        super().__init__()
        self.config = config
        self.discriminators = Discriminators(config.channels) if config.adversarial else None

    def beside(self, spectral: Tensor, made: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The spectral loss of waveforms (B, N) with the others -> "loss", which is minimised, and its terms by name.

        "discriminator" moves the discriminators alone, all others the generator alone.
        """
        config, loss, terms = self.config, spectral, {"spectral": spectral}
        if config.waveform:
            terms["waveform"] = F.l1_loss(made, truth)
            loss = loss + config.waveform * terms["waveform"]
        if self.discriminators is not None:
            with mixed(made.device):
                of_truth, of_made = self.discriminators(truth), self.discriminators(made.detach())
                with _unmoved(self.discriminators):
                    opinions = self.discriminators(made)
            terms |= {"discriminator": told_apart(of_truth, of_made), "adversarial": convinced(opinions)}
            loss = loss + terms["discriminator"] + config.adversarial * terms["adversarial"]
            if config.features:
                terms["features"] = alike(opinions, of_truth)
                loss = loss + config.features * terms["features"]
        return {"loss": loss, **terms}


def told_apart(of_truth: list[Opinion], of_made: list[Opinion]) -> Tensor:
    """Loss of discriminators, summed over them: recorded speech is 1, made speech 0."""
    each = [_far(t, 1.0) + _far(m, 0.0) for (t, _), (m, _) in zip(of_truth, of_made, strict=True)]
    return sum(each[1:], each[0])


def convinced(of_made: list[Opinion]) -> Tensor:
    """Loss of who made speech that is to be taken for recorded."""
    each = [_far(m, 1.0) for m, _ in of_made]
    return sum(each[1:], each[0])


def alike(of_made: list[Opinion], of_truth: list[Opinion]) -> Tensor:
    """Distance of features, summed over layers and discriminators; those of recorded speech stay where they are."""
    made, truth = ([layer.float() for _, layers in each for layer in layers] for each in (of_made, of_truth))
    each = [F.l1_loss(m, t.detach()) for m, t in zip(made, truth, strict=True)]
    return sum(each[1:], each[0])


def _far(opinion: Tensor, wanted: float) -> Tensor:
    return (opinion.float() - wanted).square().mean()


@contextmanager
def _unmoved(module: nn.Module) -> Iterator[None]:
    """What runs in here gives the weights of `module` no gradient."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
