"""The key/value cache of one or more sequences of equal length, as a value that its owner passes in and rewinds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import EngineError


@dataclass
class KVCache:
    """Keys and values of every layer: (layers, rows, capacity, kv heads, head dim); live below `length`."""

    keys: Tensor
    values: Tensor
    length: int = 0

    @classmethod
    def empty(
        cls,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        rows: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> KVCache:
        """Reserve room for `capacity` positions. What is not yet written is NaN, so that a wrong read shows at once."""
        shape = (layers, rows, capacity, kv_heads, head_dim)
        keys = torch.full(shape, torch.nan, device=device, dtype=dtype)
        return cls(keys, keys.clone())

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    def reserve(self, new: int) -> None:
        """Raise EngineError unless `new` more positions fit."""
        if self.length + new > self.capacity:
            raise EngineError(
                f"the conversation is longer than the model's {self.capacity} positions "
                f"({self.length} used, {new} more wanted); start a new turn or ask for a shorter answer"
            )

    def rewind(self, length: int) -> None:
        """Forget everything from position `length` on. Raises ValueError for a position that was never reached."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind a cache of {self.length} positions to {length}")
        self.length = length
