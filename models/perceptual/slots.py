"""The flow over static slots: a block of many utterances at once, the whole solve as one CUDA graph per batch size.

Each slot has a ring of keys and values per evaluation and layer, written in place. Its rows are the prompt's, then
those of `FrameSlots`, whose live rows always come first, so a length says what may be seen; one row more takes what
belongs to nobody. Every block is solved at the schedule's longest size: the padding's keys go to that last row. What a
frame becomes depends on its own slot alone, so a batch size gives the same bits whatever else is in the batch.

`StreamingFlow` is the plain twin for one utterance, `solve_offline` the reference of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.attention import attend, attention_with_kvcache
from ...kernels.fused import norm_modulate
from ...kernels.graph import Graph, Lane
from ...kernels.noise import normal_at, seed_keys
from ...kernels.selection import attention_backend
from ..speech_tokenizer.detail import semantics
from .block_causal import BlockCausalFlow, rotate
from .flow_matching import Solver
from .schedule import BlockSchedule, FrameSlots
from .streaming import FlowPrompt

_SLOT, _LIVE, _FRAME, _PROMPT, _KEY, _NUMBERS = 0, 1, 2, 3, 4, 6
IDLE = -1


@dataclass
class _Utterance:
    """What the host knows of a slot."""

    rows: FrameSlots
    prompt: int
    keys: tuple[int, int]
    frame: int = 0


class FlowSlots:
    """A model with one solver and schedule, its slots and their graphs, on one lane. Call with the lane entered.

    codebook: (units, D) what a unit's v1 is. prompt: frames of the longest voice prompt. buckets: batch sizes.
    The weights' dtype is the solve's; latents come out in float32.
    """

    def __init__(
        self,
        model: BlockCausalFlow,
        codebook: Tensor,
        solver: Solver,
        schedule: BlockSchedule,
        lane: Lane,
        *,
        slots: int,
        prompt: int,
        buckets: Sequence[int],
    ) -> None:
        self.model, self.solver, self.schedule, self.lane = model, solver, schedule, lane
        self._codebook = codebook
        self.longest, self._prompt, self.slots = schedule.longest, prompt, slots
        self.buckets = tuple(buckets)
        config, device = model.config, lane.device
        self._nobody = prompt + config.window_frames + self.longest
        shape = (solver.nfe, config.depth, 2, slots, self._nobody + 1, config.heads, config.dim // config.heads)
        self.ring = torch.zeros(shape, dtype=model.layer_modulation.dtype, device=device)
        with torch.inference_mode():
            self._modulation = model.modulations(torch.tensor(solver.times, device=device))
        # Of each batch row: numbers, then the block's units, then the ring's rows for its frames.
        self._inputs = torch.zeros(max(buckets), _NUMBERS + 2 * self.longest, dtype=torch.int64, device=device)
        self._inputs[:, _SLOT] = IDLE
        self.latents = torch.zeros(max(buckets), self.longest, config.latent_dim, device=device)
        self._ring_rows = torch.arange(self._nobody + 1, device=device)
        self._steps = torch.arange(self.longest, device=device)
        self._look = _look_by_length if attention_backend(device) != "torch" else self._look_by_mask
        self._utterances: dict[int, _Utterance] = {}
        self._graphs: dict[int, Graph] = {}

    def capture(self) -> None:
        """Capture the solve for every batch size, the largest first."""
        for size in sorted(self.buckets, reverse=True):
            self._graphs[size] = self.lane.graph(lambda size=size: self._solve(size))  # type: ignore[misc]

    def open(self, slot: int, seed: int, prompt: FlowPrompt | None = None) -> None:
        """Begin an utterance in a slot. Raises ValueError for a prompt that is longer than the slots were made for."""
        frames = 0 if prompt is None else prompt.frames
        if frames > self._prompt:
            raise ValueError(f"a voice prompt of {frames} frames; these slots take {self._prompt}")
        # What a broken utterance may have left behind would not be silenced by a weight of zero.
        self.ring[:, :, :, slot].zero_()
        if prompt is not None:
            self.ring[:, :, :, slot, :frames] = prompt.memory[:, :, :, 0].transpose(3, 4)
        rows = FrameSlots(self.model.config.window_frames, self.longest)
        self._utterances[slot] = _Utterance(rows, frames, seed_keys(seed))

    def frame(self, slot: int) -> int:
        """Frames of a slot's utterance that were solved."""
        return self._utterances[slot].frame

    def solve(self, blocks: Sequence[tuple[int, Sequence[int]]]) -> int:
        """Solve the next block of some slots, (slot, units); `latents` (bucket, longest, D) then holds one row each.

        Returns the bucket. Raises ValueError for a block of no frames, or of more than the schedule's longest.
        """
        size = next(size for size in self.buckets if size >= len(blocks))
        before = {slot: deepcopy(self._utterances[slot]) for slot, _ in blocks}
        try:
            self._launch(size, blocks)
        except BaseException:
            self._utterances |= before  # as if it had not been asked for: each may be tried alone
            raise
        return size

    def _launch(self, size: int, blocks: Sequence[tuple[int, Sequence[int]]]) -> None:
        packed = [self._packed(slot, units) for slot, units in blocks]
        idle = [IDLE, *[0] * (_NUMBERS - 1 + self.longest), *[self._nobody] * self.longest]
        self.lane.upload(packed + [idle] * (size - len(packed)), self._inputs[:size])
        self._graphs[size]()

    def _packed(self, slot: int, units: Sequence[int]) -> list[int]:
        utterance = self._utterances[slot]
        rows, moves = utterance.rows.advance(len(units))
        if moves:  # only when a short block follows longer ones that left the window, so it needs no graph
            source, target = (
                torch.tensor([utterance.prompt + move[side] for move in moves], device=self.lane.device)
                for side in (0, 1)
            )
            self.ring[:, :, :, slot].index_copy_(3, target, self.ring[:, :, :, slot].index_select(3, source))
        padding = self.longest - len(units)
        numbers = [slot, utterance.prompt + utterance.rows.live, utterance.frame, utterance.prompt, *utterance.keys]
        utterance.frame += len(units)
        return [
            *numbers,
            *units,
            *[0] * padding,
            *(utterance.prompt + row for row in rows),
            *[self._nobody] * padding,
        ]

    @torch.inference_mode()
    def _solve(self, size: int) -> None:
        model, inputs = self.model, self._inputs[:size]
        units, rows = inputs[:, _NUMBERS:].chunk(2, 1)
        slots, live = inputs[:, _SLOT], inputs[:, _LIVE]
        frames = inputs[:, _FRAME, None] + self._steps
        angles = (frames + inputs[:, _PROMPT, None]).double()[..., None] * model.rope_frequencies.double()
        rotation = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)[:, :, None, None]
        zv = model.normalise_semantics(semantics(units, self._codebook, model.config.detail))
        v1 = zv[..., : model.config.latent_dim]
        context = torch.zeros_like(v1)
        noise = normal_at(inputs[:, _KEY:_NUMBERS], frames, v1.shape[-1])
        look = self._look(slots, live)
        at = slots.clamp(min=0)[:, None]
        evaluations = iter(range(self.solver.nfe))

        def velocity(x: Tensor, _t: Tensor) -> Tensor:
            evaluation = next(evaluations)
            layers, head = self._modulation.layers[evaluation], self._modulation.head[evaluation]
            h = model.embed(x, zv, context)
            blocks: Iterable[Any] = model.blocks
            branch = branch_gate = None  # what the last part adds goes in with the next part's norm
            for block, ring, values in zip(blocks, self.ring[evaluation], layers, strict=True):
                shift, scale, gate, ff_shift, ff_scale, ff_gate = values[:, None].unbind(0)
                h, normed = norm_modulate(h, shift, scale, branch, branch_gate)
                qkv = block.qkv(normed).unflatten(-1, (3, block.heads, -1))  # (B, T, 3, heads, d)
                q, k = rotate(qkv[:, :, :2], rotation).unbind(2)
                ring[0].index_put_((at, rows), k)
                ring[1].index_put_((at, rows), qkv[:, :, 2])
                attended = block.out(look(q, ring[0], ring[1]).flatten(2))
                h, normed = norm_modulate(h, ff_shift, ff_scale, attended, gate)
                branch, branch_gate = block.down(F.silu(block.up(normed))), ff_gate
            shift, scale = head[:, None].unbind(0)
            out: Tensor = model.out_proj(norm_modulate(h, shift, scale, branch, branch_gate)[1])
            return out.float()

        self.latents[:size] = model.denormalise(model.flow.solve(velocity, v1, noise, self.solver))

    def _look_by_mask(self, slots: Tensor, live: Tensor) -> _Look:
        """Look at the whole ring, masked: one shape whatever is live, so neither bits nor a capture depend on it."""
        # An idle row looks at one key that nobody needs rather than at none, which would be NaN.
        mask = (self._ring_rows < live.clamp(min=1)[:, None])[:, None, None]
        at = slots.clamp(min=0)

        def look(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            k, v = (part[at].transpose(1, 2) for part in (keys, values))
            return attend(q.transpose(1, 2), k, v, mask).transpose(1, 2)

        return look


_Look = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(queries (B, T, heads, d), a layer's keys and values (slots, rows, heads, d)) to attended, shaped as the queries."""


def _look_by_length(slots: Tensor, live: Tensor) -> _Look:
    """Let a kernel read the ring where it is, up to each slot's live length."""
    slots, live = slots.int(), live.int()

    def look(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attention_with_kvcache(q, keys, values, cache_seqlens=live, cache_batch_idx=slots)

    return look
