"""What a step of stage one hears: a batch of speech as it is said and as it is heard, and the same kept on disk.

Layers that are held say the same of the same sound at every step. If it comes again, they need to hear it but once: a
fixed set of views is drawn, heard, kept, and gone through in a new order every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .augment import augment, perturb
from .batches import BucketBatches
from .corpus import Utterance
from .recordings import HOP
from .saving import replacing


class Heard(NamedTuple):
    """A batch as the layers that learn take it.

    states (B, T + lookahead, dim): after the layers that are held; truth (B, bands, 2 * T): spectrum of what was said;
    frames (B,): lengths; first (): index of the first frame in its stream; rows (K,) and digits (K, T, 5): what the
    encoder whose units are kept hears in some of the rows (K = 0 without one); taught (B, T, features): what a teacher
    hears of what was said (none without one).
    """

    states: Tensor
    truth: Tensor
    frames: Tensor
    first: Tensor
    rows: Tensor
    digits: Tensor
    taught: Tensor


def views(
    wav: Tensor,
    samples: Sequence[int],
    rng: np.random.Generator,
    *,
    clean: float = 0.0,
    speed: float = 0.0,
    pitch: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Waveforms (B, N), 16 kHz, as what is said and as what is heard of it, (B, M) both, and the frames of each (B,).

    samples: the length of each row without its padding. clean, speed, pitch: shares of the rows that are heard as they
    are, and that are said at another speed or pitch.
    """
    if speed or pitch:
        wav, samples = perturb(wav, samples, rng, speed=speed, pitch=pitch)
    frames = -(-torch.tensor(samples, device=wav.device) // HOP)
    noisy = augment(wav, rng)
    if clean:
        plain = torch.from_numpy(rng.random(len(wav)) < clean).to(wav.device)
        noisy = torch.where(plain[:, None], wav, noisy)
    return wav, noisy, frames


class HeardOnce:
    """The first batches of an epoch, up to `hours` of speech (an epoch at most), each heard when it first comes and
    kept in `folder`: 2 bytes a number, some 75 kB a second with states of 512.

    batches: of these utterances; hear: makes a batch by its number; settings: what else it depends on, in words. What
    was kept of other utterances or settings is heard anew; of other weights it must not be, as the folder of a run.
    Raises UnsavedError when the disk is full.
    """

    def __init__(
        self,
        folder: Path,
        batches: BucketBatches,
        utterances: Sequence[Utterance],
        hours: float,
        hear: Callable[[int], Heard],
        *,
        settings: str = "",
    ) -> None:
        self._folder, self._hear, self._seed = folder, hear, batches.seed
        self._batches, self._utterances, self._settings = batches, utterances, settings
        folder.mkdir(parents=True, exist_ok=True)
        spoken = np.cumsum([sum(utterances[i].frames for i in batches(n)) for n in range(batches.per_epoch)])
        self.count = min(batches.per_epoch, 1 + int(np.searchsorted(spoken, hours * 180_000)))
        """Batches that are kept, once all have come."""

    def number(self, step: int) -> int:
        """Which batch a step trains on."""
        epoch, at = divmod(step, self.count)
        return int(np.random.default_rng((self._seed, epoch)).permutation(self.count)[at])

    def __call__(self, number: int, device: torch.device | str = "cpu") -> Heard:
        """The batch of a number, as it was kept."""
        path = self._folder / f"{number:06d}.safetensors"
        of = " ".join([self._settings, *(self._utterances[i].id for i in self._batches(number))])
        if path.is_file() and (heard := _read(path, of, device)) is not None:
            return heard
        tensors = {k: v.bfloat16() if v.is_floating_point() else v for k, v in self._hear(number)._asdict().items()}
        with replacing(path, "make room, or give fewer hear_hours", shared=True) as part:
            save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, part, {"of": of})
        return _floats(tensors)


def _read(path: Path, of: str, device: torch.device | str) -> Heard | None:
    """What lies in a file, unless it was kept of something else."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        if (file.metadata() or {}).get("of") != of:
            return None
        return _floats({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def _floats(tensors: dict[str, Tensor]) -> Heard:
    return Heard(**{name: v.float() if v.is_floating_point() else v for name, v in tensors.items()})
