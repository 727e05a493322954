"""Conformer and U-Conformer backbones, under the published checkpoints' key names.

Source: Conformer (arXiv 2005.08100) as in the published SpeechGPT-Gen perceptual model; U-shaped skips as in
Voicebox (arXiv 2306.15687).
"""

import torch
from torch import Tensor, nn

from .attention import Attention, Rotary
from .backbone import BackboneOptions, Stack, UStack, make_norm, normed


class ConformerBlock(nn.Module):
    """x += FF(x) / 2; x += attention(x); x += convolution(x); x += FF(x) / 2; LayerNorm. Each branch norms its input.

    Norms of the feed-forwards and the attention are adaptive when the options have a `cond_dim`.
    """

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__()
        dim = options.dim
        self.ff1 = HalfStep(PreNorm(FeedForward(options), options))
        self.attn = PreNorm(Attention(dim, options.heads, dropout=options.attn_dropout), options)
        self.conv = ConvModule(options)
        self.ff2 = HalfStep(PreNorm(FeedForward(options), options))
        self.post_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, rotary: Rotary, mask: Tensor | None, cond: Tensor | None) -> Tensor:
        """x (B, T, dim), mask (B, T) True on real frames, cond (B, cond_dim) or None -> (B, T, dim)"""
        x = x + self.ff1(x, cond)
        x = x + self.attn.fn(normed(self.attn.norm, x, cond), rotary, mask)
        x = x + self.conv(x, mask)
        x = x + self.ff2(x, cond)
        out: Tensor = self.post_norm(x)
        return out


class PreNorm(nn.Module):
    """A branch and the norm before it."""

    def __init__(self, fn: nn.Module, options: BackboneOptions) -> None:
        super().__init__()
        self.fn = fn
        self.norm = make_norm(options, nn.LayerNorm)

    def forward(self, x: Tensor, cond: Tensor | None) -> Tensor:
        out: Tensor = self.fn(normed(self.norm, x, cond))
        return out


class HalfStep(nn.Module):
    """Half of what a branch puts out."""

    def __init__(self, fn: PreNorm) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, cond: Tensor | None) -> Tensor:
        out: Tensor = self.fn(x, cond) * 0.5
        return out


class FeedForward(nn.Module):
    """Linear, activation, linear: (B, T, dim) -> (B, T, dim)."""

    def __init__(self, options: BackboneOptions, activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        hidden = options.dim * options.ff_mult
        self.net = nn.Sequential(
            nn.Linear(options.dim, hidden),
            activation(),
            nn.Dropout(options.ff_dropout),
            nn.Linear(hidden, options.dim),
            nn.Dropout(options.ff_dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class ConvModule(nn.Module):
    """Gated pointwise, depthwise and pointwise convolution over time: (B, T, dim) -> (B, T, dim).

    Padding frames are zero before and after the depthwise convolution, so that they say nothing to real frames.
    """

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__()
        dim, kernel = options.dim, options.conv_kernel_size
        inner = dim * options.conv_expansion_factor
        self.net1 = nn.Sequential(nn.LayerNorm(dim), _Transpose(), nn.Conv1d(dim, 2 * inner, 1), nn.GLU(dim=1))
        self.ds_conv = nn.ModuleDict({"conv": nn.Conv1d(inner, inner, kernel, padding=kernel // 2, groups=inner)})
        self.net2 = nn.Sequential(
            nn.SiLU(), ChannelNorm(inner), nn.Conv1d(inner, dim, 1), _Transpose(), nn.Dropout(options.conv_dropout)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        padding = None if mask is None else ~mask[:, None, :]
        x = self.net1(x)
        if padding is not None:
            x = x.masked_fill(padding, 0.0)
        x = self.ds_conv["conv"](x)
        if padding is not None:
            x = x.masked_fill(padding, 0.0)
        x = self.net2(x)
        return x


class ChannelNorm(nn.Module):
    """Zero mean and unit variance over channels, times gamma: (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        least = 1e-6 if x.dtype == torch.float32 else 1e-4  # a floor, not an addend: silent padding has variance 0
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        return (x - mean) * variance.clamp(min=least).rsqrt() * self.gamma


class _Transpose(nn.Module):
    """(B, T, C) <-> (B, C, T)"""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Conformer(Stack):
    """Conformer blocks one after another."""

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__(options, ConformerBlock)


class UConformer(UStack):
    """Conformer blocks as a U."""

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__(options, ConformerBlock, lambda dim: nn.Linear(2 * dim, dim))
