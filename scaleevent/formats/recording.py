"""`Recording`: what every format becomes. Raw blocks in, checked and time-ordered `Events` out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events, first_backward_step
from scaleevent.formats.source import JITTER_US, Flaw, Frame, RawBlock, Source

MOST_SEGMENTS = 1000
"""Stretches between clock resets; what steps back more often is not in order of time at all."""

MOST_AT_ONCE = 1 << 22
"""Events within `JITTER_US` that are held to be sorted; no camera delivers a fourth of it."""

_MOST_US = 1 << 61  # differences of times stay within 64 bits


@dataclass
class Segment:
    """Events between two resets of the clock.

    Args:
        first_us: Time of the first event.
        last_us: Time of the last event.
        events: Their number.
    """

    first_us: int
    last_us: int
    events: int = 0


@dataclass
class Counts:
    """Tally of one read: decoded = kept + the sum of dropped.

    Args:
        decoded: Events met, and those a file says to hold where they cannot be read.
        kept: Events delivered.
        reordered: Events that stood up to `JITTER_US` too late in the file.
        dropped: Events not delivered, by reason.
        ignored: What is no event, by kind.
        flaws: Damage by kind, the first of each; its `count` is the sum of all.
        segments: Stretches of one clock, in the order of the file.
    """

    decoded: int = 0
    kept: int = 0
    reordered: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    flaws: dict[str, Flaw] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)

    def clear(self) -> None:
        """Back to zero, before a read."""
        self.decoded = self.kept = self.reordered = 0
        self.dropped, self.ignored, self.flaws, self.segments = {}, {}, {}, []

    def add(self, block: RawBlock) -> None:
        """Count the events a decoder met, and what it met beside them."""
        self.decoded += len(block) + sum(block.dropped.values())
        for reason, number in block.dropped.items():
            self.drop(reason, number)
        for kind, number in block.ignored.items():
            if number:
                self.ignored[kind] = self.ignored.get(kind, 0) + number

    def drop(self, reason: str, number: int) -> None:
        """Add events that are not delivered."""
        if number:
            self.dropped[reason] = self.dropped.get(reason, 0) + number

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
        """Words, lines or events lost to damage."""
        return sum(flaw.count for flaw in self.flaws.values())


@dataclass(frozen=True)
class Recording:
    """One event recording, opened but not read.

    Args:
        path: The file.
        source: Its decoder.
        height: Sensor rows.
        width: Sensor columns.
        notes: Header facts to show, by name.
        max_bad: Share of the events that damage may cost. None is strict: any damage is an error.
        segment: The one stretch between clock resets to read, from 0. None reads a recording
            without resets; with `max_bad` it reads all stretches one after the other.
        counts: Tally of the latest `blocks` read.
    """

    path: Path
    source: Source = field(repr=False)
    height: int
    width: int
    notes: dict[str, str] = field(default_factory=dict)
    max_bad: float | None = None
    segment: int | None = None
    counts: Counts = field(default_factory=Counts, compare=False)

    @property
    def format(self) -> str:
        """Name of the file format, such as "EVT3" or "DSEC HDF5"."""
        return self.source.format

    @property
    def has_frames(self) -> bool:
        """Whether the file holds camera pictures too."""
        return self.source.has_frames

    def frames(self) -> Iterator[Frame]:
        """The pictures in the file, in order; none for event-only formats.

        With `max_bad` they end where damage begins: a read of the events tells of it.

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

        Blocks follow each other in time and hold about `BLOCK` events, so memory does not grow
        with the file. Where the clock was reset (and that is no error) time begins anew with a
        block. `counts` is started afresh and is complete when the iterator ends.

        Raises:
            DataError: Damage, with file and position; with `max_bad`, more of it than that.
            ConfigError: There is no such segment.
        """
        counts = self.counts
        counts.clear()
        latest = -1
        for latest, block in self._ordered(start_us, end_us):
            if self.segment not in (None, latest):
                counts.drop("in another segment", len(block))
                continue
            events = Events.unchecked(
                block.t,
                block.x.astype(np.uint16, copy=False),
                block.y.astype(np.uint16, copy=False),
                block.p,
                self.height,
                self.width,
            ).between(start_us, end_us)
            counts.drop("outside the time range", len(block) - len(events))
            if len(events):
                counts.add_events(events, latest if self.segment is None else 0)
                yield events
        self._finish(latest)

    def stretches(self) -> list[Segment]:
        """The stretches between clock resets; reads the recording unless its file's index tells."""
        extent = self.source.extent() if self.max_bad is None else None
        if extent is None:
            for _ in self.blocks():
                pass
            return self.counts.segments
        return [Segment(extent.first_us, extent.last_us, extent.events)] if extent.events else []

    def _finish(self, latest: int) -> None:
        """Checks that need the whole read."""
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
        of = max(counts.decoded, counts.kept + counts.bad)  # most of what is bad is dropped
        if self.max_bad is not None and counts.bad > self.max_bad * of:
            flaws = (f"{kind} ({flaw.count}), {flaw.where}" for kind, flaw in counts.flaws.items())
            raise DataError(
                "too much damage",
                where=self.path,
                found=f"{counts.bad} of {of}: {'; '.join(flaws)}",
                expected=f"at most {self.max_bad:.3%}",
                hint="copy the file again, or allow more with --max-bad",
            )

    def _ordered(self, start_us: int | None, end_us: int | None) -> Iterator[tuple[int, RawBlock]]:
        """Segment number and raw block, checked, in time order.

        An event is safe to pass on once one `JITTER_US` later is known, since none can follow that
        belongs before it. So a block waits for the next and is merged with it only where needed.
        """
        resets = self.max_bad is not None or self.segment is not None
        number, waiting = 0, None
        # a source that skips ahead by time could skip a reset of the clock
        for segment, block in self._runs(*((None, None) if resets else (start_us, end_us)), resets):
            if waiting is None:
                number, waiting = segment, block
            elif segment == number:
                done, waiting = _merged(waiting, block)
                if len(done):
                    yield number, done
                if len(waiting) > MOST_AT_ONCE:
                    self._refuse_crowd(waiting)
            else:
                yield number, waiting
                number, waiting = segment, block
            if not resets and end_us is not None and waiting.t[-1] >= end_us + JITTER_US:
                break
        if waiting is not None:
            yield number, waiting

    def _runs(
        self, start_us: int | None, end_us: int | None, resets: bool
    ) -> Iterator[tuple[int, RawBlock]]:
        """Segment number and block, each sorted in itself and cut where the clock was reset."""
        segment, latest = 0, None
        for raw in self._raw_blocks(start_us, end_us):
            block = self._on_sensor(raw)
            cuts: list[int] = []
            if not _in_order(block.t, latest):
                block = self._in_time(block)
                cuts = self._resets(block, segment, latest, resets)
            for number, end in enumerate([*cuts, len(block)]):
                part = block
                if cuts:
                    part = block.take(slice(cuts[number - 1] if number else 0, end))
                if number:
                    segment, latest = segment + 1, None
                if len(part):
                    if not _in_order(part.t, latest):
                        part = part.take(np.argsort(part.t, kind="stable"))
                    latest = max(int(part.t[-1]), part.t[-1] if latest is None else latest)
                    yield segment, part

    def _refuse_crowd(self, waiting: RawBlock) -> None:
        """Times that hardly move are no microseconds, and memory must not grow with the file."""
        if waiting.t[-1] - waiting.t[0] <= JITTER_US:
            raise DataError(
                "too many events at one time",
                where=f"{self.path}, event {waiting.first}",
                found=f"{len(waiting)} events from {waiting.t[0]} to {waiting.t[-1]} us",
                expected=f"at most {MOST_AT_ONCE} within {JITTER_US} us",
                hint="the time unit may be another: --time-unit s, ms, us or ns",
            )

    def _raw_blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """The source's blocks, counted; damage is an error or is counted, as `max_bad` wants it."""
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
                self._meet(flaw)
            if len(block):
                yield block

    def _meet(self, flaw: Flaw) -> None:
        """Damage: an error, or counted."""
        if self.max_bad is None:
            raise DataError(
                flaw.what,
                where=f"{self.path}, {flaw.where}",
                found=flaw.found,
                expected=flaw.expected,
                hint=f"{flaw.hint or 'copy the file again'}; --on-error skip leaves it out",
            )
        self.counts.add_flaw(flaw)

    def _resets(self, block: RawBlock, segment: int, latest: int | None, resets: bool) -> list[int]:
        """Where in the block the clock was reset; counts the events that only stand too late."""
        t = block.t
        if not len(t):
            return []
        latest = int(t[0]) if latest is None else latest
        cuts, late = _steps_back(t, latest, MOST_SEGMENTS - segment)
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
        if segment + len(cuts) >= MOST_SEGMENTS:
            raise DataError(
                "the events are not in order of time",
                where=f"{self.path}, event {block.first + int(cuts[-1])}",
                found=f"the {MOST_SEGMENTS}th step back of more than {JITTER_US} us",
                expected="ascending time, reset now and then",
                hint="another column may be the time (--columns), or its unit another "
                "(--time-unit); else sort the file by time",
            )
        self.counts.reordered += late
        return cuts.tolist()

    def _in_time(self, block: RawBlock) -> RawBlock:
        """The events whose times can be reckoned with; others are damage."""
        t = block.t
        wild = (t < -_MOST_US) | (t > _MOST_US)
        if not wild.any():
            return block
        first, number = int(np.argmax(wild)), int(np.count_nonzero(wild))
        where, found = f"event {block.first + first}", f"t = {t[first]} us; {number} such events"
        self._meet(Flaw("time stamps out of range", where, found, f"+-{_MOST_US}", count=number))
        self.counts.drop("time out of range", number)
        return block.take(~wild)

    def _on_sensor(self, block: RawBlock) -> RawBlock:
        """The events that are on the sensor; others are damage."""
        x, y = block.x, block.y
        if _below(x, self.width) and _below(y, self.height):
            return block
        off = (x < 0) | (x >= self.width) | (y < 0) | (y >= self.height)
        first, number = int(np.argmax(off)), int(np.count_nonzero(off))
        self._meet(
            Flaw(
                "events off the sensor",
                f"event {block.first + first}",
                f"x = {x[first]}, y = {y[first]}; {number} such events in the "
                f"{len(block)} from event {block.first}",
                f"0 <= x < {self.width}, 0 <= y < {self.height}",
                "give the true sensor size, or the file is damaged",
                number,
            )
        )
        self.counts.drop("off the sensor", number)
        return block.take(~off)


def _below(column: np.ndarray, limit: int) -> bool:
    """Whether 0 <= column < limit everywhere."""
    return column.max() < limit and (column.dtype.kind == "u" or column.min() >= 0)


def _in_order(t: np.ndarray, latest: int | None) -> bool:
    """Whether (K,) times ascend, from the latest one before on, and can be reckoned with."""
    return not len(t) or (
        -_MOST_US <= t[0]
        and t[-1] <= _MOST_US
        and (latest is None or latest <= t[0])
        and first_backward_step(t) is None
    )


@nb.njit(nogil=True, cache=True)
def _steps_back(t, latest, most):
    """Positions where time falls more than `JITTER_US` behind, at most so many, and late events.

    After each such place the latest time is that of the event there.
    """
    cuts, late = np.empty(most, np.int64), 0
    n = 0
    for i in range(t.size):
        if t[i] >= latest:
            latest = t[i]
        elif latest - t[i] > JITTER_US:
            if n == most:
                break
            cuts[n] = i
            n += 1
            latest = t[i]
        else:
            late += 1
    return cuts[:n], late


def _merged(waiting: RawBlock, block: RawBlock) -> tuple[RawBlock, RawBlock]:
    """Two sorted blocks as one that is safe to pass on and one that waits."""
    safe = min(int(block.t[0]), max(int(block.t[-1]), int(waiting.t[-1])) - JITTER_US)
    cut = int(np.searchsorted(waiting.t, safe, "right"))
    if cut == len(waiting):
        return waiting, block
    both = RawBlock.join([waiting.take(slice(cut, None)), block])
    return waiting.take(slice(None, cut)), both.take(np.argsort(both.t, kind="stable"))
