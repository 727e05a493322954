"""Counter-based noise: the same whatever the cut, and random enough to be called noise."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechgpt_gen.kernels.noise import _mix, _mix_int, normal, uniform

Noise = Callable[..., Tensor]
both = pytest.mark.parametrize("noise", [uniform, normal])


@both
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**64),
    start=st.integers(0, 2**34),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    channels=st.integers(1, 17),
)
def test_any_split_is_bit_equal(noise: Noise, seed: int, start: int, lengths: list[int], channels: int) -> None:
    whole = noise(seed, range(start, start + sum(lengths)), channels)
    parts, at = [], start
    for length in lengths:
        parts.append(noise(seed, range(at, at + length), channels))
        at += length
    assert torch.equal(whole, torch.cat(parts))


@both
def test_positions_may_be_a_list_a_range_or_a_tensor_in_any_order(noise: Noise) -> None:
    ahead = noise(3, range(8), 5)
    order = [5, 0, 7, 7, 2]
    assert torch.equal(noise(3, order, 5), ahead[order])
    assert torch.equal(noise(3, torch.tensor(order), 5), ahead[order])
    assert noise(3, [], 5).shape == (0, 5)
    with pytest.raises(ValueError, match="one-dimensional"):
        noise(3, torch.zeros(2, 2, dtype=torch.int64), 5)


@both
def test_a_channel_does_not_depend_on_how_many_there_are(noise: Noise) -> None:
    assert torch.equal(noise(1, range(50), 7), noise(1, range(50), 64)[:, :7])


def _lowbias32(x: int) -> int:
    """The published hash, with the unsigned 32-bit arithmetic it was written for."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
    x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
    return x ^ (x >> 16)


def test_known_values() -> None:
    """Pins the algorithm: a recorded stream must replay on the next version and on another device."""
    words = [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
    assert (
        _mix(torch.tensor(words)).tolist() == [_mix_int(word) for word in words] == [_lowbias32(word) for word in words]
    )
    assert (uniform(7, [0, 2**33], 2) * 2**24).tolist() == [[5115381.0, 8621573.0], [15898369.0, 12136847.0]]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**64 - 1))
def test_moments(seed: int) -> None:
    u, n = uniform(seed, range(1000), 64).double(), normal(seed, range(1000), 64).double()
    count = u.numel()  # 64000: bounds are about six standard errors
    assert float(u.min()) > 0.0
    assert float(u.max()) < 1.0
    assert abs(float(u.mean()) - 0.5) < 6 * (1 / 12 / count) ** 0.5
    assert abs(float(u.var()) - 1 / 12) < 6 * (1 / 180 / count) ** 0.5
    assert abs(float(n.mean())) < 6 * count**-0.5
    assert abs(float(n.var()) - 1.0) < 6 * (2 / count) ** 0.5
    assert abs(float((n**4).mean()) - 3.0) < 6 * (96 / count) ** 0.5
    assert n.isfinite().all()


def _largest_correlation(a: Tensor, b: Tensor) -> float:
    """Largest |correlation| between equal columns of a and b (n, c)."""
    a, b = a - a.mean(0), b - b.mean(0)
    return float(((a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))).abs().max())


@both
@pytest.mark.parametrize("seed", [0, 1, 2**32, 987654321])
def test_neighbours_are_uncorrelated(noise: Noise, seed: int) -> None:
    x = noise(seed, range(4001), 16).double()
    bound = 6 * 4000**-0.5
    assert _largest_correlation(x[1:], x[:-1]) < bound  # next frame
    assert _largest_correlation(x[:, 1:], x[:, :-1]) < bound  # next channel
    assert _largest_correlation(x, noise(seed + 1, range(4001), 16).double()) < bound  # next seed
    assert _largest_correlation(x[1:] ** 2, x[:-1] ** 2) < bound


@both
def test_seeds_and_far_positions_differ(noise: Noise) -> None:
    seeds = [0, 1, 2**32, 2**32 + 1, -1]
    rows = torch.stack([noise(seed, [position], 8)[0] for seed in seeds for position in (0, 1, 2**32, 2**33)])
    distance = torch.cdist(rows, rows) + torch.eye(len(rows)) * 9
    assert float(distance.min()) > 0.05


def test_every_eighth_of_the_range_is_filled_evenly() -> None:
    counts = torch.histc(uniform(5, range(2000), 40), bins=8, min=0.0, max=1.0)
    chi_squared = float(((counts - 10000) ** 2 / 10000).sum())
    assert chi_squared < 40  # seven degrees of freedom: p < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_draws_the_same_noise() -> None:
    assert torch.equal(uniform(11, range(500), 64, device="cuda").cpu(), uniform(11, range(500), 64))
    torch.testing.assert_close(
        normal(11, range(500), 64, device="cuda").cpu(), normal(11, range(500), 64), rtol=1e-6, atol=1e-7
    )
