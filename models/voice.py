"""A voice: three seconds of somebody's speech, as the perceptual model wants it."""

from dataclasses import dataclass

from torch import Tensor

MIN_VOICE_SECONDS = 0.5
"""Less speech than this does not tell how somebody sounds."""

MAX_VOICE_SECONDS = 3.0
"""Prompts are trained to at most this length; of a longer recording the loudest part is kept."""


@dataclass(frozen=True, eq=False)
class Voice:
    """The in-context prompt of the perceptual model (paper section 3.3).

    name: what people call it. units: int64 (P,), the RVQ-1 units of P frames of 20 ms, with their detail where the
    encoder tells any (`speech_tokenizer/detail.py`): a flow that knows detail is prompted with it in training too.
    latents: float32 (P, D), the summed codec latents of the same frames.
    """

    name: str
    units: Tensor
    latents: Tensor

    @property
    def frames(self) -> int:
        """Length P of the prompt in frames of 20 ms."""
        return int(self.units.shape[0])
