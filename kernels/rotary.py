"""Rotary position embedding by table, in plain torch: the twin of what the Triton kernels do on the way."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_tables(
    positions: int, head_dim: int, theta: float, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each (positions, head_dim / 2) fp32, of every rotary angle below `positions`."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim
    angles = torch.arange(positions, dtype=torch.float64, device=device)[:, None] * theta**-exponents
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, tables: tuple[Tensor, Tensor], positions: Tensor, interleaved: bool = False) -> Tensor:
    """Rotate x (B, T, heads, D) to `positions` (B or 1, T) or (T,), in fp32; returns x's dtype.

    interleaved: pairs are (0, 1), (2, 3), ...; else (0, D / 2), (1, D / 2 + 1), ... as LLaMA has them.
    """
    cos, sin = (table[positions][..., None, :] for table in tables)
    if interleaved:
        first, second = x.float().view(*x.shape[:-1], -1, 2).unbind(-1)
    else:
        first, second = x.float().chunk(2, dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    out = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    return out.to(x.dtype)
