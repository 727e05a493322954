"""What lies between a mouth and a recording: room, noise, band limits, codec, gain; and other speeds and pitches.

`augment` leaves every sound where it is, so clean and augmented frames stay a pair; `perturb` changes the length and is
for where nothing is aligned yet. Both work on whole batches on any device. What a row gets depends only on its own
generator: `generator_of(seed, id, epoch)` gives the same to an utterance whatever batch it is in.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RATE = 16_000
Generators = np.random.Generator | Sequence[np.random.Generator]


@dataclass(frozen=True)
class Augmentation:
    """How often each thing happens (0 to 1), and its range."""

    room: float = 0.4
    reverberation: tuple[float, float] = (0.1, 0.6)
    """Seconds until the room's echo has fallen by 60 dB."""
    direct: tuple[float, float] = (0.0, 15.0)
    """Direct sound over echo, dB."""
    noise: float = 0.9
    snr: tuple[float, float] = (5.0, 45.0)
    colour: tuple[float, float] = (0.0, 2.0)
    """Noise power falls with frequency to this power: 0 white, 1 pink, 2 brown."""
    band: float = 0.3
    low: tuple[float, float] = (50.0, 300.0)
    high: tuple[float, float] = (3000.0, 7500.0)
    codec: float = 0.2
    gain: tuple[float, float] = (-14.0, 4.0)
    """dB; what leaves [-1, 1] is clipped, as a recorder does."""


def generator_of(seed: int, name: str, epoch: int) -> np.random.Generator:
    """The generator of one utterance in one epoch."""
    return np.random.default_rng((seed, zlib.crc32(name.encode()), epoch))


def augment(wav: Tensor, rng: Generators, config: Augmentation = Augmentation()) -> Tensor:
    """Rooms, noise, band limits, codecs and gain: (B, N) in [-1, 1] -> (B, N), aligned, on the same device.

    rng: one generator for the batch, or one for each row.
    """
    rows = _rows(rng, len(wav))
    made = wav.float()
    for apply, share in ((_room, config.room), (_noise, config.noise), (_band, config.band), (_codec, config.codec)):
        chosen = [n for n, r in enumerate(rows) if r.uniform() < share]
        if chosen:
            at = torch.tensor(chosen, device=wav.device)
            made = made.index_copy(0, at, apply(made[at], [rows[n] for n in chosen], config))
    gain = _column([10 ** (r.uniform(*config.gain) / 20) for r in rows], wav)
    return (made * gain).clamp(-1.0, 1.0)


def perturb(
    wav: Tensor, samples: Sequence[int], rng: Generators, *, speed: float = 0.3, pitch: float = 0.3
) -> tuple[Tensor, list[int]]:
    """Other speeds (0.9 to 1.1, pitch moving along) and pitches (up to 2 semitones, length kept).

    (B, N) and the samples of each row -> (B, M) zero-padded to frames of 320, and the samples of each row.

    speed, pitch: how often each happens.
    """
    made = []
    for row, length, r in zip(wav.float(), samples, _rows(rng, len(wav)), strict=True):
        pcm = row[:length]
        if r.uniform() < speed:
            pcm = resample(pcm, round(length / r.uniform(0.9, 1.1)))
        if r.uniform() < pitch:
            pcm = shift_pitch(pcm, 2 ** (r.uniform(-2, 2) / 12))
        made.append(pcm)
    longest = -(-max(map(len, made)) // 320) * 320
    return torch.stack([torch.nn.functional.pad(pcm, (0, longest - len(pcm))) for pcm in made]), list(map(len, made))


def resample(pcm: Tensor, length: int) -> Tensor:
    """(N,) -> (length,), band-limited, by its spectrum."""
    made: Tensor = torch.fft.irfft(torch.fft.rfft(pcm), length) * (length / len(pcm))
    return made


def shift_pitch(pcm: Tensor, factor: float) -> Tensor:
    """(N,) -> (N,), every frequency times `factor`: a phase vocoder stretches time, resampling takes it back."""
    return resample(_stretch(pcm, factor), len(pcm))


def _stretch(pcm: Tensor, factor: float, size: int = 512) -> Tensor:
    """Phase vocoder (Flanagan and Golden 1966): `factor` times as long, pitch kept."""
    hop, window = size // 4, torch.hann_window(size, device=pcm.device)
    spectrum = torch.stft(pcm, size, hop, window=window, pad_mode="constant", return_complex=True)
    frames = spectrum.shape[1]
    at = torch.arange(0, frames - 1, 1 / factor, device=pcm.device)
    left, part = at.long(), at - at.floor()
    size_ = (1 - part) * spectrum[:, left].abs() + part * spectrum[:, left + 1].abs()
    expected = 2 * math.pi * hop / size * torch.arange(size // 2 + 1, device=pcm.device)[:, None]
    turn = spectrum[:, left + 1].angle() - spectrum[:, left].angle() - expected
    advance = expected + turn - 2 * math.pi * torch.round(turn / (2 * math.pi))
    phase = torch.cumsum(torch.cat([spectrum[:, :1].angle(), advance[:, :-1]], 1), 1)
    made: Tensor = torch.istft(torch.polar(size_, phase), size, hop, window=window, length=round(len(pcm) * factor))
    return made


def _rows(rng: Generators, count: int) -> list[np.random.Generator]:
    # Drawn from, not spawned: a generator that was restored has no memory of what it spawned.
    if isinstance(rng, np.random.Generator):
        return [np.random.default_rng(seed) for seed in rng.integers(2**63, size=count)]
    if len(rng) != count:
        raise ValueError(f"{len(rng)} generators for {count} rows")
    return list(rng)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]


def _white(shape: tuple[int, int], rows: Sequence[np.random.Generator], like: Tensor) -> Tensor:
    """Gaussian noise; made on the device, a row at a time, so that it is a row's own."""
    made = torch.empty(shape, device=like.device)
    for row, r in zip(made, rows, strict=True):
        row.normal_(generator=torch.Generator(like.device).manual_seed(int(r.integers(2**62))))
    return made


def _frequencies(length: int, like: Tensor) -> Tensor:
    made: Tensor = torch.fft.rfftfreq(length, 1 / RATE, device=like.device)
    return made


def _room(wav: Tensor, rows: Sequence[np.random.Generator], config: Augmentation) -> Tensor:
    """Convolve with a sharp direct sound and an echo of noise that decays (Polack's model of a diffuse room)."""
    decay = _column([r.uniform(*config.reverberation) for r in rows], wav)
    direct = _column([10 ** (-r.uniform(*config.direct) / 20) for r in rows], wav)
    length = round(config.reverberation[1] * RATE)
    time = torch.arange(length, device=wav.device) / RATE
    echo = _white((len(wav), length), rows, wav) * torch.exp(-6.9 * time / decay)
    # The first reflection comes a few milliseconds after the voice, which stays where it was.
    echo[:, : round(0.003 * RATE)] = 0
    echo = echo / echo.square().sum(1, keepdim=True).sqrt() * direct
    echo[:, 0] = 1.0
    size = wav.shape[1] + length
    made: Tensor = torch.fft.irfft(torch.fft.rfft(wav, size) * torch.fft.rfft(echo, size), size)
    return made[:, : wav.shape[1]]


def _noise(wav: Tensor, rows: Sequence[np.random.Generator], config: Augmentation) -> Tensor:
    """Coloured noise so many dB below the loud half of the speech."""
    snr = _column([r.uniform(*config.snr) for r in rows], wav)
    colour = _column([r.uniform(*config.colour) for r in rows], wav)
    spectrum = torch.fft.rfft(_white((len(wav), wav.shape[1]), rows, wav))
    shape = _frequencies(wav.shape[1], wav).clamp_min(50.0) ** (-colour / 2)
    noise = torch.fft.irfft(spectrum * shape, wav.shape[1])
    noise = noise / noise.square().mean(1, keepdim=True).sqrt().clamp_min(1e-9)
    made: Tensor = wav + noise * _level(wav) * 10 ** (-snr / 20)
    return made


def _level(wav: Tensor) -> Tensor:
    """Root mean square of the louder half of the frames (B, 1): padding does not count as speech."""
    frames = torch.nn.functional.pad(wav, (0, -wav.shape[1] % 320)).reshape(len(wav), -1, 320).square().mean(2)
    made: Tensor = frames.topk(max(1, frames.shape[1] // 2), 1).values.mean(1, keepdim=True).sqrt()
    return made


def _band(wav: Tensor, rows: Sequence[np.random.Generator], config: Augmentation) -> Tensor:
    """What a telephone or a cheap microphone lets through, without moving it in time."""
    low = _column([r.uniform(*config.low) for r in rows], wav)
    high = _column([r.uniform(*config.high) for r in rows], wav)
    at = _frequencies(wav.shape[1], wav).clamp_min(1.0)
    keep = 1 / torch.sqrt(1 + (low / at) ** 8) / torch.sqrt(1 + (at / high) ** 16)
    made: Tensor = torch.fft.irfft(torch.fft.rfft(wav) * keep, wav.shape[1])
    return made


def _codec(wav: Tensor, rows: Sequence[np.random.Generator], config: Augmentation) -> Tensor:
    """The two ways in which codecs hurt: coarse samples (mu-law of 6 to 8 bits) or quiet parts of the spectrum lost."""
    coarse = _column([float(r.uniform() < 0.5) for r in rows], wav)
    steps = _column([2.0 ** int(r.integers(5, 8)) for r in rows], wav)
    floor = _column([10 ** (-r.uniform(25, 45) / 20) for r in rows], wav)
    peak = wav.abs().amax(1, keepdim=True).clamp_min(1e-6)
    pressed = torch.log1p(255 * (wav / peak).abs()) / math.log(256)
    law = torch.sign(wav) * peak * torch.expm1(torch.round(pressed * steps) / steps * math.log(256)) / 255
    window = torch.hann_window(512, device=wav.device)
    spectrum = torch.stft(wav, 512, 128, window=window, return_complex=True)
    size = spectrum.abs()
    # Against the loudest bin of each moment: what it masks is what a codec saves its bits on.
    kept = spectrum * (size >= floor[..., None] * size.amax(1, keepdim=True))
    holes = torch.istft(kept, 512, 128, window=window, length=wav.shape[1])
    made: Tensor = coarse * law + (1 - coarse) * holes
    return made
