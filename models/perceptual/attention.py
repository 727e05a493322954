"""Attention of the published perceptual backbones: full, with rotary positions and a key-padding mask."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of the rotary angles of frames 0 .. T - 1, each (T, head width), theta 10000."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, frames: int, width: int, like: Tensor) -> "Rotary":
        """Angles in fp32, results in the dtype and on the device of `like`."""
        frequencies = 10000.0 ** -(torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width)
        angles = torch.arange(frames, device=like.device, dtype=torch.float32)[:, None] * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return cls(angles.cos().to(like.dtype), angles.sin().to(like.dtype))

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate x (..., T, head width): channel i pairs with channel i + width / 2."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-second, first], dim=-1) * self.sin


class Attention(nn.Module):
    """Multi-head self-attention over all frames: (B, T, dim) -> (B, T, dim).

    rotate_keys=False leaves keys without positions. The published transformer backbones were trained so, by a slip in
    their code, and their weights mean nothing otherwise.
    """

    def __init__(self, dim: int, heads: int, *, dropout: float, rotate_keys: bool = True) -> None:
        super().__init__()
        self.heads, self.dropout, self.rotate_keys = heads, dropout, rotate_keys
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotary: Rotary, mask: Tensor | None) -> Tensor:
        """mask (B, T) is True on the frames that may be looked at."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1))
        )
        q = rotary.rotate(q)
        if self.rotate_keys:
            k = rotary.rotate(k)
        keep = None if mask is None else mask[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=dropout)
        out: Tensor = self.to_out(y.transpose(1, 2).flatten(2))
        return out
