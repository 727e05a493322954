"""Causal building blocks: each runs over a whole signal or chunk by chunk, with the same result.

Every block has `forward(x)` for a whole signal and `step(x, state) -> (y, state)` for a stream; `init_state(batch)`
gives the state of an empty past. States are plain values that can be copied, kept and rewound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.attention import attend

State = Any
"""Explicit streaming state: a tensor, a small dataclass, or a list of states."""


class CausalConv1d(nn.Conv1d):
    """Convolution that sees only the past: left padding of `kernel - stride` samples.

    Shapes: (B, in, T) -> (B, out, T / stride), T a multiple of the stride.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride)
        self.context = kernel - stride

    def init_state(self, batch: int) -> State:
        return self.weight.new_zeros(batch, self.in_channels, self.context)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.context, 0)))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        padded = torch.cat([state, x], -1)
        return super().forward(padded), padded[..., padded.shape[-1] - self.context :]


class Chain(nn.Sequential):
    """Blocks one after another; the state is the list of their states."""

    def init_state(self, batch: int) -> State:
        return [block.init_state(batch) for block in self]  # type: ignore[operator]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        states = []
        for block, old in zip(self, state, strict=True):
            x, new = block.step(x, old)  # type: ignore[operator]
            states.append(new)
        return x, states


@dataclass(frozen=True)
class AttentionState:
    """Keys and values (layers, 2, B, H, kept, head) of the last frames, and the index of the next frame."""

    cache: Tensor
    position: int


def _rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding of (B, H, T, d) at absolute frame `positions` (T,) or (B, 1, T), angles in fp32."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = positions.to(torch.float32)[..., None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Whisper's position vectors (T, dim); they repeat after the 30 s that Whisper knows."""
    scale = torch.arange(dim // 2, device=positions.device) / (dim // 2 - 1)
    angle = (positions % 1500).float()[:, None] * 10_000.0**-scale
    return torch.cat([angle.sin(), angle.cos()], -1)


class Gelu(nn.Module):
    """GELU with the streaming surface of its neighbours."""

    def init_state(self, batch: int) -> State:
        return None

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self(x), state


class _Layer(nn.Module):
    def __init__(self, dim: int, heads: int, rotary: bool) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        batch, frames, dim = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.rotary:
            q, k = _rotate(q, positions), _rotate(k, positions)
        kv = torch.stack([k, v])
        if past is not None:
            kv = torch.cat([past, kv], 3)
        y = attend(q, kv[0], kv[1], mask)
        x = x + self.out(y.transpose(1, 2).reshape(batch, frames, dim))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh")), kv


class CausalTransformer(nn.Module):
    """Pre-norm transformer in which a frame sees itself and the `window - 1` frames before it.

    Shapes: (B, T, dim) -> (B, T, dim). Positions are absolute frame indices, rotary or as Whisper's sinusoids.
    block: a frame also sees the rest of its block of so many frames (chunked attention, WeNet, arXiv 2102.01547).
    """

    def __init__(self, dim: int, layers: int, heads: int, window: int, *, block: int = 1, rotary: bool = True) -> None:
        super().__init__()
        self.window, self.block, self.heads, self.head_dim, self.rotary = window, block, heads, dim // heads, rotary
        self.layers = nn.ModuleList(_Layer(dim, heads, rotary) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def init_state(self, batch: int) -> AttentionState:
        weight = self.norm.weight
        return AttentionState(weight.new_zeros(len(self.layers), 2, batch, self.heads, 0, self.head_dim), 0)

    def placed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Frames x (B, T, dim) with their positions (T,) added, where rotary angles don't say them."""
        return x if self.rotary else x + _sinusoids(positions, x.shape[-1]).to(x.dtype)

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Who sees whom, (queries, keys), of frames at these positions."""
        known = (keys // self.block)[None, :] <= (queries // self.block)[:, None]
        return known & (queries[:, None] - keys[None, :] < self.window)

    def through(self, x: Tensor, start: int, layers: slice) -> Tensor:
        """Whole signal, its frames placed and the first at index `start`, through some of the layers and no norm."""
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        mask = self.mask(positions, positions)
        for layer in self.layers[layers]:
            x, _ = layer(x, positions, mask, None)
        return x

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Whole signal; `start` is the index of its first frame."""
        x = self.placed(x, torch.arange(start, start + x.shape[1], device=x.device))
        return self.norm(self.through(x, start, slice(None)))  # type: ignore[no-any-return]

    def step(self, x: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """Next frames of a stream: x (B, t, dim), t >= 1 a multiple of `block`, unless they are the last."""
        kept = state.cache.shape[4]
        keys = torch.arange(state.position - kept, state.position + x.shape[1], device=x.device)
        positions = keys[kept:]
        mask = self.mask(positions, keys)
        x = self.placed(x, positions)
        caches = []
        for layer, past in zip(self.layers, state.cache, strict=True):
            x, kv = layer(x, positions, mask, past)
            caches.append(kv[..., max(0, kv.shape[3] - self.window + 1) :, :])
        return self.norm(x), AttentionState(torch.stack(caches), state.position + len(positions))
