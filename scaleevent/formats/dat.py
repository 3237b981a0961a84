"""Prophesee DAT files: 8-byte records of change detection events, versions 1 and 2.

Layout: "% key value" lines, a byte with the event type and one with the record size, then records
of u32 time in us and u32 pixel (docs.prophesee.ai, "DAT file format").
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numba as nb
import numpy as np
from numpy import ndarray

from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats.headers import MAX_HEADER_BYTES, header_lines, key_values
from scaleevent.formats.source import ReadOptions
from scaleevent.formats.words import CLOCK, Machine, WordSource, unwrap

SUFFIXES = (".dat",)

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
    if kind[1] != _RECORD or version not in MACHINES:
        raise DataError(
            "DAT records of another layout",
            where=f"{path}, byte {start + 1}",
            found=f"version {version}, records of {kind[1]} bytes",
            expected=f"version 1 or 2, records of {_RECORD} bytes",
        )
    size, machine = _size(header, path), MACHINES[version]
    return WordSource(path, f"DAT v{version}", size, header, start + 2, machine)


def _size(header: dict[str, str], path: Path) -> tuple[int, int] | None:
    """(height, width) if the header states it."""
    stated = [header.get(key, "").strip() for key in ("Height", "Width")]
    if not any(stated):
        return None
    if not all(side.isdigit() and 0 < int(side) < 1 << 15 for side in stated):
        where, found = f"{path}, header", f"Width {stated[1]!r}, Height {stated[0]!r}"
        raise DataError("the header's sensor size is broken", where=where, found=found)
    return int(stated[0]), int(stated[1])


@nb.njit(nogil=True, cache=True)
def decode(
    column_bits: int,
    row_bits: int,
    words: ndarray,
    state: ndarray,
    tally: ndarray,
    t: ndarray,
    x: ndarray,
    y: ndarray,
    p: ndarray,
) -> tuple[int, int]:
    """Decode records: time in the lower half, then column, row and polarity from bit 32 on."""
    latest, wraps = state[0], state[1]
    for k in range(words.size):
        t[k], latest, wraps = unwrap(words[k] & np.uint64(0xFFFFFFFF), latest, wraps)
    state[0], state[1] = latest, wraps
    column, row = np.uint32((1 << column_bits) - 1), np.uint32((1 << row_bits) - 1)
    row_at, polarity_at = np.uint32(column_bits), np.uint32(column_bits + row_bits)
    for k in range(words.size):
        pixel = np.uint32(words[k] >> np.uint64(32))
        x[k] = pixel & column
        y[k] = (pixel >> row_at) & row
        p[k] = (pixel >> polarity_at) & np.uint32(1)
    return words.size, words.size


MACHINES = {
    "1": Machine(np.dtype("<u8"), CLOCK, partial(decode, 9, 8)),
    "2": Machine(np.dtype("<u8"), CLOCK, partial(decode, 14, 14)),
}
"""Decoders by the version of the format."""
