"""Where the time of a turn goes: what the metrics, the benchmark and the page's latency panel are made of.

All instants are seconds of one `Clock`. A turn's origin is the moment the user's last speech was received, not the
moment when its end was noticed: that is when a person begins to wait.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from .clock import Clock
from .frames import seconds

Instant: TypeAlias = Literal["turn_end", "transcript", "first_token", "first_unit", "first_audio", "played"]
INSTANTS: tuple[Instant, ...] = get_args(Instant)


class Stopwatch:
    """Seconds since it was made, or since it was last restarted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.now()

    @property
    def elapsed(self) -> float:
        return self._clock.now() - self._start

    def restart(self) -> float:
        """Start again from zero; returns the seconds until now."""
        now = self._clock.now()
        elapsed, self._start = now - self._start, now
        return elapsed


@dataclass
class TurnTimeline:
    """The instants of one turn, clock seconds; None until it has happened.

    Attributes:
        speech_end: the user's last voiced sample came in (of a typed message: the message did).
        turn_end: the end of the turn was decided.
        transcript: the transcript of the turn was complete.
        first_token: first token of the answer's text; before `turn_end` if the answer was prepared at the soft end.
        first_unit: first speech unit of the answer.
        first_audio: first samples of the answer reached playout.
        played: first samples of the answer left for the listener.
    """

    speech_end: float
    turn_end: float | None = None
    transcript: float | None = None
    first_token: float | None = None
    first_unit: float | None = None
    first_audio: float | None = None
    played: float | None = None

    @classmethod
    def of_turn(cls, *, now: float, position: int, last_voiced: int) -> TurnTimeline:
        """A turn that is found to be over at `now`, when `position` samples of audio have come in.

        Args:
            now: clock seconds.
            position: audio position of the newest sample (`TurnSegmenter.position`).
            last_voiced: audio position after the last speech (`TurnEnded.last_voiced`).
        """
        return cls(speech_end=now - seconds(position - last_voiced), turn_end=now)

    def mark(self, instant: Instant, now: float) -> None:
        """Note that something has happened; only the first time counts."""
        if getattr(self, instant) is None:
            setattr(self, instant, now)

    def milliseconds(self) -> dict[str, float]:
        """From `speech_end` to everything that has happened, e.g. `{"turn_end_ms": 416.0, "first_audio_ms": 630.2}`.

        Never below zero: an answer cannot have been late by less than nothing.
        """
        marks = {instant: getattr(self, instant) for instant in INSTANTS}
        return {
            f"{instant}_ms": max(0.0, round((at - self.speech_end) * 1000, 1))
            for instant, at in marks.items()
            if at is not None
        }


def percentile(values: Iterable[float], q: float) -> float:
    """The q-th percentile (0 to 100), interpolated linearly between neighbours; NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    place = (len(ordered) - 1) * q / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


class LatencyWindow:
    """The latest turns' figures by name, and their p50 and p95.

    Args:
        size: turns that are remembered.
    """

    def __init__(self, size: int = 200) -> None:
        self._size = size
        self._values: dict[str, deque[float]] = {}

    def add(self, figures: dict[str, float]) -> None:
        """Remember one turn, e.g. `TurnTimeline.milliseconds()`; names may be missing."""
        for name, value in figures.items():
            self._values.setdefault(name, deque(maxlen=self._size)).append(value)

    def summary(self) -> dict[str, dict[str, float]]:
        """`{name: {"p50": ..., "p95": ..., "count": ...}}`, names in the order in which they first came."""
        return {
            name: {"p50": percentile(values, 50), "p95": percentile(values, 95), "count": float(len(values))}
            for name, values in self._values.items()
        }
