"""Events of iniVation cameras in event_camera_msgs: the encodings libcaer and libcaer_cmp.

Layouts as in event_camera_codecs and libcaer_driver. The times of a packet count from its base,
which is the camera's clock set to the host's when the driver starts.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy import ndarray

from scaleevent.errors import DataError
from scaleevent.formats.ros_messages import Packet, packet_words
from scaleevent.formats.source import Columns, empty_columns
from scaleevent.formats.words import DROPPED, UNKNOWN

_WRAP_US = 1 << 31


def libcaer_columns(packet: Packet, tally: ndarray) -> Columns:
    """Events of encoding "libcaer": 32 bits of pixel and 31 bits of time in us.

    The pixel has 15 bits of column, 15 of row, polarity, and whether the event is valid.

    Args:
        packet: The packet.
        tally: Counts as in `words`; `DROPPED` increases by the events marked invalid.
    """
    words = packet_words(packet, "<u8")
    pixel, low = words.astype(np.uint32), (words >> np.uint64(32)).astype(np.int64)
    if len(low) and low.max() >= _WRAP_US:
        raise DataError("negative time", found=f"{low.max() - 2 * _WRAP_US} us")
    wraps = np.cumsum(np.diff(low, prepend=low[:1]) < -_WRAP_US // 2)
    t = packet.base_ns // 1000 + low + wraps * _WRAP_US
    x, y = (pixel >> 17).astype(np.uint16), (pixel >> 2 & 0x7FFF).astype(np.uint16)
    p, valid = (pixel >> 1 & 1).astype(np.uint8), (pixel & 1).astype(bool)
    if valid.all():
        return t, x, y, p
    tally[DROPPED] += np.count_nonzero(~valid)
    return t[valid], x[valid], y[valid], p[valid]


def libcaer_cmp_columns(packet: Packet, tally: ndarray) -> Columns:
    """Events of encoding "libcaer_cmp": 16-bit words, each packet complete in itself.

    Args:
        packet: The packet.
        tally: Counts as in `words`; events before the first column or row are `DROPPED`.
    """
    words = packet_words(packet, "<u2")
    kinds = np.bincount(words >> 12, minlength=16)
    t, x, y, p = empty_columns(int(kinds[_EVENT] + 8 * kinds[_VECTOR]))
    n = _decode_cmp(words, packet.base_ns // 1000, tally, t, x, y, p)
    return t[:n], x[:n], y[:n], p[:n]


_TIME_HIGH, _TIME_LOW, _COLUMN, _EVENT, _BASE, _VECTOR = range(6)


@nb.njit(nogil=True, cache=True)
def _decode_cmp(
    words: ndarray, base: int, tally: ndarray, t: ndarray, x: ndarray, y: ndarray, p: ndarray
) -> int:
    """Decode the words of one packet that begins at `base` us; the number of events.

    Kind in the upper 4 bits: bits 12 to 23 of the time, which wrap; bits 0 to 11; the column of all
    that follows; an event (row, polarity in bit 11); row and polarity from which vectors begin; a
    vector of 8 rows, after which the next one continues.
    """
    high = low = wraps = n = 0
    column = row = -1
    polarity = 0
    for at in range(words.size):
        word = int(words[at])
        kind, value = word >> 12, word & 0xFFF
        if kind == _EVENT and column >= 0:
            t[n], x[n], y[n], p[n] = base + wraps + high + low, column, value & 0x7FF, value >> 11
            n += 1
        elif kind == _COLUMN:
            column = value & 0x7FF
        elif kind == _TIME_LOW:
            low = value
        elif kind == _TIME_HIGH:
            if value << 12 < high:
                wraps += 1 << 24
            high = value << 12
        elif kind == _BASE:
            row, polarity = value & 0x7FF, value >> 11
        elif kind == _VECTOR:
            for bit in range(8):
                if value >> bit & 1 and column >= 0 and row >= 0:
                    t[n], x[n], y[n] = base + wraps + high + low, column, row + bit
                    p[n] = polarity
                    n += 1
                else:
                    tally[DROPPED] += value >> bit & 1
            row += 8 if row >= 0 else 0
        elif kind == _EVENT:
            tally[DROPPED] += 1
        else:
            tally[UNKNOWN] += 1
    return n
