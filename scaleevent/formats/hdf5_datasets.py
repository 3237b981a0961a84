"""Find the datasets with events in an HDF5 file, which `system.hdf5_process` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.errors import ConfigError, DataError, NotEventsError
from scaleevent.formats import hdf5_ecf
from scaleevent.formats.columns import (
    SAMPLE,
    check_stated,
    column_letters,
    column_order,
    find_columns,
    unit_in_name,
    unit_named,
)
from scaleevent.system.hdf5_process import DAMAGED, Dataset, Hdf5File, Part

_INDEXES = ("ms_to_idx", "ms_map_idx")
_TABLE_NAMES = ("events", "event")
_UNITS = ("unit", "units")
_SIZES = ("height", "width", "sensor_resolution", "geometry")  # attributes with the sensor size


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


Places = dict[str, Place]
"""Location of t, x, y and p."""


@dataclass(frozen=True)
class Stream:
    """What looks like events: a group of vectors, or a table.

    Args:
        name: Name of the group or table.
        columns: Location of t, x, y and p.
        length: Number of events.
    """

    name: str
    columns: Places
    length: int


def read_places(file: Hdf5File, places: Places, first: int, last: int) -> dict[str, np.ndarray]:
    """Stored values of the events first .. last - 1, by the keys of `places`."""
    coded = {p.dataset for p in places.values() if isinstance(p.part, str)}
    rows: dict[tuple[str, int | None], np.ndarray] = {
        (name, None): hdf5_ecf.read_rows(file, name, first, last)
        for name in coded
        if hdf5_ecf.is_coded(file, name)
    }
    wanted = dict.fromkeys((place.dataset, place.row) for place in places.values())
    plain = [Part(name, (first, last), row) for name, row in wanted if (name, row) not in rows]
    if plain:
        for part, values in zip(plain, file.read(*plain), strict=True):
            rows[part.name, part.row] = values
    return {
        key: np.asarray(rows[place.dataset, place.row][place.part]) for key, place in places.items()
    }


def choose_stream(
    file: Hdf5File, given: str | None, topic: str | None
) -> tuple[Stream, tuple[str, ...]]:
    """The stream of events to read, and in a line why, where there are several.

    Without `topic` it is the first by name, least nested, of those that hold events in a form that
    can be read; a damaged one is not passed over.

    Args:
        file: The file.
        given: Order of the columns of a matrix, or names of vectors or fields, if the caller
            states them.
        topic: Name of a group or table, or the end of one, if the caller states it.

    Raises:
        NotEventsError: No stream.
        ConfigError: No stream is called `topic`, or several.
        DataError: None can be read.
    """
    names = sorted(stream_names(file, given), key=lambda name: (name.count("/"), name))
    if not names:
        check_stated(given, _column_names(file), file.path)
        raise NotEventsError(
            "no events in this HDF5 file",
            where=file.path,
            found="datasets " + (", ".join([*file.datasets][:12]) or "none"),
            expected="a group with x, y, t, p, or one table with these four",
        )
    if topic is not None:
        return find_stream(file, _named(names, topic, file.path), given), ()
    first: Stream | None = None
    problem: DataError | None = None
    passed = []
    for name in names:
        try:
            stream = find_stream(file, name, given)
            if stream.length:
                break
            first = first or stream
            passed.append(f"{name} is empty")
        except DataError as error:
            if error.what == DAMAGED:
                raise
            problem = problem or error
            passed.append(f"{name}: {error.what}")
    else:
        if first is None and problem is not None:
            raise problem
        assert first is not None
        stream = first
    if len(names) == 1:
        return stream, ()
    why = f" ({'; '.join(passed)})" if passed and stream is not first else ""
    others = ", ".join(name for name in names if name != stream.name)
    return stream, (f"events of {stream.name}{why}; --topic takes another: {others}",)


def _named(names: list[str], topic: str, path: Path) -> str:
    """The one of the names that is `topic` or ends in it."""
    wanted = topic.strip("/")
    exact = [name for name in names if name.strip("/") == wanted]
    hits = exact or [name for name in names if f"{name}/".endswith(f"/{wanted}/") and wanted]
    if len(hits) != 1:
        raise ConfigError(
            "several event streams of this name" if hits else "no such event stream",
            where=path,
            found=topic,
            expected=", ".join(hits or names),
            hint="--topic takes one of these",
        )
    return hits[0]


def _column_names(file: Hdf5File) -> list[str]:
    """Names, within their groups, of all datasets; for tables, those of their fields."""
    items = file.datasets.items()
    return [n for name, data in items for n in data.dtype.names or [name.split("/")[-1]]]


def stream_names(file: Hdf5File, given: str | None = None) -> list[str]:
    """Names of the groups and tables that look like events; `given` as for `choose_stream`."""
    groups = [name for name in file.groups if find_columns(_vectors(file, name), given)]
    width = len(column_letters(given) or "txyp")
    tables = [
        name
        for name, data in file.datasets.items()
        if _is_records(data, given)
        or data.shape is not None and len(data.shape) == 2 and width in data.shape
        and name.lower().split("/")[-1] in _TABLE_NAMES
    ]  # fmt: skip
    return groups + tables


def find_stream(file: Hdf5File, name: str, given: str | None) -> Stream:
    """The stream of this name, checked.

    Raises:
        DataError: It cannot be read, or its columns differ in length or in no order that is known.
    """
    if name in file.datasets:
        data = file.checked(name)
        if not _is_records(data, given):
            return Stream(name, *_table(file, data, given))
        fields = find_columns(data.dtype.names or (), given) or {}
        places = {key: Place(name, field) for key, field in fields.items()}
        return Stream(name, places, len(data))
    vectors = _vectors(file, name)
    columns = find_columns(vectors, given) or {}
    return Stream(name, *_columns(file, name, {k: vectors[v] for k, v in columns.items()}))


def _is_records(data: Dataset, given: str | None) -> bool:
    """Whether the records of a dataset have the fields of events."""
    fields, shape = data.dtype.names, data.shape
    return bool(fields and shape is not None and len(shape) == 1 and find_columns(fields, given))


def _vectors(file: Hdf5File, group: str) -> dict[str, Dataset]:
    """The datasets (K,), or (K, 1) or (1, K) as MATLAB stores them, of a group, by their names."""
    return {
        name.rpartition("/")[2]: data
        for name, data in file.datasets.items()
        if data.group == group and data.shape is not None
        and (len(data.shape) == 1 or len(data.shape) == 2 and 1 in data.shape)
    }  # fmt: skip


def _columns(file: Hdf5File, group: str, vectors: dict[str, Dataset]) -> tuple[Places, int]:
    """Location of four vectors, and their length."""
    places, lengths = {}, {}
    for key, data in vectors.items():
        file.checked(data.name)
        assert data.shape is not None
        if len(data.shape) == 1:
            places[key], lengths[key] = Place(data.name), len(data)
        else:
            (places[key],), lengths[key] = _lines(data, 1)
    if len(set(lengths.values())) > 1:
        where = f"{file.path}, {group}"
        raise DataError("event columns differ in length", where=where, found=lengths)
    return places, lengths["t"]


def _table(file: Hdf5File, data: Dataset, given: str | None) -> tuple[Places, int]:
    """Location of the columns of a (K, 4) or (4, K) matrix; their order is given or inferred."""
    lines, length = _lines(data, len(column_letters(given) or "txyp"))
    order = "txyp"
    if length:
        columns = {str(at): line for at, line in enumerate(lines)}
        parts = (
            read_places(file, columns, at, min(at + SAMPLE, length))
            for at in range(0, length, SAMPLE)
        )
        tables = (np.stack([*part.values()], axis=1) for part in parts)
        order = column_order(next(tables), given, f"{file.path}, dataset {data.name}", tables)
    return {name: lines[order.index(name)] for name in "txyp"}, length


def _lines(data: Dataset, count: int) -> tuple[list[Place], int]:
    """The columns of a (K, count) matrix or the rows of a (count, K) one, and their length."""
    assert data.shape is not None
    if data.shape[1] == count:
        return [Place(data.name, np.s_[:, at]) for at in range(count)], data.shape[0]
    return [Place(data.name, row=at) for at in range(count)], data.shape[1]


def time_index(file: Hdf5File, group: str) -> tuple[str | None, bool]:
    """Name of the millisecond index, next to the events or at the root; whether it is DSEC's."""
    if "/ms_to_idx" in file.datasets:
        return "/ms_to_idx", "/t_offset" in file.datasets
    names = (f"{group.rstrip('/')}/{name}" for name in _INDEXES)
    return next((name for name in names if name in file.datasets), None), False


def stated_unit(file: Hdf5File, times: Dataset, place: Place) -> str | None:
    """The unit of times that their name, an attribute, or the layout of Prophesee states."""
    if hdf5_ecf.is_coded(file, times.name) or times.name == "/CD/events":
        return "us"
    name = place.part if isinstance(place.part, str) else times.name.split("/")[-1]
    words = [w for found in file.attributes([times.name], _UNITS) for w in found.values()]
    stated = [unit_named(word) for word in words if isinstance(word, str)]
    return unit_in_name(name) or next(filter(None, stated), None)


def values(file: Hdf5File, name: str, count: int) -> np.ndarray:
    """All values of a small dataset, flat; a DataError unless there are `count` of them."""
    shape = file.checked(name).shape
    if shape is None or np.prod(shape, dtype=int) != count:
        where = f"{file.path}, dataset {name}"
        raise DataError("wrong number of values", where=where, found=shape, expected=count)
    return np.ravel(file.read(Part(name))[0])


def stored_size(file: Hdf5File, t: Dataset) -> tuple[int, int] | None:
    """(height, width) from attributes of the events, their group or the file, or M3ED's `calib`."""
    for attributes in file.attributes([t.name, t.group, "/"], _SIZES):
        if "height" in attributes and "width" in attributes:
            return int(np.ravel(attributes["height"])[0]), int(np.ravel(attributes["width"])[0])
        if "sensor_resolution" in attributes:
            height, width = attributes["sensor_resolution"][:2]
            return int(height), int(width)
        geometry = attributes.get("geometry")
        if isinstance(geometry, str) and geometry.count("x") == 1:
            width, height = geometry.split("x")
            return int(height), int(width)
    resolution = f"{t.group.rstrip('/')}/calib/resolution"
    if resolution in file.datasets:
        width, height = values(file, resolution, 2)
        return int(height), int(width)
    return None
