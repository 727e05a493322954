"""The published SpeechTokenizer: loads the public checkpoints as they are, and runs whole recordings.

Source: SpeechTokenizer (arXiv 2308.16692); checkpoints `SpeechTokenizer.pt` (ELU, hubert_avg) and `ckpt.dev` (Snake).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import load_state, load_strict
from ..config import from_json
from ..errors import AudioError, ConfigError, ModelNotFoundError
from .quantization import ResidualVectorQuantizer
from .seanet import Activation, SEANetDecoder, SEANetEncoder


@dataclass(frozen=True)
class SpeechTokenizerConfig:
    """The keys of the published `config.json` that shape the model, with the published values as defaults."""

    n_filters: int = 64
    strides: tuple[int, ...] = (8, 5, 4, 2)
    """The decoder's upsampling ratios; their product is the hop in samples."""
    dimension: int = 1024
    """Width of a latent and of a code vector."""
    semantic_dimension: int = 768
    """Width of the teacher that RVQ-1 was distilled from; equal to `dimension` means no `transform`."""
    bidirectional: bool = True
    """Of the encoder's LSTM; the decoder's always looks back only."""
    dilation_base: int = 2
    residual_kernel_size: int = 3
    n_residual_layers: int = 1
    lstm_layers: int = 2
    activation: Activation = "ELU"
    codebook_size: int = 1024
    n_q: int = 8
    sample_rate: int = 16000

    def __post_init__(self) -> None:
        if not self.strides:
            raise ConfigError("speech tokenizer: strides must not be empty")
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("lstm_layers", "n_residual_layers") else 1
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int) and not isinstance(number, bool) and number < least:
                    raise ConfigError(f"speech tokenizer: {field.name} must be at least {least}, not {number}")
        if self.residual_kernel_size % 2 == 0:
            raise ConfigError(f"speech tokenizer: residual_kernel_size must be odd, not {self.residual_kernel_size}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SpeechTokenizerConfig":
        """Read a published configuration; its many training keys are ignored. Raises ConfigError for a wrong value."""
        known = {field.name for field in fields(cls)}
        return from_json(cls, {key: value for key, value in values.items() if key in known}, "speech tokenizer")


class SpeechTokenizer(nn.Module):
    """SEANet autoencoder with residual vector quantisation whose first level is semantic (RVQ-1).

    Every method runs on whole recordings: the encoder looks ahead and, by its LSTM, to the end. One frame is `hop`
    samples, and a recording of N samples has T = ceil(N / hop) frames for every N >= 1.
    """

    def __init__(self, config: SpeechTokenizerConfig = SpeechTokenizerConfig()) -> None:
        super().__init__()
        self.config = config
        self.sample_rate, self.n_q, self.dim = config.sample_rate, config.n_q, config.dimension
        self.hop = math.prod(config.strides)
        self.encoder = SEANetEncoder(
            filters=config.n_filters,
            dimension=config.dimension,
            ratios=config.strides,
            lstm_layers=config.lstm_layers,
            bidirectional=config.bidirectional,
            activation=config.activation,
            residual_layers=config.n_residual_layers,
            residual_kernel=config.residual_kernel_size,
            dilation_base=config.dilation_base,
        )
        self.decoder = SEANetDecoder(
            filters=config.n_filters,
            dimension=config.dimension,
            ratios=config.strides,
            lstm_layers=config.lstm_layers,
            activation=config.activation,
            residual_layers=config.n_residual_layers,
            residual_kernel=config.residual_kernel_size,
            dilation_base=config.dilation_base,
        )
        self.quantizer = ResidualVectorQuantizer(levels=config.n_q, size=config.codebook_size, dim=config.dimension)
        same = config.dimension == config.semantic_dimension
        self.transform = nn.Identity() if same else nn.Linear(config.dimension, config.semantic_dimension)

    def encode(self, wav: Tensor, n_q: int | None = None, st: int = 0) -> Tensor:
        """Codes of wav (B, 1, N): int64 (levels, B, T), the levels st .. n_q - 1 (default: all of them).

        A start beyond level 0 quantises the encoder's output itself at level `st`: nothing of the levels before it is
        subtracted (as published).
        Raises AudioError for another shape or no samples, ConfigError for levels the model does not have.
        """
        n_q = self.n_q if n_q is None else n_q
        if not 0 <= st < n_q <= self.n_q:
            raise ConfigError(f"this tokenizer has levels 0 to {self.n_q - 1}: cannot encode from {st} up to {n_q}")
        if wav.ndim != 3 or wav.shape[1] != 1 or wav.shape[2] == 0:
            raise AudioError(f"audio must be mono of shape (batch, 1, samples >= 1), not {tuple(wav.shape)}")
        return self.quantizer.encode(self.encoder(wav).transpose(1, 2), n_q, st)

    def encode_semantic(self, wav: Tensor) -> Tensor:
        """RVQ-1 units of wav (B, 1, N): int64 (B, T); no further level is computed. Raises AudioError as `encode`."""
        return self.encode(wav, n_q=1)[0]

    def latents(self, codes: Tensor, st: int = 0) -> Tensor:
        """Sum of the code vectors of codes (levels, B, T), the first row belonging to level `st`: (B, T, D).

        For all levels this is v1:8. Raises ConfigError for more rows than levels from `st` on, or for no rows.
        """
        if codes.ndim != 3 or not 1 <= codes.shape[0] <= self.n_q - st:
            raise ConfigError(
                f"codes must be (levels, batch, frames) with 1 to {self.n_q - st} levels, not {tuple(codes.shape)}"
            )
        return self.quantizer.decode(codes, st)

    def semantic_latents(self, units: Tensor) -> Tensor:
        """v1, the codebook-0 vectors of RVQ-1 units (B, T): (B, T, D)."""
        return self.latents(units.unsqueeze(0))

    def semantic_features(self, units: Tensor) -> Tensor:
        """RVQ-1 units (B, T) in the distillation teacher's space: (B, T, semantic_dimension)."""
        features: Tensor = self.transform(self.semantic_latents(units))
        return features

    def decode(self, latents: Tensor) -> Tensor:
        """Waveform of continuous latents (B, T, D), quantised or not: (B, 1, hop * T)."""
        wav: Tensor = self.decoder(latents.transpose(1, 2))
        return wav


def load_speech_tokenizer(config_path: str | PathLike[str], checkpoint_path: str | PathLike[str]) -> SpeechTokenizer:
    """Load a published tokenizer, in evaluation mode on the CPU.

    config_path: the published `config.json`. checkpoint_path: its weights, flat or inside a trainer's checkpoint under
    `generator`; weight norm under its old names (weight_g, weight_v) or the new ones (parametrizations...original0, 1).
    Raises ModelNotFoundError, ConfigError, CheckpointError.
    """
    config_path = Path(config_path)
    if not config_path.is_file():
        raise ModelNotFoundError(f"no speech tokenizer configuration at {config_path}: check the path")
    try:
        values = json.loads(config_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{config_path} is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{config_path} must hold one JSON object, not {type(values).__name__}")
    config = SpeechTokenizerConfig.from_dict(values)
    state = load_state(checkpoint_path, wrapper="generator")
    with torch.device("meta"):
        model = SpeechTokenizer(config)
    load_strict(model, {_published_name(key): value for key, value in state.items()}, checkpoint_path)
    return model.eval()


def _published_name(key: str) -> str:
    """A key with torch's newer spelling of weight norm in the published one."""
    return key.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )
