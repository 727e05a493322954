"""Units of many utterances to sound, batched: the flow's slots and the speech tokenizer's, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..kernels.graph import Lane
from .audio import HOP
from .bundle import Bundle
from .generation import SOUND_SEED
from .perceptual.slots import FlowSlots
from .perceptual.streaming import StreamingFlow
from .speech_tokenizer.slots import DecoderSlots
from .voice import MAX_VOICE_SECONDS, Voice
from .voice_prompts import VoicePrompts


class SoundSlots:
    """A bundle's mouth for `slots` utterances at once, on one lane. Call with the lane entered.

    The slot twin of `Speaker` and `Utterance`: the same noise, positions and blocks, the same sound but for rounding.
    """

    def __init__(self, bundle: Bundle, lane: Lane, *, slots: int, buckets: Sequence[int]) -> None:
        self.lane = lane
        self.spent = {"flow": 0.0, "codec": 0.0}
        """Seconds that the parts of the last batch took."""
        self.buckets = tuple(buckets)
        config = bundle.config
        longest = max(round(MAX_VOICE_SECONDS * 50), *(voice.frames for voice in bundle.voices.values()))
        codebook = bundle.tokenizer.codebooks.vectors[0]
        self._prompts = VoicePrompts(bundle, StreamingFlow(bundle.perceptual, config.solver, config.blocks))
        self.flow = FlowSlots(
            bundle.perceptual,
            codebook,
            config.solver,
            config.blocks,
            lane,
            slots=slots,
            prompt=longest,
            buckets=self.buckets,
        )
        self.decoder = DecoderSlots(
            bundle.tokenizer.decoder, self.flow.latents, lane, slots=slots, buckets=self.buckets
        )

    def capture(self) -> None:
        """Capture the graphs of both."""
        self.flow.capture()
        self.decoder.capture()

    @torch.inference_mode()
    def open(self, slot: int, voice: Voice, seed: int) -> None:
        """Begin an utterance. Raises ValueError for a voice longer than any that the slots were made for."""
        self.flow.open(slot, seed ^ SOUND_SEED, self._prompts.of(voice))
        self.decoder.open(slot)

    @torch.inference_mode()
    def speak(self, blocks: Sequence[tuple[int, Sequence[int]]]) -> list[NDArray[np.float32]]:
        """Sound of the next block of some slots, (slot, units), each float32 (320 * units,); may hold NaN."""
        frames = [self.flow.frame(slot) for slot, _ in blocks]
        began = self.lane.instant()
        self.flow.solve(blocks)
        solved = self.lane.instant()
        self.decoder.decode([(slot, first, len(units)) for (slot, units), first in zip(blocks, frames, strict=True)])
        decoded = self.lane.instant()
        pcm = self.lane.download(self.decoder.pcm[: len(blocks)]).take()[0].numpy()
        self.spent = {"flow": began.until(solved), "codec": solved.until(decoded)}
        return [row[: len(units) * HOP].copy() for row, (_, units) in zip(pcm, blocks, strict=True)]

    def frame(self, slot: int) -> int:
        """Frames of a slot's utterance that were spoken."""
        return self.flow.frame(slot)
