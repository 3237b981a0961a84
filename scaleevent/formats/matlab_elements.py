"""Where the numeric arrays of a MATLAB 5 file are, and their values, read piece by piece.

Layout: MathWorks, "MAT-File Format", version 5. An element is a tag of type and byte count, then
its bytes. A variable is an element of elements (flags, sizes, name, values), perhaps compressed
as one zlib stream; structs and cell arrays contain further ones. Only numeric arrays are read;
nothing is executed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from scaleevent.formats.source import BLOCK, errors_as_damage

_HEADER = 128
_TAG = 8
_PIECE = 1 << 20
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _OBJECT = 1, 2, 3
_COMPLEX = 0x800
_STORED = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13)
_NUMBERS = dict(zip(_STORED, "i1 u1 i2 u2 i4 u4 f4 f8 i8 u8".split(), strict=True))
_CLASSES = dict(enumerate("f8 f4 i1 u1 i2 u2 i4 u4 i8 u8".split(), start=6))

_DEPTH = 8  # structs within structs that are looked into
_MANY = 64  # elements of a struct or cell array that are looked into; larger ones are not
_MOST = 1 << 16  # arrays and structs in one variable


class Variable(NamedTuple):
    """The place of a variable's element in the file."""

    path: Path
    start: int  # position in bytes of the element, or of the zlib stream with the element
    stored: int  # bytes from there on
    compressed: bool  # a zlib stream
    order: str  # "<" or ">", the byte order


class Numbers(NamedTuple):
    """An array of real numbers: a variable or a part of one."""

    variable: Variable
    name: str  # such as "data.TD.ts", "rec(2).x" or "all{1}"
    shape: tuple[int, ...]
    begin: int  # position in bytes of the values in the variable's element; first index fastest
    stored: np.dtype  # their type in the file
    kind: np.dtype  # their type in MATLAB, which stores whole doubles in fewer bytes


class Column(NamedTuple):
    """A column of events in an array: value `place` of each `width` values from `first` on."""

    numbers: Numbers
    first: int = 0
    width: int = 1
    place: int = 0


def numeric_arrays(path: Path) -> list[Numbers]:
    """The numeric arrays in the variables of a file, in order. Every checksum is verified.

    Raises:
        DataError: Damage.
    """
    found: list[Numbers] = []
    at, size = _HEADER, path.stat().st_size
    with path.open("rb") as file:
        with errors_as_damage("MATLAB file", f"{path}, byte 126"):
            order = {b"IM": "<", b"MI": ">"}.get(file.read(_HEADER)[126:])
            if order is None:
                raise ValueError("no mark of the byte order")
        while at < size:
            file.seek(at)
            with errors_as_damage("MATLAB file", f"{path}, byte {at}"):
                tag = file.read(_TAG)
                if len(tag) < _TAG:
                    raise ValueError("the end of the file inside a tag")
                kind, stored = struct.unpack(f"{order}II", tag)
                if kind not in (_MATRIX, _COMPRESSED):
                    raise ValueError(f"an element of type {kind}")
                if at + _TAG + stored > size:
                    raise ValueError(f"{stored} bytes declared, {size - at - _TAG} there")
                packed = kind == _COMPRESSED
                start, whole = (at + _TAG, stored) if packed else (at, _TAG + stored)
                variable = Variable(path, start, whole, packed, order)
                found += _Walk(variable, _Stream(file, variable)).found
            at += _TAG + stored
    return found


def read_rows(
    columns: Mapping[str, Column], begin: int, end: int
) -> Iterator[dict[str, np.ndarray]]:
    """The rows begin .. end - 1 of some columns by name, in blocks, in their MATLAB types.

    A column that lies apart from the others has a stream of its own, so that memory does not grow
    with the size of the file.
    """
    with ExitStack() as stack:
        streams: dict[tuple[Numbers, int, int], _Stream] = {}
        for numbers, first, width, _ in columns.values():
            if (numbers, first, width) not in streams:
                file = stack.enter_context(numbers.variable.path.open("rb"))
                stream = _Stream(file, numbers.variable)
                stream.skip(numbers.begin + (first + begin * width) * numbers.stored.itemsize)
                streams[numbers, first, width] = stream
        for at in range(begin, end, BLOCK):
            count = min(BLOCK, end - at)
            read = {}
            for (numbers, first, width), stream in streams.items():
                data = stream.read(count * width * numbers.stored.itemsize)
                table = np.frombuffer(data, numbers.stored).reshape(count, width)
                read[numbers, first, width] = table.astype(numbers.kind, copy=False)
            yield {name: read[column[:3]][:, column.place] for name, column in columns.items()}


class _Stream:
    """The bytes of a variable's element, forwards only, decompressed in pieces."""

    def __init__(self, file: IO[bytes], variable: Variable) -> None:
        file.seek(variable.start)
        self.at = 0
        self._file, self._left = file, variable.stored
        self._packed = zlib.decompressobj() if variable.compressed else None
        self._waiting = b""  # compressed bytes that were read from the file
        self._ready = memoryview(b"")  # decompressed bytes

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        parts: list[bytes | memoryview] = []
        while size:
            part = self._some(size)
            if not part:
                raise ValueError(f"data that end after {self.at} bytes, {size} too early")
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes."""
        if self._packed is None and size <= self._left:
            self._file.seek(size, 1)
            self._left -= size
            self.at += size
            return
        while size:
            size -= len(self.read(min(size, _PIECE)))

    def finish(self) -> None:
        """Read to the end, where the checksum is compared; only zeros may be left."""
        while data := self._some(_PIECE):
            if bytes(data).strip(b"\0"):
                raise ValueError(f"data after the end of the element, {self.at} bytes")
        behind = self._packed.unused_data if self._packed else b""
        while behind or self._left:
            if behind.strip(b"\0"):
                raise ValueError("data after the end of the compressed stream")
            behind = self._file.read(min(self._left, _PIECE))
            self._left -= len(behind)
            if not behind:
                break

    def _some(self, most: int) -> bytes | memoryview:
        """The next bytes, at most `most`; none at the end."""
        if self._packed is None:
            data: bytes | memoryview = self._file.read(min(most, self._left, _PIECE))
            self._left -= len(data)
        else:
            if not self._ready:
                self._ready = memoryview(self._decompressed())
            data, self._ready = self._ready[:most], self._ready[most:]
        self.at += len(data)
        return data

    def _decompressed(self) -> bytes:
        """The next piece of the stream; empty at its end."""
        assert self._packed is not None
        data = b""
        while not data and not self._packed.eof:
            ended = not self._waiting and not self._left
            if not self._waiting:
                self._waiting = self._file.read(min(self._left, _PIECE >> 4))
                self._left -= len(self._waiting)
            data = self._packed.decompress(self._waiting, _PIECE >> 2)
            self._waiting = self._packed.unconsumed_tail
            if ended and not data and not self._packed.eof:
                raise ValueError(f"a compressed stream that breaks off after {self.at} bytes")
        return data


class _Walk:
    """Finds the numeric arrays in the element of one variable, from its first byte to its last."""

    def __init__(self, variable: Variable, stream: _Stream) -> None:
        self.found: list[Numbers] = []
        self._variable, self._stream = variable, stream
        self._met = 0
        kind, end, _ = self._element(variable.stored if not variable.compressed else 1 << 33)
        if kind != _MATRIX:
            raise ValueError(f"a compressed element of type {kind}")
        self._matrix(end, None, 0)
        stream.finish()

    def _matrix(self, end: int, name: str | None, depth: int) -> None:
        """The arrays of a matrix whose parts begin here and end at byte `end`."""
        self._met += 1
        if self._met > _MOST:
            raise ValueError(f"more than {_MOST:,} arrays in one variable")
        flags, sizes, own = (self._content(end, most) for most in (8, 128, 1 << 12))
        if len(flags) != 8:
            raise ValueError(f"array flags of {len(flags)} bytes")
        bits: int = struct.unpack_from(f"{self._variable.order}I", flags)[0]
        shape = struct.unpack_from(f"{self._variable.order}{len(sizes) // 4}i", sizes)
        if len(shape) < 2 or min(shape) < 0:
            raise ValueError(f"array sizes {shape}")
        name, kind = own.decode("latin-1") if name is None else name, bits & 0xFF
        if kind in _CLASSES and not bits & _COMPLEX:
            self._numbers(end, name, shape, np.dtype(_CLASSES[kind]))
        elif kind in (_CELL, _STRUCT, _OBJECT) and prod(shape) <= _MANY and depth < _DEPTH:
            if kind == _OBJECT:
                self._content(end, 1 << 12)  # the name of its class
            fields = [""] if kind == _CELL else [f".{name}" for name in self._field_names(end)]
            for k in range(1, prod(shape) + 1):
                part = f"{{{k}}}" if kind == _CELL else f"({k})" if prod(shape) > 1 else ""
                for field in fields:
                    self._part(end, f"{name}{part}{field}", depth)
            if end - self._stream.at >= _TAG:
                raise ValueError(f"{end - self._stream.at} bytes after the last part of {name}")
        self._stream.skip(end - self._stream.at)

    def _part(self, end: int, name: str, depth: int) -> None:
        """A field of a struct or an element of a cell array."""
        kind, close, after = self._element(end)
        if kind != _MATRIX:
            raise ValueError(f"{name} is an element of type {kind}")
        if close > self._stream.at:
            self._matrix(close, name, depth + 1)
        self._stream.skip(after - self._stream.at)

    def _numbers(self, end: int, name: str, shape: tuple[int, ...], kind: np.dtype) -> None:
        """Where the values of an array are."""
        code, close, after = self._element(end)
        if code not in _NUMBERS:
            raise ValueError(f"numbers of type {code}")
        dtype = np.dtype(self._variable.order + _NUMBERS[code])
        if not np.can_cast(dtype, kind):
            raise ValueError(f"an array of {kind} stored as {dtype}")
        begin = self._stream.at
        if close - begin != prod(shape) * dtype.itemsize or end - after >= _TAG:
            raise ValueError(f"{end - begin} bytes for an array {shape} of {dtype}")
        self.found.append(Numbers(self._variable, name, shape, begin, dtype, kind))

    def _field_names(self, end: int) -> list[str]:
        """Names of the fields of a struct."""
        width = int.from_bytes(
            self._content(end, 8), "little" if self._variable.order == "<" else "big"
        )
        names = self._content(end, _PIECE)
        if not 0 < width or len(names) % width:
            raise ValueError(f"field names of {width} bytes in {len(names)}")
        places = range(0, len(names), width)
        return [names[at : at + width].split(b"\0")[0].decode("latin-1") for at in places]

    def _content(self, end: int, most: int) -> bytes:
        """The bytes of the element that begins here, at most `most`."""
        _, close, after = self._element(end)
        if close - self._stream.at > most:
            raise ValueError(f"{close - self._stream.at} bytes in a heading")
        data = self._stream.read(close - self._stream.at)
        self._stream.skip(after - self._stream.at)
        return data

    def _element(self, end: int) -> tuple[int, int, int]:
        """Type of the element that begins here, where its content ends, and where the next begins.

        The stream is left where the content begins.
        """
        stream, number = self._stream, f"{self._variable.order}I"
        if end - stream.at < _TAG:
            raise ValueError("the end of the data")
        kind: int = struct.unpack(number, stream.read(4))[0]
        if kind >> 16:  # content of up to four bytes is stored in the tag itself
            kind, length, after = kind & 0xFFFF, kind >> 16, stream.at + 4
            if length > 4:
                raise ValueError(f"a short element of {length} bytes")
        else:
            length = struct.unpack(number, stream.read(4))[0]
            after = stream.at + length + -length % 8
        if stream.at + length > end:
            raise ValueError(f"{length} bytes declared, {end - stream.at} there")
        return kind, stream.at + length, min(after, end)
