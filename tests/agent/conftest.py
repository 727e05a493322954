"""Things that tests of conversations need: a user's voice that voice activity detectors take for one."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

RATE = 16_000
VOWELS = ((700, 1220, 2600), (300, 2300, 3000), (450, 800, 2830), (530, 1840, 2480))


def _resonate(source: NDArray[np.float64], frequency: float, width: float) -> NDArray[np.float64]:
    """One formant: a resonator at `frequency` Hz of `width` Hz, as its impulse response."""
    time = np.arange(RATE // 20) / RATE
    response = np.exp(-np.pi * width * time) * np.sin(2 * np.pi * frequency * time)
    return np.convolve(source, response)[: len(source)]


@pytest.fixture(scope="session")
def speechlike() -> Callable[..., NDArray[np.float32]]:
    """speechlike(seconds, seed=0): float32 (N,) at 16 kHz, -14 dBFS: glottal pulses through the formants of vowels."""

    def make(seconds: float, seed: int = 0) -> NDArray[np.float32]:
        rng = np.random.default_rng(seed)
        n = round(seconds * RATE)
        time = np.arange(n) / RATE
        phase = np.cumsum(120 + 15 * np.sin(2 * np.pi * 2.3 * time)) / RATE
        pulses = (np.diff(np.floor(phase), prepend=0) > 0) + rng.normal(0, 0.01, n)
        out = np.zeros(n)
        for start in range(0, n, RATE * 18 // 100):
            syllable = pulses[start : start + RATE * 18 // 100]
            vowel = VOWELS[rng.integers(len(VOWELS))]
            sound = sum(_resonate(syllable, f, 80 + 30 * i) * 0.6**i for i, f in enumerate(vowel))
            edge = np.minimum(np.arange(len(syllable)), np.arange(len(syllable))[::-1])
            out[start : start + len(syllable)] = sound * np.minimum(1, edge / (0.03 * RATE))
        return np.clip(0.2 * out / np.sqrt(np.mean(out**2)), -1, 1).astype(np.float32)

    return make
