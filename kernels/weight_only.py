"""Linear layers for few rows: weights in fp8 or int8 with one scale per output, or as they are; norm and sum included.

A decode step reads all weights to multiply them with a handful of rows, so half the bytes is half the time. Activations
keep their precision: only the weights are rounded, each row by its own largest value.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import replace_linears_
from .selection import fused, say_once

WeightDtype = Literal["fp8", "int8"]


def quantise_rows(weight: Tensor, dtype: WeightDtype) -> tuple[Tensor, Tensor]:
    """weight (N, K) as fp8 (e4m3) or int8, and the fp32 (N,) scale of each row: weight is about rounded x scale."""
    largest = 448.0 if dtype == "fp8" else 127.0
    scales = (weight.detach().float().abs().amax(dim=1) / largest).clamp_min(torch.finfo(torch.float32).tiny)
    scaled = weight.detach().float() / scales[:, None]
    if dtype == "fp8":
        return scaled.clamp(-largest, largest).to(torch.float8_e4m3fn), scales
    return scaled.round().clamp(-largest, largest).to(torch.int8), scales


def linear(
    x: Tensor,
    weight: Tensor,
    scales: Tensor | None = None,
    *,
    norm: Tensor | None = None,
    eps: float = 1e-5,
    gated: bool = False,
    residual: Tensor | None = None,
    counters: Tensor | None = None,
) -> Tensor:
    """residual + glu(rms_norm(x) @ weight.T * scales), each part if asked for, in one launch on a GPU.

    x: (..., K). weight: (N, K) in x's dtype, fp8 or int8; gated: (2 N, K), rows of the gate first, and the result is
    silu(gate) * up (SwiGLU). scales: fp32, one per row of weight. norm: (K,) weight of an RMSNorm of x with `eps`.
    residual: (..., N). counters: see `gpu.linear.counters`, to save a launch. Returns (..., N) in x's dtype.
    More than 64 rows, and a CPU, take the plain way: fp8 weights are widened in memory for it.
    """
    if fused(x.device):
        from .gpu import linear as ours  # not every machine has triton

        flat = x.reshape(-1, x.shape[-1])
        refusal = ours.refusal(flat, weight, norm)
        if refusal is None:
            outputs = len(weight) // 2 if gated else len(weight)
            sums = None if residual is None else residual.reshape(-1, outputs)
            out = ours.run(flat, weight, scales, norm=norm, eps=eps, gated=gated, residual=sums, counters=counters)
            return out.view(*x.shape[:-1], outputs)
        if len(flat) <= ours.MOST_ROWS:  # more rows are nothing to be told about
            say_once(f"linear falls back to torch: {refusal}")
    return _plain(x, weight, scales, norm, eps, gated, residual)


class WeightOnlyLinear(nn.Module):
    """Inference-only replacement of an `nn.Linear` whose weights are rounded; its bias stays as it is."""

    weight: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear, dtype: WeightDtype) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, scales = quantise_rows(linear.weight, dtype)
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out = linear(x, self.weight, self.scales)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, weight={self.weight.dtype}"


def round_weights_(module: nn.Module, dtype: WeightDtype) -> None:
    """Replace every `nn.Linear` inside `module` by a `WeightOnlyLinear`, in place."""
    replace_linears_(module, lambda linear: WeightOnlyLinear(linear, dtype))


def _plain(  # noqa: PLR0917
    x: Tensor,
    weight: Tensor,
    scales: Tensor | None,
    norm: Tensor | None,
    eps: float,
    gated: bool,
    residual: Tensor | None,
) -> Tensor:
    h = x if norm is None else F.rms_norm(x, norm.shape, norm, eps)
    out = F.linear(h, weight.to(h.dtype))
    if scales is not None:
        out = out * scales.to(out.dtype)
    if gated:
        gate, up = out.chunk(2, dim=-1)
        out = F.silu(gate) * up
    return out if residual is None else residual + out
