"""The semantic model over static slots: many sequences at once, each at its own length, from one set of CUDA graphs.

A slot is a row of the key/value cache and a row of small numbers: the last token, the length, the phase of the grammar,
the noise keys. A step feeds every row's last token, draws the next by the slot's phase and writes it back, so a burst
of steps needs no host between them; what stopped, or was never named in `rows`, is idle. Nothing that changes from one
call to the next is outside device memory: one capture per batch size serves every length and every set of slots.

Knows nothing of threads, requests or conversations; `LocalDecoder` is its plain twin for one sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ...kernels.attention import attention_with_kvcache
from ...kernels.graph import Download, Graph, Lane
from ...kernels.noise import seed_keys
from ...kernels.rotary import rotary_tables
from ...kernels.sampling import TokenClasses, sample
from ...kernels.selection import fused
from ...kernels.weight_only import linear
from ..speech_tokenizer.detail import DETAIL_LEVELS, detail_of
from .decoder import Draws
from .grammar import NEVER, Grammar, Phase
from .llama import SemanticModel
from .rounded_cache import cache_scales
from .vocabulary import N_UNITS

NOTHING, FULL, BROKEN = -1, -2, -3
"""In place of a token: the slot was idle; its memory was full; its logits were not finite."""

_TOKEN, _LENGTH, _ACTIVE, _PHASE, _COUNT, _MADE, _KEY, _TOP_K, _FIELDS = 0, 1, 2, 3, 4, 5, 6, 8, 9
_TEMPERATURE, _TEXT_TEMPERATURE, _TOP_P, _PENALTY = range(4)

CHUNKS: Final = ((1, 16), (4, 16), (16, 16), (1, 64), (1, 256))
"""Shapes of a prefill pass: (sequences, tokens of each)."""
SLACK: Final = CHUNKS[0][1]
"""Positions beyond a slot's capacity, for the padding of the smallest chunk."""


@dataclass(frozen=True)
class SlotOptions:
    """slots: sequences at a time. capacity: tokens each can hold. buckets: batch sizes of a decode step, each a graph.
    burst: tokens drawn per launch, by bucket (1 for those not named). candidates: the likeliest tokens that a draw
    chooses from; a larger top_k, or 0, means this many. fp8_cache: keys and values rounded to half the memory."""

    slots: int
    capacity: int
    buckets: tuple[int, ...]
    burst: Mapping[int, int]
    candidates: int = 128
    fp8_cache: bool = False

    @classmethod
    def of(cls, slots: int, capacity: int) -> SlotOptions:
        """Buckets of 1, 2, 4 ... up to `slots`. Small batches draw two tokens per launch: more would make a listener
        wait for tokens beyond the first block, and a step of a large batch is long enough by itself."""
        sizes = sorted({min(1 << k, slots) for k in range(slots.bit_length() + 1)})
        return cls(slots, capacity, tuple(sizes), {size: 2 if size <= 4 else 1 for size in sizes})

    def bucket(self, rows: int) -> int:
        """The smallest bucket that holds so many rows."""
        return next(size for size in self.buckets if size >= rows)


@dataclass(frozen=True)
class Start:
    """How a slot goes on: after `token` at `length` - 1, in a phase of which `count` tokens came, `made` draws in all.

    token: NOTHING when a prefill pass is to draw the first one.
    """

    length: int
    phase: int
    draws: Draws
    count: int = 0
    made: int = 0
    token: int = NOTHING


@dataclass(frozen=True)
class Chunk:
    """One sequence's part in a prefill pass: `tokens` go to `start`.

    stops: what text is weighed against after each token; none at all where nobody asks.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    stops: Sequence[int] = ()


class SlotModel:
    """The model, its slots and their graphs, on one lane. `model` is fused (`fuse_`) and in eval mode.

    Call everything with the lane entered.
    """

    def __init__(self, model: SemanticModel, grammar: Grammar, options: SlotOptions, lane: Lane) -> None:
        self.model, self.grammar, self.options, self.lane = model, grammar, options, lane
        config, device = model.config, lane.device
        slots, rows = options.slots, options.capacity + SLACK
        weight = model.model.embed_tokens.weight
        shape = (config.num_hidden_layers, 2, slots, rows, config.num_key_value_heads, config.head_dim)
        dtype = torch.float8_e4m3fn if options.fp8_cache else weight.dtype
        self.cache = torch.zeros(shape, dtype=dtype, device=device)
        self.cache_scales = cache_scales(model, grammar) if options.fp8_cache else None
        self.rotary = rotary_tables(rows, config.head_dim, config.rope_theta, device)
        # One row more than there are slots: what idle rows of a batch read and write.
        self.numbers = torch.zeros(slots + 1, _FIELDS, dtype=torch.int64, device=device)
        self.options_of = torch.ones(slots + 1, 4, device=device)
        self.seen = torch.zeros(slots + 1, config.vocab_size, dtype=torch.bool, device=device)
        self.rows = torch.full((slots,), NOTHING, dtype=torch.int64, device=device)
        self.drawn = torch.full((max(options.burst.values()), slots), NOTHING, dtype=torch.int64, device=device)
        self._table(grammar)
        self._linear_counters, self._attention_counters = _counters(model, slots, device)
        self._chunks = {
            shape: _ChunkTensors.of(shape, device) for shape in CHUNKS if shape[0] <= max(4, slots) and shape[1] <= rows
        }
        self._bursts: dict[int, Graph] = {}
        self._passes: dict[tuple[int, int], Graph] = {}

    def capture(self) -> None:
        """Capture every graph, the largest first: the smaller ones then find its memory in the pool."""
        for size in reversed(self.options.buckets):
            self._bursts[size] = self.lane.graph(lambda size=size: self._burst(size))  # type: ignore[misc]
        for shape in sorted(self._chunks, key=lambda shape: -shape[0] * shape[1]):
            self._passes[shape] = self.lane.graph(lambda shape=shape: self._pass(shape))  # type: ignore[misc]

    # What the host does to slots

    def set(self, slot: int, start: Start) -> None:
        """Let a slot draw, from the next burst on or at the end of the prefill pass that comes next.

        What a slot that nobody reads draws besides is of no consequence: `set` says everything anew.
        """
        options = start.draws.options
        keys = seed_keys(start.draws.seed)
        values = [start.token, start.length, 1, start.phase, start.count, start.made, *keys, options.top_k]
        self.lane.upload(values, self.numbers[slot])
        chances = [options.temperature, options.text_temperature, options.top_p, options.repetition_penalty]
        self.lane.upload(chances, self.options_of[slot])
        if start.phase == Phase.TEXT_FIRST:
            self.seen[slot].zero_()

    def burst(self, slots: Sequence[int]) -> Download:
        """Draw a burst for some slots. The download is (steps, rows): row r is what slots[r] drew."""
        size = self.options.bucket(len(slots))
        self.lane.upload([*slots, *[NOTHING] * (size - len(slots))], self.rows[:size])
        self._bursts[size]()
        return self.lane.download(self.drawn[: self._steps(size), : len(slots)])

    def prefill(self, chunks: Sequence[Chunk]) -> Download:
        """One pass over chunks of different slots that fit one of `shapes`.

        The download is (rows, tokens + 1) int64: for each token 2 * (likeliest text token) + (it is likelier than the
        token's stop), then what the slot drew, if `set` said that it should.
        """
        shape = self.shape(len(chunks), max(len(chunk.tokens) for chunk in chunks))
        tensors = self._chunks[shape]
        self.lane.upload(tensors.packed(shape, chunks), tensors.packing)
        self._passes[shape]()
        return self.lane.download(tensors.out[: len(chunks)])

    def shape(self, rows: int, tokens: int) -> tuple[int, int]:
        """The smallest shape that holds so many chunks of so many tokens. Raises ValueError when none does."""
        fitting = [shape for shape in self._chunks if shape[0] >= rows and shape[1] >= tokens]
        if not fitting:
            raise ValueError(f"no prefill pass takes {rows} chunks of {tokens} tokens")
        return min(fitting, key=lambda shape: shape[0] * shape[1])

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Shapes of a prefill pass that there are: (sequences, tokens of each)."""
        return list(self._chunks)

    @property
    def most_rows(self) -> int:
        """Chunks of the smallest length that one pass takes."""
        return max(rows for rows, tokens in self._chunks if tokens == SLACK)

    # What is captured

    @torch.inference_mode()
    def _burst(self, size: int) -> None:
        for step in range(self._steps(size)):
            self.drawn[step, :size] = self.step(size)

    def _steps(self, size: int) -> int:
        return self.options.burst.get(size, 1)

    def step(self, size: int) -> Tensor:
        """Draw a token for each of the first `size` of `rows`: what the host is told, (size,). To be captured."""
        rows = self.rows[:size]
        at = torch.where(rows < 0, self.options.slots, rows)
        numbers = self.numbers[at]
        live = (rows >= 0) & (numbers[:, _ACTIVE] != 0)
        slots = torch.where(live, rows, NOTHING).int()
        states = self.states(numbers[:, _TOKEN, None].clamp(min=0), slots, numbers[:, _LENGTH].int())
        return self._draw(states[:, 0], at, numbers, live, numbers[:, _LENGTH] + 1)

    def running(self, size: int) -> Tensor:
        """Whether any of the first `size` of `rows` would still draw: bool (). To be captured."""
        rows = self.rows[:size]
        return ((rows >= 0) & (self.numbers[rows.clamp(min=0), _ACTIVE] != 0)).any()

    @torch.inference_mode()
    def _pass(self, shape: tuple[int, int]) -> None:
        tensors, length = self._chunks[shape], shape[1]
        states = self.states(tensors.tokens, tensors.slots.int(), tensors.starts.int())
        logits = self.logits(states.flatten(0, 1)).view(*shape, -1)
        best, text = logits[..., : self.grammar.vocabulary.n_text].max(-1)
        stop = logits.gather(-1, tensors.stops[..., None])[..., 0]
        tensors.out[:, :length] = 2 * text + (best > stop + self._bias[tensors.stops]).long()
        last = (tensors.counts - 1).clamp(min=0)
        ends = states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]
        at = torch.where(tensors.slots < 0, self.options.slots, tensors.slots)
        numbers = self.numbers[at]
        live = (tensors.slots >= 0) & (numbers[:, _ACTIVE] != 0)
        tensors.out[:, length] = self._draw(ends, at, numbers, live, tensors.starts + tensors.counts)

    def states(self, tokens: Tensor, slots: Tensor, starts: Tensor) -> Tensor:
        """Last states (B, T, hidden) of tokens (B, T) put at `starts` (B,) int32 of `slots` (B,) int32."""
        model, eps = self.model.model, self.model.config.rms_norm_eps
        x: Tensor = model.embed(tokens)
        cos, sin = self.rotary
        layers: Iterable[Any] = model.layers
        scales = [(None, None)] * len(self.cache) if self.cache_scales is None else self.cache_scales
        for layer, (keys, values), (key_scales, value_scales) in zip(layers, self.cache, scales, strict=True):
            attention, mlp = layer.self_attn, layer.mlp
            qkv = self._linear(x, attention.qkv_proj, norm=layer.input_layernorm.weight, eps=eps)
            heads = qkv.view(*tokens.shape, -1, attention.head_dim)
            q, k, v = torch.split(heads, [size // attention.head_dim for size in attention.sizes], 2)
            attended = attention_with_kvcache(
                q,
                keys,
                values,
                k,
                v,
                cache_seqlens=starts,
                cache_batch_idx=slots,
                rotary_cos=cos,
                rotary_sin=sin,
                causal=True,
                k_descale=key_scales,
                v_descale=value_scales,
                counters=self._attention_counters,
            )
            x = self._linear(attended.flatten(2), attention.o_proj, residual=x)
            h = self._linear(x, mlp.gate_up_proj, norm=layer.post_attention_layernorm.weight, eps=eps, gated=True)
            x = self._linear(h, mlp.down_proj, residual=x)
        return x

    def logits(self, states: Tensor) -> Tensor:
        """Logits (rows, V) in float32 of states (rows, hidden) before their norm."""
        norm: Any = self.model.model.norm
        logits: Tensor = self._linear(states, self.model.lm_head, norm=norm.weight, eps=self.model.config.rms_norm_eps)
        return logits.float()

    def _linear(self, x: Tensor, layer: Any, **parts: Any) -> Tensor:
        """A layer's product, with the parts around it, whatever dtype its weights have."""
        scales: Tensor | None = getattr(layer, "scales", None)
        return linear(x, layer.weight, scales, counters=self._linear_counters, **parts)

    def _draw(self, states: Tensor, at: Tensor, numbers: Tensor, live: Tensor, length: Tensor) -> Tensor:
        """Draw a token for each row from states (B, hidden), note it in `numbers`; what the host is told (B,)."""
        logits = self.logits(states)
        phase, count = numbers[:, _PHASE], numbers[:, _COUNT]
        sampled = self._sample(logits, at, numbers)
        exit_token = self._exit[phase]
        token = torch.where((count >= self._limit[phase]) & (exit_token >= 0), exit_token, sampled)
        leaves = token == exit_token
        then = torch.where(leaves, self._outer[phase], self._inner[phase])
        finite = torch.isfinite(logits).all(-1)
        ends = then == NEVER
        full = ~ends & (length >= self.options.capacity)
        goes_on = live & finite & ~ends & ~full
        told = torch.where(finite, torch.where(full, FULL, self._told(token, states)), BROKEN)
        now = torch.stack(
            (
                token,
                length,
                goes_on.long(),
                then.clamp(min=0),
                torch.where(leaves, 0, count + 1),
                numbers[:, _MADE] + 1,
            ),
            dim=1,
        )
        # Idle rows all name the row beyond the slots, which nobody looks at.
        self.numbers[at] = torch.where(live[:, None], torch.cat((now, numbers[:, _KEY:]), dim=1), numbers)
        self.seen[at, token] = self.seen[at, token] | (live & (phase <= Phase.TEXT))
        return torch.where(live, told, NOTHING)

    def _told(self, tokens: Tensor, states: Tensor) -> Tensor:
        """Tokens (B,) drawn by states (B, hidden) before their norm, the units among them with their detail."""
        model, norm = self.model, self.model.model.norm
        if model.detail_head is None:
            return tokens
        known = torch.cat((norm(states), model.model.embed_tokens(tokens)), dim=-1)
        logits = self._linear(known, model.detail_head).view(len(tokens), -1, DETAIL_LEVELS)
        units = (tokens >= self._units.start) & (tokens < self._units.stop)
        return torch.where(units, tokens + model.config.vocab_size * detail_of(logits.argmax(-1)), tokens)

    def _sample(self, logits: Tensor, at: Tensor, numbers: Tensor) -> Tensor:
        """Draw as `Sampler.draw` does, for rows that differ in everything: (B,)."""
        phase, chances = numbers[:, _PHASE], self.options_of[at]
        return sample(
            logits,
            self._classes,
            phase,
            keys=numbers[:, _KEY : _KEY + 2],
            positions=numbers[:, _MADE],
            temperature=torch.where(self._of_units[phase], chances[:, _TEMPERATURE], chances[:, _TEXT_TEMPERATURE]),
            top_k=numbers[:, _TOP_K],
            top_p=chances[:, _TOP_P],
            candidates=self.options.candidates,
            seen=self.seen,
            seen_rows=at,
            penalty=torch.where(phase == Phase.TEXT, chances[:, _PENALTY], 1.0),
        )

    def _table(self, grammar: Grammar) -> None:
        """The grammar's rules as tensors, one row for each phase."""
        device, size = self.lane.device, grammar.vocabulary.size
        self._units = range(grammar.vocabulary.n_text, grammar.vocabulary.n_text + N_UNITS)
        rules = grammar.rules
        self._classes = TokenClasses.of([rule.allowed for rule in rules], size, device)
        columns = [[rule.exit, rule.inner, rule.outer, rule.limit] for rule in rules]
        self._exit, self._inner, self._outer, self._limit = torch.tensor(columns, device=device).unbind(1)
        self._of_units = torch.tensor([rule.units for rule in rules], device=device)
        self._bias = torch.zeros(size, device=device)
        self._bias[grammar.vocabulary.listen] = grammar.bias(grammar.vocabulary.listen)


def _counters(model: SemanticModel, slots: int, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """Zeros that our kernels count arrivals with and leave as zeros; the lane runs one kernel at a time."""
    if not fused(device):
        return None, None
    from ...kernels.gpu import attention, linear  # not every machine has triton

    config = model.config
    groups = config.num_attention_heads // config.num_key_value_heads
    calls = [(slots, 1), *CHUNKS]
    sizes = [
        attention.counters(device, rows, length * groups, config.num_key_value_heads).numel() for rows, length in calls
    ]
    widest = max(config.vocab_size, 2 * config.intermediate_size, 3 * config.hidden_size)
    return linear.counters(device, widest), torch.zeros(max(sizes), dtype=torch.int32, device=device)


@dataclass(frozen=True, eq=False)
class _ChunkTensors:
    """What one shape of pass reads, packed into one int64 tensor (rows, 2 * tokens + 3) that is uploaded at once."""

    packing: Tensor
    out: Tensor

    @classmethod
    def of(cls, shape: tuple[int, int], device: torch.device) -> _ChunkTensors:
        rows, length = shape
        packing = torch.zeros(rows, 2 * length + 3, dtype=torch.int64, device=device)
        packing[:, -3] = NOTHING  # idle until something is uploaded
        return cls(packing, torch.zeros(rows, length + 1, dtype=torch.int64, device=device))

    @property
    def tokens(self) -> Tensor:
        return self.packing[:, :-3].chunk(2, 1)[0]

    @property
    def stops(self) -> Tensor:
        return self.packing[:, :-3].chunk(2, 1)[1]

    @property
    def slots(self) -> Tensor:
        return self.packing[:, -3]

    @property
    def starts(self) -> Tensor:
        return self.packing[:, -2]

    @property
    def counts(self) -> Tensor:
        return self.packing[:, -1]

    @staticmethod
    def packed(shape: tuple[int, int], chunks: Sequence[Chunk]) -> list[list[int]]:
        rows, length = shape

        def padded(tokens: Sequence[int]) -> list[int]:
            return [*tokens, *[0] * (length - len(tokens))]

        packed = [[*padded(c.tokens), *padded(c.stops), c.slot, c.start, len(c.tokens)] for c in chunks]
        return packed + [[0] * 2 * length + [NOTHING, 0, 0]] * (rows - len(chunks))
