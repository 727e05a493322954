"""The one place where Triton kernels start, so that a test can compile what the product launches without a GPU."""

from __future__ import annotations

from typing import Any


def start(kernel: Any, grid: tuple[int, ...], *args: Any, **meta: Any) -> None:
    """Start a kernel on the current stream of the current device, which must be its tensors'."""
    kernel[grid](*args, **meta)
