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
from .whisper import start_from_whisper

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
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=900, learning_rate=4e-4, warmup=60, save_every=100)
    )
    batch_seconds: float = 40.0
    spectrum_weight: float = 1.0
    whisper: str | None = None
    """Folder of a Whisper model (CTranslate2) whose encoder's first layers the semantic encoder starts from."""


class SemanticUnits(nn.Module):
    """Encoder and its reader, as one module to train."""

    def __init__(self, config: SemanticUnitsConfig, speakers: int) -> None:
        super().__init__()
        self.encoder = SemanticEncoder(config.encoder)
        self.reader = SemanticReader(config.encoder, len(SYMBOLS), speakers)
        # Five numbers a frame carry little gradient; read before them too and the encoder learns much sooner.
        self.early = nn.Linear(config.encoder.dim, len(SYMBOLS))

    def forward(self, noisy: Tensor, clean: Tensor, speaker: Tensor, start: int) -> tuple[Tensor, ...]:
        """Two views of the audio -> character logits before and after quantisation, predicted and true spectrum."""
        hidden = self.encoder.hidden(self.encoder.mel_frames(noisy), start)
        values, _ = self.encoder.quantize(hidden)
        logits, spectrum = self.reader(values, speaker)
        truth = self.encoder.mel_frames(clean)[..., : spectrum.shape[-1]]
        return self.early(hidden), logits, spectrum, truth


def train(corpus: Corpus, folder: Path, config: SemanticUnitsConfig, *, until: int | None = None) -> SemanticUnits:
    """Train stage one in `folder`, resuming from its checkpoint."""
    torch.manual_seed(config.loop.seed)
    module = SemanticUnits(config, len(corpus.speakers))
    if config.whisper and not (folder / "checkpoint.pt").is_file():
        start_from_whisper(module.encoder, Path(config.whisper))
    loop = Loop(folder, module, config.loop)
    speaker_of = {name: i for i, name in enumerate(corpus.speakers)}
    training = corpus.split("train")
    batches = LengthBatches([u.samples / 16_000 for u in training], config.batch_seconds, config.loop.seed)

    def losses(step: int) -> dict[str, Tensor]:
        chosen = [training[i] for i in batches(step)]
        clean, frames = pad_audio(corpus, chosen)
        rng = np.random.default_rng((config.loop.seed, step))
        noisy = augment(clean, rng)
        speaker = torch.tensor([speaker_of[u.speaker] for u in chosen])
        targets = [torch.tensor(characters(u.text)) for u in chosen]
        with torch.autocast("cpu", torch.bfloat16):
            early, late, spectrum, truth = module(noisy, clean, speaker, int(rng.integers(1500)))
        inside = torch.arange(truth.shape[-1])[None] < 2 * frames[:, None]
        lengths = torch.tensor([len(t) for t in targets])
        early, late = (
            F.ctc_loss(
                logits.float().log_softmax(-1).transpose(0, 1), torch.cat(targets), frames, lengths, zero_infinity=True
            )
            for logits in (early, late)
        )
        l1 = 4 * (spectrum.float() - truth).abs().mean(1)[inside].mean()
        return {"loss": early + late + config.spectrum_weight * l1, "early": early, "ctc": late, "spectrum": l1}

    loop.run(losses, until=until)
    return module
