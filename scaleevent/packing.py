"""Events as 32-bit words, the form they are stored in: one column to read and to decompress.

From its lowest bit, a word holds polarity, column and row, and in the remaining bits the wait: the
microseconds since the previous event (for the first event: since the start). Column and row take as
many bits as the sensor needs, which leaves 12 bits for the wait at 480x640. The part of a longer
wait that does not fit goes into a short second list, the gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from scaleevent.errors import DataError
from scaleevent.events import COLUMNS, Events

WORD_BITS = 32


@dataclass(frozen=True)
class PackedEvents:
    """Events of one sensor as words.

    Args:
        words: (K,) uint32.
        gaps: (G, 2) int64, ascending: index of an event, and microseconds to add to its wait.
        start_us: Time from which the first wait counts.
        height: Sensor rows.
        width: Sensor columns.
    """

    words: np.ndarray
    gaps: np.ndarray
    start_us: int
    height: int
    width: int

    @classmethod
    def pack(cls, events: Events, start_us: int) -> PackedEvents:
        """Convert events to words; `start_us` must not be later than the first event.

        Raises:
            DataError: The sensor is so large that no bit is left for the wait.
        """
        row_shift, wait_shift = field_shifts(events.height, events.width)
        if wait_shift >= WORD_BITS:
            raise DataError(
                "the sensor is too large to pack its events",
                found=f"{events.width}x{events.height}",
                expected=f"at most {WORD_BITS - 2} bits for column and row",
            )
        waits = np.diff(events.t, prepend=start_us)
        fits = (1 << (WORD_BITS - wait_shift)) - 1
        late = np.flatnonzero(waits > fits)
        words = (waits & fits).astype(np.uint32) << np.uint32(wait_shift)
        words |= events.y.astype(np.uint32) << np.uint32(row_shift)
        words |= events.x.astype(np.uint32) << np.uint32(1)
        words |= events.p
        gaps = np.stack([late, waits[late] & ~fits], 1)
        return cls(words, gaps, start_us, events.height, events.width)

    def unpack(self) -> Events:
        """Convert words back to events.

        Raises:
            DataError: A pixel off the sensor, or time that steps back; `pack` makes neither.
        """
        columns = {name: np.empty(len(self.words), dtype) for name, dtype in COLUMNS.items()}
        shifts = field_shifts(self.height, self.width)
        right, bottom = unpack_words(self.words, self.start_us, *shifts, *columns.values())
        if len(self.gaps):
            before = np.searchsorted(self.gaps[:, 0], np.arange(len(self.words)), "right")
            columns["t"] += np.cumsum([0, *self.gaps[:, 1]])[before]
        if len(self.gaps) or right >= self.width or bottom >= self.height:
            return Events(**columns, height=self.height, width=self.width)
        for column in columns.values():
            column.flags.writeable = False
        return Events.unchecked(**columns, height=self.height, width=self.width)


def field_shifts(height: int, width: int) -> tuple[int, int]:
    """Position of the lowest bit of the row and of the wait in a word."""
    row_shift = 1 + (width - 1).bit_length()
    return row_shift, row_shift + (height - 1).bit_length()


@nb.njit(nogil=True, cache=True)
def unpack_words(
    words: np.ndarray, start: int, row_shift: int, wait_shift: int,
    t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray,
) -> tuple[np.uint16, np.uint16]:  # fmt: skip
    """Fill the columns from time `start` on, without gaps; returns the largest column and row."""
    now, one, row, wait = np.int64(start), np.uint32(1), np.uint32(row_shift), np.uint32(wait_shift)
    for k in range(words.size):
        now += np.int64(words[k] >> wait)
        t[k] = now
    column_mask = (one << (row - one)) - one
    row_mask = (one << (wait - row)) - one
    for k in range(words.size):
        x[k] = (words[k] >> one) & column_mask
        y[k] = (words[k] >> row) & row_mask
        p[k] = words[k] & one
    right, bottom = np.uint16(0), np.uint16(0)
    for k in range(words.size):
        right, bottom = max(right, x[k]), max(bottom, y[k])
    return right, bottom
