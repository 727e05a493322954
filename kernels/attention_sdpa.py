"""Attention over a cache by torch's SDPA: what a CPU runs, and what every other back end is held against.

It looks at the lengths on the host, so it can't be captured into a CUDA graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention_call import Call
from .rotary import rotate


def run(call: Call) -> Tensor:
    """Compute the call."""
    q, k = call.q, call.k
    if call.rotary is not None and k is not None:
        lengths = call.lengths[:, None] if isinstance(call.lengths, Tensor) else call.lengths
        steps = torch.arange(q.shape[1], device=q.device)
        # Order matters between queries only where a query's own position decides what it sees.
        turning = steps if call.causal or call.window != (-1, -1) else torch.zeros_like(steps)
        q = rotate(q, call.rotary, lengths + turning, call.interleaved)
        k = rotate(k, call.rotary, lengths + steps, call.interleaved)
    descaled = call.k_descale is not None or call.v_descale is not None
    if isinstance(call.lengths, int) and k is not None and call.window == (-1, 0) and call.causal and not descaled:
        return _uniform(call, q, k, call.lengths)
    return _ragged(call, q, k)


def append(cache: Tensor, new: Tensor, lengths: Tensor, slots: Tensor | None, descale: Tensor | None = None) -> None:
    """Write `new` (B, T, Hkv, D) into the slots of `cache` from `lengths` (B,) on; rows of a negative slot are idle."""
    rows = torch.arange(len(new), device=new.device) if slots is None else slots.long()
    live = rows >= 0
    at = lengths[:, None] + torch.arange(new.shape[1], device=new.device)
    stored = quantise(new[live], cache.dtype, descale)
    if cache.dtype.itemsize == 1:  # fp8 can't be indexed everywhere; its bytes can
        cache, stored = cache.view(torch.uint8), stored.view(torch.uint8)
    cache[rows[live, None], at[live]] = stored


def quantise(x: Tensor, dtype: torch.dtype, descale: Tensor | None) -> Tensor:
    """x (..., Hkv, D) in a cache's dtype; fp8 is scaled per head and saturates."""
    if descale is not None:
        x = x.float() / descale[:, None]
    if dtype.itemsize == 1:
        largest = torch.finfo(dtype).max
        x = x.float().clamp(-largest, largest)
    return x.to(dtype)


def _uniform(call: Call, q: Tensor, k: Tensor, length: int) -> Tensor:
    k_cache, v_cache, slots, v = call.k_cache, call.v_cache, call.slots, call.v
    assert v is not None
    batch, new = q.shape[:2]
    end = length + new
    if slots is None:
        k_cache[:batch, length:end] = k
        v_cache[:batch, length:end] = v
        # Slicing to the live length matters on a CPU: attention over a padded cache would dominate a decode step.
        keys, values = k_cache[:batch, :end], v_cache[:batch, :end]
    else:
        k_cache[slots, length:end] = k.to(k_cache.dtype)
        v_cache[slots, length:end] = v.to(v_cache.dtype)
        keys, values = k_cache[slots, :end], v_cache[slots, :end]
    if new == 1:
        # One query sees everything, so the heads that share a key head can pose as so many queries of that head.
        grouped = q.reshape(batch, k.shape[2], -1, q.shape[3]).transpose(1, 2)
        return _sdpa(grouped, keys, values, None, scale=call.scale).transpose(1, 2).reshape(q.shape)
    if length == 0:
        return _sdpa(q, keys, values, None, scale=call.scale, causal=True)
    seen = torch.ones(new, end, dtype=torch.bool, device=q.device).tril(length)
    return _sdpa(q, keys, values, seen, scale=call.scale)


def _ragged(call: Call, q: Tensor, k: Tensor | None) -> Tensor:
    batch, queries = q.shape[:2]
    lengths = call.row_lengths().long()
    rows = torch.arange(batch, device=q.device) if call.slots is None else call.slots.long()
    total = (lengths + call.new)[:, None, None]
    end = int(total[:, 0, 0].where(rows >= 0, 0).max())
    call.check_room(end)
    if k is not None and call.v is not None:
        append(call.k_cache, k, lengths, call.slots, call.k_descale)
        append(call.v_cache, call.v, lengths, call.slots, call.v_descale)
    at = total - queries + torch.arange(queries, device=q.device)[:, None]  # (B, T, 1)
    keys_at = torch.arange(end, device=q.device)
    seen = (keys_at < total) & (rows >= 0)[:, None, None]
    left, right = call.window
    if left >= 0:
        seen = seen & (keys_at >= at - left)
    if right >= 0:
        seen = seen & (keys_at <= at + right)
    # What lies beyond a shorter row's end may be NaN, which a weight of zero would not silence.
    dead = (keys_at >= total).squeeze(1)[:, :, None, None]
    keys, values = (
        _read(cache, rows.clamp(min=0), end, descale).masked_fill(dead, 0)
        for cache, descale in ((call.k_cache, call.k_descale), (call.v_cache, call.v_descale))
    )
    out = _sdpa(q, keys, values, seen.expand(-1, queries, -1)[:, None], scale=call.scale)
    return out.masked_fill(~seen.any(-1)[:, :, None, None], 0)  # a query that sees nothing yields 0, not NaN


def _read(cache: Tensor, rows: Tensor, end: int, descale: Tensor | None) -> Tensor:
    if cache.dtype.itemsize > 1:
        return cache[rows, :end]
    live = cache.view(torch.uint8)[rows, :end].view(cache.dtype).float()
    return live if descale is None else live * descale[:, None]


def _sdpa(
    q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, scale: float, causal: bool = False
) -> Tensor:
    """SDPA in [batch, time, head, dim]. `causal` is its top-left mask: right for equal lengths only."""
    attended = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        keys.transpose(1, 2).to(q.dtype),
        values.transpose(1, 2).to(q.dtype),
        attn_mask=mask,
        is_causal=causal,
        scale=scale,
        enable_gqa=q.shape[2] != keys.shape[2],
    )
    return attended.transpose(1, 2)
