"""What the block-causal flow is trained on: one random streaming situation per batch, and the loss in it."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from .block_causal import BlockCausalFlow
from .schedule import PROMPT, BlockSchedule


@dataclass(frozen=True)
class Situation:
    """How a batch of utterances is cut: shared by the batch, because the attention mask is."""

    prompt: int
    """Leading frames that serve as the voice prompt (0: none)."""
    schedule: BlockSchedule
    gap: int = 0
    """Frames between prompt and target by rotary position: the prompt must still work late in a long utterance."""

    def block_of(self, frames: int) -> Tensor:
        """Block table (frames,) int64 of utterances of `frames` frames, prompt included."""
        return self.schedule.table(frames - self.prompt, self.prompt)

    def positions(self, frames: int) -> Tensor:
        """Absolute positions (frames,) int64."""
        at = torch.arange(frames)
        return torch.where(at < self.prompt, at, at + self.gap)


def draw_situation(
    frames: int, rng: random.Random, *, longest_prompt: int = 150, no_prompt: float = 0.2, longest_gap: int = 3000
) -> Situation:
    """A random situation for utterances of `frames` frames, of which at least half stay target.

    longest_prompt in frames (150 = 3 s); no_prompt: share without any; longest_gap in frames (3000 = 60 s).
    """
    prompt = 0 if rng.random() < no_prompt else rng.randint(0, min(longest_prompt, frames // 2))
    gap = rng.randint(0, longest_gap) if rng.random() < 0.5 else 0
    return Situation(prompt, BlockSchedule.random(frames - prompt, rng), gap)


def flow_loss(
    model: BlockCausalFlow,
    latents: Tensor,
    v1: Tensor,
    situation: Situation,
    *,
    valid: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Flow-matching loss of a batch, a scalar, over target frames only.

    latents (B, T, D), v1 (B, T, D + detail): the tokenizer's sum of all code vectors, and of RVQ-1's with the digits of
    detail beside it, as they come (normalised here); voices have no detail, so a prompt's is not looked at. valid
    (B, T) bool, False on padding; generator draws times and noise (None: torch's global one).
    """
    batch, frames, _ = latents.shape
    device = latents.device
    z1, zv = model.normalise(latents), model.normalise_semantics(v1)
    block_of, positions = situation.block_of(frames).to(device), situation.positions(frames).to(device)
    target = (block_of != PROMPT).expand(batch, frames)
    context = z1.masked_fill(target[..., None], 0.0)
    dim = z1.shape[-1]
    zv = torch.cat((zv[..., :dim], zv[..., dim:].masked_fill(~target[..., None], 0.0)), dim=-1)
    # Times spread evenly over the batch from one random offset: each is uniform, together they vary the loss less.
    offset = torch.rand(1, device=device, generator=generator)
    t = (offset + torch.arange(batch, device=device) / batch) % 1.0
    noise = torch.randn(z1.shape, device=device, generator=generator)
    return model.flow.loss(
        lambda x, at: model.velocity(x, at, zv, context, block_of, positions=positions, valid=valid),
        z1,
        zv[..., :dim],
        noise,
        t,
        mask=target if valid is None else target & valid,
    )
