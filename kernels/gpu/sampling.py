"""Draw a token for each row in one launch: class of allowed tokens, temperature, top-k, top-p, counter-based noise.

One program looks at one row's allowed logits. The k-th largest is found by bisecting over the order of floats, which
takes a dozen looks at values that stay in cache; the k survivors are few enough to compare all with all at once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch


@triton.jit
def _order(x):
    """fp32 as int32 that compares the same way."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _mix(x):
    """`noise._mix` on uint32."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _gumbel(key_low, key_high, position, channel):
    """Gumbel noise of `channel` (n,) at one position, as `noise.uniform_at` draws it."""
    low = (position & 0xFFFFFFFF).to(tl.uint32)
    high = ((position >> 32) & 0xFFFFFFFF).to(tl.uint32)
    first = _mix(_mix(low ^ key_low) ^ high)
    second = _mix(_mix(low ^ key_high) ^ high)
    word = _mix(_mix(first + channel.to(tl.uint32) * 0x9E3779B9) ^ second)
    uniform = ((word >> 9).to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -tl.log(-tl.log(uniform))


@triton.jit
def _scores(logits, seen, penalty, table, at, count):
    """Penalised logits and ids of a stretch of the allowed tokens; -inf beyond their end and for NaN."""
    inside = at < count
    ids = tl.load(table + at, mask=inside, other=0)
    value = tl.load(logits + ids, mask=inside, other=float("-inf")).to(tl.float32)
    if seen is not None:
        was = tl.load(seen + ids, mask=inside, other=0) != 0
        value = tl.where(was, tl.where(value > 0, value / penalty, value * penalty), value)
    return tl.where(value == value, value, float("-inf")), ids  # noqa: PLR0124 -- NaN has no place in an order


@triton.jit
def _store(out, table, token):
    """A row of NaN has no likeliest token; whoever indexes with what is drawn must not fall off the vocabulary."""
    tl.store(out, tl.where(token == 0x7FFFFFFF, tl.load(table), token).to(tl.int64))


@triton.jit
def sample_kernel(
    logits,
    table,
    counts,
    classes,
    keys,
    positions,
    temperatures,
    top_ks,
    top_ps,
    seen,
    seen_rows,
    penalties,
    scratch_scores,
    scratch_ids,
    out,
    logits_row,
    table_row,
    seen_row,
    keys_row,
    classes_row,
    positions_row,
    temperatures_row,
    top_ks_row,
    top_ps_row,
    penalties_row,
    CANDIDATES: tl.constexpr,
    MOST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row. Grid (B,). CANDIDATES: the largest k, MOST: the next power of two."""
    row = tl.program_id(0).to(tl.int64)
    kind = tl.load(classes + row * classes_row)
    count = tl.load(counts + kind)
    table += kind * table_row
    logits += row * logits_row
    penalty = 1.0
    if seen is not None:
        seen += tl.load(seen_rows + row) * seen_row
        penalty = tl.load(penalties + row * penalties_row)
    steps = tl.arange(0, BLOCK)

    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    top_id = tl.full((BLOCK,), 0x7FFFFFFF, tl.int32)
    for at in tl.range(0, count, BLOCK):
        value, ids = _scores(logits, seen, penalty, table, at + steps, count)
        better = value > top
        top_id = tl.where(better, ids, top_id)
        top = tl.where(better, value, top)
    highest = tl.max(top, 0)
    temperature = tl.load(temperatures + row * temperatures_row)
    if temperature <= 0.0:
        _store(out + row, table, tl.min(tl.where(top == highest, top_id, 0x7FFFFFFF), 0))
        return

    k = tl.load(top_ks + row * top_ks_row).to(tl.int32)
    k = tl.minimum(tl.minimum(tl.where(k > 0, k, CANDIDATES), CANDIDATES), count)
    # Largest threshold that at least k values reach: `low` is reached by enough of them, `high` by too few.
    low = tl.full((), -2147483648, tl.int64)
    high = tl.max(_order(tl.div_rn(top, temperature)), 0).to(tl.int64) + 1
    reached = count
    while (reached != k) & (high - low > 1):
        middle = (low + high) >> 1
        total = tl.zeros((BLOCK,), tl.int32)
        for at in tl.range(0, count, BLOCK):
            value, ids = _scores(logits, seen, penalty, table, at + steps, count)
            total += ((_order(tl.div_rn(value, temperature)) >= middle) & (at + steps < count)).to(tl.int32)
        found = tl.sum(total, 0)
        enough = found >= k
        reached = tl.where(enough, found, reached)
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    total = tl.zeros((BLOCK,), tl.int32)
    for at in tl.range(0, count, BLOCK):
        value, ids = _scores(logits, seen, penalty, table, at + steps, count)
        total += ((_order(tl.div_rn(value, temperature)) > low) & (at + steps < count)).to(tl.int32)
    ties = k - tl.sum(total, 0)  # how many of those at the threshold still fit

    scratch_scores += row * MOST
    scratch_ids += row * MOST
    taken = 0
    tied = 0
    for at in tl.range(0, count, BLOCK):
        value, ids = _scores(logits, seen, penalty, table, at + steps, count)
        value = tl.div_rn(value, temperature)
        order = _order(value)
        inside = at + steps < count
        equal = (order == low) & inside
        rank = tied + tl.cumsum(equal.to(tl.int32), 0) - 1
        accept = ((order > low) & inside) | (equal & (rank < ties))
        spot = taken + tl.cumsum(accept.to(tl.int32), 0) - 1
        tl.store(scratch_scores + spot, value, mask=accept & (spot < MOST))
        tl.store(scratch_ids + spot, ids, mask=accept & (spot < MOST))
        taken += tl.sum(accept.to(tl.int32), 0)
        tied += tl.sum(equal.to(tl.int32), 0)
    tl.debug_barrier()  # the block reads what other threads of it wrote

    n = tl.arange(0, MOST)
    score = tl.load(scratch_scores + n, mask=n < taken, other=float("-inf"))
    ids = tl.load(scratch_ids + n, mask=n < taken, other=0)
    mass = tl.exp(score - highest / temperature)
    mass = mass / tl.sum(mass, 0)
    other = tl.load(scratch_scores + n, mask=n < taken, other=float("-inf"))
    first = (other[None, :] > score[:, None]) | ((other[None, :] == score[:, None]) & (n[None, :] < n[:, None]))
    weights = tl.exp(other - highest / temperature)
    weights = weights / tl.sum(weights, 0)
    before = tl.sum(tl.where(first, weights[None, :], 0.0), 1)
    top_p = tl.load(top_ps + row * top_ps_row)
    kept = (n < taken) & (before < tl.where(top_p < 1.0, top_p, 2.0))
    key_low = tl.load(keys + row * keys_row).to(tl.uint32)
    key_high = tl.load(keys + row * keys_row + 1).to(tl.uint32)
    position = tl.load(positions + row * positions_row).to(tl.int64) + tl.zeros((MOST,), tl.int64)
    noisy = tl.where(kept, score + _gumbel(key_low, key_high, position, ids), float("-inf"))
    chosen = noisy == tl.max(noisy, 0)
    _store(out + row, table, tl.min(tl.where(chosen, ids, 0x7FFFFFFF), 0))


def run(
    logits: Tensor,
    table: Tensor,
    counts: Tensor,
    classes: Tensor,
    *,
    keys: Tensor,
    positions: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    candidates: int,
    seen: Tensor | None,
    seen_rows: Tensor | None,
    penalty: Tensor | None,
) -> Tensor:
    """`sampling.sample` with its classes as ascending ids: table int32 (classes, widest), counts int32 (classes,)."""
    rows = len(logits)
    most = triton.next_power_of_2(candidates)
    scores = torch.empty(rows, most, dtype=torch.float32, device=logits.device)
    ids = torch.empty(rows, most, dtype=torch.int32, device=logits.device)
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    launch.start(
        sample_kernel,
        (rows,),
        logits,
        table,
        counts,
        classes,
        keys,
        positions,
        temperature,
        top_k,
        top_p,
        seen,
        seen_rows,
        penalty,
        scores,
        ids,
        out,
        logits.stride(0),
        table.stride(0),
        0 if seen is None else seen.stride(0),
        keys.stride(0),
        *(each.stride(0) for each in (classes, positions, temperature, top_k, top_p)),
        0 if penalty is None else penalty.stride(0),
        CANDIDATES=candidates,
        MOST=most,
        BLOCK=2048,
        num_warps=8,
    )
    return out
