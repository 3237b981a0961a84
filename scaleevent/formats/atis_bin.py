"""Five-byte records of the ATIS, as N-MNIST and N-Caltech101 are published (.bin).

Layout (garrickorchard.com/datasets/n-caltech101): u8 x, u8 y, then polarity and 23 bits of time in
us, big-endian. A record in row 240 is not an event: it adds 2^13 us to all later times. The .bs2
files of SLAYER (bamsumit/slayerPytorch:src/spikeFileIO.py) have the same layout without such
records.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numba as nb
import numpy as np
from numpy import ndarray

from scaleevent.formats.source import ReadOptions, empty_columns
from scaleevent.formats.words import Machine, WordSource

SUFFIXES = (".bin", ".bs2")

_RECORD = 5
OVERFLOW_ROW = 240
_OVERFLOW_US = 1 << 13
_MAX_INVALID = 0.01  # fraction of invalid records in a file that is taken for this format


def matches(head: bytes, path: Path) -> bool:
    """Whether the file contains such records, judged by their values, since nothing marks them.

    Times ascend, rows lie on the sensor, and no event occurs twice.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES or len(head) < _RECORD:
        return False
    columns = empty_columns(len(head) // _RECORD)
    data, tally = np.frombuffer(head, np.uint8), np.zeros(0, np.int64)
    _, n = _machine(path).decode(data, np.zeros(1, np.int64), tally, *columns)
    t, x, y, p = (column[:n] for column in columns)
    twice = (np.diff(t) == 0) & (np.diff(x) == 0) & (np.diff(y) == 0) & (np.diff(p) == 0)
    invalid = twice | (np.diff(t) < 0)
    if suffix == ".bin":
        invalid |= y[1:] > OVERFLOW_ROW
    return len(t) > 0 and int(np.count_nonzero(invalid)) <= _MAX_INVALID * len(t)


def open_source(path: Path, options: ReadOptions) -> WordSource:
    """The decoder of the file; `options` is ignored, since the format defines the rest."""
    name = "SLAYER BS2" if path.suffix.lower() == ".bs2" else "ATIS BIN"
    return WordSource(path, name, None, {}, 0, _machine(path))


def _machine(path: Path) -> Machine:
    """The decoder by the ending of the file's name."""
    return PLAIN_RECORDS if path.suffix.lower() == ".bs2" else RECORDS


@nb.njit(nogil=True, cache=True)
def decode(
    overflow_row: int,
    data: ndarray,
    state: ndarray,
    tally: ndarray,
    t: ndarray,
    x: ndarray,
    y: ndarray,
    p: ndarray,
) -> tuple[int, int]:
    """Decode whole records; those in the overflow row (-1: none) are no events."""
    later = state[0]
    n = at = 0
    while at + _RECORD <= data.size and n < len(t):
        if data[at + 1] == overflow_row:
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


RECORDS = Machine(np.dtype("u1"), (0,), partial(decode, OVERFLOW_ROW))
"""The state is the time in us that overflow records have added."""

PLAIN_RECORDS = replace(RECORDS, decode=partial(decode, -1))
"""Without overflow records."""
