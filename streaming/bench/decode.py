"""The decode engine: milliseconds a step, tokens and bytes a second, and the share of the measured copy bandwidth."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels.graph import Lane
from ...kernels.weight_only import round_weights_
from ...models.bundle import Bundle
from ...models.semantic.decoder import Draws
from ...models.semantic.grammar import DecodingLimits, Grammar, Phase
from ...models.semantic.llama import SemanticModel
from ...models.semantic.sampling import SamplingOptions
from ...models.semantic.slots import Chunk, SlotModel, SlotOptions, Start
from ..engine.batched import check_fp8
from .common import Figures, Subject, copy_gb_per_s, machine, peak_memory_gb, profile_table, spread, times_ms
from .peer import transformers_tokens_per_s

BURST = 8
"""Steps per launch while measuring."""
ALONE_CONTEXT = 1024


def bench_engine(subject: Subject, peer: str | None = None) -> tuple[Figures, str]:
    """Figures, and a profile of the step alone. peer: "transformers" measures that on the same weights first."""
    rounded = subject.precision in ("fp8", "int8") and subject.device != "cpu"
    bundle = subject.load("bfloat16" if rounded else None)
    device = bundle.device
    figures: Figures = {
        "bench": "engine",
        "model": subject.model,
        "precision": subject.weights,
        "kv_cache": subject.kv_cache or "as the weights",
        "machine": machine(subject.device),
        "copy_gb_per_s": round(copy_gb_per_s(device), 1),
    }
    model = bundle.semantic.fuse_()
    if peer is not None:
        context = min(ALONE_CONTEXT, subject.context // 2)
        figures["transformers"] = transformers_tokens_per_s(model, context, quick=subject.quick)
    if rounded:
        before = _some_logits(model)
        round_weights_(model, "fp8" if subject.precision == "fp8" else "int8")
        figures["rounding"] = _difference(before, _some_logits(model))
    if subject.kv_cache is not None:
        check_fp8(device)
        figures["cache_rounding"] = _difference(*(_read_back(bundle, fp8_cache=fp8) for fp8 in (False, True)))
    sizes = tuple(size for size in (1, 2, 4, 8, 16, 32) if size <= subject.slots)
    began = time.perf_counter()
    slots = _slot_model(bundle, subject, sizes)
    figures["capture_s"] = round(time.perf_counter() - began, 2)
    figures["steps"] = [_step(slots, size, subject, figures["copy_gb_per_s"]) for size in sizes]
    figures["prefill_ms"] = _prefill(slots, subject)
    figures["graphs"] = {"captured": slots.lane.captured, "refused": slots.lane.refused}
    figures["peak_memory_gb"] = peak_memory_gb(device)
    if peer is not None and figures["transformers"].get("tokens_per_s"):
        figures["times_transformers"] = round(
            figures["steps"][0]["tokens_per_s"] / figures["transformers"]["tokens_per_s"], 3
        )
    _place(slots, 1, subject.context // 2)
    return figures, profile_table(lambda: slots.burst([0]).take(), device)


def _slot_model(bundle: Bundle, subject: Subject, sizes: tuple[int, ...]) -> SlotModel:
    # Words without an end: no row stops while it is measured, unless chance spells an end of it.
    grammar = Grammar(bundle.vocabulary, DecodingLimits(word_frames=1 << 40))
    bursts = dict.fromkeys(sizes, BURST)
    options = SlotOptions(subject.slots, subject.context, sizes, bursts, fp8_cache=subject.kv_cache is not None)
    lane = Lane(bundle.device)
    slots = SlotModel(bundle.semantic, grammar, options, lane)
    slots.capture()
    return slots


def _place(slots: SlotModel, size: int, length: int) -> None:
    """Let rows draw from `length` on, whatever the cache holds there."""
    with slots.lane.entered():
        for row in range(size):
            slots.set(row, Start(length, Phase.SOUND_FIRST, Draws(SamplingOptions(), row), token=0))


def _step(slots: SlotModel, size: int, subject: Subject, copy: float) -> Figures:
    """One batch size; a single row at 1k context, many at nearly all they can hold."""
    wanted = ALONE_CONTEXT if size == 1 else subject.context - 2 * BURST
    length = min(wanted, subject.context - 2 * BURST)
    rows = list(range(size))
    device = slots.lane.device

    idle = []

    def burst() -> None:
        with slots.lane.entered():
            idle.append(float((slots.burst(rows).take()[0] < 0).float().mean()))

    times = []
    for _ in range(subject.repeats + 3):
        _place(slots, size, length)  # outside the time: a conversation is placed once, then goes on by itself
        times += times_ms(burst, device, 1, warm=0)
    steps = [value / BURST for value in times[3:]]
    weights = weight_bytes(slots.model)
    cache = size * length * slots.cache[:, :, 0, 0].numel() * slots.cache.element_size()
    middle = spread(steps)["p50"]
    rate = (weights + cache) / middle / 1e6
    return {
        "slots": size,
        "context": length,
        "step_ms": spread(steps),
        "tokens_per_s": round(1000 * size / middle, 1),
        "gb_per_s": round(rate, 1),
        "share_of_copy": round(rate / copy, 3),
        # Of the rows' steps: a row that chance ended early was spared work.
        "idle": round(sum(idle) / len(idle), 4),
    }


def _prefill(slots: SlotModel, subject: Subject) -> Figures:
    """Milliseconds of every shape of prefill pass."""
    figures = {}
    for rows, length in slots.shapes:
        if rows > subject.slots:
            continue
        chunks = [Chunk(row, 0, [1] * length) for row in range(rows)]

        def make(chunks: list[Chunk] = chunks) -> None:
            with slots.lane.entered():
                slots.prefill(chunks).take()

        figures[f"{rows}x{length}"] = spread(times_ms(make, slots.lane.device, subject.repeats))
    return figures


def weight_bytes(model: nn.Module) -> int:
    """Bytes that one step reads: every product's weights and scales; of the embedding only a row."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return sum(tensor.numel() * tensor.element_size() for name, tensor in tensors if "embed_tokens" not in name)


@torch.inference_mode()
def _some_logits(model: SemanticModel) -> Tensor:
    tokens = torch.arange(64, device=model.model.embed_tokens.weight.device)[None]
    logits: Tensor = model(tokens).float()
    return logits[0]


@torch.inference_mode()
def _read_back(bundle: Bundle, *, fp8_cache: bool) -> Tensor:
    """Logits of a sequence's later positions, which read the earlier ones from a cache: (tokens, V)."""
    lane = Lane(bundle.device, capture=False)
    options = SlotOptions(1, 256, (1,), {1: 1}, fp8_cache=fp8_cache)
    slots = SlotModel(bundle.semantic, Grammar(bundle.vocabulary), options, lane)
    generator = torch.Generator().manual_seed(0)
    units = torch.randint(bundle.vocabulary.unit(0), bundle.vocabulary.unit(1023) + 1, (192,), generator=generator)
    given = []
    with lane.entered():
        for start in range(0, len(units), 16):
            tokens = units[None, start : start + 16].to(bundle.device)
            at = torch.tensor([start], dtype=torch.int32, device=bundle.device)
            given.append(slots.logits(slots.states(tokens, torch.zeros_like(at), at)[0]))
    return torch.cat(given[4:])


def _difference(before: Tensor, after: Tensor) -> dict[str, Any]:
    """What rounding did to the logits of some positions."""
    error = (after - before).square().mean().sqrt() / before.std()
    agree = (after.argmax(-1) == before.argmax(-1)).float().mean()
    return {"relative_logit_error": round(float(error), 4), "same_likeliest": round(float(agree), 3)}
