"""Figures of a run: what was measured, how sure it is, and what it is measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .judges import rate


@dataclass(frozen=True)
class Figure:
    """One number of the report. low, high: 95 % bootstrap interval over items. better: "less", "more" or "" (no goal).

    floor is what has to be reached, aim where to go on to; both None for a figure that is only reported.
    """

    task: str
    measure: str
    value: float | None
    unit: str = ""
    items: int = 0
    low: float | None = None
    high: float | None = None
    better: str = ""
    floor: float | None = None
    aim: float | None = None

    @property
    def verdict(self) -> str:
        """ "aim", "floor" or "below", whichever is reached; empty without a goal."""
        if self.value is None or self.floor is None or not self.better:
            return ""

        def reached(goal: float) -> bool:
            assert self.value is not None
            return self.value <= goal if self.better == "less" else self.value >= goal

        if self.aim is not None and reached(self.aim):
            return "aim"
        return "floor" if reached(self.floor) else "below"

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded."""
        made = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {**made, "verdict": self.verdict}


_RESAMPLES = 1000


def interval(count: int, statistic: Callable[[list[int]], float]) -> tuple[float, float]:
    """95 % percentile bootstrap over items (Efron 1979); the same items always give the same interval."""
    rng = np.random.default_rng(count)
    values = [statistic(rng.integers(count, size=count).tolist()) for _ in range(_RESAMPLES)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def error_rate(task: str, measure: str, errors: Sequence[tuple[int, int]], **goal: Any) -> Figure:
    """Word error rate in per cent of (errors, words) of each item."""
    if not errors:
        return Figure(task, measure, None, "%", better="less", **goal)
    low, high = interval(len(errors), lambda chosen: rate([errors[i] for i in chosen]))
    return Figure(task, measure, rate(errors), "%", len(errors), low, high, "less", **goal)


def mean(task: str, measure: str, values: Sequence[float], unit: str = "", *, better: str = "", **goal: Any) -> Figure:
    """Mean of the values that are numbers; how many those are is `items`."""
    kept = [v for v in values if np.isfinite(v)]
    if not kept:
        return Figure(task, measure, None, unit, better=better, **goal)
    low, high = interval(len(kept), lambda chosen: float(np.mean([kept[i] for i in chosen])))
    return Figure(task, measure, float(np.mean(kept)), unit, len(kept), low, high, better, **goal)


def share(task: str, measure: str, hits: Sequence[bool], **goal: Any) -> Figure:
    """Per cent of items that are right."""
    return mean(task, measure, [100.0 * hit for hit in hits], "%", better="more", **goal)
