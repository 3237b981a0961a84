"""Event Stream (.es), version 2 of neuromorphicsystems/event_stream: DVS and ATIS streams.

Layout (neuromorphicsystems/event_stream:sepia.hpp): 15 bytes of signature and version, a type, for
sensors u16 width and height, then events of one byte (time step and polarity), u16 x and u16 y.
Rows count from the bottom there and from the top here. ATIS streams also contain exposure
measurements; these are counted and left out.
"""

from __future__ import annotations

from pathlib import Path

import numba as nb
import numpy as np
from numpy import ndarray

from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats.source import ReadOptions
from scaleevent.formats.words import OTHER, Machine, WordSource

SUFFIXES = (".es",)

MAGIC = b"Event Stream"
_TYPES = {0: "generic bytes", 1: "DVS", 2: "ATIS", 3: "asynchronous modular display", 4: "colour"}
_START = 20
_RECORD = 5
_RESET, _LATER = 0xFE, 0xFF
_LATER_US = 127
_ATIS_LATER = 0xFC
_ATIS_LATER_US = 63


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is an event stream."""
    return head.startswith(MAGIC)


def open_source(path: Path, options: ReadOptions) -> WordSource:
    """The decoder of a DVS or ATIS stream; `options` is ignored, as the format defines the rest.

    Raises:
        NotEventsError: A stream of another type.
        DataError: Another version, or a truncated header.
    """
    with path.open("rb") as file:
        head = file.read(_START)
    version, kind = head[12:15], head[15:16]
    if len(version) == 3 and version[0] != 2:
        where, found = f"{path}, byte 12", ".".join(map(str, version))
        raise DataError("event stream of another version", where=where, found=found, expected="2")
    if kind and kind[0] not in MACHINES:
        raise NotEventsError(
            "not an event stream of a camera",
            where=f"{path}, byte 15",
            found=_TYPES.get(kind[0], f"type {kind[0]}"),
            expected=" or ".join(f"{_TYPES[code]} (type {code})" for code in MACHINES),
        )
    if len(head) < _START:
        raise DataError(
            "truncated file",
            where=f"{path}, byte {len(head)}",
            found="the end of the file",
            expected=f"a header of {_START} bytes",
            hint="copy the file again",
        )
    width, height = (int.from_bytes(head[at : at + 2], "little") for at in (16, 18))
    if not width or not height:
        where, found = f"{path}, byte 16", f"{width}x{height}"
        raise DataError("the header's sensor size is broken", where=where, found=found)
    notes = {"version": ".".join(map(str, version)), "type": _TYPES[kind[0]]}
    machine = MACHINES[kind[0]]
    return WordSource(path, "ES", (height, width), notes, _START, machine, upside_down=True)


@nb.njit(nogil=True, cache=True, inline="always")
def _u16(data: ndarray, at: int) -> np.uint16:
    return np.uint16(data[at]) | np.uint16(data[at + 1]) << np.uint16(8)


@nb.njit(nogil=True, cache=True)
def decode_dvs(
    data: ndarray, state: ndarray, tally: ndarray, t: ndarray, x: ndarray, y: ndarray, p: ndarray
) -> tuple[int, int]:
    """Decode bytes until they end, possibly inside a record."""
    now = state[0]
    n = at = 0
    while at < data.size and n < len(t):
        byte = data[at]
        if byte == _LATER:
            now += _LATER_US
            at += 1
        elif byte == _RESET:
            tally[OTHER] += 1
            at += 1
        elif at + _RECORD <= data.size:
            now += np.int64(byte >> 1)
            t[n] = now
            x[n], y[n] = _u16(data, at + 1), _u16(data, at + 3)
            p[n] = byte & 1
            n += 1
            at += _RECORD
        else:
            break
    state[0] = now
    return at, n


@nb.njit(nogil=True, cache=True)
def decode_atis(
    data: ndarray, state: ndarray, tally: ndarray, t: ndarray, x: ndarray, y: ndarray, p: ndarray
) -> tuple[int, int]:
    """The same for ATIS streams: six bits of time step, one for polarity, one marks exposures."""
    now = state[0]
    n = at = 0
    while at < data.size and n < len(t):
        byte = data[at]
        if byte >= _ATIS_LATER:
            now += _ATIS_LATER_US * np.int64(byte & 3)
            at += 1
        elif at + _RECORD <= data.size:
            now += np.int64(byte >> 2)
            if byte & 1:
                tally[OTHER] += 1
            else:
                t[n] = now
                x[n], y[n] = _u16(data, at + 1), _u16(data, at + 3)
                p[n] = (byte >> 1) & 1
                n += 1
            at += _RECORD
        else:
            break
    state[0] = now
    return at, n


MACHINES = {
    1: Machine(np.dtype("u1"), (0,), decode_dvs, others="reset marks"),
    2: Machine(np.dtype("u1"), (0,), decode_atis, others="exposure measurements"),
}
"""Decoders by the type of the stream; the state is the time of the last event."""
