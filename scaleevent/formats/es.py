"""Event Stream (.es), version 2 of neuromorphicsystems/event_stream: DVS streams.

Layout (neuromorphicsystems/event_stream:README.md and python/event_stream.cpp): 15 bytes of
signature and version, a type, for sensors u16 width and height, then one byte of time step and
polarity an event with u16 x and y. Rows count from the bottom there and from the top here.
"""

from __future__ import annotations

from pathlib import Path

import numba as nb
import numpy as np

from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats.words import Machine, WordSource

MAGIC = b"Event Stream"
_TYPES = {0: "generic bytes", 1: "DVS", 2: "ATIS", 3: "asynchronous modular display", 4: "colour"}
_DVS = 1
_START = 20
_RECORD = 5
_RESET, _LATER = 0xFE, 0xFF
_LATER_US = 127


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is an event stream."""
    return head.startswith(MAGIC)


def open_source(path: Path, time_unit: str | None) -> WordSource:
    """The decoder of a DVS event stream; `time_unit` is not needed, the format fixes it.

    Raises:
        NotEventsError: A stream of another type.
        DataError: Another version, or a header cut short.
    """
    with path.open("rb") as file:
        head = file.read(_START)
    version, kind = head[12:15], head[15:16]
    if len(version) == 3 and version[0] != 2:
        raise DataError(
            "event stream of another version",
            where=f"{path}, byte 12",
            found=".".join(map(str, version)),
            expected="2",
        )
    if kind and kind[0] != _DVS:
        raise NotEventsError(
            "not a DVS event stream",
            where=f"{path}, byte 15",
            found=_TYPES.get(kind[0], f"type {kind[0]}"),
            expected=f"{_TYPES[_DVS]} (type {_DVS})",
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
    notes = {"version": ".".join(map(str, version))}
    return WordSource(path, "ES", (height, width), notes, _START, DVS, upside_down=True)


@nb.njit(nogil=True, cache=True)
def decode(data, state, tally, t, x, y, p):  # noqa: ANN001, ANN201
    """Decode bytes until they end or end inside a record.

    Returns:
        Bytes used, events written.
    """
    now = state[0]
    n = at = 0
    while at < data.size and n < len(t):
        byte = data[at]
        if byte == _LATER:
            now += _LATER_US
            at += 1
        elif byte == _RESET:  # the recorder's own mark, no event
            at += 1
        elif at + _RECORD <= data.size:
            now += np.int64(byte >> 1)
            t[n] = now
            x[n] = np.uint16(data[at + 1]) | np.uint16(data[at + 2]) << np.uint16(8)
            y[n] = np.uint16(data[at + 3]) | np.uint16(data[at + 4]) << np.uint16(8)
            p[n] = byte & 1
            n += 1
            at += _RECORD
        else:
            break
    state[0] = now
    return at, n


DVS = Machine(np.dtype("u1"), lambda: np.zeros(1, np.int64), decode)
