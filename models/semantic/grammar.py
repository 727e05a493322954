"""What a model may draw when: a small automaton over token classes, which a session and a device follow alike.

    text      TEXT_FIRST -> TEXT ... <ua> stops
    spoken    WORD_FIRST -> WORD ... <eosp> stops                                  (the words are known)
    direct    SPELL_FIRST -> SPELL ... <sosp> -> SOUND_FIRST -> SOUND ... <eosp> -> SPELL_NEXT -> SPELL ...
              where SPELL_NEXT may stop with <eos>

A phase allows a set of tokens; one of them, its `exit`, leaves it. After `limit` others the exit is forced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import torch
from torch import Tensor

from .vocabulary import SpeechVocabulary

NEVER: Final = -1
"""No such token; no such phase."""


class Phase(IntEnum):
    """Where an answer is."""

    TEXT_FIRST = 0
    TEXT = 1
    WORD_FIRST = 2
    WORD = 3
    SPELL_FIRST = 4
    SPELL = 5
    SOUND_FIRST = 6
    SOUND = 7
    SPELL_NEXT = 8


@dataclass(frozen=True)
class DecodingLimits:
    """What a model, however badly trained, can't exceed.

    word_frames: units of one word (75 = 1.5 s), then its end is forced; one word in two thousand lasts longer, and a
    model that is lost never ends one. text_tokens: of an answer. words, word_characters: of one in mode "direct".
    unit_tokens: text tokens written after one heard unit, final_tokens: after the last. token_units: units heard for
    each text token, over the whole turn, beyond the first `unit_tokens`.
    listen_bias: added to the logit of `<listen>`: above 0 words are written later and more surely, below 0 sooner.
    """

    word_frames: int = 75
    text_tokens: int = 256
    words: int = 200
    word_characters: int = 40
    unit_tokens: int = 16
    final_tokens: int = 32
    token_units: int = 4
    listen_bias: float = 0.0


@dataclass(frozen=True, eq=False)
class PhaseRule:
    """One phase. allowed: token ids (n,) int64, the exit among them. inner: the phase after any other token.
    outer: the phase after the exit, NEVER to stop. limit: tokens of the span, over its phases, before the exit."""

    allowed: Tensor
    units: bool
    exit: int
    inner: int
    outer: int
    limit: int


class Grammar:
    """The rules of one vocabulary, one for each phase."""

    def __init__(self, vocabulary: SpeechVocabulary, limits: DecodingLimits | None = None) -> None:
        self.vocabulary = vocabulary
        self.limits = limits = limits or DecodingLimits()
        v = vocabulary
        text, letters = (mask.nonzero().flatten() for mask in (v.text_ids, v.character_ids))
        units = torch.arange(v.unit(0), v.unit(1023) + 1)
        p = Phase
        self.rules: Sequence[PhaseRule] = (
            PhaseRule(text, False, NEVER, p.TEXT, NEVER, limits.text_tokens),
            PhaseRule(_with(text, v.ua), False, v.ua, p.TEXT, NEVER, limits.text_tokens),
            PhaseRule(units, True, NEVER, p.WORD, NEVER, limits.word_frames),
            PhaseRule(_with(units, v.eosp), True, v.eosp, p.WORD, NEVER, limits.word_frames),
            PhaseRule(letters, False, NEVER, p.SPELL, NEVER, limits.word_characters),
            PhaseRule(_with(letters, v.sosp), False, v.sosp, p.SPELL, p.SOUND_FIRST, limits.word_characters),
            PhaseRule(units, True, NEVER, p.SOUND, NEVER, limits.word_frames),
            PhaseRule(_with(units, v.eosp), True, v.eosp, p.SOUND, p.SPELL_NEXT, limits.word_frames),
            PhaseRule(_with(letters, v.eos), False, v.eos, p.SPELL, NEVER, limits.word_characters),
        )

    def bias(self, stop: int) -> float:
        """What is added to the logit of `stop` while speech is heard."""
        return self.limits.listen_bias if stop == self.vocabulary.listen else 0.0

    def follow(self, phase: int, count: int, token: int) -> tuple[int, int]:
        """Phase and count of the span's tokens after `token` was drawn; NEVER for the phase when that was the end."""
        rule = self.rules[phase]
        return (rule.outer, 0) if token == rule.exit else (rule.inner, count + 1)

    def forced(self, phase: int, count: int) -> int | None:
        """The token that has to come, if the span has lasted long enough."""
        rule = self.rules[phase]
        return rule.exit if count >= rule.limit and rule.exit != NEVER else None


def _with(ids: Tensor, token: int) -> Tensor:
    return torch.cat((ids, torch.tensor([token])))
