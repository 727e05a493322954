"""Attention over a key/value cache: one signature, the one of `flash_attn_with_kvcache`, whatever computes it.

Layouts are [batch, time, head, dim], the cache is [slot, time, kv head, dim]. Who computes is chosen in `selection`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import attention_flash, attention_sdpa
from .attention_call import Call
from .selection import attention_backend, say_once


def attention_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    *,
    cache_seqlens: int | Tensor,
    cache_batch_idx: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    rotary_interleaved: bool = False,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
    num_splits: int = 0,
    counters: Tensor | None = None,
) -> Tensor:
    """Append `k`, `v` to the cache in place, then let each query see its row's live keys.

    q: (B, T, H, D); k, v: (B, T, Hkv, D) with Hkv dividing H, or neither, to look only; k_cache, v_cache: (S, capacity,
    Hkv, D) in q's dtype, or float8_e4m3fn. Any of them may be a strided view as long as D is contiguous.
    cache_seqlens: live length before the append, one int for every row or int32 (B,) on the device.
    cache_batch_idx: int32 (B,) slot of each row; None when row b is slot b. A negative slot marks an idle row: nothing
    is written and its output is 0.
    rotary_cos, rotary_sin: (positions, D / 2) fp32 tables (`rotary.rotary_tables`): rotate q and k on the way, key t
    and query t of a row to its length + t (without a causal mask or a window, all queries to its length).
    softmax_scale: of q @ k, D ** -0.5 by default.
    causal: aligned bottom-right: query t of T sees all but the last T - 1 - t keys.
    window_size: (left, right) keys that a query sees besides its own; -1: any number.
    k_descale, v_descale: fp32 (Hkv,) what a float8 cache's values are worth.
    num_splits, counters: hints to our Triton kernel, see `gpu.attention.run`; others don't need them.
    Returns (B, T, H, D). Raises ValueError when the new keys do not fit into the cache and the host can know; else
    what does not fit is dropped.
    """
    if (k is None) != (v is None):
        raise ValueError("new keys and new values come together: give both or neither")
    if (rotary_cos is None) != (rotary_sin is None):
        raise ValueError("rotary_cos and rotary_sin come together: give both or neither")
    if rotary_cos is not None and k is None:
        raise ValueError("rotary tables turn new keys: give k and v, or rotate q beforehand")
    call = Call(
        q,
        k_cache,
        v_cache,
        k,
        v,
        rotary=None if rotary_cos is None or rotary_sin is None else (rotary_cos, rotary_sin),
        interleaved=rotary_interleaved,
        lengths=cache_seqlens,
        slots=cache_batch_idx,
        scale=q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale,
        causal=causal,
        window=(window_size[0], 0 if causal else window_size[1]),
        k_descale=k_descale,
        v_descale=v_descale,
        num_splits=num_splits,
        counters=counters,
    )
    call.check()
    backend = attention_backend(q.device)
    if backend == "flash":
        refusal = attention_flash.refusal(call)
        if refusal is None:
            return attention_flash.run(call)
        say_once(f"attention falls back to our Triton kernel: {refusal}")
        backend = "triton"  # flash-attn is chosen only where ours runs as well
    if backend == "triton":
        from .gpu import attention as ours  # not every machine has triton

        refusal = ours.refusal(call)
        if refusal is None:
            return ours.run(call)
        say_once(f"attention falls back to torch: {refusal}")
    return attention_sdpa.run(call)


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


def attend_packed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, piece: int = 192) -> Tensor:
    """`attend` for queries, keys and values (B, H, T, D) under a `mask` (B, 1, T, T) that shows nobody what is later.

    A CPU takes so many queries at a time and leaves out the keys after them: a third of the work on rows of 768.
    """
    if q.is_cuda:
        return attend(q, k, v, mask)
    made: list[Tensor] = []
    for start in range(0, q.shape[2], piece):
        end = min(start + piece, q.shape[2])
        made.append(attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], mask[:, :, start:end, :end]))
    return torch.cat(made, dim=2)
