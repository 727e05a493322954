"""The block-causal flow as a stream: units' v1 in, latents out, block after block, with bounded state.

At evaluation k of the solver a frame depends only on frames of its own block, of the window and of the prompt *at
evaluation k*. So each evaluation keeps its own keys and values, and a stream computes what the masked run over the
whole utterance (`solve_offline`, the plain twin) computes, rounding apart. The schedule cuts the blocks, and positions
and noise are keyed by absolute frames: how units arrive can't matter, not even to the last bit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.noise import normal
from .block_causal import BlockCausalFlow
from .flow_matching import Solver
from .schedule import DEFAULT_SCHEDULE, BlockSchedule, FrameSlots

DEFAULT_SOLVER = Solver("euler", 8)


@dataclass(frozen=True)
class FlowPrompt:
    """A voice prompt's keys and values at every evaluation of one solver: made once per voice, then shared."""

    memory: Tensor
    """(nfe, depth, 2, 1, heads, P, d): keys and values."""

    @property
    def frames(self) -> int:
        """Length P of the prompt in frames."""
        return self.memory.shape[-2]


@dataclass
class FlowState:
    """All that a stream remembers; `StreamingFlow.step` changes it in place."""

    memory: Tensor
    """(nfe, depth, 2, B, heads, P + window + longest block, d): keys and values of the prompt, then of live frames."""
    slots: FrameSlots
    """Which rows after the prompt's hold live frames."""
    prompt: int
    """Frames P of the prompt: the utterance's frame f stands at rotary position P + f."""
    seed: int
    frame: int = 0
    """Frames solved so far, that is the absolute frame the next block starts at."""
    block: int = 0
    """Blocks solved so far."""


class StreamingFlow:
    """A model with one solver and one schedule, whose tables all streams share; holds no stream's state.

    The model's parameters must not change while it is in use. Takes fp32 or bf16 weights and quantised linears.
    """

    def __init__(
        self, model: BlockCausalFlow, solver: Solver = DEFAULT_SOLVER, schedule: BlockSchedule = DEFAULT_SCHEDULE
    ) -> None:
        self.model = model
        self.solver = solver
        self.schedule = schedule
        self.device = model.latent_mean.device
        with torch.no_grad():
            self.modulation = model.modulations(torch.tensor(solver.times, device=self.device))

    @torch.no_grad()
    def prompt(self, latents: Tensor, v1: Tensor) -> FlowPrompt:
        """Encode a voice: its tokenizer latents (P, D) and its v1 (P, D + detail), P >= 1; one pass for all times."""
        dim = self.model.config.latent_dim
        if latents.ndim != 2 or latents.shape[-1] != dim or latents.shape != v1[..., :dim].shape or len(latents) == 0:
            shapes = f"{tuple(latents.shape)} and {tuple(v1.shape)}"
            raise ValueError(f"a prompt needs latents and v1 of as many frames (P >= 1) and D = {dim}, not {shapes}")
        model = self.model
        z, zv = model.normalise(latents)[None], model.normalise_semantics(v1)[None]
        h = (model.embed(torch.zeros_like(z), zv, z) + model.prompt_embedding).expand(self.solver.nfe, -1, -1)
        memory = self._allocate(1, len(latents))

        def remember(layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            memory[:, layer, 0, 0], memory[:, layer, 1, 0] = keys, values
            return keys, values

        positions = torch.arange(len(latents), device=self.device)
        model.run(h, self.modulation, model.rotation(positions), remember=remember)
        return FlowPrompt(memory)

    def open(self, seed: int, prompt: FlowPrompt | None = None, batch: int = 1) -> FlowState:
        """State of a new utterance. Rows of a batch draw the same noise; without a prompt the voice is left open."""
        frames = 0 if prompt is None else prompt.frames
        slots = FrameSlots(self.model.config.window_frames, self.schedule.longest)
        memory = self._allocate(batch, frames + slots.capacity)
        if prompt is not None:
            memory[..., :frames, :] = prompt.memory
        return FlowState(memory, slots, frames, seed)

    @torch.no_grad()
    def step(self, v1: Tensor, state: FlowState) -> Tensor:
        """Solve one block: v1 (B, C, D + detail) of the utterance's next C frames to latents (B, C, D) float32.

        Any C from 1 to the schedule's longest block is taken as a block of its own; `BlockStream` cuts by the schedule.
        Raises ValueError for other lengths.
        """
        model = self.model
        batch, length, _ = v1.shape
        latent_dim = model.config.latent_dim
        rows, moves = state.slots.advance(length)
        live = state.prompt + state.slots.live
        if moves:
            source, target = torch.tensor(moves, device=self.device).add_(state.prompt).unbind(1)
            state.memory.index_copy_(-2, target, state.memory.index_select(-2, source))
        new = torch.tensor(rows, device=self.device).add_(state.prompt)

        frames = range(state.frame, state.frame + length)
        rotation = model.rotation(torch.arange(frames.start, frames.stop, device=self.device) + state.prompt)
        noise = normal(state.seed, frames, latent_dim, device=self.device).expand(batch, -1, -1)
        zv = model.normalise_semantics(v1)
        context = zv.new_zeros(batch, length, latent_dim)
        evaluations = iter(range(self.solver.nfe))

        def velocity(x: Tensor, _t: Tensor) -> Tensor:
            evaluation = next(evaluations)

            def remember(layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
                memory = state.memory[evaluation, layer]
                memory[0].index_copy_(2, new, keys)
                memory[1].index_copy_(2, new, values)
                return memory[0, :, :, :live], memory[1, :, :, :live]

            modulation = self.modulation.at(evaluation)
            return model.run(model.embed(x, zv, context), modulation, rotation, remember=remember)

        z = model.flow.solve(velocity, zv[..., :latent_dim], noise, self.solver)
        state.frame += length
        state.block += 1
        return model.denormalise(z)

    def stream(self, seed: int, prompt: FlowPrompt | None = None) -> "BlockStream":
        """A new utterance whose units arrive in any pieces."""
        return BlockStream(self, self.open(seed, prompt))

    def _allocate(self, batch: int, rows: int) -> Tensor:
        config = self.model.config
        shape = (self.solver.nfe, config.depth, 2, batch, config.heads, rows, config.dim // config.heads)
        return torch.empty(shape, dtype=self.model.layer_modulation.dtype, device=self.device)


class BlockStream:
    """Buffers v1 until a block of the schedule is complete, and solves it then."""

    def __init__(self, flow: StreamingFlow, state: FlowState) -> None:
        self.flow = flow
        self.state = state
        self._waiting: list[Tensor] = []

    @property
    def missing(self) -> int:
        """Frames that the next block still waits for."""
        return self.flow.schedule.size(self.state.block) - sum(piece.shape[1] for piece in self._waiting)

    def push(self, v1: Tensor) -> list[Tensor]:
        """Take v1 (B, n, D + detail) of the next n >= 0 frames; the latents (B, C, D) of each block now complete."""
        blocks = []
        while v1.shape[1] >= (missing := self.missing):
            blocks.append(self._solve(v1[:, :missing]))
            v1 = v1[:, missing:]
        if v1.shape[1]:
            self._waiting.append(v1)
        return blocks

    def finish(self) -> list[Tensor]:
        """Solve what is left as a last, shorter block: its latents (B, C, D), or nothing."""
        return [self._solve(None)] if self._waiting else []

    def _solve(self, rest: Tensor | None) -> Tensor:
        pieces = self._waiting if rest is None else [*self._waiting, rest]
        self._waiting = []
        return self.flow.step(torch.cat(pieces, dim=1), self.state)


@torch.no_grad()
def solve_offline(
    model: BlockCausalFlow,
    v1: Tensor,
    *,
    seed: int,
    solver: Solver = DEFAULT_SOLVER,
    schedule: BlockSchedule = DEFAULT_SCHEDULE,
    prompt: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The whole utterance in one masked run: v1 (B, T, D + detail) to latents (B, T, D) float32; what streams equal.

    prompt: tokenizer latents (P, D) and v1 (P, D + detail) of a voice. Costs grow with (P + T) squared.
    """
    batch, length, _ = v1.shape
    latent_dim = model.config.latent_dim
    frames = 0 if prompt is None else len(prompt[0])
    zv = model.normalise_semantics(v1)
    noise = normal(seed, range(length), latent_dim, device=v1.device).expand(batch, -1, -1)
    context = torch.zeros(batch, frames + length, latent_dim, device=v1.device)
    if prompt is not None:
        voice = model.normalise(prompt[0]).expand(batch, -1, -1)
        voice_v1 = model.normalise_semantics(prompt[1]).expand(batch, -1, -1)
        zv = torch.cat((voice_v1, zv), dim=1)
        noise = torch.cat((torch.zeros_like(voice), noise), dim=1)
        context[:, :frames] = voice
    block_of = schedule.table(length, frames).to(v1.device)
    start = zv[..., :latent_dim]
    z = model.flow.solve(lambda x, t: model.velocity(x, t, zv, context, block_of), start, noise, solver)
    return model.denormalise(z[:, frames:])
