"""Events in NumPy files (.npz archives and .npy arrays), read in blocks and never unpickled."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np

from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats.columns import (
    SAMPLE,
    TableSource,
    check_stated,
    column_letters,
    column_order,
    find_columns,
    unit_in_name,
)
from scaleevent.formats.source import BLOCK, ReadOptions, errors_as_damage
from scaleevent.formats.units import TAIL, event_time_unit

SUFFIXES = (".npz", ".npy")

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
NPY_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 1 << 16  # bytes; NumPy believes no header above 10,000
_LOCAL_HEADER = struct.Struct("<26x2H")  # before a member of a zip: ends with two lengths
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is .npy, or a zip named .npz."""
    zipped = head.startswith(ZIP_MAGICS) and path.suffix.lower() == ".npz"
    return zipped or head.startswith(NPY_MAGIC)


class Rows(NamedTuple):
    """A place in the file where rows of one type follow each other without gaps."""

    member: str  # name in the archive; empty for a plain .npy file
    skip: int  # bytes in the member before the first row
    row: np.dtype  # a number, a record, or a few numbers


class Array(NamedTuple):
    """Header of one stored array; its data begin at byte `end`."""

    member: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    end: int

    def rows(self, width: int = 1) -> Rows:
        """The whole array; `width` stored values make up one row."""
        row = self.dtype if width == 1 else np.dtype((self.dtype, (width,)))
        return Rows(self.member, self.end, row)

    def column(self, index: int, length: int) -> Rows:
        """One column of a matrix that is stored column by column."""
        return Rows(self.member, self.end + index * length * self.dtype.itemsize, self.dtype)


Place = tuple[Rows, Any]
"""Rows, and the index of the column in them: (), the name of a field, or (:, column)."""


def open_source(path: Path, options: ReadOptions) -> ArraySource:
    """Find the events in a NumPy file.

    They may be four one-dimensional arrays with known or given names, one record array with such
    fields, or one (K, 4) or (4, K) matrix, whose column order is given or inferred from its values;
    a matrix of more columns needs a given order.

    Raises:
        DataError: No events, Python objects instead of numbers, a truncated or damaged file, or an
            ambiguous column order or time unit.
        ConfigError: No arrays of the given names, or an order that does not fit the matrix.
    """
    with errors_as_damage("NumPy file", path):
        arrays = _headers(path)
        columns, length = _find(path, arrays, options.columns)
        for member in dict.fromkeys(rows.member for rows, _ in columns.values()):
            _verify(path, member)
        sample = next(_stored(path, columns, min(length, SAMPLE)), None)
        place, part = columns["t"]
        start = _raw_start(path, place)
        unit = event_time_unit(
            sample or dict.fromkeys("txy", np.empty(0)),
            length,
            given=options.time_unit,
            stated=unit_in_name(part if isinstance(part, str) else place.member[:-4]),
            size=options.size,
            where=str(path),
            tail=partial(_last_times, path, columns["t"], length, start),
            costly=start is None,
        )
    kind = "npz" if any(array.member for array in arrays) else "npy"
    notes = {"time unit": unit.name}
    return ArraySource(
        path, kind, None, notes, length, unit.name,
        columns=columns, choices=unit.choices, time_unit=unit,
    )  # fmt: skip


@dataclass(frozen=True)
class ArraySource(TableSource):
    """Decoder of one NumPy file."""

    noun: ClassVar[str] = "NumPy file"
    columns: dict[str, Place] = field(kw_only=True)

    def stored(self, first: int) -> Iterator[dict[str, np.ndarray]]:
        """The stored values of all events from one on, in blocks."""
        return _stored(self.path, self.columns, self.length, first)


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    """An archive member, or the plain file for an empty name."""
    if name:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            yield file
    else:
        with path.open("rb") as file:
            yield file


def _heads(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Name, size and first bytes of every array in the file."""
    with path.open("rb") as file:
        if file.read(len(NPY_MAGIC)) == NPY_MAGIC:
            file.seek(0)
            yield "", path.stat().st_size, file.read(_MAX_HEADER)
            return
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            arrays = [member for member in members if member.filename.endswith(".npy")]
            if not arrays:
                raise NotEventsError(
                    "a zip archive without NumPy arrays",
                    where=path,
                    found=", ".join(member.filename for member in members[:12]) or "no files",
                    hint="recordings in an archive are unpacked first: unzip",
                )
            for member in arrays:
                with archive.open(member) as stored:
                    yield member.filename, member.file_size, stored.read(_MAX_HEADER)


def _headers(path: Path) -> list[Array]:
    """Headers of the arrays in the file, each checked against the available bytes."""
    arrays = []
    for name, size, head in _heads(path):
        file = io.BytesIO(head)
        version = np.lib.format.read_magic(file)
        if version not in _HEADER_READERS:
            raise ValueError(f"npy version {version}")
        shape, fortran, dtype = _HEADER_READERS[version](file)
        end = file.tell()
        refuse = partial(DataError, where=f"{path}, array {name}" if name else path)
        if dtype.hasobject:
            raise refuse(
                "Python objects instead of numbers",
                found=f"dtype {dtype}",
                expected="numeric arrays; objects would run code when read",
                hint="save the columns as plain arrays: np.savez(path, t=t, x=x, y=y, p=p)",
            )
        declared = prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or end + declared != size:
            longer = min(shape, default=0) >= 0 and end + declared < size
            raise refuse(
                "more data than the array's header declares" if longer else "truncated file",
                found=f"{max(size - end, 0)} bytes of data",
                expected=f"{declared} bytes for shape {shape} {dtype}",
                hint="several arrays saved into one file: join them first" if longer else None,
            )
        arrays.append(Array(name, shape, fortran, dtype, end))
    return arrays


def _find(path: Path, arrays: list[Array], given: str | None) -> tuple[dict[str, Place], int]:
    """Find t, x, y and p among the arrays, and their length; `given` orders a matrix."""
    flat = {array.member.removesuffix(".npy"): array for array in arrays if len(array.shape) == 1}
    names = find_columns(flat, given)
    if names:
        lengths = {name: flat[name].shape[0] for name in names.values()}
        if len(set(lengths.values())) > 1:
            raise DataError("event columns differ in length", where=path, found=lengths)
        return {key: (flat[name].rows(), ()) for key, name in names.items()}, lengths[names["t"]]
    for array in flat.values():
        names = find_columns(array.dtype.names or (), given)
        if names:
            return {key: (array.rows(), name) for key, name in names.items()}, array.shape[0]
    fields = [name for array in flat.values() for name in array.dtype.names or ()]
    check_stated(given, [*flat, *fields], path)
    width = len(column_letters(given) or "txyp")
    matrices = [a for a in arrays if len(a.shape) == 2 and width in a.shape and not a.dtype.names]
    matrices.sort(key=lambda a: "event" not in a.member.lower())
    if matrices and (len(matrices) == 1 or "event" in matrices[0].member.lower()):
        return _matrix_columns(path, matrices[0], width, given)
    raise NotEventsError(
        "no events in this NumPy file",
        where=path,
        found=", ".join(f"{a.member or 'array'} {a.dtype} {a.shape}" for a in arrays[:12])
        or "none",
        expected="arrays x, y, t, p, a record array with these fields, or one (K, 4) matrix",
        hint='say where they are: --columns "t=.. x=.. y=.. p=.." for arrays or fields of other '
        'names, "t x y p -" for a matrix with further columns',
    )


def _matrix_columns(
    path: Path, matrix: Array, width: int, given: str | None
) -> tuple[dict[str, Place], int]:
    """Columns of a (K, width) or (width, K) matrix in either memory order."""
    by_row = matrix.shape[1] == width
    length = matrix.shape[0] if by_row else matrix.shape[1]
    if by_row != matrix.fortran:
        places: list[Place] = [(matrix.rows(width), np.s_[:, index]) for index in range(width)]
    else:
        places = [(matrix.column(index, length), ()) for index in range(width)]
    order = column_letters(given) or "txyp"
    if length:
        tables = _tables(path, places, length)
        order = column_order(next(tables), given, str(path), tables)
    return {name: places[order.index(name)] for name in "txyp"}, length


def _tables(path: Path, places: list[Place], length: int) -> Iterator[np.ndarray]:
    """The rows of a matrix: the first ones, then all in blocks."""
    columns = {str(index): place for index, place in enumerate(places)}
    for end in (min(length, SAMPLE), length):
        for stored in _stored(path, columns, end):
            yield np.stack([*stored.values()], axis=1)


def _raw_start(path: Path, rows: Rows) -> int | None:
    """The byte of the file at which rows begin; None if they are compressed."""
    if not rows.member:
        return rows.skip
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(rows.member)
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb") as file:
        file.seek(member.header_offset)
        *_, name, extra = _LOCAL_HEADER.unpack(_read(file, _LOCAL_HEADER.size))
    return int(member.header_offset + _LOCAL_HEADER.size + name + extra + rows.skip)


def _last_times(path: Path, place: Place, length: int, start: int | None) -> np.ndarray:
    """The last `TAIL` stored times; those of a compressed array are read from its beginning."""
    rows, part = place
    begin = max(length - TAIL, 0)
    if start is None:
        return np.concatenate([part["t"] for part in _stored(path, {"t": place}, length, begin)])
    with path.open("rb") as file:
        file.seek(start + begin * rows.row.itemsize)
        data = np.frombuffer(_read(file, (length - begin) * rows.row.itemsize), rows.row)
    return np.asarray(data[part])


def _stored(
    path: Path, columns: dict[str, Place], length: int, begin: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """The stored values of the events begin .. length - 1, in blocks; rows are read only once."""
    with ExitStack() as stack:
        files = {}
        for rows in dict.fromkeys(rows for rows, _ in columns.values()):
            files[rows] = stack.enter_context(_member(path, rows.member))
            left = rows.skip + begin * rows.row.itemsize
            if not rows.member:
                files[rows].seek(left)
                continue
            while left:  # read instead of seek, so that the archive verifies its checksum
                left -= len(_read(files[rows], min(left, BLOCK)))
        for first in range(begin, length, BLOCK):
            count = min(BLOCK, length - first)
            read = {
                rows: np.frombuffer(_read(file, count * rows.row.itemsize), rows.row)
                for rows, file in files.items()
            }
            yield {name: read[rows][part] for name, (rows, part) in columns.items()}


def _read(file: IO[bytes], size: int) -> bytes:
    """Read exactly `size` bytes."""
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"file ends {size - len(data)} bytes early")
    return data


def _verify(path: Path, member: str) -> None:
    """Read an archive member to its end, where its checksum is compared.

    A read of a part of the rows, or of one column, does not come to the end, and what is delivered
    before it would have been used already.
    """
    if member:
        with _member(path, member) as file:
            while file.read(BLOCK):
                pass
