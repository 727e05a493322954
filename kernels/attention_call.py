"""One call of cache attention, with its arguments completed: what the adapter hands to whichever back end computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Call:
    """Shapes and meanings as in `attention.attention_with_kvcache`."""

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    k: Tensor | None
    v: Tensor | None
    rotary: tuple[Tensor, Tensor] | None
    interleaved: bool
    lengths: int | Tensor
    slots: Tensor | None
    scale: float
    causal: bool
    window: tuple[int, int]
    """(left, right) with right = 0 where causal."""
    k_descale: Tensor | None
    v_descale: Tensor | None
    num_splits: int = 0
    counters: Tensor | None = None

    @property
    def new(self) -> int:
        """New tokens of each row."""
        return 0 if self.k is None else self.k.shape[1]

    def row_lengths(self) -> Tensor:
        """Lengths before the append, int (B,) on the device."""
        if isinstance(self.lengths, Tensor):
            return self.lengths
        return torch.full((len(self.q),), self.lengths, dtype=torch.int32, device=self.q.device)

    def check(self) -> None:
        """Raise ValueError for shapes that don't fit together, and for new keys that don't fit if that is known."""
        heads, kv_heads, dim = self.q.shape[2], self.k_cache.shape[2], self.q.shape[3]
        if heads % kv_heads or self.k_cache.shape != self.v_cache.shape or self.k_cache.shape[3] != dim:
            raise ValueError(
                f"queries of {heads} heads x {dim} don't go with caches {tuple(self.k_cache.shape)} and "
                f"{tuple(self.v_cache.shape)}"
            )
        if self.k is not None and self.k.shape != (*self.q.shape[:2], kv_heads, dim):
            raise ValueError(f"new keys {tuple(self.k.shape)} don't go with queries {tuple(self.q.shape)}")
        if isinstance(self.lengths, int):
            self.check_room(self.lengths + self.new)

    def check_room(self, end: int) -> None:
        """Raise ValueError when `end` positions don't fit into the cache."""
        capacity = self.k_cache.shape[1]
        if end > capacity:
            raise ValueError(f"the key/value cache holds {capacity} positions, {end} are needed")
