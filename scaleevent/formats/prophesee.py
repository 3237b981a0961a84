"""Prophesee RAW files: reading the header and choosing the decoder of the words after it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from scaleevent.errors import DataError
from scaleevent.formats import evt
from scaleevent.formats.headers import MAX_HEADER_BYTES, header_lines, key_values
from scaleevent.formats.source import ReadOptions
from scaleevent.formats.words import Machine, WordSource

SUFFIXES = (".raw",)

MARK = b"% "

GENERATIONS = (
    (re.compile(r"genx320"), (320, 320)),
    (re.compile(r"gen ?4|imx636|imx646|evk4"), (720, 1280)),
    (re.compile(r"gen ?3"), (480, 640)),
)
"""(height, width) by the sensor generation in a header that does not state the geometry."""

_RAW_KEYS = {"evt", "format", "integrator_name", "camera_integrator_name", "plugin_name"}

ENCODINGS = {
    "EVT2": Machine(np.dtype("<u4"), evt.EVT2_STATE, evt.decode_evt2),
    "EVT2.1": Machine(
        np.dtype("<u8"), evt.EVT2_STATE, partial(evt.decode_evt21, False), evt.WIDE_VECTOR
    ),
    "EVT3": Machine(np.dtype("<u2"), evt.EVT3_STATE, evt.decode_evt3, evt.VECTOR),
}
HALVES_SWAPPED = replace(ENCODINGS["EVT2.1"], decode=partial(evt.decode_evt21, True))
"""EVT2.1 with "endianness legacy": the high half of each word is stored first."""


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is a RAW file with "% key value" lines."""
    lines, _ = header_lines(head, MARK)
    keys = {key.lower() for key in key_values(lines)}
    if keys & _RAW_KEYS:
        return True
    named = path.suffix.lower() == ".raw"
    return named and bool(lines) and not lines[0].startswith("Data file")  # a renamed DAT file


@dataclass(frozen=True)
class Layout:
    """What the header of a RAW file or stream says.

    Args:
        encoding: EVT2, EVT2.1 or EVT3.
        machine: The decoder of the words.
        size: (height, width) of the sensor, if stated.
        header: Its lines, first word to the rest.
        start: Position of the first word in bytes.
    """

    encoding: str
    machine: Machine
    size: tuple[int, int] | None
    header: dict[str, str]
    start: int


def open_source(path: Path, options: ReadOptions) -> WordSource:
    """The decoder of a RAW file; `options` is ignored, since the format defines the rest.

    Raises:
        DataError: An unsupported encoding, or a broken header.
    """
    with path.open("rb") as file:
        found = read_layout(file.read(MAX_HEADER_BYTES), path)
    return WordSource(path, found.encoding, found.size, found.header, found.start, found.machine)


def read_layout(head: bytes, where: object) -> Layout:
    """What the header says at the beginning of `head`; `where` it stands is for messages.

    Raises:
        DataError: An unsupported encoding, or a broken header.
    """
    lines, start = header_lines(head, MARK)
    header = key_values(lines)
    details = dict(
        part.split("=", 1) for part in header.get("format", "").split(";") if "=" in part
    )
    encoding = _encoding(header, where)
    machine = ENCODINGS[encoding]
    if encoding == "EVT2.1":
        order = header.get("endianness", details.get("endianness", "little")).strip().lower()
        if order not in ("little", "legacy"):
            place, expected = f"{where}, header", "little or legacy"
            raise DataError("unknown endianness", where=place, found=order, expected=expected)
        machine = HALVES_SWAPPED if order == "legacy" else machine
    return Layout(encoding, machine, _size(header, details, where), header, start)


def _encoding(header: dict[str, str], source: object) -> str:
    """EVT2, EVT2.1 or EVT3, by the keys format and evt; older headers without both mean EVT2."""
    named = header.get("format", "").split(";")[0].strip().upper().replace("EVT21", "EVT2.1")
    named = named or {"2.0": "EVT2", "2.1": "EVT2.1", "3.0": "EVT3"}.get(
        header.get("evt", "2.0").strip(), f"evt {header.get('evt')}"
    )
    if named not in ENCODINGS:
        where, expected = f"{source}, header", " or ".join(ENCODINGS)
        raise DataError(
            "RAW encoding is not supported", where=where, found=named, expected=expected
        )
    return named


def _size(
    header: dict[str, str], details: dict[str, str], source: object
) -> tuple[int, int] | None:
    """(height, width) in the header, or that of the sensor generation named there."""
    if "width" in details and "height" in details:
        stated = [details["height"], details["width"]]
    elif "geometry" in header:
        stated = header["geometry"].strip().split("x")[::-1]
    else:
        text = " ".join(f"{key} {value}" for key, value in header.items() if key != "Date").lower()
        return next((size for pattern, size in GENERATIONS if pattern.search(text)), None)
    if len(stated) != 2 or not all(re.fullmatch(r"[1-9][0-9]{0,4}", part) for part in stated):
        raise DataError(
            "the header's sensor size is broken", where=f"{source}, header", found="x".join(stated)
        )
    return int(stated[0]), int(stated[1])
