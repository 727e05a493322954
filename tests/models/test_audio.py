"""Recordings come in as 16 kHz mono float32, or not at all and with one line that says why."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.models.audio import load_audio, write_wav
from speechgpt_gen.models.errors import AudioError


def tone(seconds: float, rate: int = 16_000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def wav(pcm: np.ndarray, rate: int = 16_000, format: str = "WAV") -> BytesIO:
    target = BytesIO()
    sf.write(target, pcm, rate, format=format)
    return target


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_any_rate_and_format_becomes_16_khz(format: str, rate: int) -> None:
    stereo = np.stack([tone(0.5, rate), tone(0.5, rate)], axis=1)
    pcm = load_audio(wav(stereo, rate, format))
    assert pcm.dtype == np.float32
    assert pcm.ndim == 1
    assert abs(len(pcm) - 8_000) <= 2
    spectrum = np.abs(np.fft.rfft(pcm[:8000]))
    assert abs(np.argmax(spectrum) * 16_000 / 8_000 - 440) < 5


def test_a_file_and_its_array_are_the_same(tmp_path: Path) -> None:
    pcm = tone(0.3)
    write_wav(tmp_path / "tone.wav", pcm)
    from_file = load_audio(tmp_path / "tone.wav")
    np.testing.assert_allclose(from_file, pcm, atol=1 / 32_000)
    np.testing.assert_array_equal(load_audio((from_file, 16_000)), from_file)
    np.testing.assert_allclose(load_audio(((pcm * 32_768).astype(np.int16), 16_000)), pcm, atol=1 / 32_000)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(min_value=0, max_value=3_243))
def test_no_cut_of_a_wav_passes_as_whole(cut: int) -> None:
    data = wav(tone(0.1)).getvalue()
    assert len(data) == 3_244
    with pytest.raises(AudioError) as caught:
        load_audio(BytesIO(data[:cut]))
    assert "\n" not in str(caught.value)


def test_a_streamed_wav_of_unknown_length_is_whole() -> None:
    data = bytearray(wav(tone(0.1)).getvalue())
    data[40:44] = b"\xff\xff\xff\xff"
    assert len(load_audio(BytesIO(bytes(data)))) == 1_600


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere.wav", "does not exist"),
        (BytesIO(b"this is not sound at all, whatever its name"), "not a recording"),
        (BytesIO(b""), "0 bytes"),
        (wav(np.zeros(0, np.float32)), "no samples"),
        ((np.zeros(0, np.float32), 16_000), "no samples"),
        ((np.array([0.0, np.nan], np.float32), 16_000), "NaN"),
        ((np.array([0.0, np.inf], np.float32), 16_000), "NaN"),
        ((np.full(100, 20_000.0, np.float32), 16_000), "scale"),
        ((np.zeros((3, 4, 5), np.float32), 16_000), "shape"),
        ((np.zeros((2, 500), np.float32), 16_000), "shape"),
        ((np.zeros(100, np.float32), 0), "sample rate"),
        ((np.zeros(100, np.complex64), 16_000), "complex64"),
        ((np.zeros(16_000 * 11, np.float32), 16_000), "at most 10 s"),
        (wav(np.zeros(8_000 * 11, np.float32), 8_000), "at most 10 s"),
    ],
)
def test_bad_audio_gets_one_line(source: object, words: str) -> None:
    with pytest.raises(AudioError, match=words) as caught:
        load_audio(source, max_seconds=10)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_folder_is_not_a_recording(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="not a file"):
        load_audio(tmp_path)
    with pytest.raises(AudioError, match="cannot write"):
        write_wav(tmp_path / "missing" / "out.wav", tone(0.1))
