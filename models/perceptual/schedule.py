"""Block schedules: which frames the flow solves together.

A schedule cuts an utterance into blocks by frame index alone, so a stream (which waits for a block's units) and the
offline run (which sees them all) cut alike. The first block is small, because a listener waits for it; later ones are
larger, because they cost less and see more at once.
"""

import random
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ..errors import ConfigError

PROMPT = 0
"""Block number of the voice prompt; the utterance's own blocks count from 1."""


@dataclass(frozen=True)
class BlockSchedule:
    """Block sizes in frames (20 ms each); the last one repeats. Raises ConfigError for sizes below 1 or none."""

    sizes: tuple[int, ...] = (10, 15, 25)

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ConfigError(f"a block schedule needs positive block sizes in frames, not {self.sizes}")

    @classmethod
    def constant(cls, size: int) -> "BlockSchedule":
        """Every block has `size` frames."""
        return cls((size,))

    @classmethod
    def random(cls, frames: int, rng: random.Random, longest: int = 60) -> "BlockSchedule":
        """A schedule to train on, so that one model serves them all: the default, one size, many sizes, one block.

        frames: length of the utterance to cut; longest: largest block drawn except for the whole utterance in one.
        """
        kind = rng.random()
        if kind < 0.3:
            return cls()
        if kind < 0.6:
            return cls.constant(rng.randint(5, longest))
        if kind < 0.9:
            return cls(tuple(rng.randint(5, longest) for _ in range(frames // 5 + 1)))
        return cls.constant(max(frames, 1))

    @property
    def longest(self) -> int:
        """Frames of the largest block."""
        return max(self.sizes)

    def size(self, index: int) -> int:
        """Frames of block `index`, the utterance's first being 0."""
        return self.sizes[min(index, len(self.sizes) - 1)]

    def lengths(self, frames: int) -> list[int]:
        """Lengths of the blocks of an utterance of `frames` frames; the last may be partial."""
        lengths: list[int] = []
        while frames > 0:
            lengths.append(min(self.size(len(lengths)), frames))
            frames -= lengths[-1]
        return lengths

    def table(self, frames: int, prompt: int = 0) -> Tensor:
        """block_of (prompt + frames,) int64: PROMPT for the prompt's frames, then 1, 2, ... along the utterance."""
        blocks = [PROMPT] * prompt
        for number, length in enumerate(self.lengths(frames), start=1):
            blocks += [number] * length
        return torch.tensor(blocks, dtype=torch.int64)


DEFAULT_SCHEDULE = BlockSchedule()


def visible(block_of: Tensor, window: int) -> Tensor:
    """Attention mask (T, T) bool, [query, key], for a block table (T,) int64 (non-decreasing).

    A frame sees its whole block, every earlier block that starts at most `window` frames before its own block does,
    and the prompt, however long ago.
    """
    start = torch.searchsorted(block_of, block_of)  # index of the first frame of each frame's block
    near = (start[:, None] - start[None, :]) <= window
    return ((block_of[None, :] <= block_of[:, None]) & near) | (block_of == PROMPT)[None, :]


class FrameSlots:
    """Which rows of a fixed buffer hold the frames that the next block may see; bookkeeping only, no tensors.

    Live frames always fill rows 0 ... `live` - 1 in some order, so attention reads one slice: order is of no
    consequence to it, since rotary positions are in the keys. Rows of blocks that left the window are used again.
    """

    def __init__(self, window: int, longest: int) -> None:
        self.window = window
        self.capacity = window + longest
        self.live = 0
        self._blocks: list[list[int]] = []

    def advance(self, length: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Make room for the next block of `length` frames.

        Returns the block's rows, and the (source, target) rows to copy first (only when a short block follows longer
        ones that left the window). Raises ValueError when `length` is larger than `longest` was.
        """
        if not 0 < length <= self.capacity - self.window:
            raise ValueError(f"a block of {length} frames; this state takes 1 to {self.capacity - self.window}")
        ages = list(accumulate(len(block) for block in reversed(self._blocks)))  # of each block's start, latest first
        kept = sum(age <= self.window for age in ages)
        leaving = self._blocks[: len(self._blocks) - kept]
        self._blocks = self._blocks[len(self._blocks) - kept :]

        free = sorted(row for block in leaving for row in block)
        rows, holes = free[:length], free[length:]
        grown = length - len(rows)
        rows += range(self.live, self.live + grown)
        self.live += grown - len(holes)
        moves = self._fill(holes)
        self._blocks.append(rows)
        return rows, moves

    def _fill(self, holes: list[int]) -> list[tuple[int, int]]:
        """Move the kept frames beyond the live rows into the holes before them."""
        targets = iter(hole for hole in holes if hole < self.live)
        moves: list[tuple[int, int]] = []
        for block in self._blocks:
            for index, row in enumerate(block):
                if row >= self.live:
                    block[index] = next(targets)
                    moves.append((row, block[index]))
        return moves
