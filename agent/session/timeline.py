"""Where the time of one answer went, as told in the metadata of `response.done` and in the metrics."""

from __future__ import annotations

from dataclasses import dataclass

from ...streaming.engine.protocol import Finished
from .. import metrics

_STAGES = ("transcript", "first_token", "first_unit", "first_block", "first_audio")


@dataclass
class Timeline:
    """Instants of one answer, in seconds of the session's clock.

    since: the user's last voiced sample, or response.create of a manual or typed turn. decided: the turn was found to
    be over. generating: the engine was asked. played: the first sound left for the listener.
    """

    since: float
    decided: float
    generating: float
    preemptive: bool = False
    played: float | None = None

    def report(self, finished: Finished | None, underruns: int) -> dict[str, str]:
        """Milliseconds from `since` to each stage that was reached, as metadata of a response.

        The parts of an engine that tells them (see Finished) are milliseconds of their own, not instants.

        An answer prepared while somebody still spoke may have had its first words before `since`: that stage is 0,
        since nobody waited for it.
        """
        stages = {"end_of_turn": self.decided - self.since}
        timings = finished.timings if finished is not None else {}
        stages |= {name: self.generating - self.since + timings[name] / 1000 for name in _STAGES if name in timings}
        if self.played is not None:
            stages["played"] = self.played - self.since
        stages = {name: max(0.0, value) for name, value in stages.items()}
        for name, value in stages.items():
            metrics.LATENCY.labels(name).observe(value)
        report = {f"{name}_ms": str(round(1000 * value)) for name, value in stages.items()}
        for name, value in (finished.parts if finished is not None else {}).items():
            metrics.PARTS.labels(name).observe(value / 1000)
            report[f"{name}_ms"] = f"{value:.1f}"
        return {**report, "preemptive": str(self.preemptive).lower(), "underruns": str(underruns)}
