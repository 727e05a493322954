"""What runs on a bare GPU machine imports nothing that such a machine lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GIVEN = ("torch", "triton", "numpy", "transformers", "cuda-bindings", "pytest")
"""All that the machine has, with what these require themselves."""

PROGRAM = """
import sys
from importlib import metadata
from packaging.requirements import Requirement

def closure(names):
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        for each in map(Requirement, requires):
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                waiting.append(each.name)
    return found

given = closure(GIVEN)
allowed = {"speechgpt_gen", "tests"} | sys.stdlib_module_names
for module, owners in metadata.packages_distributions().items():
    if any(owner.lower().replace("_", "-") in given for owner in owners):
        allowed.add(module)

class Bare:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if path is None and top not in allowed and not top.startswith(("test_", "conftest")):
            raise ModuleNotFoundError(f"a bare machine has no {top}", name=top)

sys.meta_path.insert(0, Bare())
import pytest
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def collect(*files: str) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", PROGRAM.replace("GIVEN", repr(GIVEN)), *files]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_gpu_tests_need_no_more_than_a_bare_machine_has() -> None:
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/**/test_gpu_*.py"))
    assert files
    status, said = collect(*files)
    assert status == 0, said[-3000:]


@pytest.mark.slow
def test_others_are_told() -> None:
    status, said = collect("tests/kernels/test_attention.py")
    assert status != 0
    assert "a bare machine has no hypothesis" in said
