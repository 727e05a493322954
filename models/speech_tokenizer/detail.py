"""What an encoder knows and its unit does not tell.

A unit is drawn when speech is made, so it has to be one of few: of the letters that an encoder's states tell, its units
lose half as many again. The digits of a second, finer quantiser, supervised by the same letters, tell most of them:
who listens is told them by the encoder, who makes sound by whoever made the unit. A unit with its detail is one number,
`unit + N * detail` with N units in all, so that it goes wherever units go; without detail it is the unit itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fsq import FiniteScalarQuantizer

DETAIL_LEVELS = FiniteScalarQuantizer.levels


class Detail(nn.Module):
    """States (..., dim) -> detail (...) int64, 1 .. 4 ** digits; 0 stands for none."""

    def __init__(self, dim: int, digits: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, digits)
        self.spread = nn.BatchNorm1d(digits, affine=False)
        self.quantizer = FiniteScalarQuantizer(digits)

    def digits(self, hidden: Tensor) -> Tensor:
        """States (B, T, dim) -> what is quantised (B, T, digits), not yet bounded."""
        return self.spread(self.project(hidden).float().transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]

    def forward(self, hidden: Tensor) -> Tensor:
        return 1 + self.quantizer(self.digits(hidden))[1]  # type: ignore[no-any-return]


def levels_of(detail: Tensor, digits: int) -> Tensor:
    """The level 0 .. 3 of each digit of detail (...), shape (..., digits) int64; of none, whatever."""
    powers = DETAIL_LEVELS ** torch.arange(digits, device=detail.device)
    return (detail[..., None] - 1) // powers % DETAIL_LEVELS


def detail_of(levels: Tensor) -> Tensor:
    """The detail (...) whose digits have these levels (..., digits)."""
    return 1 + FiniteScalarQuantizer.index(levels)


def semantics(units: Tensor, codebook: Tensor, digits: int) -> Tensor:
    """What units (...) with or without detail tell who makes sound of them: (..., D + digits).

    Their vectors in the codebook (N, D), then the digits of the detail, each in [-1, 1]; 0 where there is none.
    """
    detail = units // len(codebook)
    told = torch.where(detail[..., None] > 0, levels_of(detail, digits) / 1.5 - 1.0, 0.0)
    return torch.cat((F.embedding(units % len(codebook), codebook), told.to(codebook)), dim=-1)
