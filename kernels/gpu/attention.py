"""Split-KV attention over a cache: one kernel that rotates, appends, attends and reduces.

A decode step is bound by reading the cache, so the live keys of each head are cut into a fixed number of splits that
read side by side; how long a split is follows from the row's length, on the device. The last split to arrive adds up
what all of them left, always in the same order: no second launch, and the result does not depend on timing. Nothing is
read by the host and no shape depends on a length, so one CUDA graph serves every length, and since the number of splits
does not depend on the batch, a row's result doesn't either.

With one new token per row, its key never takes the way through memory: each split has rotated the query by itself and
the last split counts the new key in. With more (prefill), a small kernel appends first.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..attention_call import Call
from . import launch
from .append import append, rotated, stored

_HEAD_DIMS: Final = (16, 32, 64, 128, 256)
_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
_TRITON: Final = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
_LEAST_M, _MOST_M = 16, 64  # queries of one program: what a tensor core takes at least, what registers hold
_BLOCK_N: Final = 64  # keys of one step
_CTAS: Final = 256  # about two for each of an H100's 132 multiprocessors


@triton.jit
def attend_kernel(
    q,
    k,
    v,
    k_cache,
    v_cache,
    out,
    partial,
    stats,
    counters,
    lengths,
    slots,
    cos,
    sin,
    k_descale,
    v_descale,
    scale_log2,
    capacity,
    last_position,
    q_row,
    q_time,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    kc_slot,
    kc_time,
    kc_head,
    vc_slot,
    vc_time,
    vc_head,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    T: tl.constexpr,
    NEW: tl.constexpr,
    FRESH: tl.constexpr,
    CAUSAL: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """One split of the keys of one key head, for M of the T x GROUP queries that share it.

    Grid (SPLITS, HEADS x blocks of M queries, B). NEW: new tokens per row, counted into the row's length; FRESH: the
    one new token is appended here. LEFT, RIGHT: window, -1 = open. ROWS: min(M, T x GROUP), rows of scratch per split.
    PRODUCT: dtype of the products' factors.
    """
    split, row = tl.program_id(0), tl.program_id(2)
    head = tl.program_id(1) % HEADS
    block = tl.program_id(1) // HEADS
    slot = row.to(tl.int64)
    if slots is not None:
        slot = tl.load(slots + row).to(tl.int64)
    r = block * M + tl.arange(0, M)
    t = r // GROUP
    keep = r < T * GROUP
    d = tl.arange(0, D)
    query_head = head * GROUP + r % GROUP
    to = out + ((row.to(tl.int64) * T + t) * (HEADS * GROUP) + query_head)[:, None] * D + d
    if slot < 0:
        if split == 0:
            tl.store(to, tl.zeros((M, D), out.dtype.element_ty), mask=keep[:, None])
        return

    before = tl.load(lengths + row).to(tl.int32)
    total = tl.minimum(before + NEW, capacity)
    position = total - T + t
    start_at = before
    if CAUSAL or LEFT >= 0 or RIGHT >= 0:
        angle_at = tl.minimum(start_at + t, last_position)
    else:
        angle_at = tl.minimum(start_at, last_position) + tl.zeros_like(t)
    from_q = row.to(tl.int64) * q_row + t * q_time + query_head * q_head
    query = rotated(q, from_q, angle_at, cos, sin, keep, D, INTERLEAVED).to(q.dtype.element_ty).to(PRODUCT)
    scale = scale_log2
    if k_descale is not None:
        scale *= tl.load(k_descale + head)

    last_t = tl.minimum((block * M + M - 1) // GROUP, T - 1)
    end = total
    if CAUSAL:
        end = tl.minimum(end, total - T + last_t + 1)
    elif RIGHT >= 0:  # causal is RIGHT = 0, but its mask is not needed for one query
        end = tl.minimum(end, total - T + last_t + RIGHT + 1)
    if FRESH:
        end = tl.minimum(end, before)
    begin = 0
    if LEFT >= 0:
        begin = tl.maximum(total - T + (block * M) // GROUP - LEFT, 0) // N * N
    length = tl.cdiv(tl.cdiv(tl.maximum(end - begin, 0), SPLITS), N) * N
    begin += split * length
    end = tl.minimum(begin + length, end)

    best = tl.full((M,), float("-inf"), tl.float32)
    weight = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, D), tl.float32)
    if FRESH:  # a constant: nested, so that nothing of it is compiled elsewhere
        if split == SPLITS - 1:
            one = tl.arange(0, 1)
            mine = one >= 0
            from_k = row.to(tl.int64) * k_row + head * k_head + one
            new_at = tl.minimum(before, last_position) + one
            key = rotated(k, from_k, new_at, cos, sin, mine, D, INTERLEAVED).to(k.dtype.element_ty)
            value = tl.load(v + row.to(tl.int64) * v_row + head * v_head + one[:, None] + d)
            key = stored(key.to(tl.float32), k_descale, head + one, mine, k_cache.dtype.element_ty)
            value = stored(value.to(tl.float32), v_descale, head + one, mine, v_cache.dtype.element_ty)
            fits = (before + one < capacity)[:, None]
            time = before.to(tl.int64)
            tl.store(k_cache + slot * kc_slot + time * kc_time + head * kc_head + one[:, None] + d, key, mask=fits)
            tl.store(v_cache + slot * vc_slot + time * vc_time + head * vc_head + one[:, None] + d, value, mask=fits)
            best = tl.sum(query.to(tl.float32) * key.to(tl.float32), 1) * scale
            weight += 1.0
            acc += value.to(tl.float32)

    from_k_cache = k_cache + slot * kc_slot + head * kc_head + d[None, :]
    from_v_cache = v_cache + slot * vc_slot + head * vc_head + d[None, :]
    for first in tl.range(begin, end, N):
        n = first + tl.arange(0, N)
        live = (n < end)[:, None]
        keys = tl.load(from_k_cache + n[:, None].to(tl.int64) * kc_time, mask=live, other=0.0).to(PRODUCT)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
        seen = (n < end)[None, :]
        if CAUSAL and T > 1:
            seen = seen & (n[None, :] <= position[:, None])
        elif RIGHT >= 0:
            seen = seen & (n[None, :] <= position[:, None] + RIGHT)
        if LEFT >= 0:
            seen = seen & (n[None, :] >= position[:, None] - LEFT)
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(scores - shift[:, None])
        fade = tl.exp2(best - shift)
        weight = weight * fade + tl.sum(p, 1)
        values = tl.load(from_v_cache + n[:, None].to(tl.int64) * vc_time, mask=live, other=0.0).to(PRODUCT)
        acc = tl.dot(p.to(PRODUCT), values, acc * fade[:, None], input_precision="ieee")
        best = higher

    if SPLITS > 1:
        team = row * tl.num_programs(1) + tl.program_id(1)
        local = tl.arange(0, M)
        scratch = team.to(tl.int64) * (SPLITS * ROWS)
        tl.store(stats + (scratch + split * ROWS + local) * 2, best, mask=keep)
        tl.store(stats + (scratch + split * ROWS + local) * 2 + 1, weight, mask=keep)
        tl.store(partial + (scratch + split * ROWS + local)[:, None] * D + d, acc, mask=keep[:, None])
        tl.debug_barrier()  # the whole block has written before its one thread says so
        if tl.atomic_add(counters + team, 1, sem="acq_rel") != SPLITS - 1:
            return
        tl.debug_barrier()
        tl.store(counters + team, 0)  # ready for the next launch
        if ROWS <= 8:  # all splits of a query at once: one wait for memory
            s = tl.arange(0, SPLITS)
            for one in tl.static_range(ROWS):
                if block * M + one < T * GROUP:
                    its = scratch + s * ROWS + one
                    bests = tl.load(stats + its * 2, cache_modifier=".cg")
                    weights = tl.load(stats + its * 2 + 1, cache_modifier=".cg")
                    parts = tl.load(partial + its[:, None] * D + d, cache_modifier=".cg")
                    top = tl.max(bests, 0)
                    share = tl.exp2(bests - tl.where(top == float("-inf"), 0.0, top))
                    whole = tl.sum(parts * share[:, None], 0)
                    norm = tl.sum(weights * share, 0)
                    whole = whole / tl.where(norm == 0.0, 1.0, norm)
                    if v_descale is not None:
                        whole *= tl.load(v_descale + head)
                    number = block * M + one
                    target = (row.to(tl.int64) * T + number // GROUP) * (HEADS * GROUP) + head * GROUP
                    tl.store(out + (target + number % GROUP) * D + d, whole.to(out.dtype.element_ty))
        else:
            best = tl.full((M,), float("-inf"), tl.float32)
            weight = tl.zeros((M,), tl.float32)
            acc = tl.zeros((M, D), tl.float32)
            for other in tl.range(0, SPLITS):
                its = scratch + other * ROWS + local
                theirs = tl.load(stats + its * 2, mask=keep, other=float("-inf"), cache_modifier=".cg")
                weights = tl.load(stats + its * 2 + 1, mask=keep, other=0.0, cache_modifier=".cg")
                parts = tl.load(partial + its[:, None] * D + d, mask=keep[:, None], other=0.0, cache_modifier=".cg")
                higher = tl.maximum(best, theirs)
                shift = tl.where(higher == float("-inf"), 0.0, higher)
                fade = tl.exp2(best - shift)
                share = tl.exp2(theirs - shift)
                weight = weight * fade + weights * share
                acc = acc * fade[:, None] + parts * share[:, None]
                best = higher
    if SPLITS == 1 or ROWS > 8:
        acc = acc / tl.where(weight == 0.0, 1.0, weight)[:, None]
        if v_descale is not None:
            acc *= tl.load(v_descale + head)
        tl.store(to, acc.to(out.dtype.element_ty), mask=keep[:, None])


def refusal(call: Call) -> str | None:
    """Why the kernel can't compute this, in one line; None when it can."""
    if call.q.shape[-1] not in _HEAD_DIMS:
        return f"head dim {call.q.shape[-1]} is none of {', '.join(map(str, _HEAD_DIMS))}"
    if call.q.dtype not in _DTYPES:
        return f"queries are {call.q.dtype}"
    if call.k_cache.dtype not in (*_DTYPES, torch.float8_e4m3fn) or call.v_cache.dtype != call.k_cache.dtype:
        return f"the caches are {call.k_cache.dtype} and {call.v_cache.dtype}"
    native = not call.q.is_cuda or torch.cuda.get_device_capability(call.q.device) >= (8, 9)
    if call.k_cache.dtype == torch.float8_e4m3fn and not native:
        return "a float8 cache needs compute capability 8.9 or newer"
    return None


def splits(queries: int, kv_heads: int, capacity: int) -> int:
    """How many ways a head's keys are cut, for `queries` = T x H / Hkv queries per key head: a power of two <= 32.

    Enough to fill a GPU with one row, and never a matter of the batch, so that a row's result isn't either.
    """
    teams = kv_heads * -(-queries // _MOST_M)
    wanted = min(_CTAS // teams, -(-capacity // _BLOCK_N), 32 if queries <= 8 else 8)
    return 1 << max(wanted, 1).bit_length() - 1


def counters(device: torch.device, rows: int, queries: int, kv_heads: int) -> Tensor:
    """Zeros for `run`'s argument of that name: rows B, queries T x H / Hkv per key head."""
    return torch.zeros(rows * kv_heads * -(-queries // _LEAST_M), dtype=torch.int32, device=device)


def run(call: Call) -> Tensor:
    """Compute the call.

    num_splits: a power of two that replaces `splits(...)`. counters: int32 zeros, one per row, key head and block of
    queries (`counters(...)`), zero again when the call is done. Without them each call clears its own, which costs a
    launch; calls that may overlap in time need their own.
    """
    q, k_cache, v_cache = call.q, call.k_cache, call.v_cache
    rows, times, heads, dim = q.shape
    capacity, kv_heads = k_cache.shape[1:3]
    lengths = call.row_lengths()
    cos, sin = call.rotary or (None, None)
    k, v = (call.k, call.v) if times == 1 else (None, None)
    if call.k is not None and k is None:
        append(call, lengths)
    light = k_cache.dtype == torch.float8_e4m3fn
    queries = times * heads // kv_heads
    # Products in fp32 are no tensor core's: larger blocks would only spill.
    block_m = min(max(triton.next_power_of_2(queries), _LEAST_M), _LEAST_M if q.dtype == torch.float32 else _MOST_M)
    teams = kv_heads * -(-queries // block_m)
    count = call.num_splits or splits(queries, kv_heads, capacity)
    partial = stats = ready = None
    if count > 1:
        scratch = rows * teams * count * min(block_m, queries)
        partial = torch.empty(scratch * dim, dtype=torch.float32, device=q.device)
        stats = torch.empty(scratch * 2, dtype=torch.float32, device=q.device)
        ready = call.counters if call.counters is not None else counters(q.device, rows, queries, kv_heads)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    launch.start(
        attend_kernel,
        (count, teams, rows),
        q,
        k,
        v,
        k_cache,
        v_cache,
        out,
        partial,
        stats,
        ready,
        lengths,
        call.slots,
        cos,
        sin,
        call.k_descale,
        call.v_descale,
        call.scale * 1.4426950408889634,
        capacity,
        0 if cos is None else len(cos) - 1,
        *q.stride()[:3],
        *((0, 0) if k is None else (k.stride(0), k.stride(2))),
        *((0, 0) if v is None else (v.stride(0), v.stride(2))),
        *k_cache.stride()[:3],
        *v_cache.stride()[:3],
        HEADS=kv_heads,
        GROUP=heads // kv_heads,
        T=times,
        NEW=call.new,
        FRESH=k is not None,
        CAUSAL=call.causal,
        LEFT=call.window[0],
        RIGHT=call.window[1],
        INTERLEAVED=call.interleaved,
        SPLITS=count,
        ROWS=min(block_m, queries),
        M=block_m,
        N=_BLOCK_N if q.dtype.itemsize == 2 and dim <= 128 else _BLOCK_N // 2,
        D=dim,
        # fp8 widens to fp16 in one instruction for two values, to bf16 in four; queries and weights fit fp16 as well.
        PRODUCT=_TRITON[torch.float16 if light and q.dtype == torch.bfloat16 else q.dtype],
        num_warps=4,
        num_stages=3 if dim <= 128 else 2,
    )
    return out
