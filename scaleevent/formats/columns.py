"""From columns as people store them to ours: names, order, time unit, pixels, polarity."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations

import numpy as np

from scaleevent.errors import DataError
from scaleevent.formats.source import Flaw, RawBlock

ALIASES = {
    "t": ("t", "ts", "time", "times", "timestamp", "timestamps", "t_us"),
    "x": ("x", "xs", "x_pos", "pos_x"),
    "y": ("y", "ys", "y_pos", "pos_y"),
    "p": ("p", "ps", "pol", "polarity", "polarities", "on"),
}
"""Names seen for the four columns, lower case."""

MICROSECONDS_PER = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
"""Time units a user can name."""

_FACTORS = {"s": 1_000_000, "ms": 1000}

SAMPLE = 1 << 16
"""Events looked at to find the column order and the time unit."""

_MOST_BACKWARD = 0.05  # share of steps back in time that jitter may explain

_EPOCH_S = (0.8e9, 4.1e9)  # 1995 to 2099 in seconds since 1970


def find_columns(names: Iterable[str]) -> dict[str, str] | None:
    """The names that stand for t, x, y and p, or None when one is missing or doubled."""
    found = {}
    names = list(names)
    for column, aliases in ALIASES.items():
        hits = [name for name in names if name.lower() in aliases]
        if len(hits) != 1:
            return None
        found[column] = hits[0]
    return found


def column_order(sample: np.ndarray, given: str | None, where: str) -> str:
    """Order of the four columns of a table, such as "txyp": the one given, else by its values.

    Polarity takes only the values -1, 0, 1; pixels are whole and not negative, x before y; time is
    the one column with fractions, or else one that rarely steps back.

    Args:
        sample: (K, 4) the first rows.
        given: What the caller knows.
        where: The file, for the message.

    Raises:
        DataError: No order fits, or several do.
    """
    if given is not None:
        return given
    sample = sample.astype(np.float64, copy=False)
    whole = (sample == np.floor(sample)).all(axis=0)
    pixel = whole & (sample >= 0).all(axis=0)
    polarity = np.isin(sample, (-1, 0, 1)).all(axis=0)
    time = (np.diff(sample, axis=0) < 0).sum(axis=0) <= _MOST_BACKWARD * len(sample)
    if np.count_nonzero(~whole) == 1:
        time = ~whole
    allowed = {"t": time, "x": pixel, "y": pixel, "p": polarity}
    fits = [
        "".join(order)
        for order in permutations("txyp")
        if order.index("x") < order.index("y")
        and all(allowed[name][place] for place, name in enumerate(order))
    ]
    if len(sample) and len(fits) == 1:
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


def find_time_unit(sample: np.ndarray, given: str | None, where: str) -> str:
    """Unit of raw time stamps: the one given, else the one their type and range allow.

    Fractions are seconds. Whole numbers are microseconds, or nanoseconds where only these give a
    date between 1995 and 2099.

    Raises:
        DataError: The values fit no unit or several.
    """
    if given is not None:
        return given
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        return "us"
    low, high = float(sample.min()), float(sample.max())
    span = max(abs(low), abs(high))
    fractions = sample.dtype.kind == "f" and bool((sample != np.floor(sample)).any())
    if fractions and span < _EPOCH_S[1]:
        return "s"
    stored_as_whole = sample.dtype.kind in "iu" or span >= 1e5 or span == 0
    if not fractions and stored_as_whole:
        if span < _EPOCH_S[1] * 1e6:
            return "us"
        if _EPOCH_S[0] * 1e9 <= span < _EPOCH_S[1] * 1e9:
            return "ns"
    raise DataError(
        "the time unit is ambiguous",
        where=where,
        found=f"time stamps from {low:.9g} to {high:.9g}, {sample.dtype}",
        hint="give the time unit: s, ms, us or ns",
    )


def to_microseconds(
    t: np.ndarray, unit: str, first: int, where: str, offset: int = 0
) -> np.ndarray:
    """int64 microseconds; seconds and milliseconds rounded to nearest, nanoseconds floored.

    Args:
        t: Stored time stamps, integers or floats.
        unit: Theirs.
        first: Position of the first in the recording, for the message.
        where: The file, for the message.
        offset: Whole microseconds to add.

    Raises:
        DataError: A time stamp that is no number, or too large.
    """
    wrong = _beyond_time(t, unit)
    if wrong is not None:
        bad = int(np.argmax(wrong))
        raise DataError(
            "time stamp out of range", where=f"{where}, event {first + bad}", found=t[bad]
        )
    return _microseconds(t, unit, offset)


def to_block(
    first: int,
    t: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    p: np.ndarray,
    unit: str,
    where: str,
    offset: int = 0,
) -> RawBlock:
    """A raw block from stored columns of any numeric type; events that cannot be are left out.

    Args:
        first: Position of the first event in the recording.
        t: (K,) time stamps in `unit`.
        x: (K,) columns.
        y: (K,) rows.
        p: (K,) polarities: 0 and 1, -1 and +1, or bool.
        unit: s, ms, us or ns.
        where: The file, for the message.
        offset: Whole microseconds to add to the times.

    Returns:
        The events, with a flaw for every kind of value that no event can have, and their number
        under `dropped`: times that are no numbers or too large, pixels that are not whole,
        polarities of a third kind.

    Raises:
        DataError: A column that is not numeric.
    """
    stored = {"t": t, "x": x, "y": y, "p": p}
    for name, column in stored.items():
        if column.dtype.kind not in ("iufb" if name == "p" else "iuf"):
            raise DataError(f"column {name} is not numeric", where=where, found=column.dtype)
    if p.dtype == bool:
        stored["p"] = p.view(np.uint8)  # a damaged file may hold other bytes than 0 and 1
    wrong = {
        "t": _beyond_time(t, unit),
        "x": _not_whole(x),
        "y": _not_whole(y),
        "p": _third_polarity(stored["p"]),
    }
    flaws, dropped = [], {}
    if any(mask is not None for mask in wrong.values()):
        good = np.ones(len(t), bool)
        for name, mask in wrong.items():
            bad = good & (False if mask is None else mask)
            if number := int(np.count_nonzero(bad)):
                at = int(np.argmax(bad))
                what, expected, hint = _WRONG[name]
                found = f"{name} = {stored[name][at]}; {number} such events in {len(t)}"
                flaws.append(Flaw(what, f"event {first + at}", found, expected, hint, number))
                dropped[what] = dropped.get(what, 0) + number
                good &= ~bad
        stored = {name: column[good] for name, column in stored.items()}
    return RawBlock(
        first,
        _microseconds(stored["t"], unit, offset),
        *(_whole(stored[name]) for name in "xy"),
        _polarity(stored["p"]),
        dropped,
        flaws=tuple(flaws),
    )


_PIXELS = (
    "pixel coordinates are not whole numbers",
    "raw sensor pixels",
    "these events were undistorted or rescaled: use the original recording",
)
_WRONG = {  # what it is, what was expected, what to do
    "t": ("time stamp out of range", None, "give the time unit, or the file is damaged"),
    "x": _PIXELS,
    "y": _PIXELS,
    "p": ("polarity out of range", "0 and 1, or -1 and +1", None),
}


def _beyond_time(t: np.ndarray, unit: str) -> np.ndarray | None:
    """(K,) bool, time stamps that are no numbers or do not fit 62 bits of us; None without any."""
    if t.dtype.kind == "f":
        fits = np.abs(t.astype(np.float64, copy=False)) < 2.0**62 / MICROSECONDS_PER[unit]
        return None if fits.all() else ~fits  # NaN fails the comparison too
    limit = 2**62 // _FACTORS.get(unit, 1)
    if not len(t) or t.dtype.itemsize <= 4 or -limit <= int(t.min()) and int(t.max()) <= limit:
        return None
    beyond = t > limit
    return beyond | (t < -limit) if t.dtype.kind == "i" else beyond


def _microseconds(t: np.ndarray, unit: str, offset: int) -> np.ndarray:
    """int64 microseconds from stamps that fit."""
    if t.dtype.kind == "f":
        t = t.astype(np.float64, copy=False) * MICROSECONDS_PER[unit]
        t = (np.floor(t) if unit == "ns" else np.rint(t)).astype(np.int64)
    elif unit == "us" and offset:
        return np.add(t, offset, dtype=np.int64)
    else:
        t = t.astype(np.int64, copy=False)
        factor = _FACTORS.get(unit, 1)
        t = t // 1000 if unit == "ns" else t * factor if factor > 1 else t
    return t + offset if offset else t


def _not_whole(column: np.ndarray) -> np.ndarray | None:
    """(K,) bool, pixel coordinates with fractions or beyond any sensor; None without any."""
    if column.dtype.kind in "iu":
        return None
    with np.errstate(invalid="ignore"):
        wrong = column.astype(np.int32) != column
    return wrong if wrong.any() else None


def _whole(column: np.ndarray) -> np.ndarray:
    """Whole pixel coordinates as integers."""
    return column if column.dtype.kind in "iu" else column.astype(np.int32)


def _third_polarity(p: np.ndarray) -> np.ndarray | None:
    """(K,) bool, polarities beside +1 and the more frequent of 0 and -1; None without any."""
    if p.dtype == np.uint8 and (not len(p) or p.max() <= 1):
        return None
    minus, zero = p == -1, p == 0
    off = minus if np.count_nonzero(minus) > np.count_nonzero(zero) else zero
    wrong = (p != 1) & ~off
    return wrong if wrong.any() else None


def _polarity(p: np.ndarray) -> np.ndarray:
    """uint8 polarity, 1 = brighter, from 0/1 or -1/+1."""
    good = p.dtype == np.uint8 and (not len(p) or p.max() <= 1)
    return p if good else (p == 1).view(np.uint8)
