"""The header of an AEDAT4 file, the index at its end, and the heads of its packets."""

from __future__ import annotations

import struct
from collections import Counter
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree

from scaleevent.formats.source import Flaw, errors_as_damage

MAGIC = b"#!AER-DAT4.0\r\n"
damage = partial(errors_as_damage, "or truncated AEDAT4 file")


class Header(NamedTuple):
    """What the header of a file states."""

    first: int  # position of the first packet
    compression: int  # 0: none, 1 and 2: LZ4, 3 and 4: Zstandard
    table: int  # position of the index after the packets; below 1 if there is none
    description: str  # XML
    cut: Flaw | None  # the damage if the file ends before its index


def read_header(path: Path) -> Header:
    """Read the header, and refuse a broken one.

    The decoder reads the flatbuffer of the header without bounds checks and aborts the whole
    process on some broken ones (aedat 2.3.0). Layout: u32 length; flatbuffer table with compression
    (int32), position of the data table (int64), XML description (string).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(len(MAGIC))
        prefix = file.read(4)
        length = int.from_bytes(prefix, "little")
        buffer = file.read(min(length, 1 << 24))
    with damage(f"{path}, header at byte {len(MAGIC)}"):
        if len(prefix) < 4 or len(buffer) < length:
            raise ValueError(f"header of {length} bytes in a file of {size}")
        at = _table_field(buffer, 0)
        compression = _number(buffer, "<i", at) if at else 0
        at = _table_field(buffer, 1)
        table = _number(buffer, "<q", at) if at else -1
        at = _table_field(buffer, 2)
        text = at + _number(buffer, "<I", at) if at else 0
        text_length = _number(buffer, "<I", text)
        if not 0 <= compression <= 4 or not at or text + 4 + text_length > length:
            raise ValueError(f"compression {compression}, description of {text_length} bytes")
        description = buffer[text + 4 : text + 4 + text_length].decode("utf-8")
    cut = None
    if table > size:
        expected = f"data up to byte {table}"
        hint = "copy the file again; a recording cut short loses its last events"
        cut = Flaw("truncated file", f"byte {size}", "the end of the file", expected, hint)
    return Header(len(MAGIC) + 4 + length, compression, table, description, cut)


def descriptions(xml: str) -> dict[int, tuple[str, str]]:
    """Name and camera of every stream that the header names."""
    try:
        root = ElementTree.fromstring(xml if "<!" not in xml else "<dv/>")
    except ElementTree.ParseError:
        return {}
    found = {}
    for node in root.iterfind("node[@name='outInfo']/node"):
        attributes = {one.get("key"): one.text or "" for one in node.iter("attr")}
        if (number := node.get("name", "")).isdecimal():
            names = attributes.get("originalOutputName", ""), attributes.get("source", "")
            found[int(number)] = names
    return found


def count_packets(path: Path, header: Header) -> Counter[int]:
    """Number of packets of every stream, from their heads: stream (int32) and size (int32)."""
    counts: Counter[int] = Counter()
    size = path.stat().st_size
    end = min(header.table, size) if header.table > 0 else size
    at = header.first
    with path.open("rb") as file:
        while at + 8 <= end:
            file.seek(at)
            stream, length = struct.unpack("<ii", file.read(8))
            if length < 0:
                break
            counts[stream] += 1
            at += 8 + length
    return counts


def index_trouble(path: Path, header: Header) -> str:
    """What is wrong with the index after the packets, which reading does not need; or ""."""
    if header.table < 1:
        return "none; the recording was not closed, its last events may be missing"
    size = path.stat().st_size
    if header.table > size:
        return ""  # the file is cut before it, which is damage
    with path.open("rb") as file:
        file.seek(header.table)
        try:
            end = header.table + _frame_length(file, header.compression)
        except (ValueError, struct.error):
            return f"damaged or cut off at byte {size}; the events before it are whole"
    return "" if end <= size else f"cut off at byte {size}; the events before it are whole"


def _frame_length(file: BinaryIO, compression: int) -> int:
    """Length of a compressed frame at the position of a file, from the heads of its blocks.

    Layouts as in the format descriptions of LZ4 frames and Zstandard (RFC 8878).

    Raises:
        ValueError: Something else stands there.
        struct.error: It ends early.
    """

    def number(kind: str) -> int:
        return int(struct.unpack(kind, file.read(struct.calcsize(kind)))[0])

    start = file.tell()
    if compression == 0:
        return 4 + number("<I")
    magic, flags = number("<I"), number("B")
    if magic != (0x184D2204 if compression < 3 else 0xFD2FB528):
        raise ValueError("no frame")
    if compression < 3:
        file.seek(2 + 8 * (flags >> 3 & 1) + 4 * (flags & 1), 1)
        while block := number("<I") & 0x7FFFFFFF:
            file.seek(block + 4 * (flags >> 4 & 1), 1)
        return file.tell() - start + 4 * (flags >> 2 & 1)
    single = flags >> 5 & 1
    sizes = (single, 2, 4, 8)[flags >> 6] + (0, 1, 2, 4)[flags & 3] + 1 - single
    file.seek(sizes, 1)
    last = 0
    while not last:
        head = number("<H") | number("B") << 16
        last, kind = head & 1, head >> 1 & 3
        file.seek(1 if kind == 1 else head >> 3, 1)
    return file.tell() - start + 4 * (flags >> 2 & 1)


def _table_field(buffer: bytes, index: int) -> int:
    """Position of a field of the root table of a flatbuffer, 0 if it is absent."""
    table = _number(buffer, "<I", 0)
    offsets = table - _number(buffer, "<i", table)
    entry = 4 + 2 * index
    if entry >= _number(buffer, "<H", offsets):
        return 0
    offset = _number(buffer, "<H", offsets + entry)
    return table + offset if offset else 0


def _number(buffer: bytes, kind: str, at: int) -> int:
    """One integer in the buffer."""
    if at < 0:
        raise ValueError("offset before the header")
    return int(struct.unpack_from(kind, buffer, at)[0])
