"""Lines of plain decimal numbers to columns, at the speed of a scanner.

Only what event files are full of is understood: a sign, digits, one point. The numbers are those of
`float`, bit for bit: the digits of one are an integer below 2^53 and its power of ten is exact, so
that one division rounds correctly (Clinger 1990). Anything else stops the scan at its line.
"""

from __future__ import annotations

import numba as nb
import numpy as np

POWERS = 10.0 ** np.arange(23)
_EXACT = 1 << 53
_SPACE, _TAB, _RETURN, _NEWLINE, _HASH = b" \t\r\n#"
_PLUS, _MINUS, _POINT, _ZERO, _NINE = b"+-.09"


@nb.njit(nogil=True, cache=True)
def scan_lines(data, start, delimiter, places, whole, values, times):
    """Read lines until they end, something unusual comes or the outputs are full.

    Args:
        data: (N,) uint8, lines that end in a newline; the last may lack it.
        start: Where to begin.
        delimiter: Byte between the fields; 0 for blanks.
        places: (4,) field number of t, x, y, p.
        whole: Whether t must be a whole number.
        values: (K, 4) float64, filled with t, x, y, p.
        times: (K,) int64, filled with t where it is whole.

    Returns:
        Lines of events read, and the byte of the first line that was not (the end: all were).
        Blank lines and lines that begin with # are passed over.
    """
    last_field = places.max()
    size, rows, at = data.size, 0, start
    while at < size and rows < len(values):
        begin = at
        while at < size and (data[at] == _SPACE or data[at] == _TAB):
            at += 1
        if at == size:
            return rows, size
        if data[at] == _NEWLINE or data[at] == _HASH or data[at] == _RETURN:
            if data[at] == _RETURN and at + 1 < size and data[at + 1] != _NEWLINE:
                return rows, begin
            while at < size and data[at] != _NEWLINE:
                at += 1
            at += 1
            continue
        for field in range(last_field + 1):
            wanted = -1
            for k in range(4):
                if places[k] == field:
                    wanted = k
            if wanted < 0:
                while at < size and not _ends(data[at], delimiter):
                    at += 1
            else:
                negative = data[at] == _MINUS
                if negative or data[at] == _PLUS:
                    at += 1
                digits, scale, point, mantissa = 0, 0, False, 0
                while at < size:
                    byte = data[at]
                    if _ZERO <= byte <= _NINE:
                        mantissa = mantissa * 10 + np.int64(byte - _ZERO)
                        digits += 1
                        scale += point
                        if mantissa >= _EXACT:
                            return rows, begin
                    elif byte == _POINT and not point:
                        point = True
                    else:
                        break
                    at += 1
                if digits == 0 or scale > 22:
                    return rows, begin
                if at < size and not _ends(data[at], delimiter):
                    return rows, begin
                if negative:
                    mantissa = -mantissa
                values[rows, wanted] = mantissa / POWERS[scale]
                if wanted == 0:
                    if whole and point:
                        return rows, begin
                    times[rows] = mantissa
            # to the next field
            while at < size and (data[at] == _SPACE or data[at] == _TAB):
                at += 1
            if field < last_field and delimiter:
                if at >= size or data[at] != delimiter:
                    return rows, begin
                at += 1
                while at < size and (data[at] == _SPACE or data[at] == _TAB):
                    at += 1
            if field < last_field and (at >= size or data[at] == _NEWLINE or data[at] == _RETURN):
                return rows, begin
        while at < size and data[at] != _NEWLINE:
            if data[at] == _HASH:
                return rows, begin
            at += 1
        at += 1
        rows += 1
    return rows, min(at, size)


@nb.njit(nogil=True, cache=True, inline="always")
def _ends(byte, delimiter):
    """Whether a byte ends a field."""
    return (
        byte == _SPACE
        or byte == _TAB
        or byte == _NEWLINE
        or byte == _RETURN
        or (delimiter and byte == delimiter)
    )
