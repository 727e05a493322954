"""The cache attention against a loop in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechgpt_gen.kernels.attention import attend, attention_with_kvcache


def reference(q: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    """One row in fp64: q (T, H, D) over keys, values (length + T, Hkv, D), query t sees length + t + 1 keys."""
    group = q.shape[1] // keys.shape[1]
    out = torch.empty_like(q, dtype=torch.float64)
    for t in range(q.shape[0]):
        for h in range(q.shape[1]):
            seen = keys[: length + t + 1, h // group].double()
            weights = torch.softmax(seen @ q[t, h].double() / q.shape[2] ** 0.5, dim=0)
            out[t, h] = weights @ values[: length + t + 1, h // group].double()
    return out


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    new=st.integers(1, 5),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    uniform=st.booleans(),
    shuffled=st.booleans(),
)
def test_equals_fp64(  # noqa: PLR0917
    lengths: list[int], new: int, kv_heads: int, group: int, uniform: bool, shuffled: bool
) -> None:
    batch, dim, slots, capacity = len(lengths), 4, 5, 16
    if uniform:
        lengths = [lengths[0]] * batch
    rows = torch.randperm(slots)[:batch] if shuffled else torch.arange(batch)
    k_cache = torch.full((slots, capacity, kv_heads, dim), torch.nan)
    v_cache = k_cache.clone()
    for row, length in zip(rows, lengths, strict=True):
        k_cache[row, :length] = torch.randn(length, kv_heads, dim)
        v_cache[row, :length] = torch.randn(length, kv_heads, dim)
    q = torch.randn(batch, new, kv_heads * group, dim)
    k, v = torch.randn(2, batch, new, kv_heads, dim)
    other = [s for s in range(slots) if s not in rows.tolist()]
    out = attention_with_kvcache(
        q,
        k_cache,
        v_cache,
        k,
        v,
        cache_seqlens=lengths[0] if uniform else torch.tensor(lengths),
        cache_batch_idx=rows if shuffled else None,
        causal=True,
    )
    assert k_cache[other].isnan().all(), "a slot of somebody else was written"
    for b, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        torch.testing.assert_close(k_cache[row, length : length + new], k[b])
        torch.testing.assert_close(v_cache[row, length : length + new], v[b])
        assert k_cache[row, length + new :].isnan().all()
        expected = reference(q[b], k_cache[row], v_cache[row], length)
        torch.testing.assert_close(out[b].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [3, torch.tensor([3, 1])])
def test_refuses_what_does_not_fit(lengths: int | Tensor) -> None:
    cache = torch.zeros(2, 4, 1, 2)
    new = torch.zeros(2, 2, 1, 2)
    with pytest.raises(ValueError, match="holds 4 positions, 5 are needed"):
        attention_with_kvcache(new, cache, cache.clone(), new, new, cache_seqlens=lengths, causal=True)


def test_sixteen_bit_cache_under_fp32_queries() -> None:
    q, k, v = torch.randn(3, 1, 3, 2, 8)
    cache = torch.zeros(1, 3, 2, 8, dtype=torch.bfloat16)
    out = attention_with_kvcache(q, cache, cache.clone(), k, v, cache_seqlens=0, causal=True)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[0].double(), reference(q[0], k[0], v[0], 0), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_gradients_equals_attention_without(causal: bool) -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 8, requires_grad=True).unbind(0)
    mask = None if causal else torch.rand(2, 1, 7, 7) < 0.7
    if mask is not None:
        mask |= torch.eye(7, dtype=torch.bool)
    plain = attend(q, k, v, mask, causal=causal)
    with torch.no_grad():
        fused = attend(q, k, v, mask, causal=causal)
    assert plain.requires_grad
    torch.testing.assert_close(plain, fused, atol=1e-6, rtol=1e-5)
