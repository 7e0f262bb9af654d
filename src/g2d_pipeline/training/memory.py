"""What the C library does with memory that tensors gave back."""

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_KEPT, KEPT = 32 * 2**20, 2**30  # bytes: of one tensor (as glibc's own limit), and of all together


@cache
def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of handing it back to the system, once and for good.

    glibc hands a batch's tensors back after each step, and the system fills each new page with zeros: 4 % of
    the CPU time of a ResNet-18 step, a fifth of the time that reading augmented batches takes, for the same
    peak memory (docs/performance.md). Does nothing where the C library is another one."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT)
