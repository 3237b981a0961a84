"""AEDAT4 (iniVation): events and frames of one recording, read with the optional package aedat."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent.errors import DataError, MissingPackageError, NotEventsError
from scaleevent.formats.source import (
    BLOCK,
    FileSource,
    Flaw,
    Frame,
    RawBlock,
    ReadOptions,
    errors_as_damage,
)

SUFFIXES = (".aedat4",)

if TYPE_CHECKING:
    import aedat

MAGIC = b"#!AER-DAT4.0\r\n"
_damage = partial(errors_as_damage, "or truncated AEDAT4 file")


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is AEDAT4."""
    return head.startswith(MAGIC)


def open_source(path: Path, options: ReadOptions) -> Aedat4Source:
    """The decoder of an AEDAT4 file; `options` is ignored, since the format defines the rest.

    Of several event or frame streams the one with the lowest id is used; `notes` states which.

    Raises:
        MissingPackageError: The package aedat is not installed.
        DataError: A broken header, or no event stream.
    """
    cut = _check_header(path)
    streams = _decoder(path).id_to_stream()
    events = sorted(id for id, kind in streams.items() if kind["type"] == "events")
    frames = sorted(id for id, kind in streams.items() if kind["type"] == "frame")
    if not events:
        kinds = ", ".join(kind["type"] for kind in streams.values())
        raise NotEventsError("no event stream in this AEDAT4 file", where=path, found=kinds)
    notes = {"streams": ", ".join(f"{id} {streams[id]['type']}" for id in sorted(streams))}
    if len(events) > 1 or len(frames) > 1:
        notes["read"] = f"events {events[0]}" + (f", frames {frames[0]}" if frames else "")
    height, width = streams[events[0]]["height"], streams[events[0]]["width"]
    size = (height, width) if height and width else None
    images = frames[0] if frames else None
    return Aedat4Source(path, "AEDAT4", size, notes, events[0], images, cut)


@dataclass(frozen=True)
class Aedat4Source(FileSource):
    """Decoder of one AEDAT4 file.

    Args:
        events: Id of the event stream.
        images: Id of the frame stream, or None.
        cut: The damage if the file is shorter than its header states.
    """

    events: int
    images: int | None
    cut: Flaw | None

    @property
    def has_frames(self) -> bool:
        """Whether the file has a frame stream."""
        return self.images is not None

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """All events from the beginning; the small packets of the camera are joined to blocks."""
        if self.cut is not None:
            yield RawBlock.empty(0, self.cut)
        packets: list[np.ndarray] = []
        first = gathered = 0
        try:
            for packet in self._packets(self.events):
                packets.append(packet["events"])
                gathered += len(packets[-1])
                if gathered >= BLOCK:
                    yield _to_block(first, packets)
                    first += gathered
                    packets, gathered = [], 0
        except DataError:
            if packets:  # the events before the damage
                yield _to_block(first, packets)
            raise
        if packets:
            yield _to_block(first, packets)

    def frames(self) -> Iterator[Frame]:
        """The images of the camera: grey, or RGB."""
        if self.images is None:
            return
        for packet in self._packets(self.images):
            frame = packet["frame"]
            image = frame["pixels"]
            if image.dtype == np.uint16:
                image = (image >> 8).astype(np.uint8)
            start = frame["exposure_begin_t"] or frame["begin_t"] or frame["t"]
            end = frame["exposure_end_t"] or frame["end_t"] or start
            yield Frame(image[..., :3] if image.ndim == 3 else image, start, end)

    def _packets(self, stream: int) -> Iterator[dict[str, Any]]:
        """The packets of one stream; every error of the decoder is converted to a DataError."""
        decoder = _decoder(self.path)
        index = 0
        while True:
            try:
                with _damage(f"{self.path}, packet {index}"):
                    packet = next(decoder, None)
            except DataError as error:
                if self.cut is not None:
                    raise self.cut.error(self.path, self.cut.hint) from error
                raise
            if packet is None:
                return
            index += 1
            if packet["stream_id"] == stream:
                yield packet


def _to_block(first: int, packets: list[np.ndarray]) -> RawBlock:
    """Join packets to one block."""
    events = np.concatenate(packets)
    x, y = (np.ascontiguousarray(events[name]) for name in "xy")
    return RawBlock(first, events["t"].astype(np.int64), x, y, events["on"].astype(np.uint8))


def _decoder(path: Path) -> aedat.Decoder:
    """The decoder of the optional package."""
    try:
        import aedat
    except ImportError as error:
        raise MissingPackageError("aedat", "aedat", "reading AEDAT4 files") from error
    with _damage(f"{path}, header"):
        return aedat.Decoder(path)


def _check_header(path: Path) -> Flaw | None:
    """Refuse a broken header; return a flaw if the data end too early.

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
    with _damage(f"{path}, header at byte {len(MAGIC)}"):
        if len(prefix) < 4 or len(buffer) < length:
            raise ValueError(f"header of {length} bytes in a file of {size}")
        at = _table_field(buffer, 0)
        compression = _number(buffer, "<i", at) if at else 0
        at = _table_field(buffer, 1)
        table_position = _number(buffer, "<q", at) if at else -1
        at = _table_field(buffer, 2)
        text = at + _number(buffer, "<I", at) if at else 0
        text_length = _number(buffer, "<I", text)
        if not 0 <= compression <= 4 or not at or text + 4 + text_length > length:
            raise ValueError(f"compression {compression}, description of {text_length} bytes")
        buffer[text + 4 : text + 4 + text_length].decode("utf-8")
    if table_position > size:
        expected = f"data up to byte {table_position}"
        hint = "copy the file again; a recording cut short loses its last events"
        return Flaw("truncated file", f"byte {size}", "the end of the file", expected, hint)
    return None


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
