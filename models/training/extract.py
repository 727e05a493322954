"""What the later stages train on, computed once from the corpus: units, and where each word is in them.

Words are located by forced alignment of their letters to the encoder's CTC output.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from ..recognition.letters import BLANK, SYMBOLS, spell
from ..speech_tokenizer.semantic_encoder import UNITS
from .augment import augment
from .corpus import Corpus, Utterance
from .precision import mixed
from .recordings import Recordings
from .saving import Table, in_parts, weights_id
from .semantic_units import SemanticUnits, batches_of


@dataclass(frozen=True)
class Spoken:
    """One utterance as units (T,) int16 and its whitespace words with `ends` (the frame at which each is recognised)
    and `cuts` (the frame at which its sound gives way to the next word's). detail: of the units as they are heard (T,)
    int64, if the encoder tells any."""

    units: NDArray[np.int16]
    words: list[str]
    ends: list[int]
    cuts: list[int]
    detail: NDArray[np.int64] | None = None

    @property
    def heard(self) -> NDArray[np.int64]:
        """Each unit and its detail as one number (T,), as who listens is told them (`speech_tokenizer/detail.py`)."""
        units = self.units.astype(np.int64)
        return units if self.detail is None else units + UNITS * self.detail


def align(log_probs: Tensor, targets: list[list[int]], frames: list[int]) -> list[NDArray[np.int64]]:
    """Viterbi alignment of CTC outputs (B, T, symbols) to targets; per item the state 0..2L of every frame (T_i,).

    State 2k+1 is target k, even states are blanks. The best path under the CTC topology (Graves et al. 2006).
    """
    device = log_probs.device
    batch, steps, _ = log_probs.shape
    size = 2 * max(map(len, targets)) + 1
    symbols = torch.zeros(batch, size, dtype=torch.int64)
    for row, target in zip(symbols, targets, strict=True):
        row[1 : 2 * len(target) : 2] = torch.tensor(target)
    repeats = torch.ones(batch, size, dtype=torch.bool)
    repeats[:, 2:] = (symbols[:, 2:] == BLANK) | (symbols[:, 2:] == symbols[:, :-2])
    symbols, repeats, lengths = symbols.to(device), repeats.to(device), torch.tensor(frames, device=device)
    emitted = log_probs.gather(2, symbols[:, None].expand(batch, steps, size))
    score = torch.full((batch, size + 2), -1e30, device=device)  # two columns of nothing in front
    score[:, 2:4] = emitted[:, 0, :2]
    came = torch.zeros(batch, steps, size, dtype=torch.int8, device=device)
    for t in range(1, steps):
        stay, one, two = score[:, 2:], score[:, 1:-1], score[:, :-2].masked_fill(repeats, -1e30)
        best, source = torch.stack([stay, one, two]).max(0)
        came[:, t] = source.to(torch.int8)
        score[:, 2:] = torch.where((t < lengths)[:, None], best + emitted[:, t], stay)
    last = torch.tensor([2 * len(target) for target in targets], device=device)
    rows = torch.arange(batch, device=device)
    state = torch.where(score[rows, 2 + last] >= score[rows, 1 + last], last, last - 1).cpu().numpy()
    steps_back, which = came.cpu().numpy(), np.arange(batch)
    path = np.empty((batch, steps), np.int64)
    for t in range(steps - 1, -1, -1):
        path[:, t] = state
        inside = t < np.array(frames)
        state = state - np.where(inside, steps_back[which, t, state], 0)
    return [row[:length] for row, length in zip(path, frames, strict=True)]


def _locate(words: list[str], path: NDArray[np.int64]) -> tuple[list[int], list[int]] | None:
    """Ends and cuts of words from the path of their letters; None when the words don't fit the frames."""
    letters = [len(spell(w)) for w in words]
    first = np.cumsum([0, *(n + 1 for n in letters[:-1])])
    starts, ends = [], []
    for k, n in zip(first, letters, strict=True):
        inside = np.flatnonzero((path >= 2 * k + 1) & (path <= 2 * (k + n - 1) + 1))
        if len(inside) == 0:
            return None
        starts.append(int(inside[0]))
        ends.append(int(inside[-1]) + 1)
    cuts = [max(a, (a + b + 1) // 2) for a, b in zip(ends, starts[1:], strict=False)]
    cuts.append(len(path))
    if any(b <= a for a, b in zip([0, *cuts], cuts, strict=False)):
        return None
    return ends, cuts


@torch.inference_mode()
def extract(
    corpus: Corpus, module: SemanticUnits, path: Path, *, batch_seconds: float = 200.0, noise: int | None = None
) -> None:
    """Write units and word positions of the whole corpus to `path` (.npz), of the audio as it is or through noise drawn
    from the seed `noise`. Killed, it goes on from what it kept.

    Utterances whose words could not be placed keep their units and have no words.
    Raises UnsavedError when the disk is full.
    """
    module.eval()
    recordings = Recordings(corpus, next(module.parameters()).device)
    batches = batches_of(corpus.utterances, batch_seconds, 0, fill=False)

    def heard(step: int) -> Table:
        chosen = [corpus.utterances[i] for i in batches(step)]
        wav = recordings.audio(chosen)
        return _heard(module, chosen, wav if noise is None else augment(wav, np.random.default_rng((noise, step))))

    in_parts(path, batches.per_epoch, heard, of=f"corpus {corpus.digest}, encoder {weights_id(module.encoder)}")


def _heard(module: SemanticUnits, utterances: list[Utterance], wav: Tensor) -> Table:
    """Units of utterances with audio (B, N), and where the words of those are whose words can be spelled and placed."""
    frames = [u.frames for u in utterances]
    mel = module.encoder.mel_frames(wav)
    with mixed(mel.device):
        hidden = module.encoder.hidden(mel)
        index = module.encoder.heard(hidden)
        # Read before quantisation: half as many errors, so words are placed better.
        logits = module.early(hidden).float().log_softmax(-1)
    usable = [i for i, u in enumerate(utterances) if u.text.split() and all(map(spell, u.text.split()))]
    targets = [_targets(utterances[i].text) for i in usable]
    paths = align(logits[usable], targets, [frames[i] for i in usable]) if usable else []
    placed: list[tuple[list[int], list[int]]] = [([], []) for _ in utterances]
    for i, states in zip(usable, paths, strict=True):
        placed[i] = _locate(utterances[i].text.split(), states) or placed[i]
    rows = zip(index.cpu().numpy(), frames, strict=True)
    detail, units = np.divmod(np.concatenate([row[:length] for row, length in rows]), UNITS)
    told = module.encoder.config.detail > 0
    return {
        "ids": np.array([u.id for u in utterances]),
        "units": units.astype(np.int16),
        "detail": detail if told else detail[:0],
        "frames": np.array(frames, np.int32),
        "ends": np.concatenate([np.array(ends, np.int16) for ends, _ in placed]),
        "cuts": np.concatenate([np.array(cuts, np.int16) for _, cuts in placed]),
        "words": np.array([len(ends) for ends, _ in placed], np.int32),
    }


def _targets(text: str) -> list[int]:
    return [SYMBOLS.index(c) for c in " ".join(map(spell, text.split()))]


def load_spoken(path: Path, corpus: Corpus) -> dict[str, Spoken]:
    """Read what `extract` wrote, by utterance id."""
    with np.load(path, allow_pickle=False) as stored:
        data = {name: stored[name] for name in stored.files}
    at = np.cumsum(data["frames"])[:-1]
    units = np.split(data["units"], at)
    told = "detail" in data and len(data["detail"]) > 0
    detail = np.split(data["detail"], at) if told else [None] * len(units)
    edges = np.cumsum(data["words"])[:-1]
    ends, cuts = np.split(data["ends"], edges), np.split(data["cuts"], edges)
    return {
        str(name): Spoken(u, corpus.by_id[str(name)].text.split() if len(e) else [], e.tolist(), c.tolist(), d)
        for name, u, e, c, d in zip(data["ids"], units, ends, cuts, detail, strict=True)
    }


def all_units(corpus: Corpus, spoken: dict[str, Spoken]) -> Tensor:
    """Units of the whole corpus (frames,) int16, in its order."""
    return torch.from_numpy(np.concatenate([spoken[u.id].units for u in corpus.utterances]))


def all_details(corpus: Corpus, spoken: dict[str, Spoken]) -> Tensor:
    """The units' detail (frames,) int64, in the same order. Raises ConfigError when the encoder told none."""
    found = [spoken[u.id].detail for u in corpus.utterances]
    told = [detail for detail in found if detail is not None]
    if len(told) < len(found):
        raise ConfigError("the encoder of this run tells no detail: set perceptual.model.detail = 0")
    return torch.from_numpy(np.concatenate(told))
