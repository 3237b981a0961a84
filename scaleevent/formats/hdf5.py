"""Events in HDF5 files, found by dataset names: DSEC, MVSEC, M3ED, Prophesee, MATLAB 7.3, ..."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from scaleevent.errors import DataError
from scaleevent.formats import hdf5_ecf
from scaleevent.formats.columns import SAMPLE, to_block, to_microseconds
from scaleevent.formats.hdf5_datasets import (
    Places,
    Stream,
    choose_stream,
    read_places,
    stated_unit,
    stored_size,
    stream_names,
    time_index,
    values,
)
from scaleevent.formats.source import (
    BLOCK,
    JITTER_US,
    FileSource,
    Flaw,
    RawBlock,
    ReadOptions,
    Segment,
    TimeUnit,
    errors_as_damage,
)
from scaleevent.formats.units import TAIL, event_time_unit
from scaleevent.system.hdf5_process import Hdf5File, Part

SUFFIXES = (".h5", ".hdf5")

MAGIC = b"\x89HDF\r\n\x1a\n"
DSEC_SIZE = (480, 640)
_USER_BLOCKS = (0, 512, 1024, 2048)  # bytes that another program may store before the magic
_TRIGGERS = "/EXT_TRIGGER/events"
_ENDS = 1 << 16  # events read at both ends of a file to find its first and last time
_SAMPLE = 1 << 12  # events in one block of a sample
_SAMPLE_READ = 1 << 22  # maximum number of events to decompress for a sample


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is HDF5."""
    return any(head.startswith(MAGIC, at) for at in _USER_BLOCKS)


def open_source(path: Path, options: ReadOptions) -> Hdf5Source:
    """Find the events in an HDF5 file.

    Of several streams (left and right cameras) `options.topic` names one; see `choose_stream`.

    Raises:
        DataError: No events, a truncated file, data that are missing or in another file, an unknown
            filter, or an ambiguous time unit.
        ConfigError: No stream of that name.
    """
    file = Hdf5File(path)
    stream, choices = choose_stream(file, options.columns, options.topic)
    columns, length = stream.columns, stream.length
    times = file.datasets[columns["t"].dataset]
    index, is_dsec = time_index(file, times.group)
    offset = int(values(file, "/t_offset", 1)[0]) if is_dsec else 0
    with errors_as_damage("HDF5 file", path):
        size = stored_size(file, times) or (DSEC_SIZE if is_dsec else None)
    stated = "us" if index is not None else stated_unit(file, times, columns["t"])
    unit = _time_unit(file, stream, options, stated, size)
    notes = {"events": stream.name, "time unit": unit.name}
    if offset:
        notes["time offset"] = f"{offset} us"
    others = sorted(set(stream_names(file)) - {stream.name})
    if others:
        notes["other event streams"] = ", ".join(others)
    coded = hdf5_ecf.is_coded(file, times.name)
    return Hdf5Source(
        path=path,
        format="DSEC HDF5" if is_dsec else "HDF5, ECF codec" if coded else "HDF5",
        size=size,
        notes=notes,
        columns=columns,
        length=length,
        unit=unit.name,
        offset=offset,
        index=index if unit.name == "us" else None,
        chunk=times.chunks[0 if columns["t"].row is None else 1] if times.chunks else None,
        file=file,
        triggers=len(file.datasets[_TRIGGERS]) if _TRIGGERS in file.datasets else 0,
        choices=(*choices, *unit.choices),
        time_unit=unit,
    )


def _time_unit(
    file: Hdf5File,
    stream: Stream,
    options: ReadOptions,
    stated: str | None,
    size: tuple[int, int] | None,
) -> TimeUnit:
    """The unit of the stored times; reads events only if it is neither given nor stated."""
    columns, length = stream.columns, stream.length

    def stored(names: str, first: int, last: int) -> dict[str, np.ndarray]:
        return read_places(file, {name: columns[name] for name in names}, first, last)

    def readable(names: str, first: int, last: int) -> dict[str, np.ndarray]:
        try:
            return stored(names, first, last)
        except DataError:
            return dict.fromkeys(names, np.empty(0))  # damage, which a read of the events reports

    first: dict[str, np.ndarray] = {}
    if not (options.time_unit or stated):
        few, some = min(TAIL, length), min(SAMPLE, length)
        first = readable("xy", 0, few) | stored("t", 0, some)
    return event_time_unit(
        first,
        length,
        given=options.time_unit,
        stated=stated,
        size=options.size or size,
        where=f"{file.path}, dataset {columns['t'].dataset}",
        tail=lambda: readable("t", max(length - TAIL, 0), length)["t"],
    )


@dataclass(frozen=True)
class Hdf5Source(FileSource):
    """Decoder of the events of one HDF5 file.

    Args:
        columns: Location of t, x, y and p.
        length: Number of events.
        unit: Unit of the stored time stamps.
        offset: Microseconds to add to every time stamp.
        index: Dataset with the index of the first event at or after every millisecond, or None.
        chunk: Number of events that are decompressed together.
        triggers: Number of external triggers in the file.
        file: The file.
    """

    columns: Places
    length: int
    unit: str
    offset: int
    index: str | None
    chunk: int | None
    triggers: int
    file: Hdf5File = field(compare=False, repr=False)

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """The events of the time range, found by the millisecond index or by bisection."""
        first, last = 0, self.length
        if self.index is not None:
            first, last = self._seek(self.index, start_us, end_us)
            first, last = max(first - 1, 0), min(last + 1, self.length)  # for `_check_index`
        elif start_us is not None or end_us is not None:
            first, last = self._bisect(start_us, end_us)
        step = BLOCK
        if self.chunk is not None and self.chunk < BLOCK:
            step = BLOCK // self.chunk * self.chunk
        whole = 0 if start_us is None else 3 * step  # a window is read in one piece
        at = first
        ignored = {"external triggers": self.triggers}
        while at < last:
            stop = min((at // step + 1) * step, last)  # so that no chunk is read twice
            if last - at <= whole:
                stop = last
            for block in self._readable(at, stop):
                if self.index is not None and not block.flaws:
                    self._check_index(block, first, last, start_us, end_us)
                yield replace(block, ignored=ignored)
                ignored = {}
            at = stop

    def total(self) -> int:
        """Number of events."""
        return self.length

    def extent(self) -> Segment | None:
        """Number of events, and the earliest and latest of the first and last 65,536 times."""
        first = self._block(0, min(_ENDS, self.length)).t
        last = self._block(max(self.length - _ENDS, 0), self.length).t
        if not len(first) or not len(last):  # no events, or only invalid ones
            return None
        return Segment(int(first.min()), int(last.max()), self.length)

    def sample(self, parts: int) -> Iterator[RawBlock]:
        """Short blocks, evenly spaced over the file; fewer if its chunks are large."""
        parts = max(4, min(parts, _SAMPLE_READ // max(self.chunk or 1, _SAMPLE)))
        starts = np.linspace(0, max(self.length - _SAMPLE, 0), parts).astype(int)
        for start in np.unique(starts).tolist():
            yield self._block(start, min(start + _SAMPLE, self.length))

    def _readable(self, first: int, last: int) -> Iterator[RawBlock]:
        """The events first .. last - 1; for an unreadable chunk, a block reporting the damage."""
        try:
            block = self._block(first, last)
        except DataError as error:
            if self.file.given_up:
                raise
            problem = error
        else:
            yield block
            return
        chunk = self.chunk or self.length
        if first // chunk < (last - 1) // chunk:
            middle = ((first // chunk + (last - 1) // chunk) // 2 + 1) * chunk
            yield from self._readable(first, middle)
            yield from self._readable(middle, last)
            return
        where = f"dataset {self.columns['t'].dataset}, chunk of row {first // chunk * chunk}"
        lost = last - first
        expected = None if problem.expected is None else str(problem.expected)
        flaw = Flaw(problem.what, where, str(problem.found), expected, problem.hint, lost)
        yield replace(RawBlock.empty(first, flaw), dropped={"unreadable": lost})

    def _block(self, first: int, last: int) -> RawBlock:
        """The events first .. last - 1."""
        stored = read_places(self.file, self.columns, first, last)
        where = f"{self.path}, dataset {self.columns['t'].dataset}"
        return to_block(first, stored, self.unit, where, self.offset)

    def _bisect(self, start_us: int | None, end_us: int | None) -> tuple[int, int]:
        """Range of events that contains the time range and the jitter around it.

        Reads only the first event of some chunks, including the first and the last chunk. If these
        times do not ascend, everything is read, so that the disorder is found.
        """
        step = self.chunk or _ENDS
        chunks = range(-(-self.length // step))
        times: dict[int, int] = {}

        def time(chunk: int) -> int:
            if chunk not in times:
                at = chunk * step
                stored = read_places(self.file, {"t": self.columns["t"]}, at, at + 1)["t"]
                us = to_microseconds(stored, self.unit, at, str(self.path), self.offset)
                times[chunk] = int(us[0])
            return times[chunk]

        if len(chunks) < 2:
            return 0, self.length
        time(chunks[0]), time(chunks[-1])
        first, last = 0, self.length
        if start_us is not None:
            first = max(bisect_left(chunks, start_us - JITTER_US, key=time) - 1, 0) * step
        if end_us is not None:
            last = min(bisect_left(chunks, end_us + JITTER_US, key=time) * step, self.length)
        probed = [times[chunk] for chunk in sorted(times)]
        if probed != sorted(probed):
            return 0, self.length
        return first, max(first, last)

    def _seek(self, index: str, start_us: int | None, end_us: int | None) -> tuple[int, int]:
        """Range of events that contains the time range and the jitter around it.

        As uzh-rpg/DSEC:scripts/utils/eventslicer.py, except that a range beyond the end of the
        index extends to the last event instead of being empty.
        """
        first, last = 0, self.length
        entries = len(self.file.checked(index))

        def event(millisecond: int) -> int:
            return int(self.file.read(Part(index, (millisecond, millisecond + 1)))[0][0])

        if start_us is not None and entries:
            millisecond = (start_us - JITTER_US - self.offset) // 1000
            if millisecond > 0:
                first = event(min(millisecond, entries - 1))
        if end_us is not None:
            millisecond = -((end_us + JITTER_US - self.offset) // -1000)
            if millisecond < entries:
                last = event(max(millisecond, 0))
        if last < first or last == 0:  # M3ED fills the end of its index with zeros
            last = self.length
        if not 0 <= first <= self.length or not 0 <= last <= self.length:
            raise DataError(
                "the millisecond index points outside the events",
                where=f"{self.path}, dataset {self.index}",
                found=f"events {first} to {last}",
                expected=f"0 .. {self.length}",
            )
        return first, last

    def _check_index(
        self, block: RawBlock, first: int, last: int, start_us: int | None, end_us: int | None
    ) -> None:
        """Raise a DataError if the index would skip events of the time range.

        The event before those given by the index must be earlier than the range, and the event
        after them must be later. The block must be free of damage: otherwise its first and last
        events are not those two.
        """
        early = start_us is not None and block.first == first > 0 and block.t[0] >= start_us
        at_end = block.first + len(block) == last < self.length
        if early or (at_end and end_us is not None and block.t[-1] < end_us):
            raise DataError(
                "the millisecond index does not fit the time stamps",
                where=f"{self.path}, dataset {self.index}",
                found=f"events {first} to {last} for {start_us} .. {end_us} us, "
                "events of that time outside them",
            )
