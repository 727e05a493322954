"""Muon (Jordan 2024), scaled so that AdamW's rates and weight decay hold (Moonshot, arXiv 2502.16982).

`torch.optim.Muon` iterates in bf16 on every device, which takes minutes a step where bf16 is emulated, and goes matrix
by matrix. This one iterates in float32 there, and on all matrices of one shape at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .precision import has_bfloat16

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest orthogonal matrices (N, rows, columns) to those given, singular values in 0.7 - 1.2."""
    rows, columns = matrices.shape[-2:]
    x = matrices.mT if rows > columns else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    if has_bfloat16(x.device.type):
        x = x.bfloat16()
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if rows > columns else x


class Muon(torch.optim.Optimizer):
    """Moves matrices along their orthogonalised Nesterov momentum; settings as in `torch.optim.Muon`."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, *, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        if any(p.ndim != 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon moves matrices alone: leave the other parameters to AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step from the gradients that are there."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for shape, members in alike.items():
                moves = orthogonal(torch.stack([self._momentum(p, group) for p in members]))
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                for p, move in zip(members, moves.to(members[0].dtype), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(move, alpha=-size)
        return loss

    def _momentum(self, p: nn.Parameter, group: dict[str, Any]) -> Tensor:
        assert p.grad is not None
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer: Tensor = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
        return p.grad.lerp(buffer, group["momentum"])
