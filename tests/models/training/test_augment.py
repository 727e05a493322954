"""Augmentation: reproducible by utterance, aligned, within its limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechgpt_gen.models.training.augment import (
    Augmentation,
    augment,
    generator_of,
    perturb,
    resample,
    shift_pitch,
)

NOTHING = Augmentation(room=0, noise=0, band=0, codec=0, gain=(0, 0))


def speech(rows: int = 3, samples: int = 16_000, seed: int = 0) -> Tensor:
    """Bursts of noise: something with an envelope."""
    rng = np.random.default_rng(seed)
    envelope = np.repeat(rng.uniform(0, 1, (rows, samples // 800)), 800, 1)
    return torch.from_numpy((0.1 * envelope * rng.standard_normal((rows, samples))).astype(np.float32))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 4), frames=st.integers(2, 60))
def test_shape_limits_and_repeatability(seed: int, rows: int, frames: int) -> None:
    wav = speech(rows, 800 * -(-frames * 320 // 800), seed)[:, : frames * 320]
    everything = Augmentation(room=1, noise=1, band=1, codec=1)
    once, again = (augment(wav, np.random.default_rng(seed), everything) for _ in range(2))
    assert once.shape == wav.shape
    assert once.dtype == torch.float32
    assert torch.isfinite(once).all()
    assert once.abs().max() <= 1.0
    assert torch.equal(once, again)


def test_a_row_is_the_same_whatever_batch_it_is_in() -> None:
    wav = speech(4)
    names = ["a", "b", "c", "d"]
    together = augment(wav, [generator_of(1, name, 2) for name in names])
    for n, name in enumerate(names):
        alone = augment(wav[n : n + 1], [generator_of(1, name, 2)])
        torch.testing.assert_close(alone[0], together[n], atol=1e-5, rtol=1e-4)


def test_epochs_names_and_seeds_give_others() -> None:
    wav = speech(1)
    made = [augment(wav, [generator_of(*key)]) for key in ((1, "a", 0), (1, "a", 1), (1, "b", 0), (2, "a", 0))]
    assert not any(torch.allclose(made[0], other) for other in made[1:])


def test_nothing_changes_nothing_and_silence_stays_silent() -> None:
    wav = speech()
    torch.testing.assert_close(augment(wav, np.random.default_rng(0), NOTHING), wav)
    assert augment(torch.zeros(2, 3200), np.random.default_rng(0)).abs().max() == 0


def test_noise_is_as_loud_as_asked() -> None:
    wav = torch.sin(torch.arange(32_000) * 0.3)[None].repeat(4, 1) * 0.3
    made = augment(wav, np.random.default_rng(0), Augmentation(0, noise=1, snr=(20, 20), band=0, codec=0, gain=(0, 0)))
    snr = 10 * torch.log10(wav.square().mean(1) / (made - wav).square().mean(1))
    torch.testing.assert_close(snr, torch.full((4,), 20.0), atol=0.5, rtol=0)


def test_a_band_limit_takes_what_is_outside() -> None:
    wav = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    only = Augmentation(room=0, noise=0, band=1, codec=0, gain=(0, 0), low=(200, 200), high=(3000, 3000))
    power = torch.fft.rfft(augment(wav, np.random.default_rng(0), only)).abs().square()
    assert power[:, 4500:].sum() < 0.01 * power[:, 500:2500].sum()
    assert power[:, :90].sum() < 0.01 * power[:, 500:590].sum()


@pytest.mark.parametrize("only", ["room", "band", "codec"])
def test_sounds_stay_where_they_are(only: str) -> None:
    wav = speech(2)
    config = Augmentation(**{"room": 0.0, "noise": 0.0, "band": 0.0, "codec": 0.0, only: 1.0}, gain=(0, 0))  # type: ignore[arg-type]
    made = augment(wav, np.random.default_rng(3), config)
    assert not torch.allclose(made, wav, atol=1e-4)
    products = torch.fft.irfft(torch.fft.rfft(made, 32_000) * torch.fft.rfft(wav, 32_000).conj(), 32_000)
    assert products.abs().argmax(1).tolist() == [0, 0]


def test_a_room_rings_on() -> None:
    wav = torch.zeros(1, 8000)
    wav[0, 1000] = 0.5
    room = Augmentation(room=1, noise=0, band=0, codec=0, gain=(0, 0), reverberation=(0.3, 0.3), direct=(0, 0))
    made = augment(wav, np.random.default_rng(0), room)[0]
    assert made[:1000].abs().max() < 1e-4
    early, late = made[1048:2048].square().sum(), made[4048:5048].square().sum()
    assert early > 10 * late > 0


def test_generators_must_fit_the_rows() -> None:
    with pytest.raises(ValueError, match="1 generators for 3 rows"):
        augment(speech(3), [generator_of(0, "a", 0)])


def peak(pcm: Tensor) -> float:
    return float(torch.fft.rfft(pcm * torch.hann_window(len(pcm))).abs().argmax()) * 16_000 / len(pcm)


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.12])
def test_pitch_moves_and_length_stays(factor: float) -> None:
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)
    made = shift_pitch(tone, factor)
    assert len(made) == 16_000
    assert peak(made) == pytest.approx(440 * factor, abs=4)
    assert made[2000:-2000].std() == pytest.approx(float(tone.std()), rel=0.2)


def test_speed_moves_both() -> None:
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)
    made = resample(tone, 14_545)
    assert peak(made) == pytest.approx(440 * 1.1, abs=3)
    assert made[500:-500].std() == pytest.approx(float(tone.std()), rel=0.02)


def test_perturbed_rows_keep_their_own_lengths() -> None:
    wav, samples = speech(4, 16_000), [16_000, 12_000, 9_000, 8_123]
    made, lengths = perturb(wav, samples, np.random.default_rng(0), speed=1.0, pitch=1.0)
    assert made.shape[1] % 320 == 0
    assert made.shape[1] - 320 < max(lengths) <= made.shape[1]
    for before, after in zip(samples, lengths, strict=True):
        assert 0.9 <= after / before <= 1.12
    for row, length in zip(made, lengths, strict=True):
        assert row[length:].abs().sum() == 0
    same, unchanged = perturb(wav, samples, np.random.default_rng(0), speed=0.0, pitch=0.0)
    assert unchanged == samples
    torch.testing.assert_close(same[3, :8_123], wav[3, :8_123])
