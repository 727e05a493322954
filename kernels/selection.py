"""Which implementation computes what: chosen once, said in the log, overridable by a setting.

auto: on a GPU our Triton kernels, else torch; on a CPU torch. triton, flash, torch: ask for one; flash is flash-attn,
for attention alone. What can't be had falls back to what auto would take, and the log says why in one line.

The environment variable SPEECHGPT_GEN_KERNELS gives the choice before anything is asked; `use` changes it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final, Literal, get_args

import torch

from . import attention_flash

KernelChoice = Literal["auto", "triton", "flash", "torch"]
Backend = Literal["triton", "flash", "torch"]
ENVIRONMENT: Final = "SPEECHGPT_GEN_KERNELS"
OLDEST: Final = (8, 0)
"""Compute capability from which the Triton kernels are compiled and tested (Ampere)."""

_log = logging.getLogger(__name__)


def use(choice: str) -> None:
    """Compute with `choice` from now on, in the whole process. Raises ValueError for a name that is not a choice."""
    os.environ[ENVIRONMENT] = _checked(choice)


def check() -> None:
    """Raise ValueError, one line, when the environment names what is not a choice."""
    _checked(_chosen())


@contextmanager
def using(choice: str) -> Iterator[None]:
    """`use` for the length of a with block: for tests and benchmarks, since it holds for every thread."""
    before = _chosen()
    use(choice)
    try:
        yield
    finally:
        use(before)


def attention_backend(device: torch.device) -> Backend:
    """Who computes attention over a cache on this device."""
    return _attention_on(_chosen(), device.type, device.index)


def fused(device: torch.device) -> bool:
    """Whether the fused pieces run as Triton kernels on this device (else as their torch twins)."""
    return _fused_on(_chosen(), device.type, device.index)


def triton_refusal(device_type: str, index: int | None = None) -> str | None:
    """Why Triton kernels can't run on this device, in one line; None when they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if device_type == "cpu":
        return None if _interpreting() else "Triton kernels need a GPU"
    if device_type != "cuda" or torch.version.hip is not None:
        return f"the Triton kernels are made for NVIDIA GPUs, not for {'ROCm' if torch.version.hip else device_type}"
    major, minor = torch.cuda.get_device_capability(index)
    if (major, minor) < OLDEST:
        name = torch.cuda.get_device_name(index)
        return f"the Triton kernels need compute capability 8.0 or newer, {name} has {major}.{minor}"
    return None


def flash_refusal(device_type: str, index: int | None = None) -> str | None:
    """Why flash-attn can't look at caches on this device, in one line; None when it can."""
    if device_type != "cuda":
        return "flash-attn needs a GPU"
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        return "flash-attn needs compute capability 8.0 or newer"
    try:
        refusal = attention_flash.capability_refusal(capability)
    except ImportError as error:
        return str(error)
    return refusal or triton_refusal(device_type, index)  # it appends with our kernel


@cache
def say_once(message: str) -> None:
    """Log a fallback and its reason the first time it happens."""
    _log.warning(message)


@cache
def _attention_on(choice: str, device_type: str, index: int | None) -> Backend:
    _checked(choice)
    if choice == "torch" or (choice == "auto" and device_type == "cpu"):
        return _settle("torch", device_type)
    refusal = flash_refusal(device_type, index) if choice == "flash" else triton_refusal(device_type, index)
    if refusal is None:
        return _settle("flash" if choice == "flash" else "triton", device_type)
    fallback: Backend = _attention_on("auto", device_type, index) if choice == "flash" else "torch"
    say_once(f"attention on {device_type} falls back to {fallback}: {refusal}")
    return fallback


@cache
def _fused_on(choice: str, device_type: str, index: int | None) -> bool:
    _checked(choice)
    if choice == "torch" or (choice != "triton" and device_type == "cpu"):
        return False
    refusal = triton_refusal(device_type, index)
    if refusal is not None:
        say_once(f"fused kernels on {device_type} fall back to torch: {refusal}")
    return refusal is None


def _chosen() -> str:
    return os.environ.get(ENVIRONMENT, "auto")


def _checked(choice: str) -> str:
    if choice not in get_args(KernelChoice):
        raise ValueError(f"{ENVIRONMENT} must be one of {', '.join(get_args(KernelChoice))}, not {choice!r}")
    return choice


def _settle(backend: Backend, device_type: str) -> Backend:
    _log.info("attention over a cache on %s: %s", device_type, backend)
    return backend


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
