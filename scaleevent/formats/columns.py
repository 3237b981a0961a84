"""Convert stored columns to the `Events` layout: names, order, time unit, pixels, polarity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
"""Known names of the four columns, in lower case."""

MICROSECONDS_PER = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
"""Microseconds per time unit, for the units a user can give."""

_FACTORS = {"s": 1_000_000, "ms": 1000}  # the same as integers, where that is exact

SAMPLE = 1 << 16  # number of events that are examined to find the column order and the time unit

_MAX_BACKWARD = 0.05  # fraction of backward steps in time that jitter may explain

_EPOCH_S = (0.8e9, 4.1e9)  # 1995 to 2099 in seconds since 1970

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


def find_columns(names: Iterable[str]) -> dict[str, str] | None:
    """Map t, x, y and p to their names; None if a column is missing or has several names."""
    found = {}
    names = list(names)
    for column, aliases in ALIASES.items():
        hits = [name for name in names if name.lower() in aliases]
        if len(hits) != 1:
            return None
        found[column] = hits[0]
    return found


def column_order(sample: np.ndarray, given: str | None, where: str) -> str:
    """Order of the four columns of a table, such as "txyp": the given one, or inferred from values.

    Polarity has only the values -1, 0 and 1. Pixels are whole and not negative, and x precedes y.
    Time is the only column with fractions, or otherwise one that rarely steps backwards.

    Args:
        sample: (K, 4) first rows of the table.
        given: The order that the caller states, if any.
        where: The file, for error messages.

    Raises:
        DataError: No order fits the values, or several do.
    """
    if given is not None:
        return given
    sample = sample.astype(np.float64, copy=False)
    whole = (sample == np.floor(sample)).all(axis=0)
    pixel = whole & (sample >= 0).all(axis=0)
    polarity = np.isin(sample, (-1, 0, 1)).all(axis=0)
    time = (np.diff(sample, axis=0) < 0).sum(axis=0) <= _MAX_BACKWARD * len(sample)
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
    """Unit of stored time stamps: the given one, or inferred from their type and range.

    Fractions are seconds. Whole numbers are microseconds, or nanoseconds if only these give a date
    between 1995 and 2099.

    Args:
        sample: (K,) some stored time stamps.
        given: The unit that the caller states, if any.
        where: The file, for error messages.

    Raises:
        DataError: The values fit no unit, or several.
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
