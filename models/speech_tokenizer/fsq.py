"""Finite scalar quantisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FiniteScalarQuantizer(nn.Module):
    """Numbers, each rounded to one of four levels (arXiv 2309.15505); five make 1024 units. No code can collapse."""

    digits = 5
    levels = 4

    def __init__(self, digits: int = digits) -> None:
        super().__init__()
        self.digits = digits

    def bound(self, z: Tensor) -> Tensor:
        """Real digits in (-0.5, 3.5), shape as z (..., D)."""
        return (torch.tanh(z) + 1.0) * (self.levels / 2) - 0.5

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(..., D) -> levels in [-1, 1] with a straight-through gradient (..., D), and units (...)."""
        bounded = self.bound(z.float())
        digits = bounded.round().clamp(0, self.levels - 1)
        value = bounded + (digits - bounded).detach()
        return value / 1.5 - 1.0, self.index(digits)

    @classmethod
    def index(cls, digits: Tensor) -> Tensor:
        """Digits 0..3 (..., D) -> unit (...) int64."""
        weights = cls.levels ** torch.arange(digits.shape[-1], device=digits.device)
        return (digits.long() * weights).sum(-1)

    def value(self, units: Tensor) -> Tensor:
        """Units (...) -> levels in [-1, 1], shape (..., D)."""
        weights = self.levels ** torch.arange(self.digits, device=units.device)
        return ((units[..., None] // weights) % self.levels).float() / 1.5 - 1.0
