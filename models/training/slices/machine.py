"""What a slice runs on: the device, its measured rate of matrix products, and how much time is left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Machine:
    """A device and the time that a slice may spend on it; `began` is in seconds of time.monotonic."""

    device: str
    seconds: float
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def here(cls, minutes: float) -> Machine:
        """The GPU if there is one, else the CPU."""
        torch.set_float32_matmul_precision("high")
        return cls("cuda" if torch.cuda.is_available() else "cpu", 60 * minutes)

    @property
    def is_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def reserve(self) -> float:
        """Seconds at the end in which results are judged and written."""
        return min(45.0, 0.15 * self.seconds)

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds that training may still take."""
        return max(1.0, self.seconds - self.reserve - self.spent)

    @property
    def workers(self) -> int:
        """Processes that may prepare batches beside a GPU; on a CPU the cores are for the model."""
        return max(1, min(12, (os.cpu_count() or 2) - 2)) if self.is_gpu else 0

    def gemm_rate(self) -> float:
        """Floating-point operations a second of a large product in the precision that training runs in."""
        size, count = (8192, 20) if self.is_gpu else (512, 4)
        dtype = torch.bfloat16 if self.is_gpu else torch.float32
        a, b = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
        for _ in range(3):
            a @ b
        self.wait()
        began = time.perf_counter()
        for _ in range(count):
            a @ b
        self.wait()
        return 2.0 * size**3 * count / (time.perf_counter() - began)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def timed(self, what: str, work: Callable[[], None]) -> None:
        """Do `work` and say how long it took."""
        began = time.perf_counter()
        work()
        self.wait()
        print(f"{what}: {time.perf_counter() - began:.1f} s", flush=True)
