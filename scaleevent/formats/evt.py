"""Decoders of Prophesee EVT2, EVT2.1 and EVT3: one pass over the words, state between calls.

The word layouts are those of the vendor's public format descriptions
(docs.prophesee.ai, "EVT 2.0 Format", "EVT 2.1 Format" and "EVT 3.0 Format").

The kind of the next word is unpredictable, so a branch on it costs more than decoding the word. The
frequent kinds therefore use one path without branches: every word is written as if it were the next
event, and the count increases only if it was one. Array indices are unsigned, since numba adds a
test for negative values to signed ones. Arguments and results are those of `words.Machine.decode`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numba as nb
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy import ndarray

from scaleevent.formats.words import DROPPED, FIRST_UNKNOWN, OTHER, TRIGGERS, UNKNOWN

EVT2_STATE = (-1, 0)
"""Before the first word of EVT2 and EVT2.1: TIME_HIGH (-1: none), number of wraps."""

EVT3_STATE = (-1, 0, 0, -1, -1)
"""For EVT3: TIME_HIGH (-1: none), number of wraps, TIME_LOW, row, next column (-1: unknown)."""

VECTOR = 12  # maximum number of events in one EVT3 word; output arrays need this many spare places
WIDE_VECTOR = 32  # the same for an EVT2.1 word
_COLUMN_LIMIT = 0x7FFF  # a vector that continues beyond any sensor stays here instead of wrapping


def _count_trailing_zeros(typing: object, value: types.Integer) -> tuple[object, object]:
    """Signature and code generator of an instruction, as numba requires them."""
    return value(value), lambda _context, builder, _signature, arguments: builder.cttz(
        arguments[0], cgutils.true_bit
    )


_lowest_bit = cast("Callable[[np.uint32], np.uint32]", intrinsic(_count_trailing_zeros))
"""Index of the lowest bit that is set, in one instruction; at least one must be set."""


_ONE = np.uint64(1)
_FREQUENT = np.uint64(1 << 0x0 | 1 << 0x2 | 1 << 0x6)  # EVT3: row, event, low time


@nb.njit(nogil=True, cache=True)
def decode_evt2(
    words: ndarray, state: ndarray, tally: ndarray, t: ndarray, x: ndarray, y: ndarray, p: ndarray
) -> tuple[int, int]:
    """Decode 32-bit words; the outputs have room for one event per word.

    Types 0 and 1 are events (OFF, ON), 8 sets bits 6 to 33 of the clock, 10 is a trigger, 14 and 15
    are vendor-specific; no other types exist.
    """
    high, wraps = state[0], state[1]
    base = (wraps << 34) | (high << 6)
    timed = np.uint64(high >= 0)
    n = lost = np.uint64(0)
    for at in range(words.size):
        word = np.uint32(words[at])
        kind = word >> np.uint32(28)
        if kind <= 1:
            t[n] = base | np.int64((word >> np.uint32(22)) & np.uint32(0x3F))
            x[n] = (word >> np.uint32(11)) & np.uint32(0x7FF)
            y[n] = word & np.uint32(0x7FF)
            p[n] = kind
            n += timed
            lost += timed ^ _ONE
        elif kind == 8:
            now = np.int64(word & np.uint32(0xFFFFFFF))
            if high - now > 1 << 27:  # the 28-bit counter overflowed
                wraps += 1
            high, timed = now, _ONE
            base = (wraps << 34) | (high << 6)
        elif kind == 10:
            tally[TRIGGERS] += 1
        elif kind >= 14:
            tally[OTHER] += 1
        else:
            if not tally[UNKNOWN]:
                tally[FIRST_UNKNOWN] = at
            tally[UNKNOWN] += 1
    state[0], state[1] = high, wraps
    tally[DROPPED] += np.int64(lost)
    return words.size, int(np.int64(n))


@nb.njit(nogil=True, cache=True)
def decode_evt21(
    halves_swapped: bool,
    words: ndarray,
    state: ndarray,
    tally: ndarray,
    t: ndarray,
    x: ndarray,
    y: ndarray,
    p: ndarray,
) -> tuple[int, int]:
    """Decode 64-bit words until they end or fewer than `WIDE_VECTOR` places are left.

    The upper half is an EVT2 word; the bits in the lower half of an event word mark which of the 32
    pixels from its column on fired. With `halves_swapped` the upper half is stored first.
    """
    high, wraps = state[0], state[1]
    base = (wraps << 34) | (high << 6)
    n = np.uint64(0)
    used = 0
    full = np.uint64(max(len(t) - WIDE_VECTOR + 1, 0))
    for at in range(words.size):
        if n >= full:
            break
        used += 1
        word = words[at]
        if halves_swapped:
            word = (word << np.uint64(32)) | (word >> np.uint64(32))
        upper = np.uint32(word >> np.uint64(32))
        kind = upper >> np.uint32(28)
        if kind <= 1:
            bits = np.uint32(word)
            now = base | np.int64((upper >> np.uint32(22)) & np.uint32(0x3F))
            column, row = (upper >> np.uint32(11)) & np.uint32(0x7FF), upper & np.uint32(0x7FF)
            while bits:
                t[n] = now
                x[n] = column + _lowest_bit(bits)
                y[n] = row
                p[n] = kind
                n += _ONE
                bits &= bits - np.uint32(1)
            if high < 0:
                tally[DROPPED] += np.int64(n)
                n = np.uint64(0)
        elif kind == 8:
            new = np.int64(upper & np.uint32(0xFFFFFFF))
            if high - new > 1 << 27:  # the 28-bit counter overflowed
                wraps += 1
            high = new
            base = (wraps << 34) | (high << 6)
        elif kind == 10:
            tally[TRIGGERS] += 1
        elif kind >= 14:
            tally[OTHER] += 1
        else:
            if not tally[UNKNOWN]:
                tally[FIRST_UNKNOWN] = at
            tally[UNKNOWN] += 1
    state[0], state[1] = high, wraps
    return used, int(np.int64(n))


@nb.njit(nogil=True, cache=True)
def decode_evt3(
    words: ndarray, state: ndarray, tally: ndarray, t: ndarray, x: ndarray, y: ndarray, p: ndarray
) -> tuple[int, int]:
    """Decode 16-bit words until they end or fewer than `VECTOR` places are left in the outputs.

    Working word by word, it also reads truncated vector sequences, on which a decoder of 12-12-8
    groups fails (prophesee-ai/openeb issue 111).
    """
    high, wraps, low, row, column = state[0], state[1], state[2], state[3], state[4]
    polarity = np.uint8(0)
    if column >= 0:
        polarity = np.uint8(column >> 16)
        column &= 0xFFFF
    base = (wraps << 24) | (high << 12)
    now = base | low
    # the path without branches needs a known time and row
    frequent = _FREQUENT if high >= 0 and row >= 0 else np.uint64(0)
    n = np.uint64(0)
    used = 0
    full = np.uint64(max(len(t) - VECTOR + 1, 0))
    for word in words:
        if n >= full:
            break
        used += 1
        kind = word >> np.uint16(12)
        if frequent >> np.uint64(kind) & _ONE:
            t[n] = now
            x[n] = word & np.uint16(0x7FF)
            y[n] = row
            p[n] = (word >> np.uint16(11)) & np.uint16(1)
            n += np.uint64(kind == 0x2)
            row ^= (row ^ np.int64(word & np.uint16(0x7FF))) & -np.int64(kind == 0x0)
            now ^= (now ^ (base | np.int64(word & np.uint16(0xFFF)))) & -np.int64(kind == 0x6)
        elif kind == 0x4 or kind == 0x5:  # vector of 12 or 8 events on one row
            bits = np.uint32(word & np.uint16(0xFFF if kind == 0x4 else 0xFF))
            if frequent and column >= 0:
                while bits:
                    t[n] = now
                    x[n] = column + np.int64(_lowest_bit(bits))
                    y[n] = row
                    p[n] = polarity
                    n += _ONE
                    bits &= bits - np.uint32(1)
            while bits:
                tally[DROPPED] += 1
                bits &= bits - np.uint32(1)
            if column >= 0:
                column = min(column + (12 if kind == 0x4 else 8), _COLUMN_LIMIT)
        elif kind == 0x3:  # start column of the next vector
            column = np.int64(word & np.uint16(0x7FF))
            polarity = np.uint8((word >> np.uint16(11)) & np.uint16(1))
        elif kind == 0x8:  # time, high 12 bits
            new = np.int64(word & np.uint16(0xFFF))
            if high - new >= 2048:  # the 24-bit clock overflowed
                wraps += 1
            if new != high:
                high = new
                now = base = (wraps << 24) | (high << 12)
            if row >= 0:
                frequent = _FREQUENT
        elif kind == 0x0:
            row = np.int64(word & np.uint16(0x7FF))
            if high >= 0:
                frequent = _FREQUENT
        elif kind == 0x2:
            tally[DROPPED] += 1
        elif kind == 0x6:
            now = base | np.int64(word & np.uint16(0xFFF))
        elif kind == 0xA:
            tally[TRIGGERS] += 1
        elif kind == 0x7 or kind >= 0xE:  # vendor-specific words and their continuations
            tally[OTHER] += 1
        else:
            if not tally[UNKNOWN]:
                tally[FIRST_UNKNOWN] = used - 1
            tally[UNKNOWN] += 1
    state[0], state[1], state[2], state[3] = high, wraps, now & 0xFFF, row
    state[4] = column if column < 0 else column | (np.int64(polarity) << 16)
    return used, int(np.int64(n))
