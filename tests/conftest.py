"""Settings that every test shares."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="speechgpt-gen-test-")  # nothing of the user's is touched

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton: its kernels run on the CPU then


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Fix torch's global generator, so that a failure can be replayed."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test a state folder of its own: a server keeps the voices recorded in it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
