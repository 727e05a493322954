"""How many conversations a machine keeps up with: measured at the start, from what a step and a block take there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

UNITS_PER_SECOND = 50
TOKENS_PER_SECOND = 60
"""Units, and the letters and ends of words among them."""
SHARE = 0.8
"""Of the machine's time that speaking may take: listening, beginnings and chance take the rest."""


@dataclass(frozen=True)
class Load:
    """What one batch size takes, in seconds: `token` a decode step, `block` flow and decoder of `frames` frames."""

    size: int
    token: float
    block: float
    frames: int

    @property
    def share(self) -> float:
        """Seconds of work that `size` conversations make in a second, if all of them speak at once."""
        return self.token * TOKENS_PER_SECOND + self.block * UNITS_PER_SECOND / self.frames


def admitted(loads: Sequence[Load], slots: int) -> int:
    """How many of `slots` conversations can speak at once in real time by these measurements; at least 1."""
    able = [load.size for load in loads if load.share <= SHARE]
    return max(1, min(slots, max(able, default=1)))


def median_seconds(work: Callable[[], object], now: Callable[[], float], repeats: int = 5) -> float:
    """Median time of some work that waits for its own end."""
    times = []
    for _ in range(repeats):
        began = now()
        work()
        times.append(now() - began)
    return sorted(times)[repeats // 2]
