"""Gives large freed blocks back to the system at once.

A result is base64 of a file: two large blocks that live for a moment, in whichever thread does the work. glibc soon
keeps such blocks for the next one, up to 32 MB in each thread (mallopt(3), M_MMAP_THRESHOLD): a worker with six threads
then holds several answers that nobody needs, beside a ComfyUI that could use the room.
"""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3  # malloc.h
LARGE_BYTES = 4 << 20  # smaller blocks are taken and given back faster than the system could


def lower_mmap_threshold() -> bool:
    """Have it so from now on; whether this system's allocator takes the order (glibc's does)."""
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES))
    except (AttributeError, OSError, TypeError):
        return False
