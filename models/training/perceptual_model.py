"""The perceptual model's recipe: flow matching from units to all levels, in random streaming situations."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..perceptual.block_causal import BlockCausalConfig, BlockCausalFlow
from ..perceptual.objective import draw_situation, flow_loss
from ..speech_tokenizer.streaming import StreamingSpeechTokenizer
from .batches import BucketBatches
from .corpus import Corpus, Utterance
from .loop import Loop, LoopConfig
from .parallel import ALONE, World, shard
from .precision import mixed
from .recordings import Recordings


@dataclass(frozen=True)
class PerceptualRecipe:
    """Settings; `batch_frames` counts padded frames of 20 ms."""

    model: BlockCausalConfig = field(default_factory=lambda: BlockCausalConfig(depth=6))
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=930, learning_rate=1e-3, warmup=100, save_every=100, ema=0.99)
    )
    batch_frames: int = 6000
    longest_frames: int = 400
    bucket_frames: int = 50
    """Utterances are padded to multiples of so many frames: as many shapes as longest_frames holds."""
    evaluate_every: int = 0
    """Steps between losses of the held-out split (0: at the end only)."""


@torch.inference_mode()
def extract_codes(corpus: Corpus, tokenizer: StreamingSpeechTokenizer, units: Tensor) -> Tensor:
    """Codes (frames, n_q) int16 of the whole corpus, on the tokenizer's device; level 0 is `units` (frames,)."""
    tokenizer.eval()
    books = tokenizer.codebooks
    recordings = Recordings(corpus, books.vectors.device)
    codes = torch.empty(recordings.frames, tokenizer.n_q, dtype=torch.int16, device=recordings.device)
    codes[:, 0] = units.to(codes)
    batches = BucketBatches([u.frames for u in corpus.utterances], 6000, 50, 0, fill=False)
    for step in range(batches.per_epoch):
        chosen = [corpus.utterances[i] for i in batches(step)]
        wav = recordings.audio(chosen)
        with mixed(wav.device):
            latents = tokenizer.continuous(wav[:, None])
        for row, u in zip(latents, chosen, strict=True):
            own = codes[recordings.first_row[u.id] :][: u.frames]
            residual = row[: u.frames] - books.vectors[0][own[:, 0].long()]
            for level in range(1, tokenizer.n_q):
                own[:, level] = books.nearest(residual, level)
                residual = residual - books.vectors[level][own[:, level].long()]
        if step % 100 == 99:
            print(f"coded {step + 1}/{batches.per_epoch} batches", flush=True)
    return codes


def train(
    corpus: Corpus,
    tokenizer: StreamingSpeechTokenizer,
    codes: Tensor,
    folder: Path,
    recipe: PerceptualRecipe,
    *,
    device: str = "cpu",
    start: BlockCausalFlow | None = None,
    compiled: bool = False,
    budget: float | None = None,
    until: int | None = None,
    world: World = ALONE,
) -> BlockCausalFlow:
    """Train the perceptual model in `folder` on `codes` (from `extract_codes`), resuming from its checkpoint.

    start: a model to go on from; budget: seconds that it may take.
    """
    torch.manual_seed(recipe.loop.seed)
    model = BlockCausalFlow(recipe.model)
    tokenizer, codes = tokenizer.to(device), codes.to(device)
    if start is not None:
        model.load_state_dict(start.state_dict())
    else:
        sample = tokenizer.latents(codes[torch.randperm(len(codes))[:100_000].to(device)].long().T[:, None])[0]
        model.latent_mean.copy_(sample.mean(0))
        model.latent_std.copy_(sample.std(0))
    model.to(device)
    if world.size > 1:
        shard(model, list(model.blocks), ["velocity"])
    if compiled:
        for block in model.blocks:
            block.compile(dynamic=True)
    recordings = Recordings(corpus, device)

    def situated_loss(pool: Sequence[Utterance], batches: BucketBatches, step: int) -> Tensor:
        index = batches(step)
        chosen, longest = [pool[i] for i in index], int(batches.longest(index))
        rng = random.Random(recipe.loop.seed * 1_000_003 + step)
        first = [rng.randint(0, max(0, u.frames - longest)) for u in chosen]
        codes_of = recordings.rows(codes, chosen, longest, first).long().permute(2, 0, 1)
        frames = torch.tensor([u.frames for u in chosen], device=device)
        valid = torch.arange(longest, device=device)[None] < frames[:, None]
        latents, v1 = tokenizer.latents(codes_of), tokenizer.semantic_latents(codes_of[0])
        generator = torch.Generator(device).manual_seed(step)
        with mixed(latents.device):
            return flow_loss(model, latents, v1, draw_situation(longest, rng), valid=valid, generator=generator)

    def batches_of(pool: Sequence[Utterance], seed: int) -> BucketBatches:
        lengths = [min(u.frames, recipe.longest_frames) for u in pool]
        return BucketBatches(lengths, recipe.batch_frames, recipe.bucket_frames, seed)

    training, held_out = corpus.split("train"), corpus.split("valid")
    batches, judged = batches_of(training, recipe.loop.seed), batches_of(held_out or training, 0)

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        some = range(min(16, judged.per_epoch))
        return {"loss": sum(float(situated_loss(held_out or training, judged, n)) for n in some) / len(some)}

    loop = Loop(
        folder,
        model,
        recipe.loop,
        budget=budget,
        evaluate=evaluate,
        evaluate_every=recipe.evaluate_every,
        world=world,
    )
    loop.run(lambda step: {"loss": situated_loss(training, batches, step)}, until=until)
    return model
