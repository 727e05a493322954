"""The semantic model: LLaMA blocks (GQA, RoPE, RMSNorm, SwiGLU) under the parameter names of Hugging Face.

Source: Touvron et al. 2023 (arXiv 2307.09288); numerics follow `transformers`' LlamaForCausalLM: rotate-half RoPE with
fp32 angles, RMSNorm in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.attention import attend, attend_packed, attention_with_kvcache
from ..errors import ConfigError
from ..speech_tokenizer.detail import DETAIL_LEVELS, levels_of
from .cache import KVCache


@dataclass(frozen=True)
class SemanticConfig:
    """Shape of the model, under the names that Hugging Face's config.json uses."""

    vocab_size: int
    hidden_size: int = 512
    intermediate_size: int = 1408
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 4096
    detail: int = 0
    """Digits of a unit's detail (`speech_tokenizer/detail.py`), heard and spoken; no part of a LLaMA."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name not in ("tie_word_embeddings", "detail") and not value > 0:
                raise ConfigError(f"semantic model: {name} must be positive, not {value}")
        if not self.detail >= 0 or self.vocab_size * (1 + DETAIL_LEVELS**self.detail) > 1 << 63:
            raise ConfigError(
                f"semantic model: detail = {self.detail} digits and a vocabulary of {self.vocab_size} "
                "do not go into 63 bits: make detail smaller"
            )
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ConfigError(
                f"semantic model: hidden_size {self.hidden_size} does not split into "
                f"{self.num_attention_heads} heads of even size"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"semantic model: {self.num_key_value_heads} key/value heads do not divide "
                f"{self.num_attention_heads} heads"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> SemanticConfig:
        """Read a config.json of LlamaForCausalLM. Raises ConfigError for what this model does not compute."""
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        unsupported = {
            "model_type": config.get("model_type", "llama") != "llama",
            "hidden_act": config.get("hidden_act", "silu") != "silu",
            "attention_bias": bool(config.get("attention_bias", False)),
            "mlp_bias": bool(config.get("mlp_bias", False)),
            "rope_scaling": kind != "default",
        }
        if any(unsupported.values()):
            names = ", ".join(f"{k}={config.get(k, kind)!r}" for k, wrong in unsupported.items() if wrong)
            raise ConfigError(
                f"config.json asks for {names}; only LLaMA with silu, no bias, unscaled RoPE is supported"
            )
        heads = "num_attention_heads"
        required = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", heads)
        missing = [name for name in required if name not in config]
        if missing:
            raise ConfigError(f"config.json lacks {', '.join(missing)}; is it a LLaMA configuration?")
        read = cls(
            **{name: int(config[name]) for name in required},
            num_key_value_heads=int(config.get("num_key_value_heads") or config[heads]),
            rope_theta=float(config.get("rope_theta") or rope.get("rope_theta") or 10000.0),
            rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            max_position_embeddings=int(config.get("max_position_embeddings", 2048)),
        )
        if config.get("head_dim") not in (None, read.head_dim):
            raise ConfigError(f"config.json asks for head_dim={config['head_dim']}; only {read.head_dim} is supported")
        return read

    def to_hf(self) -> dict[str, Any]:
        """The config.json that `transformers` would load these weights with."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            **{name: value for name, value in asdict(self).items() if name != "detail"},
        }


class SemanticModel(nn.Module):
    """Decoder-only transformer over the speech vocabulary. Knows nothing of quantisation, sampling or conversations."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
            self.register_state_dict_post_hook(_drop_head)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(_restore_head)  # type: ignore[no-untyped-call]
        self.apply(_initialise)
        self.detail_head: nn.Linear | None = None
        if config.detail:
            with torch.random.fork_rng(devices=[]):  # what a seed gives does not hang on whether there is one
                self.detail_head = nn.Linear(2 * config.hidden_size, config.detail * DETAIL_LEVELS, bias=False)
                _initialise(self.detail_head)

    def forward(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Logits of the token after each of `tokens`.

        tokens: int64 (B, T), units that are heard with their detail (`vocabulary.told`). cache: keys and values of
        what came before; `tokens` are appended to it in place.
        positions: int (B, T) rotary positions, by default counted on from the cache's length; packed training rows
        restart them at each document. mask: bool (B, 1, T, T), True = may attend, for packed rows without a cache;
        by default causal. Returns (B, T, V). Raises EngineError when the cache is full.
        """
        logits: Tensor = self.lm_head(self.hidden(tokens, cache, positions, mask))
        return logits

    def hidden(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """`forward` without the head: normalised states (B, T, hidden), for callers that need logits of few rows."""
        if cache is not None and mask is not None:
            raise ValueError("a mask is for packed rows without a cache; with a cache attention is causal")
        states: Tensor = self.model(tokens, cache, positions, mask)
        return states

    def detail_logits(self, states: Tensor, units: Tensor) -> Tensor:
        """Logits (N, digits, levels) of the detail of unit tokens (N,) that were drawn by `states` (N, hidden).

        Each digit for itself: what word is being said decides them, and both states and unit know of it. Raises
        TypeError when the model knows no detail.
        """
        if self.detail_head is None:
            raise TypeError("this model knows no detail")
        told = torch.cat((states, self.model.embed_tokens(units)), dim=-1)
        logits: Tensor = self.detail_head(told)
        return logits.view(*logits.shape[:-1], -1, DETAIL_LEVELS)

    def fuse_(self) -> SemanticModel:
        """Join q|k|v and gate|up into one linear each: a decode step makes fewer, larger products. For inference only:
        the parameters' names change, so load before and save before."""
        for module in self.modules():
            if isinstance(module, _Attention | _MLP) and not module.fused:
                module.fuse_()
        return self

    def empty_cache(self, capacity: int | None = None, rows: int = 1, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache that fits this model; capacity defaults to `max_position_embeddings`."""
        weight = self.model.embed_tokens.weight
        return KVCache.empty(
            layers=self.config.num_hidden_layers,
            kv_heads=self.config.num_key_value_heads,
            head_dim=self.config.head_dim,
            capacity=capacity or self.config.max_position_embeddings,
            rows=rows,
            device=weight.device,
            dtype=dtype or weight.dtype,
        )


class _Decoder(nn.Module):
    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_detail = _DetailEmbedding(config.detail, config.hidden_size) if config.detail else None
        self.layers = nn.ModuleList(_Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = _RMSNorm(config)

    def forward(self, tokens: Tensor, cache: KVCache | None, positions: Tensor | None, mask: Tensor | None) -> Tensor:
        new = tokens.shape[1]
        if cache is not None:
            cache.reserve(new)
        if positions is None:
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + new, device=tokens.device)[None]
        x = self.embed(tokens)
        rotation = _rotation(positions, self.config.head_dim, self.config.rope_theta)
        for layer in self.layers:
            x = layer(x, rotation, cache, mask)
        if cache is not None:
            cache.length += new
        states: Tensor = self.norm(x)
        return states

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T), units among them with or without detail -> (B, T, hidden)."""
        if self.embed_detail is None:
            return self.embed_tokens(tokens)  # type: ignore[no-any-return]
        size = self.config.vocab_size
        return self.embed_tokens(tokens % size) + self.embed_detail(tokens // size)  # type: ignore[no-any-return]


class _DetailEmbedding(nn.Embedding):
    """Detail (B, T) -> (B, T, hidden): the sum of a vector for the level of each digit, and nothing for none.

    It starts from nothing, so that a model which knew no detail goes on as it was.
    """

    def __init__(self, digits: int, hidden: int) -> None:
        super().__init__(digits * DETAIL_LEVELS, hidden)
        self.digits = digits

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, detail: Tensor) -> Tensor:
        first = DETAIL_LEVELS * torch.arange(self.digits, device=detail.device)
        rows = (levels_of(detail, self.digits) + first).view(-1, self.digits)
        told = F.embedding_bag(rows, self.weight, mode="sum").view(*detail.shape, -1)
        return torch.where(detail[..., None] > 0, told, 0.0)


class _Layer(nn.Module):
    def __init__(self, config: SemanticConfig, index: int) -> None:
        super().__init__()
        self.self_attn = _Attention(config, index)
        self.mlp = _MLP(config)
        self.input_layernorm = _RMSNorm(config)
        self.post_attention_layernorm = _RMSNorm(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], cache: KVCache | None, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, cache, mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class _Attention(nn.Module):
    def __init__(self, config: SemanticConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        kv_size = config.num_key_value_heads * config.head_dim
        self.sizes = [config.hidden_size, kv_size, kv_size]
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], cache: KVCache | None, mask: Tensor | None) -> Tensor:
        batch, new, _ = x.shape
        q, k, v = (t.view(batch, new, -1, self.head_dim) for t in self._project(x))
        q, k = _rotate(q, rotation), _rotate(k, rotation)
        if cache is not None:
            attended = attention_with_kvcache(
                q, cache.keys[self.index], cache.values[self.index], k, v, cache_seqlens=cache.length, causal=True
            )
        else:
            # Repeating the few key heads is quicker on a CPU than SDPA's own grouping, which leaves the fused kernel.
            k, v = (t.repeat_interleave(self.groups, dim=2) if self.groups > 1 else t for t in (k, v))
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            attended = (attend(q, k, v, causal=True) if mask is None else attend_packed(q, k, v, mask)).transpose(1, 2)
        out: Tensor = self.o_proj(attended.reshape(batch, new, -1))
        return out

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        if self.fused:
            return torch.split(self.qkv_proj(x), self.sizes, dim=-1)
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    @property
    def fused(self) -> bool:
        return hasattr(self, "qkv_proj")

    def fuse_(self) -> None:
        self.qkv_proj = _joined(self.q_proj, self.k_proj, self.v_proj)
        del self.q_proj, self.k_proj, self.v_proj


class _MLP(nn.Module):
    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        else:
            gate, up = self.gate_proj(x), self.up_proj(x)
        out: Tensor = self.down_proj(F.silu(gate) * up)
        return out

    @property
    def fused(self) -> bool:
        return hasattr(self, "gate_up_proj")

    def fuse_(self) -> None:
        self.gate_up_proj = _joined(self.gate_proj, self.up_proj)
        del self.gate_proj, self.up_proj


class _RMSNorm(nn.Module):
    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.eps = config.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def _joined(*linears: nn.Linear) -> nn.Linear:
    joined = nn.Linear(linears[0].in_features, sum(each.out_features for each in linears), bias=False, device="meta")
    joined.weight = nn.Parameter(torch.cat([each.weight.detach() for each in linears]), requires_grad=False)
    return joined


@lru_cache(maxsize=8)
def _frequencies(head_dim: int, theta: float, device: torch.device) -> Tensor:
    # Kept outside the module: a buffer would be rounded by `module.to(bfloat16)` and turn up in state dicts.
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    return 1.0 / theta**exponents


def _rotation(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine (B, T, 1, head_dim) of every rotary angle, in fp32, the sine negated in the first half."""
    angles = positions[..., None, None].float() * _frequencies(head_dim, theta, positions.device)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (r.to(x.dtype) for r in rotation)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)  # rotate-half, with its sign in the sine


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding) and not isinstance(module, _DetailEmbedding):
        nn.init.normal_(module.weight, std=0.02)


def _drop_head(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]) -> None:
    state.pop(f"{prefix}lm_head.weight", None)  # tied: one tensor, one name, as `transformers` saves it


def _restore_head(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    embedding = state.get(f"{prefix}model.embed_tokens.weight")
    if embedding is not None:
        state[f"{prefix}lm_head.weight"] = embedding
