"""Word machines of Prophesee EVT2, EVT2.1, EVT3: one pass over the words, state between calls.

The word layouts are those of the vendor's public format descriptions
(docs.prophesee.ai, "EVT 2.0 Format", "EVT 2.1 Format" and "EVT 3.0 Format").

Which kind a word is cannot be foreseen, so a branch on it costs more than the work behind it. The
frequent kinds share one path instead: every word is written as an event where the next one belongs,
and the count goes on only if it was one. Places are unsigned, since numba tests signed ones.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numba.core import cgutils
from numba.extending import intrinsic

from scaleevent.formats.words import DROPPED, FIRST_UNKNOWN, OTHER, TRIGGERS, UNKNOWN

EVT2_STATE = 2
"""Length of the EVT2 and EVT2.1 state: TIME_HIGH (-1 before the first), times it wrapped."""

EVT3_STATE = 5
"""Length of the EVT3 state: TIME_HIGH (-1 before the first), wraps, TIME_LOW, row, next column."""

VECTOR = 12
"""Most events one EVT3 word can hold; output arrays need this many spare places."""

WIDE_VECTOR = 32
"""The same of an EVT2.1 word."""

_COLUMN_LIMIT = 0x7FFF  # a vector that runs on past any sensor stays here instead of wrapping


@intrinsic
def _lowest_bit(typing, value):  # noqa: ANN001, ANN202
    """Place of the lowest bit that is set, one instruction; there is one."""

    def build(context, builder, signature, arguments):  # noqa: ANN001, ANN202
        return builder.cttz(arguments[0], cgutils.true_bit)

    return value(value), build


def first_state(length: int) -> np.ndarray:
    """State before the first word; every part is unknown except the number of wraps."""
    state = np.full(length, -1, np.int64)
    state[1] = 0
    if length == EVT3_STATE:
        state[2] = 0
    return state


_ONE = np.uint64(1)
_FREQUENT = np.uint64(1 << 0x0 | 1 << 0x2 | 1 << 0x6)  # EVT3: row, event, low time


@nb.njit(nogil=True, cache=True)
def decode_evt2(words, state, tally, t, x, y, p):  # noqa: ANN001, ANN201
    """Decode 32-bit words; the outputs hold at least one event a word.

    Type 0 and 1 are events (OFF, ON), 8 sets bits 6 to 33 of the clock, 10 is a trigger, 14 and 15
    are the vendor's own; there are no others.

    Returns:
        Words used (all), events written.
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
            if high - now > 1 << 27:  # the 28-bit counter ran over
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
    return words.size, np.int64(n)


@nb.njit(nogil=True, cache=True)
def _decode_evt21(words, rotate, state, tally, t, x, y, p):  # noqa: ANN001, ANN202
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
        if rotate:
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
            if high - new > 1 << 27:  # the 28-bit counter ran over
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
    return used, np.int64(n)


@nb.njit(nogil=True, cache=True)
def decode_evt21(words, state, tally, t, x, y, p):  # noqa: ANN001, ANN201
    """Decode 64-bit words until they end or fewer than `WIDE_VECTOR` places are left.

    The upper half is an EVT2 word; the lower half of an event word says which of the 32 pixels from
    its column on fired.

    Returns:
        Words used, events written.
    """
    return _decode_evt21(words, False, state, tally, t, x, y, p)


@nb.njit(nogil=True, cache=True)
def decode_evt21_halves_swapped(words, state, tally, t, x, y, p):  # noqa: ANN001, ANN201
    """The same of words whose upper half comes first."""
    return _decode_evt21(words, True, state, tally, t, x, y, p)


@nb.njit(nogil=True, cache=True)
def decode_evt3(words, state, tally, t, x, y, p):  # noqa: ANN001, ANN201
    """Decode 16-bit words until they end or fewer than `VECTOR` places are left in the outputs.

    A word by word machine: it also reads vector sequences cut short, where a decoder that takes
    12-12-8 groups goes wrong (prophesee-ai/openeb issue 111).

    Returns:
        Words used, events written.
    """
    high, wraps, low, row, column = state[0], state[1], state[2], state[3], state[4]
    polarity = np.uint8(0)
    if column >= 0:
        polarity = np.uint8(column >> 16)
        column &= 0xFFFF
    base = (wraps << 24) | (high << 12)
    now = base | low
    # before a time and a row are known nothing takes the shared path
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
        elif kind == 0x3:  # where the next vector begins
            column = np.int64(word & np.uint16(0x7FF))
            polarity = np.uint8((word >> np.uint16(11)) & np.uint16(1))
        elif kind == 0x8:  # time, high 12 bits
            new = np.int64(word & np.uint16(0xFFF))
            if high - new >= 2048:  # the 24-bit clock ran over
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
        elif kind == 0x7 or kind >= 0xE:  # the vendor's own, and their continuations
            tally[OTHER] += 1
        else:
            if not tally[UNKNOWN]:
                tally[FIRST_UNKNOWN] = used - 1
            tally[UNKNOWN] += 1
    state[0], state[1], state[2], state[3] = high, wraps, now & 0xFFF, row
    state[4] = column if column < 0 else column | (np.int64(polarity) << 16)
    return used, np.int64(n)
