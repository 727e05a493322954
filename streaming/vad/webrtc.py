"""WebRTC's voice activity detector: Gaussian mixtures over six sub-band energies, two microseconds a window."""

from __future__ import annotations

from typing import ClassVar

import webrtcvad

from ..frames import FRAME, FRAME_RATE, SAMPLE_RATE, Pcm, dbfs
from ..pcm import to_pcm16

MARGIN_DB = 6.0
"""How far above the background speech must be."""

RISE_DB = 3.0 / FRAME_RATE
"""How fast the idea of the background may rise, dB a window: pauses between words pull it down sooner."""

LOWEST_DB = -70.0
"""The background is never thought quieter than this: from digital silence a fan would take long to be believed."""

HANGOVER, DOUBT = 2, 0.4
"""Windows after speech that are doubtful, and their probability: a turn goes on through them, but does not start."""


class WebRtcVad:
    """Judges windows of 20 ms with yes (1.0), no (0.0), or, just after speech, perhaps (0.4).

    By itself the detector takes a loud fan for speech for ever, and then a turn never ends. So a window must also stand
    out of the background, which is the lowest level lately heard.

    Args:
        aggressiveness: 0 calls almost everything speech, 3 only what is surely speech.
    """

    window: ClassVar[int] = FRAME

    def __init__(self, aggressiveness: int = 2) -> None:
        self._aggressiveness = aggressiveness
        self._background = LOWEST_DB
        self._hangover = 0
        self.reset()

    def speech(self, pcm: Pcm) -> float:
        level = dbfs(pcm)
        self._background = max(min(level, self._background + RISE_DB), LOWEST_DB)
        if self._vad.is_speech(to_pcm16(pcm), SAMPLE_RATE) and level > self._background + MARGIN_DB:
            self._hangover = HANGOVER
            return 1.0
        self._hangover -= 1
        return DOUBT if self._hangover >= 0 else 0.0

    def reset(self) -> None:
        self._vad = webrtcvad.Vad(self._aggressiveness)
        self._background = LOWEST_DB
        self._hangover = 0
