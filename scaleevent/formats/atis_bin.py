"""Five-byte records of the ATIS, as N-MNIST and N-Caltech101 are published (.bin).

Layout (garrickorchard.com/datasets/n-caltech101): u8 x, u8 y, then polarity and 23 bits of time in
us, big-endian. A record in row 240 is no event: it adds 2^13 us to all times after it.
"""

from __future__ import annotations

from pathlib import Path

import numba as nb
import numpy as np

from scaleevent.formats.source import Told
from scaleevent.formats.words import Machine, WordSource

_RECORD = 5
_OVERFLOW_ROW = 240
_OVERFLOW_US = 1 << 13
_MOST_ODD = 0.01  # share of records that cannot be, in a file that is taken for this format


def matches(head: bytes, path: Path) -> bool:
    """Whether a .bin file holds such records: nothing marks them but what their values can be.

    Times ascend, rows lie on the sensor, and no event is there twice.
    """
    if path.suffix.lower() != ".bin" or len(head) < _RECORD:
        return False
    t, x, y, p = _decoded(np.frombuffer(head, np.uint8))
    twice = (np.diff(t) == 0) & (np.diff(x) == 0) & (np.diff(y) == 0) & (np.diff(p) == 0)
    odd = twice | (np.diff(t) < 0) | (y[1:] > _OVERFLOW_ROW)
    return len(t) > 0 and np.count_nonzero(odd) <= _MOST_ODD * len(t)


def open_source(path: Path, told: Told) -> WordSource:
    """The decoder of a .bin file; nothing need be told, the format fixes it."""
    return WordSource(path, "ATIS BIN", None, {}, 0, RECORDS)


@nb.njit(nogil=True, cache=True)
def decode(data, state, tally, t, x, y, p):  # noqa: ANN001, ANN201
    """Decode whole records.

    Returns:
        Bytes used, events written.
    """
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


def _first_state() -> np.ndarray:
    return np.zeros(1, np.int64)  # us added by overflow records


RECORDS = Machine(np.dtype("u1"), _first_state, decode)


def _decoded(data: np.ndarray) -> tuple[np.ndarray, ...]:
    """Columns t, x, y, p of some bytes."""
    room = len(data) // _RECORD
    columns = tuple(np.empty(room, kind) for kind in (np.int64, np.uint16, np.uint16, np.uint8))
    _, n = decode(data, _first_state(), np.zeros(0, np.int64), *columns)
    return tuple(column[:n] for column in columns)
