"""What a run leaves on disk: whole files or none, and a pass over a corpus kept as it goes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import SpeechGPTGenError

Table = dict[str, NDArray[Any]]


class UnsavedError(SpeechGPTGenError):
    """A run cannot write what it is to leave."""


@contextmanager
def room(place: Path) -> Iterator[None]:
    """Raises UnsavedError, in place of an OSError, when the disk is full in between."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UnsavedError(f"cannot write to {place} ({error}): make room, and run it again") from None


@contextmanager
def replacing(path: Path, advice: str, *, shared: bool = False) -> Iterator[Path]:
    """A file to write that takes the place of `path` once it is written.

    shared: whether another process may write the same meanwhile.
    Raises UnsavedError, with `advice`, when it cannot be written: what was there stays.
    """
    part = path.with_suffix(f".{os.getpid()}.part" if shared else ".part")
    try:
        yield part
        os.replace(part, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch tells of a full disk by a RuntimeError
        part.unlink(missing_ok=True)
        raise UnsavedError(f"cannot write {path} ({error}): {advice}") from None


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises UnsavedError when it cannot be written."""
    with replacing(path, "make room, and run it again") as part:
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, part)


def weights_id(*modules: nn.Module) -> str:
    """Short name of weights, to tell what was made by others."""
    digest = sha256()
    for module in modules:
        for key, value in sorted(module.state_dict().items()):
            if value.is_floating_point():
                digest.update(key.encode() + value.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def in_parts(path: Path, steps: int, make: Callable[[int], Table], *, of: str, every: int = 20) -> None:
    """Write to `path` (.npz) what `make` gives for each step, arrays of one name one after another.

    What `every` steps gave is kept in a file beside it until it is whole, so that a killed process loses no more.
    of: what the arrays depend on, in words: parts of something else are made again.
    Raises UnsavedError when the disk is full.
    """
    folder, of = path.with_suffix(".parts"), f"{of}, {steps} steps by {every}"
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[Table] = []
    for first in range(0, steps, every):
        part, last = folder / f"{first:06d}.npz", min(first + every, steps)
        kept = _read(part, of)
        if kept is None:
            kept = _joined([make(step) for step in range(first, last)])
            _write(part, kept | {"of": np.array(of)})
            print(f"{path.stem}: {last}/{steps} batches", flush=True)
        parts.append(kept)
    _write(path, _joined(parts))
    shutil.rmtree(folder)


def _write(path: Path, table: Table) -> None:
    with replacing(path, "make room, and run it again to go on from before") as part, part.open("wb") as file:
        np.savez(file, **table)  # type: ignore[arg-type]


def _read(path: Path, of: str) -> Table | None:
    """What lies in a part, unless it was made of something else."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        table = {name: stored[name] for name in stored.files}
    return table if str(table.pop("of")) == of else None


def _joined(tables: list[Table]) -> Table:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]} if tables else {}
