"""Linear layers of a decode step: few rows, so all time goes into reading the weights, and all thought into that.

Weights stream through a pipeline of asynchronous copies, several blocks deep, into tensor-core products of 16 rows (a
step of one session wastes 15 of them, which costs nothing: the products take a tenth of the time that reading takes).
fp8 and int8 weights are widened on the way from shared memory to the product. What stands before and after a linear in
a transformer is done in the same launch: RMSNorm of the input, SwiGLU of two outputs, the residual sum.

Layers with few outputs cut their inputs as well (split-K), so that every multiprocessor reads; the last of the cuts to
arrive adds them up in order. How a layer is cut depends on its shape alone: a row's result does not depend on how many
rows go with it, up to 64 rows.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch

MOST_ROWS: Final = 64
_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
_WEIGHTS: Final = (*_DTYPES, torch.float8_e4m3fn, torch.int8)
_CTAS: Final = 512  # about four for each of an H100's 132 multiprocessors


@triton.jit
def _widened(weight, DTYPE: tl.constexpr):
    """fp8 by way of fp16 and fp32, all at full rate: the short way to bf16 is a conversion of a sixteenth of it."""
    if weight.dtype == tl.float8e4nv:
        weight = weight.to(tl.float16).to(tl.float32)
    return weight.to(DTYPE)


@triton.jit
def linear_kernel(
    x,
    weight,
    scales,
    norm,
    residual,
    out,
    partial,
    counters,
    eps,
    rows,
    x_row,
    residual_row,
    N,
    K: tl.constexpr,
    GATED: tl.constexpr,
    SPLITS: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """BLOCK_N outputs of all rows over one cut of the inputs. Grid (N / BLOCK_N, SPLITS).

    weight (N, K), or (2 N, K) when GATED: the gate's rows, then those it opens. scales fp32, one per row of weight.
    """
    tile, split = tl.program_id(0), tl.program_id(1)
    m = tl.arange(0, M)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    live = m < rows
    inside = n < N
    first: tl.constexpr = (K // BLOCK_K + SPLITS - 1) // SPLITS * BLOCK_K
    k = split * first + tl.arange(0, BLOCK_K)
    from_x = x + m[:, None].to(tl.int64) * x_row + k[None, :]
    from_w = weight + n[:, None].to(tl.int64) * K + k[None, :]
    beyond = tl.cast(N, tl.int64) * K
    acc = tl.zeros((M, BLOCK_N), tl.float32)
    up = tl.zeros((M, BLOCK_N), tl.float32)
    squares = tl.zeros((M,), tl.float32)
    end = tl.minimum(split * first + first, K)
    for at in tl.range(split * first, end, BLOCK_K):
        a = tl.load(from_x, mask=live[:, None], other=0.0)
        if norm is not None:
            wide = a.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            a = (wide * tl.load(norm + at + tl.arange(0, BLOCK_K)).to(tl.float32)[None, :]).to(x.dtype.element_ty)
        b = _widened(tl.load(from_w, mask=inside[:, None], other=0.0), x.dtype.element_ty)
        acc = tl.dot(a, tl.trans(b), acc, input_precision="ieee")
        if GATED:
            c = _widened(tl.load(from_w + beyond, mask=inside[:, None], other=0.0), x.dtype.element_ty)
            up = tl.dot(a, tl.trans(c), up, input_precision="ieee")
        from_x += BLOCK_K
        from_w += BLOCK_K

    keep = live[:, None] & inside[None, :]
    spot = m[:, None].to(tl.int64) * N + n[None, :]
    if SPLITS > 1:
        size = tl.cast(rows, tl.int64) * N
        tl.store(partial + split * size + spot, acc, mask=keep)
        tl.debug_barrier()  # the whole block has written before its one thread says so
        if tl.atomic_add(counters + tile, 1, sem="acq_rel") != SPLITS - 1:
            return
        tl.debug_barrier()
        tl.store(counters + tile, 0)  # ready for the next launch
        acc = tl.zeros((M, BLOCK_N), tl.float32)
        for s in tl.static_range(SPLITS):
            acc += tl.load(partial + s * size + spot, mask=keep, other=0.0, cache_modifier=".cg")
    if scales is not None:
        acc *= tl.load(scales + n, mask=inside, other=0.0)[None, :]
        if GATED:
            up *= tl.load(scales + N + n, mask=inside, other=0.0)[None, :]
    if norm is not None:
        rms = tl.rsqrt(squares / K + eps)[:, None]
        acc *= rms
        if GATED:
            up *= rms
    if GATED:
        acc = acc * tl.sigmoid(acc) * up
    if residual is not None:
        acc += tl.load(residual + m[:, None].to(tl.int64) * residual_row + n[None, :], mask=keep, other=0.0).to(
            tl.float32
        )
    tl.store(out + spot, acc.to(out.dtype.element_ty), mask=keep)


def refusal(x: Tensor, weight: Tensor, norm: Tensor | None) -> str | None:
    """Why the kernel can't compute this, in one line; None when it can. x (rows, K), weight (N or 2 N, K)."""
    if x.dtype not in _DTYPES or weight.dtype not in _WEIGHTS:
        return f"a linear of {weight.dtype} weights on {x.dtype}"
    if len(x) > MOST_ROWS:
        return f"{len(x)} rows, which is more than a decode step has"
    if x.shape[1] % 128 or not weight.is_contiguous() or x.stride(1) != 1:
        return f"{x.shape[1]} inputs: not a contiguous multiple of 128"
    if weight.dtype == torch.float8_e4m3fn and x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 9):
        return "fp8 weights need compute capability 8.9 or newer"
    return None


def splits(outputs: int, inputs: int) -> int:
    """How many ways a layer's inputs are cut: a power of two <= 8 that gives every multiprocessor work."""
    tiles = -(-outputs // 32)
    wanted = min(_CTAS // tiles, inputs // 512, 8)
    return 1 << max(wanted, 1).bit_length() - 1


def counters(device: torch.device, outputs: int) -> Tensor:
    """Zeros for `run`'s argument of that name."""
    return torch.zeros(-(-outputs // 32), dtype=torch.int32, device=device)


def run(
    x: Tensor,
    weight: Tensor,
    scales: Tensor | None,
    *,
    norm: Tensor | None,
    eps: float,
    gated: bool,
    residual: Tensor | None,
    counters: Tensor | None,
) -> Tensor:
    """`weight_only.linear` on x (rows, K) and residual (rows, N), arguments checked. counters as in attention."""
    rows, inputs = x.shape
    outputs = len(weight) // 2 if gated else len(weight)
    count = 1 if gated or norm is not None else splits(outputs, inputs)
    partial = None
    if count > 1:
        partial = torch.empty(count * rows * outputs, dtype=torch.float32, device=x.device)
        if counters is None:
            counters = torch.zeros(-(-outputs // 32), dtype=torch.int32, device=x.device)
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    block_k = 256 if weight.dtype.itemsize == 1 and inputs % 256 == 0 else 128 if x.dtype.itemsize == 2 else 64
    launch.start(
        linear_kernel,
        (triton.cdiv(outputs, 32), count),
        x,
        weight,
        scales,
        norm,
        residual,
        out,
        partial,
        counters if count > 1 else None,
        eps,
        rows,
        x.stride(0),
        0 if residual is None else residual.stride(0),
        outputs,
        K=inputs,
        GATED=gated,
        SPLITS=count,
        M=max(16, triton.next_power_of_2(rows)),
        BLOCK_N=32,
        BLOCK_K=block_k,
        num_warps=4,
        num_stages=4 if x.dtype.itemsize == 2 else 3,
    )
    return out
