"""What an encoder knows and its unit does not tell, for a listener alone.

A unit is also spoken, so it has to be one of few: of the letters that an encoder's states tell, its units lose half as
many again. Who only listens can be told more: the digits of a second, finer quantiser, supervised by the same letters.
A heard unit is one number, `unit + N * detail` with N units in all, so that it goes wherever units go; without detail,
as everything that is spoken, it is the unit itself.
"""

from __future__ import annotations

import torch
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
