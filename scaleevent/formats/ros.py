"""ROS 1 and ROS 2 bags: one topic of events and one of images, read with the package rosbags."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.errors import DataError, MissingPackageError, NotEventsError
from scaleevent.formats import evt
from scaleevent.formats.columns import to_microseconds
from scaleevent.formats.ros_messages import (
    mono_columns,
    read_compressed_image,
    read_event_array,
    read_image,
    read_packet,
)
from scaleevent.formats.source import (
    BLOCK,
    Columns,
    FileSource,
    Flaw,
    Frame,
    RawBlock,
    ReadOptions,
    TimeIndex,
    TimeUnit,
    empty_columns,
    errors_as_damage,
)
from scaleevent.formats.units import event_time_unit
from scaleevent.formats.words import DROPPED, OTHER, TALLY, TRIGGERS, UNKNOWN

SUFFIXES = (".bag", ".db3", ".mcap")

ROS1 = b"#ROSBAG V2.0"
SQLITE = b"SQLite format 3\0"
MCAP = b"\x89MCAP0\r\n"
ARRAYS = ("dvs_msgs/msg/EventArray", "prophesee_event_msgs/msg/EventArray")
PACKETS = ("event_camera_msgs/msg/EventPacket", "event_array_msgs/msg/EventArray")
IMAGES = {
    "sensor_msgs/msg/Image": read_image,
    "sensor_msgs/msg/CompressedImage": read_compressed_image,
}


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is a bag."""
    return head.startswith((ROS1, SQLITE, MCAP))


def open_source(path: Path, options: ReadOptions) -> RosSource:
    """Find events and images in a bag.

    The first topic of events and of images by name is used; `notes` lists the others.

    Args:
        path: A .bag, .db3 or .mcap file.
        options: The unit of 64-bit time stamps in old bags; other stamps define their unit.

    Raises:
        MissingPackageError: The package rosbags is not installed.
        NotEventsError: No topic of events, or an unsupported encoding.
        DataError: A damaged bag.
    """
    with _opened(path) as bag:
        kinds = {link.topic: link.msgtype for link in bag.connections}
        events = sorted(topic for topic, kind in kinds.items() if kind in ARRAYS + PACKETS)
        images = sorted(topic for topic, kind in kinds.items() if kind in IMAGES)
        if not events:
            raise NotEventsError(
                "no events in this bag",
                where=path,
                found=", ".join(f"{topic} ({kind})" for topic, kind in kinds.items()) or "no topic",
                expected="a topic of " + ", ".join(ARRAYS + PACKETS),
            )
        topic = events[0]
        notes = {"topic": f"{topic} ({kinds[topic]})"}
        if len(events) > 1:
            notes["other event topics"] = ", ".join(events[1:])
        cdr = not _starts_with(path, ROS1)
        links = [link for link in bag.connections if link.topic == topic]
        whole_stamps = any("uint64 ts" in str(link.msgdef.data) for link in links)
        first = next((data for _, _, data in bag.messages(links)), None)
        size, encoding = None, None
        unit: TimeUnit | None = None
        if first is not None and kinds[topic] in PACKETS:
            packet = read_packet(first, cdr)
            size, encoding = (packet.height, packet.width), packet.encoding
            if encoding not in ("evt3", "mono"):
                raise NotEventsError(
                    "events in an unsupported encoding",
                    where=f"{path}, topic {topic}",
                    found=encoding,
                    expected="evt3 or mono",
                )
            notes["encoding"] = encoding
        elif first is not None:
            size, rows = read_event_array(first, cdr, whole_stamps)
            if whole_stamps:
                unit = event_time_unit(
                    {name: rows[name] for name in "txy"}, len(rows), given=options.time_unit,
                    stated=None, size=options.size or size, where=f"{path}, topic {topic}",
                )  # fmt: skip
        if images and encoding == "evt3":
            notes["images left out"] = (
                f"{', '.join(images)}: on the clock of ROS, the events are on the sensor's"
            )
            images = []
        elif images:
            notes["images"] = images[0]
        kind = "ROS 2 bag" if cdr else "ROS 1 bag"
        size = size if size and min(size) else None
        image = images[0] if images else None
    name, choices = (unit.name, unit.choices) if unit else (None, ())
    return RosSource(path, kind, size, notes, cdr, topic, encoding, name, image, choices=choices)


@dataclass(frozen=True)
class RosSource(FileSource):
    """Decoder of the events of one bag.

    Args:
        cdr: Whether messages are encoded as in ROS 2.
        topic: Topic of the events.
        encoding: "evt3", "mono", or None for arrays of events.
        unit: Unit of 64-bit time stamps; None if stamps are seconds and nanoseconds.
        images: Topic of the images, or None.
        index: Messages by the time of their events; the index of the bag finds them again by the
            time at which they were recorded.
    """

    cdr: bool
    topic: str
    encoding: str | None
    unit: str | None
    images: str | None
    index: TimeIndex[tuple[int | None, int, int, np.ndarray]] = field(
        default_factory=TimeIndex, compare=False, repr=False
    )

    @property
    def has_frames(self) -> bool:
        """Whether there are images on the clock of the events."""
        return self.images is not None

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """The events from the last recorded message before the range, or from the first.

        Small messages are joined to blocks.
        """
        recorded, skipped, first, state = self.index.before(
            start_us, (None, 0, 0, np.array(evt.EVT3_STATE))
        )
        state = state.copy()
        tally = np.zeros(TALLY, np.int64)
        decoders: dict[str | None, Callable[[bytes], Columns]] = {
            "evt3": partial(self._decode_evt3, state=state, tally=tally),
            "mono": lambda data: mono_columns(read_packet(data, self.cdr)),
            None: self._decode_array,
        }
        decode = decoders[self.encoding]
        parts: list[Columns] = []
        flaws: list[Flaw] = []
        gathered = 0
        done: RawBlock | None = None
        for index, (_, stamp, data) in enumerate(self._messages(self.topic, recorded), skipped):
            if done is not None:
                # of several messages recorded at one time, the bag's index finds only the first
                place = (stamp, index, first, state.copy()) if stamp != recorded else None
                self.index.note(done.t, first, place)
                done = None
            recorded = stamp
            try:
                parts.append(decode(data))
                gathered += len(parts[-1][0])
            except DataError as error:
                where = f"topic {self.topic}, message {index}"
                flaws.append(
                    Flaw("damaged message", where, f"{error.what}: {error.found}", count=1)
                )
            if gathered >= BLOCK or flaws:
                done = _block(first, parts, tally, flaws)
                yield done
                first += gathered
                parts, flaws, gathered = [], [], 0
        yield _block(first, parts, tally, flaws)

    def frames(self) -> Iterator[Frame]:
        """The images, at the stamps of their headers; ROS does not state the exposure."""
        if self.images is None:
            return
        for index, (kind, _, data) in enumerate(self._messages(self.images)):
            try:
                stamp, image = IMAGES[kind](data, self.cdr)
            except DataError as error:
                error.where = f"{self.path}, topic {self.images}, message {index}"
                raise
            yield Frame(image, stamp // 1000, stamp // 1000)

    def _messages(self, topic: str, start: int | None = None) -> Iterator[tuple[str, int, bytes]]:
        """Type, time of recording in ns and content of a topic's messages, from `start` on."""
        with _opened(self.path) as bag:
            links = [link for link in bag.connections if link.topic == topic]
            for link, stamp, data in bag.messages(links, start=start):
                yield link.msgtype, stamp, data

    def _decode_array(self, data: bytes) -> Columns:
        """The events of a message that is an array of events."""
        _, rows = read_event_array(data, self.cdr, self.unit is not None)
        if self.unit is None:
            t = rows["s"].astype(np.int64) * 1_000_000 + rows["ns"] // 1000
        else:
            t = to_microseconds(rows["t"], self.unit, 0, str(self.path))
        if len(rows) and rows["p"].max() > 1:
            raise DataError("polarity out of range", found=f"p = {rows['p'].max()}")
        return t, rows["x"], rows["y"], rows["p"]

    def _decode_evt3(self, data: bytes, tally: np.ndarray, state: np.ndarray) -> Columns:
        """The events of one message of EVT3 words; `state` continues from one to the next."""
        packet = read_packet(data, self.cdr)
        words = np.frombuffer(packet.words[: len(packet.words) // 2 * 2], "<u2")
        t, x, y, p = empty_columns((len(words) + 1) * evt.VECTOR)
        _, n = evt.decode_evt3(words, state, tally, t, x, y, p)
        return t[:n].copy(), x[:n].copy(), y[:n].copy(), p[:n].copy()


def _block(first: int, parts: list[Columns], tally: np.ndarray, flaws: list[Flaw]) -> RawBlock:
    """Join decoded messages and their counts to one block; resets the tally."""
    t, x, y, p = (np.concatenate(column) for column in zip(empty_columns(0), *parts, strict=True))
    dropped = {"before the first time and row": int(tally[DROPPED])}
    ignored = {"external triggers": int(tally[TRIGGERS]), "other words": int(tally[OTHER])}
    if tally[UNKNOWN]:
        where = f"before event {first + sum(len(part[0]) for part in parts)}"
        unknown = int(tally[UNKNOWN])
        flaws = [*flaws, Flaw("unknown words", where, f"{unknown} of them", count=unknown)]
    tally[:] = 0
    return RawBlock(first, t, x, y, p, dropped, ignored, tuple(flaws))


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The opened bag, with every error of the package converted to a DataError."""
    try:
        from rosbags.rosbag1 import Reader as Reader1
        from rosbags.rosbag2 import Reader as Reader2
    except ImportError as error:
        raise MissingPackageError("rosbags", "ros", "reading ROS bags") from error
    hint = "copy it again; ros tools can reindex a recording that was cut short"
    with errors_as_damage("bag", path, hint):
        with (Reader1 if _starts_with(path, ROS1) else Reader2)(path) as bag:
            yield bag
