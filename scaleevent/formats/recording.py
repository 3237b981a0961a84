"""`Recording`: what every format becomes. Raw blocks in, checked and time-ordered `Events` out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from scaleevent.errors import DataError
from scaleevent.events import Events, first_backward_step

BLOCK = 1 << 18
"""Events a reader decodes at once: 3.4 MB of columns, small enough to stay in cache."""

JITTER_US = 1000
"""Steps back in time up to this are sorted and counted; larger ones are damage."""


@dataclass(frozen=True)
class RawBlock:
    """Events in the order a file stores them, not yet checked against sensor or clock.

    Args:
        first: Position of the first event in the recording.
        t: (K,) int64, absolute microseconds.
        x: (K,) integer column.
        y: (K,) integer row.
        p: (K,) uint8, 0 or 1.
        dropped: Events read beside these that cannot be used, by reason.
    """

    first: int
    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.t)

    def take(self, part: slice | np.ndarray) -> RawBlock:
        """The events of a slice or an index array; `first` stays that of the block."""
        return RawBlock(self.first, self.t[part], self.x[part], self.y[part], self.p[part])

    @classmethod
    def join(cls, parts: list[RawBlock]) -> RawBlock:
        """One block of several that follow each other in the file."""
        columns = [np.concatenate([getattr(part, name) for part in parts]) for name in "txyp"]
        return cls(parts[0].first, *columns)


@dataclass(frozen=True)
class Frame:
    """One picture of the camera.

    Args:
        image: (H, W) or (H, W, 3) uint8, grey or RGB.
        start_us: Begin of the exposure, microseconds on the clock of the events.
        end_us: End of the exposure.
    """

    image: np.ndarray
    start_us: int
    end_us: int


class Source(Protocol):
    """What a format module's `open_source(path, time_unit)` returns."""

    format: str
    size: tuple[int, int] | None  # (height, width) where the file states it
    notes: dict[str, str]
    has_frames: bool

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """Raw blocks holding at least every event of the range, the jitter around it included."""

    def frames(self) -> Iterator[Frame]:
        """The camera's pictures in order."""


@dataclass
class Counts:
    """Tally of one read: decoded = kept + the sum of dropped."""

    decoded: int = 0
    kept: int = 0
    reordered: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def clear(self) -> None:
        """Back to zero, before a read."""
        self.decoded = self.kept = self.reordered = 0
        self.dropped = {}

    def add(self, block: RawBlock) -> None:
        """Count the events a decoder met."""
        self.decoded += len(block) + sum(block.dropped.values())
        for reason, number in block.dropped.items():
            self.drop(reason, number)

    def drop(self, reason: str, number: int) -> None:
        """Add events that are not delivered."""
        if number:
            self.dropped[reason] = self.dropped.get(reason, 0) + number


@dataclass(frozen=True)
class Recording:
    """One event recording, opened but not read.

    Args:
        path: The file.
        source: Its decoder.
        height: Sensor rows.
        width: Sensor columns.
        notes: Header facts to show, by name.
        counts: Tally of the latest `blocks` read.
    """

    path: Path
    source: Source = field(repr=False)
    height: int
    width: int
    notes: dict[str, str] = field(default_factory=dict)
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
        """The pictures in the file, in order; none for event-only formats."""
        return self.source.frames()

    def blocks(self, start_us: int | None = None, end_us: int | None = None) -> Iterator[Events]:
        """Events with start_us <= t < end_us, in time order, in blocks.

        Blocks follow each other in time and hold about `BLOCK` events, so memory does not grow
        with the file. `counts` is started afresh and is complete when the iterator ends.

        Raises:
            DataError: Damage: an event off the sensor, a step back in time of more than
                `JITTER_US`, or what the decoder finds; with file and position.
        """
        counts = self.counts
        counts.clear()
        for block in self._ordered(start_us, end_us):
            events = Events(
                block.t,
                block.x.astype(np.uint16, copy=False),
                block.y.astype(np.uint16, copy=False),
                block.p,
                self.height,
                self.width,
            ).between(start_us, end_us)
            counts.kept += len(events)
            counts.drop("outside the time range", len(block) - len(events))
            if len(events):
                yield events

    def _ordered(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """Raw blocks, checked, in time order.

        An event is safe to pass on once one `JITTER_US` later is known, since none can follow that
        belongs before it. So a block waits for the next and is merged with it only where needed.
        """
        waiting: RawBlock | None = None
        for block in self.source.blocks(start_us, end_us):
            self.counts.add(block)
            if not len(block):
                continue
            self._check_sensor(block)
            block = self._sorted(block, None if waiting is None else int(waiting.t[-1]))
            if waiting is not None:
                safe = min(int(block.t[0]), max(int(block.t[-1]), int(waiting.t[-1])) - JITTER_US)
                cut = int(np.searchsorted(waiting.t, safe, "right"))
                if cut:
                    yield waiting.take(slice(None, cut))
                if cut < len(waiting):
                    both = RawBlock.join([waiting.take(slice(cut, None)), block])
                    block = both.take(np.argsort(both.t, kind="stable"))
            waiting = block
            if end_us is not None and waiting.t[-1] >= end_us + JITTER_US:
                break
        if waiting is not None:
            yield waiting

    def _sorted(self, block: RawBlock, latest: int | None) -> RawBlock:
        """The block in time order, after checking that it steps back by jitter only."""
        t = block.t
        if first_backward_step(t) is None and (latest is None or latest <= t[0]):
            return block
        high_water = np.maximum.accumulate(t)
        if latest is not None:
            np.maximum(high_water, latest, out=high_water)
        back = high_water - t
        self.counts.reordered += int(np.count_nonzero(back))
        worst = int(np.argmax(back > JITTER_US))
        if back[worst] > JITTER_US:
            raise DataError(
                "time steps back",
                where=f"{self.path}, event {block.first + worst}",
                found=f"t = {t[worst]} us, {back[worst]} us before an earlier event",
                expected=f"ascending time, jitter up to {JITTER_US} us",
                hint="two recordings in one file, a clock reset or damage: split the file there",
            )
        return block.take(np.argsort(t, kind="stable"))

    def _check_sensor(self, block: RawBlock) -> None:
        """Refuse events that are not on the sensor."""
        x, y = block.x, block.y
        inside = x.max() < self.width and y.max() < self.height and x.min() >= 0 and y.min() >= 0
        if inside:
            return
        off = (x < 0) | (x >= self.width) | (y < 0) | (y >= self.height)
        first = int(np.argmax(off))
        raise DataError(
            "events off the sensor",
            where=f"{self.path}, event {block.first + first}",
            found=f"x = {x[first]}, y = {y[first]}; {np.count_nonzero(off)} such events in the "
            f"{len(block)} from event {block.first}",
            expected=f"0 <= x < {self.width}, 0 <= y < {self.height}",
            hint="give the true sensor size, or the file is damaged",
        )


COMMON_SENSORS = (
    (128, 128),
    (180, 240),
    (240, 304),
    (260, 346),
    (320, 320),
    (480, 640),
    (720, 1280),
)
"""(height, width) of the event cameras most recordings come from."""


def measured_size(source: Source) -> tuple[tuple[int, int], str]:
    """(height, width) from the largest coordinates, and how it was found.

    A sensor's last rows or columns may never fire, so a common sensor at most 5 % larger on both
    sides is taken instead. Reads the whole recording.
    """
    height = width = 1
    for block in source.blocks(None, None):
        if len(block):
            height = max(height, int(block.y.max()) + 1)
            width = max(width, int(block.x.max()) + 1)
    seen = f"largest coordinates of the events, {width}x{height}"
    for rows, columns in COMMON_SENSORS:
        if height <= rows <= 1.05 * height and width <= columns <= 1.05 * width:
            return (rows, columns), seen
    return (height, width), seen
