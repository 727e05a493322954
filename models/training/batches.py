"""Which utterances and documents a step trains on: shuffled by seed and step alone, so that a resumed run sees what it
would have seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class BucketBatches:
    """Utterances of like length in batches of few shapes; an epoch visits each one at least once.

    `lengths` (any unit) are rounded up to multiples of `bucket`, and a batch holds as many of one bucket as make up
    `budget`. Few shapes matter: compilers and oneDNN keep a plan for every shape that they meet.
    fill: whether a bucket's last batch is filled up from the same bucket (training) or left short (a pass over
    everything).
    """

    def __init__(self, lengths: Sequence[float], budget: float, bucket: float, seed: int, *, fill: bool = True) -> None:
        self.rounded = np.ceil(np.maximum(np.asarray(lengths), bucket * 1e-3) / bucket) * bucket
        self.budget, self.seed, self.fill = budget, seed, fill
        self._epoch, self._plans = -1, list[NDArray[np.int64]]()
        self._members = [np.flatnonzero(self.rounded == size) for size in np.unique(self.rounded)]
        self.per_epoch = len(self._plan(0))

    def _plan(self, epoch: int) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng((self.seed, epoch))
        groups: list[NDArray[np.int64]] = []
        for members in self._members:
            size = max(1, int(self.budget // self.rounded[members[0]]))
            order = rng.permutation(members)
            if self.fill and len(order) % size:
                order = np.concatenate([order, rng.choice(members, size - len(order) % size)])
            groups += [order[at : at + size] for at in range(0, len(order), size)]
        return [groups[i] for i in rng.permutation(len(groups))]

    def __call__(self, step: int) -> NDArray[np.int64]:
        """Indices of the batch of a step, counted over all epochs."""
        epoch, at = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._plans = epoch, self._plan(epoch)
        return self._plans[at]

    def longest(self, chosen: NDArray[np.int64]) -> float:
        """Length that a batch is padded to."""
        return float(self.rounded[chosen[0]])


class PackedRows:
    """Documents packed into rows of `capacity`, `rows` of them a batch; an epoch visits each document once."""

    def __init__(self, lengths: Sequence[int], capacity: int, rows: int, seed: int) -> None:
        self.lengths, self.capacity, self.rows, self.seed = np.asarray(lengths), capacity, rows, seed
        self.usable = np.flatnonzero(self.lengths <= capacity)
        self._epoch, self._plans = -1, list[list[list[int]]]()
        self._sizes: list[int] = []

    def _plan(self, epoch: int) -> list[list[list[int]]]:
        rng = np.random.default_rng((self.seed, epoch))
        filled: list[list[int]] = []
        open_rows: list[tuple[int, list[int]]] = []
        for index in rng.permutation(self.usable):
            size = int(self.lengths[index])
            # Best fit among a few open rows: little is wasted, and neighbours in a row stay random.
            fitting = [(room, at) for at, (room, _) in enumerate(open_rows) if room >= size]
            if fitting:
                room, at = min(fitting)
                open_rows[at][1].append(int(index))
                open_rows[at] = (room - size, open_rows[at][1])
            else:
                if len(open_rows) == 16:
                    fullest = min(range(16), key=lambda at: open_rows[at][0])
                    filled.append(open_rows.pop(fullest)[1])
                open_rows.append((self.capacity - size, [int(index)]))
        filled += [row for _, row in open_rows]
        while len(filled) % self.rows:
            filled.append(filled[int(rng.integers(len(filled)))])
        order = rng.permutation(len(filled))
        return [[filled[i] for i in order[at : at + self.rows]] for at in range(0, len(order), self.rows)]

    def __call__(self, step: int) -> list[list[int]]:
        """Documents of every row of the batch of a step, counted over all epochs."""
        epoch, first = 0, 0
        while True:
            if epoch >= len(self._sizes):
                self._sizes.append(len(self._plan(epoch)))
            if step < first + self._sizes[epoch]:
                break
            first += self._sizes[epoch]
            epoch += 1
        if epoch != self._epoch:
            self._epoch, self._plans = epoch, self._plan(epoch)
        return self._plans[step - first]
