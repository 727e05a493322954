"""Hugging Face `generate` with a static cache, compiled, on our own weights: what the decode engine is held against."""

from __future__ import annotations

import time
from typing import Any

import torch

from ...models.semantic.llama import SemanticModel
from .common import Figures, synchronise


def transformers_tokens_per_s(model: SemanticModel, context: int, *, quick: bool = False) -> Figures:
    """Tokens a second of one sequence from `context` on; what kept it from being measured, if something did."""
    try:
        import transformers
    except ImportError as error:
        return {"error": f"transformers cannot be imported: {error}"}
    try:
        peer = _peer(transformers, model)
        short, long = (4, 12) if quick else (16, 144)
        device = model.model.embed_tokens.weight.device
        prompt = torch.arange(context, device=device)[None] % model.config.vocab_size

        def generate(count: int) -> float:
            synchronise(device)
            began = time.perf_counter()
            peer.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                cache_implementation="static",
                pad_token_id=0,
            )
            synchronise(device)
            return time.perf_counter() - began

        for _ in range(2):  # compiles, then runs what was compiled
            generate(short), generate(long)
        # The difference of two lengths leaves the prompt's pass out.
        rates = [(long - short) / (generate(long) - generate(short)) for _ in range(1 if quick else 5)]
        return {"version": transformers.__version__, "tokens_per_s": round(sorted(rates)[len(rates) // 2], 1)}
    except Exception as error:
        return {"version": transformers.__version__, "error": " ".join(f"{type(error).__name__}: {error}".split())}
    finally:
        torch.compiler.reset()


def _peer(transformers: Any, model: SemanticModel) -> Any:
    """A LlamaForCausalLM that shares our fused weights: its own are views of them."""
    config = transformers.LlamaConfig(**{k: v for k, v in model.config.to_hf().items() if k != "architectures"})
    with torch.device("meta"):
        peer = transformers.LlamaForCausalLM(config)
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if "detail" in name:  # it reads and says plain tokens
            continue
        parts: tuple[tuple[str, int], ...] = ()
        if "qkv_proj" in name:
            keys = model.config.num_key_value_heads * model.config.head_dim
            parts = (("q_proj", model.config.hidden_size), ("k_proj", keys), ("v_proj", keys))
        elif "gate_up_proj" in name:
            parts = (("gate_proj", model.config.intermediate_size), ("up_proj", model.config.intermediate_size))
        if not parts:
            state[name] = tensor
            continue
        fused = next(each for each in ("qkv_proj", "gate_up_proj") if each in name)
        for (part, _), rows in zip(parts, tensor.split([size for _, size in parts]), strict=True):
            state[name.replace(fused, part)] = rows
    peer.load_state_dict(state, strict=True, assign=True)
    device = model.model.embed_tokens.weight.device
    # Not a weight, so nothing loaded it: made anew where the model is.
    with torch.device(device):
        peer.model.rotary_emb = type(peer.model.rotary_emb)(config)
    peer.generation_config.eos_token_id = None
    return peer.eval()
