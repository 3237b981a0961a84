"""Prophesee's ECF codec of HDF5 chunks (filter 36559), decoded without a plug-in.

A chunk consists of a word with the number of events and the packing, then times as steps and run
lengths, then rows, columns and polarities, together or apart (prophesee-ai/hdf5_ecf, layout only).
All numbers are little-endian.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy import ndarray

from scaleevent.errors import DataError
from scaleevent.system.hdf5_process import Hdf5File

FILTER = 0x8ECF
EVENT = np.dtype([("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])


def is_coded(file: Hdf5File, name: str) -> bool:
    """Whether the chunks of a dataset are encoded with the codec."""
    return FILTER in file.filters(name)


def read_rows(file: Hdf5File, name: str, first: int, last: int) -> np.ndarray:
    """(last - first,) records x, y, p, t of a dataset.

    Raises:
        DataError: A chunk cannot be decoded.
    """
    out = np.empty(last - first, EVENT)
    size = chunk_rows(file, name)
    for start in range(first // size * size, last, size):
        rows = read_chunk(file, name, start)
        begin, end = max(first, start), min(last, start + len(rows))
        out[begin - first : end - first] = rows[begin - start : end - start]
    return out


def chunk_rows(file: Hdf5File, name: str) -> int:
    """Number of rows in a chunk of a dataset with the codec."""
    chunks = file.datasets[name].chunks
    if chunks is None:
        raise DataError("codec without chunks", where=f"{file.path}, dataset {name}")
    return chunks[0]


def read_chunk(file: Hdf5File, name: str, start: int) -> np.ndarray:
    """The records of the chunk that begins with row `start`.

    HDF5 pads the last chunk before it encodes it; a program that writes chunks directly may not.
    """
    mask, stored = file.chunk(name, start)
    data = file.datasets[name]
    where = f"{file.path}, dataset {name}, chunk of row {start}"
    size = chunk_rows(file, name)
    length = min(size, len(data) - start)
    rows = np.empty(length, EVENT)
    if mask & 1:  # this chunk is stored without encoding
        if len(stored) < length * data.dtype.itemsize:
            raise DataError("truncated chunk", where=where, found=f"{len(stored)} bytes")
        plain = np.frombuffer(stored, data.dtype, length)
        for field in "xypt":
            rows[field] = plain[field]
        return rows
    for count in dict.fromkeys((size, length)):
        t, xy = np.empty(count, np.int64), np.empty((2, count), np.uint16)
        p = np.empty(count, np.uint8)
        decoded = decode(stored, t, xy[0], xy[1], p)
        if decoded == count:
            rows["t"], rows["x"], rows["y"], rows["p"] = (part[:length] for part in (t, *xy, p))
            return rows
    raise DataError(
        "damaged ECF chunk",
        where=where,
        found="codes that end too early or too late" if decoded < 0 else f"{decoded} events",
        expected=f"{length} events",
        hint="copy the file again",
    )


@nb.njit(nogil=True, cache=True, inline="always")
def _u16(data: ndarray, at: int) -> int:
    return int(np.int64(data[at]) | np.int64(data[at + 1]) << 8)


@nb.njit(nogil=True, cache=True, inline="always")
def _u32(data: ndarray, at: int) -> int:
    return _u16(data, at) | _u16(data, at + 2) << 16


@nb.njit(nogil=True, cache=True)
def decode(data: ndarray, t: ndarray, x: ndarray, y: ndarray, p: ndarray) -> int:
    """Decode one chunk of (N,) uint8 into (K,) t int64, x uint16, y uint16 and p uint8.

    Returns:
        Number of events in the chunk. If it is not K, nothing is decoded; -1 if the codes end too
        early or too late.
    """
    if data.size < 12:
        return -1
    header = _u32(data, 0)
    count = header >> 2
    if count != t.size:
        return count
    at = _decode_times(data, 4, t)
    if at < 0:
        return -1
    if header & 2:
        return count if _decode_packed(data, at, x, y, p) >= 0 else -1
    at = _decode_runs(data, at, y, 2, 5)
    if at < 0:
        return -1
    if header & 1:
        return count if _decode_columns_packed(data, at, x, p) >= 0 else -1
    at = _decode_columns_masked(data, at, x)
    if at < 0:
        return -1
    return count if _decode_runs(data, at, p, 1, 7) >= 0 else -1


@nb.njit(nogil=True, cache=True)
def _decode_times(data: ndarray, at: int, t: ndarray) -> int:
    """A byte has a time step and a number of events; steps of 15 add up to a long one."""
    now = _u32(data, at) | _u32(data, at + 4) << 32
    at += 8
    n = 0
    while n < t.size:
        if at >= data.size:
            return -1
        step, repeat = int(np.int64(data[at] >> 4)), int(np.int64(data[at] & 15))
        at += 1
        if step == 15:
            long, shift = repeat, 4
            while at < data.size and data[at] >> 4 == 15:
                if shift > 59:
                    return -1
                long |= int(np.int64(data[at] & 15)) << shift
                shift += 4
                at += 1
            now += long
            continue
        now += step
        if repeat == 15:
            if at + 2 > data.size:
                return -1
            repeat = _u16(data, at)
            at += 2
        if n + repeat > t.size:
            return -1
        t[n : n + repeat] = now
        n += repeat
    return at


@nb.njit(nogil=True, cache=True)
def _decode_runs(data: ndarray, at: int, out: ndarray, size: int, bits: int) -> int:
    """Codes of `size` bytes: a value above `bits` of run length; a longer run length follows."""
    limit = (1 << bits) - 1
    n = 0
    while n < out.size:
        if at + size > data.size:
            return -1
        code = _u16(data, at) if size == 2 else int(np.int64(data[at]))
        at += size
        repeat = code & limit
        if repeat == limit:
            if at + 2 > data.size:
                return -1
            repeat = _u16(data, at)
            at += 2
        if n + repeat > out.size:
            return -1
        out[n : n + repeat] = code >> bits
        n += repeat
    return at


@nb.njit(nogil=True, cache=True, inline="always")
def _one_of_four(a: int, b: int, c: int, k: int, bits: int) -> int:
    """Value k in three words of 4 * bits; low bits that are free belong to the next value."""
    if k == 0:
        value = a >> bits
    elif k == 1:
        value = b >> 2 * bits << bits | a & (1 << bits) - 1
    elif k == 2:
        value = c >> 3 * bits << 2 * bits | b & (1 << 2 * bits) - 1
    else:
        value = c & (1 << 3 * bits) - 1
    return value


@nb.njit(nogil=True, cache=True)
def _decode_packed(data: ndarray, at: int, x: ndarray, y: ndarray, p: ndarray) -> int:
    """Four events of 24 bits in three 32-bit words."""
    for n in range(0, x.size, 4):
        if at + 12 > data.size:
            return -1
        a, b, c = _u32(data, at), _u32(data, at + 4), _u32(data, at + 8)
        at += 12
        for k in range(min(4, x.size - n)):
            v = _one_of_four(a, b, c, k, 8)
            y[n + k] = (v >> 12) & 0x7FF
            x[n + k] = (v >> 1) & 0x7FF
            p[n + k] = v & 1
    return at


@nb.njit(nogil=True, cache=True)
def _decode_columns_packed(data: ndarray, at: int, x: ndarray, p: ndarray) -> int:
    """Four columns with polarity, 12 bits each, in three 16-bit words."""
    for n in range(0, x.size, 4):
        if at + 6 > data.size:
            return -1
        a, b, c = _u16(data, at), _u16(data, at + 2), _u16(data, at + 4)
        at += 6
        for k in range(min(4, x.size - n)):
            v = _one_of_four(a, b, c, k, 4)
            x[n + k] = v >> 1
            p[n + k] = v & 1
    return at


@nb.njit(nogil=True, cache=True)
def _decode_columns_masked(data: ndarray, at: int, x: ndarray) -> int:
    """A column and a mask of the five columns after it that fired too."""
    n = 0
    while n < x.size:
        if at + 2 > data.size:
            return -1
        code = _u16(data, at)
        at += 2
        column = code >> 5
        x[n] = column
        n += 1
        for k in range(5):
            if code >> (4 - k) & 1:
                if n == x.size:
                    return -1
                x[n] = column + k + 1
                n += 1
    return at
