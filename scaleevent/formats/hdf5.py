"""Events in HDF5 files: DSEC, MVSEC, M3ED, Prophesee, MATLAB 7.3 and others, by dataset names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np

from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats import hdf5_ecf
from scaleevent.formats.columns import SAMPLE, find_time_unit, to_block, to_microseconds
from scaleevent.formats.hdf5_datasets import (
    Columns,
    KeptFile,
    damage,
    dataset_names,
    is_dataset,
    stored_size,
    streams,
    time_index,
    values,
)
from scaleevent.formats.source import BLOCK, JITTER_US, Extent, Flaw, RawBlock, Source, Told

MAGIC = b"\x89HDF\r\n\x1a\n"
DSEC_SIZE = (480, 640)
_USER_BLOCKS = (0, 512, 1024, 2048)  # bytes another program may keep before the magic
_TRIGGERS = "/EXT_TRIGGER/events"
_ENDS = 1 << 16  # events at either end of a file looked at for its first and last time
_SAMPLE = 1 << 12  # events in one part of a sample
_SAMPLE_READ = 1 << 22  # events a sample may decompress


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is HDF5."""
    return any(head.startswith(MAGIC, at) for at in _USER_BLOCKS)


def open_source(path: Path, told: Told) -> Hdf5Source:
    """Find the events in an HDF5 file.

    Of several streams (left and right cameras) the first by name is taken; `notes` lists the rest.

    Raises:
        DataError: No events, a truncated file, foreign or missing data, an unknown filter, an
            ambiguous time unit.
    """
    kept = KeptFile(path)
    with kept.opened() as file:
        found = dict(streams(file, path, told.columns))
        if not found:
            raise NotEventsError(
                "no events in this HDF5 file",
                where=path,
                found="datasets " + (", ".join(dataset_names(file)[:12]) or "none"),
                expected="a group with x, y, t, p, or one table with these four",
            )
        stream = min(found, key=lambda name: (name.count("/"), name))
        columns, length = found[stream]
        place = columns["t"]
        times = file[place.dataset]
        index, is_dsec = time_index(file, times.parent)
        offset = int(values(file["t_offset"], 1, path)[0]) if is_dsec else 0
        sample = place.read(times, 0, min(SAMPLE, length), {})
        unit = find_time_unit(sample, told.time_unit, f"{path}, dataset {times.name}")
        notes = {"events": stream, "time unit": unit}
        if offset:
            notes["time offset"] = f"{offset} us"
        others = sorted(set(found) - {stream})
        if others:
            notes["other event streams"] = ", ".join(others)
        coded = hdf5_ecf.is_coded(times)
        return Hdf5Source(
            path=path,
            format="DSEC HDF5" if is_dsec else "HDF5, ECF codec" if coded else "HDF5",
            size=stored_size(file, times, path) or (DSEC_SIZE if is_dsec else None),
            notes=notes,
            columns=columns,
            length=length,
            unit=unit,
            offset=offset,
            index=index if unit == "us" else None,
            chunk=times.chunks[0 if place.row is None else 1] if times.chunks else None,
            file=kept,
            triggers=len(file[_TRIGGERS]) if is_dataset(file, _TRIGGERS) else 0,
        )


@dataclass(frozen=True)
class Hdf5Source(Source):
    """Decoder of the events of one HDF5 file.

    Args:
        path: The file.
        format: "DSEC HDF5", "HDF5, ECF codec" or "HDF5".
        size: (height, width) where the file states it.
        notes: What was found.
        columns: Places of t, x, y, p.
        length: Number of events.
        unit: Time unit of the stored stamps.
        offset: Microseconds to add to every stamp.
        index: Dataset that holds, per millisecond, the first event at or after it.
        chunk: Events that are decompressed together.
        triggers: Number of external triggers stored beside the events.
        file: The file, open from one read to the next.
    """

    path: Path
    format: str
    size: tuple[int, int] | None
    notes: dict[str, str]
    columns: Columns
    length: int
    unit: str
    offset: int
    index: str | None
    chunk: int | None
    triggers: int
    file: KeptFile = field(compare=False, repr=False)

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """The events of the range: by the millisecond index, else by bisection of the times."""
        with self.file.opened():
            data = self._data()
            first, last = 0, self.length
            if self.index is not None:
                first, last = self._seek(self.file.dataset(self.index), start_us, end_us)
                first, last = max(first - 1, 0), min(last + 1, self.length)  # tell whether it fits
            elif start_us is not None or end_us is not None:
                first, last = self._bisect(data, start_us, end_us)
            step = BLOCK
            if self.chunk is not None and self.chunk < BLOCK:
                step = BLOCK // self.chunk * self.chunk
            whole = 0 if start_us is None else 3 * step  # windows come in one piece
            at = first
            ignored = {"external triggers": self.triggers}
            while at < last:
                stop = min((at // step + 1) * step, last)  # so that no chunk is read twice
                if last - at <= whole:
                    stop = last
                for block in self._readable(data, at, stop):
                    if self.index is not None and not block.flaws:
                        self._check_index(block, first, last, start_us, end_us)
                    yield replace(block, ignored=ignored)
                    ignored = {}
                at = stop

    def total(self) -> int:
        """Number of events."""
        return self.length

    def extent(self) -> Extent | None:
        """Number of events, and the earliest and latest of the first and last 65,536 stamps."""
        if not self.length:
            return Extent(0, None, None)
        with self.file.opened():
            data = self._data()
            first = self._block(data, 0, min(_ENDS, self.length)).t
            last = self._block(data, max(self.length - _ENDS, 0), self.length).t
        if not len(first) or not len(last):  # times that no event can have
            return None
        return Extent(self.length, int(first.min()), int(last.max()))

    def sample(self, parts: int) -> Iterator[RawBlock]:
        """Short blocks evenly over the file; fewer where its chunks are large."""
        parts = max(4, min(parts, _SAMPLE_READ // max(self.chunk or 1, _SAMPLE)))
        with self.file.opened():
            data = self._data()
            starts = np.linspace(0, max(self.length - _SAMPLE, 0), parts).astype(int)
            for start in np.unique(starts).tolist():
                yield self._block(data, start, min(start + _SAMPLE, self.length))

    def _data(self) -> dict[str, h5py.Dataset]:
        """The datasets of the columns by name, safe to read."""
        names = dict.fromkeys(place.dataset for place in self.columns.values())
        return {name: self.file.dataset(name) for name in names}

    def _readable(self, data: dict[str, h5py.Dataset], first: int, last: int) -> Iterator[RawBlock]:
        """Events by position; of a chunk that cannot be read, the damage."""
        try:
            yield self._block(data, first, last)
            return
        except (OSError, DataError) as error:
            told = error if isinstance(error, DataError) else damage(self.path, error)
        chunk = self.chunk or self.length
        if first // chunk < (last - 1) // chunk:
            middle = ((first // chunk + (last - 1) // chunk) // 2 + 1) * chunk
            yield from self._readable(data, first, middle)
            yield from self._readable(data, middle, last)
            return
        where = f"dataset {self.columns['t'].dataset}, chunk of row {first // chunk * chunk}"
        lost = last - first
        flaw = Flaw(told.what, where, str(told.found), told.expected, told.hint, lost)
        yield replace(RawBlock.of_flaw(first, flaw), dropped={"unreadable": lost})

    def _block(self, data: dict[str, h5py.Dataset], first: int, last: int) -> RawBlock:
        """Events by position."""
        read: dict[str, np.ndarray] = {}
        places = [self.columns[name] for name in "txyp"]
        stored = [place.read(data[place.dataset], first, last, read) for place in places]
        where = f"{self.path}, dataset {places[0].dataset}"
        return to_block(first, *stored, self.unit, where, self.offset)

    def _time(self, data: dict[str, h5py.Dataset], at: int) -> int:
        """Time of one event in us."""
        place = self.columns["t"]
        stored = place.read(data[place.dataset], at, at + 1, {})
        return int(to_microseconds(stored, self.unit, at, str(self.path), self.offset)[0])

    def _bisect(
        self, data: dict[str, h5py.Dataset], start_us: int | None, end_us: int | None
    ) -> tuple[int, int]:
        """Range of events that holds the time range and the jitter around it.

        Looks at the first event of some chunks only, the outermost among them. Where their times do
        not ascend, everything is read, so that the disorder is found.
        """
        step = self.chunk or _ENDS
        chunks = range(-(-self.length // step))
        times: dict[int, int] = {}

        def time(chunk: int) -> int:
            if chunk not in times:
                times[chunk] = self._time(data, chunk * step)
            return times[chunk]

        if len(chunks) < 2:
            return 0, self.length
        time(chunks[0]), time(chunks[-1])
        first, last = 0, self.length
        if start_us is not None:
            first = max(bisect_left(chunks, start_us - 2 * JITTER_US, key=time) - 1, 0) * step
        if end_us is not None:
            last = min(bisect_left(chunks, end_us + 2 * JITTER_US, key=time) * step, self.length)
        probed = [times[chunk] for chunk in sorted(times)]
        if probed != sorted(probed):
            return 0, self.length
        return first, max(first, last)

    def _seek(
        self, index: h5py.Dataset, start_us: int | None, end_us: int | None
    ) -> tuple[int, int]:
        """Range of events that holds the time range and the jitter around it.

        As uzh-rpg/DSEC:scripts/utils/eventslicer.py, except that a range past the end of the
        index reaches to the last event instead of giving nothing.
        """
        first, last = 0, self.length
        if start_us is not None and len(index):
            millisecond = (start_us - JITTER_US - self.offset) // 1000
            if millisecond > 0:
                first = int(index[min(millisecond, len(index) - 1)])
        if end_us is not None:
            millisecond = -((end_us + JITTER_US - self.offset) // -1000)
            if millisecond < len(index):
                last = int(index[max(millisecond, 0)])
        if last < first or last == 0:  # M3ED fills the tail of its index with zeros
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

        The event before those that the index names must lie before the range, the one after them
        behind it. Only a whole block tells: where one is damaged, other events stand at its ends.
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
