"""The unit of stored times: as stated, or the usual one, if what it would mean is possible.

A unit is judged by the date it gives, by the grid of the stamps, and by the rate and duration it
implies. `ms` is never assumed, and doubt is an error that shows what each unit would mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scaleevent.errors import DataError
from scaleevent.formats.columns import MICROSECONDS_PER
from scaleevent.formats.source import TimeUnit

TAIL = 1 << 10
"""Number of stamps at the end of a recording that show when it ends."""

LONGEST_S = 86_400.0
"""Longest plausible recording."""

_STEPS = (100, 20)  # stamps, and changes among them, that show a grid
_FEWEST_PIXELS = 32 * 32  # of a sensor, or of a part of one that people cut out
_TYPICAL_PIXELS = 180 * 240  # where no event shows any
_LARGEST_SIDE = 2048  # coordinates beyond are damage
_EPOCH_S = (0.8e9, 4.1e9)  # 1995 to 2099 in seconds since 1970
_COARSEST_S = 1.1e-3  # step of the clock of a camera or a file
_SMALL = 1e5  # whole numbers stored as floats say nothing about their unit below this


class _Kind(NamedTuple):
    """What has times, and which rates of it are plausible."""

    noun: str
    per_second: str
    quantity: str
    flag: str
    slowest: float  # per second, and for events per pixel
    fastest: float  # excluded
    some: int  # number that shows a rate that is too high
    many: int  # number that shows a rate that is too low


_EVENTS = _Kind("event", "ev/s", "time unit", "--time-unit", 0.005, 500, 100, 1000)
"""Real recordings have 0.44 to 186 events per pixel and second, those of still scenes fewer."""

_FRAMES = _Kind("frame", "fps", "unit of the frame times", "--frame-time-unit", 0.1, 10_000, 2, 2)


@dataclass(frozen=True)
class _Stamps:
    """What stored times tell, in their own unit.

    Args:
        kind: Events or frames.
        low: Smallest stamp.
        high: Largest absolute stamp.
        stored: Type of the stamps.
        fractions: Whether they are not whole numbers.
        grid: Largest of 1000, 1, 1e-3 and 1e-6 that all stamps are multiples of; None: of
            none, or it does not tell.
        duration: From the first to the last.
        count: Number of events or frames in this time.
        rate: Events per pixel, or frames, per unit; None where `duration` is zero.
        about: Whether the duration is an estimate.
    """

    kind: _Kind
    low: float
    high: float
    stored: np.dtype
    fractions: bool
    grid: float | None
    duration: float
    count: int
    rate: float | None
    about: bool = False

    @property
    def usual(self) -> str:
        """Seconds for fractions, else microseconds, or nanoseconds where only these give a date."""
        if self.fractions:
            return "s"
        return "ns" if self._dates("ns") else "us"

    @property
    def by_date(self) -> str | None:
        """The unit in which the stamps are dates between 1995 and 2099; never whole seconds."""
        units = [u for u in MICROSECONDS_PER if self._dates(u) and (self.fractions or u != "s")]
        return units[0] if units else None

    @property
    def by_grid(self) -> str | None:
        """The unit in which the grid is that of a clock of microseconds."""
        units = (u for u in MICROSECONDS_PER if self.grid and _close(self.grid * _seconds(u), 1e-6))
        return next(units, None)

    @property
    def possible(self) -> tuple[str, ...]:
        """The units that nothing excludes."""
        return tuple(unit for unit in MICROSECONDS_PER if self._is_possible(unit))

    def _is_possible(self, unit: str) -> bool:
        second = 1 / _seconds(unit)
        if self.duration > LONGEST_S * second or self.high >= _EPOCH_S[1] * second:
            return False
        if self.grid and self.grid / second > _COARSEST_S:
            return False
        if self.rate is None:
            return True
        kind, rate = self.kind, self.rate * second
        too_fast = rate >= kind.fastest and self.count >= kind.some
        return not too_fast and not (rate < kind.slowest and self.count >= kind.many)

    def _dates(self, unit: str) -> bool:
        return _EPOCH_S[0] <= self.high * _seconds(unit) < _EPOCH_S[1]

    def meaning(self, unit: str) -> str:
        """Duration and rate in a unit, for people."""
        noun, seconds = self.kind.noun, self.duration * _seconds(unit)
        if self.rate is None:
            return f"{self.count:,} {noun}s at one time"
        about = "about " if self.about else ""
        rate = _quantity(self.count / seconds) + self.kind.per_second
        return f"{about}{duration_text(seconds)}, {rate}"


def event_time_unit(
    first: Mapping[str, np.ndarray],
    total: int,
    *,
    given: str | None,
    stated: str | None,
    size: tuple[int, int] | None,
    where: str,
    tail: Callable[[], np.ndarray] | None = None,
    costly: bool = False,
) -> TimeUnit:
    """The unit of the stored times of a recording.

    Args:
        first: (K,) stored t, x and y of the first events.
        total: Number of events in the recording, at least about.
        given: The unit that the caller states, if any.
        stated: The unit that the format or a name in the file states, if any.
        size: (height, width) of the sensor, if it is known.
        where: The file, for error messages.
        tail: Reads some of the last stored times.
        costly: Whether `tail` reads much; it is then called only before an error.

    Raises:
        DataError: The usual unit is not plausible, or there is evidence for another one; the error
            shows what each unit would mean.
    """
    known = given or stated
    if known is not None:
        return TimeUnit(known)
    if any(first[name].dtype.kind not in "iuf" for name in "txy"):
        return TimeUnit("us")  # no events at all, as reading them will show
    known_end = total <= len(first["t"])
    last = None if known_end or tail is None or costly else tail()
    pixels = _pixels(first["x"], first["y"], size)
    try:
        return _judged(_event_stamps(first["t"], last, total, pixels), where)
    except DataError:
        if known_end or tail is None or not costly:
            raise
    return _judged(_event_stamps(first["t"], tail(), total, pixels), where)


def frame_time_unit(t: np.ndarray, given: str | None, where: str) -> TimeUnit:
    """The unit of the stored times (K,) of frames.

    Raises:
        DataError: The usual unit is not plausible; the error shows what each unit would mean.
    """
    if given is not None:
        return TimeUnit(given)
    values = t.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    steps = np.diff(np.sort(values))
    step = float(np.median(steps)) if len(steps) else 0.0
    fractions = bool((values != np.floor(values)).any())
    rate = 1 / step if step else None
    stamps = _Stamps(
        _FRAMES, low, max(high, -low), t.dtype, fractions, None, high - low, len(t), rate
    )
    return _judged(stamps, where)


def _judged(stamps: _Stamps, where: str) -> TimeUnit:
    """The usual unit, if it is possible and nothing is evidence for another one."""
    usual, possible, kind = stamps.usual, stamps.possible, stamps.kind
    dated = stamps.by_date == usual
    doubt = False
    if not dated and possible != (usual,):
        doubt = stamps.by_grid not in (None, usual) or stamps.by_date in possible
        whole_floats = stamps.stored.kind == "f" and not stamps.fractions
        doubt |= kind is _EVENTS and whole_floats and 0 < stamps.high < _SMALL
    if doubt or usual not in possible:
        raise _ambiguous(stamps, where)
    why = "usual for " + ("fractions" if stamps.fractions else "whole numbers")
    if dated:
        why = "by its date"
    elif usual == "s" == stamps.by_grid:
        why = "by its steps"
    elif stamps.rate is not None and stamps.count >= kind.some:
        why = "by the rate it implies"
    others = " and ".join(unit for unit in possible if unit != usual)
    way = f"{others} would fit too: {kind.flag}" if others else f"another with {kind.flag}"
    choice = f"{kind.quantity} {usual}, {why}: {stamps.meaning(usual)}; {way}"
    factor = MICROSECONDS_PER[usual]
    span = None
    if not stamps.about:
        span = round(stamps.low * factor), round((stamps.low + stamps.duration) * factor)
    return TimeUnit(usual, tuple(unit for unit in possible if unit != usual), choice, span)


def _ambiguous(stamps: _Stamps, where: str) -> DataError:
    """The error that shows what each unit would mean."""
    possible, kind = stamps.possible, stamps.kind
    rows = [
        f"\n    {unit:>2}: {stamps.meaning(unit)}{'' if unit in possible else ', not plausible'}"
        for unit in MICROSECONDS_PER
    ]
    hint = f"give the time unit: {kind.flag} s, ms, us or ns"
    if not possible and kind is _EVENTS:
        hint += "; or another column may be the time: --columns"
    return DataError(
        f"the {kind.quantity} is ambiguous",
        where=where,
        found=f"time stamps from {stamps.low:.9g} to {stamps.high:.9g}, {stamps.stored}; read as"
        + "".join(rows),
        hint=hint,
    )


def _event_stamps(first: np.ndarray, last: np.ndarray | None, total: int, pixels: int) -> _Stamps:
    """Measure the times of events, passing over stamps that their neighbours contradict."""
    t = _settled(first)
    if not len(t):
        return _Stamps(_EVENTS, 0, 0, first.dtype, False, None, 0, total, None)
    low, high = float(t.min()), float(t.max())
    seen, end, whole = len(t), high, total <= len(first)
    if last is not None and not whole:
        late = _settled(last)
        if len(late) and late.max() >= high:  # else the clock was reset in between
            seen, end, whole = total, float(late.max()), True
    rate = (seen - 1) / (end - low) if end > low else None
    count = max(total, len(t))
    duration = (count - 1) / rate if rate else 0.0
    latest = max(abs(low), abs(low + duration))
    fractions = t.dtype.kind == "f" and bool((t != np.floor(t)).any())
    per_pixel = rate / pixels if rate else None
    about = not whole and rate is not None
    return _Stamps(
        _EVENTS, low, latest, first.dtype, fractions, _grid(t), duration, count, per_pixel, about
    )


def _settled(stamps: np.ndarray) -> np.ndarray:
    """The running median of three of the finite stamps, which a single wild one does not move."""
    t: np.ndarray = stamps[np.isfinite(stamps)]
    if len(t) > 2:
        low, high = np.minimum(t[:-2], t[1:-1]), np.maximum(t[:-2], t[1:-1])
        t = np.maximum(low, np.minimum(high, t[2:]))
    return t


def _grid(t: np.ndarray) -> float | None:
    """The largest of 1000, 1, 1e-3 and 1e-6 of which nearly all stamps are multiples.

    Counted from the first stamp. None if there is none, or if stamps with fractions are too few or
    stored with too few digits to tell.
    """
    enough = len(t) >= _STEPS[0] and np.count_nonzero(t[1:] != t[:-1]) >= _STEPS[1]
    if t.dtype.kind in "iu" or (t == np.floor(t)).all():
        return 1000.0 if enough and (t % 1000 == t[0] % 1000).all() else 1.0
    digits = float(np.spacing(np.abs(t).max()))
    places = t.astype(np.float64) - float(t[0])
    for grid in (1e-3, 1e-6) if enough else ():
        tolerance = 4 * digits / grid + 1e-9
        if tolerance > 0.05:
            return None
        steps = places / grid
        if np.mean(np.abs(steps - np.rint(steps)) <= tolerance) > 0.99:
            return grid
    return None


def _pixels(x: np.ndarray, y: np.ndarray, size: tuple[int, int] | None) -> int:
    """Number of pixels of the sensor; without a size, as far as the coordinates reach."""
    if size is None:
        with np.errstate(invalid="ignore"):
            sides = [column[(column >= 0) & (column < _LARGEST_SIDE)] for column in (y, x)]
        if not all(map(len, sides)):
            return _TYPICAL_PIXELS
        size = (int(sides[0].max()) + 1, int(sides[1].max()) + 1)
    return max(size[0] * size[1], _FEWEST_PIXELS)


def _seconds(unit: str) -> float:
    return MICROSECONDS_PER[unit] / 1e6


def _close(value: float, other: float) -> bool:
    return abs(value - other) < 0.01 * other


def duration_text(seconds: float) -> str:
    """A duration in the unit that people would use."""
    for limit, length, unit in (
        (1e-3, 1e-6, "us"), (1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h"),
        (3e7, 86_400, "days"),
    ):  # fmt: skip
        if seconds < limit:
            return f"{_digits(seconds / length)} {unit}"
    return f"{seconds / 31_557_600:,.3g} years"


def _quantity(value: float) -> str:
    """A number with a prefix, such as 1.2 M."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{_digits(value / factor)} {prefix}"
    return f"{_digits(value)} "


def _digits(value: float) -> str:
    """Three digits of a number, or a whole one: 999.97 is 1000, not 1e+03."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"
