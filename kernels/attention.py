"""Attention over a key/value cache: one signature, the one of `flash_attn_with_kvcache`, whatever computes it.

Layouts are [batch, time, head, dim], the cache is [slot, time, kv head, dim]. Keys arrive rotated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cache_seqlens: int | Tensor,
    cache_batch_idx: Tensor | None = None,
) -> Tensor:
    """Append `k`, `v` to the cache in place, then let each query see its row's cache up to and including itself.

    q: (B, T, H, D); k, v: (B, T, Hkv, D) with Hkv dividing H; k_cache, v_cache: (S, capacity, Hkv, D).
    cache_seqlens: live length before the append, one int for every row or int (B,).
    cache_batch_idx: (B,) slot of each row; None when row b is slot b.
    Returns (B, T, H, D). The causal mask is aligned bottom-right: query t of a row sees length + t + 1 keys.
    Raises ValueError when the new keys do not fit into the cache.
    """
    if isinstance(cache_seqlens, int):
        return _uniform(q, k_cache, v_cache, k, v, length=cache_seqlens, slots=cache_batch_idx)
    return _ragged(q, k_cache, v_cache, k, v, lengths=cache_seqlens, slots=cache_batch_idx)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """Attention of whole sequences (B, H, T, D) without a cache, as training and offline runs want it.

    mask: bool broadcastable to (B, H, T, keys), True = may attend; causal: the same without one.
    Where gradients are wanted on a CPU it is computed by plain products: the fused kernel's backward pass takes three
    times as long there.
    """
    if not torch.is_grad_enabled() or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    attended: Tensor = scores.softmax(-1).to(v.dtype) @ v
    return attended


def _uniform(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, *, length: int, slots: Tensor | None
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
        return _sdpa(grouped, keys, values, None).transpose(1, 2).reshape(q.shape)
    if length == 0:
        return _sdpa(q, keys, values, None, causal=True)
    seen = torch.ones(new, end, dtype=torch.bool, device=q.device).tril(length)
    return _sdpa(q, keys, values, seen)


def _ragged(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, *, lengths: Tensor, slots: Tensor | None
) -> Tensor:
    batch, new = q.shape[:2]
    rows = torch.arange(batch, device=q.device) if slots is None else slots
    at = lengths[:, None] + torch.arange(new, device=q.device)  # (B, T) where each new key goes
    end = int(at.max()) + 1
    _check_room(end, k_cache)
    k_cache[rows[:, None], at] = k.to(k_cache.dtype)
    v_cache[rows[:, None], at] = v.to(v_cache.dtype)
    seen = torch.arange(end, device=q.device) <= at[:, :, None]  # (B, T, end)
    # What lies beyond a shorter row's end may be NaN, which a weight of zero would not silence.
    dead = ~seen[:, -1, :, None, None]
    keys, values = (c[rows, :end].masked_fill(dead, 0) for c in (k_cache, v_cache))
    return _sdpa(q, keys, values, seen[:, None])


def _check_room(end: int, cache: Tensor) -> None:
    if end > cache.shape[1]:
        raise ValueError(f"the key/value cache holds {cache.shape[1]} positions, {end} are needed")


def _sdpa(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    """SDPA, the reference, in [batch, time, head, dim]. `causal` is its top-left mask: right for equal lengths only."""
    attended = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        keys.transpose(1, 2).to(q.dtype),
        values.transpose(1, 2).to(q.dtype),
        attn_mask=mask,
        is_causal=causal,
        enable_gqa=q.shape[2] != keys.shape[2],
    )
    return attended.transpose(1, 2)
