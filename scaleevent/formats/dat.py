"""Prophesee DAT files: 8-byte records of change detection events, versions 1 and 2.

Layout: "% key value" lines, a byte with the event type and one with the record size, then records
of u32 time in us and u32 pixel (docs.prophesee.ai, "DAT file format").
"""

from __future__ import annotations

from pathlib import Path

import numba as nb
import numpy as np
from numpy import ndarray

from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats.headers import MAX_HEADER_BYTES, header_lines, key_values
from scaleevent.formats.source import ReadOptions
from scaleevent.formats.words import Machine, WordSource, unwrap

MARK = b"% "
_TYPES = {0: "2D events", 12: "CD events"}
_OTHER_TYPES = {14: "external triggers", 1: "EM events", 40: "optical flow"}
_RECORD = 8


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is DAT, by its "% " lines or by its file name."""
    lines, _ = header_lines(head, MARK)
    marked = bool(lines) and (lines[0].startswith("Data file") or "Version" in key_values(lines))
    return marked or bool(lines) and path.suffix.lower() == ".dat"


def open_source(path: Path, options: ReadOptions) -> WordSource:
    """The decoder of a DAT file; `options` is ignored, since the format defines the rest.

    Raises:
        NotEventsError: Records of another kind, such as triggers.
        DataError: A truncated or invalid header.
    """
    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
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
    """(height, width) if the header states it."""
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
def _times(words: ndarray, state: ndarray, t: ndarray) -> None:
    """Fill `t` from the lower halves of the records."""
    latest, wraps = state[0], state[1]
    for k in range(words.size):
        t[k], latest, wraps = unwrap(words[k] & np.uint64(0xFFFFFFFF), latest, wraps)
    state[0], state[1] = latest, wraps


@nb.njit(nogil=True, cache=True)
def decode_v1(
    words: ndarray, state: ndarray, tally: ndarray, t: ndarray, x: ndarray, y: ndarray, p: ndarray
) -> tuple[int, int]:
    """Decode records with 9 bits for the column and 8 for the row."""
    _times(words, state, t)
    for k in range(words.size):
        pixel = np.uint32(words[k] >> np.uint64(32))
        x[k] = pixel & np.uint32(0x1FF)
        y[k] = (pixel >> np.uint32(9)) & np.uint32(0xFF)
        p[k] = (pixel >> np.uint32(17)) & np.uint32(1)
    return words.size, words.size


@nb.njit(nogil=True, cache=True)
def decode_v2(
    words: ndarray, state: ndarray, tally: ndarray, t: ndarray, x: ndarray, y: ndarray, p: ndarray
) -> tuple[int, int]:
    """Decode records with 14 bits each for column and row."""
    _times(words, state, t)
    for k in range(words.size):
        pixel = np.uint32(words[k] >> np.uint64(32))
        x[k] = pixel & np.uint32(0x3FFF)
        y[k] = (pixel >> np.uint32(14)) & np.uint32(0x3FFF)
        p[k] = (pixel >> np.uint32(28)) & np.uint32(1)
    return words.size, words.size


def _first_state() -> np.ndarray:
    return np.zeros(2, np.int64)  # latest time, number of wraps


V1 = Machine(np.dtype("<u8"), _first_state, decode_v1)
V2 = Machine(np.dtype("<u8"), _first_state, decode_v2)
