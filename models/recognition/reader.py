"""Letters from units: convolutions over what an encoder tells, trained by CTC."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import positive
from ..errors import ConfigError
from ..speech_tokenizer.detail import semantics
from ..speech_tokenizer.fsq import FiniteScalarQuantizer
from .letters import SYMBOLS


@dataclass(frozen=True)
class ReaderConfig:
    """Sizes of a reader; `kernel` is in frames of 20 ms."""

    dim: int = 256
    layers: int = 4
    kernel: int = 15
    expansion: int = 3
    detail: int = 0
    """Digits of detail that it is told of a frame beyond its unit (`speech_tokenizer/detail.py`)."""

    def __post_init__(self) -> None:
        positive(self, "dim", "layers", "kernel", "expansion")
        if self.kernel % 2 == 0:
            raise ConfigError(
                f"the reader's kernel is {self.kernel} frames: give an odd number, it looks as far ahead as back"
            )

    @property
    def reach(self) -> int:
        """Frames to either side that a frame's letters depend on."""
        return self.layers * (self.kernel // 2)


class _Layer(nn.Module):
    """A depthwise convolution and a feed-forward network, added to what went in; as in ConvNeXt (arXiv 2201.03545)."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        dim, inner = config.dim, config.expansion * config.dim
        self.norm = nn.LayerNorm(dim)
        self.near = nn.Conv1d(dim, dim, config.kernel, padding=config.kernel // 2, groups=dim)
        self.up = nn.Linear(dim, inner)
        self.down = nn.Linear(inner, dim)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor, inside: Tensor | None) -> Tensor:
        near = self.norm(x)
        if inside is not None:  # what lies beyond the end is nothing, as it is when a turn is read alone
            near = near * inside
        near = self.near(near.transpose(1, 2)).transpose(1, 2)
        return x + self.down(F.gelu(self.up(near)))  # type: ignore[no-any-return]


class LetterReader(nn.Module):
    """Units as they are heard (B, T) -> log-probabilities of `SYMBOLS` (B, T, 29)."""

    table: Tensor

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        quantizer = FiniteScalarQuantizer()
        every = torch.arange(quantizer.levels**quantizer.digits)
        self.register_buffer("table", quantizer.value(every), persistent=False)
        self.enter = nn.Linear(quantizer.digits + config.detail, config.dim)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.letters = nn.Linear(config.dim, len(SYMBOLS))

    def forward(self, units: Tensor, frames: Tensor | None = None) -> Tensor:
        """frames: how many of each row are units (B,); by default all."""
        inside = None
        if frames is not None:
            inside = (torch.arange(units.shape[1], device=units.device) < frames[:, None])[..., None]
        x = self.enter(semantics(units, self.table, self.config.detail))
        for layer in self.layers:
            x = layer(x, inside)
        return self.letters(self.norm(x)).float().log_softmax(-1)  # type: ignore[no-any-return]
