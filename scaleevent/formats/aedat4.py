"""AEDAT4 (iniVation): events and frames of one recording, read with the optional package aedat."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from xml.etree import ElementTree

import numpy as np

from scaleevent.errors import ConfigError, DataError, MissingPackageError, NotEventsError
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


class Stream(NamedTuple):
    """One stream of a file, as its header describes it."""

    id: int
    kind: str  # "events", "frame", "imus" or "triggers"
    size: tuple[int, int] | None  # (height, width)
    name: str  # as its program called it
    source: str  # name of the camera
    packets: int | None = None  # in the file; None if not counted

    def __str__(self) -> str:
        """Number, kind, name and camera, for people."""
        words = [f"{self.id} {self.kind}", self.name and f'"{self.name}"', self.source]
        return " ".join(filter(None, words)) + (" (empty)" if self.packets == 0 else "")


def open_source(path: Path, options: ReadOptions) -> Aedat4Source:
    """The decoder of an AEDAT4 file.

    Of several event streams the first by id that is not empty is read, of several frame streams
    first those of the same camera.

    Args:
        path: The file.
        options: Id or name of the stream to read (`topic`), and of that of the frames
            (`image_topic`); the format defines the rest.

    Raises:
        MissingPackageError: The package aedat is not installed.
        NotEventsError: No event stream.
        ConfigError: There is no such stream.
        DataError: A broken header.
    """
    header = _read_header(path)
    streams = _streams(path, header)
    events = [stream for stream in streams if stream.kind == "events"]
    frames = [stream for stream in streams if stream.kind == "frame"]
    if not events:
        kinds = ", ".join(stream.kind for stream in streams)
        raise NotEventsError("no event stream in this AEDAT4 file", where=path, found=kinds)
    chosen = _chosen(events, options.topic, "--topic", path, lambda s: (not s.packets, s.id))
    images = None
    choices = [_choice("events", chosen, events, options.topic, "--topic")]
    if frames or options.image_topic is not None:
        images = _chosen(
            frames,
            options.image_topic,
            "--image-topic",
            path,
            lambda s: (not s.packets, s.source != chosen.source, s.size != chosen.size, s.id),
        )
        choices.append(_choice("frames", images, frames, options.image_topic, "--image-topic"))
        if images.source != chosen.source:
            choices.append(f"the frames are of camera {images.source}, the events {chosen.source}")
    notes = {"streams": ", ".join(map(str, streams))}
    if trouble := _index_trouble(path, header):
        notes["index"] = trouble
    return Aedat4Source(
        path,
        "AEDAT4",
        chosen.size,
        notes,
        chosen.id,
        images.id if images else None,
        header,
        choices=tuple(filter(None, choices)),
    )


def _streams(path: Path, header: Header) -> list[Stream]:
    """The streams by id; packets are counted where several streams are of one kind."""
    described = _descriptions(header.description)
    streams = [
        Stream(
            id,
            str(known["type"]),
            (known["height"], known["width"]) if known.get("height") and known["width"] else None,
            *described.get(id, ("", "")),
        )
        for id, known in sorted(_decoder(path).id_to_stream().items())
    ]
    kinds = Counter(stream.kind for stream in streams)
    if max(kinds["events"], kinds["frame"]) < 2:
        return streams
    packets = _count_packets(path, header)
    return [stream._replace(packets=packets[stream.id]) for stream in streams]


def _chosen(
    streams: list[Stream],
    named: str | None,
    flag: str,
    path: Path,
    order: Callable[[Stream], tuple[object, ...]],
) -> Stream:
    """The first stream by `order`, or the one that the caller names."""
    if named is None:
        return min(streams, key=order)
    found = [s for s in streams if str(s.id) == named] or [s for s in streams if s.name == named]
    if len(found) != 1:
        raise ConfigError(
            "several streams of this name" if found else "no such stream",
            where=f"{path}, {flag} {named}",
            found="; ".join(map(str, streams)) or "no stream of this kind",
            expected="the id of one of them" if streams else None,
        )
    return found[0]


def _choice(
    what: str, chosen: Stream, streams: list[Stream], named: str | None, flag: str
) -> str | None:
    """A line about a choice among several streams."""
    others = "; ".join(str(stream) for stream in streams if stream is not chosen)
    return f"{what} of stream {chosen}; not of {others} ({flag})" if others and not named else None


@dataclass(frozen=True)
class Aedat4Source(FileSource):
    """Decoder of one AEDAT4 file.

    Args:
        events: Id of the event stream.
        images: Id of the frame stream, or None.
        header: What the header states.
    """

    events: int
    images: int | None
    header: Header

    @property
    def has_frames(self) -> bool:
        """Whether the file has a frame stream."""
        return self.images is not None

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """All events from the beginning; the small packets of the camera are joined to blocks."""
        if self.header.cut is not None:
            yield RawBlock.empty(0, self.header.cut)
        packets: list[np.ndarray] = []
        first = gathered = met = 0
        try:
            for packet in self._packets(self.events):
                met += 1
                packets.append(packet["events"])
                gathered += len(packets[-1])
                if gathered >= BLOCK:
                    yield _to_block(first, packets)
                    first += gathered
                    packets, gathered = [], 0
        except DataError as error:
            if packets:  # the events before the damage
                yield _to_block(first, packets)
            lost = _count_packets(self.path, self.header)[self.events] - met
            if lost <= 0:
                raise
            first += gathered
            found = f"{error.what}: {error.found}; {lost} of {met + lost} packets are lost"
            count = lost * max(first // max(met, 1), 1)  # of events, as in the packets before
            flaw = Flaw("the rest cannot be read", f"after event {first - 1}", found, count=count)
            yield RawBlock.empty(first, flaw)
            return
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
                if cut := self.header.cut:
                    raise cut.error(self.path, cut.hint) from error
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


class Header(NamedTuple):
    """What the header of a file states."""

    first: int  # position of the first packet
    compression: int  # 0: none, 1 and 2: LZ4, 3 and 4: Zstandard
    table: int  # position of the index after the packets; below 1 if there is none
    description: str  # XML
    cut: Flaw | None  # the damage if the file ends before its index


def _read_header(path: Path) -> Header:
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
    with _damage(f"{path}, header at byte {len(MAGIC)}"):
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


def _descriptions(xml: str) -> dict[int, tuple[str, str]]:
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


def _count_packets(path: Path, header: Header) -> Counter[int]:
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


def _index_trouble(path: Path, header: Header) -> str:
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
