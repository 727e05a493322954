"""Stage two of the tokenizer: waveform encoder, residual codebooks and decoder around frozen units.

The first `continuous_steps` train a plain autoencoder, whose latents need no units yet; then the codebooks are set
from the data and the decoder learns to speak from any number of levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import positive
from ..speech_tokenizer.semantic_encoder import mel_filters
from ..speech_tokenizer.streaming import StreamingSpeechTokenizer, StreamingTokenizerConfig
from .adversary import Adversary, AdversaryConfig
from .batches import BucketBatches
from .corpus import Corpus, Utterance
from .loop import Loop, LoopConfig
from .parallel import ALONE, World
from .precision import mixed
from .recordings import Recordings
from .samples import played

SCALES = ((256, 32), (512, 64), (1024, 80), (2048, 128))
"""(FFT size, mel bands) of the spectral losses."""

_RARE = 30
"""Frames that what a unit meant counts for, beside those in which it is heard now."""


class SpectralLoss(nn.Module):
    """L1 of log-mel spectra at several window lengths, hop a quarter of the window. (B, N) x (B, N) -> scalar."""

    def __init__(self) -> None:
        super().__init__()
        for size, bands in SCALES:
            self.register_buffer(f"window{size}", torch.hann_window(size), persistent=False)
            self.register_buffer(f"mel{size}", mel_filters(bands, size), persistent=False)

    def mel(self, wav: Tensor, size: int) -> Tensor:
        """Mel magnitudes (B, frames, bands)."""
        window = self.get_buffer(f"window{size}")
        spectrum = torch.stft(wav, size, size // 4, window=window, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)
        magnitude = (power.transpose(1, 2) @ self.get_buffer(f"mel{size}").T).clamp_min(1e-8).sqrt()
        scaled: Tensor = magnitude / size**0.5
        return scaled

    def forward(self, wav: Tensor, truth: Tensor) -> Tensor:
        total = wav.new_zeros(())
        for size, _ in SCALES:
            made, true = self.mel(wav, size), self.mel(truth, size)
            total = total + F.l1_loss((made + 1e-4).log(), (true + 1e-4).log()) + 2.0 * F.l1_loss(made, true)
        return total / len(SCALES)


class CodebookLearner(nn.Module):
    """Sets and follows the codebooks by averages of what falls on each code in all processes (VQ-VAE's EMA update)."""

    counts: Tensor

    def __init__(self, vectors: Tensor, decay: float = 0.99, world: World = ALONE) -> None:
        super().__init__()
        self.vectors, self.decay, self.world = vectors, decay, world
        self.register_buffer("counts", torch.ones(vectors.shape[:2], device=vectors.device))

    @torch.no_grad()
    def start(self, latents: Tensor, units: Tensor, rounds: int = 8) -> None:
        """Codebook 0 from the mean latent of each unit, the others by k-means of what is left. (M, D), (M,)."""
        mean = latents.mean(0, keepdim=True)
        self._assign(0, latents, units, fallback=mean.expand(self.vectors.shape[1], -1))
        residual = latents - self.vectors[0][units]
        for level in range(1, len(self.vectors)):
            chosen = torch.randperm(len(residual), device=residual.device)[: self.vectors.shape[1]]
            self.vectors[level] = residual[chosen]
            for _ in range(rounds):
                index = self._nearest(level, residual)
                self._assign(level, residual, index, fallback=self.vectors[level].clone())
            residual = residual - self.vectors[level][self._nearest(level, residual)]

    @torch.no_grad()
    def update(self, level: int, residual: Tensor, index: Tensor) -> None:
        """Move the codes of a level towards the means of `residual` (M, D) that chose them; revive dead codes."""
        book = self.vectors[level]
        count = self.world.sum_(torch.bincount(index, minlength=len(book)).to(book.dtype))
        total = self.world.sum_(torch.zeros_like(book).index_add_(0, index, residual))
        old = self.counts[level] * self.decay
        seen = count > 0
        weight = (count * (1 - self.decay) / (old + count * (1 - self.decay)).clamp_min(1e-6))[:, None]
        mean = total / count.clamp_min(1)[:, None]
        book[seen] += (weight * (mean - book))[seen]
        self.counts[level] = old + count * (1 - self.decay)
        dead = self.counts[level] < 0.02
        if level > 0 and bool(dead.any()):
            new = residual[torch.randint(len(residual), (int(dead.sum()),), device=residual.device)]
            book[dead] = self.world.same_(new)
            self.counts[level][dead] = 1.0

    def _nearest(self, level: int, residual: Tensor) -> Tensor:
        book = self.vectors[level]
        return torch.cat([(r @ book.T - 0.5 * book.square().sum(-1)).argmax(-1) for r in torch.split(residual, 8192)])

    def _assign(self, level: int, values: Tensor, index: Tensor, fallback: Tensor) -> None:
        count = torch.bincount(index, minlength=len(fallback)).to(values.dtype)
        total = torch.zeros_like(fallback).index_add_(0, index, values)
        self.vectors[level] = torch.where((count > 0)[:, None], total / count.clamp_min(1)[:, None], fallback)


@dataclass(frozen=True)
class AcousticConfig:
    """Settings of stage two; crops are `crop_frames` long (20 ms each)."""

    tokenizer: StreamingTokenizerConfig = field(default_factory=StreamingTokenizerConfig)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=1700, learning_rate=1e-3, warmup=100, weight_decay=0.0, save_every=200)
    )
    continuous_steps: int = 800
    batch: int = 8
    crop_frames: int = 64
    commitment: float = 0.1
    latent_noise: float = 0.1
    freeze_encoder: bool = False
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    evaluate_every: int = 0
    """Steps between losses of the held-out split (0: at the end only)."""
    follow_hours: float = 0.0
    """Where units are kept, hours of the corpus that codebook 0 follows them over (`follow_units`; 0: it stays). For
    corpora of many voices: of a few, the codes would tell who speaks."""

    def __post_init__(self) -> None:
        positive(self, "batch", "crop_frames")
        self.adversary.check_crop(self.crop_frames)


def crops(
    recordings: Recordings, pool: Sequence[Utterance], config: AcousticConfig, step: int
) -> tuple[Tensor, list[Utterance], list[int]]:
    """Random crops on frame boundaries: audio (B, 1, N), the utterances and the first frame taken of each."""
    rng = np.random.default_rng((config.loop.seed, step))
    chosen = [pool[i] for i in rng.integers(len(pool), size=config.batch)]
    first = [int(rng.integers(max(1, u.frames - config.crop_frames + 1))) for u in chosen]
    gain = torch.from_numpy(rng.uniform(0.5, 1.1, (config.batch, 1)).astype(np.float32)).to(recordings.device)
    return (recordings.audio(chosen, config.crop_frames, first) * gain)[:, None], chosen, first


def quantize(
    tokenizer: StreamingSpeechTokenizer, latents: Tensor, units: Tensor, learner: CodebookLearner | None
) -> tuple[Tensor, Tensor]:
    """Latents (B, T, D) -> partial sums of all levels (n_q, B, T, D) and codes (n_q, B, T); the learner follows."""
    books = tokenizer.codebooks
    flat, index = latents.detach().reshape(-1, latents.shape[-1]), units.reshape(-1)
    total, sums, codes = torch.zeros_like(flat), [], []
    for level in range(tokenizer.n_q):
        residual = flat - total
        if level > 0:
            index = books.nearest(residual, level)
        total = total + books.vectors[level][index]
        if learner is not None:
            learner.update(level, residual, index)
        sums.append(total.view_as(latents))
        codes.append(index.view_as(units))
    return torch.stack(sums), torch.stack(codes)


def train(
    corpus: Corpus,
    folder: Path,
    config: AcousticConfig,
    units: Tensor | None,
    *,
    device: str = "cpu",
    start: StreamingSpeechTokenizer | None = None,
    budget: float | None = None,
    until: int | None = None,
    world: World = ALONE,
) -> StreamingSpeechTokenizer:
    """Train stage two in `folder`, resuming from its checkpoint.

    units: of the whole corpus (frames,), may be missing until `continuous_steps`; start: a tokenizer to go on from,
    whose codebooks are set anew where they are zero; budget: seconds that it may take.
    """
    torch.manual_seed(config.loop.seed)
    tokenizer = StreamingSpeechTokenizer(config.tokenizer)
    if start is not None:
        tokenizer.load_state_dict(start.state_dict())
    tokenizer.semantic.requires_grad_(False)
    tokenizer.encoder.requires_grad_(not config.freeze_encoder)
    tokenizer.to(device)
    learner = CodebookLearner(tokenizer.codebooks.vectors, world=world)
    spectral, adversary = SpectralLoss().to(device), Adversary(config.adversary).to(device)
    training, held_out = corpus.split("train"), corpus.split("valid")
    recordings = Recordings(corpus, device)
    units = None if units is None else units.to(device)

    def units_of(chosen: Sequence[Utterance], first: Sequence[int], frames: int) -> Tensor:
        assert units is not None
        return recordings.rows(units, chosen, frames, first).long()

    def start_codebooks() -> None:
        torch.manual_seed(config.loop.seed)  # alike in all processes
        found, index = [], []
        for n in range(max(1, 1280 // config.batch)):
            wav, chosen, first = crops(recordings, training, config, 10**9 + n)
            with torch.no_grad(), mixed(wav.device):
                found.append(tokenizer.continuous(wav))
            index.append(units_of(chosen, first, config.crop_frames))
        learner.start(torch.cat(found).flatten(0, 1), torch.cat(index).flatten())

    def losses(step: int) -> dict[str, Tensor]:
        quantized = step // world.size >= config.continuous_steps
        if quantized and not bool(tokenizer.codebooks.vectors.any()):
            start_codebooks()
        torch.manual_seed(config.loop.seed * 1_000_003 + step)  # a step that comes after a resumption is the same step
        wav, chosen, first = crops(recordings, training, config, step)
        commitment: Tensor | None = None
        with mixed(wav.device):
            latents = tokenizer.continuous(wav)
            given = latents
            if quantized:
                index = units_of(chosen, first, config.crop_frames)
                sums, _ = quantize(tokenizer, latents, index, None if config.freeze_encoder else learner)
                levels = torch.randint(1, tokenizer.n_q + 1, (len(wav),))
                levels[torch.rand(len(wav)) < 0.6] = tokenizer.n_q
                target = sums[(levels - 1).to(device), torch.arange(len(wav), device=device)]
                given = latents + (target - latents).detach()
                commitment = (latents - sums[-1]).square().mean()
            noise = torch.rand(len(wav), 1, 1, device=device) * torch.randn_like(given)
            made = tokenizer.decode(given + config.latent_noise * noise)
        made, truth = made.float()[:, 0], wav[:, 0]
        terms = adversary.beside(spectral(made, truth), made, truth)
        if commitment is not None:
            terms |= {"loss": terms["loss"] + config.commitment * commitment, "commitment": commitment}
        return terms

    @torch.no_grad()
    def again(wav: Tensor, chosen: Sequence[Utterance], first: Sequence[int]) -> Tensor:
        """Sound (B, 1, N) through all that there is of the codec by now, (B, N)."""
        with mixed(wav.device):
            latents = tokenizer.continuous(wav)
            if bool(tokenizer.codebooks.vectors.any()):
                sums, _ = quantize(tokenizer, latents, units_of(chosen, first, latents.shape[1]), None)
                latents = sums[-1]
            made: Tensor = tokenizer.decode(latents)
        return made.float()[:, 0]

    def evaluate() -> dict[str, float]:
        if not held_out:
            return {}
        judged = [crops(recordings, held_out, config, n) for n in range(8)]
        return {"spectral": sum(float(spectral(again(*each), each[0][:, 0])) for each in judged) / len(judged)}

    loop = Loop(
        folder,
        tokenizer,
        config.loop,
        budget=budget,
        evaluate=evaluate,
        evaluate_every=config.evaluate_every,
        listen=lambda: played(corpus, lambda u: again(recordings.audio([u])[:, None], [u], [0])[0].cpu()),
        beside=nn.ModuleList([learner, adversary]),
        world=world,
    )
    loop.run(losses, until=until)
    return tokenizer


@torch.inference_mode()
def follow_units(corpus: Corpus, tokenizer: StreamingSpeechTokenizer, units: Tensor, hours: float) -> Tensor:
    """Codebook 0 (codebook_size, D) of units that mean about the same as before: the mean latent of each as it is now.

    units: of the whole corpus (frames,). The other levels quantise what is left, a little less than before.
    """
    recordings, before = Recordings(corpus, tokenizer.codebooks.vectors.device), tokenizer.codebooks.vectors[0]
    total, count = torch.zeros_like(before), before.new_zeros(len(before), 1)
    pool = corpus.split("train")
    batches, heard = BucketBatches([u.frames for u in pool], 6000, 50, 0, fill=False), 0
    for step in range(batches.per_epoch):
        if heard >= hours * 180_000:
            break
        chosen = [pool[i] for i in batches(step)]
        with mixed(before.device):
            latents = tokenizer.continuous(recordings.audio(chosen)[:, None])
        for row, u in zip(latents.float(), chosen, strict=True):
            index = units[recordings.first_row[u.id] :][: u.frames].to(before.device).long()
            total.index_add_(0, index, row[: u.frames])
            count.index_add_(0, index, count.new_ones(len(index), 1))
            heard += u.frames
    return before + (total - count * before) / (count + _RARE)
