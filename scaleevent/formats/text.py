"""Events as text: one event a line, four numbers in any usual order, with or without a header."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats.columns import column_order, find_columns, find_time_unit, to_block
from scaleevent.formats.recording import RawBlock, Source

_CHUNK_BYTES = 4 << 20
_SAMPLE_BYTES = 1 << 18
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_UNIT_IN_NAME = re.compile(r"(?:t|ts|time|timestamps?)[ _]*[\[(]?(s|ms|us|ns)[\])]?")


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is lines of text, led by a number or by names."""
    if re.search(rb"[^\t\n\r\x20-\x7e]", head):
        return False
    lines = [line.strip() for line in head.splitlines()[:50]]
    content = next((line for line in lines if line and line[:1] not in b"#%"), None)
    if content is None:
        return path.suffix.lower() in (".txt", ".csv")
    return bool(_NUMBER.fullmatch(_fields(content)[0]) or _names(content))


@dataclass(frozen=True)
class Layout:
    """How the lines of one file are read.

    Args:
        skip: Bytes before the first event.
        line: Lines before the first event.
        delimiter: Comma or semicolon; None for blanks.
        places: Position of t, x, y, p in a line.
        whole: Whether the time stamps are whole numbers.
    """

    skip: int
    line: int
    delimiter: str | None
    places: tuple[int, ...]
    whole: bool

    def parse(self, lines: bytes, line: int, path: Path) -> np.ndarray:
        """(K,) records t, x, y, p of some lines, the first being number `line` (from 0)."""
        dtype = [("t", np.int64 if self.whole else np.float64)]
        dtype += [(name, np.float64) for name in "xyp"]
        texts = lines.decode("ascii", "replace").splitlines()
        try:
            return np.loadtxt(texts, dtype, delimiter=self.delimiter, usecols=self.places, ndmin=1)
        except (ValueError, OverflowError, DeprecationWarning) as error:
            raise self.bad_line(lines, line, path, error) from error

    def bad_line(self, lines: bytes, line: int, path: Path, error: Exception) -> DataError:
        """What is wrong, with the number of the first line that cannot be read."""
        for number, text in enumerate(lines.splitlines(), start=line + 1):
            fields = _fields(text.partition(b"#")[0])
            used = [fields[place] for place in self.places if place < len(fields)]
            if fields != [b""] and (len(used) < 4 or not all(map(_NUMBER.fullmatch, used))):
                found = text[:80].decode("ascii", "replace")
                return DataError(
                    "not an event",
                    where=f"{path}, line {number}",
                    found=repr(found),
                    expected="four numbers: time, x, y, polarity",
                    hint="a line cut short is a truncated file",
                )
        return DataError("not events", where=f"{path}, after line {line}", found=error)


def open_source(path: Path, time_unit: str | None) -> TextSource:
    """Find out how the lines of a text file are laid out.

    Comment lines begin with # or % (anywhere: #). A line of names gives the column order and may
    give the unit, as in "t[us]"; a line of two whole numbers before the first event is the
    sensor's width and height; else the values tell.

    Raises:
        NotEventsError: The first line that counts is not four numbers.
        DataError: A later one is not, or an ambiguous column order or time unit.
    """
    with path.open("rb") as file:
        head = next(_whole_lines(file, path, _SAMPLE_BYTES), b"")
    skip = line = 0
    size, names, unit = None, None, time_unit
    for text in head.splitlines(keepends=True):
        fields = _fields(text.strip().lstrip(b"#% "))
        if found := _names(text):
            names = names or found
            stated = (_UNIT_IN_NAME.fullmatch(field.decode("ascii", "replace")) for field in fields)
            unit = unit or next((match[1] for match in stated if match), None)
        elif text.strip() and text[:1] not in b"#%":
            if len(fields) != 2 or not all(map(bytes.isdigit, fields)):
                break
            size = (int(fields[1]), int(fields[0]))
        skip += len(text)
        line += 1
    events = head[skip:]
    start = events.partition(b"\n")[0]
    delimiter = next((mark for mark in ",;" if mark.encode() in start), None)
    layout = Layout(skip, line, delimiter, names or (0, 1, 2, 3), whole=False)
    if events.strip():
        numbers = _fields(start.partition(b"#")[0])
        if names is None and (len(numbers) != 4 or not all(map(_NUMBER.fullmatch, numbers))):
            raise NotEventsError(
                "text that is not events",
                where=f"{path}, line {line + 1}",
                found=repr(start[:80].decode("ascii", "replace")),
                expected="four numbers a line: time, x, y, polarity",
            )
        sample = layout.parse(events, line, path)
        if names is None:
            table = np.stack([sample[name] for name in "txyp"], axis=1)
            order = column_order(table, str(path))
            names = tuple(order.index(name) for name in "txyp")
        times = (_fields(text)[names[0]] for text in events.splitlines() if text.strip())
        whole = all(time.lstrip(b"-").isdigit() for time in times)
        layout = Layout(skip, line, delimiter, names, whole)
        unit = find_time_unit(layout.parse(events, line, path)["t"], unit, str(path))
    return TextSource(path, size, {"time unit": unit or "us"}, layout, unit or "us")


@dataclass(frozen=True)
class TextSource(Source):
    """Decoder of one text file."""

    path: Path
    size: tuple[int, int] | None
    notes: dict[str, str]
    layout: Layout
    unit: str
    format = "text"

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """All events from the beginning: text has no time index."""
        first, line = 0, self.layout.line
        with self.path.open("rb") as file:
            file.seek(self.layout.skip)
            for lines in _whole_lines(file, self.path, _CHUNK_BYTES):
                if lines.strip():
                    rows = self.layout.parse(lines, line, self.path)
                    columns = (rows[name] for name in "txyp")
                    yield to_block(first, *columns, self.unit, str(self.path))
                    first += len(rows)
                line += lines.count(b"\n")


def _whole_lines(file: BinaryIO, path: Path, size: int) -> Iterator[bytes]:
    """The rest of the file in pieces of about `size` bytes that end at a line's end."""
    rest = b""
    while data := file.read(size):
        lines, newline, rest_of_data = data.rpartition(b"\n")
        if not newline:
            if len(rest) + len(data) > size:
                raise DataError("not text", where=path, found=f"a line of more than {size} bytes")
            rest += data
            continue
        yield rest + lines + newline
        rest = rest_of_data
    if rest:
        yield rest


def _fields(line: bytes) -> list[bytes]:
    """The parts of a line between commas, semicolons or blanks."""
    return re.split(rb"\s*[,;]\s*|\s+", line.strip())


def _names(line: bytes) -> tuple[int, ...] | None:
    """Positions of t, x, y, p in a line of column names, or None."""
    fields = [field.decode("ascii", "replace").lower() for field in _fields(line.strip(b"#% \r\n"))]
    plain = ["t" if _UNIT_IN_NAME.fullmatch(field) else field for field in fields]
    names = find_columns(plain)
    return names and tuple(plain.index(names[name]) for name in "txyp")
