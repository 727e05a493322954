"""Counter-based noise: a number is a function of (seed, position, channel) and of nothing else.

A stream cut into any chunks, replayed, rewound or moved to another device draws the same noise, because no generator is
advanced. The hash works on 32-bit words held in int64 and never overflows 63 bits, so CPU and CUDA agree to the bit:

    mix(x)     = x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16   ("lowbias32", mod 2**32)
    key(i)     = mix(mix(seed_low ^ SALT[i]) ^ seed_high)                                     i = 0, 1
    row(i)     = mix(mix(key(i) ^ position_low) ^ position_high)
    word(c)    = mix(mix(row(0) + c * 0x9e3779b9) ^ row(1))

`uniform` keeps the word's top 23 bits; `normal` makes Box-Muller pairs of channels (2k, 2k + 1) in float64 from all 32
bits and rounds once to float32, so the last bit of a platform's log or cosine practically never shows.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9
_SALT = (0x243F6A88, 0x85A308D3)  # the first bits of pi: two independent keys from one seed
# Multipliers as signed 32-bit numbers: a 32-bit word times one of them fits int64, and mod 2**32 nothing changes.
_MULTIPLY_1 = 0x7FEB352D
_MULTIPLY_2 = 0x846CA68B - (1 << 32)


def _mix(x: Tensor) -> Tensor:
    """Scramble 32-bit words (int64 tensor, values in [0, 2**32))."""
    x = x ^ (x >> 16)
    x = (x * _MULTIPLY_1) & _MASK
    x = x ^ (x >> 15)
    x = (x * _MULTIPLY_2) & _MASK
    return x ^ (x >> 16)


def _mix_int(x: int) -> int:
    """The same scrambling of one Python integer."""
    x ^= x >> 16
    x = (x * _MULTIPLY_1) & _MASK
    x ^= x >> 15
    x = (x * _MULTIPLY_2) & _MASK
    return x ^ (x >> 16)


def _words(seed: int, positions: Sequence[int] | Tensor, channels: int, device: torch.device | str | None) -> Tensor:
    """Hash words (len(positions), channels), int64 in [0, 2**32)."""
    if isinstance(positions, range):  # no Python list of a million frames
        at = torch.arange(positions.start, positions.stop, positions.step, device=device)
    else:
        at = torch.as_tensor(positions, dtype=torch.int64, device=device)
    if at.ndim != 1:
        raise ValueError(f"positions must be one-dimensional, not of shape {tuple(at.shape)}")
    steps = torch.arange(channels, device=at.device)
    return _hash(*seed_keys(seed), at[:, None], steps)


def _hash(first: int | Tensor, second: int | Tensor, at: Tensor, channel: Tensor) -> Tensor:
    """Hash words of keys, positions and channels, whose shapes broadcast."""
    low, high = at & _MASK, (at >> 32) & _MASK
    rows = [_mix(_mix(low ^ key) ^ high) for key in (first, second)]
    return _mix(_mix((rows[0] + ((channel * _GOLDEN) & _MASK)) & _MASK) ^ rows[1])


def seed_keys(seed: int) -> tuple[int, int]:
    """The two 32-bit keys that a seed (its low 64 bits) amounts to, for `uniform_at` and `normal_at`."""
    first, second = (_mix_int(_mix_int((seed & _MASK) ^ salt) ^ ((seed >> 32) & _MASK)) for salt in _SALT)
    return first, second


def uniform_at(keys: Tensor, positions: Tensor, channels: Tensor) -> Tensor:
    """`uniform` of rows with seeds of their own, from values that all live on the device.

    keys (B, 2), positions (B,) and channels (B, n), all int64; returns float32 (B, n).
    """
    words = _hash(keys[:, :1], keys[:, 1:], positions[:, None], channels)
    return ((words >> 9).to(torch.float32) + 0.5) * 2.0**-23


def normal_at(keys: Tensor, positions: Tensor, channels: int) -> Tensor:
    """`normal` of rows with seeds of their own: keys (B, 2), positions (B, T), int64; float32 (B, T, channels)."""
    steps = torch.arange(channels + channels % 2, device=keys.device)
    words = _hash(keys[:, :1, None], keys[:, 1:, None], positions[:, :, None], steps)
    return _box_muller(words, channels)


def uniform(
    seed: int, positions: Sequence[int] | Tensor, channels: int, *, device: torch.device | str | None = None
) -> Tensor:
    """Uniform noise strictly inside (0, 1), float32 (len(positions), channels): odd multiples of 2**-24.

    seed: any integer (its low 64 bits count); positions: absolute frame or token indices (n,), a range, list or int64
    tensor; channels: how many (of a frame: latent channels; of a token: vocabulary indices). Channel c of a position
    does not depend on `channels`.
    device: where to compute; by default where `positions` lives.
    """
    words = _words(seed, positions, channels, device)
    # 23 bits and a half: every value is exact in float32, and neither 0 nor 1 can come out of rounding.
    return ((words >> 9).to(torch.float32) + 0.5) * 2.0**-23


def normal(
    seed: int, positions: Sequence[int] | Tensor, channels: int, *, device: torch.device | str | None = None
) -> Tensor:
    """Standard normal noise, float32 (len(positions), channels); arguments as for `uniform`. |value| < 6.8.

    Channels 2k and 2k + 1 are one Box-Muller pair, so a value does not depend on `channels`, odd or even.
    """
    words = _words(seed, positions, channels + channels % 2, device)
    return _box_muller(words, channels)


def _box_muller(words: Tensor, channels: int) -> Tensor:
    """Normal numbers (..., channels) of hash words (..., even number of channels)."""
    grid = (words.to(torch.float64) + 0.5) * 2.0**-32
    radius = torch.sqrt(-2.0 * torch.log(grid[..., 0::2]))
    angle = (2.0 * math.pi) * grid[..., 1::2]
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pairs.flatten(-2)[..., :channels].to(torch.float32)
