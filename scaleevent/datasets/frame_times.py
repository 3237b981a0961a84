"""Times of frames from text files, in any of the usual forms and units."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np

from scaleevent.errors import ConfigError, DataError
from scaleevent.formats import Recording
from scaleevent.formats.columns import MICROSECONDS_PER, to_microseconds
from scaleevent.formats.source import TimeUnit
from scaleevent.formats.units import frame_time_unit
from scaleevent.system.documents import read_bounded
from scaleevent.system.refusals import reading

_MAX_BYTES = 64 << 20  # a million lines and more

_HARDLY, _MOSTLY = 0.05, 0.5
"""Fractions of their time that frames and events share in wrong units and in the right ones."""

_LONGEST_EXPOSURE = 1.1
"""Fraction of the time between frames that an exposure may take, jitter of the stamps included."""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


Times = TypeVar("Times", int, np.ndarray)


@dataclass(frozen=True, eq=False)
class FrameTimes:
    """The content of a file of frame times.

    Args:
        us: (K,) int64 image times.
        names: The picture of each, where the file names it.
        layout: How the lines were read, for people.
        unit: The unit of the times, and what was guessed about it.
    """

    us: np.ndarray
    names: tuple[str, ...] | None
    layout: str
    unit: TimeUnit


def read_frame_times(path: Path, unit: str | None, point: str) -> FrameTimes:
    """Times of frames from text, one frame a line; '#' begins a comment.

    A line holds a time, a time and a file name (or the other way round), a running index and a
    time, or begin and end of the exposure; fields stand between blanks or commas.

    Args:
        path: The file.
        unit: s, ms, us or ns; None for the usual one, if the rate of frames and the duration that
            it implies are plausible: fractions are seconds, whole numbers microseconds, or
            nanoseconds where only these make a date.
        point: start, middle or end: the moment of an exposure that counts.

    Raises:
        DataError: Not such a file (with the line), or values that fit no unit.
    """
    rows, lines = _rows(path)
    columns = list(zip(*rows, strict=True))
    numeric = [_is_numeric(column, path, lines) for column in columns]
    found = partial(_frame_times, given=unit, path=path)
    if numeric == [True]:
        return found(columns[0], "time")
    if sorted(numeric) == [False, True]:
        time, name = numeric.index(True), numeric.index(False)
        return found(columns[time], "time and file", names=columns[name])
    if numeric == [True, True]:
        first, second = (np.array(column, np.float64) for column in columns)
        if len(first) > 1 and (np.diff(first) == 1).all() and (first % 1 == 0).all():
            return found(columns[1], "index and time")
        step = np.median(np.diff(first)) if len(first) > 1 else np.inf
        if (second >= first).all() and np.median(second - first) <= _LONGEST_EXPOSURE * step:
            starts = found(columns[0], f"begin and end of the exposure, {point} taken")
            ends = _microseconds(columns[1], starts.unit, path)
            return replace(starts, us=moment(starts.us, ends, point))
    raise DataError(
        "cannot tell how the frame times are written",
        where=f"{path}, line {lines[0]}",
        found=" ".join(rows[0]),
        expected="a time; time and file; index and time; or begin and end of the exposure",
    )


def check_fit(recording: Recording, frames: FrameTimes, where: Path, offset_us: int) -> None:
    """Refuse guessed units in which frames and events hardly overlap, if they would in others.

    Args:
        recording: The events.
        frames: Their frames.
        where: The file of frame times.
        offset_us: What is added to frame times.

    Raises:
        ConfigError: What other units would mean, and the flags that state them.
    """
    events = recording.source.time_unit or TimeUnit("us")
    if not (events.others or frames.unit.others):
        return
    span = events.span_us or _span(recording)

    def shared(event_unit: str, frame_unit: str) -> float:
        """Time that both share, as a fraction of the time of either."""
        one = MICROSECONDS_PER[event_unit] / MICROSECONDS_PER[events.name]
        other = MICROSECONDS_PER[frame_unit] / MICROSECONDS_PER[frames.unit.name]
        begins = span[0] * one, float(frames.us.min()) * other + offset_us
        ends = span[1] * one, float(frames.us.max()) * other + offset_us
        return max(min(ends) - max(begins), 0.0) / max(max(ends) - min(begins), 1.0)

    units = product((events.name, *events.others), (frames.unit.name, *frames.unit.others))
    fits = {pair: shared(*pair) for pair in units}
    good = [pair for pair, share in fits.items() if share >= _MOSTLY]
    if fits[events.name, frames.unit.name] > _HARDLY or not good:
        return
    rows = [
        f"\n    events in {event}, frames in {frame}: {share:.0%} of their time in common"
        for (event, frame), share in fits.items()
    ]
    raise ConfigError(
        "the units of events and frames do not fit each other",
        where=f"{recording.path} and {where}",
        found=f"units that were not stated; with{''.join(rows)}",
        hint="give both: "
        + " or ".join(f"--time-unit {event} --frame-time-unit {frame}" for event, frame in good),
    )


def _span(recording: Recording) -> tuple[int, int]:
    """First and last time of the events; reads them if the file has no index."""
    stretches = recording.stretches()
    return (stretches[0].first_us, stretches[-1].last_us) if stretches else (0, 0)


def moment(start: Times, end: Times, point: str) -> Times:
    """The start, middle or end of an exposure, in whole microseconds."""
    moments: dict[str, Times] = {"start": start, "end": end, "middle": start + (end - start) // 2}
    return moments[point]


def _rows(path: Path) -> tuple[list[list[str]], list[int]]:
    """Fields of every line that holds any, all of one length, and the numbers of these lines."""
    rows: list[list[str]] = []
    numbers: list[int] = []
    for number, line, fields in lines_with_fields(path, "frame times"):
        if rows and len(fields) != len(rows[0]):
            raise DataError(
                "a line with a different number of fields",
                where=f"{path}, line {number}",
                found=repr(line[:80]),
                expected=f"{len(rows[0])} fields, as in line {numbers[0]}",
            )
        rows.append(fields)
        numbers.append(number)
    if not rows:
        raise DataError("no frame times in this file", where=path)
    return rows, numbers


def lines_with_fields(path: Path, what: str) -> Iterator[tuple[int, str, list[str]]]:
    """Number, text and fields of every line that holds any; '#' begins a comment.

    Raises:
        DataError: Not a text file of `what`.
    """
    with reading(path, f"cannot read the {what}"):
        data = read_bounded(path, _MAX_BYTES)
    try:
        if len(data) > _MAX_BYTES:
            raise DataError(f"too large a file for {what}", where=path,
                            expected=f"at most {_MAX_BYTES:,} bytes")  # fmt: skip
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read the {what}", where=path, found=error) from None
    for number, line in enumerate(lines, 1):
        fields = re.split(r"\s*[,;]\s*|\s+", line.partition("#")[0].strip())
        if fields != [""]:
            yield number, line, fields


def _is_numeric(column: tuple[str, ...], path: Path, lines: list[int]) -> bool:
    """Whether a column holds numbers; a mixture is an error."""
    numeric = [_NUMBER.fullmatch(field) is not None for field in column]
    if any(numeric) and not all(numeric):
        bad = numeric.index(False)
        raise DataError(
            "not a frame time",
            where=f"{path}, line {lines[bad]}",
            found=repr(column[bad][:80]),
            expected="a number",
            hint="lines that are no data begin with #",
        )
    return all(numeric)


def _frame_times(
    column: tuple[str, ...],
    layout: str,
    given: str | None,
    path: Path,
    names: tuple[str, ...] | None = None,
) -> FrameTimes:
    """Times in the unit that is given, or else in the one that is found."""
    try:
        unit = frame_time_unit(_numbers(column), given, str(path))
    except OverflowError:
        raise _out_of_range(column, path) from None
    return FrameTimes(_microseconds(column, unit, path), names, layout, unit)


def _microseconds(column: tuple[str, ...], unit: TimeUnit, path: Path) -> np.ndarray:
    """(K,) int64 microseconds."""
    try:
        return to_microseconds(_numbers(column), unit.name, 0, str(path))
    except OverflowError:
        raise _out_of_range(column, path) from None


def _out_of_range(column: tuple[str, ...], path: Path) -> DataError:
    return DataError("frame time out of range", where=path, found=max(column))


def _numbers(column: tuple[str, ...]) -> np.ndarray:
    """int64 where all are written as whole numbers, else float64."""
    if all(field.lstrip("+-").isdecimal() for field in column):
        return np.array([int(field) for field in column], np.int64)
    return np.array(column, np.float64)
