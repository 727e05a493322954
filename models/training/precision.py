"""Mixed precision where the device has it."""

from __future__ import annotations

from functools import cache

import torch


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether a kind of device ("cpu", "cuda") multiplies bf16 in hardware."""
    if kind != "cpu":
        return True
    # Without these instructions a bf16 product is emulated, and takes seven times as long as one in float32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def mixed(device: torch.device) -> torch.autocast:
    """A context in which matrix products run in bf16 on a device that multiplies it, and in float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device.type))
