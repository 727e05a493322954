"""Low-rank adaptation (arXiv 2106.09685) of the semantic model's linears, as a parametrisation of their weights: the
model's code and names stay what they are, and `merge_` leaves plain weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..semantic.llama import SemanticModel


class LowRank(nn.Module):
    """W (out, in) -> W + scale * B A, with A (rank, in) random and B (out, rank) zero at first."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.a = nn.Parameter(torch.empty(rank, columns, device=weight.device, dtype=weight.dtype))
        self.b = nn.Parameter(torch.zeros(rows, rank, device=weight.device, dtype=weight.dtype))
        self.scale = scale
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.b @ self.a)


def add_lora_(model: SemanticModel, rank: int, alpha: float) -> None:
    """Freeze the layers' linears and give each a low-rank term of scale alpha / rank. Embeddings, head and norms stay
    trainable, for new tokens have to be learnt whole."""
    for linear in _linears(model):
        linear.weight.requires_grad_(False)
        parametrize.register_parametrization(linear, "weight", LowRank(linear.weight, rank, alpha / rank))


def merge_(model: SemanticModel) -> None:
    """Fold the low-rank terms into the weights; nothing of them is left."""
    for linear in _linears(model):
        if parametrize.is_parametrized(linear, "weight"):
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)


def _linears(model: SemanticModel) -> list[nn.Linear]:
    return [module for module in model.model.layers.modules() if isinstance(module, nn.Linear)]
