"""Silero's voice activity detector: a spectral encoder and an LSTM, 0.1 ms a window on one core.

The model takes each window with the last 64 samples before it, and its LSTM state goes in and comes out, so one ONNX
session serves every stream of the process at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..frames import Pcm

MODEL = Path(__file__).with_name("silero_vad_16k.onnx")
WINDOW = 512
CONTEXT = 64
WIDTH = 128


@dataclass(frozen=True)
class SileroState:
    """What the detector knows of the stream so far.

    Attributes:
        hidden: the LSTM's output, (1, 1, 128).
        cell: the LSTM's cell, (1, 1, 128).
        context: the last samples of the window before, (64,).
    """

    hidden: NDArray[np.float32]
    cell: NDArray[np.float32]
    context: Pcm

    @classmethod
    def fresh(cls) -> SileroState:
        """Before the first window."""
        zeros = np.zeros((1, 1, WIDTH), np.float32)
        return cls(zeros, zeros, np.zeros(CONTEXT, np.float32))


@cache
def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # One window is far too little work to share out, and idle worker threads of onnxruntime spin.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(MODEL.as_posix(), options, providers=["CPUExecutionProvider"])


def silero(pcm: Pcm, state: SileroState) -> tuple[NDArray[np.float32], SileroState]:
    """Judge n whole windows at once, as a value in and a value out.

    Args:
        pcm: audio at 16 kHz, (n * 512,), n >= 1.
        state: as the call for the audio before gave it, or `SileroState.fresh()`.

    Returns:
        Probabilities (n,), and the state after them.
    """
    windows = pcm.reshape(-1, WINDOW)
    contexts = np.concatenate((state.context[None], windows[:-1, -CONTEXT:]))
    probabilities, hidden, cell = _session().run(
        ["speech_probs", "hn", "cn"],
        {"input": np.concatenate((contexts, windows), axis=1), "h": state.hidden, "c": state.cell},
    )
    return probabilities, SileroState(hidden, cell, windows[-1, -CONTEXT:].copy())


class SileroVad:
    """Judges windows of 32 ms.

    Attributes:
        state: the stream so far; may be kept and put back to judge on from there.
    """

    window: ClassVar[int] = WINDOW

    def __init__(self) -> None:
        _session()  # a missing or broken model file shows when the session is set up, not in the first turn
        self.state = SileroState.fresh()

    def speech(self, pcm: Pcm) -> float:
        probabilities, self.state = silero(pcm, self.state)
        return float(probabilities[0])

    def reset(self) -> None:
        self.state = SileroState.fresh()
