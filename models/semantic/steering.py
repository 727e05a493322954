"""Random weights that talk as if they were trained: some tokens become likelier, whatever came before."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .llama import SemanticModel


@torch.no_grad()
def steer(semantic: SemanticModel, constant: float, likelier: Iterable[tuple[int, float]]) -> None:
    """Set what every token's embedding has in channel 0 to `constant`, and what the head makes of it for some tokens.

    No layer writes to that channel, so it arrives at the head as it is. likelier: (token, the head's weight).
    """
    for name, parameter in semantic.model.layers.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter[0] = 0.0
    semantic.model.embed_tokens.weight[:, 0] = constant
    if semantic.model.embed_detail is not None:
        semantic.model.embed_detail.weight[:, 0] = 0.0
    head = semantic.lm_head.weight
    head[:, 0] = 0.0
    for token, weight in likelier:
        head[token, 0] = weight
