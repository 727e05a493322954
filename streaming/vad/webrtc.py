"""WebRTC's voice activity detector: Gaussian mixtures over six sub-band energies, two microseconds a window."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import webrtcvad

from ..frames import FRAME, SAMPLE_RATE, Pcm
from ..pcm import to_pcm16


class WebRtcVad:
    """Judges windows of 20 ms with yes (1.0) or no (0.0).

    Args:
        aggressiveness: 0 calls almost everything speech, 3 only what is surely speech.
    """

    window: ClassVar[int] = FRAME

    def __init__(self, aggressiveness: int = 3) -> None:
        self._aggressiveness = aggressiveness
        self._vad = webrtcvad.Vad(aggressiveness)

    def speech(self, pcm: Pcm) -> float:
        return float(self._vad.is_speech(to_pcm16(np.asarray(pcm)), SAMPLE_RATE))

    def reset(self) -> None:
        self._vad = webrtcvad.Vad(self._aggressiveness)
