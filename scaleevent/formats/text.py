"""Events as text: one event per line, four numbers in any usual order, with or without header."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from itertools import chain, combinations
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from scaleevent.errors import ConfigError, DataError, NotEventsError
from scaleevent.formats.columns import (
    check_stated,
    column_letters,
    column_order,
    find_columns,
    parse_name,
    to_block,
    unit_in_name,
)
from scaleevent.formats.source import FileSource, RawBlock, ReadOptions, TimeIndex
from scaleevent.formats.text_lines import Layout, decoded, find_delimiter, split_fields
from scaleevent.formats.units import event_time_unit

SUFFIXES = (".txt", ".csv")

_CHUNK_BYTES = 4 << 20
_SAMPLE_BYTES = 1 << 18
_TAIL_BYTES = 1 << 14
_FIELDS_TRIED = 6
_COMMENT = (b"#", b"%")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_UTF16 = re.compile(rb"\xff\xfe[\t\n\r\x20-\x7e]\0|\xfe\xff\0[\t\n\r\x20-\x7e]")
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|(?i:true|false)")
_BRACKETS = re.compile(rb"\s*[\[(]\s*([^\])]*?)\s*[\])]")


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is text, by its file name or its first line."""
    if _UTF16.match(head):
        return True
    if _CONTROL.search(head):
        return False
    if path.suffix.lower() in (".txt", ".csv"):
        return True
    lines = [line.strip() for line in head.removeprefix(BOM_UTF8).splitlines()[:50]]
    content = next((line for line in lines if line and not line.startswith(_COMMENT)), b"")
    first = split_fields(content, find_delimiter(content))[:1]
    return bool(first and (_NUMBER.fullmatch(first[0]) or _find_names(content)))


def open_source(path: Path, options: ReadOptions) -> TextSource:
    """Find the layout of the lines in a text file.

    Comment lines begin with # or %; a comment after an event begins with #. A line of names gives
    the column order and may give the unit, as in "t[us]". A line of two whole numbers before the
    first event is the width and height of the sensor. What is not stated is inferred from values.

    Raises:
        NotEventsError: The first line with content is not four numbers, or the text is UTF-16.
        DataError: A line that is longer than any line of text, names that do not fit the lines, or
            an ambiguous column order or time unit.
    """
    with path.open("rb") as file:
        head = next(_whole_lines(file, path, _SAMPLE_BYTES), b"")
    if _UTF16.match(head):
        raise NotEventsError(
            "UTF-16 text",
            where=path,
            found=f"first bytes {head[:4].hex(' ')}",
            expected="UTF-8 or ASCII",
            hint="save it as UTF-8",
        )
    start = _find_start(head, options.columns)
    events, stated = head[start.skip :], start.unit
    first = events.partition(b"\n")[0].partition(b"#")[0]
    layout = Layout(start.skip, start.line, find_delimiter(first), (0, 1, 2, 3), whole=False)
    if not events:
        name = options.time_unit or stated or "us"
        return TextSource(path, "text", start.size, {"time unit": name}, layout, name)
    if start.names:
        layout = replace(layout, places=start.names.places)
        _check_names(start.names, layout, events, path)
    else:
        layout = replace(layout, places=_places_by_value(layout, events, options.columns, path))
    t, (x, y, _), _ = layout.parse(events, layout.line)
    if not _has_fractions(t):
        t = replace(layout, whole=True).parse(events, layout.line)[0]
        layout = replace(layout, whole=t.dtype.kind == "i")
    size = path.stat().st_size
    unit = event_time_unit(
        {"t": t, "x": x, "y": y},
        len(t) if len(head) == size else round((size - start.skip) * len(t) / len(events)),
        given=options.time_unit,
        stated=stated,
        size=options.size or start.size,
        where=str(path),
        tail=partial(_last_times, path, layout),
    )
    guessed = unit.choice is not None and unit.name != "s"
    return TextSource(
        path, "text", start.size, {"time unit": unit.name}, layout, unit.name, guessed,
        choices=unit.choices, time_unit=unit,
    )  # fmt: skip


def _last_times(path: Path, layout: Layout) -> np.ndarray:
    """The times in the last lines of the file."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL_BYTES, layout.skip))
        file.readline()
        return layout.parse(file.read(), 0)[0]


class _Names(NamedTuple):
    """Content of a line of column names."""

    places: tuple[int, ...]  # index of t, x, y and p among the names
    total: int  # number of names in the line
    unit: str | None  # in the name of t
    size: tuple[int, int] | None  # (height, width) in those of y and x: "x@640" (aestream/faery)


class _Start(NamedTuple):
    """Content of the lines before the first event."""

    skip: int  # bytes
    line: int  # number of lines
    size: tuple[int, int] | None  # (height, width) if a line states it
    names: _Names | None  # the last line of names
    unit: str | None  # in the last line of names that states one


def _find_start(head: bytes, given: str | None) -> _Start:
    """Read the lines before the first event of a file that begins with `head`.

    `given` are the names or the order of the columns, if the caller states them.
    """
    skip, line = len(head) - len(head.removeprefix(BOM_UTF8)), 0
    size = names = unit = None
    for text in BytesIO(head[skip:]):
        content = text.strip()
        if found := _find_names(content, given):
            names, unit, size = found, found.unit or unit, found.size or size
        elif content and not content.startswith(_COMMENT):
            fields = split_fields(content, find_delimiter(content))
            if len(fields) == 2 and all(map(bytes.isdigit, fields)):
                size = (int(fields[1]), int(fields[0]))
            elif column_letters(given) is None or any(map(_NUMBER.fullmatch, fields)):
                break  # not a line of unknown names, which a given order replaces
        skip += len(text)
        line += 1
    return _Start(skip, line, size, names, unit)


def _find_names(line: bytes, given: str | None = None) -> _Names | None:
    """Parse a line that names t, x, y and p, perhaps after a comment mark or words and a colon."""
    line = line.lstrip(b"#% ").rpartition(b":")[2]
    own = given is not None and column_letters(given) is None  # names of the caller's
    if not own:
        line = _BRACKETS.sub(rb"[\1]", line)
    stated = [decoded(name) for name in split_fields(line, find_delimiter(line))]
    if not own and any(name.count("[") != name.count("]") for name in stated):
        return None
    names = stated if own else [_plain_name(name) for name in stated]
    found = find_columns(names, given)
    if found is None:
        return None
    places = {key: names.index(name) for key, name in found.items()}
    height, width = (_side_in_name(stated[places[key]]) for key in "yx")
    size = (height, width) if height and width else None
    return _Names(tuple(places.values()), len(names), unit_in_name(stated[places["t"]]), size)


def _plain_name(name: str) -> str:
    """The name of a column without size and bracket.

    A time is left whole: its bracket is a unit, or makes it something else, as "t[cycles]" is.
    """
    plain = name.partition("[")[0].partition("@")[0]
    parsed = parse_name(plain)
    return name if parsed and parsed[0] == "t" else plain


def _side_in_name(name: str) -> int | None:
    """Number of pixels in the name of a column, such as "x@640"."""
    side = name.partition("[")[0].partition("@")[2]
    return int(side) if side.isdecimal() else None


def _check_names(names: _Names, layout: Layout, events: bytes, path: Path) -> None:
    """Raise a DataError if no line fits the names: all values would be one column off."""
    lines = (text.partition(b"#")[0] for text in BytesIO(events))
    lengths = (len(split_fields(text, layout.delimiter)) for text in lines)
    if any(max(layout.places) < length <= names.total for length in lengths):
        return
    first = events.partition(b"\n")[0]
    columns = len(split_fields(first, layout.delimiter))
    raise DataError(
        "the names of the columns do not fit the lines",
        where=f"{path}, line {layout.line + 1}",
        found=f"{names.total} names, {columns} columns in {decoded(first)[:80]!r}",
        expected="a name for every column",
        hint="name the column of row numbers too, or write the file without it",
    )


def _places_by_value(
    layout: Layout, events: bytes, given: str | None, path: Path
) -> tuple[int, ...]:
    """Index of t, x, y and p in lines without names; `given` is their order if it is stated."""
    first = events.partition(b"\n")[0]
    fields = split_fields(first.partition(b"#")[0], layout.delimiter)
    check_stated(given, map(decoded, fields), path)
    letters = column_letters(given)
    used = [
        field for field, letter in zip(fields, letters or fields, strict=False) if letter != "-"
    ]
    numbers = all(map(_NUMBER.fullmatch, used))
    if numbers and letters:
        order = column_order(np.empty((0, len(fields))), given, str(path))
    elif numbers and len(fields) == 4:
        tables = _tables(path, layout, events)
        order = column_order(next(tables), None, str(path), tables)
    else:
        raise NotEventsError(
            "text that is not events",
            where=f"{path}, line {layout.line + 1}",
            found=repr(decoded(first)[:80]),
            expected="four numbers a line: time, x, y, polarity, with a point for decimals; "
            "or before them a line of names such as t[us],x,y,p",
            hint=_further_columns(layout, events, len(fields)) if numbers else None,
        )
    return tuple(order.index(name) for name in "txyp")


def _further_columns(layout: Layout, events: bytes, columns: int) -> str | None:
    """How to read lines of more than four numbers: the first four of them that could be events."""
    if columns <= 4:
        return None
    letters = [*"txyp", *"-" * (columns - 4)]
    for places in combinations(range(min(columns, _FIELDS_TRIED)), 4):
        t, others, _ = replace(layout, places=places).parse(events, layout.line)
        table = np.stack([t, *others], axis=1)
        try:
            order = column_order(table, None, "")
        except DataError:
            continue
        if np.ptp(table[:, order.index("t")]) > 0:  # a constant is no time
            found = dict(zip(places, order, strict=True))
            letters = [found.get(place, "-") for place in range(columns)]
            break
    return f'name the four columns that are events: --columns "{" ".join(letters)}"'


def _tables(path: Path, layout: Layout, events: bytes) -> Iterator[np.ndarray]:
    """(K, 4) the fields of the first lines, then those of all lines in the file."""
    with path.open("rb") as file:
        file.seek(layout.skip)
        for lines in chain([events], _whole_lines(file, path, _CHUNK_BYTES)):
            t, others, _ = layout.parse(lines, layout.line)
            yield np.stack([t, *others], axis=1)


@dataclass(frozen=True)
class TextSource(FileSource):
    """Decoder of one text file.

    Args:
        layout: Layout of the lines.
        unit: Time unit.
        guessed: Whether the unit was inferred from time stamps that are whole numbers.
        index: Positions where a read may start, by time.
    """

    layout: Layout
    unit: str
    guessed: bool = False
    index: TimeIndex[tuple[int, int, int]] = field(
        default_factory=TimeIndex, compare=False, repr=False
    )

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """The events from the last recorded position before the range, or from the beginning.

        Raises:
            ConfigError: A time stamp has a fraction although the unit was inferred from whole
                numbers. Leaving the line out would not help: all times may be 10^6 too small.
        """
        begin = (0, self.layout.skip, self.layout.line)
        first, byte, line = self.index.before(start_us, begin)
        with self.path.open("rb") as file:
            file.seek(byte)
            for lines in _whole_lines(file, self.path, _CHUNK_BYTES):
                t, others, flaws = self.layout.parse(lines, line)
                if self.guessed and _has_fractions(t):
                    raise self._unit_error(t[np.floor(t) < t][0], lines, line)
                columns = dict(zip("txyp", (t, *others), strict=True))
                block = to_block(first, columns, self.unit, str(self.path))
                yield replace(block, flaws=(*flaws, *block.flaws))
                first += len(t)
                byte += len(lines)
                line += lines.count(b"\n")
                self.index.note(block.t, first, (first, byte, line))

    def _unit_error(self, time: float, lines: bytes, line: int) -> ConfigError:
        """The error for a time with a fraction in some lines; `line` counts from 0."""
        layout = replace(self.layout, whole=False)
        events = ((at, layout.parse_line(text)) for at, text in enumerate(BytesIO(lines), line))
        at = next((at for at, event in events if event and event[0] == time), line)
        return ConfigError(
            "the time unit must be given",
            where=f"{self.path}, line {at + 1}",
            found=f"time {time} after lines with whole numbers, which were taken for {self.unit}",
            expected="only whole numbers",
            hint="give the time unit: s, ms, us or ns",
        )


def _has_fractions(t: np.ndarray) -> bool:
    """Whether some time stamps are not whole numbers."""
    return t.dtype.kind == "f" and bool((np.floor(t) < t).any())


def _whole_lines(file: BinaryIO, path: Path, size: int) -> Iterator[bytes]:
    """The rest of the file in pieces of about `size` bytes that end at the end of a line."""
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
