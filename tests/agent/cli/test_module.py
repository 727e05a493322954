"""The command line as a module, as `torchrun -m` starts it."""

import subprocess
import sys


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "speechgpt_gen.agent.cli", "train", "semantic", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--run" in done.stdout
