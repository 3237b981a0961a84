"""ROS 1 and ROS 2 bags: one topic of events and one of images, read with the package rosbags."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from scaleevent.errors import ConfigError, DataError
from scaleevent.formats import evt
from scaleevent.formats.columns import to_microseconds
from scaleevent.formats.ros_bags import MCAP, ROS1, SQLITE, Bag, Topic, open_bag
from scaleevent.formats.ros_libcaer import libcaer_cmp_columns, libcaer_columns
from scaleevent.formats.ros_messages import (
    Packet,
    mono_columns,
    packet_words,
    read_compressed_image,
    read_event_array,
    read_image,
    read_packet,
)
from scaleevent.formats.ros_topics import Stream, choose_events, choose_images
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
)
from scaleevent.formats.units import event_time_unit
from scaleevent.formats.words import DROPPED, OTHER, TALLY, TRIGGERS, UNKNOWN

SUFFIXES = (".bag", ".db3", ".mcap")

ARRAYS = ("dvs_msgs/msg/EventArray", "prophesee_event_msgs/msg/EventArray")
PACKETS = ("event_camera_msgs/msg/EventPacket", "event_array_msgs/msg/EventArray")
IMAGES = {
    "sensor_msgs/msg/Image": read_image,
    "sensor_msgs/msg/CompressedImage": read_compressed_image,
}
DROPPED_OF = {
    "evt3": "before the first time and row",
    "libcaer": "marked invalid",
    "libcaer_cmp": "before the first column or row",
}
"""Why events of an encoding are counted as dropped."""

LOST = ("the rest cannot be read", "not as many messages as declared")
"""Damage that is counted in messages."""

LOOKED_AT = 20  # messages in which the properties of a topic are looked for
ANOTHER_CLOCK_US = 86_400_000_000  # images that begin a day apart from the events are on another


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is a bag."""
    return head.startswith((ROS1, SQLITE, MCAP))


def open_source(path: Path, options: ReadOptions) -> RosSource:
    """Find events and images in a bag; `ros_topics` chooses, `notes` lists all topics.

    Args:
        path: A .bag, .db3 or .mcap file, or the folder of a ROS 2 bag.
        options: The topics to read; the unit of 64-bit time stamps in old bags (other stamps define
            their unit).

    Raises:
        MissingPackageError: The package rosbags is not installed.
        NotEventsError: No topic of events, or an unsupported encoding.
        ConfigError: A named topic that cannot be read.
        DataError: A damaged bag.
    """
    bag = open_bag(path)
    kinds = (*ARRAYS, *PACKETS, *IMAGES)
    names = sorted(name for name, topic in bag.topics.items() if topic.kind in kinds)
    firsts = bag.first_messages(names, LOOKED_AT)
    streams = [_stream(bag.topics[name], firsts[name], bag.cdr) for name in names]
    images = [stream for stream in streams if stream.topic.kind in IMAGES]
    kind = "ROS 2 bag" if bag.cdr else "ROS 1 bag"

    def source(stream: Stream) -> RosSource:
        unit = _time_unit(stream.topic, firsts[stream.name], bag, options)
        size = stream.size if stream.size and all(stream.size) else None
        name, said = (unit.name, unit.choices) if unit else (None, ())
        return RosSource(
            path, kind, size, {}, bag, stream.topic, stream.encoding, name, None, choices=said
        )

    events, choices = choose_events(
        [stream for stream in streams if stream.topic.kind not in IMAGES],
        options.topic,
        lambda stream: _first_block(source(stream)) is not None,
        bag.topics,
        path,
    )
    made = source(events)
    chosen, lines = choose_images(images, events, options.image_topic, bag.topics, path)
    clock = _other_clock(made, chosen) if chosen else ""
    if chosen and clock:
        if options.image_topic is not None:
            hint = "`scaleevent voxelize FOLDER` uses the events alone"
            raise ConfigError(f"images on {clock}", where=f"{path}, topic {chosen.name}", hint=hint)
        lines = (f"images of topic {chosen.name} are not read: on {clock}",)
        chosen = None
    used = {events.name: "events"}
    if chosen:
        used[chosen.name] = "images"
    notes = {
        f"topic {name}": topic.described + (f", read as the {used[name]}" if name in used else "")
        for name, topic in bag.topics.items()
    }
    if events.encoding:
        notes["encoding"] = events.encoding
    image_topic = chosen.topic if chosen else None
    choices = (*bag.remarks(), *choices, *made.choices, *lines)
    return replace(made, notes=notes, images=image_topic, choices=choices)


def _stream(topic: Topic, messages: list[bytes], cdr: bool) -> Stream:
    """What the first readable message of a topic shows."""
    trouble = ""
    for data in messages:
        try:
            return _look(topic, data, cdr)
        except DataError as error:
            trouble = trouble or f"{error.what}: {error.found}"
    # a stream of events that is damaged from the beginning is read, to report where
    return Stream(topic, trouble=trouble if topic.kind in IMAGES else "")


def _look(topic: Topic, data: bytes, cdr: bool) -> Stream:
    """What a message shows."""
    if topic.kind in IMAGES:
        image = IMAGES[topic.kind](data, cdr)
        height, width = image.pixels.shape[:2]
        return Stream(topic, image.frame, (height, width), first_us=image.stamp_ns // 1000)
    if topic.kind in ARRAYS:
        frame, size, _ = read_event_array(data, cdr, _whole_stamps(topic))
        return Stream(topic, frame, size)
    packet = read_packet(data, cdr)
    size, encoding = (packet.height, packet.width), packet.encoding
    known = encoding in ENCODINGS
    trouble = "" if known else f'encoding "{encoding}", not {" or ".join(ENCODINGS)}'
    return Stream(topic, packet.frame, size, encoding, trouble=trouble)


def _whole_stamps(topic: Topic) -> bool:
    """Whether the stamps of events are one number of 64 bits."""
    return topic.kind in ARRAYS and "uint64 ts" in topic.definition


def _time_unit(
    topic: Topic, messages: list[bytes], bag: Bag, options: ReadOptions
) -> TimeUnit | None:
    """The unit of 64-bit stamps, from the first message with events; None for other stamps."""
    if not _whole_stamps(topic):
        return None
    rows, size = np.empty(0, [(name, "<u8") for name in "txy"]), None
    for data in messages:
        try:
            _, size, rows = read_event_array(data, bag.cdr, True)
        except DataError:
            continue
        if len(rows):
            break
    return event_time_unit(
        {name: rows[name] for name in "txy"}, len(rows), given=options.time_unit, stated=None,
        size=options.size or size, where=f"{bag.path}, topic {topic.name}",
    )  # fmt: skip


def _other_clock(events: RosSource, images: Stream) -> str:
    """The clock of the images, if it is not that of the events."""
    if events.encoding == "evt3":
        return "the clock of ROS, the events are on the sensor's"
    block = _first_block(events)
    if block is not None and len(block) and images.first_us is not None:
        apart = abs(images.first_us - int(block.t[0]))
        if apart >= ANOTHER_CLOCK_US:
            return f"another clock: the first is {apart / 1e6:.0f} s apart from the first event"
    return ""


def _first_block(source: RosSource) -> RawBlock | None:
    """The first block with events or damage; None if there is neither."""
    try:
        return next((b for b in source.blocks(None, None) if len(b) or b.flaws), None)
    except DataError as error:
        return RawBlock.empty(0, Flaw(error.what, str(error.where), str(error.found)))


@dataclass(frozen=True)
class RosSource(FileSource):
    """Decoder of the events of one bag.

    Args:
        bag: The bag.
        topic: Topic of the events.
        encoding: Encoding of packets, one of `ENCODINGS`; "" for arrays of events.
        unit: Unit of 64-bit time stamps; None if stamps are seconds and nanoseconds.
        images: Topic of the images, or None.
        index: Messages by the time of their events; the index of the bag finds them again by the
            time at which they were recorded.
    """

    bag: Bag
    topic: Topic
    encoding: str
    unit: str | None
    images: Topic | None
    index: TimeIndex[tuple[int | None, int, int, np.ndarray]] = field(
        default_factory=TimeIndex, compare=False, repr=False
    )

    @property
    def has_frames(self) -> bool:
        """Whether there are images on the clock of the events."""
        return self.images is not None

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """The events from the last recorded message before the range, or from the first.

        Small messages are joined to blocks. At the end of the bag the number of messages, and in a
        whole read checksums, are compared with what the bag declares.
        """
        recorded, met, first, state = self.index.before(
            start_us, (None, 0, 0, np.array(evt.EVT3_STATE))
        )
        state, tally = state.copy(), np.zeros(TALLY, np.int64)
        parts: list[Columns] = []
        flaws: list[Flaw] = [] if met else list(self.bag.flaws)
        gathered = 0
        done: RawBlock | None = None
        try:
            for stamp, data in self.bag.messages(self.topic.name, recorded):
                if done is not None:
                    # of several messages recorded at one time, the bag's index finds only the first
                    place = (stamp, met, first, state.copy()) if stamp != recorded else None
                    self.index.note(done.t, first, place)
                    done = None
                recorded = stamp
                try:
                    parts.append(self._columns(data, state, tally))
                    gathered += len(parts[-1][0])
                except DataError as error:
                    where = f"topic {self.topic.name}, message {met}"
                    flaws.append(
                        Flaw("damaged message", where, f"{error.what}: {error.found}", count=1)
                    )
                met += 1
                if gathered >= BLOCK or flaws:
                    done = self._block(first, parts, tally, flaws)
                    yield done
                    first += gathered
                    parts, flaws, gathered = [], [], 0
        except DataError as error:
            lost = self.topic.messages - met
            if lost <= 0:
                if gathered:
                    yield self._block(first, parts, tally, flaws)
                raise
            found = f"{error.what}: {error.found}; lost are {lost} of {met + lost} messages"
            where = f"topic {self.topic.name}, after {met} messages"
            flaws.append(Flaw("the rest cannot be read", where, found, None, error.hint, lost))
        else:
            if difference := self.topic.difference(met):
                flaws.append(difference)
            if start_us is None and end_us is None:
                flaws += self.bag.changed()
        # of the messages that are lost, only the number is known
        mean = max((first + gathered) // max(met, 1), 1)
        flaws = [replace(f, count=f.count * mean) if f.what in LOST else f for f in flaws]
        yield self._block(first, parts, tally, flaws)

    def frames(self) -> Iterator[Frame]:
        """The images, at the stamps of their headers; ROS does not state the exposure."""
        if self.images is None:
            return
        met = 0
        for _, data in self.bag.messages(self.images.name):
            try:
                image = IMAGES[self.images.kind](data, self.bag.cdr)
            except DataError as error:
                error.where = f"{self.path}, topic {self.images.name}, message {met}"
                raise
            yield Frame(image.pixels, image.stamp_ns // 1000, image.stamp_ns // 1000)
            met += 1
        if difference := self.images.difference(met):
            raise difference.error(self.path, difference.hint)

    def _columns(self, data: bytes, state: np.ndarray, tally: np.ndarray) -> Columns:
        """The events of a message; `state` of EVT3 continues from one to the next."""
        if not self.encoding:
            return self._array_columns(data)
        packet = read_packet(data, self.bag.cdr)
        if packet.encoding != self.encoding:
            raise DataError("another encoding", found=packet.encoding, expected=self.encoding)
        return ENCODINGS[self.encoding](packet, state, tally)

    def _array_columns(self, data: bytes) -> Columns:
        """The events of a message that is an array of events."""
        _, _, rows = read_event_array(data, self.bag.cdr, self.unit is not None)
        if self.unit is None:
            t = rows["s"].astype(np.int64) * 1_000_000 + rows["ns"] // 1000
        else:
            t = to_microseconds(rows["t"], self.unit, 0, str(self.path))
        if len(rows) and rows["p"].max() > 1:
            raise DataError("polarity out of range", found=f"p = {rows['p'].max()}")
        return t, rows["x"], rows["y"], rows["p"]

    def _block(
        self, first: int, parts: list[Columns], tally: np.ndarray, flaws: list[Flaw]
    ) -> RawBlock:
        """Join decoded messages and their counts to one block; resets the tally."""
        t, x, y, p = (np.concatenate(c) for c in zip(empty_columns(0), *parts, strict=True))
        dropped = {DROPPED_OF.get(self.encoding, DROPPED_OF["evt3"]): int(tally[DROPPED])}
        ignored = {"external triggers": int(tally[TRIGGERS]), "other words": int(tally[OTHER])}
        if tally[UNKNOWN]:
            where = f"before event {first + sum(len(part[0]) for part in parts)}"
            unknown = int(tally[UNKNOWN])
            flaws = [*flaws, Flaw("unknown words", where, f"{unknown} of them", count=unknown)]
        tally[:] = 0
        return RawBlock(first, t, x, y, p, dropped, ignored, tuple(flaws))


def _evt3_columns(packet: Packet, state: np.ndarray, tally: np.ndarray) -> Columns:
    """The events of a packet of EVT3 words; `state` continues from one to the next."""
    words = packet_words(packet, "<u2")
    t, x, y, p = empty_columns((len(words) + 1) * evt.VECTOR)
    _, n = evt.decode_evt3(words, state, tally, t, x, y, p)
    return t[:n].copy(), x[:n].copy(), y[:n].copy(), p[:n].copy()


ENCODINGS: dict[str, Callable[[Packet, np.ndarray, np.ndarray], Columns]] = {
    "evt3": _evt3_columns,
    "libcaer": lambda packet, state, tally: libcaer_columns(packet, tally),
    "libcaer_cmp": lambda packet, state, tally: libcaer_cmp_columns(packet, tally),
    "mono": lambda packet, state, tally: mono_columns(packet),
}
"""Decoders of packets, by the name of their encoding."""
