"""Numbered words as tones: what the fake engine speaks, and how a recording of it is read back.

Word number n is a tone of 400 + 40 n Hz for 22 frames and 3 frames of silence, so that a test can tell from any
recording, resampled or cut short, which words of which answer were audible.
"""

import numpy as np
from numpy.typing import NDArray

FRAME = 320
SAMPLE_RATE = 16_000
WORD_FRAMES = 25
TONE_FRAMES = 22
MAX_WORD = 180
_AMPLITUDE = 0.3
_FADE = 160


def word_tone(number: int) -> NDArray[np.float32]:
    """Word `number` (1 .. 180) as float32 (8000,) at 16 kHz: half a second."""
    if not 1 <= number <= MAX_WORD:
        raise ValueError(f"word numbers go from 1 to {MAX_WORD}, not {number}")
    time = np.arange(TONE_FRAMES * FRAME) / SAMPLE_RATE
    tone = _AMPLITUDE * np.sin(2 * np.pi * (400 + 40 * number) * time)
    ramp = np.linspace(0.0, 1.0, _FADE)
    tone[:_FADE] *= ramp
    tone[-_FADE:] *= ramp[::-1]
    return np.concatenate([tone, np.zeros((WORD_FRAMES - TONE_FRAMES) * FRAME)]).astype(np.float32)


def decode_words(pcm: NDArray[np.float32], sample_rate: int = SAMPLE_RATE, *, min_ms: float = 60.0) -> list[int]:
    """Numbers of the words audible in a recording, in order; a tone shorter than `min_ms` is not counted.

    pcm: float32 (N,), any rate above 16 kHz or so. A word interrupted by another and heard again counts twice.
    """
    window = int(sample_rate * 0.03)
    step = int(sample_rate * 0.01)
    needed = max(1, round(min_ms / 10) - 2)  # a window of 30 ms fits two steps less often than the tone is long
    taper = np.hanning(window)
    size = 8 * window  # zero padding: bins of 4 Hz, so that the peak tells words 40 Hz apart
    words: list[int] = []
    run_word, run_length = 0, 0
    for start in range(0, len(pcm) - window + 1, step):
        piece = np.asarray(pcm[start : start + window], dtype=np.float64)
        word = 0
        if np.sqrt(np.mean(piece**2)) > 0.02:
            spectrum = np.abs(np.fft.rfft(piece * taper, size))
            peak = float(np.argmax(spectrum)) * sample_rate / size
            word = round((peak - 400) / 40)
            if not 1 <= word <= MAX_WORD or abs(peak - 400 - 40 * word) > 12:
                word = 0
        run_length = run_length + 1 if word == run_word else 1
        run_word = word
        if word and run_length == needed:
            words.append(word)
    return words
