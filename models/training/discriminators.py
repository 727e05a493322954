"""Networks that tell recorded speech from made speech, each at many places of it and in many views.

Periods (HiFi-GAN, arXiv 2010.05646), scales (MelGAN, arXiv 1910.06711) and complex spectra (EnCodec, arXiv 2210.13438),
in the shapes that SpeechTokenizer was trained against; `channels` scales all of them, 32 is the published size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

Opinion: TypeAlias = tuple[Tensor, list[Tensor]]
"""What is near 1 where speech sounds recorded (any shape), and the features that told, layer by layer."""

PERIODS = (2, 3, 5, 7, 11)
FFT_SIZES = (2048, 1024, 512, 256, 128)
SCALES = 3


class _Discriminator(nn.Module):
    """Convolutions whose outputs are its features; the last one has its opinion."""

    def __init__(self, convolutions: Sequence[nn.Module], slope: float) -> None:
        super().__init__()
        self.convolutions, self.slope = nn.ModuleList(convolutions), slope

    def view(self, wav: Tensor) -> Tensor:
        """(B, N) as the convolutions take it."""
        raise NotImplementedError

    def forward(self, wav: Tensor) -> Opinion:
        hidden, features = self.view(wav), []
        for convolution in self.convolutions[:-1]:
            hidden = F.leaky_relu(convolution(hidden), self.slope)
            features.append(hidden)
        return self.convolutions[-1](hidden), features


class PeriodDiscriminator(_Discriminator):
    """Sees every `period`-th sample side by side."""

    def __init__(self, period: int, channels: int) -> None:
        widths = [1, *(channels * n for n in (1, 4, 16, 32, 32))]
        strides = (3, 3, 3, 3, 1)
        inner = [
            weight_norm(nn.Conv2d(a, b, (5, 1), (stride, 1), (2, 0)))
            for a, b, stride in zip(widths, widths[1:], strides, strict=False)
        ]
        super().__init__([*inner, weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))], 0.1)
        self.period = period

    def view(self, wav: Tensor) -> Tensor:
        padded = F.pad(wav[:, None], (0, -wav.shape[-1] % self.period), "reflect")
        return padded.view(*padded.shape[:2], -1, self.period)


class ScaleDiscriminator(_Discriminator):
    """Sees samples averaged `halvings` times over neighbours."""

    def __init__(self, halvings: int, channels: int) -> None:
        norm = weight_norm if halvings else spectral_norm
        c = channels
        inner = [  # in, out, kernel, stride, groups
            (1, 4 * c, 15, 1, 1),
            (4 * c, 4 * c, 41, 2, 4),
            (4 * c, 8 * c, 41, 2, 16),
            (8 * c, 16 * c, 41, 4, 16),
            (16 * c, 32 * c, 41, 4, 16),
            (32 * c, 32 * c, 41, 1, 16),
            (32 * c, 32 * c, 5, 1, 1),
            (32 * c, 1, 3, 1, 1),
        ]
        super().__init__([norm(nn.Conv1d(i, o, k, s, k // 2, groups=g)) for i, o, k, s, g in inner], 0.1)
        self.halvings = halvings

    def view(self, wav: Tensor) -> Tensor:
        wav = wav[:, None]
        for _ in range(self.halvings):
            wav = F.avg_pool1d(wav, 4, 2, 2)
        return wav


class SpectrumDiscriminator(_Discriminator):
    """Sees real and imaginary parts of a spectrum, hop a quarter of the window."""

    window: Tensor

    def __init__(self, size: int, channels: int) -> None:
        inner = [weight_norm(nn.Conv2d(2, channels, (3, 9), padding=(1, 4)))]
        for dilation in (1, 2, 4):
            convolution = nn.Conv2d(channels, channels, (3, 9), (1, 2), (dilation, 4), (dilation, 1))
            inner.append(weight_norm(convolution))
        inner.append(weight_norm(nn.Conv2d(channels, channels, 3, padding=1)))
        super().__init__([*inner, weight_norm(nn.Conv2d(channels, 1, 3, padding=1))], 0.2)
        self.size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)

    def view(self, wav: Tensor) -> Tensor:
        spectrum = torch.stft(
            wav, self.size, self.size // 4, window=self.window, center=False, normalized=False, return_complex=True
        )
        scaled = spectrum / self.window.square().sum().sqrt()
        return torch.view_as_real(scaled).permute(0, 3, 2, 1)  # (B, 2, frames, bins)


class Discriminators(nn.Module):
    """All of them. Waveforms (B, N), 16 kHz, N at least 2048 -> their opinions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            [
                *(PeriodDiscriminator(period, channels) for period in PERIODS),
                *(ScaleDiscriminator(halvings, channels) for halvings in range(SCALES)),
                *(SpectrumDiscriminator(size, channels) for size in FFT_SIZES),
            ]
        )

    def forward(self, wav: Tensor) -> list[Opinion]:
        return [member(wav) for member in self.members]
