"""The corpus on one device: samples, and tables with one row a frame, gathered into batches.

On a GPU the whole corpus fits (23.5 hours are 2.7 GB), so a step costs no copy; on a CPU it stays the mapped file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .corpus import Corpus, Utterance

HOP = 320


class Recordings:
    """Audio of a corpus as batches on `device`."""

    def __init__(self, corpus: Corpus, device: torch.device | str = "cpu") -> None:
        self.corpus, self.device = corpus, torch.device(device)
        self.samples = torch.from_numpy(corpus.samples).to(self.device)
        edges = np.cumsum([0, *(u.frames for u in corpus.utterances)])
        self.first_row = {u.id: int(e) for u, e in zip(corpus.utterances, edges, strict=False)}
        self.frames = int(edges[-1])

    def audio(
        self, utterances: Sequence[Utterance], frames: int | None = None, first: Sequence[int] | None = None
    ) -> Tensor:
        """Waveforms (B, 320 * frames) float32 from frame `first` of each (default 0), silence after its end; frames
        defaults to the longest."""
        frames = frames or max(u.frames for u in utterances)
        skipped = np.asarray(first if first is not None else [0] * len(utterances)) * HOP
        left = torch.tensor([u.samples for u in utterances]) - torch.from_numpy(skipped)
        start = torch.tensor([u.start for u in utterances]) + torch.from_numpy(skipped)
        at = torch.arange(HOP * frames, device=self.device)
        inside = at < left.to(self.device)[:, None]
        index = (start.to(self.device)[:, None] + at).masked_fill(~inside, 0)
        return torch.where(inside, self.samples[index].float() / 32768.0, 0.0)

    def rows(self, table: Tensor, utterances: Sequence[Utterance], frames: int, first: Sequence[int]) -> Tensor:
        """Rows (B, frames, ...) of a table with one row a frame, from frame `first` of each utterance; past the end
        its last row is repeated."""
        at = [self.places((u,), frames, skip) for u, skip in zip(utterances, first, strict=True)]
        return table[torch.stack(at).to(table.device)]

    def places(self, utterances: Sequence[Utterance], frames: int, first: int) -> Tensor:
        """Where in such a table (frames,) rows lie of utterances put one after another, from frame `first` on; past
        the end the last one is repeated."""
        of_each = [torch.arange(u.frames) + self.first_row[u.id] for u in utterances]
        at = torch.cat(of_each)[first : first + frames]
        return torch.cat((at, at[-1:].expand(frames - len(at))))
