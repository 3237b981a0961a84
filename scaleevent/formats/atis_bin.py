"""Five-byte records of the ATIS, as N-MNIST and N-Caltech101 are published (.bin).

Layout (garrickorchard.com/datasets/n-caltech101): u8 x, u8 y, then polarity and 23 bits of time in
us, big-endian. A record in row 240 is not an event: it adds 2^13 us to all later times.
"""

from __future__ import annotations

from pathlib import Path

import numba as nb
import numpy as np
from numpy import ndarray

from scaleevent.formats.source import ReadOptions, empty_columns
from scaleevent.formats.words import Machine, WordSource

SUFFIXES = (".bin",)

_RECORD = 5
_OVERFLOW_ROW = 240
_OVERFLOW_US = 1 << 13
_MAX_INVALID = 0.01  # fraction of invalid records in a file that is taken for this format


def matches(head: bytes, path: Path) -> bool:
    """Whether a .bin file contains such records, judged by their values, since nothing marks them.

    Times ascend, rows lie on the sensor, and no event occurs twice.
    """
    if path.suffix.lower() != ".bin" or len(head) < _RECORD:
        return False
    columns = empty_columns(len(head) // _RECORD)
    data, tally = np.frombuffer(head, np.uint8), np.zeros(0, np.int64)
    _, n = decode(data, np.zeros(1, np.int64), tally, *columns)
    t, x, y, p = (column[:n] for column in columns)
    twice = (np.diff(t) == 0) & (np.diff(x) == 0) & (np.diff(y) == 0) & (np.diff(p) == 0)
    invalid = twice | (np.diff(t) < 0) | (y[1:] > _OVERFLOW_ROW)
    return len(t) > 0 and int(np.count_nonzero(invalid)) <= _MAX_INVALID * len(t)


def open_source(path: Path, options: ReadOptions) -> WordSource:
    """The decoder of a .bin file; `options` is ignored, since the format defines the rest."""
    return WordSource(path, "ATIS BIN", None, {}, 0, RECORDS)


@nb.njit(nogil=True, cache=True)
def decode(
    data: ndarray, state: ndarray, tally: ndarray, t: ndarray, x: ndarray, y: ndarray, p: ndarray
) -> tuple[int, int]:
    """Decode whole records."""
    later = state[0]
    n = at = 0
    while at + _RECORD <= data.size and n < len(t):
        if data[at + 1] == _OVERFLOW_ROW:
            later += _OVERFLOW_US
        else:
            high, middle, low = data[at + 2], data[at + 3], data[at + 4]
            time = (np.int64(high & 0x7F) << 16) | (np.int64(middle) << 8) | np.int64(low)
            t[n] = later + time
            x[n] = data[at]
            y[n] = data[at + 1]
            p[n] = high >> 7
            n += 1
        at += _RECORD
    state[0] = later
    return at, n


RECORDS = Machine(np.dtype("u1"), (0,), decode)
"""The state is the time in us that overflow records have added."""
