"""`Recording`: turns the raw blocks of any format into checked `Events` in time order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.formats.clock import CROWD, CROWD_US, Clock, ascending
from scaleevent.formats.source import JITTER_US, Flaw, Frame, RawBlock, Segment, Source

MAX_SEGMENTS = 1000
"""Maximum number of stretches between clock resets; with more, events are not in time order."""

_MAX_US = 1 << 61  # so that differences of times stay within 64 bits

_CACHED = 1 << 13  # events checked at a time: their times stay in cache


@dataclass
class Counts:
    """Event counts of one read; decoded = kept + the sum of dropped.

    Args:
        decoded: Events found, including those that the file declares but that cannot be read.
        kept: Events delivered.
        reordered: Events that came up to `JITTER_US` too late in the file.
        dropped: Events not delivered, by reason.
        ignored: Items that are not events, by kind.
        flaws: The first damage of each kind; its `count` is the sum over all of that kind.
        segments: Stretches between clock resets, in the order of the file.
    """

    decoded: int = 0
    kept: int = 0
    reordered: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    flaws: dict[str, Flaw] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)

    def clear(self) -> None:
        """Reset all counts before a read."""
        self.decoded = self.kept = self.reordered = 0
        self.dropped, self.ignored, self.flaws, self.segments = Counter(), Counter(), {}, []

    def add(self, block: RawBlock) -> None:
        """Count the events and other items of a raw block."""
        self.decoded += len(block) + sum(block.dropped.values())
        self.dropped += Counter(block.dropped)  # leaves out zeros
        self.ignored += Counter(block.ignored)

    def drop(self, reason: str, count: int) -> None:
        """Count events that are not delivered."""
        self.dropped += Counter({reason: count})

    def add_flaw(self, flaw: Flaw) -> None:
        """Count damage."""
        known = self.flaws.get(flaw.what)
        self.flaws[flaw.what] = replace(known, count=known.count + flaw.count) if known else flaw

    def add_events(self, events: Events, segment: int) -> None:
        """Count delivered events of a segment."""
        self.kept += len(events)
        while len(self.segments) <= segment:
            self.segments.append(Segment(int(events.t[0]), int(events.t[-1])))
        self.segments[segment].last_us = int(events.t[-1])
        self.segments[segment].events += len(events)

    @property
    def bad(self) -> int:
        """Number of words, lines or events lost to damage."""
        return sum(flaw.count for flaw in self.flaws.values())


@dataclass(frozen=True)
class Recording:
    """One event recording, opened but not read.

    Args:
        path: The file.
        source: The decoder of the file.
        height: Sensor rows.
        width: Sensor columns.
        notes: Header facts to display, by name.
        max_bad: Fraction of the events that may be lost to damage; None: any damage is an error.
        segment: Index, from 0, of the only stretch between clock resets to read. None reads a
            recording without resets; with `max_bad` it reads all stretches one after the other.
        unused: Options of the caller that have no meaning for this file, a line each.
        counts: Counts of the latest read by `blocks`.
    """

    path: Path
    source: Source = field(repr=False)
    height: int
    width: int
    notes: dict[str, str] = field(default_factory=dict)
    max_bad: float | None = None
    segment: int | None = None
    unused: tuple[str, ...] = ()
    counts: Counts = field(default_factory=Counts, compare=False)

    @property
    def format(self) -> str:
        """Name of the file format, such as "EVT3" or "DSEC HDF5"."""
        return self.source.format

    @property
    def choices(self) -> tuple[str, ...]:
        """What was guessed or chosen among several or not used, a line each, for commands."""
        return (*self.source.choices, *self.unused)

    @property
    def has_frames(self) -> bool:
        """Whether the file also contains camera images."""
        return self.source.has_frames

    def frames(self) -> Iterator[Frame]:
        """The images in the file, in order; none for formats that store only events.

        With `max_bad` they end where damage begins, which a read of the events reports.

        Raises:
            DataError: Damage, without `max_bad`.
        """
        try:
            yield from self.source.frames()
        except DataError:
            if self.max_bad is None:
                raise

    def blocks(self, start_us: int | None = None, end_us: int | None = None) -> Iterator[Events]:
        """Events with start_us <= t < end_us, in time order, in blocks.

        Blocks follow each other in time and have about `BLOCK` events, so memory does not grow
        with the file. After a clock reset (where it is not an error) a new block begins, with
        earlier times. `counts` is reset first and complete when the iterator ends.

        Raises:
            DataError: Damage, with file and position; with `max_bad`, more damage than allowed.
            ConfigError: The segment does not exist.
        """
        counts = self.counts
        counts.clear()
        latest = -1
        for latest, block in self._ordered(start_us, end_us):
            if self.segment not in (None, latest):
                counts.drop("in another segment", len(block))
                continue
            x, y = (column.astype(np.uint16, copy=False) for column in (block.x, block.y))
            events = Events.unchecked(block.t, x, y, block.p, self.height, self.width)
            events = events.between(start_us, end_us)
            counts.drop("outside the time range", len(block) - len(events))
            if len(events):
                counts.add_events(events, latest if self.segment is None else 0)
                yield events
        self._check_totals(latest)

    def stretches(self) -> list[Segment]:
        """The stretches between clock resets; reads the recording if it has no index."""
        extent = self.source.extent() if self.max_bad is None else None
        if extent is None:
            for _ in self.blocks():
                pass
            return self.counts.segments
        return [extent]

    def _check_totals(self, latest: int) -> None:
        """Check what is known only after the whole read; `latest` is the last segment."""
        counts = self.counts
        if self.segment is not None and counts.decoded and self.segment > latest:
            raise ConfigError(
                "no such segment",
                where=self.path,
                found=f"{latest + 1} stretches between clock resets",
                expected=f"--segment 1 .. {latest + 1} (in Python, segment=0 .. {latest})",
            )
        if counts.decoded != counts.kept + sum(counts.dropped.values()):
            raise RuntimeError(f"events lost in {self.path}: {counts}")
        total = max(counts.decoded, counts.kept + counts.bad)  # most lost events are in `dropped`
        if self.max_bad is not None and counts.bad > self.max_bad * total:
            flaws = (f"{kind} ({flaw.count}), {flaw.where}" for kind, flaw in counts.flaws.items())
            raise DataError(
                "too much damage",
                where=self.path,
                found=f"{counts.bad} of {total}: {'; '.join(flaws)}",
                expected=f"at most {self.max_bad:.3%}",
                hint="copy the file again, or allow more with --max-bad",
            )

    def _ordered(self, start_us: int | None, end_us: int | None) -> Iterator[tuple[int, RawBlock]]:
        """Checked raw blocks in time order, each with the index of its segment."""
        resets = self.max_bad is not None or self.segment is not None
        clock = Clock(self._wrong_times, self._reset, self._crowded)
        # a source that skips ahead by time could miss a clock reset
        first_us, last_us = (None, None) if resets else (start_us, end_us)
        for raw in self._raw_blocks(first_us, last_us):
            block, latest = raw, clock.latest
            ascends = _is_sound(raw, latest, self.height, self.width)
            if not ascends:
                block = self._drop_extreme_times(self._drop_off_sensor(raw))
                ascends = ascending(block.t, latest)
            if len(block):
                yield from clock.add(block, ascends)
            if not resets and end_us is not None and clock.time >= end_us + JITTER_US:
                yield from clock.flush()
                self.counts.drop("outside the time range", clock.held)
                break
        else:
            yield from clock.finish()
        self.counts.reordered += clock.reordered

    def _wrong_times(self, count: int, index: int, time: int, clock: int) -> None:
        """Drop events whose times those around them contradict; they are damage."""
        found = f"t = {time} us, where the clock was at {clock} us; {count} such events"
        expected = f"ascending times, late by {JITTER_US / 1000:.0f} ms at most"
        self._raise_or_count(
            Flaw("wrong time stamps", f"event {index}", found, expected, count=count)
        )
        self.counts.drop("wrong time stamps", count)

    def _reset(self, segment: int, index: int, time: int, latest: int) -> None:
        """Allow segment `segment`, whose first event comes after a reset of the clock."""
        where = f"{self.path}, event {index}"
        if self.max_bad is None and self.segment is None:
            raise DataError(
                "time steps back",
                where=where,
                found=f"t = {time} us, {latest - time} us before an earlier event, and stays back",
                expected=f"ascending times, late by {JITTER_US / 1000:.0f} ms at most",
                hint="a clock reset, or two recordings in one file; "
                "--on-error skip reads the parts as segments",
            )
        if segment >= MAX_SEGMENTS:
            raise DataError(
                "the events are not in order of time",
                where=where,
                found=f"the {MAX_SEGMENTS}th clock reset",
                expected="ascending time, reset now and then",
                hint=self._other_unit("another column may be the time (--columns), or ")
                or "copy the file again, or sort it by time",
            )

    def _crowded(self, index: int, first_us: int, last_us: int, count: int) -> None:
        """Refuse more events at one time than any camera delivers."""
        raise DataError(
            "too many events at one time",
            where=f"{self.path}, event {index}",
            found=f"{count} events from {first_us} to {last_us} us",
            expected=f"at most {CROWD} within {CROWD_US} us",
            hint=self._other_unit() or "copy the file again, or the camera's clock stood still",
        )

    def _other_unit(self, before: str = "") -> str | None:
        """What to do if the times have another unit; None where the format defines it."""
        unit = self.notes.get("time unit")
        hint = f"{before}the times may be in another unit than {unit}: --time-unit s, ms, us, ns"
        return hint if unit else None

    def _raw_blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """The blocks of the source, counted; damage is an error or is counted, see `max_bad`."""
        blocks = self.source.blocks(start_us, end_us)
        while True:
            try:
                block = next(blocks)
            except StopIteration:
                return
            except DataError as error:
                if self.max_bad is None or not self.counts.decoded:
                    raise
                read, total = self.counts.decoded, self.source.total()
                where = f"after event {read - 1}"
                found = f"{error.what}, {error.where}: {error.found}"
                lost = max((total or 0) - read, 0)
                self.counts.add_flaw(Flaw("the rest cannot be read", where, found, count=lost))
                self.counts.decoded += lost
                self.counts.drop("unreadable", lost)
                return
            self.counts.add(block)
            for flaw in block.flaws:
                self._raise_or_count(flaw)
            if len(block):
                yield block

    def _raise_or_count(self, flaw: Flaw) -> None:
        """Raise a DataError for damage; with `max_bad`, count it instead."""
        if self.max_bad is None:
            hint = f"{flaw.hint or 'copy the file again'}; --on-error skip leaves it out"
            raise flaw.error(self.path, hint)
        self.counts.add_flaw(flaw)

    def _drop_extreme_times(self, block: RawBlock) -> RawBlock:
        """Drop events whose times are so large that differences would overflow; they are damage."""
        t = block.t
        extreme = (t < -_MAX_US) | (t > _MAX_US)
        if not extreme.any():
            return block
        first, count = int(np.argmax(extreme)), int(np.count_nonzero(extreme))
        where, found = f"event {block.first + first}", f"t = {t[first]} us; {count} such events"
        flaw = Flaw("time stamps out of range", where, found, f"+-{_MAX_US}", count=count)
        self._raise_or_count(flaw)
        self.counts.drop("time out of range", count)
        return block.take(~extreme)

    def _drop_off_sensor(self, block: RawBlock) -> RawBlock:
        """Drop events outside the sensor; they are damage."""
        x, y = block.x, block.y
        if _all_within(x, self.width) and _all_within(y, self.height):
            return block
        off = (x < 0) | (x >= self.width) | (y < 0) | (y >= self.height)
        first, count = int(np.argmax(off)), int(np.count_nonzero(off))
        where, pixel = f"event {block.first + first}", f"x = {x[first]}, y = {y[first]}"
        found = f"{pixel}; {count} such events in the {len(block)} from event {block.first}"
        expected = f"0 <= x < {self.width}, 0 <= y < {self.height}"
        hint = "give the true sensor size, or the file is damaged"
        self._raise_or_count(Flaw("events off the sensor", where, found, expected, hint, count))
        self.counts.drop("off the sensor", count)
        return block.take(~off)


def _all_within(column: np.ndarray, limit: int) -> bool:
    """Whether 0 <= column < limit everywhere."""
    return bool(column.max() < limit and (column.dtype.kind == "u" or column.min() >= 0))


def _is_sound(block: RawBlock, latest: int, height: int, width: int) -> bool:
    """Whether all events are on the sensor and in order, from `latest` on; False if not sure."""
    for column, kinds in ((block.t, "i"), (block.x, "iu"), (block.y, "iu")):
        native = column.dtype.isnative and column.dtype.kind in kinds
        if not (native and column.flags.c_contiguous):
            return False
    # as unsigned numbers, negative ones are too large
    x, y = (column.view(f"u{column.itemsize}") for column in (block.x, block.y))
    return _are_sound(block.t, x, y, latest, height, width)


@nb.njit(nogil=True, cache=True)
def _are_sound(
    t: np.ndarray, x: np.ndarray, y: np.ndarray, latest: int, height: int, width: int
) -> bool:
    """Whether (K,) times ascend from `latest` on and are not extreme, and pixels are in range.

    One pass over parts that stay in cache, in loops without a branch, which compilers vectorise.
    """
    if t.size and (t[0] < latest or t[t.size - 1] > _MAX_US):
        return False
    for start in range(0, t.size, _CACHED):
        end = min(start + _CACHED, t.size)
        sign = np.int64(0)  # negative after a step back, also one whose difference overflows
        earlier, later = t[start:end], t[start + 1 : end + 1]
        for k in range(later.size):
            sign |= (later[k] - earlier[k]) | (later[k] ^ (later[k] << 1))
        columns, rows = x[start:end], y[start:end]
        column, row = columns[0], rows[0]
        for k in range(columns.size):
            column = max(column, columns[k])
            row = max(row, rows[k])
        if sign < 0 or column >= width or row >= height:
            return False
    return True
