"""Prophesee DAT files: 8-byte records of change detection events, versions 1 and 2.

Layout: "% key value" lines, a byte with the event type and one with the record size, then records
of u32 time in us and u32 pixel (docs.prophesee.ai, "DAT file format").
"""

from __future__ import annotations

from pathlib import Path

import numba as nb
import numpy as np

from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats.headers import MOST_BYTES, header_lines, key_values
from scaleevent.formats.source import Told
from scaleevent.formats.words import Machine, WordSource, unwrap

MARK = b"% "
_TYPES = {0: "2D events", 12: "CD events"}
_OTHER_TYPES = {14: "external triggers", 1: "EM events", 40: "optical flow"}
_RECORD = 8


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is DAT: "% " lines of its own, or its ending."""
    lines, _ = header_lines(head, MARK)
    told = bool(lines) and (lines[0].startswith("Data file") or "Version" in key_values(lines))
    return told or bool(lines) and path.suffix.lower() == ".dat"


def open_source(path: Path, told: Told) -> WordSource:
    """The decoder of a DAT file; nothing need be told, the format fixes it.

    Raises:
        NotEventsError: Records of another kind, such as triggers.
        DataError: A header that is cut short or cannot be.
    """
    with path.open("rb") as file:
        head = file.read(MOST_BYTES)
    lines, start = header_lines(head, MARK)
    header = key_values(lines)
    kind = head[start : start + 2]
    if len(kind) < 2:
        raise DataError(
            "truncated file",
            where=f"{path}, byte {start + len(kind)}",
            found="the end of the file",
            expected="event type and record size",
            hint="copy the file again",
        )
    if kind[0] not in _TYPES:
        raise NotEventsError(
            "no change detection events in this DAT file",
            where=f"{path}, byte {start}",
            found=_OTHER_TYPES.get(kind[0], f"event type {kind[0]}"),
            expected=" or ".join(f"{name} ({code})" for code, name in _TYPES.items()),
        )
    version = header.get("Version", "2").strip()
    if kind[1] != _RECORD or version not in ("1", "2"):
        raise DataError(
            "DAT records of another layout",
            where=f"{path}, byte {start + 1}",
            found=f"version {version}, records of {kind[1]} bytes",
            expected=f"version 1 or 2, records of {_RECORD} bytes",
        )
    machine = V1 if version == "1" else V2
    return WordSource(path, f"DAT v{version}", _size(header, path), header, start + 2, machine)


def _size(header: dict[str, str], path: Path) -> tuple[int, int] | None:
    """(height, width) that the header states."""
    stated = [header.get(key, "").strip() for key in ("Height", "Width")]
    if not any(stated):
        return None
    if not all(side.isdigit() and 0 < int(side) < 1 << 15 for side in stated):
        raise DataError(
            "the header's sensor size is broken",
            where=f"{path}, header",
            found=f"Width {stated[1]!r}, Height {stated[0]!r}",
        )
    return int(stated[0]), int(stated[1])


@nb.njit(nogil=True, cache=True)
def _times(words, state, t):  # noqa: ANN001, ANN202
    """Fill t from the lower halves of the records."""
    latest, wraps = state[0], state[1]
    for k in range(words.size):
        t[k], latest, wraps = unwrap(words[k] & np.uint64(0xFFFFFFFF), latest, wraps)
    state[0], state[1] = latest, wraps


@nb.njit(nogil=True, cache=True)
def decode_v1(words, state, tally, t, x, y, p):  # noqa: ANN001, ANN201
    """Decode records with 9 bits of column, 8 of row.

    Returns:
        Records used (all), events written.
    """
    _times(words, state, t)
    for k in range(words.size):
        pixel = np.uint32(words[k] >> np.uint64(32))
        x[k] = pixel & np.uint32(0x1FF)
        y[k] = (pixel >> np.uint32(9)) & np.uint32(0xFF)
        p[k] = (pixel >> np.uint32(17)) & np.uint32(1)
    return words.size, words.size


@nb.njit(nogil=True, cache=True)
def decode_v2(words, state, tally, t, x, y, p):  # noqa: ANN001, ANN201
    """Decode records with 14 bits each of column and row.

    Returns:
        Records used (all), events written.
    """
    _times(words, state, t)
    for k in range(words.size):
        pixel = np.uint32(words[k] >> np.uint64(32))
        x[k] = pixel & np.uint32(0x3FFF)
        y[k] = (pixel >> np.uint32(14)) & np.uint32(0x3FFF)
        p[k] = (pixel >> np.uint32(28)) & np.uint32(1)
    return words.size, words.size


def _first_state() -> np.ndarray:
    return np.zeros(2, np.int64)  # latest time, wraps


V1 = Machine(np.dtype("<u8"), _first_state, decode_v1)
V2 = Machine(np.dtype("<u8"), _first_state, decode_v2)
