"""Speech made of arithmetic, so that the detectors have something to hear without any recording."""

import numpy as np
import pytest

from speechgpt_gen.streaming.frames import SAMPLE_RATE, Pcm

VOWELS = [(730, 1090, 2440), (270, 2290, 3010), (570, 840, 2410), (530, 1840, 2480), (300, 870, 2240)]


def make_speech(seconds: float, level_db: float = -23.0) -> Pcm:
    """Syllables at 16 kHz, (N,): harmonics of a wandering pitch under moving formants, four vowels a second."""
    n = round(seconds * SAMPLE_RATE)
    t = np.arange(n) / SAMPLE_RATE
    pitch = 125 + 25 * np.sin(2 * np.pi * 0.6 * t) + 4 * np.sin(2 * np.pi * 5.3 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    place = t * 4
    formants = [np.interp(place, range(len(VOWELS) * 20), [v[i] for v in VOWELS] * 20) for i in range(3)]
    pcm = np.zeros(n)
    for k in range(1, 28):
        hz = k * pitch
        gain = sum(
            strength / (1 + ((hz - centre) / width) ** 2)
            for centre, width, strength in zip(formants, (60, 90, 130), (1.0, 0.6, 0.3), strict=True)
        )
        pcm += gain * np.sin(k * phase) / k**0.3
    pcm *= 0.15 + np.abs(np.sin(np.pi * place)) ** 0.7
    pcm *= 10 ** (level_db / 20) / np.sqrt(np.mean(pcm**2))
    return pcm.astype(np.float32)


@pytest.fixture(scope="session")
def speech() -> Pcm:
    """Two seconds of synthetic speech at -23 dBFS."""
    return make_speech(2.0)


@pytest.fixture(scope="session")
def noise() -> Pcm:
    """Two seconds of a quiet room: white noise at -55 dBFS."""
    return (10 ** (-55 / 20) * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE)).astype(np.float32)
