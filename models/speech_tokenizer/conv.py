"""Weight-normed convolutions with SEANet's reflect padding, under the published checkpoints' key names.

Not causal: a frame depends on samples before and after it. The streaming tokenizer's causal blocks are in `causal.py`.
Source: EnCodec (arXiv 2210.13438) and SpeechTokenizer (arXiv 2308.16692).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightNorm(nn.Module):
    """A convolution's weight as length times direction, per slice of its first axis: weight = g * v / |v|.

    Published checkpoints store both halves, `weight_g` (first axis, 1, 1) and `weight_v` (the weight's shape).
    """

    def __init__(self, shape: tuple[int, int, int], bias: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.empty(shape[0], 1, 1))
        self.weight_v = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(bias))
        nn.init.kaiming_uniform_(self.weight_v, a=math.sqrt(5))
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.weight_g.copy_(self._length())

    def _length(self) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(self.weight_v, dim=(1, 2), keepdim=True)
        return length

    @property
    def weight(self) -> Tensor:
        return self.weight_v * (self.weight_g / self._length())


class SConv1d(nn.Module):
    """Strided or dilated convolution that loses no sample: (B, in, N) -> (B, out, ceil(N / stride)) for any N >= 1."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation = kernel, stride, dilation
        self.conv = nn.ModuleDict({"conv": WeightNorm((channels_out, channels_in, kernel), channels_out)})

    def forward(self, x: Tensor) -> Tensor:
        padding = (self.kernel - 1) * self.dilation + 1 - self.stride
        right = padding // 2
        fill = -x.shape[-1] % self.stride  # so that the last window is full, too
        x = reflect_pad(x, padding - right, right + fill)
        norm = self.conv["conv"]
        assert isinstance(norm, WeightNorm)
        return F.conv1d(x, norm.weight, norm.bias, self.stride, dilation=self.dilation)


class SConvTranspose1d(nn.Module):
    """Upsampling convolution with kernel 2 * stride, trimmed to (B, in, T) -> (B, out, T * stride)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.convtr = nn.ModuleDict({"convtr": WeightNorm((channels_in, channels_out, 2 * stride), channels_out)})

    def forward(self, x: Tensor) -> Tensor:
        norm = self.convtr["convtr"]
        assert isinstance(norm, WeightNorm)
        y = F.conv_transpose1d(x, norm.weight, norm.bias, self.stride)
        left = self.stride - self.stride // 2
        return y[..., left : left + x.shape[-1] * self.stride]


def reflect_pad(x: Tensor, left: int, right: int) -> Tensor:
    """Pad the last axis by its mirror image; a signal too short to be mirrored gets zeros on its right first."""
    short = max(0, max(left, right) - x.shape[-1] + 1)
    padded = F.pad(F.pad(x, (0, short)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - short]
