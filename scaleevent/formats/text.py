"""Events as text: one event a line, four numbers in any usual order, with or without a header."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats.columns import column_order, find_columns, find_time_unit, to_block
from scaleevent.formats.source import Flaw, RawBlock, Source, TimeIndex, Told
from scaleevent.formats.text_lines import scan_lines

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

    def parse(self, lines: bytes, line: int) -> tuple[np.ndarray, np.ndarray, list[Flaw]]:
        """The events of some lines.

        Args:
            lines: Whole lines; the last may lack its newline.
            line: Number of the first, from 0.

        Returns:
            (K,) time stamps, int64 or float64; (3, K) float64 x, y, p; lines that are no events.
        """
        data = np.frombuffer(lines, np.uint8)
        room = lines.count(b"\n") + 1
        values, times = np.empty((room, 4)), np.empty(room, np.int64)
        mark = ord(self.delimiter) if self.delimiter else 0
        places = np.array(self.places)
        rows = at = 0
        unusual_all = True  # whether what the scanner does not know may be what all lines have
        flaws = []
        while at < len(data):
            number, at = scan_lines(data, at, mark, places, self.whole, values[rows:], times[rows:])
            rows += number
            if at >= len(data):
                break
            if unusual_all and (rest := self._loaded(lines[at:])) is not None:
                values[rows : rows + len(rest)] = np.stack([rest[name] for name in "txyp"], 1)
                times[rows : rows + len(rest)] = rest["t"] if self.whole else 0
                rows += len(rest)
                break
            unusual_all = False
            end = lines.find(b"\n", at) + 1 or len(lines)
            one = self._loaded(lines[at:end])
            if one is None:
                flaws.append(_not_an_event(lines[at:end], line + lines.count(b"\n", 0, at)))
            else:
                values[rows : rows + len(one)] = np.stack([one[name] for name in "txyp"], 1)
                times[rows : rows + len(one)] = one["t"] if self.whole else 0
                rows += len(one)
            at = end
        t = times[:rows] if self.whole else values[:rows, 0]
        return t, values[:rows, 1:].T, flaws

    def _loaded(self, lines: bytes) -> np.ndarray | None:
        """(K,) records t, x, y, p by a reader that knows every way to write a number, or None."""
        dtype = [("t", np.int64 if self.whole else np.float64)]
        dtype += [(name, np.float64) for name in "xyp"]
        texts = lines.decode("ascii", "replace").splitlines()
        if not any(text.partition("#")[0].strip() for text in texts):
            return np.empty(0, dtype)
        try:
            return np.loadtxt(texts, dtype, delimiter=self.delimiter, usecols=self.places, ndmin=1)
        except (ValueError, OverflowError, DeprecationWarning):
            return None


def _not_an_event(text: bytes, line: int) -> Flaw:
    """A line that is no event; `line` counts from 0."""
    return Flaw(
        "not an event",
        f"line {line + 1}",
        repr(text.strip()[:80].decode("ascii", "replace")),
        "four numbers: time, x, y, polarity",
        "a line cut short is a truncated file",
        count=1,
    )


def open_source(path: Path, told: Told) -> TextSource:
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
    size, names, unit = None, None, told.time_unit
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
        if names is None:
            t, columns, _ = layout.parse(events, line)
            order = column_order(np.stack([t, *columns], axis=1), told.columns, str(path))
            names = tuple(order.index(name) for name in "txyp")
        fields = (_fields(text) for text in events.splitlines())
        times = (parts[names[0]] for parts in fields if len(parts) > max(names))
        whole = all(time.lstrip(b"-").isdigit() for time in times if _NUMBER.fullmatch(time))
        layout = Layout(skip, line, delimiter, names, whole)
        unit = find_time_unit(layout.parse(events, line)[0], unit, str(path))
    return TextSource(path, size, {"time unit": unit or "us"}, layout, unit or "us")


@dataclass(frozen=True)
class TextSource(Source):
    """Decoder of one text file."""

    path: Path
    size: tuple[int, int] | None
    notes: dict[str, str]
    layout: Layout
    unit: str
    index: TimeIndex = field(default_factory=TimeIndex, compare=False, repr=False)
    format = "text"

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """The events from the last noted place before the range on, or from the beginning."""
        begin = (0, self.layout.skip, self.layout.line)
        first, byte, line = self.index.before(start_us, begin)
        with self.path.open("rb") as file:
            file.seek(byte)
            for lines in _whole_lines(file, self.path, _CHUNK_BYTES):
                t, columns, flaws = self.layout.parse(lines, line)
                block = to_block(first, t, *columns, self.unit, str(self.path))
                yield replace(block, flaws=tuple(flaws))
                first += len(block)
                byte += len(lines)
                line += lines.count(b"\n")
                self.index.note(block.t, first, (first, byte, line))


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
