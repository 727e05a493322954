"""Transformer and U-former backbones (ablations of the published code), under its key names.

They are post-norm, and their keys carry no positions: see `attention.Attention`.
"""

from torch import Tensor, nn

from .attention import Attention, Rotary
from .backbone import BackboneOptions, RMSNorm, Stack, UStack, make_norm, normed
from .conformer import FeedForward


class TransformerBlock(nn.Module):
    """x = norm(x + attention(x)); x = norm(x + FF(x)): (B, T, dim) -> (B, T, dim)."""

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__()
        attention = Attention(options.dim, options.heads, dropout=options.attn_dropout, rotate_keys=False)
        self.attn = PostNorm(attention, options)
        self.ffn = PostNorm(FeedForward(options, nn.ELU), options)

    def forward(self, x: Tensor, rotary: Rotary, mask: Tensor | None, cond: Tensor | None) -> Tensor:
        """x (B, T, dim), mask (B, T) True on real frames, cond (B, cond_dim) or None -> (B, T, dim)"""
        x = normed(self.attn.norm, x + self.attn.fn(x, rotary, mask), cond)
        return normed(self.ffn.norm, x + self.ffn.fn(x), cond)


class PostNorm(nn.Module):
    """A branch and the norm after it."""

    def __init__(self, fn: nn.Module, options: BackboneOptions) -> None:
        super().__init__()
        self.fn = fn
        self.norm = make_norm(options, RMSNorm)


class Transformer(Stack):
    """Transformer blocks one after another."""

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__(options, TransformerBlock)


class Uformer(UStack):
    """Transformer blocks as a U."""

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__(options, TransformerBlock, lambda dim: nn.Sequential(nn.Linear(2 * dim, dim), RMSNorm(dim)))
