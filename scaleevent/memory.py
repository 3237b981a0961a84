"""The allocator, told that large arrays come and go."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory(worker: int = 0) -> None:
    """Let the allocator hand the large arrays of one sample to the next, where it is glibc.

    By default it returns them to the system, and faulting in fresh pages takes a third of the time
    that a sample of 480x640 takes.

    Args:
        worker: Unused; a loader tells its workers their number.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mmap_threshold, trim_threshold = -3, -1  # malloc.h
        mallopt(mmap_threshold, 32 << 20)  # the most it takes
        mallopt(trim_threshold, 256 << 20)
