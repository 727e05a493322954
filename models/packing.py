"""Weights on disk in fewer bits: 16-bit floats, or int8 with one scale per row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from .errors import CheckpointError

INT8: Final = ".int8"
SCALE: Final = ".scale"
_LEAST: Final = 4096
"""Tensors with fewer numbers than this are not worth rounding."""


def pack(state: Mapping[str, Tensor], packing: str) -> dict[str, Tensor]:
    """What to write: "float32", "float16", "bfloat16", or "int8".

    "int8" stores each big matrix `w` (rows, ...) as `w.int8` and `w.scale` (rows,), w = int8 * scale, rounded to
    nearest; the rest as float32. Integer tensors are kept as they are.
    """
    packed: dict[str, Tensor] = {}
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        if not tensor.is_floating_point():
            packed[key] = tensor
        elif packing != "int8":
            packed[key] = tensor.to(getattr(torch, packing))
        elif tensor.ndim < 2 or tensor.numel() < _LEAST:
            packed[key] = tensor.float()
        else:
            rows = tensor.float().flatten(1)
            scale = (rows.abs().amax(1) / 127).clamp_min(1e-12)
            packed[key + INT8] = (rows / scale[:, None]).round().to(torch.int8).view(tensor.shape)
            packed[key + SCALE] = scale
    return packed


def unpack(state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Undo `pack`; tensors that are not int8 pass as they are. Raises CheckpointError for an int8 without its scale."""
    unpacked: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.endswith(INT8):
            name = key.removesuffix(INT8)
            scale = state.get(name + SCALE)
            if scale is None or scale.shape != tensor.shape[:1]:
                raise CheckpointError(f"{source}: {key} has no scale of its own rows; write the file again")
            unpacked[name] = tensor.float() * scale.float().view(-1, *[1] * (tensor.ndim - 1))
        elif not (key.endswith(SCALE) and key.removesuffix(SCALE) + INT8 in state):
            unpacked[key] = tensor
    return unpacked
