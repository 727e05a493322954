"""Keys and values in fp8: what each head's are worth, found by letting the model read once.

A decode step of many long conversations reads more cache than weights; in fp8 (e4m3) it is half as much. Attention
computes as before, on what a head's stored numbers times its scale are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..speech_tokenizer.detail import DETAIL_LEVELS
from .grammar import Grammar
from .layout import open_answer, open_speech
from .llama import SemanticModel
from .vocabulary import N_UNITS

_HEADROOM = 2.0
"""A head's largest number may be so many times what was seen; beyond it is clamped. For a floating point format that
costs a bit of its range at the small end, and no precision elsewhere."""


@torch.inference_mode()
def cache_scales(model: SemanticModel, grammar: Grammar) -> Tensor:
    """Fp32 (layers, 2, kv heads): what 1.0 in an fp8 cache is worth, for keys and for values."""
    vocabulary = grammar.vocabulary
    spoken = [vocabulary.unit(index) for index in range(0, N_UNITS, 8)]
    details = torch.randint(DETAIL_LEVELS**model.config.detail, (N_UNITS,), generator=torch.Generator().manual_seed(0))
    told = 1 + details if model.config.detail else torch.zeros_like(details)
    heard = [vocabulary.told(index + N_UNITS * int(told[index])) for index in range(0, N_UNITS, 8)]
    letters = vocabulary.character_ids.nonzero().flatten().tolist()[:32]
    tokens = [*open_speech(vocabulary), *heard, vocabulary.eosp, vocabulary.eoh, *open_answer(vocabulary, "text")]
    tokens += [*letters, vocabulary.ua, *letters, vocabulary.sosp, *spoken[::-1], vocabulary.eosp]
    cache = model.empty_cache(len(tokens))
    model.hidden(torch.tensor([tokens], device=cache.keys.device), cache)
    largest = torch.stack((cache.keys, cache.values), 1).float().abs().amax((2, 3, 5))  # of rows, times and channels
    scales: Tensor = _HEADROOM * largest / torch.finfo(torch.float8_e4m3fn).max
    return scales.clamp_min(torch.finfo(torch.float32).tiny)
