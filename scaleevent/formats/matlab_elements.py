"""Numeric arrays in the data elements of MATLAB 5 files.

Layout: MathWorks, "MAT-File Format", version 5. An element is a tag of type and byte count, then
its bytes. A variable is an element of elements (flags, sizes, name, values), perhaps compressed
as one zlib stream. Only numeric arrays and those in structs are read; nothing is executed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scaleevent.formats.source import errors_as_damage

_HEADER = 128
_TAG = 8
_PIECE = 1 << 20
_PREFIX = 1 << 12  # bytes that certainly contain flags, sizes and name
_MATRIX, _COMPRESSED = 14, 15
_STRUCT = 2
_COMPLEX = 0x800
_STORED = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13)
_NUMBERS = dict(zip(_STORED, "i1 u1 i2 u2 i4 u4 f4 f8 i8 u8".split(), strict=True))
_CLASSES = dict(enumerate("f8 f4 i1 u1 i2 u2 i4 u4 i8 u8".split(), start=6))


class Numbers(NamedTuple):
    """An array of real numbers: a variable or a field of a struct."""

    name: str
    shape: tuple[int, ...]
    values: np.ndarray  # first index fastest, in the type in which they are stored
    kind: np.dtype  # their type in MATLAB, which stores whole doubles in fewer bytes

    def part(self, first: int, count: int) -> np.ndarray:
        """`count` values from `first` on, in their MATLAB type."""
        return self.values[first : first + count].astype(self.kind, copy=False)


class Variable(NamedTuple):
    """A variable of a file, not yet loaded."""

    path: Path
    start: int  # position in bytes of its element, or of the zlib stream with its element
    stored: int  # bytes from there on
    compressed: bool  # a zlib stream
    order: str  # "<" or ">", the byte order
    length: int  # bytes of the element without compression
    name: str
    shape: tuple[int, ...]
    numeric: bool  # an array of real numbers
    is_struct: bool  # one struct

    def load(self) -> dict[str, Numbers]:
        """Load the array, or the arrays in the fields of the struct, by name.

        Raises:
            DataError: Damage.
        """
        with errors_as_damage("MATLAB file", f"{self.path}, variable {self.name}"):
            data = _unpacked(self.path, self.start, self.stored, self.compressed, self.length)
            data, order = data[_TAG:], self.order
            found = _fields(data, order) if self.is_struct else [_array(data, order)]
            return {numbers.name: numbers for numbers in found if numbers is not None}


def variables(path: Path) -> Iterator[Variable]:
    """The variables of a file, in order.

    Raises:
        DataError: Damage.
    """
    at, size = _HEADER, path.stat().st_size
    with path.open("rb") as file:
        with errors_as_damage("MATLAB file", f"{path}, byte 126"):
            order = {b"IM": "<", b"MI": ">"}.get(file.read(_HEADER)[126:])
            if order is None:
                raise ValueError("no mark of the byte order")
        while at < size:
            file.seek(at)
            with errors_as_damage("MATLAB file", f"{path}, byte {at}"):
                kind, stored = _tag(file.read(_TAG), order)
                if kind not in (_MATRIX, _COMPRESSED):
                    raise ValueError(f"an element of type {kind}")
                if at + _TAG + stored > size:
                    raise ValueError(f"{stored} bytes declared, {size - at - _TAG} there")
                yield _described(path, at, stored, kind == _COMPRESSED, order)
            at += _TAG + stored


def _described(path: Path, at: int, stored: int, compressed: bool, order: str) -> Variable:
    """The variable whose tag is at byte `at`."""
    start, stored = (at + _TAG, stored) if compressed else (at, _TAG + stored)
    data = _unpacked(path, start, stored, compressed, _PREFIX)
    kind, length = _tag(data[:_TAG], order)
    if kind != _MATRIX:
        raise ValueError(f"a compressed element of type {kind}")
    kind, flags, shape, name = _heading(_elements(data[_TAG:], order), order)
    numeric = kind in _CLASSES and not flags & _COMPLEX
    is_struct = kind == _STRUCT and prod(shape) == 1
    return Variable(
        path, start, stored, compressed, order, _TAG + length, name, shape, numeric, is_struct
    )


def _unpacked(path: Path, start: int, stored: int, compressed: bool, limit: int) -> memoryview:
    """At most `limit` bytes of an element; a stream that ends there is verified by its checksum."""
    with path.open("rb") as file:
        file.seek(start)
        if not compressed:
            return memoryview(file.read(min(stored, limit)))
        stream, data = zlib.decompressobj(), bytearray()
        while stored and len(data) <= limit and not stream.eof:
            piece = file.read(min(stored, _PIECE))
            stored -= len(piece)
            data += stream.decompress(piece, limit + 1 - len(data))
            if not piece:
                break
    if len(data) <= limit and not stream.eof:
        raise ValueError(f"a compressed stream that ends after {len(data)} bytes")
    return memoryview(data)[:limit]


def _fields(data: memoryview, order: str) -> Iterator[Numbers | None]:
    """The numeric fields of a struct."""
    elements = _elements(data, order)
    _heading(elements, order)
    width = int.from_bytes(next(elements)[1], "little" if order == "<" else "big")
    names = bytes(next(elements)[1])
    if not 0 < width <= len(names) or len(names) % width:
        raise ValueError(f"field names of {width} bytes in {len(names)}")
    for place in range(0, len(names), width):
        name = names[place : place + width].split(b"\0")[0].decode("latin-1")
        kind, content = next(elements)
        if kind != _MATRIX:
            raise ValueError(f"a field of type {kind}")
        if content:
            yield _array(content, order, name)


def _array(data: memoryview, order: str, field: str | None = None) -> Numbers | None:
    """The array with the elements in `data`; None if its values are not real numbers."""
    elements = _elements(data, order)
    kind, flags, shape, name = _heading(elements, order)
    if kind not in _CLASSES or flags & _COMPLEX:
        return None
    stored, content = next(elements)
    if stored not in _NUMBERS:
        raise ValueError(f"numbers of type {stored}")
    dtype = np.dtype(order + _NUMBERS[stored])
    if len(content) != prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(content)} bytes for an array {shape} of {dtype}")
    return Numbers(field or name, shape, np.frombuffer(content, dtype), np.dtype(_CLASSES[kind]))


def _heading(
    elements: Iterator[tuple[int, memoryview]], order: str
) -> tuple[int, int, tuple[int, ...], str]:
    """Class, flags, sizes and name of a variable."""
    (_, stored), (_, sizes), (_, name) = (next(elements) for _ in range(3))
    if len(stored) != 8:
        raise ValueError(f"array flags of {len(stored)} bytes")
    flags = struct.unpack_from(f"{order}I", stored)[0]
    shape = struct.unpack_from(f"{order}{len(sizes) // 4}i", sizes)
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"array sizes {shape}")
    return flags & 0xFF, flags, shape, bytes(name).decode("latin-1")


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of the elements in `data`; a ValueError if one extends beyond it."""
    after = 0
    while True:
        at = after
        kind, length = _tag(data[at : at + _TAG], order)
        if kind >> 16:  # content of up to four bytes is stored in the tag itself
            kind, length, begin, after = kind & 0xFFFF, kind >> 16, at + 4, at + _TAG
            if length > 4:
                raise ValueError(f"a short element of {length} bytes")
        else:
            begin = at + _TAG
            after = begin + length + -length % 8
        if begin + length > len(data):
            raise ValueError(f"{length} bytes declared, {max(0, len(data) - begin)} there")
        yield kind, data[begin : begin + length]


def _tag(data: bytes | memoryview, order: str) -> tuple[int, int]:
    """Type and byte count from a tag."""
    if len(data) < _TAG:
        raise ValueError("the end of the data")
    return struct.unpack(f"{order}II", data)
