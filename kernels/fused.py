"""What stands between a transformer's products, in one launch each on a GPU; plain torch elsewhere.

Each function and its plain twin are one definition: the twin is what a CPU computes and what the tests hold the kernel
against. On a GPU sums and norms run in fp32 and round once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .selection import fused

_MOST: int = 16384  # of a row that one program can hold


def rms_norm(x: Tensor, weight: Tensor, eps: float, branch: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(x + branch, its RMSNorm): the residual sum of one layer and the norm that the next begins with.

    x, branch: (B, T, D); weight: (D,). Without a branch the first is x itself.
    """
    if _ours(x):
        from .gpu import norm as ours

        return ours.norm(x, branch=branch, gate=None, weight=weight, shift=None, eps=eps, rms=True)
    total = x if branch is None else x + branch
    return total, F.rms_norm(total, weight.shape, weight, eps)


def norm_modulate(  # noqa: PLR0917
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    branch: Tensor | None = None,
    gate: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """(x + gate * branch, LayerNorm of it * scale + shift): what stands before each part of an adaptive transformer.

    x, branch: (B, T, D); shift, scale, gate: (B, D), or (1, D) for all rows. No branch: the first is x itself.
    """
    if _ours(x):
        from .gpu import norm as ours

        return ours.norm(x, branch=branch, gate=gate, weight=scale, shift=shift, eps=eps, rms=False)
    total = x if branch is None else gate_residual(x, branch, gate)
    return total, torch.addcmul(shift[:, None], F.layer_norm(total, total.shape[-1:], eps=eps), scale[:, None])


def gate_residual(x: Tensor, branch: Tensor, gate: Tensor | None = None) -> Tensor:
    """x + gate * branch; x, branch (B, T, D), gate (B, D) or (1, D)."""
    if _ours(x):
        from .gpu import norm as ours

        return ours.norm(x, branch=branch, gate=gate, weight=None, shift=None, eps=0.0, rms=False)[0]
    return x + branch if gate is None else torch.addcmul(x, gate[:, None], branch)


def swiglu(x: Tensor) -> Tensor:
    """silu of the first half of the last axis times the second: (..., 2 D) to (..., D)."""
    if fused(x.device):
        from .gpu import norm as ours

        return ours.swiglu(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def _ours(x: Tensor) -> bool:
    return fused(x.device) and x.shape[-1] <= _MOST and x.dtype in (torch.float32, torch.float16, torch.bfloat16)
