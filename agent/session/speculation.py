"""An answer prepared before it is known whether the turn is over."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...streaming.engine.protocol import Generation, Output, Transcript
from .plan import Plan


@dataclass
class Speculation:
    """An answer prepared at a soft end; its outputs are kept back until the turn has really ended.

    began: clock seconds when the engine was asked.
    """

    generation: Generation
    plan: Plan
    voice: str
    began: float
    outputs: list[Output] = field(default_factory=list)

    @property
    def transcript(self) -> str | None:
        """All that was heard up to the soft end; None while it is not known."""
        known = (output.text for output in self.outputs if isinstance(output, Transcript) and output.final)
        return next(known, None)
