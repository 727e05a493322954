"""Rows of a table with one row a frame: of one utterance, and of several put one behind another."""

from pathlib import Path

import pytest
import torch

from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.recordings import Recordings
from tests.models.training.test_prepare import sound


@pytest.fixture
def recordings(tmp_path: Path) -> Recordings:
    """Three utterances of 15, 20 and 25 frames."""
    for number in range(3):
        sound(tmp_path / f"{number}.wav", seconds=0.3 + 0.1 * number)
        (tmp_path / f"{number}.txt").write_text("Hello.")
    return Recordings(prepare(tmp_path, tmp_path / "cache", progress=False))


def test_places_run_through_utterances_in_the_order_given(recordings: Recordings) -> None:
    first, second, third = recordings.corpus.utterances
    assert [u.frames for u in (first, second, third)] == [15, 20, 25]
    at = recordings.places((third, first), 40, 0)
    assert at.tolist() == [*range(35, 60), *range(15)]
    assert recordings.places((third, first), 12, 20).tolist() == [*range(55, 60), *range(7)]
    assert recordings.places((second,), 23, 0).tolist() == [*range(15, 35), 34, 34, 34], "the last is repeated"


def test_rows_of_one_utterance_each(recordings: Recordings) -> None:
    table = torch.arange(2 * recordings.frames).view(-1, 2)
    rows = recordings.rows(table, recordings.corpus.utterances[:2], 18, [3, 1])
    assert rows[0, :, 0].tolist() == [2 * n for n in [*range(3, 15), *[14] * 6]]
    assert rows[1, :, 1].tolist() == [2 * n + 1 for n in range(16, 34)]
