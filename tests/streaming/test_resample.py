"""The resampler: any chunking gives the same samples, the right signal, and a small constant delay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.models.errors import AudioError
from speechgpt_gen.streaming.frames import Pcm
from speechgpt_gen.streaming.resample import StreamResampler, resample

PAIRS = [(48_000, 16_000), (16_000, 48_000), (24_000, 16_000), (16_000, 24_000), (44_100, 16_000), (8_000, 16_000)]


def sine(hz: float, rate: int, seconds: float = 1.0) -> Pcm:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(pair=st.sampled_from(PAIRS), cuts=st.lists(st.integers(0, 3000), max_size=12))
def test_any_chunking_equals_the_whole(pair: tuple[int, int], cuts: list[int]) -> None:
    audio = np.random.default_rng(1).uniform(-0.5, 0.5, sum(cuts)).astype(np.float32)
    whole = resample(audio, *pair)
    assert len(whole) == round(len(audio) * pair[1] / pair[0])
    resampler = StreamResampler(*pair)
    for _ in range(2):  # flush leaves nothing behind
        out, start = [], 0
        for cut in cuts:
            out.append(resampler.process(audio[start : start + cut]))
            start += cut
        assert np.array_equal(np.concatenate([*out, resampler.flush()]), whole)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_tone_keeps_its_pitch_and_level(source: int, target: int) -> None:
    out = resample(sine(1000, source), source, target)
    middle = out[target // 4 : target // 4 + target // 2]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) * 4 / len(middle)
    peak = int(spectrum.argmax())
    assert peak * 2 == 1000  # half a second: 2 Hz a bin
    assert spectrum[peak] == pytest.approx(0.3, rel=0.01)
    assert np.delete(spectrum, range(peak - 3, peak + 4)).max() < 1e-4


def test_what_the_target_cannot_carry_is_removed() -> None:
    out = resample(sine(9_500, 48_000), 48_000, 16_000)
    assert np.abs(out[4_000:12_000]).max() < 1e-4


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_delay_is_small_and_constant(source: int, target: int) -> None:
    resampler = StreamResampler(source, target)
    assert resampler.delay == 0
    delays = []
    for chunk in sine(440, source).reshape(50, -1):
        resampler.process(chunk)
        delays.append(resampler.delay)
    assert max(delays[10:]) - min(delays[10:]) <= 2 / target
    assert max(delays) <= (0.031 if source == 8_000 else 0.016)
    resampler.flush()
    assert resampler.delay == 0


def test_equal_rates_pass_untouched() -> None:
    resampler = StreamResampler(16_000, 16_000)
    audio = sine(440, 16_000)
    assert resampler.process(audio) is audio
    assert resampler.delay == 0
    assert len(resampler.flush()) == 0


@pytest.mark.parametrize("rate", [0, -16_000, 10_000_000])
def test_impossible_rates(rate: int) -> None:
    with pytest.raises(AudioError, match="sample rate"):
        StreamResampler(rate, 16_000)
    with pytest.raises(AudioError, match="sample rate"):
        StreamResampler(16_000, rate)
