"""Stage three of the tokenizer: its decoder alone.

Codes and latents stay as they are, so the models that were trained on them need not know, and nothing has to be
encoded: a step takes a fraction of stage two's.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import positive
from ..speech_tokenizer.spectral import AcousticDecoder
from ..speech_tokenizer.streaming import StreamingSpeechTokenizer
from .acoustic import SpectralLoss
from .adversary import Adversary, AdversaryConfig
from .corpus import Corpus, Utterance
from .loop import Loop, LoopConfig
from .parallel import ALONE, World
from .precision import mixed
from .recordings import Recordings
from .samples import played


@dataclass(frozen=True)
class DecoderConfig:
    """Settings of stage three; crops are `crop_frames` long (20 ms each)."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=6000, learning_rate=8e-4, warmup=50, decay=0.6, weight_decay=0.0, save_every=200, ema=0.998
        )
    )
    batch: int = 8
    crop_frames: int = 64
    latent_noise: float = 0.1
    """What the flow makes is not quite a sum of codes."""
    fewer_levels: float = 0.2
    """Share of the crops that come as the first few levels of their codes."""
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    evaluate_every: int = 0
    """Steps between losses of the held-out split (0: at the end only)."""

    def __post_init__(self) -> None:
        positive(self, "batch", "crop_frames")
        self.adversary.check_crop(self.crop_frames)


def train(
    corpus: Corpus,
    tokenizer: StreamingSpeechTokenizer,
    codes: Tensor,
    folder: Path,
    config: DecoderConfig,
    *,
    device: str = "cpu",
    start: AcousticDecoder | None = None,
    budget: float | None = None,
    until: int | None = None,
    world: World = ALONE,
) -> AcousticDecoder:
    """Train a decoder for `codes` (frames, n_q) of the corpus in `folder`, resuming from its checkpoint.

    start: the decoder to go on from, by default a copy of the tokenizer's; budget: seconds that it may take.
    """
    torch.manual_seed(config.loop.seed)
    decoder = (deepcopy(tokenizer.decoder) if start is None else start).to(device)
    decoder.requires_grad_(True)  # a model that was loaded to be used has frozen weights
    tokenizer, codes = tokenizer.to(device), codes.to(device)
    spectral, recordings = SpectralLoss().to(device), Recordings(corpus, device)
    adversary = Adversary(config.adversary).to(device)
    training, held_out = corpus.split("train"), corpus.split("valid")

    def crops(pool: Sequence[Utterance], rng: np.random.Generator, fewer: float) -> tuple[Tensor, Tensor]:
        """True sound (B, N) and the latents (B, frames, D) that are to make it."""
        chosen = [pool[i] for i in rng.integers(len(pool), size=config.batch)]
        first = [int(rng.integers(max(1, u.frames - config.crop_frames + 1))) for u in chosen]
        own = recordings.rows(codes, chosen, config.crop_frames, first).long().permute(2, 0, 1)
        some = rng.integers(1, max(2, tokenizer.n_q), config.batch)
        levels = np.where(rng.random(config.batch) < fewer, some, tokenizer.n_q)
        latents = torch.cat([tokenizer.latents(own[:n, i : i + 1]) for i, n in enumerate(levels)])
        return recordings.audio(chosen, config.crop_frames, first), latents

    def make(latents: Tensor) -> Tensor:
        with mixed(latents.device):
            made: Tensor = decoder(latents)
        return made.float()

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((config.loop.seed, step))
        truth, latents = crops(training, rng, config.fewer_levels)
        noise = rng.random((config.batch, 1, 1)) * rng.standard_normal(tuple(latents.shape))
        made = make(latents + (config.latent_noise * torch.from_numpy(noise)).to(latents))
        return adversary.beside(spectral(made, truth), made, truth)

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        rng = np.random.default_rng(0)
        if not held_out:
            return {}
        judged = [crops(held_out, rng, 0.0) for _ in range(8)]
        return {"spectral": sum(float(spectral(make(latents), truth)) for truth, latents in judged) / len(judged)}

    @torch.no_grad()
    def made_again(u: Utterance) -> Tensor:
        own = recordings.rows(codes, [u], u.frames, [0]).long().permute(2, 0, 1)
        return make(tokenizer.latents(own))[0].cpu()

    loop = Loop(
        folder,
        decoder,
        config.loop,
        budget=budget,
        evaluate=evaluate,
        evaluate_every=config.evaluate_every,
        listen=lambda: played(corpus, made_again),
        beside=adversary.discriminators,
        world=world,
    )
    loop.run(losses, until=until)
    return decoder
