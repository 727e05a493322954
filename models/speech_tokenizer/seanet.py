"""SEANet encoder and decoder of the published SpeechTokenizer, under its key names.

Source: SpeechTokenizer (arXiv 2308.16692), after EnCodec (arXiv 2210.13438).
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from .conv import SConv1d, SConvTranspose1d

Activation: TypeAlias = Literal["ELU", "Snake"]


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, one learned alpha per channel (arXiv 2006.08195). (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).square()


def _activation(name: Activation, channels: int) -> nn.Module:
    return Snake(channels) if name == "Snake" else nn.ELU()


class ResidualBlock(nn.Module):
    """Dilated convolution to half the channels, k1 back, plus a k1 shortcut: (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int, *, kernel: int, dilation: int, activation: Activation) -> None:
        super().__init__()
        hidden = channels // 2
        self.block = nn.Sequential(
            _activation(activation, channels),
            SConv1d(channels, hidden, kernel, dilation=dilation),
            _activation(activation, hidden),
            SConv1d(hidden, channels, 1),
        )
        self.shortcut = SConv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.block(x)
        return out


class SkipLSTM(nn.Module):
    """LSTM over time plus its input: (B, C, T) -> (B, C, T), or (B, 2C, T) when bidirectional (input repeated)."""

    def __init__(self, channels: int, *, layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(2, 0, 1)
        y: Tensor = self.lstm(x)[0]
        return (y + (x.repeat(1, 1, 2) if self.lstm.bidirectional else x)).permute(1, 2, 0)


class SEANetEncoder(nn.Module):
    """Waveform to latents: (B, 1, N) -> (B, dimension, ceil(N / product of the ratios)).

    ratios are the decoder's, so they are used in reverse. A bidirectional LSTM doubles the last conv's channels.
    """

    def __init__(
        self,
        *,
        filters: int,
        dimension: int,
        ratios: Sequence[int],
        lstm_layers: int,
        bidirectional: bool,
        activation: Activation,
        residual_layers: int,
        residual_kernel: int,
        dilation_base: int,
    ) -> None:
        super().__init__()
        channels = filters
        layers: list[nn.Module] = [SConv1d(1, channels, 7)]
        for ratio in reversed(ratios):
            for depth in range(residual_layers):
                dilation = dilation_base**depth
                layers.append(ResidualBlock(channels, kernel=residual_kernel, dilation=dilation, activation=activation))
            layers += [_activation(activation, channels), SConv1d(channels, 2 * channels, 2 * ratio, ratio)]
            channels *= 2
        if lstm_layers:
            layers.append(SkipLSTM(channels, layers=lstm_layers, bidirectional=bidirectional))
            channels *= 2 if bidirectional else 1
        layers += [_activation(activation, channels), SConv1d(channels, dimension, 7)]
        self.model = nn.Sequential(*layers)

    def forward(self, wav: Tensor) -> Tensor:
        out: Tensor = self.model(wav)
        return out


class SEANetDecoder(nn.Module):
    """Latents to waveform: (B, dimension, T) -> (B, 1, T * product of the ratios). Its LSTM looks back only."""

    def __init__(
        self,
        *,
        filters: int,
        dimension: int,
        ratios: Sequence[int],
        lstm_layers: int,
        activation: Activation,
        residual_layers: int,
        residual_kernel: int,
        dilation_base: int,
    ) -> None:
        super().__init__()
        channels = filters * 2 ** len(ratios)
        layers: list[nn.Module] = [SConv1d(dimension, channels, 7)]
        if lstm_layers:
            layers.append(SkipLSTM(channels, layers=lstm_layers, bidirectional=False))
        for ratio in ratios:
            layers += [_activation(activation, channels), SConvTranspose1d(channels, channels // 2, ratio)]
            channels //= 2
            for depth in range(residual_layers):
                dilation = dilation_base**depth
                layers.append(ResidualBlock(channels, kernel=residual_kernel, dilation=dilation, activation=activation))
        layers += [_activation(activation, channels), SConv1d(channels, 1, 7)]
        self.model = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        out: Tensor = self.model(latents)
        return out
