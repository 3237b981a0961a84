"""Fast parsing of lines of decimal numbers into columns.

The scanner understands only the most common numbers: a sign, digits and one point. They are equal
to those of `float`, bit for bit: the digits are an integer below 2^53, the power of ten is exact,
and one division rounds correctly (Clinger 1990). It records all other lines for slower readers that
understand every way to write a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numba as nb
import numpy as np
from numpy import ndarray

from scaleevent.formats.source import Flaw

POWERS = 10.0 ** np.arange(23)
_EXACT = ((1 << 53) - 1) // 10 - 1  # with one more digit still below 2^53
_WHOLE = ((1 << 63) - 1) // 10 - 1  # with one more digit still below 2^63
_WORD = re.compile(rb"(?i)\b(?:true|false)\b")  # polarity as Python and pandas write it
_SPACE, _TAB, _RETURN, _NEWLINE, _HASH = b" \t\r\n#"
_PLUS, _MINUS, _POINT, _ZERO, _NINE = b"+-.09"


@dataclass(frozen=True)
class Layout:
    """Layout of the lines of one file.

    Args:
        skip: Number of bytes before the first event.
        line: Number of lines before the first event.
        delimiter: Comma or semicolon; None for blanks.
        places: Index of t, x, y and p among the fields of a line.
        whole: Whether the time stamps are whole numbers.
    """

    skip: int
    line: int
    delimiter: bytes | None
    places: tuple[int, ...]
    whole: bool

    def parse(self, lines: bytes, line: int) -> tuple[np.ndarray, np.ndarray, tuple[Flaw, ...]]:
        """Parse some lines.

        Args:
            lines: Complete lines; the last may lack its newline.
            line: Index of the first line in the file, from 0.

        Returns:
            (K,) time stamps, int64 if all of them are whole as `whole` states, else float64; (3, K)
            float64 x, y, p; one flaw that counts the lines that are not events, if any.
        """
        if _WORD.search(lines[: lines.find(b"\n") + 1]):
            lines = _WORD.sub(_binary, lines)
        data = np.frombuffer(lines, np.uint8)
        capacity = lines.count(b"\n") + 1
        values, times = np.empty((capacity, 4)), np.empty(capacity, np.int64)
        odd = np.empty((capacity, 3), np.int32)
        mark = ord(self.delimiter) if self.delimiter else 0
        scanned = (mark, np.array(self.places), self.whole, values, times, odd)
        if not self.whole and scan_lines(data[: lines.find(b"\n") + 1], *scanned)[1]:
            # the first line is unusual, so perhaps all of them are
            loaded = self._loaded(lines.decode("ascii", "replace").split("\n"))
            if loaded is not None:
                return loaded[:, 0], loaded[:, 1:].T, ()
        rows, unusual = scan_lines(data, *scanned)
        values, times = values[:rows], times[:rows]
        flaws: tuple[Flaw, ...] = ()
        if unusual:
            odd = odd[:unusual]
            read = self._read(lines, odd)
            if read is None:
                return replace(self, whole=False).parse(lines, line)
            values[odd[:, 0]], times[odd[:, 0]], events = read
            if not events.all():
                lost = odd[~events]
                values = np.delete(values, lost[:, 0], axis=0)
                times = np.delete(times, lost[:, 0], axis=0)
                bad = [span for span in _spans(lost) if not _is_empty(lines[span])]
                if bad:
                    first = line + lines.count(b"\n", 0, bad[0].start)
                    flaws = (_not_events(lines[bad[0]], first, len(bad)),)
        return times if self.whole else values[:, 0], values[:, 1:].T, flaws

    def _read(
        self, lines: bytes, odd: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Parse the lines that `scan_lines` recorded as unusual.

        Returns:
            (K, 4) float64 t, x, y, p; (K,) int64 t where it is whole; (K,) whether a line is an
            event. None: a time stamp is not whole, contrary to `whole`.
        """
        count = len(odd)
        values, times = np.zeros((count, 4)), np.zeros(count, np.int64)
        events = np.ones(count, bool)
        if not self.whole:
            text = lines.decode("ascii", "replace")
            loaded = self._loaded([text[span] for span in _spans(odd)])
            if loaded is not None and len(loaded) == count:
                return loaded, times, events
        for k, span in enumerate(_spans(odd)):
            event = self.parse_line(lines[span])
            if event is None:
                events[k] = False
                continue
            values[k] = event
            if self.whole:
                if isinstance(event[0], float):
                    return None
                times[k] = event[0]
        return values, times, events

    def _loaded(self, texts: list[str]) -> np.ndarray | None:
        """(K, 4) t, x, y, p, parsed quickly by NumPy; None if some lines are not events."""
        if not texts[0].strip():
            return None
        delimiter = self.delimiter.decode() if self.delimiter else None
        try:
            return np.loadtxt(texts, delimiter=delimiter, usecols=self.places, ndmin=2)
        except ValueError:
            return None

    def parse_line(self, text: bytes) -> tuple[float, float, float, float] | None:
        """Time, x, y, p of one line, however the numbers are written; None if it is not an event.

        The time is an int if `whole` is set and it is a whole number.
        """
        if b"\r" in text.strip():
            return None
        fields = split_fields(text.partition(b"#")[0], self.delimiter)
        try:
            t, x, y, p = (fields[place] for place in self.places)
            return self._time(t), _number(x), _number(y), _number(_WORD.sub(_binary, p))
        except (ValueError, IndexError, OverflowError):
            return None

    def _time(self, text: bytes) -> float:
        """Parse a time stamp; raises ValueError or OverflowError if it is not one."""
        if self.whole and text.lstrip(b"+-").isdigit():
            return int(np.int64(int(text)))
        time = _number(text)
        if self.whole and not math.isfinite(time):
            raise ValueError(text)
        return time


def find_delimiter(line: bytes) -> bytes | None:
    """The separator of the fields of a line: a semicolon, else a comma, else blanks (None)."""
    return next((mark for mark in (b";", b",") if mark in line), None)


def split_fields(line: bytes, delimiter: bytes | None) -> list[bytes]:
    """The fields of a line, without blanks and quotes around them and empty ones at its end."""
    fields = line.rstrip(b" \t\r\n,;").split(delimiter)
    return [field.strip(b' \t"') for field in fields]


def decoded(line: bytes) -> str:
    """Decode a line as UTF-8, or otherwise as Latin-1."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _spans(odd: np.ndarray) -> Iterator[slice]:
    """Byte ranges of the lines that `scan_lines` recorded."""
    return map(slice, odd[:, 1].tolist(), odd[:, 2].tolist())


def _binary(word: re.Match[bytes]) -> bytes:
    """1 for the word true, 0 for false."""
    return b"1" if word[0].lower() == b"true" else b"0"


def _number(text: bytes) -> float:
    """Parse a number as `float` does, except for underscores, which only Python allows."""
    if b"_" in text:
        raise ValueError(text)
    return float(text)


def _is_empty(text: bytes) -> bool:
    """Whether a line has only separators before its comment."""
    return not text.partition(b"#")[0].strip(b' \t\r\n,;"')


def _not_events(text: bytes, line: int, count: int) -> Flaw:
    """The flaw for `count` lines that are not events; the first has the text and index given."""
    return Flaw(
        "not an event",
        f"line {line + 1}",
        repr(decoded(text.strip())[:80]),
        "four numbers: time, x, y, polarity, with a point for decimals",
        "a line cut short is a truncated file",
        count,
    )


@nb.njit(nogil=True, cache=True)
def scan_lines(
    data: ndarray,
    delimiter: int,
    places: ndarray,
    whole: bool,
    values: ndarray,
    times: ndarray,
    odd: ndarray,
) -> tuple[int, int]:
    """Parse lines until they end or the outputs are full.

    Blank lines and lines that begin with # are skipped. Every other line takes a row; the caller
    fills or drops the rows of unusual lines.

    Args:
        data: (N,) uint8, lines that end in a newline; the last may lack it.
        delimiter: Byte between the fields; 0 for blanks.
        places: (4,) index of t, x, y and p among the fields.
        whole: Whether t must be a whole number.
        values: (K, 4) float64, filled with t, x, y, p.
        times: (K,) int64, filled with t where it is whole.
        odd: (K, 3) int32, filled with row, first byte and end of each unusual line.

    Returns:
        Number of rows taken, and how many of them are unusual lines.
    """
    unusual = 0
    rows, at = _scan_usual(data, 0, delimiter, places, whole, values, times, 0)
    while at < data.size and rows < len(values):
        end = at
        while end < data.size and data[end] != _NEWLINE:
            end += 1
        end = min(end + 1, data.size)
        odd[unusual, 0], odd[unusual, 1], odd[unusual, 2] = rows, at, end
        unusual += 1
        rows, at = _scan_usual(data, end, delimiter, places, whole, values, times, rows + 1)
    return rows, unusual


@nb.njit(nogil=True, cache=True)
def _scan_usual(
    data: ndarray,
    start: int,
    delimiter: int,
    places: ndarray,
    whole: bool,
    values: ndarray,
    times: ndarray,
    rows: int,
) -> tuple[int, int]:
    """Parse lines from byte `start` into rows from `rows` on, until an unusual line.

    Returns:
        The next row, and the start of the first line that was not parsed (the end if all were).
    """
    last_field = places.max()
    size, at = data.size, start
    while at < size and rows < len(values):
        begin = at
        at = _skip_blanks(data, at)
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
            wanted = _column_at(places, field)
            if wanted < 0:
                while at < size and not _ends(data[at], delimiter):
                    at += 1
            else:
                negative = data[at] == _MINUS
                if negative or data[at] == _PLUS:
                    at += 1
                digits, scale, point, mantissa = 0, 0, False, np.int64(0)
                limit = _WHOLE if whole and wanted == 0 else _EXACT
                while at < size:
                    byte = data[at]
                    if _ZERO <= byte <= _NINE:
                        if mantissa > limit:
                            return rows, begin
                        mantissa = mantissa * 10 + np.int64(byte - _ZERO)
                        digits += 1
                        scale += point
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
            at = _skip_blanks(data, at)
            if field < last_field and delimiter:
                if at >= size or data[at] != delimiter:
                    return rows, begin
                at = _skip_blanks(data, at + 1)
            if field < last_field and (at >= size or data[at] == _NEWLINE or data[at] == _RETURN):
                return rows, begin
        if delimiter and at < size and not _ends(data[at], delimiter):
            return rows, begin
        while at < size and data[at] != _NEWLINE:
            if data[at] == _HASH or (
                data[at] == _RETURN and at + 1 < size and data[at + 1] != _NEWLINE
            ):
                return rows, begin
            at += 1
        at += 1
        rows += 1
    return rows, min(at, size)


@nb.njit(nogil=True, cache=True, inline="always")
def _column_at(places: ndarray, field: int) -> int:
    """Which of t, x, y, p (0 to 3) stands in a field; -1 if none."""
    column = -1
    for k in range(4):
        if places[k] == field:
            column = k
    return column


@nb.njit(nogil=True, cache=True, inline="always")
def _skip_blanks(data: ndarray, at: int) -> int:
    """The first byte from `at` on that is not a blank."""
    while at < data.size and (data[at] == _SPACE or data[at] == _TAB):
        at += 1
    return at


@nb.njit(nogil=True, cache=True, inline="always")
def _ends(byte: int, delimiter: int) -> bool:
    """Whether a byte ends a field."""
    return (
        byte == _SPACE
        or byte == _TAB
        or byte == _NEWLINE
        or byte == _RETURN
        or (delimiter != 0 and byte == delimiter)
    )
