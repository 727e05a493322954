"""What the later stages train on, computed once from the corpus: units, and where each word is in them.

Words are located by forced alignment of their letters to the reader's CTC output.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .batches import LengthBatches, pad_audio
from .corpus import Corpus
from .semantic_units import SYMBOLS, SemanticUnits, spell

_BLANK, _SPACE = 0, 1


@dataclass(frozen=True)
class Spoken:
    """One utterance as units (T,) int16 and its whitespace words with `ends` (the frame at which each is recognised)
    and `cuts` (the frame at which its sound gives way to the next word's)."""

    units: NDArray[np.int16]
    words: list[str]
    ends: list[int]
    cuts: list[int]


def align(log_probs: NDArray[np.float32], targets: list[list[int]], frames: list[int]) -> list[NDArray[np.int64]]:
    """Viterbi alignment of CTC outputs (B, T, symbols) to targets; per item the state 0..2L of every frame (T_i,).

    State 2k+1 is target k, even states are blanks. The best path under the CTC topology (Graves et al. 2006).
    """
    batch, steps, _ = log_probs.shape
    size = 2 * max(map(len, targets)) + 1
    symbols = np.zeros((batch, size), np.int64)
    for row, target in zip(symbols, targets, strict=True):
        row[1 : 2 * len(target) : 2] = target
    skip = np.zeros((batch, size), bool)
    skip[:, 2:] = (symbols[:, 2:] != _BLANK) & (symbols[:, 2:] != symbols[:, :-2])
    emitted = np.take_along_axis(log_probs, np.broadcast_to(symbols[:, None], (batch, steps, size)), 2)
    score = np.full((batch, size), -1e30, np.float32)
    score[:, :2] = emitted[:, 0, :2]
    came = np.zeros((batch, steps, size), np.int8)
    for t in range(1, steps):
        one = np.pad(score[:, :-1], ((0, 0), (1, 0)), constant_values=-1e30)
        two = np.where(skip, np.pad(score[:, :-2], ((0, 0), (2, 0)), constant_values=-1e30), -1e30)
        choices = np.stack([score, one, two])
        came[:, t] = choices.argmax(0)
        score = np.where((t < np.array(frames))[:, None], choices.max(0) + emitted[:, t], score)
    paths = []
    for i, (target, length) in enumerate(zip(targets, frames, strict=True)):
        last = 2 * len(target)
        state = last if score[i, last] >= score[i, last - 1] else last - 1
        path = np.empty(length, np.int64)
        for t in range(length - 1, -1, -1):
            path[t] = state
            state -= int(came[i, t, state])
        paths.append(path)
    return paths


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
def extract(corpus: Corpus, module: SemanticUnits, folder: Path, *, batch_seconds: float = 200.0) -> None:
    """Write units and word positions of the whole corpus to `folder/spoken.npz`.

    Utterances whose words could not be placed keep their units and have no words.
    """
    module.eval()
    everything = corpus.utterances
    batches = LengthBatches([u.samples / 16_000 for u in everything], batch_seconds, 0)
    units: dict[str, NDArray[np.int16]] = {}
    places: dict[str, tuple[list[int], list[int]]] = {}
    step = 0
    while len(units) < len(everything):
        chosen = [everything[i] for i in batches(step)]
        step += 1
        wav, frames = pad_audio(corpus, chosen)
        mel = module.encoder.mel_frames(wav)
        with torch.autocast("cpu", torch.bfloat16):
            values, index = module.encoder.quantize(module.encoder.hidden(mel))
            logits = module.reader.read(values).float().log_softmax(-1).numpy()
        usable = [i for i, u in enumerate(chosen) if u.text.split() and all(map(spell, u.text.split()))]
        targets = [_targets(chosen[i].text) for i in usable]
        paths = align(logits[usable], targets, [int(frames[i]) for i in usable]) if usable else []
        for row, u in enumerate(chosen):
            units[u.id] = index[row, : int(frames[row])].numpy().astype(np.int16)
        for i, path in zip(usable, paths, strict=True):
            found = _locate(chosen[i].text.split(), path)
            if found is not None:
                places[chosen[i].id] = found
        if step % 50 == 0:
            print(f"extracted {len(units)}/{len(everything)}", flush=True)
    _save(folder, [u.id for u in everything], units, places)


def _targets(text: str) -> list[int]:
    return [SYMBOLS.index(c) for c in " ".join(map(spell, text.split()))]


def _save(
    folder: Path, ids: list[str], units: dict[str, NDArray[np.int16]], places: dict[str, tuple[list[int], list[int]]]
) -> None:
    none: tuple[list[int], list[int]] = ([], [])
    np.savez(
        folder / "spoken.npz",
        ids=np.array(ids),
        units=np.concatenate([units[i] for i in ids]),
        frames=np.array([len(units[i]) for i in ids], np.int32),
        ends=np.concatenate([np.array(places.get(i, none)[0], np.int16) for i in ids]),
        cuts=np.concatenate([np.array(places.get(i, none)[1], np.int16) for i in ids]),
        words=np.array([len(places.get(i, none)[0]) for i in ids], np.int32),
    )


def load_spoken(folder: Path, corpus: Corpus) -> dict[str, Spoken]:
    """Read what `extract` wrote, by utterance id."""
    with np.load(folder / "spoken.npz", allow_pickle=False) as stored:
        data = {name: stored[name] for name in stored.files}
    units = np.split(data["units"], np.cumsum(data["frames"])[:-1])
    edges = np.cumsum(data["words"])[:-1]
    ends, cuts = np.split(data["ends"], edges), np.split(data["cuts"], edges)
    return {
        str(name): Spoken(u, corpus.by_id[str(name)].text.split() if len(e) else [], e.tolist(), c.tolist())
        for name, u, e, c in zip(data["ids"], units, ends, cuts, strict=True)
    }
