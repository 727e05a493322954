"""The flow engine: milliseconds of one block's whole solve and of its decoding to sound, by batch size."""

from __future__ import annotations

import time

import torch

from ...kernels.graph import Lane
from ...models.sound import SoundSlots
from .common import Figures, Subject, copy_gb_per_s, machine, peak_memory_gb, profile_table, spread, times_ms


def bench_flow(subject: Subject) -> tuple[Figures, str]:
    """Figures for the longest block after a full window, and a profile of one solve."""
    bundle = subject.load()
    device = bundle.device
    sizes = [size for size in (1, 2, 4, 8, 16) if size <= subject.slots]
    lane = Lane(device)
    began = time.perf_counter()
    sound = SoundSlots(bundle, lane, slots=max(sizes), buckets=sizes)
    sound.capture()
    captured = time.perf_counter() - began
    block = [0] * bundle.config.blocks.longest
    blocks = [(row, block) for row in range(max(sizes))]
    with lane.entered(), torch.inference_mode():
        for row, _ in blocks:
            sound.open(row, bundle.voice(None), row)
        for _ in range(bundle.config.perceptual.window_frames // len(block) + 1):
            sound.speak(blocks)
        rows = []
        for size in sizes:
            some = blocks[:size]
            placed = [(row, sound.frame(row), len(block)) for row, _ in some]
            solve = times_ms(lambda some=some: sound.flow.solve(some), device, subject.repeats)  # type: ignore[misc]
            decode = times_ms(lambda placed=placed: sound.decoder.decode(placed), device, subject.repeats)  # type: ignore[misc]
            both = times_ms(lambda some=some: sound.speak(some), device, subject.repeats)  # type: ignore[misc]
            rows.append({"batch": size, "flow_ms": spread(solve), "decoder_ms": spread(decode), "all_ms": spread(both)})
        profile = profile_table(lambda: sound.flow.solve(blocks[:1]), device)
    figures: Figures = {
        "bench": "flow",
        "model": subject.model,
        "precision": subject.weights,
        "machine": machine(subject.device),
        "copy_gb_per_s": round(copy_gb_per_s(device), 1),
        "frames": len(block),
        "evaluations": bundle.config.solver.nfe,
        "capture_s": round(captured, 2),
        "graphs": {"captured": lane.captured, "refused": lane.refused},
        "batches": rows,
        "peak_memory_gb": peak_memory_gb(device),
    }
    return figures, profile
