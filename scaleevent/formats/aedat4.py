"""AEDAT4 (iniVation): events and frames of one recording, read with the optional package aedat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scaleevent.errors import ConfigError, DataError, MissingPackageError, NotEventsError
from scaleevent.formats.aedat4_header import (
    MAGIC,
    Header,
    count_packets,
    damage,
    descriptions,
    index_trouble,
    read_header,
)
from scaleevent.formats.source import BLOCK, FileSource, Flaw, Frame, RawBlock, ReadOptions

SUFFIXES = (".aedat4",)

if TYPE_CHECKING:
    import aedat


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
    header = read_header(path)
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
    if trouble := index_trouble(path, header):
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
    described = descriptions(header.description)
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
    packets = count_packets(path, header)
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
            lost = count_packets(self.path, self.header)[self.events] - met
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

    def count_frames(self) -> int:
        """Number of frames, from the heads of the packets."""
        if self.images is None:
            return 0
        return count_packets(self.path, self.header)[self.images]

    def _packets(self, stream: int) -> Iterator[dict[str, Any]]:
        """The packets of one stream; every error of the decoder is converted to a DataError."""
        decoder = _decoder(self.path)
        index = 0
        while True:
            try:
                with damage(f"{self.path}, packet {index}"):
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
    with damage(f"{path}, header"):
        return aedat.Decoder(path)
