"""Convert stored columns to the `Events` layout: names, order, time, pixels, polarity."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, permutations
from typing import ClassVar

import numpy as np

from scaleevent.errors import ConfigError, DataError
from scaleevent.formats.source import FileSource, Flaw, RawBlock, TimeIndex, errors_as_damage

ALIASES = {
    "t": ("t", "ts", "time", "times", "timestamp", "timestamps"),
    "x": ("x", "xs", "x_pos", "pos_x"),
    "y": ("y", "ys", "y_pos", "pos_y"),
    "p": ("p", "ps", "pol", "polarity", "polarities", "on"),
}
"""Known names of the four columns, in lower case."""

MICROSECONDS_PER = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
"""Microseconds per time unit, for the units a user can give."""

_UNIT_NAMES = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "ms": ("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"),
    "us": ("us", "usec", "usecs", "micros", "microsecond", "microseconds"),
    "ns": ("ns", "nsec", "nsecs", "nanos", "nanosecond", "nanoseconds"),
}
_MICRO = re.compile("[\u00b5\u03bc]")  # the micro sign and the Greek letter mu
_CAMEL = re.compile("(?<=[a-z0-9])(?=[A-Z])")

_FACTORS = {"s": 1_000_000, "ms": 1000}  # the same as integers, where that is exact

SAMPLE = 1 << 16  # events that are examined first to find the column order and the time unit

_MAX_BACKWARD = 0.05  # fraction of backward steps in time that jitter may explain

_STRETCH, _RESETS = 1 << 12, 20  # rows, and backward steps in them that count as none

_MOST_COLUMNS = 16

_PIXELS = (
    "pixel coordinates are not whole numbers",
    "raw sensor pixels",
    "these events were undistorted or rescaled: use the original recording",
)
_INVALID = {  # for each column: the problem, what was expected, and what to do
    "t": ("time stamp out of range", None, "give the time unit, or the file is damaged"),
    "x": _PIXELS,
    "y": _PIXELS,
    "p": ("polarity out of range", "0 and 1, or -1 and +1", None),
}


def parse_columns(given: str) -> str | dict[str, str]:
    """What a user says of the columns: their order, or their names.

    Args:
        given: The letters t, x, y, p in the order of the columns and - for every other column,
            with or without blanks between them: "txyp", "t x y p -"; or names: "t=stamp x=col
            y=row p=sign", each in quotes if it contains blanks.

    Returns:
        The letters without blanks, or the names by letter.

    Raises:
        ConfigError: Neither.
    """
    try:
        split = shlex.shlex(given, posix=True)
        split.whitespace, split.whitespace_split, split.commenters = " ,\t\n", True, ""
        words = list(split)
    except ValueError:  # an open quote
        words = [given]
    letters = "".join(words)
    if sorted(letters.replace("-", "")) == sorted("txyp") and len(letters) <= _MOST_COLUMNS:
        return letters
    pairs = [word.partition("=")[::2] for word in words]
    names = dict(pairs)
    if len(pairs) == len(set(names.values())) == 4 and sorted(names) == sorted("txyp"):
        if all(names.values()):
            return names
    raise ConfigError(
        "neither an order of four columns nor their names",
        where="columns",
        found=given,
        expected="the letters t, x, y, p, each once, and - for every other column, such as txyp "
        'or "t x y p -"; or names, such as "t=stamp x=col y=row p=sign"',
    )


def column_letters(given: str | None) -> str | None:
    """The order of the columns of a table, if `given` states one; see `parse_columns`."""
    stated = None if given is None else parse_columns(given)
    return stated if isinstance(stated, str) else None


def find_columns(names: Iterable[str], given: str | None = None) -> dict[str, str] | None:
    """Map t, x, y and p to their names; None if a column is missing or has several names.

    Known names count in any case, with a unit of time, and with anything that all four share:
    "events_x" or "xEvent". Names that the caller states come first, and alone if they are stated.
    """
    names = list(names)
    stated = None if given is None else parse_columns(given)
    if isinstance(stated, dict):
        return stated if set(stated.values()) <= set(names) else None
    found: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name in names:
        if parsed := parse_name(name):
            column, rest = parsed
            found.setdefault(rest, {}).setdefault(column, []).append(name)
    whole = [
        {column: hits[column][0] for column in "txyp"}
        for _, hits in sorted(found.items())  # names that share nothing come first
        if len(hits) == 4 and all(len(each) == 1 for each in hits.values())
    ]
    return whole[0] if whole and (len(whole) == 1 or () in found and len(found[()]) == 4) else None


def check_stated(given: str | None, there: Iterable[str], where: object) -> None:
    """Refuse names of columns that the caller states, in a file where they were not found.

    Raises:
        ConfigError: Names are stated; it lists those in the file.
    """
    stated = None if given is None else parse_columns(given)
    if isinstance(stated, dict):
        raise ConfigError(
            "the file has no columns of these names",
            where=f"{where}, --columns",
            found=", ".join(list(there)[:16]) or "none",
            expected=", ".join(f"{name} ({column})" for column, name in stated.items()),
        )


def unit_in_name(name: str) -> str | None:
    """Unit of time at the end of a column's name: "t[us]", "timestamps_ns"."""
    words = _words(name)
    return unit_named(words[-1]) if len(words) > 1 else None


def unit_named(text: str) -> str | None:
    """The unit of time that a word stands for, such as "us" or "microseconds"."""
    word = _MICRO.sub("u", text.strip().lower())
    return next((unit for unit, words in _UNIT_NAMES.items() if word in words), None)


def parse_name(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Which of t, x, y, p a name stands for, and its other words; None if for none or several.

    The unit of a time is no other word.
    """
    words = _words(name)
    for column, aliases in ALIASES.items():
        if "_".join(words) in aliases or "".join(words) in aliases:  # "TimeStamp" too
            return column, ()
    hits = [(at, c) for at, word in enumerate(words) for c in ALIASES if word in ALIASES[c]]
    if len(hits) != 1:
        return None
    at, column = hits[0]
    if column == "t" and at < len(words) - 1 and unit_named(words[-1]):
        words.pop()
    return column, (*words[:at], *words[at + 1 :])


def _words(name: str) -> list[str]:
    """The words of a name such as "events_t", "t [us]" or "eventsT", in lower case."""
    return [word for word in re.split(r"[\W_]+", _CAMEL.sub("_", name).lower()) if word]


def column_order(
    sample: np.ndarray, given: str | None, where: str, more: Iterable[np.ndarray] = ()
) -> str:
    """Order of the columns of a table, such as "txyp": the given one, or inferred from values.

    Polarity has only the values -1, 0 and 1. Pixels are whole and not negative, and x precedes y.
    Time is the only column with fractions, or otherwise one that rarely steps backwards.

    Args:
        sample: (K, C) first rows of the table; C is 4 unless an order is given.
        given: The order or the names that the caller states, if any; see `parse_columns`.
        where: The file, for error messages.
        more: (K, C) further rows, read only as far as needed: while several orders fit.

    Returns:
        C letters, - for columns that are not used.

    Raises:
        ConfigError: The given order has another number of columns.
        DataError: No order fits the values, or several do.
    """
    letters = column_letters(given)
    if letters is not None:
        if len(letters) != sample.shape[1]:
            raise ConfigError(
                "the order given is of another number of columns",
                where=f"{where}, --columns",
                found=f"{given}, {len(letters)} columns",
                expected=f"{sample.shape[1]} columns",
            )
        return letters
    seen = _Values()
    fits: list[str] = []
    for table in chain([sample], more):
        seen.add(table)
        fits = seen.orders()
        if len(fits) < 2:
            break
    if seen.rows and len(fits) == 1:
        return fits[0]
    first = ", ".join(f"{value:g}" for value in sample[0]) if len(sample) else "no rows"
    raise DataError(
        "cannot tell which column is time, x, y and polarity",
        where=where,
        found=f"{'orders ' + ', '.join(sorted(fits)) if fits else 'no order'} would fit; "
        f"first row {first}",
        expected="four columns: ascending time, whole pixels x and y, polarity 0/1 or -1/+1",
        hint="give the order, such as --columns txyp; undistorted events with fractions of pixels "
        "are not read",
    )


class _Values:
    """What the values of four columns have shown so far."""

    def __init__(self) -> None:
        self.rows = 0
        self.whole, self.pixel, self.polarity, self.time = np.ones((4, 4), bool)

    def add(self, table: np.ndarray) -> None:
        """Take (K, 4) further rows into account; after the first, each stretch of them counts."""
        table = table.astype(np.float64, copy=False)
        whole = (table == np.floor(table)).all(axis=0)
        self.whole &= whole
        self.pixel &= whole & (table >= 0).all(axis=0)
        self.polarity &= np.isin(table, (-1, 0, 1)).all(axis=0)
        length = _STRETCH if self.rows else max(len(table), 1)
        slack = _RESETS if self.rows else 0
        for at in range(0, len(table), length):
            part = table[at : at + length]
            backward = (np.diff(part, axis=0) < 0).sum(axis=0)
            self.time &= backward <= _MAX_BACKWARD * len(part) + slack
        self.rows += len(table)

    def orders(self) -> list[str]:
        """All orders of t, x, y and p that fit the values."""
        time = ~self.whole if np.count_nonzero(~self.whole) == 1 else self.time
        allowed = {"t": time, "x": self.pixel, "y": self.pixel, "p": self.polarity}
        return [
            "".join(order)
            for order in permutations("txyp")
            if order.index("x") < order.index("y")
            and all(allowed[name][place] for place, name in enumerate(order))
        ]


def to_microseconds(
    t: np.ndarray, unit: str, first: int, where: str, offset: int = 0
) -> np.ndarray:
    """Convert to int64 microseconds; s and ms are rounded to nearest, ns are rounded down.

    Args:
        t: Stored time stamps, integers or floats.
        unit: Unit of the time stamps: s, ms, us or ns.
        first: Index of the first event in the recording, for error messages.
        where: The file, for error messages.
        offset: Whole microseconds to add.

    Raises:
        DataError: A time stamp is not a number, or is too large.
    """
    invalid = _invalid_times(t, unit)
    if invalid is not None:
        bad = int(np.argmax(invalid))
        raise DataError(
            "time stamp out of range", where=f"{where}, event {first + bad}", found=t[bad]
        )
    return _microseconds(t, unit, offset)


def to_block(
    first: int, stored: Mapping[str, np.ndarray], unit: str, where: str, offset: int = 0
) -> RawBlock:
    """A raw block from stored columns of any numeric type, without the invalid events.

    Args:
        first: Index of the first event in the recording.
        stored: (K,) time stamps in `unit`, columns, rows, and polarities (0 and 1, -1 and +1, or
            bool) under the keys t, x, y and p.
        unit: s, ms, us or ns.
        where: The file, for error messages.
        offset: Whole microseconds to add to the times.

    Returns:
        The valid events, with one flaw for every kind of invalid value and the number of events
        left out under `dropped`. Invalid are times that are not numbers or too large, pixels that
        are not whole, and polarities of a third kind.

    Raises:
        DataError: A column is not numeric.
    """
    t, x, y, p = (stored[name] for name in "txyp")
    for name, column in stored.items():
        if column.dtype.kind not in ("iufb" if name == "p" else "iuf"):
            raise DataError(f"column {name} is not numeric", where=where, found=column.dtype)
    if p.dtype == bool:
        p = p.view(np.uint8)  # a damaged file may contain other bytes than 0 and 1
    invalid = {
        "t": _invalid_times(t, unit),
        "x": _invalid_pixels(x),
        "y": _invalid_pixels(y),
        "p": _invalid_polarities(p),
    }
    flaws: list[Flaw] = []
    dropped: dict[str, int] = {}
    if any(mask is not None for mask in invalid.values()):
        good = np.ones(len(t), bool)
        for name, mask in invalid.items():
            bad = good & (False if mask is None else mask)
            if count := int(np.count_nonzero(bad)):
                at = int(np.argmax(bad))
                what, expected, hint = _INVALID[name]
                value = (p if name == "p" else stored[name])[at]
                found = f"{name} = {value}; {count} such events in {len(t)}"
                flaws.append(Flaw(what, f"event {first + at}", found, expected, hint, count))
                dropped[what] = dropped.get(what, 0) + count
                good &= ~bad
        t, x, y, p = t[good], x[good], y[good], p[good]
    t = _microseconds(t, unit, offset)
    x, y = (pixel if pixel.dtype.kind in "iu" else pixel.astype(np.int32) for pixel in (x, y))
    return RawBlock(first, t, x, y, _binary(p), dropped, flaws=tuple(flaws))


@dataclass(frozen=True)
class TableSource(FileSource):
    """Events in columns of a known length, which a subclass reads from any event on.

    Args:
        length: Number of events.
        unit: Unit of the stored times.
        index: Events where a read may start, by time.
    """

    noun: ClassVar[str]  # of such files, for errors

    length: int
    unit: str
    index: TimeIndex[int] = field(default_factory=TimeIndex, compare=False, repr=False)

    def stored(self, first: int) -> Iterator[dict[str, np.ndarray]]:
        """The stored values of all events from one on, in blocks; see `to_block`."""
        raise NotImplementedError

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """The events from the last recorded position before the range, or from the beginning."""
        first = self.index.before(start_us, 0)
        with errors_as_damage(self.noun, self.path):
            for stored in self.stored(first):
                block = to_block(first, stored, self.unit, str(self.path))
                yield block
                first += len(stored["t"])
                self.index.note(block.t, first, first)

    def total(self) -> int:
        """Number of events."""
        return self.length


def _invalid_times(t: np.ndarray, unit: str) -> np.ndarray | None:
    """Mask of times that are not numbers or do not fit 62 bits of us; None if all are valid."""
    if t.dtype.kind == "f":
        fits = np.abs(t.astype(np.float64, copy=False)) < 2.0**62 / MICROSECONDS_PER[unit]
        return None if fits.all() else ~fits  # NaN fails the comparison too
    limit = 2**62 // _FACTORS.get(unit, 1)
    if not len(t) or t.dtype.itemsize <= 4 or -limit <= int(t.min()) and int(t.max()) <= limit:
        return None
    return np.asarray((t > limit) | (t < -limit) if t.dtype.kind == "i" else t > limit)


def _microseconds(t: np.ndarray, unit: str, offset: int) -> np.ndarray:
    """Convert valid time stamps to int64 microseconds."""
    if t.dtype.kind == "f":
        t = t.astype(np.float64, copy=False) * MICROSECONDS_PER[unit]
        t = (np.floor(t) if unit == "ns" else np.rint(t)).astype(np.int64)
    elif unit == "us" and offset:
        return np.asarray(np.add(t, offset, dtype=np.int64))
    else:
        t = t.astype(np.int64, copy=False)
        factor = _FACTORS.get(unit, 1)
        t = t // 1000 if unit == "ns" else t * factor if factor > 1 else t
    return t + offset if offset else t


def _invalid_pixels(column: np.ndarray) -> np.ndarray | None:
    """Mask of coordinates with fractions or beyond any sensor; None if all are valid."""
    if column.dtype.kind in "iu":
        return None
    with np.errstate(invalid="ignore"):
        invalid = column.astype(np.int32) != column
    return invalid if invalid.any() else None


def _invalid_polarities(p: np.ndarray) -> np.ndarray | None:
    """Mask of polarities other than +1 and the more frequent of 0 and -1; None if all are valid."""
    if p.dtype == np.uint8 and (not len(p) or p.max() <= 1):
        return None
    minus, zero = p == -1, p == 0
    off = minus if np.count_nonzero(minus) > np.count_nonzero(zero) else zero
    invalid = (p != 1) & ~off
    return invalid if invalid.any() else None


def _binary(p: np.ndarray) -> np.ndarray:
    """Convert polarities 0/1 or -1/+1 to uint8, 1 = brighter."""
    good = p.dtype == np.uint8 and (not len(p) or p.max() <= 1)
    return p if good else (p == 1).view(np.uint8)
