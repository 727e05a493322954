"""What a conversation asks of a language model, whoever runs it: one sequence that is fed, scored and drawn from.

Every call names the position where its tokens go, so the caller's list of tokens is the only truth about the memory's
length, and going back is nothing but naming an earlier position.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..speech_tokenizer.detail import detail_of
from .grammar import NEVER, Grammar, Phase
from .llama import SemanticModel
from .sampling import Sampler, SamplingOptions


@dataclass
class Draws:
    """The draws of one answer: each has its number, which is the position of its noise."""

    options: SamplingOptions
    seed: int
    made: int = 0


class Opening(NamedTuple):
    """What is fed before an answer's first token, and how that is drawn."""

    tokens: Sequence[int]
    phase: Phase
    draws: Draws


Drawn = Generator[int, None, None]
"""Tokens as they are drawn, units with their detail. Closing it stops the drawing."""


@dataclass(frozen=True)
class Score:
    """After one token: the likeliest text token, and whether it is likelier than that token's stop."""

    text: int
    wanted: bool


class Decoder(Protocol):
    """One sequence of a model. Tokens below `start` are what earlier calls put there."""

    @property
    def grammar(self) -> Grammar: ...

    @property
    def capacity(self) -> int:
        """Positions of the memory."""
        ...

    def feed(self, start: int, tokens: Sequence[int]) -> None:
        """Put `tokens` (at least one) at `start`. Raises EngineError when they do not fit."""
        ...

    def score(self, start: int, tokens: Sequence[int], stops: Sequence[int]) -> list[Score]:
        """Feed, and say after each token whether text would rather come than its stop, given the grammar's bias."""
        ...

    def score_and_draw(
        self, start: int, tokens: Sequence[int], stops: Sequence[int], opening: Opening
    ) -> tuple[list[Score], Drawn]:
        """`score`, and `draw` after an opening as if no text would come: whoever wants some closes what is drawn.

        It may all be one pass, so that an answer whose question ends as expected begins with it.
        """
        ...

    def draw(self, start: int, tokens: Sequence[int], phase: Phase, draws: Draws) -> Drawn:
        """Feed, then draw token after token by the grammar.

        Each token given out but the one that stops is in the memory when the next is asked for. It ends with the
        grammar, or without the exit token when the memory is full. `draws.made` counts what was given out.
        """
        ...


@dataclass
class LocalDecoder:
    """A decoder that has the model to itself."""

    model: SemanticModel
    grammar: Grammar
    capacity: int = 0
    _allowed: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.cache = self.model.empty_cache(self.capacity or None)
        self.capacity = self.cache.capacity
        self._device = self.cache.keys.device
        self._allowed = [rule.allowed.to(self._device) for rule in self.grammar.rules]

    def feed(self, start: int, tokens: Sequence[int]) -> None:
        self._states(start, tokens)

    @torch.inference_mode()
    def score(self, start: int, tokens: Sequence[int], stops: Sequence[int]) -> list[Score]:
        logits = self.model.lm_head(self._states(start, tokens))  # (t, V)
        best, text = logits[:, : self.grammar.vocabulary.n_text].max(dim=-1)
        stop = logits.gather(1, torch.tensor(stops, device=self._device)[:, None])[:, 0]
        bias = torch.tensor([self.grammar.bias(stop) for stop in stops], device=self._device)
        return [Score(*pair) for pair in zip(text.tolist(), (best > stop + bias).tolist(), strict=True)]

    def score_and_draw(
        self, start: int, tokens: Sequence[int], stops: Sequence[int], opening: Opening
    ) -> tuple[list[Score], Drawn]:
        return self.score(start, tokens, stops), self.draw(start + len(tokens), *opening)

    def draw(self, start: int, tokens: Sequence[int], phase: Phase, draws: Draws) -> Drawn:
        grammar, options = self.grammar, draws.options
        sampler = Sampler(options, draws.seed, grammar.vocabulary.size)
        state = self._states(start, tokens)[-1]
        at, now, count = start + len(tokens), int(phase), 0
        history: list[int] = []
        while True:
            rule = grammar.rules[now]
            token = grammar.forced(now, count)
            if token is None:
                with torch.inference_mode():
                    token = sampler.draw(
                        self._logits(state),
                        draws.made,
                        self._allowed[now],
                        temperature=options.temperature if rule.units else options.text_temperature,
                        history=history if now == Phase.TEXT else (),
                    )
            now, count = grammar.follow(now, count, token)
            if now != NEVER and at >= self.capacity:
                return
            draws.made += 1
            yield self._told(token, state) if grammar.vocabulary.is_unit(token) else token
            if now == NEVER:
                return
            history.append(token)
            state = self._states(at, [token])[-1]
            at += 1

    def _logits(self, state: Tensor) -> Tensor:
        """Of the token after a state (hidden,): (V,)."""
        logits: Tensor = self.model.lm_head(state)
        return logits

    @torch.inference_mode()
    def _told(self, unit: int, state: Tensor) -> int:
        """A unit's token that was drawn by a state (hidden,), with the likeliest level of each digit of its detail."""
        if self.model.detail_head is None:
            return unit
        logits = self.model.detail_logits(state[None], torch.tensor([unit], device=self._device))
        return unit + self.grammar.vocabulary.size * int(detail_of(logits.argmax(-1)))

    @torch.inference_mode()
    def _states(self, start: int, tokens: Sequence[int]) -> Tensor:
        self.cache.rewind(start)
        batch = torch.tensor([tokens], dtype=torch.int64, device=self._device)
        return self.model.hidden(batch, self.cache)[0]
