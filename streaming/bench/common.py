"""What the measurements share: the model and its slots, times, the machine's own copy bandwidth, percentiles."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ...models.bundle import Bundle, load_bundle, read_config
from ...models.memory import GB, check_memory
from ..engine.batched import BatchedEngine

Figures = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """What is measured. precision: None takes bfloat16 on a GPU and float32 on a CPU. quick: few repeats, for tests.
    kv_cache: "fp8", or None for the weights' precision."""

    model: str = "8b"
    device: str = "cuda"
    precision: str | None = None
    slots: int = 32
    context: int = 2048
    quick: bool = False
    kv_cache: Literal["fp8"] | None = None

    @property
    def weights(self) -> str:
        return self.precision or ("float32" if self.device == "cpu" else "bfloat16")

    @property
    def repeats(self) -> int:
        return 3 if self.quick else 30

    def load(self, precision: str | None = None) -> Bundle:
        """The bundle, after a look at whether it will fit. Raises ConfigError and what `load_bundle` raises."""
        weights = precision or self.weights
        if self.device != "cpu" and torch.cuda.is_available():
            config = read_config(self.model)
            free = torch.cuda.mem_get_info(self.device)[0]
            rounded = self.kv_cache == "fp8"
            check_memory(config, weights, self.context, slots=self.slots, free=free, name=self.model, fp8_cache=rounded)
        return load_bundle(self.model, self.device, weights)

    def engine(self, bundle: Bundle, slots: int) -> BatchedEngine:
        """An engine that takes as many conversations as it is told, kept up with or not."""
        return BatchedEngine(
            bundle, slots, device=self.device, context=self.context, measure=False, kv_cache=self.kv_cache
        )


def machine(device: str) -> Figures:
    """What a figure was measured on."""
    figures: Figures = {"python": platform.python_version(), "torch": torch.__version__, "device": device}
    triton: Any = sys.modules.get("triton")
    if triton is not None:
        figures["triton"] = triton.__version__
    if device != "cpu":
        figures["gpu"] = torch.cuda.get_device_name(device)
        figures["driver_memory_gb"] = round(torch.cuda.mem_get_info(device)[1] / GB, 1)
    return figures


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def times_ms(work: Callable[[], object], device: torch.device, repeats: int, warm: int = 3) -> list[float]:
    """Milliseconds of `work` until the device is done with it, after a few that are not counted."""
    times = []
    for number in range(warm + repeats):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        if number >= warm:
            times.append(1000 * (time.perf_counter() - began))
    return times


def spread(values: Sequence[float]) -> Mapping[str, float]:
    """Median and 95th percentile."""
    return {"p50": round(float(np.median(values)), 3), "p95": round(float(np.percentile(values, 95)), 3)}


def copy_gb_per_s(device: torch.device) -> float:
    """Bytes read and written per second by a large copy, in GB: what weights can be read with at best."""
    count = (1 << 30) if device.type == "cuda" else (1 << 24)
    source = torch.empty(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = min(times_ms(lambda: target.copy_(source), device, 10))
    return 2 * count / best / 1e6


def peak_memory_gb(device: torch.device) -> float | None:
    """The most memory that tensors took so far; None where nobody counts."""
    return round(torch.cuda.max_memory_allocated(device) / GB, 2) if device.type == "cuda" else None


def profile_table(work: Callable[[], object], device: torch.device, rows: int = 40) -> str:
    """What some work spent its time in, kernel by kernel; or in one line why nobody could tell: figures that were
    measured before are not lost for that."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    try:
        with torch.profiler.profile(activities=activities) as profile:
            work()
            synchronise(device)
    except Exception as error:
        return " ".join(f"no profile: {type(error).__name__}: {error}".split()) + "\n"
    key = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table: str = profile.key_averages().table(sort_by=key, row_limit=rows)
    return table
