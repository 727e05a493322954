"""A transformer's small steps between two products, each in one launch: sum, gate, norm, modulation; SwiGLU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch


@triton.jit
def norm_kernel(
    x,
    branch,
    gate,
    weight,
    shift,
    total,
    out,
    eps,
    x_row,
    branch_row,
    gate_row,
    weight_row,
    shift_row,
    PER: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    RMS: tl.constexpr,
):
    """One row: total = x + gate * branch, out = norm(total) * weight + shift, each part if given.

    gate, weight and shift have one row for PER rows of x (stride 0: one for all). RMS: RMSNorm, else LayerNorm.
    """
    row = tl.program_id(0).to(tl.int64)
    of = row // PER
    d = tl.arange(0, BLOCK)
    keep = d < DIM
    value = tl.load(x + row * x_row + d, mask=keep, other=0.0).to(tl.float32)
    if branch is not None:
        more = tl.load(branch + row * branch_row + d, mask=keep, other=0.0).to(tl.float32)
        if gate is not None:
            more *= tl.load(gate + of * gate_row + d, mask=keep, other=0.0).to(tl.float32)
        rounded = (value + more).to(total.dtype.element_ty)
        tl.store(total + row * DIM + d, rounded, mask=keep)
        value = rounded.to(tl.float32)  # what the next layer will add to is what is normalised here
    if weight is not None:
        if not RMS:
            value = tl.where(keep, value - tl.sum(value, 0) / DIM, 0.0)
        value = value * tl.rsqrt(tl.sum(value * value, 0) / DIM + eps)
        value *= tl.load(weight + of * weight_row + d, mask=keep, other=0.0).to(tl.float32)
        if shift is not None:
            value += tl.load(shift + of * shift_row + d, mask=keep, other=0.0).to(tl.float32)
        tl.store(out + row * DIM + d, value.to(out.dtype.element_ty), mask=keep)


@triton.jit
def swiglu_kernel(x, out, x_row, DIM, BLOCK: tl.constexpr):
    """silu of the first half of a row times the second. Grid (DIM / BLOCK, rows)."""
    row = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = d < DIM
    gate = tl.load(x + row * x_row + d, mask=keep, other=0.0).to(tl.float32)
    up = tl.load(x + row * x_row + DIM + d, mask=keep, other=0.0).to(tl.float32)
    tl.store(out + row * DIM + d, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=keep)


def norm(
    x: Tensor,
    *,
    branch: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    shift: Tensor | None,
    eps: float,
    rms: bool,
) -> tuple[Tensor, Tensor]:
    """(total, out) of x (B, T, D); gate, weight, shift (B or 1, D) in any dtype, or (D,) for all rows."""
    batch, times, dim = x.shape
    x = x if x.is_contiguous() else x.contiguous()
    branch = branch if branch is None or branch.is_contiguous() else branch.contiguous()
    total = x if branch is None else torch.empty_like(x)
    out = total if weight is None else torch.empty_like(x)
    launch.start(
        norm_kernel,
        (batch * times,),
        x,
        branch,
        gate,
        weight,
        shift,
        total,
        out,
        eps,
        dim,
        dim,
        *(_stride(each) for each in (gate, weight, shift)),
        PER=times,
        DIM=dim,
        BLOCK=triton.next_power_of_2(dim),
        RMS=rms,
        num_warps=4 if dim <= 2048 else 8,
    )
    return total, out


def swiglu(x: Tensor) -> Tensor:
    """x (rows, 2 D), rows strided as they like, to (rows, D)."""
    rows, dim = x.shape[0], x.shape[1] // 2
    out = torch.empty(rows, dim, dtype=x.dtype, device=x.device)
    launch.start(swiglu_kernel, (triton.cdiv(dim, 1024), rows), x, out, x.stride(0), dim, BLOCK=1024, num_warps=4)
    return out


def _stride(each: Tensor | None) -> int:
    return 0 if each is None or each.ndim == 1 or len(each) == 1 else each.stride(0)
