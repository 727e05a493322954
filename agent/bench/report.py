"""The figures of a measurement, as one JSON object."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .conversation import PARTS, Turn
from .sessions import Plan, Session

RAISED = 0.05
"""Seconds above its usual delay from which a listener counts as delayed."""


def report(plan: Plan, sessions: Sequence[Session]) -> dict[str, Any]:
    """All figures of a measurement; percentiles over the turns that were answered, times in ms unless named."""
    turns = [turn for session in sessions for turn in session.turns]
    answered = [turn for turn in turns if turn.voice_to_voice is not None]
    return {
        "url": plan.url,
        "transport": plan.transport,
        "sessions": plan.sessions,
        "loss": plan.loss,
        "jitter_ms": 1000 * plan.jitter,
        "turns": len(turns),
        "failed": len(turns) - len(answered),
        "underruns": sum(turn.underruns for turn in turns),
        "longest_stall_ms": round(max((turn.stall for turn in turns), default=0.0), 1),
        "voice_to_voice_ms": percentiles(turn.voice_to_voice for turn in answered),
        "endpointing_ms": percentiles(turn.endpointing for turn in answered),
        "answering_ms": percentiles(turn.answering for turn in answered),
        "barge_in_stop_ms": percentiles(turn.barge_in for turn in turns),
        "parts_ms": {name: percentiles(turn.parts.get(name) for turn in answered) for name in PARTS},
        "transport_ms": percentiles(turn.transport for turn in answered),
        "packets": _packets(sessions),
        "delay": _delay(sessions),
        "each": [_turn(session.number, turn) for session in sessions for turn in session.turns],
    }


def percentiles(values: Iterable[float | None]) -> dict[str, float] | None:
    """p50 and p95 of the values that are there, to 0.1, and their number; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    p50, p95 = (round(float(np.percentile(known, q)), 1) for q in (50, 95))
    return {"p50": p50, "p95": p95, "count": len(known)}


def raised(lags: Sequence[tuple[float, float]], end: float) -> tuple[float, float, float]:
    """A listener's usual delay beyond the least (the median in time), the greatest, and the longest time above usual.

    Args:
        lags: (instant, delay) for each change, seconds. end: instant at which the last one ended.
    """
    least = min(lag for _, lag in lags)
    spans = [(until - at, lag - least) for (at, lag), (until, _) in zip(lags, [*lags[1:], (end, 0.0)], strict=True)]
    half, passed, usual = sum(span for span, _ in spans) / 2, 0.0, 0.0
    for span, usual in sorted(spans, key=lambda each: each[1]):  # noqa: B007 - the median is where the loop ends
        passed += span
        if passed >= half:
            break
    longest = above = 0.0
    for span, lag in spans:
        above = above + span if lag > usual + RAISED else 0.0
        longest = max(longest, above)
    return usual, max(lag for _, lag in spans), longest


def _packets(sessions: Sequence[Session]) -> dict[str, Any] | None:
    late = [1000 * value for session in sessions for value in session.lateness]
    if not late:
        return None
    p50, p95, p99 = (round(float(np.percentile(late, q)), 1) for q in (50, 95, 99))
    return {
        "received": len(late),
        "lost_percent": round(100 * max(session.lost for session in sessions), 2),
        "late_ms": {"p50": p50, "p95": p95, "p99": p99, "max": round(max(late), 1)},
        "longest_concealed_ms": round(1000 * max(session.concealed for session in sessions), 1),
    }


def _delay(sessions: Sequence[Session]) -> dict[str, float] | None:
    figures = [raised(session.lags, session.lasted[1]) for session in sessions if session.lags]
    if not figures:
        return None
    usual, most, longest = (max(values) for values in zip(*figures, strict=True))
    return {
        "usual_ms": round(1000 * usual, 1),
        "max_ms": round(1000 * most, 1),
        "longest_raised_ms": round(1000 * longest, 1),
    }


def _turn(session: int, turn: Turn) -> dict[str, Any]:
    return {
        "session": session,
        "voice_to_voice_ms": _rounded(turn.voice_to_voice),
        "endpointing_ms": _rounded(turn.endpointing),
        "answering_ms": _rounded(turn.answering),
        "barge_in_stop_ms": _rounded(turn.barge_in),
        "parts_ms": turn.parts,
        "transport_ms": _rounded(turn.transport),
        "underruns": turn.underruns,
        "stall_ms": _rounded(turn.stall),
        "heard": turn.heard,
        "answer": turn.answer,
        "error": turn.error,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
