"""Batches: everything is seen, shapes are few, and a batch depends on its number alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from speechgpt_gen.models.training.batches import BucketBatches, PackedRows

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=60)


@given(LENGTHS, st.booleans(), st.integers(0, 3))
def test_an_epoch_of_buckets_visits_everything_in_few_shapes(lengths: list[int], fill: bool, epoch: int) -> None:
    batches = BucketBatches(lengths, 600, 50, seed=7, fill=fill)
    first = epoch * batches.per_epoch
    chosen = [batches(first + n) for n in range(batches.per_epoch)]
    seen = np.concatenate(chosen)
    assert set(seen.tolist()) == set(range(len(lengths)))
    if not fill:
        assert len(seen) == len(lengths)
    for group in chosen:
        longest = batches.longest(group)
        assert longest % 50 == 0
        assert longest - 50 < min(lengths[i] for i in group) <= max(lengths[i] for i in group) <= longest
        assert len(group) * longest <= 600
        if fill:
            assert len(group) == 600 // longest


@given(LENGTHS, st.integers(0, 3))
def test_an_epoch_of_rows_holds_each_document_once_and_none_overflows(lengths: list[int], epoch: int) -> None:
    batches = PackedRows(lengths, capacity=300, rows=1, seed=5)
    usable = [i for i, n in enumerate(lengths) if n <= 300]
    step, epochs = 0, []
    while usable and len(epochs) <= epoch:
        seen: list[int] = []
        while len(seen) < len(usable):
            (row,) = batches(step)
            assert sum(lengths[i] for i in row) <= 300
            seen += row
            step += 1
        epochs.append(seen)
    assert all(sorted(seen) == usable for seen in epochs)


@given(LENGTHS)
def test_a_batch_depends_on_its_number_alone(lengths: list[int]) -> None:
    for make in (lambda: BucketBatches(lengths, 600, 50, seed=1), lambda: PackedRows(lengths, 500, 2, seed=1)):
        forward, jumping = make(), make()
        wanted = [forward(n) for n in range(8)]
        assert [
            list(map(list, jumping(n))) if isinstance(jumping(n), list) else jumping(n).tolist() for n in (7, 2)
        ] == [list(map(list, wanted[n])) if isinstance(wanted[n], list) else wanted[n].tolist() for n in (7, 2)]
