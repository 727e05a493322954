"""Judges, each loaded when it is first asked: who can't be imported says in one line which extra brings it.

WER: whisper-base by faster-whisper, OpenAI's English normaliser. Speaker cosine: resemblyzer, or a WavLM x-vector model
from a folder (the paper's protocol). DNSMOS P.835: speechmos. Quality against a reference: PESQ (wide band), STOI.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio import SAMPLE_RATE
from ..errors import ModelNotFoundError
from ..packages import whisper_folder
from ..training.sources import Recording

Pcm = NDArray[np.float32]

MODULES = ("faster_whisper", "jiwer", "whisper_normalizer", "resemblyzer", "speechmos", "pesq", "pystoi", "matplotlib")

_DNSMOS_WINDOW = 144_160
"""Samples, 9.01 s."""


def load(module: str) -> Any:
    """Import a judge. Raises ModelNotFoundError that names the extra."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise ModelNotFoundError(f"judging needs the extra: pip install 'speechgpt-gen[eval]' ({error})") from None


class Judges:
    """All judges of one run. whisper: folder of a CTranslate2 Whisper, default whisper-base; wavlm: folder of a WavLM
    x-vector model for transformers, which then judges speakers instead of resemblyzer."""

    def __init__(self, whisper: Path | None = None, wavlm: Path | None = None, threads: int = 1) -> None:
        self._whisper_folder, self._wavlm_folder, self._threads = whisper, wavlm, threads

    def check(self) -> None:
        """Raise ModelNotFoundError now for a judge that is missing, and not after an hour of work."""
        for module in MODULES:
            load(module)
        whisper_folder(self._whisper_folder)

    @property
    def names(self) -> dict[str, str]:
        """What judges what, for reports."""
        speaker = f"WavLM x-vector {self._wavlm_folder}" if self._wavlm_folder else "resemblyzer"
        whisper = "whisper-base" if self._whisper_folder is None else f"Whisper {self._whisper_folder.name}"
        return {"text": f"{whisper}, beam 5, OpenAI's English normaliser", "speaker": f"cosine of {speaker} embeddings",
                "quality": "DNSMOS P.835 overall", "reference": "PESQ wide band, STOI"}  # fmt: skip

    @cached_property
    def _whisper(self) -> Any:
        folder = whisper_folder(self._whisper_folder)
        model = load("faster_whisper").WhisperModel
        return model(str(folder), compute_type="int8", cpu_threads=self._threads, local_files_only=True)

    @cached_property
    def _normaliser(self) -> Any:
        return load("whisper_normalizer.english").EnglishTextNormalizer()

    def read(self, pcm: Pcm) -> str:
        """What Whisper hears in 16 kHz samples (N,); the empty text in silence."""
        if len(pcm) < 0.1 * SAMPLE_RATE:
            return ""
        # Without the fallback to sampling, which is drawn anew each time; nobody says more than ten tokens a second.
        segments, _ = self._whisper.transcribe(
            pcm,
            language="en",
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            max_new_tokens=min(200, 16 + 10 * len(pcm) // SAMPLE_RATE),
        )
        return " ".join(segment.text.strip() for segment in segments)

    def normalise(self, text: str) -> str:
        """Lower case, digits for numbers, no punctuation: what word errors are counted on."""
        return str(self._normaliser(text))

    def errors(self, truth: str, heard: str) -> tuple[int, int]:
        """Word errors (substituted, inserted, deleted) and words of the truth, after normalising."""
        reference, hypothesis = self.normalise(truth), self.normalise(heard)
        if not reference:
            return len(hypothesis.split()), 0
        counted = load("jiwer").process_words(reference, hypothesis)
        return counted.substitutions + counted.insertions + counted.deletions, len(reference.split())

    def speaker(self, pcm: Pcm) -> NDArray[np.float32]:
        """Unit-length embedding of who speaks in 16 kHz samples."""
        return self._wavlm(pcm) if self._wavlm_folder is not None else self._resemblyzer(pcm)

    def similarity(self, one: Pcm, other: Pcm) -> float:
        """Cosine of two speakers; nan when one of them does not speak."""
        if min(len(one), len(other)) < 0.2 * SAMPLE_RATE or not (np.any(one) and np.any(other)):
            return float("nan")
        return float(self.speaker(one) @ self.speaker(other))

    @cached_property
    def _resemblyzer_model(self) -> tuple[Any, Any]:
        package = load("resemblyzer")
        return package.VoiceEncoder("cpu", verbose=False), package.preprocess_wav

    def _resemblyzer(self, pcm: Pcm) -> NDArray[np.float32]:
        encoder, prepare = self._resemblyzer_model
        with np.errstate(all="ignore"):
            trimmed = prepare(pcm)
        # What its voice detector leaves nothing of is judged whole.
        found = encoder.embed_utterance(trimmed if len(trimmed) > 0.2 * SAMPLE_RATE else pcm)
        return np.asarray(found, np.float32)

    @cached_property
    def _wavlm_model(self) -> tuple[Any, Any]:
        package = load("transformers")
        folder = str(self._wavlm_folder)
        try:
            model = package.WavLMForXVector.from_pretrained(folder, local_files_only=True).eval()
            return model, package.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ModelNotFoundError(f"{folder} is no WavLM x-vector model for transformers: {reason}") from None

    def _wavlm(self, pcm: Pcm) -> NDArray[np.float32]:
        import torch

        model, features = self._wavlm_model
        with torch.inference_mode():
            found = model(**features(pcm, sampling_rate=SAMPLE_RATE, return_tensors="pt")).embeddings[0].numpy()
        return np.asarray(found / np.linalg.norm(found), np.float32)

    def quality(self, pcm: Pcm) -> float:
        """DNSMOS overall, 1 to 5; nan for silence.

        What is shorter than its window of nine seconds is repeated to one window, not to the next power of two windows,
        as the package does: a short clip took seven times as long to say the same.
        """
        if not np.any(pcm):
            return float("nan")
        window = np.resize(pcm, max(len(pcm), _DNSMOS_WINDOW))
        return float(load("speechmos.dnsmos").run(np.clip(window, -1, 1), SAMPLE_RATE)["ovrl_mos"])

    def against(self, truth: Pcm, made: Pcm) -> tuple[float, float]:
        """PESQ and STOI of `made`; nan where they find no speech. Both are cut to the shorter."""
        n = min(len(truth), len(made))
        pesq = load("pesq")
        try:
            score = float(pesq.pesq(SAMPLE_RATE, truth[:n], made[:n], "wb"))
        except (pesq.PesqError, ValueError):
            score = float("nan")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return score, float(load("pystoi").stoi(truth[:n], made[:n], SAMPLE_RATE))


def rate(errors: Sequence[tuple[int, int]]) -> float:
    """Word error rate in per cent over all words of (errors, words)."""
    return 100 * sum(e for e, _ in errors) / max(1, sum(n for _, n in errors))


_CHECKERS: list[Judges] = []


def misread(most: float, recording: Recording, pcm: Pcm) -> str | None:
    """Why a text is not what its recording says, or None: Whisper reads it with more than `most` per cent of errors."""
    if not _CHECKERS:  # one in each process
        _CHECKERS.append(Judges())
    heard = _CHECKERS[0].read(pcm)
    found = rate([_CHECKERS[0].errors(recording.text, heard)])
    return f"{found:.0f} % WER, Whisper reads: {heard[:80]}" if found > most else None
