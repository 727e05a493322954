"""How much device memory a model with so many slots takes, from its configuration alone: said before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .bundle import BundleConfig
from .errors import ConfigError
from .perceptual.block_causal import BlockCausalFlow
from .semantic.llama import SemanticModel
from .speech_tokenizer.streaming import StreamingSpeechTokenizer
from .voice import MAX_VOICE_SECONDS

GB = 10**9
_WORK = 3 * GB
"""The CUDA context, libraries, and what passes and graphs compute in."""
_PROMPTS = 8


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes. weights: of all three models; slot: of one conversation's caches; fixed: of voices and work."""

    weights: int
    slot: int
    fixed: int

    def total(self, slots: int) -> int:
        return self.weights + self.slot * slots + self.fixed


def memory_need(config: BundleConfig, precision: str, context: int, *, fp8_cache: bool = False) -> MemoryNeed:
    """What `slots` conversations of `context` tokens take with weights in `precision`; caches are in bfloat16, or the
    semantic model's in fp8."""
    with torch.device("meta"):
        tokenizer = StreamingSpeechTokenizer(config.tokenizer)
        semantic, perceptual = SemanticModel(config.semantic), BlockCausalFlow(config.perceptual)
    size = {"float32": 4, "fp8": 1, "int8": 1}.get(precision, 2)
    other = 4 if precision == "float32" else 2
    # The embedding is looked up, not multiplied: it keeps its precision.
    embedding = config.semantic.vocab_size * config.semantic.hidden_size
    weights = (_count(semantic) - embedding) * size + embedding * other + _count(perceptual) * other
    weights += _count(tokenizer) * 4
    heads = config.semantic.num_key_value_heads * config.semantic.head_dim
    tokens = 2 * config.semantic.num_hidden_layers * (context + 16) * heads * (1 if fp8_cache else other)
    flow = config.perceptual
    frame = 2 * config.solver.nfe * flow.depth * flow.dim * other
    prompt = round(MAX_VOICE_SECONDS * 50)
    ring = frame * (prompt + flow.window_frames + config.blocks.longest + 1)
    return MemoryNeed(weights, tokens + ring, _PROMPTS * frame * prompt + _WORK)


def check_memory(
    config: BundleConfig, precision: str, context: int, *, slots: int, free: int, name: str, fp8_cache: bool = False
) -> None:
    """Raise ConfigError, in one line, when a model and its slots will not fit into `free` bytes."""
    need = memory_need(config, precision, context, fp8_cache=fp8_cache)
    wanted = need.total(slots)
    if wanted <= free:
        return
    fitting = (free - need.total(0)) // need.slot
    halved = "" if fp8_cache else ", or set kv_cache to fp8"
    advice = (
        f"set slots to {fitting} or fewer, or shorten the context{halved}"
        if fitting >= 1
        else "use a GPU with more memory, or a smaller model"
    )
    raise ConfigError(
        f"{name} in {precision} with {slots} slots of {context} tokens needs {wanted / GB:.1f} GB of GPU memory and "
        f"{free / GB:.1f} GB are free: {advice}"
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
