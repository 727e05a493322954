"""Attention over a cache by torch's SDPA: what a CPU runs, and what every other back end is held against.

It looks at the lengths on the host, so it can't be captured into a CUDA graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .rotary import rotate


def run(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    *,
    rotary: tuple[Tensor, Tensor] | None,
    interleaved: bool,
    lengths: int | Tensor,
    slots: Tensor | None,
    scale: float,
    causal: bool,
    window: tuple[int, int],
    k_descale: Tensor | None,
    v_descale: Tensor | None,
) -> Tensor:
    """`attention_with_kvcache` with its arguments checked and completed."""
    if rotary is not None:
        at = lengths if isinstance(lengths, int) else lengths[:, None]
        steps = torch.arange(q.shape[1], device=q.device)
        local = causal or window != (-1, -1)
        q = rotate(q, rotary, at + steps if local else at + 0 * steps, interleaved)
        k = k if k is None else rotate(k, rotary, at + steps, interleaved)
    plain = causal and window == (-1, -1) and k_descale is None and v_descale is None
    if plain and isinstance(lengths, int) and k is not None and v is not None:
        return _uniform(q, k_cache, v_cache, k, v, length=lengths, slots=slots, scale=scale)
    if isinstance(lengths, int):
        lengths = torch.full((len(q),), lengths, device=q.device)
    return _ragged(
        q,
        k_cache,
        v_cache,
        k,
        v,
        lengths=lengths.long(),
        slots=slots,
        scale=scale,
        bounds=(window[0], 0 if causal else window[1]),
        descales=(k_descale, v_descale),
    )


def append(cache: Tensor, new: Tensor, lengths: Tensor, slots: Tensor | None, descale: Tensor | None = None) -> None:
    """Write `new` (B, T, Hkv, D) into the slots of `cache` from `lengths` (B,) on; rows of a negative slot are idle."""
    rows = torch.arange(len(new), device=new.device) if slots is None else slots
    live = rows >= 0
    at = lengths[:, None] + torch.arange(new.shape[1], device=new.device)
    cache[rows[live, None], at[live]] = quantise(new[live], cache.dtype, descale)


def quantise(x: Tensor, dtype: torch.dtype, descale: Tensor | None) -> Tensor:
    """x (..., Hkv, D) in a cache's dtype; fp8 is scaled per head and saturates."""
    if descale is not None:
        x = x.float() / descale[:, None]
    if dtype.itemsize == 1:
        largest = torch.finfo(dtype).max
        x = x.float().clamp(-largest, largest)
    return x.to(dtype)


def _uniform(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    length: int,
    slots: Tensor | None,
    scale: float,
) -> Tensor:
    batch, new = q.shape[:2]
    end = length + new
    _check_room(end, k_cache)
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
        grouped = q.view(batch, k.shape[2], -1, q.shape[3]).transpose(1, 2)
        return _sdpa(grouped, keys, values, None, scale=scale).transpose(1, 2).reshape(q.shape)
    if length == 0:
        return _sdpa(q, keys, values, None, scale=scale, causal=True)
    seen = torch.ones(new, end, dtype=torch.bool, device=q.device).tril(length)
    return _sdpa(q, keys, values, seen, scale=scale)


def _ragged(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    *,
    lengths: Tensor,
    slots: Tensor | None,
    scale: float,
    bounds: tuple[int, int],
    descales: tuple[Tensor | None, Tensor | None],
) -> Tensor:
    batch, queries = q.shape[:2]
    rows = torch.arange(batch, device=q.device) if slots is None else slots.long()
    total = lengths
    if k is not None and v is not None:
        total = lengths + queries
        _check_room(_longest(total, rows), k_cache)
        append(k_cache, k, lengths, slots, descales[0])
        append(v_cache, v, lengths, slots, descales[1])
    end = _longest(total, rows)
    _check_room(end, k_cache)
    at = (total - queries)[:, None, None] + torch.arange(queries, device=q.device)[:, None]  # (B, T, 1)
    keys_at = torch.arange(end, device=q.device)
    seen = (keys_at < total[:, None, None]).expand(-1, queries, -1)
    left, right = bounds
    if left >= 0:
        seen = seen & (keys_at >= at - left)
    if right >= 0:
        seen = seen & (keys_at <= at + right)
    seen = seen & (rows >= 0)[:, None, None]
    # What lies beyond a shorter row's end may be NaN, which a weight of zero would not silence.
    dead = (keys_at >= total[:, None])[:, :, None, None]
    caches = zip((k_cache, v_cache), descales, strict=True)
    keys, values = (_read(cache, rows.clamp(min=0), end, descale).masked_fill(dead, 0) for cache, descale in caches)
    out = _sdpa(q, keys, values, seen[:, None], scale=scale)
    return out.masked_fill(~seen.any(-1)[:, :, None, None], 0)  # a query that sees nothing yields 0, not NaN


def _read(cache: Tensor, rows: Tensor, end: int, descale: Tensor | None) -> Tensor:
    if cache.dtype.itemsize == 1:  # fp8 has no indexing on every device
        live = cache.view(torch.uint8)[rows, :end].view(cache.dtype).float()
        return live if descale is None else live * descale[:, None]
    return cache[rows, :end]


def _longest(total: Tensor, rows: Tensor) -> int:
    return int(total.where(rows >= 0, 0).max())


def _check_room(end: int, cache: Tensor) -> None:
    if end > cache.shape[1]:
        raise ValueError(f"the key/value cache holds {cache.shape[1]} positions, {end} are needed")


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
