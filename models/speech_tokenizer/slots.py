"""The streaming tokenizer's decoder over static slots: blocks of many utterances at once, a CUDA graph a batch size.

All blocks have one padded size. What a stream keeps (convolution input, attention keys, overlapping samples) is cut
where each slot's own block ends, so the padding leaves no trace. `AcousticDecoder.step` is the plain twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.graph import Graph, Lane
from .semantic_encoder import HOP
from .spectral import AcousticDecoder

_SLOT, _FRAME, _LENGTH = range(3)
IDLE = -1


class DecoderSlots:
    """A decoder, its slots and their graphs, on one lane. Call with the lane entered.

    latents: (largest bucket, longest block, D), the static tensor it reads. buckets: batch sizes.
    """

    def __init__(
        self, decoder: AcousticDecoder, latents: Tensor, lane: Lane, *, slots: int, buckets: Sequence[int]
    ) -> None:
        self.decoder, self.latents, self.lane = decoder, latents, lane
        self.buckets = tuple(buckets)
        device, longest = lane.device, latents.shape[1]
        body: Sequence[Any] = list(decoder.body)
        conv, transformer = self._conv, self._transformer = body[0], body[1].transformer
        layers, heads, head_dim = len(transformer.layers), transformer.heads, transformer.head_dim
        self._past: int = transformer.window - 1
        state = decoder.init_state(1)
        # One row more than there are slots, for the batch rows that are idle.
        self._inputs_before = torch.zeros(slots + 1, conv.in_channels, conv.context, device=device)
        self._keys_before = torch.zeros(slots + 1, layers, 2, heads, self._past, head_dim, device=device)
        self._tail = torch.zeros(slots + 1, state.tail.shape[-1], device=device)
        self._inputs = torch.zeros(max(buckets), 3, dtype=torch.int64, device=device)
        self._inputs[:, _SLOT] = IDLE
        self.slots = slots
        self.pcm = torch.zeros(max(buckets), longest * HOP, device=device)
        self._steps = torch.arange(longest, device=device)
        self._key_steps = torch.arange(-self._past, longest, device=device)
        self._tail_steps = torch.arange(state.tail.shape[-1], device=device)
        self._graphs: dict[int, Graph] = {}

    def capture(self) -> None:
        """Capture every batch size, the largest first."""
        for size in sorted(self.buckets, reverse=True):
            self._graphs[size] = self.lane.graph(lambda size=size: self._decode(size))  # type: ignore[misc]

    def open(self, slot: int) -> None:
        """Begin an utterance in a slot."""
        for state in (self._inputs_before, self._keys_before, self._tail):
            state[slot].zero_()

    def decode(self, blocks: Sequence[tuple[int, int, int]]) -> int:
        """Decode `latents`, row by row (slot, first frame, frames); `pcm` (bucket, samples) then holds the sound, of
        which 320 samples a frame count. Returns the bucket."""
        size = next(size for size in self.buckets if size >= len(blocks))
        self.lane.upload([*map(list, blocks), *[[IDLE, 0, 0]] * (size - len(blocks))], self._inputs[:size])
        self._graphs[size]()
        return size

    @torch.inference_mode()
    def _decode(self, size: int) -> None:
        inputs = self._inputs[:size]
        at = torch.where(inputs[:, _SLOT] < 0, self.slots, inputs[:, _SLOT])
        first, length = inputs[:, _FRAME], inputs[:, _LENGTH]

        x = torch.cat((self._inputs_before[at], self.latents[:size].transpose(1, 2)), -1)
        self._inputs_before[at] = _cut(x, length, self._inputs_before.shape[-1])
        y = F.conv1d(x, self._conv.weight, self._conv.bias).transpose(1, 2)
        y = y + self._attend(y, at, first, length)
        self.pcm[:size] = self._overlap(self.decoder.spectra(y), at, length)

    def _attend(self, x: Tensor, at: Tensor, first: Tensor, length: Tensor) -> Tensor:
        positions = first[:, None] + self._steps
        keys_at = first[:, None] + self._key_steps
        distance = positions[:, :, None] - keys_at[:, None, :]
        mask = ((distance >= 0) & (distance <= self._past) & (keys_at >= 0)[:, None])[:, None]
        before = self._keys_before[at]
        kept = []
        for layer, past in zip(self._transformer.layers, before.unbind(1), strict=True):
            x, keys = layer(x, positions[:, None], mask, past.transpose(0, 1))
            kept.append(_cut(keys.transpose(0, 1).transpose(-1, -2), length, self._past).transpose(-1, -2))
        self._keys_before[at] = torch.stack(kept, 1)
        out: Tensor = self._transformer.norm(x)
        return out

    def _overlap(self, waves: Tensor, at: Tensor, length: Tensor) -> Tensor:
        """Samples of windowed waves (B, spectra, window); those of the padding are silent."""
        per_frame = waves.shape[1] // len(self._steps)
        real = self._steps < length[:, None]
        added = self.decoder.overlap(waves * real.repeat_interleave(per_frame, 1)[..., None])
        tail = self._tail[at]
        added = torch.cat((added[:, : tail.shape[1]] + tail, added[:, tail.shape[1] :]), 1)
        self._tail[at] = added.gather(1, length[:, None] * HOP + self._tail_steps)
        return added[:, : self.pcm.shape[1]]


def _cut(x: Tensor, length: Tensor, count: int) -> Tensor:
    """x (B, ..., count + padded length): the `count` columns that end where row b's own `length[b]` end."""
    steps = length[:, None] + torch.arange(count, device=x.device)
    steps = steps.view(len(x), *[1] * (x.ndim - 2), count)
    return x.gather(-1, steps.expand(*x.shape[:-1], count))
