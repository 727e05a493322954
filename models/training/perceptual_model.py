"""The perceptual model's recipe: flow matching from units to all levels, in random streaming situations."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..perceptual.block_causal import BlockCausalConfig, BlockCausalFlow
from ..perceptual.objective import draw_situation, flow_loss
from ..speech_tokenizer.streaming import StreamingSpeechTokenizer
from .batches import LengthBatches, pad_audio, rounded
from .corpus import Corpus
from .loop import Loop, LoopConfig


@dataclass(frozen=True)
class PerceptualRecipe:
    """Settings; `batch_frames` counts padded frames of 20 ms."""

    model: BlockCausalConfig = field(default_factory=lambda: BlockCausalConfig(depth=6))
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=930, learning_rate=1e-3, warmup=100, save_every=100, ema=0.99)
    )
    batch_frames: int = 6000
    longest_frames: int = 400


@torch.inference_mode()
def extract_codes(corpus: Corpus, tokenizer: StreamingSpeechTokenizer, units: dict[str, NDArray[np.int16]]) -> Tensor:
    """Codes (total frames, n_q) int16 of the corpus in its order; level 0 is `units`."""
    tokenizer.eval()
    parts: dict[str, Tensor] = {}
    batches = LengthBatches([u.samples / 16_000 for u in corpus.utterances], 120.0, 0)
    step = 0
    while len(parts) < len(corpus.utterances):
        chosen = [corpus.utterances[i] for i in batches(step)]
        step += 1
        wav, frames = pad_audio(corpus, chosen)
        with torch.autocast("cpu", torch.bfloat16):
            latents = tokenizer.continuous(wav[:, None])
        for row, u in enumerate(chosen):
            levels = [torch.from_numpy(units[u.id].astype(np.int64))]
            residual = latents[row, : int(frames[row])] - tokenizer.codebooks.vectors[0][levels[0]]
            for level in range(1, tokenizer.n_q):
                levels.append(tokenizer.codebooks.nearest(residual, level))
                residual = residual - tokenizer.codebooks.vectors[level][levels[-1]]
            parts[u.id] = torch.stack(levels, -1).short()
        if step % 100 == 0:
            print(f"coded {len(parts)}/{len(corpus.utterances)}", flush=True)
    return torch.cat([parts[u.id] for u in corpus.utterances])


def train(
    corpus: Corpus,
    tokenizer: StreamingSpeechTokenizer,
    codes: Tensor,
    folder: Path,
    recipe: PerceptualRecipe,
    *,
    until: int | None = None,
) -> BlockCausalFlow:
    """Train the perceptual model in `folder` on `codes` (from `extract_codes`), resuming from its checkpoint."""
    torch.manual_seed(recipe.loop.seed)
    model = BlockCausalFlow(recipe.model)
    edges = np.cumsum([0, *(u.frames for u in corpus.utterances)])
    offset = {u.id: int(e) for u, e in zip(corpus.utterances, edges, strict=False)}
    sample = tokenizer.latents(codes[torch.randperm(len(codes))[:100_000]].long().T[:, None])[0]
    model.latent_mean.copy_(sample.mean(0))
    model.latent_std.copy_(sample.std(0))
    loop = Loop(folder, model, recipe.loop)
    pool = corpus.split("train")
    lengths = [min(u.frames, recipe.longest_frames) for u in pool]
    batches = LengthBatches(lengths, recipe.batch_frames, recipe.loop.seed)

    def losses(step: int) -> dict[str, Tensor]:
        chosen = batches(step)
        longest = rounded(max(lengths[i] for i in chosen), 16)
        batch = torch.zeros(len(chosen), longest, codes.shape[1], dtype=torch.int64)
        valid = torch.zeros(len(chosen), longest, dtype=torch.bool)
        rng = random.Random(recipe.loop.seed * 1_000_003 + step)
        for row, index in enumerate(chosen):
            u, frames = pool[index], lengths[index]
            start = offset[u.id] + rng.randint(0, u.frames - frames)
            batch[row, :frames] = codes[start : start + frames]
            valid[row, :frames] = True
        by_level = batch.permute(2, 0, 1)
        latents, v1 = tokenizer.latents(by_level), tokenizer.semantic_latents(by_level[0])
        situation = draw_situation(longest, rng)
        generator = torch.Generator().manual_seed(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = flow_loss(model, latents, v1, situation, valid=valid, generator=generator)
        return {"loss": loss}

    loop.run(losses, until=until)
    return model
