"""Every back end of cache attention on random ragged slots, against loops in fp64.

On the GPU where there is one; else Triton's interpreter stands in, in fp32 alone: its bf16 is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from speechgpt_gen.kernels import attention, attention_flash
from speechgpt_gen.kernels.attention import attention_with_kvcache
from speechgpt_gen.kernels.attention_sdpa import quantise
from speechgpt_gen.kernels.rotary import rotary_tables, rotate
from speechgpt_gen.kernels.selection import attention_backend, triton_refusal, using

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPES = [torch.float32, torch.bfloat16] if GPU else [torch.float32]


@dataclass
class Case:
    """One call: its arguments, the caches it may write, and its rows' lengths."""

    q: Tensor
    k: Tensor | None
    v: Tensor | None
    k_cache: Tensor
    v_cache: Tensor
    options: dict[str, Any]
    lengths: list[int]
    rows: list[int]
    before: tuple[Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.before = (self.k_cache.clone(), self.v_cache.clone())

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Output, key cache and value cache in fp64, by loops over rows, heads and queries."""
        keys, values = (self._live(cache, self.options.get(d)) for cache, d in zip(self.before, _DESCALES, strict=True))
        out = torch.zeros(self.q.shape, dtype=torch.float64)
        group = self.q.shape[2] // self.k_cache.shape[2]
        left, right = self.options.get("window_size", (-1, -1))
        right = 0 if self.options.get("causal") else right
        for b, (row, length) in enumerate(zip(self.rows, self.lengths, strict=True)):
            if row < 0:
                continue
            q, total = self.q[b].cpu().double(), length
            if self.k is not None:
                assert self.v is not None
                total += self.q.shape[1]
                k, v = self.k[b].cpu(), self.v[b].cpu()
                if "rotary_cos" in self.options:
                    tables = (self.options["rotary_cos"].cpu(), self.options["rotary_sin"].cpu())
                    at = torch.arange(length, total)
                    inter = self.options.get("rotary_interleaved", False)
                    k = rotate(k[None], tables, at, inter)[0]
                    q = rotate(
                        self.q[b : b + 1].cpu(), tables, at if left >= 0 or right >= 0 else 0 * at + length, inter
                    )[0].double()
                keys[row, length:total] = self._stored(k, self.options.get("k_descale"))
                values[row, length:total] = self._stored(v, self.options.get("v_descale"))
            scale = self.options.get("softmax_scale", self.q.shape[3] ** -0.5)
            for t in range(self.q.shape[1]):
                at = total - self.q.shape[1] + t
                first = max(at - left, 0) if left >= 0 else 0
                last = min(at + right + 1, total) if right >= 0 else total
                for h in range(self.q.shape[2] if last > first else 0):
                    weights = torch.softmax(keys[row, first:last, h // group] @ q[t, h] * scale, dim=0)
                    out[b, t, h] = weights @ values[row, first:last, h // group]
        return out, keys, values

    def _stored(self, x: Tensor, descale: Tensor | None) -> Tensor:
        return self._live(quantise(x, self.k_cache.dtype, None if descale is None else descale.cpu()), descale)

    @staticmethod
    def _live(x: Tensor, descale: Tensor | None) -> Tensor:
        x = x.cpu().float().double()
        return x if descale is None else x * descale.cpu().double()[:, None]


_DESCALES = ("k_descale", "v_descale")


def make(
    lengths: list[int],
    *,
    new: int = 1,
    queries: int | None = None,
    kv_heads: int = 2,
    group: int = 1,
    dim: int = 16,
    capacity: int = 96,
    spare: int = 2,
    idle: tuple[int, ...] = (),
    slots: bool = True,
    rotary: bool = False,
    fp8: bool = False,
    joined: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
    **options: Any,
) -> Case:
    """A call over random caches in which all that is not live is NaN.

    joined: q, k and v are views of one projection's output, as in the model.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, heads, times = len(lengths), kv_heads * group, queries or new
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    rows = torch.randperm(batch + spare, generator=generator)[:batch].tolist() if slots else list(range(batch))
    cache_dtype = torch.float8_e4m3fn if fp8 else dtype
    caches = []
    for _ in range(2):
        cache = torch.full((batch + spare, capacity, kv_heads, dim), torch.nan)
        for row, length in zip(rows, lengths, strict=True):
            cache[row, :length] = draw(length, kv_heads, dim)
        caches.append(cache.to(cache_dtype).to(device))
    if joined:
        projected = draw(batch, times, heads + 2 * kv_heads, dim).to(dtype).to(device)
        q, k, v = projected.split([heads, kv_heads, kv_heads], dim=2)
    else:
        q = draw(batch, times, heads, dim).to(dtype).to(device)
        k, v = (draw(batch, times, kv_heads, dim).to(dtype).to(device) for _ in range(2))
    rows = [-1 if b in idle else row for b, row in enumerate(rows)]
    options["cache_seqlens"] = torch.tensor(lengths, dtype=torch.int32, device=device)
    if slots:
        options["cache_batch_idx"] = torch.tensor(rows, dtype=torch.int32, device=device)
    if rotary:
        options["rotary_cos"], options["rotary_sin"] = rotary_tables(capacity, dim, 10000.0, device)
    if fp8:
        for name in _DESCALES:
            options[name] = 2.0 ** torch.randint(-1, 2, (kv_heads,), generator=generator).to(device)
        # Values of the cache's own grid: the interpreter rounds some others wrong where the exponent grows.
        k, v = (
            quantise(x, cache_dtype, None).to(dtype) * options[name][:, None].to(dtype)
            for x, name in zip((k, v), _DESCALES, strict=True)
        )
    gone = queries is not None
    return Case(q, None if gone else k, None if gone else v, *caches, options, lengths, rows)


@pytest.fixture(params=["triton", "flash", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each back end that this machine has."""
    with using(request.param):
        if attention_backend(DEVICE) != request.param:
            refusal = triton_refusal(DEVICE.type) if request.param == "triton" else None
            pytest.skip(refusal or "flash-attn is not installed")
        yield request.param


CASES: dict[str, dict[str, Any]] = {
    "decode": {"lengths": [0, 1, 63, 70]},
    "decode, no slots": {"lengths": [5, 17], "slots": False},
    "decode, grouped": {"lengths": [33, 80], "group": 4, "kv_heads": 2},
    "decode, rotary, joined": {"lengths": [9, 40, 0], "rotary": True, "joined": True},
    "decode, interleaved rotary": {"lengths": [9, 40], "rotary": True, "rotary_interleaved": True, "group": 2},
    "decode, window": {"lengths": [4, 50, 90], "window_size": (20, 0)},
    "decode, idle rows": {"lengths": [30, 0, 12], "idle": (1,), "rotary": True},
    "decode, a full cache": {"lengths": [95, 3]},
    "decode, one split": {"lengths": [70, 3], "num_splits": 1, "rotary": True},
    "decode, many splits": {"lengths": [70, 3], "num_splits": 16},
    "prefill": {"lengths": [0, 5, 31], "new": 7},
    "prefill, grouped, rotary": {"lengths": [20, 3], "new": 9, "group": 3, "rotary": True, "joined": True},
    "prefill, blocks of queries": {"lengths": [2, 40], "new": 33, "group": 4, "kv_heads": 1},
    "prefill, window": {"lengths": [0, 40], "new": 12, "window_size": (9, 0)},
    "prefill, idle rows": {"lengths": [20, 3], "new": 5, "idle": (0,)},
    "whole block": {"lengths": [0, 60], "new": 25, "causal": False, "rotary": False},
    "whole block, window": {"lengths": [10, 50], "new": 20, "causal": False, "window_size": (15, 4)},
    "look only": {"lengths": [30, 61], "queries": 6},
    "look only, all": {"lengths": [30, 61], "queries": 6, "causal": False, "group": 2},
    "look only at nothing": {"lengths": [0, 3], "queries": 1, "causal": False},
    "scale": {"lengths": [30], "softmax_scale": 0.7},
    "fp8": {"lengths": [30, 7, 70], "fp8": True},
    "fp8 prefill": {"lengths": [30, 7], "new": 6, "fp8": True, "group": 2},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_fp64(backend: str, case: dict[str, Any], dtype: torch.dtype) -> None:
    made = make(**{"causal": True, **case}, dtype=dtype, device=DEVICE)
    if backend == "flash" and (made.k_cache.dtype.itemsize == 1 or dtype == torch.float32):
        pytest.skip("flash-attn knows no fp32 and no fp8 cache")
    compare(made)


def compare(made: Case) -> None:
    """Run the call and hold output and caches against fp64."""
    out = attention_with_kvcache(made.q, made.k_cache, made.v_cache, made.k, made.v, **made.options)
    expected, keys, values = made.expected()
    close = {"atol": 1e-5, "rtol": 1e-5} if made.q.dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(out.cpu().double(), expected, **close)
    for cache, wanted, name in ((made.k_cache, keys, "k_descale"), (made.v_cache, values, "v_descale")):
        found = made._live(cache, made.options.get(name))
        # One unit in the last place of fp8 may fall either way when the division rounds; elsewhere rotation in fp32.
        step = {
            "atol": 1e-6,
            "rtol": 0.13 if cache.dtype.itemsize == 1 else 1e-2 if cache.dtype.itemsize == 2 else 1e-5,
        }
        torch.testing.assert_close(found, wanted, equal_nan=True, **step)


def test_what_does_not_fit_is_dropped_where_only_the_device_knows() -> None:
    made = make([96, 10], dim=16, capacity=96, rotary=True, causal=True, device=DEVICE)
    with using("triton"):
        if attention_backend(DEVICE) != "triton":
            pytest.skip("needs Triton")
        out = attention_with_kvcache(made.q, made.k_cache, made.v_cache, made.k, made.v, **made.options)
    assert out.isfinite().all()
    torch.testing.assert_close(made.k_cache[made.rows[0]], made.before[0][made.rows[0]])


@pytest.mark.parametrize("counted", [False, True])
def test_a_row_does_not_depend_on_its_batch(counted: bool) -> None:
    """Bit for bit: neighbours, slot and place in the batch are of no consequence, and counters come back as zeros."""
    from speechgpt_gen.kernels.gpu.attention import counters

    dtype = DTYPES[-1]
    made = make([70, 3, 41], kv_heads=2, group=2, rotary=True, causal=True, dtype=dtype, device=DEVICE)
    q, k, v, options = made.q, made.k, made.v, made.options
    assert k is not None
    assert v is not None
    if counted:
        options["counters"] = counters(DEVICE, rows=3, queries=2, kv_heads=2)
    with using("triton"):
        if attention_backend(DEVICE) != "triton":
            pytest.skip("needs Triton")
        together = attention_with_kvcache(q, made.k_cache, made.v_cache, k, v, **options)
        for b in range(3):
            caches = [cache.clone() for cache in made.before]
            mine = {name: value[b : b + 1] for name, value in options.items() if name.startswith("cache_")}
            alone = attention_with_kvcache(q[b : b + 1], *caches, k[b : b + 1], v[b : b + 1], **{**options, **mine})
            assert torch.equal(alone[0], together[b])
    if counted:
        assert not options["counters"].any()


@pytest.mark.skipif(not GPU, reason="a CUDA graph needs a GPU")
def test_one_graph_serves_every_length() -> None:
    made = make(
        [5, 40], kv_heads=4, dim=64, capacity=256, rotary=True, causal=True, dtype=torch.bfloat16, device=DEVICE
    )
    k_cache, v_cache = made.k_cache.nan_to_num(0.5), made.v_cache.nan_to_num(0.5)
    lengths = made.options["cache_seqlens"]
    with using("triton"):

        def step() -> Tensor:
            return attention_with_kvcache(made.q, k_cache, v_cache, made.k, made.v, **made.options)

        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step()
        for wanted in ([5, 40], [6, 41], [200, 0], [255, 130]):
            lengths.copy_(torch.tensor(wanted))
            graph.replay()
            replayed = out.clone()
            assert torch.equal(replayed, step())


@pytest.mark.skipif(not GPU, reason="a GPU's sizes take the interpreter minutes")
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "new"), [(32, 32, 1), (32, 8, 1), (32, 32, 64), (16, 16, 25)])
def test_product_sizes(heads: int, kv_heads: int, new: int, fp8: bool) -> None:
    """Long slots and full heads against SDPA in fp32; fp8 rounds what is appended, so both may differ by one step."""
    made = make(
        [0, 100, 1023, 1900],
        new=new,
        kv_heads=kv_heads,
        group=heads // kv_heads,
        dim=128,
        capacity=2048,
        joined=True,
        rotary=True,
        fp8=fp8,
        causal=True,
        dtype=torch.bfloat16,
        device=DEVICE,
    )
    outs = []
    for backend in ("triton", "torch"):
        caches = [cache.clone() for cache in made.before]
        exact = not fp8 and backend == "torch"
        q, k, v = (x.float() if exact else x for x in (made.q, made.k, made.v))
        with using(backend):
            outs.append(attention_with_kvcache(q, *(c.float() if exact else c for c in caches), k, v, **made.options))
    difference = (outs[0].float() - outs[1].float()).norm() / outs[1].float().norm()
    assert difference < 2e-2


@pytest.mark.skipif(triton_refusal(DEVICE.type) is not None, reason=str(triton_refusal(DEVICE.type)))
@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("name", ["decode, idle rows", "decode, window", "prefill, grouped, rotary", "whole block"])
def test_flash_attention_is_called_as_it_wants(name: str, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against functions with the package's signatures and meanings, in fp32, since few machines have the package."""

    def flash_attn_with_kvcache(q: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
        assert options["cache_seqlens"].dtype == options["cache_batch_idx"].dtype == torch.int32
        with monkeypatch.context() as inside:
            inside.setattr(attention, "attention_backend", lambda device: "torch")
            return attention_with_kvcache(q, keys, values, **options)

    def flash_attn_varlen_func(
        q: Tensor, k: Tensor, v: Tensor, *, page_table: Tensor, seqused_k: Tensor, window_size: Any, **options: Any
    ) -> tuple[Tensor, None]:
        assert page_table.shape == (len(q), 1)
        window = tuple(-1 if side is None else side for side in window_size)
        options |= {"cache_seqlens": seqused_k, "cache_batch_idx": page_table[:, 0], "window_size": window}
        return flash_attn_with_kvcache(q, k, v, **options), None

    found = flash_attn_with_kvcache if version == 2 else flash_attn_varlen_func
    monkeypatch.setattr(attention_flash, "function", lambda: found)
    monkeypatch.setattr(attention_flash, "refusal", lambda call: None)
    monkeypatch.setattr(attention, "attention_backend", lambda device: "flash")
    compare(make(**{"causal": True, **CASES[name]}, device=DEVICE))


@pytest.mark.skipif(triton_refusal(DEVICE.type) is not None, reason=str(triton_refusal(DEVICE.type)))
def test_what_flash_attention_refuses_our_kernel_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "attention_backend", lambda device: "flash")
    monkeypatch.setattr(attention.attention_sdpa, "run", None)
    compare(make(causal=True, lengths=[30, 7], rotary=True, device=DEVICE))  # fp32
