"""The semantic encoder on a GPU: a piece of a stream as one CUDA graph, where plain calls are a hundred launches.

A stream's past has one shape here, whatever there is of it, and its position says how much counts. The state is still
a value: it is copied into the graph's tensors and out of them, so the end of a turn can be taken back by forgetting
what it gave. `SemanticEncoder.step` is the plain twin.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels.graph import Graph, Lane
from .semantic_encoder import HOP, SemanticEncoder


@dataclass(frozen=True, eq=False)
class EarState:
    """A stream after `frame` frames. tensors: mel context, inputs of the convolutions, keys and values; waiting: the
    samples of a block that is not whole yet."""

    tensors: tuple[Tensor, ...]
    frame: int
    waiting: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))


class CapturedEar:
    """An encoder for streams that come in pieces of `frames` frames, on one lane; any thread may call it.

    It works on whole blocks of the encoder, as many as a piece has and at least one.
    """

    def __init__(self, encoder: SemanticEncoder, lane: Lane, frames: int) -> None:
        block = encoder.config.block
        self.encoder, self.lane, self._frames = encoder, lane, max(1, frames // block) * block
        self._turn = threading.Lock()  # the graphs' tensors are everybody's
        self._pieces: dict[bool, _Piece] = {}

    def capture(self) -> None:
        """Capture a piece within a stream, and one that ends it, with what was held back."""
        lookahead = self.encoder.config.lookahead
        self._pieces = {end: _Piece(self, self._frames + lookahead * end) for end in (False, True)}

    @torch.inference_mode()
    def open(self) -> EarState:
        """A stream that has heard nothing."""
        with self.lane.entered():  # memory belongs to the stream that it was given out on
            return EarState(tuple(torch.zeros_like(each) for each in self._pieces[False].past), 0)

    @torch.inference_mode()
    def step(self, pcm: NDArray[np.float32], state: EarState, *, end: bool) -> tuple[list[int], EarState]:
        """Units that are known by a stream's next samples (N,), as `SemanticEncoder.step` gives them.

        N is a whole piece, or anything up to one at the end.
        """
        pcm = np.concatenate((state.waiting, pcm))
        units: list[int] = []
        while len(pcm) >= self._frames * HOP and not (end and len(pcm) == self._frames * HOP):
            some, state = self._work(pcm[: self._frames * HOP], state, end=False)
            units += some
            pcm = pcm[self._frames * HOP :]
        if end and len(pcm) + state.frame > 0:
            some, state = self._work(pcm, state, end=True)
            return units + some, state
        return units, replace(state, waiting=pcm)

    def _work(self, pcm: NDArray[np.float32], state: EarState, *, end: bool) -> tuple[list[int], EarState]:
        """Units known by samples (N,) that follow those worked on: a piece, or what is left of one at the end."""
        lookahead = self.encoder.config.lookahead
        known = -(-len(pcm) // HOP) + lookahead * end
        with self._turn, self.lane.entered():
            later, download = self._pieces[end](pcm, state, known)
        units: list[int] = download.take()[0].tolist()
        return units[max(0, lookahead - state.frame) : known], EarState(later, state.frame + known)


class _Piece:
    """One shape of piece: static tensors, and the graph over them."""

    def __init__(self, ear: CapturedEar, frames: int) -> None:
        encoder, lane = ear.encoder, ear.lane
        self._encoder, self._lane, self._frames = encoder, lane, frames
        device = lane.device
        start = encoder.init_state()
        self._kept: int = encoder.transformer.window - 1
        layers, _, batch, heads, _, dim = start.attention.cache.shape
        cache = start.attention.cache.new_zeros(layers, 2, batch, heads, self._kept, dim)
        self._front_keeps = [each is not None for each in start.front]
        fronts: Sequence[Tensor] = [each for each in start.front if each is not None]
        self.past: tuple[Tensor, ...] = tuple(each.clone() for each in (start.context, *fronts, cache))
        self._later = tuple(torch.zeros_like(each) for each in self.past)
        self._wav = torch.zeros(1, frames * HOP, device=device)
        self._span = torch.zeros(2, dtype=torch.int64, device=device)  # its first frame, and that after its last
        self._units = torch.zeros(frames, dtype=torch.int64, device=device)
        self._steps = torch.arange(frames, device=device)
        self._key_steps = torch.arange(-self._kept, frames, device=device)
        self._graph: Graph = lane.graph(self._run)

    def __call__(self, pcm: NDArray[np.float32], state: EarState, known: int) -> tuple[tuple[Tensor, ...], Any]:
        """The stream's later tensors, and the units on their way; frames beyond those `known` are not there."""
        whole = np.zeros((1, self._frames * HOP), np.float32)
        whole[0, : len(pcm)] = pcm
        self._lane.copy(torch.from_numpy(whole), self._wav)
        self._lane.upload([state.frame, state.frame + known], self._span)
        for ours, theirs in zip(self.past, state.tensors, strict=True):
            ours.copy_(theirs)
        self._graph()
        return tuple(each.clone() for each in self._later), self._lane.download(self._units)

    @torch.inference_mode()
    def _run(self) -> None:
        encoder = self._encoder
        context, *fronts, cache = self.past
        padded = torch.cat((context, self._wav), -1)
        waiting = iter(fronts)
        before = [next(waiting) if keeps else None for keeps in self._front_keeps]
        local, front = encoder.front.step(encoder.mel(padded), before)
        hidden, keys = self._attend(local.transpose(1, 2), cache)
        self._units.copy_(encoder.heard(hidden)[0])
        after = (padded[:, -context.shape[-1] :], *(each for each in front if each is not None), keys)
        for ours, new in zip(self._later, after, strict=True):
            ours.copy_(new)

    def _attend(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        transformer = self._encoder.transformer
        first, end = self._span[:1], self._span[1:]
        positions, keys_at = first + self._steps, first + self._key_steps
        mask = transformer.mask(positions, keys_at) & (keys_at >= 0) & (keys_at < end)
        x = transformer.placed(x, positions)
        kept = []
        for layer, past in zip(transformer.layers, cache, strict=True):
            x, keys = layer(x, positions, mask, past)
            kept.append(keys[..., keys.shape[3] - self._kept :, :])
        return transformer.norm(x), torch.stack(kept)
