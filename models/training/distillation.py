"""Semantic distillation: units learn to tell what a teacher hears.

Source: the training code of SpeechTokenizer (arXiv 2308.16692): each feature of the teacher is a signal over time, and
a linear image of RVQ-1 is to run as it does, whatever its scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..speech_tokenizer.fsq import FiniteScalarQuantizer


class Distillation(nn.Module):
    """From the digits of units (B, T, 5) to the features of a teacher.

    The published RVQ-1 is a row of a table, and a linear layer takes it to the teacher. Here a row is made of its
    digits, which a gradient can follow, by one layer; both are for training alone.
    """

    def __init__(self, features: int, dim: int = 512) -> None:
        super().__init__()
        self.row = nn.Sequential(nn.Linear(FiniteScalarQuantizer.digits, dim), nn.GELU())
        self.transform = nn.Linear(dim, features)

    def forward(self, values: Tensor, taught: Tensor, frames: Tensor) -> Tensor:
        """Digits (B, T, 5), features (B, T, features) and the frames of each row (B,) -> loss."""
        return along_time(self.transform(self.row(values)).float(), taught, frames)


def along_time(made: Tensor, taught: Tensor, frames: Tensor) -> Tensor:
    """Mean of -log sigmoid of the cosine of every feature (B, T, features) over a row's `frames` (B,).

    0.313 where all run alike, 0.693 where they have nothing in common.
    """
    inside = torch.arange(made.shape[1], device=made.device)[None, :, None] < frames.to(made.device)[:, None, None]
    cosines = F.cosine_similarity(made * inside, taught * inside, dim=1)
    return -F.logsigmoid(cosines).mean()
