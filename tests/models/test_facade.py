"""The five methods on `tiny`: their shapes, that a stream is the whole, and one line for bad input."""

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from speechgpt_gen import (
    AudioError,
    Chunk,
    ConfigError,
    Message,
    SpeechGPTGen,
    SpeechGPTGenError,
    TextError,
    Voice,
    write_wav,
)
from speechgpt_gen.models.audio import load_audio
from speechgpt_gen.models.facade import join
from speechgpt_gen.models.semantic.vocabulary import N_UNITS


@pytest.fixture(scope="module")
def model() -> SpeechGPTGen:
    return SpeechGPTGen.load("tiny")


def noise(seconds: float, seed: int = 0) -> tuple[NDArray[np.float32], int]:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16_000))).astype(np.float32), 16_000


def hour() -> tuple[NDArray[np.float32], int]:
    return np.zeros(3600 * 16_000, np.float32), 16_000


def alien(voice: Voice) -> Voice:
    return Voice("alien", voice.units, voice.latents[:3])


def assert_speech(chunk: Chunk) -> None:
    assert chunk.pcm.dtype == np.float32
    assert chunk.start_frame == 0
    assert len(chunk.pcm) == 320 * chunk.end_frame > 0
    assert len(chunk.units) == chunk.end_frame
    assert all(0 <= unit < 1024 for unit in chunk.units)
    assert len(chunk.detail) == chunk.end_frame
    assert all(1 <= detail <= 4**3 for detail in chunk.detail), "tiny has three digits"
    assert np.isfinite(chunk.pcm).all()
    assert np.abs(chunk.pcm).max() <= 1.0
    assert chunk.seconds == pytest.approx(chunk.end_frame * 0.02)


WAYS: dict[str, Callable[..., object]] = {
    "say": lambda model, **how: model.say("Hello there, you.", seed=4, max_seconds=2, **how),
    "convert": lambda model, **how: model.convert(noise(0.55), seed=4, **how),
    "reply": lambda model, **how: model.reply(noise(0.6), seed=4, max_seconds=1, **how),
    "direct": lambda model, **how: model.reply(noise(0.6), seed=4, mode="direct", max_seconds=1, **how),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("voice", [None, "second"])
def test_streamed_chunks_joined_are_the_whole(model: SpeechGPTGen, way: str, voice: str | None) -> None:
    whole = WAYS[way](model, voice=voice)
    assert isinstance(whole, Chunk)
    assert_speech(whole)
    chunks = list(WAYS[way](model, voice=voice, stream=True))  # type: ignore[call-overload]
    assert len(chunks) > 1
    for before, after in pairwise(chunks):
        assert after.start_frame == before.end_frame
    np.testing.assert_array_equal(join(chunks).pcm, whole.pcm)
    assert join(chunks).units == whole.units
    assert join(chunks).text == whole.text
    assert join(chunks).transcript == whole.transcript


def test_say_speaks_the_words_it_was_given(model: SpeechGPTGen) -> None:
    chunk = model.say("Hello there, you.", seed=4)
    assert chunk.text == "Hello there, you."
    assert model.say("Hello there, you.", seed=5).units != chunk.units


def test_convert_keeps_the_units_and_changes_the_sound(model: SpeechGPTGen) -> None:
    first, second = model.convert(noise(0.5), "first"), model.convert(noise(0.5), "second")
    assert first.end_frame == 25
    assert first.units == second.units
    assert not np.array_equal(first.pcm, second.pcm)


def test_a_voice_comes_from_a_recording(model: SpeechGPTGen, tmp_path: Path) -> None:
    write_wav(tmp_path / "me.wav", noise(1.0)[0])
    voice = model.voice(tmp_path / "me.wav", "me")
    assert (voice.name, voice.frames) == ("me", 50)
    tokenizer, wav = model.bundle.tokenizer, torch.from_numpy(load_audio(tmp_path / "me.wav"))[None, None]
    assert torch.equal(voice.units, tokenizer.hear(wav)[0])
    assert (voice.units >= N_UNITS).all(), "with their detail"
    assert torch.equal(voice.latents, tokenizer.latents(tokenizer.encode(wav))[0])
    assert_speech(model.say("hello", voice, max_seconds=0.4))
    assert not np.array_equal(model.convert(noise(0.5), voice).pcm, model.convert(noise(0.5)).pcm)


def test_of_a_long_recording_the_loudest_three_seconds_are_the_voice(model: SpeechGPTGen) -> None:
    pcm, rate = noise(8.0)
    quiet = pcm * 0.01
    quiet[2 * rate : 5 * rate] = pcm[2 * rate : 5 * rate]
    voice = model.voice((quiet, rate))
    alone = model.voice((quiet[2 * rate : 5 * rate], rate))
    assert voice.frames == 150
    assert voice.units.equal(alone.units)


def test_history_changes_the_answer(model: SpeechGPTGen) -> None:
    plain = model.reply(noise(0.4), seed=2, max_seconds=1)
    told = model.reply(
        noise(0.4), [Message("user", "Hello"), Message("assistant", "I am a test.")], seed=2, max_seconds=1
    )
    assert plain.units != told.units


def test_transcribe_gives_text_and_leaves_nothing_behind(model: SpeechGPTGen) -> None:
    first = model.transcribe(noise(1.0))
    assert isinstance(first, str)
    model.reply(noise(0.3, seed=9), seed=3, max_seconds=0.5)
    assert model.transcribe(noise(1.0)) == first


def test_a_stream_left_halfway_does_not_disturb_the_next_call(model: SpeechGPTGen) -> None:
    expected = model.reply(noise(0.6), seed=4, max_seconds=1)
    left = model.reply(noise(0.5, seed=1), seed=8, stream=True)
    next(left)
    again = model.reply(noise(0.6), seed=4, max_seconds=1)
    list(left)
    np.testing.assert_array_equal(again.pcm, expected.pcm)
    np.testing.assert_array_equal(model.reply(noise(0.6), seed=4, max_seconds=1).pcm, expected.pcm)


def test_the_longest_answer_is_kept_to(model: SpeechGPTGen) -> None:
    assert model.say("one two three four five six", max_seconds=0.3).end_frame == 15


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: m.say(""), TextError, "nothing that can be spoken"),
        (lambda m: m.say(" ...!? \u4f60"), TextError, "nothing that can be spoken"),
        (lambda m: m.say("a" * 100_000), TextError, "100000 characters"),
        (lambda m: m.say("hello", "nobody"), ConfigError, "unknown voice 'nobody'"),
        (lambda m: m.say("hello", alien(m.voice(noise(1)))), ConfigError, "another model"),
        (lambda m: m.voice((np.zeros(1, np.float32), 16_000)), AudioError, "0.5 s"),
        (lambda m: m.voice((np.zeros(16_000, np.float32), 16_000)), AudioError, "silent"),
        (lambda m: m.convert("nowhere.wav"), AudioError, "does not exist"),
        (lambda m: m.convert((np.zeros(0, np.float32), 16_000)), AudioError, "no samples"),
        (lambda m: m.transcribe((np.full(99, np.nan, np.float32), 16_000)), AudioError, "NaN"),
        (lambda m: m.transcribe(hour()), AudioError, "lasts 3600.0 s"),
        (lambda m: m.reply(hour()), AudioError, "lasts 3600.0 s"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(
    model: SpeechGPTGen, call: Callable[[SpeechGPTGen], object], error: type[SpeechGPTGenError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_bad_input_to_a_stream_is_refused_at_the_call(model: SpeechGPTGen) -> None:
    with pytest.raises(TextError):
        model.say("...", stream=True)
    with pytest.raises(AudioError):
        model.convert("nowhere.wav", stream=True)


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, speechgpt_gen; assert 'torch' not in sys.modules; assert 'SpeechGPTGen' in dir(speechgpt_gen)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ImportError):
        from speechgpt_gen import Nothing  # type: ignore[attr-defined]  # noqa: F401
