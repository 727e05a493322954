"""Memory of large tensors, kept from one step to the next.

glibc asks the kernel for every block of more than 32 MiB and hands it back when it is freed, so that each step has all
its pages filled with zeros anew: on a CPU a seventh of a step of nano's encoder, a fifth of one of its flow.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Parameters of `mallopt(3)`."""


def keep_large_blocks() -> bool:
    """Keep what is freed for the rest of the process; whether its allocator can be told (glibc's)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    most = 2**31 - 1  # an int; older glibc may refuse a larger threshold than 32 MiB
    return all(
        mallopt(name, value)
        for name, value in ((_MMAP_THRESHOLD, most), (_TRIM_THRESHOLD, most), (_TOP_PAD, 64 * 2**20))
    )
