"""Settings that every test shares."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Fix torch's global generator, so that a failure can be replayed."""
    torch.manual_seed(0)
