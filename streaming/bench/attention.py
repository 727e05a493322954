"""Attention over a cache by every back end that the machine has, at the engine's shapes.

Our own kernel is taken without asking; this says where flash-attn, once somebody installs it, would be worth more:
prefill passes and flow blocks are what it is made for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ...kernels.attention import attention_with_kvcache
from ...kernels.graph import Lane
from ...kernels.rotary import rotary_tables
from ...kernels.selection import Backend, flash_refusal, triton_refusal, using
from ...models.bundle import read_config
from ...models.errors import ConfigError
from ...models.perceptual.block_causal import BlockCausalConfig
from ...models.semantic.slots import CHUNKS
from .common import Figures, Subject, machine, spread, times_ms

LAYERS: Final = 8
"""Calls of one measurement, each with a cache of its own: neither launching is measured, nor the GPU's own cache."""


@dataclass(frozen=True)
class Shape:
    """`tokens` new ones of each of `rows`, after `length` that are cached. A flow block is in the cache already."""

    part: str
    rows: int
    tokens: int
    length: int
    heads: int
    kv_heads: int
    dim: int

    @property
    def appends(self) -> bool:
        return self.part != "flow"


def shapes(subject: Subject) -> Iterator[Shape]:
    """What the engine asks for: steps, passes, and blocks after a full window. Raises ConfigError for other models."""
    config = read_config(subject.model)
    semantic, flow = config.semantic, config.perceptual
    if not isinstance(flow, BlockCausalConfig):
        raise ConfigError(f"{subject.model!r} has no block-causal flow: there is nothing to measure")
    heads = semantic.num_attention_heads, semantic.num_key_value_heads, semantic.head_dim
    half = subject.context // 2
    for rows, length in sorted({(1, half), (subject.slots, subject.context - 1)}):
        yield Shape("decode", rows, 1, length, *heads)
    for rows, tokens in CHUNKS:
        if rows <= subject.slots and tokens <= half:
            yield Shape("prefill", rows, tokens, half, *heads)
    for rows in sorted({1, min(16, subject.slots)}):
        longest = config.blocks.longest
        yield Shape("flow", rows, longest, flow.window_frames, flow.heads, flow.heads, flow.dim // flow.heads)


def bench_attention(subject: Subject) -> tuple[Figures, str]:
    """Milliseconds of a call by shape and back end, the quickest of them, and why others are absent; no profile."""
    device = torch.device(subject.device)
    absent = {"triton": triton_refusal(device.type), "flash": flash_refusal(device.type)}
    backends: list[Backend] = ["torch", *(name for name in ("triton", "flash") if absent[name] is None)]
    rows: list[Figures] = []
    for shape in shapes(subject):
        found: Figures = {backend: _measured(shape, backend, device, subject) for backend in backends}
        medians: dict[str, float] = {name: made["ms"]["p50"] for name, made in found.items() if "ms" in made}
        size: Figures = {"part": shape.part, "rows": shape.rows, "tokens": shape.tokens, "cached": shape.length}
        quickest = min(medians, key=lambda name: medians[name], default=None)
        rows.append({**size, **found, "quickest": quickest})
    figures: Figures = {
        "bench": "attention",
        "model": subject.model,
        "machine": machine(subject.device),
        "rows": rows,
        "absent": {name: reason for name, reason in absent.items() if reason is not None},
    }
    return figures, ""


def _measured(shape: Shape, backend: Backend, device: torch.device, subject: Subject) -> Figures:
    """One shape by one back end: milliseconds a call, and whether it was captured; or what went wrong."""
    lane = Lane(device, capture=backend != "torch")
    try:
        with using(backend), lane.entered(), torch.inference_mode():
            graph = lane.graph(_calls(shape, backend, device))
            times = times_ms(graph, device, subject.repeats)
    except Exception as error:  # somebody else's compiler may end in anything; the other back ends are measured still
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    return {"ms": spread([value / LAYERS for value in times]), "captured": lane.captured == 1}


def _calls(shape: Shape, backend: Backend, device: torch.device) -> Callable[[], None]:
    """One call after another, as the engine makes them, over random caches."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    capacity = shape.length + shape.tokens
    cache = torch.randn(LAYERS, 2, shape.rows, capacity, shape.kv_heads, shape.dim, dtype=dtype, device=device)
    projected = torch.randn(
        shape.rows, shape.tokens, shape.heads + 2 * shape.kv_heads, shape.dim, dtype=dtype, device=device
    )
    q, k, v = torch.split(projected, [shape.heads, shape.kv_heads, shape.kv_heads], 2)
    slots = torch.arange(shape.rows, dtype=torch.int32, device=device)
    cached = shape.length if shape.appends else capacity
    lengths = torch.full((shape.rows,), cached, dtype=torch.int32, device=device)
    cos, sin = rotary_tables(capacity, shape.dim, 10000.0, device)
    counters = _counters(shape, device) if backend == "triton" and shape.appends else None

    def run() -> None:
        for keys, values in cache:
            if shape.appends:
                attention_with_kvcache(
                    q,
                    keys,
                    values,
                    k,
                    v,
                    cache_seqlens=lengths,
                    cache_batch_idx=slots,
                    rotary_cos=cos,
                    rotary_sin=sin,
                    causal=True,
                    counters=counters,
                )
            else:
                attention_with_kvcache(q, keys, values, cache_seqlens=lengths, cache_batch_idx=slots)

    return run


def _counters(shape: Shape, device: torch.device) -> Tensor:
    from ...kernels.gpu.attention import counters  # not every machine has triton

    return counters(device, shape.rows, shape.tokens * shape.heads // shape.kv_heads, shape.kv_heads)
