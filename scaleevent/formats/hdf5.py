"""Events in HDF5 files: DSEC's layout, and the others by the names of their datasets.

A file is data, not a program: only hard links are followed, datasets stored elsewhere are refused,
and what a dataset declares must be there (reading it would otherwise give made-up zeros).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers the Blosc and Zstandard filters with HDF5
import numpy as np

from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats.columns import (
    SAMPLE,
    column_order,
    find_columns,
    find_time_unit,
    to_block,
)
from scaleevent.formats.recording import BLOCK, JITTER_US, RawBlock, Source

MAGIC = b"\x89HDF\r\n\x1a\n"
DSEC_SIZE = (480, 640)
_MOST_CHUNK_BYTES = 64 << 20
_MOST_GROUPS = 500
_INDEXES = ("ms_to_idx", "ms_map_idx")
_TABLE_NAMES = ("/events", "/event")

Columns = dict[str, tuple[h5py.Dataset, str | int | None]]
"""For each of t, x, y, p its dataset and, in a table, the field or column number."""


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is HDF5."""
    return head.startswith(MAGIC)


def open_source(path: Path, time_unit: str | None) -> Hdf5Source:
    """Find the events in an HDF5 file.

    Of several streams (left and right cameras) the first by name is taken; `notes` lists the rest.

    Raises:
        DataError: No events, a truncated file, foreign or missing data, an unknown filter, an
            ambiguous time unit.
    """
    with _opened(path) as file:
        found = dict(_streams(file, path))
        if not found:
            raise NotEventsError(
                "no events in this HDF5 file",
                where=path,
                found="datasets " + (", ".join(_dataset_names(file)[:12]) or "none"),
                expected="a group with x, y, t, p, or one table with these four",
            )
        stream = min(found, key=lambda name: (name.count("/"), name))
        columns = found[stream]
        t, part = columns["t"]
        index, is_dsec = _time_index(file, t.parent)
        offset = int(_values(file["t_offset"], 1, path)[0]) if is_dsec else 0
        unit = find_time_unit(_part(t[:SAMPLE], part), time_unit, f"{path}, dataset {t.name}")
        notes = {"events": stream, "time unit": unit}
        if offset:
            notes["time offset"] = f"{offset} us"
        others = sorted(set(found) - {stream})
        if others:
            notes["other event streams"] = ", ".join(others)
        return Hdf5Source(
            path=path,
            format="DSEC HDF5" if is_dsec else "HDF5",
            size=_stored_size(file, t, path) or (DSEC_SIZE if is_dsec else None),
            notes=notes,
            columns={name: (data.name, part) for name, (data, part) in columns.items()},
            length=len(t),
            unit=unit,
            offset=offset,
            index=index if unit == "us" else None,
        )


@dataclass(frozen=True)
class Hdf5Source(Source):
    """Decoder of the events of one HDF5 file; the file is opened for each read.

    Args:
        path: The file.
        format: "DSEC HDF5" or "HDF5".
        size: (height, width) where the file states it.
        notes: What was found.
        columns: Dataset name and field of t, x, y, p.
        length: Number of events.
        unit: Time unit of the stored stamps.
        offset: Microseconds to add to every stamp.
        index: Dataset that holds, per millisecond, the first event at or after it.
    """

    path: Path
    format: str
    size: tuple[int, int] | None
    notes: dict[str, str]
    columns: dict[str, tuple[str, str | int | None]]
    length: int
    unit: str
    offset: int
    index: str | None

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """The events of the range, found by the millisecond index where there is one."""
        with _opened(self.path) as file:
            columns = {
                name: (_checked(file[data], self.path), part)
                for name, (data, part) in self.columns.items()
            }
            first, last = 0, self.length
            if self.index is not None:
                first, last = self._seek(_checked(file[self.index], self.path), start_us, end_us)
                self._check_seek(columns["t"], first, last, start_us, end_us)
            where = f"{self.path}, dataset {columns['t'][0].name}"
            for at in range(first, last, BLOCK):
                rows = {data: data[at : min(at + BLOCK, last)] for data, _ in columns.values()}
                stored = [_part(rows[columns[name][0]], columns[name][1]) for name in "txyp"]
                block = to_block(at, *stored, self.unit, where)
                if self.offset:
                    np.add(block.t, self.offset, out=block.t)
                yield block

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

    def _check_seek(
        self,
        t: tuple[h5py.Dataset, str | int | None],
        first: int,
        last: int,
        start_us: int | None,
        end_us: int | None,
    ) -> None:
        """Refuse an index that would skip events of the range."""
        data, part = t
        before = _part(data[max(first - 1, 0) : first], part).astype(np.int64) + self.offset
        after = _part(data[last : last + 1], part).astype(np.int64) + self.offset
        if (len(before) and before[0] >= start_us) or (len(after) and after[0] < end_us):
            raise DataError(
                "the millisecond index does not fit the time stamps",
                where=f"{self.path}, dataset {self.index}",
                found=f"events {first} to {last} for {start_us} .. {end_us} us, "
                "events of that time outside them",
            )


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The file, with every error of the HDF5 library told as ours."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, LookupError, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise DataError(
            "damaged HDF5 file",
            where=path,
            found=str(error).strip("'\""),
            hint="copy the file again; a download cut short looks like this",
        ) from error


def _hard(group: h5py.Group, name: str) -> bool:
    """Whether the name is there by a hard link; soft and external links are not followed."""
    return name in group and isinstance(group.get(name, getlink=True), h5py.HardLink)


def _walk(group: h5py.Group, seen: set[h5py.Group]) -> Iterator[h5py.Group | h5py.Dataset]:
    """Groups and datasets reached by hard links, each group once: links may go in circles."""
    seen.add(group)
    yield group
    for name in group:
        if not _hard(group, name):
            continue
        child = group[name]
        if isinstance(child, h5py.Dataset):
            yield child
        elif isinstance(child, h5py.Group) and child not in seen and len(seen) < _MOST_GROUPS:
            yield from _walk(child, seen)


def _dataset_names(file: h5py.File) -> list[str]:
    return [item.name for item in _walk(file, set()) if isinstance(item, h5py.Dataset)]


def _streams(file: h5py.File, path: Path) -> Iterator[tuple[str, Columns]]:
    """Everything that looks like events, by the name of its group or table."""
    for item in _walk(file, set()):
        if isinstance(item, h5py.Group):
            datasets = {
                name: item[name]
                for name in item
                if _hard(item, name) and isinstance(item[name], h5py.Dataset)
            }
            names = find_columns(name for name, data in datasets.items() if data.ndim == 1)
            if names:
                columns = {
                    key: (_checked(datasets[name], path), None) for key, name in names.items()
                }
                lengths = {key: len(data) for key, (data, _) in columns.items()}
                if len(set(lengths.values())) > 1:
                    raise DataError(
                        "event columns differ in length",
                        where=f"{path}, {item.name}",
                        found=lengths,
                    )
                yield item.name, columns
        elif item.dtype.names and item.ndim == 1:
            names = find_columns(item.dtype.names)
            if names:
                _checked(item, path)
                yield item.name, {key: (item, name) for key, name in names.items()}
        elif item.ndim == 2 and item.shape[1] == 4 and item.name.lower().endswith(_TABLE_NAMES):
            _checked(item, path)
            if len(item):
                order = column_order(item[:SAMPLE], f"{path}, dataset {item.name}")
                yield item.name, {name: (item, order.index(name)) for name in "txyp"}
            else:
                yield item.name, {name: (item, k) for k, name in enumerate("txyp")}


def _part(rows: np.ndarray, part: str | int | None) -> np.ndarray:
    """A column itself, one field of records, or one column of a matrix."""
    if part is None:
        return rows
    return rows[part] if isinstance(part, str) else rows[:, part]


def _time_index(file: h5py.File, group: h5py.Group) -> tuple[str | None, bool]:
    """Name of the index by millisecond, beside the events or at the root; whether it is DSEC's."""
    if _hard(file, "ms_to_idx"):
        return "/ms_to_idx", _hard(file, "t_offset")
    name = next((name for name in _INDEXES if _hard(group, name)), None)
    return name and f"{group.name.rstrip('/')}/{name}", False


def _values(data: h5py.Dataset, number: int, path: Path) -> np.ndarray:
    """All of a small dataset, flat, when it holds that many numbers."""
    if _checked(data, path).size != number:
        raise DataError(
            "wrong number of values",
            where=f"{path}, dataset {data.name}",
            found=data.shape,
            expected=number,
        )
    return np.ravel(data[()])


def _checked(data: h5py.Dataset, path: Path) -> h5py.Dataset:
    """The dataset, after making sure that reading it is safe and gives what was stored."""

    def refuse(what: str, **parts: object) -> DataError:
        return DataError(what, where=f"{path}, dataset {data.name}", **parts)

    if not isinstance(data, h5py.Dataset):
        raise refuse("not a dataset", found=type(data).__name__)
    if data.external or data.is_virtual:
        raise refuse("the data lie in another file", expected="data inside this file")
    if data.dtype.hasobject or data.dtype.kind not in "iufbV":
        raise refuse("not numbers", found=data.dtype)
    if data.shape is None:
        raise refuse("dataset without data")
    declared = prod(data.shape) * data.dtype.itemsize
    if data.chunks is None:
        if data.id.get_storage_size() < declared:
            raise refuse("data are missing", found="less stored than declared", expected=data.shape)
        return data
    if prod(data.chunks) * data.dtype.itemsize > _MOST_CHUNK_BYTES:
        raise refuse("chunk too large", found=data.chunks, expected=f"{_MOST_CHUNK_BYTES} bytes")
    chunks = prod(-(-size // chunk) for size, chunk in zip(data.shape, data.chunks, strict=True))
    if data.id.get_num_chunks() < chunks:
        raise refuse(
            "data are missing", found=f"{data.id.get_num_chunks()} chunks", expected=f"{chunks}"
        )
    plan = data.id.get_create_plist()
    for number in range(plan.get_nfilters()):
        code, _, _, name = plan.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            raise refuse(
                "compression filter not available",
                found=f"filter {code} {name.decode('latin-1')}",
                hint="rewrite the file with Blosc, Zstandard, gzip or no compression",
            )
    return data


def _stored_size(file: h5py.File, t: h5py.Dataset, path: Path) -> tuple[int, int] | None:
    """(height, width) from attributes of the events, their group or the file, or M3ED's calib."""
    for owner in (t, t.parent, file):
        attributes = {key.lower(): owner.attrs[key] for key in owner.attrs}
        if "height" in attributes and "width" in attributes:
            return int(attributes["height"]), int(attributes["width"])
        if "sensor_resolution" in attributes:
            height, width = np.ravel(attributes["sensor_resolution"])[:2]
            return int(height), int(width)
        geometry = attributes.get("geometry")
        if isinstance(geometry, str) and geometry.count("x") == 1:
            width, height = geometry.split("x")
            return int(height), int(width)
    calibration = t.parent.get("calib") if _hard(t.parent, "calib") else None
    if isinstance(calibration, h5py.Group) and _hard(calibration, "resolution"):
        width, height = _values(calibration["resolution"], 2, path)
        return int(height), int(width)
    return None
