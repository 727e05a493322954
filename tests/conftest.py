"""Settings that every test shares."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton: its kernels run on the CPU then


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Fix torch's global generator, so that a failure can be replayed."""
    torch.manual_seed(0)
