"""Drawing the next token of many rows on the device: Gumbel-max over the likeliest tokens of each row's class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .noise import uniform_at
from .selection import fused


@dataclass(frozen=True, eq=False)
class TokenClasses:
    """Sets of tokens, each a class from which a row may draw."""

    allowed: Tensor
    """(classes, V) bool."""
    ids: Tensor
    """(classes, size of the largest) int32: each class's ids in ascending order, then zeros."""
    counts: Tensor
    """(classes,) int32."""

    @classmethod
    def of(cls, classes: Sequence[Tensor], vocabulary_size: int, device: torch.device) -> TokenClasses:
        """classes: token ids (n >= 1,) of each."""
        allowed = torch.zeros(len(classes), vocabulary_size, dtype=torch.bool)
        ids = torch.zeros(len(classes), max(map(len, classes)), dtype=torch.int32)
        for number, tokens in enumerate(classes):
            allowed[number, tokens.cpu()] = True
            ids[number, : len(tokens)] = tokens.cpu().sort().values
        counts = torch.tensor([len(tokens) for tokens in classes], dtype=torch.int32)
        return cls(allowed.to(device), ids.to(device), counts.to(device))


def sample(
    logits: Tensor,
    classes: TokenClasses,
    kind: Tensor,
    *,
    keys: Tensor,
    positions: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    candidates: int = 128,
    seen: Tensor | None = None,
    seen_rows: Tensor | None = None,
    penalty: Tensor | None = None,
) -> Tensor:
    """A token for each row of logits (B, V): int64 (B,), which seed, position and logits decide, and nothing else.

    All else is (B,) and may be a strided view: kind, the row's class; keys (B, 2) and positions, of the noise
    (`noise.uniform_at`), int64; temperature, 0 = the likeliest; top_k, of `candidates` at most (0 = all of those);
    top_p, of those. seen (R, V) bool, seen_rows and penalty: logits of tokens that a row's line of `seen` marks are
    divided (positive) or multiplied (negative) by its penalty.
    """
    if fused(logits.device):
        from .gpu import sampling as ours  # not every machine has triton

        return ours.run(
            logits,
            classes.ids,
            classes.counts,
            kind,
            keys=keys,
            positions=positions,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            candidates=min(candidates, logits.shape[1]),
            seen=seen,
            seen_rows=seen_rows,
            penalty=penalty,
        )
    scores = logits.float()
    if seen is not None and seen_rows is not None and penalty is not None:
        penalised = torch.where(scores > 0, scores / penalty[:, None], scores * penalty[:, None])
        scores = torch.where(seen[seen_rows], penalised, scores)
    scores = scores.masked_fill(~classes.allowed[kind], -torch.inf)
    greedy = scores.argmax(-1)
    hot = torch.where(temperature > 0, temperature, 1.0)[:, None]
    best, tokens = torch.topk(scores / hot, min(candidates, scores.shape[-1]))
    ranks = torch.arange(best.shape[-1], device=logits.device)
    best = best.masked_fill(ranks >= torch.where(top_k > 0, top_k, candidates)[:, None], -torch.inf)
    probabilities = best.softmax(-1)
    before_it = probabilities.cumsum(-1) - probabilities
    best = best.masked_fill((before_it >= top_p[:, None]) & (top_p < 1.0)[:, None], -torch.inf)
    noise = uniform_at(keys, positions, tokens)
    chosen = (best - (-noise.log()).log()).argmax(-1)
    return torch.where(temperature > 0, tokens.gather(-1, chosen[:, None])[:, 0], greedy)
