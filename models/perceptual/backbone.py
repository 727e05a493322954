"""The two shapes of the published perceptual backbones: a plain stack of blocks, and a U of them with long skips."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .attention import Rotary


@dataclass(frozen=True)
class BackboneOptions:
    """Sizes of a backbone. Raises ConfigError for sizes that cannot be built."""

    dim: int = 1024
    depth: int = 12
    heads: int = 16
    ff_mult: int = 4
    conv_expansion_factor: int = 2
    conv_kernel_size: int = 31
    cond_dim: int | None = None
    """Width of the time embedding that steers adaptive norms; None for plain norms."""
    ff_dropout: float = 0.0
    attn_dropout: float = 0.0
    conv_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "heads", "ff_mult", "conv_expansion_factor", "conv_kernel_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"perceptual backbone: {name} must be at least 1, not {getattr(self, name)}")
        if self.dim % (2 * self.heads):
            raise ConfigError(
                f"perceptual backbone: dim must be a multiple of twice the heads, for rotary pairs; "
                f"{self.dim} is none of 2 x {self.heads}"
            )
        if self.conv_kernel_size % 2 == 0:
            raise ConfigError(f"perceptual backbone: conv_kernel_size must be odd, not {self.conv_kernel_size}")
        for name in ("ff_dropout", "attn_dropout", "conv_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"perceptual backbone: {name} must be in [0, 1), not {getattr(self, name)}")


class Block(Protocol):
    """One layer. x (B, T, dim), mask (B, T) True on real frames, cond (B, cond_dim) or None -> (B, T, dim)."""

    def __call__(self, x: Tensor, rotary: Rotary, mask: Tensor | None, cond: Tensor | None) -> Tensor: ...


class Stack(nn.Module):
    """`depth` blocks one after another: (B, T, dim) -> (B, T, dim)."""

    def __init__(self, options: BackboneOptions, block: Callable[[BackboneOptions], nn.Module]) -> None:
        super().__init__()
        self.head_dim = options.dim // options.heads
        self.layers = nn.ModuleList(block(options) for _ in range(options.depth))

    def forward(self, x: Tensor, mask: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        rotary = Rotary.of(x.shape[1], self.head_dim, x)
        for layer in self.layers:
            x = layer(x, rotary, mask, cond)
        return x


class UStack(nn.Module):
    """Blocks as a U: what each contracting block puts out joins, through a projection, what its mirror block takes in.

    (B, T, dim) -> (B, T, dim); nothing is down-sampled. The bottleneck is one block, or two when the depth is even.
    """

    def __init__(
        self,
        options: BackboneOptions,
        block: Callable[[BackboneOptions], nn.Module],
        projection: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.head_dim = options.dim // options.heads
        arm = (options.depth - 1) // 2
        self.contracting_layers = nn.ModuleList(block(options) for _ in range(arm))
        self.bottleneck_layers = nn.ModuleList(block(options) for _ in range(options.depth - 2 * arm))
        self.expanding_layers = nn.ModuleList(block(options) for _ in range(arm))
        self.projs = nn.ModuleList(projection(options.dim) for _ in range(arm))

    def forward(self, x: Tensor, mask: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        rotary = Rotary.of(x.shape[1], self.head_dim, x)
        skips = []
        for layer in self.contracting_layers:
            x = layer(x, rotary, mask, cond)
            skips.append(x)
        for layer in self.bottleneck_layers:
            x = layer(x, rotary, mask, cond)
        for layer, projection in zip(self.expanding_layers, self.projs, strict=True):
            x = layer(projection(torch.cat([x, skips.pop()], dim=-1)), rotary, mask, cond)
        return x


class RMSNorm(nn.Module):
    """Unit length over channels times sqrt(dim) times gamma: (..., dim) -> (..., dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * self.gamma
        return out


class AdaptiveRMSNorm(nn.Module):
    """RMS norm whose scale and shift are linear in the condition; begins as a plain one."""

    def __init__(self, dim: int, cond_dim: int) -> None:
        super().__init__()
        self.to_gamma = nn.Linear(cond_dim, dim)
        self.to_beta = nn.Linear(cond_dim, dim)
        for layer, bias in ((self.to_gamma, 1.0), (self.to_beta, 0.0)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """x (B, T, dim), cond (B, cond_dim) -> (B, T, dim)"""
        unit = F.normalize(x, dim=-1) * x.shape[-1] ** 0.5
        out: Tensor = unit * self.to_gamma(cond)[:, None] + self.to_beta(cond)[:, None]
        return out


def make_norm(options: BackboneOptions, plain: Callable[[int], nn.Module]) -> nn.Module:
    """An adaptive norm when the options have a condition, else the backbone's plain one."""
    return plain(options.dim) if options.cond_dim is None else AdaptiveRMSNorm(options.dim, options.cond_dim)


def normed(norm: nn.Module, x: Tensor, cond: Tensor | None) -> Tensor:
    """Apply a norm that is adaptive (then `cond` steers it) or plain."""
    out: Tensor = norm(x, cond) if isinstance(norm, AdaptiveRMSNorm) else norm(x)
    return out
