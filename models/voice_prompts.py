"""Voices as prompts of the flow: encoding one takes as long as a block of speech, so those used last are kept."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from .bundle import Bundle
from .perceptual.streaming import FlowPrompt, StreamingFlow
from .voice import Voice

_KEPT: Final = 8


class VoicePrompts:
    """The prompts of a bundle's voices, and of any others, for one flow."""

    def __init__(self, bundle: Bundle, flow: StreamingFlow) -> None:
        self._tokenizer = bundle.tokenizer
        self._flow = flow
        self._known: OrderedDict[int, tuple[Voice, FlowPrompt]] = OrderedDict()

    def of(self, voice: Voice) -> FlowPrompt:
        """A voice's prompt, encoded now unless it is known."""
        known = self._known.pop(id(voice), None)
        if known is None:
            v1 = self._tokenizer.semantics(voice.units[None])[0]
            known = voice, self._flow.prompt(voice.latents, v1)
        self._known[id(voice)] = known  # the voice is kept too, so that its id stays its own
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return known[1]
