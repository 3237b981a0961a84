"""`Recording`: turns the raw blocks of any format into checked `Events` in time order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events, first_backward_step
from scaleevent.formats.source import JITTER_US, Flaw, Frame, RawBlock, Segment, Source

MAX_SEGMENTS = 1000
"""Maximum number of stretches between clock resets; with more, events are not in time order."""

MAX_SIMULTANEOUS = 1 << 22
"""Maximum number of events within `JITTER_US`, over four times what any camera delivers."""

_MAX_US = 1 << 61  # so that differences of times stay within 64 bits


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
        """Checked raw blocks in time order, each with the index of its segment.

        An event can be delivered once another one is known that is later by `JITTER_US`, because no
        earlier event can follow then. A block therefore waits for the next one and is merged with
        it only where they overlap in time.
        """
        resets = self.max_bad is not None or self.segment is not None
        current, waiting = 0, None
        # a source that skips ahead by time could miss a clock reset
        first_us, last_us = (None, None) if resets else (start_us, end_us)
        for segment, block in self._sorted_blocks(first_us, last_us, resets):
            if waiting is None:
                current, waiting = segment, block
            elif segment == current:
                done, waiting = _merge(waiting, block)
                if len(done):
                    yield current, done
                if len(waiting) > MAX_SIMULTANEOUS:
                    self._check_spread(waiting)
            else:
                yield current, waiting
                current, waiting = segment, block
            if not resets and end_us is not None and waiting.t[-1] >= end_us + JITTER_US:
                break
        if waiting is not None:
            yield current, waiting

    def _sorted_blocks(
        self, start_us: int | None, end_us: int | None, resets: bool
    ) -> Iterator[tuple[int, RawBlock]]:
        """Blocks that are each sorted by time and split at clock resets, with their segments."""
        segment = 0
        latest: int | None = None
        for raw in self._raw_blocks(start_us, end_us):
            block = self._drop_off_sensor(raw)
            cuts: list[int] = []
            if not _in_order(block.t, latest):
                block = self._drop_extreme_times(block)
                cuts = self._find_resets(block, segment, latest, resets)
            for index, end in enumerate([*cuts, len(block)]):
                part = block
                if cuts:
                    part = block.take(slice(cuts[index - 1] if index else 0, end))
                if index:
                    segment, latest = segment + 1, None
                if len(part):
                    if not _in_order(part.t, latest):
                        part = part.take(np.argsort(part.t, kind="stable"))
                    latest = int(part.t[-1]) if latest is None else max(int(part.t[-1]), latest)
                    yield segment, part

    def _check_spread(self, waiting: RawBlock) -> None:
        """Raise a DataError if too many events lie within `JITTER_US`; this also bounds memory."""
        if waiting.t[-1] - waiting.t[0] <= JITTER_US:
            raise DataError(
                "too many events at one time",
                where=f"{self.path}, event {waiting.first}",
                found=f"{len(waiting)} events from {waiting.t[0]} to {waiting.t[-1]} us",
                expected=f"at most {MAX_SIMULTANEOUS} within {JITTER_US} us",
                hint="the time unit may be another: --time-unit s, ms, us or ns",
            )

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

    def _find_resets(
        self, block: RawBlock, segment: int, latest: int | None, resets: bool
    ) -> list[int]:
        """Indices in the block after clock resets; counts events that are merely out of order."""
        t = block.t
        if not len(t):
            return []
        latest = int(t[0]) if latest is None else latest
        cuts, late = _backward_steps(t, latest, MAX_SEGMENTS - segment)
        if len(cuts) and not resets:
            at = int(cuts[0])
            back = max(latest, int(t[:at].max(initial=latest))) - int(t[at])
            raise DataError(
                "time steps back",
                where=f"{self.path}, event {block.first + at}",
                found=f"t = {t[at]} us, {back} us before an earlier event",
                expected=f"ascending time, jitter up to {JITTER_US} us",
                hint="a clock reset, two recordings in one file or damage; "
                "--on-error skip reads the parts as segments",
            )
        if segment + len(cuts) >= MAX_SEGMENTS:
            raise DataError(
                "the events are not in order of time",
                where=f"{self.path}, event {block.first + int(cuts[-1])}",
                found=f"the {MAX_SEGMENTS}th step back of more than {JITTER_US} us",
                expected="ascending time, reset now and then",
                hint="another column may be the time (--columns), or its unit another "
                "(--time-unit); else sort the file by time",
            )
        self.counts.reordered += late
        return [int(cut) for cut in cuts]

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


def _in_order(t: np.ndarray, latest: int | None) -> bool:
    """Whether (K,) times ascend, start at `latest` or later, and are not extreme."""
    return not len(t) or bool(
        -_MAX_US <= t[0]
        and t[-1] <= _MAX_US
        and (latest is None or latest <= t[0])
        and first_backward_step(t) is None
    )


@nb.njit(nogil=True, cache=True)
def _backward_steps(t: np.ndarray, latest: int, limit: int) -> tuple[np.ndarray, int]:
    """Find backward steps in time of more than `JITTER_US`.

    Returns:
        Indices of at most `limit` events directly after such a step, each of which starts a new
        latest time; number of events that are late by `JITTER_US` or less.
    """
    cuts, late = np.empty(limit, np.int64), 0
    n = 0
    for i in range(t.size):
        if t[i] >= latest:
            latest = t[i]
        elif latest - t[i] > JITTER_US:
            if n == limit:
                break
            cuts[n] = i
            n += 1
            latest = t[i]
        else:
            late += 1
    return cuts[:n], late


def _merge(waiting: RawBlock, block: RawBlock) -> tuple[RawBlock, RawBlock]:
    """Merge two sorted blocks into one that can be delivered and one that must wait."""
    safe = min(int(block.t[0]), max(int(block.t[-1]), int(waiting.t[-1])) - JITTER_US)
    cut = int(np.searchsorted(waiting.t, safe, "right"))
    if cut == len(waiting):
        return waiting, block
    both = RawBlock.join([waiting.take(slice(cut, None)), block])
    return waiting.take(slice(None, cut)), both.take(np.argsort(both.t, kind="stable"))
