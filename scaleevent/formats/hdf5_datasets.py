"""Find the datasets with events in an HDF5 file, and check that they are safe to read.

Only hard links are followed, datasets stored in other files are refused, and all data that is
declared must be present (otherwise HDF5 would fill the gaps with zeros).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the Blosc and Zstandard filters with HDF5
import numpy as np

from scaleevent.errors import DataError
from scaleevent.formats import hdf5_ecf
from scaleevent.formats.columns import (
    SAMPLE,
    column_letters,
    column_order,
    find_columns,
    unit_in_name,
    unit_named,
)
from scaleevent.formats.source import errors_as_damage

_MAX_CHUNK_BYTES = 64 << 20
_MAX_GROUPS = 500
_INDEXES = ("ms_to_idx", "ms_map_idx")
_TABLE_NAMES = ("events", "event")
_SIZES = ("height", "width", "sensor_resolution", "geometry")  # attributes with the sensor size
_NO_DRIVER = b"\xff" * 8


@dataclass(frozen=True)
class Place:
    """Where one of t, x, y, p is stored.

    Args:
        dataset: Name of the dataset.
        part: Index in its rows: (), the field of a record, or (:, column) in a matrix.
        row: Row of a (4, K) or (1, K) matrix.
    """

    dataset: str
    part: Any = ()
    row: int | None = None

    def read(
        self, data: h5py.Dataset, first: int, last: int, read: dict[str, np.ndarray]
    ) -> np.ndarray:
        """Values of the events first .. last - 1; `read` caches the rows read from each dataset."""
        if self.row is not None:
            return np.asarray(data[self.row, first:last])
        if self.dataset not in read:
            coded = isinstance(self.part, str) and hdf5_ecf.is_coded(data)
            rows = hdf5_ecf.read_rows(data, first, last) if coded else data[first:last]
            read[self.dataset] = rows
        return np.asarray(read[self.dataset][self.part])


Places = dict[str, Place]
"""Location of t, x, y and p."""


class KeptFile:
    """An HDF5 file that stays open between reads and remembers which datasets are checked.

    Opening and checking cost as much as decompressing 50,000 events. Every process opens the file
    for itself.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: h5py.File | None = None
        self._checked: dict[str, h5py.Dataset] = {}
        self._process = 0

    def __reduce__(self) -> tuple[type[KeptFile], tuple[Path]]:
        return KeptFile, (self.path,)

    @contextmanager
    def opened(self) -> Iterator[h5py.File]:
        """The file, with every error of the HDF5 library as a DataError; an error closes it."""
        with errors_as_damage("HDF5 file", self.path):
            file = self._file
            if file is None or self._process != os.getpid():
                self._checked = {}
                _refuse_drivers(self.path)
                # rdcc_w0: of the cached chunks, those read to their end are evicted first
                file = self._file = h5py.File(self.path, "r", rdcc_w0=1.0)
                self._process = os.getpid()
            try:
                yield file
            except Exception:
                file.close()
                self._file = None
                raise

    def dataset(self, name: str) -> h5py.Dataset:
        """A checked dataset; only within `opened`."""
        if name not in self._checked:
            if self._file is None:
                raise ValueError(f"{self.path} is not open")
            self._checked[name] = checked(self._file[name], self.path)
        return self._checked[name]


def _refuse_drivers(path: Path) -> None:
    """Refuse a file that names its own driver: data in other files, or memory without limit.

    Only the old superblocks, versions 0 and 1, can name a driver, after three addresses.
    """
    with path.open("rb") as file:
        head = file.read(1 << 12)
    at = head.find(b"\x89HDF\r\n\x1a\n")
    version, size = head[at + 8 : at + 9], head[at + 13 : at + 14]
    if version in (b"\0", b"\1") and size == b"\x08":
        place = at + 24 + 4 * version[0] + 3 * 8
        if head[place : place + 8] != _NO_DRIVER:
            raise DataError(
                "HDF5 file with a driver of its own",
                where=f"{path}, byte {place}",
                found=head[place : place + 8].hex(" "),
                expected="none",
                hint="split files are not read: write it as one",
            )


def _hard(group: h5py.Group, name: str) -> bool:
    """Whether the group has a hard link of this name; soft and external ones are not followed."""
    return name in group and isinstance(group.get(name, getlink=True), h5py.HardLink)


def _walk(group: h5py.Group, seen: set[h5py.Group]) -> Iterator[h5py.Group | h5py.Dataset]:
    """Groups and datasets that hard links lead to, each group once: links may form circles."""
    seen.add(group)
    yield group
    for name in group:
        if not _hard(group, name):
            continue
        child = group[name]
        if isinstance(child, h5py.Dataset):
            yield child
        elif isinstance(child, h5py.Group) and child not in seen and len(seen) < _MAX_GROUPS:
            yield from _walk(child, seen)


def dataset_names(file: h5py.File) -> list[str]:
    """Names of all datasets."""
    return [item.name for item in _walk(file, set()) if isinstance(item, h5py.Dataset)]


def column_names(file: h5py.File) -> list[str]:
    """Names, within their groups, of all datasets; for tables, those of their fields."""
    items = [item for item in _walk(file, set()) if isinstance(item, h5py.Dataset)]
    return [name for item in items for name in item.dtype.names or [item.name.split("/")[-1]]]


def is_dataset(group: h5py.Group, name: str) -> bool:
    """Whether a hard link of that path leads to a dataset."""
    parent, _, last = name.strip("/").rpartition("/")
    if parent and not (_hard(group, parent) and isinstance(group[parent], h5py.Group)):
        return False
    inside = group[parent] if parent else group
    return _hard(inside, last) and isinstance(inside[last], h5py.Dataset)


def streams(
    file: h5py.File, path: Path, order: str | None
) -> Iterator[tuple[str, tuple[Places, int]]]:
    """Everything that looks like events, with its length, by the name of its group or table.

    Args:
        file: The opened file.
        path: Its path, for error messages.
        order: Order of the columns of a matrix, or names of vectors or fields, if the caller states
            them.
    """
    for item in _walk(file, set()):
        if isinstance(item, h5py.Group):
            vectors = {name: item[name] for name in item if is_dataset(item, name)}
            # (K,), or (K, 1) or (1, K) as MATLAB stores it
            vectors = {
                n: d for n, d in vectors.items() if d.ndim == 1 or d.ndim == 2 and 1 in d.shape
            }
            names = find_columns(vectors, order)
            if names:
                yield item.name, _columns(item, {key: vectors[name] for key, name in names.items()})
        elif item.dtype.names and item.ndim == 1:
            names = find_columns(item.dtype.names, order)
            if names:
                checked(item, path)
                places = {key: Place(item.name, name) for key, name in names.items()}
                yield item.name, (places, len(item))
        elif item.ndim == 2 and item.name.lower().split("/")[-1] in _TABLE_NAMES:
            if len(column_letters(order) or "txyp") in item.shape:
                yield item.name, _table(checked(item, path), order, path)


def _columns(group: h5py.Group, vectors: dict[str, h5py.Dataset]) -> tuple[Places, int]:
    """Location of four vectors, and their length."""
    path = Path(group.file.filename)
    places, lengths = {}, {}
    for key, data in vectors.items():
        checked(data, path)
        if data.ndim == 1:
            places[key], lengths[key] = Place(data.name), len(data)
        else:
            (places[key],), lengths[key] = _lines(data, 1)
    if len(set(lengths.values())) > 1:
        where = f"{path}, {group.name}"
        raise DataError("event columns differ in length", where=where, found=lengths)
    return places, lengths["t"]


def _table(data: h5py.Dataset, given: str | None, path: Path) -> tuple[Places, int]:
    """Location of the columns of a (K, 4) or (4, K) matrix; their order is given or inferred."""
    places, length = _lines(data, len(column_letters(given) or "txyp"))
    by_row = places[0].row is None
    tables = (
        data[at : at + SAMPLE] if by_row else data[:, at : at + SAMPLE].T
        for at in range(0, length, SAMPLE)
    )
    where = f"{path}, dataset {data.name}"
    order = column_order(next(tables), given, where, tables) if length else "txyp"
    return {name: places[order.index(name)] for name in "txyp"}, length


def _lines(data: h5py.Dataset, count: int) -> tuple[list[Place], int]:
    """The columns of a (K, count) matrix or the rows of a (count, K) one, and their length."""
    if data.shape[1] == count:
        return [Place(data.name, np.s_[:, at]) for at in range(count)], data.shape[0]
    return [Place(data.name, row=at) for at in range(count)], data.shape[1]


def time_index(file: h5py.File, group: h5py.Group) -> tuple[str | None, bool]:
    """Name of the millisecond index, next to the events or at the root; whether it is DSEC's."""
    if _hard(file, "ms_to_idx"):
        return "/ms_to_idx", _hard(file, "t_offset")
    name = next((name for name in _INDEXES if _hard(group, name)), None)
    return name and f"{group.name.rstrip('/')}/{name}", False


def stated_unit(times: h5py.Dataset, place: Place) -> str | None:
    """The unit of times that their name, an attribute, or the layout of Prophesee states."""
    name = place.part if isinstance(place.part, str) else times.name.split("/")[-1]
    attributes = [times.attrs[key] for key in ("unit", "units") if key in times.attrs]
    words = [word.decode("latin-1") if isinstance(word, bytes) else word for word in attributes]
    stated = [unit_named(word) for word in words if isinstance(word, str)]
    if hdf5_ecf.is_coded(times) or times.name == "/CD/events":
        return "us"
    return unit_in_name(name) or next(filter(None, stated), None)


def values(data: h5py.Dataset, count: int, path: Path) -> np.ndarray:
    """All values of a small dataset, flat; a DataError unless there are `count` of them."""
    if checked(data, path).size != count:
        where = f"{path}, dataset {data.name}"
        raise DataError("wrong number of values", where=where, found=data.shape, expected=count)
    return np.ravel(data[()])


def checked(data: h5py.Dataset, path: Path) -> h5py.Dataset:
    """The dataset, after checking that reading it is safe and returns what was stored."""
    refuse = partial(DataError, where=f"{path}, dataset {data.name}")
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
    if prod(data.chunks) * data.dtype.itemsize > _MAX_CHUNK_BYTES:
        raise refuse("chunk too large", found=data.chunks, expected=f"{_MAX_CHUNK_BYTES} bytes")
    chunks = prod(-(-size // chunk) for size, chunk in zip(data.shape, data.chunks, strict=True))
    if data.id.get_num_chunks() < chunks:
        raise refuse(
            "data are missing", found=f"{data.id.get_num_chunks()} chunks", expected=f"{chunks}"
        )
    plan = data.id.get_create_plist()
    for index in range(plan.get_nfilters()):
        code, _, _, name = plan.get_filter(index)
        if code == hdf5_ecf.FILTER and set(data.dtype.names or ()) == {"x", "y", "p", "t"}:
            continue
        if not h5py.h5z.filter_avail(code):
            raise refuse(
                "compression filter not available",
                found=f"filter {code} {name.decode('latin-1')}",
                hint="rewrite the file with Blosc, Zstandard, gzip or no compression",
            )
    return data


def stored_size(file: h5py.File, t: h5py.Dataset, path: Path) -> tuple[int, int] | None:
    """(height, width) from attributes of the events, their group or the file, or M3ED's `calib`."""
    for owner in (t, t.parent, file):
        attributes = {key.lower(): owner.attrs[key] for key in owner.attrs if key.lower() in _SIZES}
        if "height" in attributes and "width" in attributes:
            return int(attributes["height"]), int(attributes["width"])
        if "sensor_resolution" in attributes:
            height, width = np.ravel(attributes["sensor_resolution"])[:2]
            return int(height), int(width)
        geometry = attributes.get("geometry")
        if isinstance(geometry, bytes):
            geometry = geometry.decode("latin-1")
        if isinstance(geometry, str) and geometry.count("x") == 1:
            width, height = geometry.split("x")
            return int(height), int(width)
    calibration = t.parent.get("calib") if _hard(t.parent, "calib") else None
    if isinstance(calibration, h5py.Group) and _hard(calibration, "resolution"):
        width, height = values(calibration["resolution"], 2, path)
        return int(height), int(width)
    return None
