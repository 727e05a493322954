"""Batches of whole utterances, shuffled by seed and step, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .corpus import Corpus, Utterance


def rounded(length: int, step: int = 32) -> int:
    """Length padded up to a multiple of `step`: oneDNN keeps a plan for every shape it meets, and thousands of them
    filled a machine's memory."""
    return -(-length // step) * step


class LengthBatches:
    """Utterances of like length grouped to at most `seconds` of padded audio; an epoch visits each one once."""

    def __init__(self, lengths: Sequence[float], budget: float, seed: int) -> None:
        self.lengths, self.budget, self.seed = np.asarray(lengths), budget, seed
        self._epoch, self._groups = -1, list[NDArray[np.int64]]()
        self._sizes: list[int] = []

    def _plan(self, epoch: int) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng((self.seed, epoch))
        order = np.argsort(self.lengths * rng.uniform(0.9, 1.1, len(self.lengths)), kind="stable")
        groups, group, longest = [], list[int](), 0.0
        for index in order:
            longest = max(longest, float(self.lengths[index]))
            if group and longest * (len(group) + 1) > self.budget:
                groups.append(np.array(group))
                group, longest = [], float(self.lengths[index])
            group.append(int(index))
        groups.append(np.array(group))
        return [groups[i] for i in rng.permutation(len(groups))]

    def __call__(self, step: int) -> NDArray[np.int64]:
        """Indices of the batch of a step, counted over all epochs."""
        epoch, first = 0, 0
        while True:
            if epoch >= len(self._sizes):
                self._sizes.append(len(self._plan(epoch)))
            if step < first + self._sizes[epoch]:
                break
            first += self._sizes[epoch]
            epoch += 1
        if epoch != self._epoch:
            self._epoch, self._groups = epoch, self._plan(epoch)
        return self._groups[step - first]


def pad_audio(corpus: Corpus, utterances: Sequence[Utterance]) -> tuple[Tensor, Tensor]:
    """Audio (B, N) zero-padded to a multiple of 320, and frames of each (B,)."""
    frames = [u.frames for u in utterances]
    wav = torch.zeros(len(utterances), 320 * max(frames))
    for row, u in zip(wav, utterances, strict=True):
        row[: u.samples] = torch.from_numpy(corpus.audio(u))
    return wav, torch.tensor(frames)


def augment(wav: Tensor, rng: np.random.Generator) -> Tensor:
    """Gain, coloured noise and band limits as a microphone adds them, (B, N) -> (B, N)."""
    noise = torch.from_numpy(rng.standard_normal(wav.shape).astype(np.float32))
    brown = torch.nn.functional.avg_pool1d(noise[:, None], 9, 1, 4)[:, 0] * 3
    colour = torch.from_numpy(rng.uniform(0, 1, (len(wav), 1)).astype(np.float32))
    level = wav.square().mean(-1, keepdim=True).sqrt()
    snr = torch.from_numpy(rng.uniform(5, 45, (len(wav), 1)).astype(np.float32))
    gain = 10 ** torch.from_numpy(rng.uniform(-14, 4, (len(wav), 1)).astype(np.float32) / 20)
    return (wav + (noise * colour + brown * (1 - colour)) * level * 10 ** (-snr / 20)) * gain
