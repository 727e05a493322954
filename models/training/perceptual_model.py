"""The perceptual model's recipe: flow matching from units to all levels, in random streaming situations."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import positive
from ..errors import ConfigError
from ..perceptual.block_causal import BlockCausalConfig, BlockCausalFlow
from ..perceptual.objective import draw_situation, flow_loss
from ..speech_tokenizer.detail import DETAIL_LEVELS, detail_of, levels_of, semantics
from ..speech_tokenizer.fsq import FiniteScalarQuantizer
from ..speech_tokenizer.semantic_encoder import UNITS
from ..speech_tokenizer.streaming import StreamingSpeechTokenizer
from .batches import BucketBatches
from .corpus import Corpus, Utterance
from .loop import Loop, LoopConfig
from .parallel import ALONE, World, shard
from .precision import mixed
from .recordings import Recordings
from .samples import played, spoken_again
from .saving import Table, in_parts, weights_id


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
    without_detail: float = 0.1
    """Share of the utterances whose units come without detail, where the model knows any."""
    near_detail: float = 0.3
    """Of the others, so many of the digits at most are off by one level: whoever makes them up errs."""
    near_units: float = 0.0
    """So many of the units at most are off by a level in one digit: they are drawn with some chance, where their detail
    is the likeliest, so a flow should not believe them before it."""
    joined: float = 0.0
    """Share of the utterances that stand behind others of their speaker, as many as `longest_frames` holds: a prompt is
    then another recording and as long as in use, where within one utterance it is its first half at most."""
    evaluate_every: int = 0
    """Steps between losses of the held-out split (0: at the end only)."""

    def __post_init__(self) -> None:
        positive(self, "batch_frames", "longest_frames", "bucket_frames")


def join(utterances: Sequence[Utterance], recipe: PerceptualRecipe) -> list[tuple[Utterance, ...]]:
    """Rows to train on: every utterance is in one, alone or with others of its speaker."""
    rng = random.Random(recipe.loop.seed)
    rows: list[tuple[Utterance, ...]] = []
    open_rows: dict[str, list[Utterance]] = {}
    for u in rng.sample(utterances, len(utterances)):
        if rng.random() >= recipe.joined:
            rows.append((u,))
            continue
        row = open_rows.setdefault(u.speaker, [])
        row.append(u)
        if sum(each.frames for each in row) >= recipe.longest_frames:
            rows.append(tuple(open_rows.pop(u.speaker)))
    return rows + [tuple(row) for row in open_rows.values()]


def misjudged(detail: Tensor, digits: int, recipe: PerceptualRecipe, generator: torch.Generator) -> Tensor:
    """Detail (B, T) as a semantic model may give it: of some rows none, of the others with digits that are off."""
    rows, levels = len(detail), levels_of(detail, digits)
    off = _uniform(levels.shape, generator) < recipe.near_detail * _uniform((rows, 1, 1), generator)
    known = (detail > 0) & (_uniform((rows, 1), generator) >= recipe.without_detail)
    return torch.where(known, detail_of(_moved(levels, off, generator)), 0)


def nearby(units: Tensor, recipe: PerceptualRecipe, generator: torch.Generator) -> Tensor:
    """Units (B, T), of each row some with one of their digits off by a level."""
    levels = levels_of(units + 1, FiniteScalarQuantizer.digits)  # a unit's digits lie in it as those of detail do
    off = _uniform(units.shape, generator) < recipe.near_units * _uniform((len(units), 1), generator)
    digit = _uniform(levels.shape, generator).argmax(-1, keepdim=True)
    one = torch.zeros_like(levels, dtype=torch.bool).scatter(-1, digit, off[..., None])
    return detail_of(_moved(levels, one, generator)) - 1


def _moved(levels: Tensor, off: Tensor, generator: torch.Generator) -> Tensor:
    """Levels (...), those that are off by one up or down; at an edge half of them stay."""
    step = torch.where(_uniform(levels.shape, generator) < 0.5, -1, 1)
    return torch.where(off, (levels + step).clamp(0, DETAIL_LEVELS - 1), levels)


def _uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator, device=generator.device)


@torch.inference_mode()
def extract_codes(corpus: Corpus, tokenizer: StreamingSpeechTokenizer, units: Tensor, path: Path) -> None:
    """Write the codes of the whole corpus to `path` (.npz); level 0 is `units` (frames,). Killed, it goes on from what
    it kept.

    Raises UnsavedError when the disk is full.
    """
    tokenizer.eval()
    books = tokenizer.codebooks
    recordings = Recordings(corpus, books.vectors.device)
    batches = BucketBatches([u.frames for u in corpus.utterances], 6000, 50, 0, fill=False)

    def coded(step: int) -> Table:
        chosen = [corpus.utterances[i] for i in batches(step)]
        wav = recordings.audio(chosen)
        with mixed(wav.device):
            latents = tokenizer.continuous(wav[:, None])
        rows = torch.cat([torch.arange(u.frames) + recordings.first_row[u.id] for u in chosen])
        levels = [units[rows.to(units.device)].to(latents.device).long()]
        residual = torch.cat([row[: u.frames] for row, u in zip(latents, chosen, strict=True)])
        for level in range(1, tokenizer.n_q):
            residual = residual - books.vectors[level - 1][levels[-1]]
            levels.append(books.nearest(residual, level))
        return {"rows": rows.numpy(), "codes": torch.stack(levels, 1).to(torch.int16).cpu().numpy()}

    codec, said = weights_id(tokenizer.encoder, books), zlib.crc32(units.cpu().numpy().tobytes())
    in_parts(path, batches.per_epoch, coded, of=f"corpus {corpus.digest}, codec {codec}, units {said:08x}")


def load_codes(path: Path, corpus: Corpus) -> Tensor:
    """Read what `extract_codes` wrote: (frames, n_q) int16, in the corpus' order."""
    with np.load(path, allow_pickle=False) as stored:
        rows, found = stored["rows"], stored["codes"]
    codes = np.empty((sum(u.frames for u in corpus.utterances), found.shape[1]), np.int16)
    codes[rows] = found
    return torch.from_numpy(codes)


def train(
    corpus: Corpus,
    tokenizer: StreamingSpeechTokenizer,
    codes: Tensor,
    folder: Path,
    recipe: PerceptualRecipe,
    *,
    detail: Tensor | None = None,
    device: str = "cpu",
    start: BlockCausalFlow | None = None,
    compiled: bool = False,
    budget: float | None = None,
    until: int | None = None,
    world: World = ALONE,
) -> BlockCausalFlow:
    """Train the perceptual model in `folder` on `codes` (from `extract_codes`), resuming from its checkpoint.

    detail (frames,) int64: of the units, for a model that knows any; start: a model to go on from, which may know
    none yet; budget: seconds that it may take.
    """
    torch.manual_seed(recipe.loop.seed)
    model = BlockCausalFlow(recipe.model)
    tokenizer, codes = tokenizer.to(device), codes.to(device)
    if start is not None:
        model.load_state_dict(widened(start.state_dict(), model))
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
    digits = recipe.model.detail
    if digits and detail is None:
        raise ConfigError(f"the perceptual model knows {digits} digits of detail: the units have none")
    details = torch.zeros(0, dtype=torch.int64) if detail is None else detail.to(device)

    def situated_loss(
        pool: Sequence[tuple[Utterance, ...]], batches: BucketBatches, step: int, recipe: PerceptualRecipe = recipe
    ) -> Tensor:
        index = batches(step)
        chosen, longest = [pool[i] for i in index], int(batches.longest(index))
        rng = random.Random(recipe.loop.seed * 1_000_003 + step)
        frames = torch.tensor([sum(u.frames for u in row) for row in chosen])
        first = [rng.randint(0, max(0, n - longest)) for n in frames.tolist()]
        places = [recordings.places(row, longest, skip) for row, skip in zip(chosen, first, strict=True)]
        at = torch.stack(places).to(device)
        codes_of = codes[at].long().permute(2, 0, 1)
        valid = torch.arange(longest, device=device)[None] < frames[:, None].to(device)
        generator = torch.Generator(device).manual_seed(step)
        units = codes_of[0]
        if recipe.near_units:
            units = nearby(units, recipe, generator)
        if digits:
            units = units + UNITS * misjudged(details[at], digits, recipe, generator)
        latents, v1 = tokenizer.latents(codes_of), semantics(units, tokenizer.codebooks.vectors[0], digits)
        with mixed(latents.device):
            return flow_loss(model, latents, v1, draw_situation(longest, rng), valid=valid, generator=generator)

    def batches_of(pool: Sequence[tuple[Utterance, ...]], seed: int) -> BucketBatches:
        lengths = [min(sum(u.frames for u in row), recipe.longest_frames) for row in pool]
        return BucketBatches(lengths, recipe.batch_frames, recipe.bucket_frames, seed)

    training, held_out = join(corpus.split("train"), recipe), join(corpus.split("valid"), recipe)
    plainly = replace(recipe, without_detail=0.0, near_detail=0.0, near_units=0.0)
    batches, judged = batches_of(training, recipe.loop.seed), batches_of(held_out or training, 0)

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        some = range(min(16, judged.per_epoch))
        return {"loss": sum(float(situated_loss(held_out or training, judged, n, plainly)) for n in some) / len(some)}

    again = partial(spoken_again, recordings, tokenizer, model, codes, detail=details if digits else None)
    loop = Loop(
        folder,
        model,
        recipe.loop,
        budget=budget,
        evaluate=evaluate,
        evaluate_every=recipe.evaluate_every,
        listen=lambda: played(corpus, again),
        world=world,
    )
    loop.run(lambda step: {"loss": situated_loss(training, batches, step)}, until=until)
    return model


def widened(state: dict[str, Tensor], model: BlockCausalFlow) -> dict[str, Tensor]:
    """The weights of a model that may know no detail yet, which is then worth nothing at first."""
    before, wanted = state["in_proj.weight"], model.in_proj.weight
    missing = wanted.shape[1] - before.shape[1]
    if missing != model.config.detail:
        return state
    x, v1, context = before.chunk(3, dim=1)
    return state | {"in_proj.weight": torch.cat((x, v1, v1.new_zeros(len(v1), missing), context), dim=1)}
