"""Returns large freed blocks to the system at once.

A result is the base64 of a file: two large, short-lived blocks in whichever thread does the work. glibc keeps such
freed blocks for reuse, up to 32 MB in each thread (mallopt(3), M_MMAP_THRESHOLD). A worker with six threads would then
hold the memory of several answers, which ComfyUI could use.
"""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3  # malloc.h
LARGE_BYTES = 4 << 20  # glibc reuses smaller blocks faster than the system can map them


def lower_mmap_threshold() -> bool:
    """Lower glibc's mmap threshold. Return False if the allocator has no mallopt."""
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES))
    except (AttributeError, OSError, TypeError):
        return False
