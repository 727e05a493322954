"""Units as a worse ear gives them."""

import numpy as np

from speechgpt_gen.models.semantic.vocabulary import N_UNITS
from speechgpt_gen.models.training.unit_noise import blur

UNITS = np.random.default_rng(0).integers(N_UNITS, size=20_000).astype(np.int16)


def digits(units: np.ndarray) -> np.ndarray:
    return units[:, None].astype(int) // 4 ** np.arange(5) % 4


def test_without_noise_units_are_as_they_were() -> None:
    assert np.array_equal(blur(UNITS, np.random.default_rng(1)), UNITS)


def test_a_unit_nearby_is_off_by_a_level_in_one_digit() -> None:
    made = blur(UNITS, np.random.default_rng(1), near=0.2)
    moved = np.abs(digits(made) - digits(UNITS)).sum(1)
    assert set(moved) == {0, 1}
    assert abs(moved.mean() - 0.2) < 0.02
    assert all((digits(made)[:, d] != digits(UNITS)[:, d]).any() for d in range(5))


def test_spans_are_lost_and_no_unit_besides() -> None:
    made = blur(UNITS, np.random.default_rng(2), lost=0.1)
    apart = np.flatnonzero(made != UNITS)
    assert 0.07 < len(apart) / len(UNITS) < 0.12
    spans = np.split(apart, np.flatnonzero(np.diff(apart) > 3) + 1)
    assert 3 < np.mean([span[-1] - span[0] + 1 for span in spans]) < 9
    assert made.dtype == UNITS.dtype
    assert len(made) == len(UNITS)
