import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from speechgpt_gen.models.training.allocation import keep_large_blocks

if sys.argv[1] == "kept":
    assert keep_large_blocks()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**25)  # 256 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone can be told")
def test_a_large_block_is_not_asked_for_again() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True)
        return int(done.stdout)

    assert faults("kept") < 0.01 * 2**16
    assert faults("kept") < faults("as it is")
