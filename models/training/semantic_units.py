"""Stage one of the tokenizer: units that a recogniser can read and that don't say who speaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..speech_tokenizer.semantic_encoder import SemanticEncoder, SemanticEncoderConfig, SemanticReader
from .batches import LengthBatches, augment, pad_audio
from .corpus import Corpus
from .loop import Loop, LoopConfig

SYMBOLS = "_ abcdefghijklmnopqrstuvwxyz'"
"""CTC symbols; index 0 is the blank, 1 the space between words."""


def spell(word: str) -> str:
    """The letters of a word that CTC knows."""
    return "".join(c for c in word.lower() if c in SYMBOLS[2:])


def characters(text: str) -> list[int]:
    """CTC targets of a text: letters and apostrophes, single spaces."""
    words = [w for w in map(spell, text.split()) if w]
    return [SYMBOLS.index(c) for c in " ".join(words)]


@dataclass(frozen=True)
class SemanticUnitsConfig:
    """Settings of stage one."""

    encoder: SemanticEncoderConfig = field(default_factory=SemanticEncoderConfig)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2600, learning_rate=1.2e-3, warmup=300))
    batch_seconds: float = 40.0
    spectrum_weight: float = 1.0


class SemanticUnits(nn.Module):
    """Encoder and its reader, as one module to train."""

    def __init__(self, config: SemanticUnitsConfig, speakers: int) -> None:
        super().__init__()
        self.encoder = SemanticEncoder(config.encoder)
        self.reader = SemanticReader(config.encoder, len(SYMBOLS), speakers)

    def forward(self, noisy: Tensor, clean: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two views of the audio -> character logits, predicted and true spectrum."""
        values, _ = self.encoder.quantizer(self.encoder.features(self.encoder.mel_frames(noisy)))
        logits, spectrum = self.reader(values, speaker)
        truth = self.encoder.mel_frames(clean)[:, : spectrum.shape[1]]
        return logits, spectrum, truth


def train(corpus: Corpus, folder: Path, config: SemanticUnitsConfig, *, until: int | None = None) -> SemanticUnits:
    """Train stage one in `folder`, resuming from its checkpoint."""
    torch.manual_seed(config.loop.seed)
    module = SemanticUnits(config, len(corpus.speakers))
    loop = Loop(folder, module, config.loop)
    speaker_of = {name: i for i, name in enumerate(corpus.speakers)}
    training = corpus.split("train")
    batches = LengthBatches([u.samples / 16_000 for u in training], config.batch_seconds, config.loop.seed)

    def losses(step: int) -> dict[str, Tensor]:
        chosen = [training[i] for i in batches(step)]
        clean, frames = pad_audio(corpus, chosen)
        noisy = augment(clean, np.random.default_rng((config.loop.seed, step)))
        speaker = torch.tensor([speaker_of[u.speaker] for u in chosen])
        targets = [torch.tensor(characters(u.text)) for u in chosen]
        with torch.autocast("cpu", torch.bfloat16):
            logits, spectrum, truth = module(noisy, clean, speaker)
        inside = torch.arange(truth.shape[1])[None] < frames[:, None]
        ctc = F.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            torch.cat(targets),
            frames,
            torch.tensor([len(t) for t in targets]),
            zero_infinity=True,
        )
        l1 = (spectrum.float() - truth).abs().mean(-1)[inside].mean()
        return {"loss": ctc + config.spectrum_weight * l1, "ctc": ctc, "spectrum": l1}

    loop.run(losses, until=until)
    return module
