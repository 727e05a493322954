"""New keys into the cache: rotated to their position, rounded to what the cache holds, written to their slot.

A decode step appends inside the attention kernel, which shares the two functions here; a prefill appends beforehand.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..attention_call import Call
from . import launch


@triton.jit
def rotated(pointer, at, position, cos, sin, keep, D: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Rows (R, D) fp32 of `pointer` at element offsets `at` (R,), rotated to `position` (R,)."""
    d = tl.arange(0, D)
    x = tl.load(pointer + at[:, None] + d, mask=keep[:, None], other=0.0).to(tl.float32)
    if cos is None:
        return x
    if INTERLEAVED:
        partner = d ^ 1
        pair = d // 2
        sign = tl.where(d % 2 == 0, -1.0, 1.0)
    else:
        partner = (d + D // 2) % D
        pair = d % (D // 2)
        sign = tl.where(d < D // 2, -1.0, 1.0)
    other = tl.load(pointer + at[:, None] + partner, mask=keep[:, None], other=0.0).to(tl.float32)
    angle = position[:, None] * (D // 2) + pair
    c = tl.load(cos + angle, mask=keep[:, None], other=0.0)
    s = tl.load(sin + angle, mask=keep[:, None], other=0.0)
    return x * c + other * (s * sign)


@triton.jit
def stored(x, descale, head, keep, DTYPE: tl.constexpr):
    """x (R, D) fp32 as the cache holds it: fp8 is scaled by its head (R,) and saturates."""
    if descale is not None:
        x = x / tl.load(descale + head, mask=keep, other=1.0)[:, None]
    if DTYPE.primitive_bitwidth == 8:
        x = tl.clamp(x, -448.0, 448.0)
    return x.to(DTYPE)


@triton.jit
def append_kernel(
    k,
    v,
    k_cache,
    v_cache,
    lengths,
    slots,
    cos,
    sin,
    k_descale,
    v_descale,
    capacity,
    last_position,
    k_row,
    k_time,
    k_head,
    v_row,
    v_time,
    v_head,
    kc_slot,
    kc_time,
    kc_head,
    vc_slot,
    vc_time,
    vc_head,
    HEADS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    D: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    """Rotate one token's keys and write it to its slot. Grid (T, heads / BLOCK_H, B)."""
    t, row = tl.program_id(0), tl.program_id(2)
    slot = row.to(tl.int64)
    if slots is not None:
        slot = tl.load(slots + row).to(tl.int64)
    at = tl.load(lengths + row).to(tl.int64) + t
    if (slot < 0) | (at >= capacity):
        return
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    d = tl.arange(0, D)
    keep = head < HEADS
    position = tl.minimum(at, last_position) + tl.zeros_like(head)
    row = row.to(tl.int64)
    key = rotated(k, row * k_row + t * k_time + head * k_head, position, cos, sin, keep, D, INTERLEAVED)
    value = tl.load(v + row * v_row + t * v_time + head[:, None] * v_head + d, mask=keep[:, None], other=0.0)
    key = stored(key.to(k.dtype.element_ty).to(tl.float32), k_descale, head, keep, k_cache.dtype.element_ty)
    value = stored(value.to(tl.float32), v_descale, head, keep, v_cache.dtype.element_ty)
    tl.store(k_cache + slot * kc_slot + at * kc_time + head[:, None] * kc_head + d, key, mask=keep[:, None])
    tl.store(v_cache + slot * vc_slot + at * vc_time + head[:, None] * vc_head + d, value, mask=keep[:, None])


def append(call: Call, lengths: Tensor) -> None:
    """Rotate the new keys and write them with their values to the cache; what does not fit is dropped."""
    k, v, k_cache, v_cache = call.k, call.v, call.k_cache, call.v_cache
    assert k is not None
    assert v is not None
    rows, times, heads, dim = k.shape
    block = min(triton.next_power_of_2(heads), 8)
    cos, sin = call.rotary or (None, None)
    launch.start(
        append_kernel,
        (times, triton.cdiv(heads, block), rows),
        k,
        v,
        k_cache,
        v_cache,
        lengths,
        call.slots,
        cos,
        sin,
        call.k_descale,
        call.v_descale,
        k_cache.shape[1],
        0 if cos is None else len(cos) - 1,
        *k.stride()[:3],
        *v.stride()[:3],
        *k_cache.stride()[:3],
        *v_cache.stride()[:3],
        HEADS=heads,
        BLOCK_H=block,
        D=dim,
        INTERLEAVED=call.interleaved,
        num_warps=4,
    )
