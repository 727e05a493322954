"""Units as a worse ear gives them."""

import numpy as np

from speechgpt_gen.models.semantic.vocabulary import N_UNITS
from speechgpt_gen.models.training.unit_noise import blur

UNITS = np.random.default_rng(0).integers(N_UNITS, size=20_000).astype(np.int16)


DETAIL = 1 + np.random.default_rng(3).integers(4**20, size=20_000)


def digits(numbers: np.ndarray, count: int = 5) -> np.ndarray:
    return numbers[:, None].astype(int) // 4 ** np.arange(count) % 4


def test_without_noise_units_are_as_they_were() -> None:
    made, detail = blur(UNITS, DETAIL, np.random.default_rng(1))
    assert np.array_equal(made, UNITS)
    assert np.array_equal(detail, DETAIL)
    assert blur(UNITS, None, np.random.default_rng(1))[1] is None


def test_a_unit_nearby_is_off_by_a_level_in_one_digit() -> None:
    made, _ = blur(UNITS, None, np.random.default_rng(1), near=0.2)
    moved = np.abs(digits(made) - digits(UNITS)).sum(1)
    assert set(moved) == {0, 1}
    assert abs(moved.mean() - 0.2) < 0.02
    assert all((digits(made)[:, d] != digits(UNITS)[:, d]).any() for d in range(5))


def test_detail_nearby_is_off_by_a_level_in_each_digit_by_itself() -> None:
    _, made = blur(UNITS, DETAIL, np.random.default_rng(1), near=0.2)
    moved = np.abs(digits(made - 1, 20) - digits(DETAIL - 1, 20))
    assert set(moved.flat) == {0, 1}
    assert np.abs(moved.mean(0) - 0.2).max() < 0.02
    assert made.min() >= 1
    assert made.max() <= 4**20


def test_spans_are_lost_and_no_unit_besides() -> None:
    made, detail = blur(UNITS, DETAIL, np.random.default_rng(2), lost=0.1)
    apart = np.flatnonzero(made != UNITS)
    assert 0.07 < len(apart) / len(UNITS) < 0.12
    spans = np.split(apart, np.flatnonzero(np.diff(apart) > 3) + 1)
    assert 3 < np.mean([span[-1] - span[0] + 1 for span in spans]) < 9
    assert len(made) == len(UNITS)
    assert (detail[apart] == 0).all(), "nothing is told of what is lost"
    assert np.array_equal(detail[detail > 0], DETAIL[detail > 0])
    assert 0.07 < (detail == 0).mean() < 0.12
