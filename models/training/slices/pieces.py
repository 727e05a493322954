"""Weights as a few small files, so that they travel through narrow doors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...errors import CheckpointError
from ..saving import weights_id

MAX_BYTES: Final = 16_600_000  # under 16 MiB with the header
_SMALL: Final = 4096
READERS: Final = ("reader.", "early.")
"""What pieces of a tokenizer hold besides it: what reads its units, and what places words in them."""


def write_pieces(state: Mapping[str, Tensor], folder: Path, name: str, *, units: str) -> int:
    """Write `name-00.safetensors`, ... of at most MAX_BYTES each; returns how many. `units` says which units they know.

    Tensors of 4096 numbers and more become float16, as all that is shipped is rounded further; statistics and biases
    keep their bits. Raises CheckpointError for a tensor that is not finite in float16 or larger than a file may be.
    """
    pieces: list[dict[str, Tensor]] = []
    used: list[int] = []
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        if tensor.is_floating_point() and tensor.numel() >= _SMALL:
            tensor = tensor.half()
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"{name}: {key} is not finite in float16")
        size = tensor.numel() * tensor.element_size()
        if size > MAX_BYTES:
            raise CheckpointError(f"{name}: {key} alone has {size} bytes, a piece holds {MAX_BYTES}")
        fitting = next((n for n, filled in enumerate(used) if filled + size <= MAX_BYTES), len(pieces))
        if fitting == len(pieces):
            pieces.append({})
            used.append(0)
        pieces[fitting][key] = tensor
        used[fitting] += size
    for old in folder.glob(f"{name}-[0-9][0-9].safetensors"):
        old.unlink()
    for number, piece in enumerate(pieces):
        # The count is in every piece, so that a lost one is noticed.
        save_file(
            piece, folder / f"{name}-{number:02d}.safetensors", metadata={"pieces": str(len(pieces)), "units": units}
        )
    return len(pieces)


def find_pieces(folders: Sequence[Path], name: str) -> Path | None:
    """The newest folder in or below `folders` that holds pieces of `name`; later folders go before earlier ones."""
    for folder in reversed(folders):
        found = [p.parent for p in folder.rglob(f"{name}-00.safetensors")]
        if found:
            return max(found, key=lambda p: (p / f"{name}-00.safetensors").stat().st_mtime)
    return None


def units_id(encoder: nn.Module) -> str:
    """Short name of the units that a semantic encoder makes: parts that were trained on other units don't fit it."""
    return weights_id(encoder)


def units_of_pieces(folder: Path, name: str) -> str:
    """The units that the pieces of `name` in `folder` know."""
    return _metadata(folder, name).get("units", "")


def _metadata(folder: Path, name: str) -> dict[str, str]:
    first = folder / f"{name}-00.safetensors"
    if not first.is_file():
        raise CheckpointError(f"{folder} has no {first.name}")
    with safe_open(first, "pt") as handle:
        return dict(handle.metadata() or {})


def read_pieces(folder: Path, name: str) -> dict[str, Tensor]:
    """Join what `write_pieces` wrote, floats as float32. Raises CheckpointError when a piece is missing."""
    count = int(_metadata(folder, name).get("pieces", 1))
    state: dict[str, Tensor] = {}
    for number in range(count):
        path = folder / f"{name}-{number:02d}.safetensors"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no {path.name}: {name} has {count} pieces")
        for key, tensor in load_file(path).items():
            state[key] = tensor.float() if tensor.is_floating_point() else tensor
    return state
