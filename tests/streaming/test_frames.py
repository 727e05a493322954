"""Samples, frames, levels and windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.models.errors import AudioError
from speechgpt_gen.streaming import frames as f


def test_units() -> None:
    assert f.samples(1.5) == 24_000
    assert f.samples_of_ms(20) == f.FRAME
    assert f.seconds(8_000) == 0.5
    assert f.milliseconds(8_000) == 500
    assert [f.frames(n) for n in (0, 1, 320, 321)] == [0, 1, 1, 2]


def test_levels() -> None:
    sine = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    assert f.dbfs(sine) == pytest.approx(-3.01, abs=0.01)
    assert f.dbfs(0.1 * sine) == pytest.approx(-23.01, abs=0.01)
    assert f.dbfs(np.ones(10, np.float32)) == pytest.approx(0)
    assert f.dbfs(np.zeros(10, np.float32)) == f.SILENCE_DB
    assert f.dbfs(np.zeros(0, np.float32)) == f.SILENCE_DB


def test_as_pcm() -> None:
    assert f.as_pcm(np.zeros(3)).dtype == np.float32
    pcm = np.zeros(3, np.float32)
    assert f.as_pcm(pcm) is pcm
    with pytest.raises(AudioError, match=r"\(2, 3\)"):
        f.as_pcm(np.zeros((2, 3), np.float32))
    with pytest.raises(AudioError, match="int16"):
        f.as_pcm(np.zeros(3, np.int16))


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(0, 900), max_size=10), size=st.integers(1, 400))
def test_framer_gives_every_sample_once(cuts: list[int], size: int) -> None:
    audio = np.arange(sum(cuts), dtype=np.float32)
    framer = f.Framer(size)
    windows: list[f.Pcm] = []
    start = 0
    for cut in cuts:
        chunk = audio[start : start + cut].copy()
        windows += framer.push(chunk)
        chunk[:] = -1  # the caller may reuse its buffer
        start += cut
    assert all(len(window) == size for window in windows)
    assert framer.pending == len(audio) % size
    assert np.array_equal(np.concatenate([np.zeros(0, np.float32), *windows, framer.flush()]), audio)
    assert framer.pending == 0


def test_framer_refuses_empty_windows() -> None:
    with pytest.raises(ValueError, match="0 samples"):
        f.Framer(0)
