"""Times at which predictions are asked for, from a text file, in a unit that fits the events."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaleevent.datasets.frame_times import lines_with_fields
from scaleevent.errors import DataError
from scaleevent.formats.columns import MICROSECONDS_PER, to_microseconds
from scaleevent.prediction.schedules import AtTimes

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SHORTEST_US = 100  # between two times, or from zero to the latest: less is no unit anyone means


@dataclass(frozen=True, eq=False)
class GivenTimes:
    """The content of a file of times.

    Args:
        path: The file.
        values: (K,) int64 or float64, in the unit.
        unit: s, ms, us or ns.
        guessed: Whether the unit was not stated: fractions are seconds, whole numbers microseconds.
        since_first: Whether they count from the first event instead of the recording's clock.
    """

    path: Path
    values: np.ndarray
    unit: str
    guessed: bool
    since_first: bool

    @property
    def schedule(self) -> AtTimes:
        """The times as ends of windows."""
        us = to_microseconds(self.values, self.unit, 0, str(self.path))
        return AtTimes(np.sort(us), self.since_first)

    def described(self) -> str:
        """Number, unit and clock, for people."""
        clock = "since the first event" if self.since_first else "on the recording's clock"
        why = ", as usual for them (--at-unit)" if self.guessed else ""
        return f"{len(self.values):,} times of {self.path}, in {self.unit}{why}, {clock}"

    def ways_to_fit(self, first_us: int, last_us: int) -> list[str]:
        """The options with which most times lie within events from `first_us` to `last_us`."""
        found = []
        for since_first in (self.since_first, not self.since_first):
            for unit, factor in MICROSECONDS_PER.items():
                times = self.values * factor + (first_us if since_first else 0)
                if np.mean((times > first_us) & (times <= last_us + 1)) < 0.5:
                    continue
                ways = [f"--at-unit {unit}"] if unit != self.unit else []
                origin = "first" if since_first else "clock"
                ways += [f"--at-origin {origin}"] if since_first != self.since_first else []
                found.append(" ".join(ways))
        return list(filter(None, found))


def read_times(path: Path, unit: str | None, since_first: bool) -> GivenTimes:
    """Times from text, one a line; '#' begins a comment.

    Args:
        path: The file.
        unit: s, ms, us or ns; None: fractions are seconds, whole numbers microseconds.
        since_first: Whether they count from the first event.

    Raises:
        DataError: Not such a file, with the line; or a unit that was not stated and would put the
            times closer together than anyone means.
    """
    texts = []
    for number, line, fields in lines_with_fields(path, "times"):
        if len(fields) != 1 or not _NUMBER.fullmatch(fields[0]):
            raise DataError(
                "not a time", where=f"{path}, line {number}", found=repr(line[:80]),
                expected="one number a line; # begins a comment",
            )  # fmt: skip
        texts.append(fields[0])
    if not texts:
        raise DataError("no times in this file", where=path, expected="one number a line")
    whole = all(text.lstrip("+-").isdecimal() for text in texts)
    try:
        values = np.array(
            [int(text) for text in texts] if whole else texts, np.int64 if whole else np.float64
        )
        found = GivenTimes(
            path, values, unit or ("us" if whole else "s"), unit is None, since_first
        )
        us = found.schedule.times_us
    except OverflowError:
        raise DataError("a time out of range", where=path, found=max(texts, key=len)) from None
    steps = np.diff(us)
    closest = float(np.median(steps)) if len(steps) else float(np.abs(us).max())
    if found.guessed and max(closest, 0) < _SHORTEST_US:
        raise DataError(
            "the unit of the times is ambiguous", where=path,
            found=f"{texts[0]} to {texts[-1]}, in {found.unit} about {closest:g} us apart",
            expected="fractions of seconds, or whole microseconds",
            hint="say it: --at-unit s, ms, us or ns",
        )  # fmt: skip
    return found
