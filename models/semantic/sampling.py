"""Choosing the next token: classes of allowed tokens, temperature, top-k, top-p, repetition, noise by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.noise import uniform
from ..errors import ConfigError

_AHEAD = 32  # positions whose noise is drawn at once; drawing one costs nearly as much


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn. Units need some chance to sound alive; text of a small model is best taken greedily.

    temperature: of units; 0 = greedy. text_temperature: of text tokens and of spelled characters.
    top_k: only the k likeliest (0 = all). top_p: of those, the likeliest that together reach this probability.
    repetition_penalty: divides positive (multiplies negative) logits of text tokens that the answer already has
    (Keskar et al. 2019, arXiv 1909.05858); units repeat by nature and are left alone.
    Raises ConfigError for values out of range.
    """

    temperature: float = 0.7
    text_temperature: float = 0.0
    top_k: int = 50
    top_p: float = 0.9
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        valid = {
            "temperature": 0.0 <= self.temperature <= 5.0,
            "text_temperature": 0.0 <= self.text_temperature <= 5.0,
            "top_k": self.top_k >= 0,
            "top_p": 0.0 < self.top_p <= 1.0,
            "repetition_penalty": 0.1 <= self.repetition_penalty <= 10.0,
        }
        for name, right in valid.items():
            if not right:
                raise ConfigError(
                    f"sampling: {name} = {getattr(self, name)} is out of range "
                    "(temperatures 0 to 5, top_k >= 0, 0 < top_p <= 1, repetition_penalty 0.1 to 10)"
                )


class Sampler:
    """Draws tokens by Gumbel-max with counter-based noise: seed, position and logits decide a draw, nothing else."""

    def __init__(self, options: SamplingOptions, seed: int, vocabulary_size: int) -> None:
        self.options = options
        self._seed = seed
        self._size = vocabulary_size
        self._first = 0
        self._noise: Tensor | None = None

    def draw(
        self, logits: Tensor, position: int, allowed: Tensor, *, temperature: float, history: Sequence[int] = ()
    ) -> int:
        """One of the `allowed` token ids (n,) int64 by `logits` (V,).

        position: of the drawn token, counted from where the caller likes. history: ids the repetition penalty is for.
        """
        options = self.options
        logits = logits.float()
        if history and options.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(set(history)), device=logits.device)
            before = logits[seen]
            penalised = torch.where(
                before > 0, before / options.repetition_penalty, before * options.repetition_penalty
            )
            logits = logits.index_put((seen,), penalised)
        scores = logits[allowed]
        if temperature == 0.0:
            return int(allowed[scores.argmax()])
        count = min(options.top_k or len(scores), len(scores))
        scores, order = torch.topk(scores / temperature, count)
        if options.top_p < 1.0:
            probabilities = scores.softmax(0)
            before_it = probabilities.cumsum(0) - probabilities
            scores = scores.masked_fill(before_it >= options.top_p, -torch.inf)
        candidates = allowed[order]
        return int(candidates[(scores + self._gumbel(position, logits.device)[candidates]).argmax()])

    def _gumbel(self, position: int, device: torch.device) -> Tensor:
        """Gumbel noise (V,) of a position."""
        if self._noise is None or not self._first <= position < self._first + _AHEAD:
            self._first = position
            noise = uniform(self._seed, range(position, position + _AHEAD), self._size, device=device)
            self._noise = -(-noise.log()).log()
        return self._noise[position - self._first]
