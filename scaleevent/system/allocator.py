"""Memory for hot loops: an allocator that keeps what is freed, and large pages."""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np

HUGE_PAGE = 2 << 20


def keep_freed_memory() -> None:
    """Let the allocator hand the large arrays of one sample to the next, where it is glibc.

    By default it returns them to the system, and faulting in fresh pages takes a third of the time
    that a sample of 480x640 takes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mmap_threshold, trim_threshold = -3, -1  # malloc.h
        mallopt(mmap_threshold, 32 << 20)  # the most it takes
        mallopt(trim_threshold, 256 << 20)


def zeros_for_scatter(count: int) -> np.ndarray:
    """(count,) int64 zeros for adding in random places, on large pages where the system has them.

    With pages of 4 kB every addition misses the first level of the address cache; a million events
    at 480x640 take 1.2 to 1.6 times as long (examples/bench_voxels.py).
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(count, np.int64)
    size = -(-count * 8 // HUGE_PAGE) * HUGE_PAGE + HUGE_PAGE
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory seldom gets large pages
    memory = mmap.mmap(-1, size, flags=private)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them
        return np.zeros(count, np.int64)
    aligned = -np.frombuffer(memory, np.uint8, 1).ctypes.data % HUGE_PAGE
    return np.frombuffer(memory, np.int64, count, aligned)
