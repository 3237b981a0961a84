"""ROS bags, written by the package rosbags: its serializer is the oracle of the raw layouts."""

import bz2
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from zlib import crc32

import lz4.frame
import numpy as np
import pytest
import yaml
from backports import zstd
from PIL import Image
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Reader as Reader2
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from scaleevent import formats
from scaleevent.commands.info import run as info
from scaleevent.config.data import InfoConfig, VoxelizeConfig
from scaleevent.datasets.recordings import sources as find_sources
from scaleevent.errors import ConfigError, DataError, MissingPackageError, NotEventsError
from scaleevent.events import Events
from scaleevent.formats import open_recording, read_events, recording_facts, ros
from scaleevent.formats.ros_bags import open_bag
from tests.event_files import evt3_words, rows_of, some_events
from tests.test_formats import assert_later_reads_skip, assert_same

EVENT = "uint16 x\nuint16 y\ntime ts\nbool polarity\n"
ARRAY = "Header header\nuint32 height\nuint32 width\n{}/Event[] events\n"
PACKET = (
    "Header header\nuint32 height\nuint32 width\nuint64 seq\nuint64 time_base\n"
    "string encoding\nbool is_bigendian\nuint8[] events\n"
)
EPOCH_S = 1_600_000_000
EVENTS = some_events(1500, start_us=EPOCH_S * 1_000_000 + 7)


def types(ros2: bool, event: str = EVENT):
    """A type store with the messages of event cameras."""
    store = get_typestore(Stores.ROS2_HUMBLE if ros2 else Stores.ROS1_NOETIC)

    def fit(text: str) -> str:
        text = text.replace("Header header", "std_msgs/Header header")
        return text.replace("time ts", "builtin_interfaces/Time ts") if ros2 else text

    for package in ("dvs_msgs", "prophesee_event_msgs"):
        store.register(get_types_from_msg(fit(event), f"{package}/msg/Event"))
        store.register(get_types_from_msg(fit(ARRAY.format(package)), f"{package}/msg/EventArray"))
    store.register(get_types_from_msg(fit(PACKET), "event_camera_msgs/msg/EventPacket"))
    return store


def header(store, us: int):
    kinds = store.types
    stamp = kinds["builtin_interfaces/msg/Time"](us // 1_000_000, us % 1_000_000 * 1000)
    kind = kinds["std_msgs/msg/Header"]
    sequence = {"seq": 3} if "seq" in kind.__dataclass_fields__ else {}
    return kind(**sequence, stamp=stamp, frame_id="camera")


def array(store, events: Events, package: str = "dvs_msgs", whole: bool = False):
    time = store.types["builtin_interfaces/msg/Time"]
    event = store.types[f"{package}/msg/Event"]
    rows = [
        event(x, y, t if whole else time(t // 1_000_000, t % 1_000_000 * 1000 + 999), bool(p))
        for t, x, y, p in rows_of(events)
    ]
    kind = store.types[f"{package}/msg/EventArray"]
    us = 0 if whole or not len(events) else int(events.t[0])
    return kind(header(store, us), events.height, events.width, rows)


def packet(store, encoding: str, data: bytes, base_ns: int = 0):
    kind = store.types["event_camera_msgs/msg/EventPacket"]
    return kind(
        header(store, 5), 180, 240, 9, base_ns, encoding, False, np.frombuffer(data, np.uint8)
    )


def image(store, us: int, pixels: np.ndarray, encoding: str):
    kind = store.types["sensor_msgs/msg/Image"]
    height, width = pixels.shape[:2]
    padded = np.zeros((height, pixels[0].size + 5), np.uint8)  # rows may be longer than needed
    padded[:, : pixels[0].size] = pixels.reshape(height, -1)
    return kind(header(store, us), height, width, encoding, 0, padded.shape[1], padded.reshape(-1))


def write_bag(
    path: Path, store, *topics: tuple[str, list], compression=None, together: int = 1, chunk=None
) -> Path:
    """A bag of (topic, messages), so many messages every millisecond; .bag, .db3 or .mcap."""
    if path.suffix == ".bag":
        writer = Writer1(path)
        if compression:
            writer.set_compression(getattr(Writer1.CompressionFormat, compression))
        writer.chunk_threshold = chunk or writer.chunk_threshold
        with writer as bag:
            for topic, messages in topics:
                kind = messages[0].__msgtype__
                link = bag.add_connection(topic, kind, typestore=store)
                for k, message in enumerate(messages):
                    bag.write(link, k // together * 1_000_000, store.serialize_ros1(message, kind))
        return path
    folder = path.with_suffix("")
    with Writer2(folder, version=9, storage_plugin=PLUGINS[path.suffix]) as bag:
        for topic, messages in topics:
            kind = messages[0].__msgtype__
            link = bag.add_connection(topic, kind, typestore=store)
            for k, message in enumerate(messages):
                bag.write(link, k // together * 1_000_000, store.serialize_cdr(message, kind))
    (written,) = folder.glob(f"*{path.suffix}")
    shutil.move(written, path)
    shutil.rmtree(folder)
    return path


PLUGINS = {".db3": StoragePlugin.SQLITE3, ".mcap": StoragePlugin.MCAP}
GREY = np.zeros((180, 240), np.uint8)
SUFFIXES = pytest.mark.parametrize("suffix", [".bag", ".db3", ".mcap"])


def parts(events: Events) -> list[Events]:
    return [events[:1], events[1:1], events[1:700], events[700:702], events[702:]]


@SUFFIXES
@pytest.mark.parametrize("package", ["dvs_msgs", "prophesee_event_msgs"])
def test_arrays_of_events(tmp_path, suffix, package):
    store = types(suffix != ".bag")
    messages = [array(store, part, package) for part in parts(EVENTS)]
    path = write_bag(tmp_path / f"a{suffix}", store, ("/dvs/events", messages))
    assert_same(read_events(path), EVENTS)
    middle = int(EVENTS.t[700])
    assert_same(read_events(path, middle, middle + 9000), EVENTS.between(middle, middle + 9000))
    assert open_recording(path).format == ("ROS 1 bag" if suffix == ".bag" else "ROS 2 bag")


@pytest.mark.parametrize("compression", ["BZ2", "LZ4"])
def test_compressed_bags(tmp_path, compression):
    store = types(False)
    messages = [array(store, part) for part in parts(EVENTS)]
    path = write_bag(tmp_path / "a.bag", store, ("/e", messages), compression=compression)
    assert_same(read_events(path), EVENTS)


def test_old_bags_have_stamps_of_64_bits(tmp_path):
    store = types(False, EVENT.replace("time ts", "uint64 ts"))
    nanoseconds = Events(EVENTS.t * 1000, EVENTS.x, EVENTS.y, EVENTS.p, 180, 240)
    for name, stored in (("us", EVENTS), ("ns", nanoseconds)):
        messages = [array(store, part, whole=True) for part in parts(stored)]
        path = write_bag(tmp_path / f"{name}.bag", store, ("/e", messages))
        assert_same(read_events(path), EVENTS)
        assert_same(read_events(path, time_unit=name), EVENTS)


@SUFFIXES
def test_evt3_packets_are_one_stream(tmp_path, suffix):
    events = some_events(1500, start_us=2**24 - 20_000)
    store = types(suffix != ".bag")
    words = evt3_words(events).tobytes()
    cuts = [0, 2, 100, 102, 2000, len(words)]  # between a row and its columns, too
    messages = [packet(store, "evt3", words[a:b]) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    path = write_bag(tmp_path / f"a{suffix}", store, ("/event_camera/events", messages))
    assert_same(read_events(path), events)


@SUFFIXES
@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("encoding", ["array", "evt3"])
def test_a_second_read_begins_at_a_noted_message(tmp_path, monkeypatch, suffix, together, encoding):
    monkeypatch.setattr(ros, "BLOCK", 50)
    events = some_events(1500, span_us=500_000)
    store = types(suffix != ".bag")
    if encoding == "array":
        messages = [array(store, events[k : k + 20]) for k in range(0, 1500, 20)]
    else:
        words = evt3_words(events).tobytes()
        messages = [packet(store, "evt3", words[k : k + 90]) for k in range(0, len(words), 90)]
    path = write_bag(tmp_path / f"a{suffix}", store, ("/e", messages), together=together)
    recording = open_recording(path)
    recording.source.index.every = 150
    assert_later_reads_skip(recording, events)


@SUFFIXES
def test_mono_packets_count_from_their_base(tmp_path, suffix):
    store = types(suffix != ".bag")
    messages = []
    for part in parts(EVENTS):
        base = (int(part.t[0]) if len(part) else 0) * 1000
        words = [p << 63 | y << 48 | x << 32 | t * 1000 - base for t, x, y, p in rows_of(part)]
        messages.append(packet(store, "mono", np.array(words, "<u8").tobytes(), base))
    path = write_bag(tmp_path / f"a{suffix}", store, ("/e", messages))
    assert_same(read_events(path), EVENTS)


def libcaer_words(events: Events, base_ns: int) -> bytes:
    """Records of 32 bits of pixel and the lower 31 bits of the time in us since the base."""
    t = (events.t - base_ns // 1000) & 0x7FFFFFFF
    x, y, p = (column.astype(np.uint64) for column in (events.x, events.y, events.p))
    return (t.astype(np.uint64) << 32 | x << 17 | y << 2 | p << 1 | 1).tobytes()


def libcaer_cmp_words(events: Events, base_ns: int) -> bytes:
    """16-bit words; events in one column and time whose rows lie in groups of 8 become vectors."""
    words, column, high, low = [], None, 0, 0
    rows = list(rows_of(events))
    at = 0
    while at < len(rows):
        t, x, y, p = rows[at]
        t -= base_ns // 1000
        if (t >> 12 & 0xFFF) != high:
            high = t >> 12 & 0xFFF
            words.append(high)
        if (t & 0xFFF) != low:
            low = t & 0xFFF
            words.append(1 << 12 | low)
        if x != column:
            column = x
            words.append(2 << 12 | x)
        group = [
            row for row in rows[at : at + 16] if (row[0], row[1], row[3]) == rows[at][:2] + (p,)
        ]
        group = [row for row in group if y <= row[2] < y + 16]
        if len(group) > 1 and group == rows[at : at + len(group)]:
            bits = sum(1 << row[2] - y for row in group)
            words += [4 << 12 | p << 11 | y, 5 << 12 | bits & 0xFF]
            words += [5 << 12 | bits >> 8] if bits >> 8 else []
            at += len(group)
        else:
            words.append(3 << 12 | p << 11 | y)
            at += 1
    return np.array(words, "<u2").tobytes()


def columns_of_pixels(seed: int) -> Events:
    """Events that fire in runs of neighbouring rows, as libcaer_cmp packs them."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 40_000_000, 300))
    rows = []
    for time in t.tolist():
        x, y, p = int(rng.integers(240)), int(rng.integers(160)), int(rng.integers(2))
        for row in np.flatnonzero(rng.random(16) < rng.choice([0.1, 0.8])):
            rows.append((EPOCH_S * 1_000_000 + time, x, y + int(row), p))
    t, x, y, p = np.array(rows).T
    return Events(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), 180, 240)


@SUFFIXES
@pytest.mark.parametrize("encoding", ["libcaer", "libcaer_cmp"])
def test_libcaer_packets_count_from_their_base(tmp_path, suffix, encoding):
    store = types(suffix != ".bag")
    encode = {"libcaer": libcaer_words, "libcaer_cmp": libcaer_cmp_words}[encoding]
    for seed, span_us in ((0, 40_000_000), (1, 1 << 33)):
        events = columns_of_pixels(seed)
        if encoding == "libcaer":  # 31 bits wrap every 36 minutes, also inside a packet
            first = events.t[0]
            t = first + (events.t - first) * (span_us // 40_000_000)
            events = Events(t, events.x, events.y, events.p, 180, 240)
        messages = []
        for part in parts(events):
            base = (int(part.t[0]) if len(part) else 0) * 1000
            if encoding == "libcaer" and len(part):
                base -= 5_000_000_000
            messages.append(packet(store, encoding, encode(part, base), base))
        path = write_bag(tmp_path / f"{seed}{suffix}", store, ("/e", messages))
        assert_same(read_events(path), events)


def test_what_libcaer_cannot_decode_is_counted(tmp_path):
    store = types(True)
    words = np.frombuffer(libcaer_words(EVENTS[:10], 0), np.uint64) & ~np.uint64([1, 0] * 5)
    path = write_bag(tmp_path / "a.db3", store, ("/e", [packet(store, "libcaer", words.tobytes())]))
    recording = open_recording(path)
    assert sum(map(len, recording.blocks())) == 5
    assert recording.counts.dropped == {"marked invalid": 5}

    def cmp(*words: int):
        data = np.array(words, "<u2").tobytes()
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.db3"
        return write_bag(path, store, ("/e", [packet(store, "libcaer_cmp", data)]))

    recording = open_recording(cmp(0x3005, 0x5011, 0x2007, 0x5003, 0x3805), size=(180, 240))
    assert [list(rows_of(block)) for block in recording.blocks()] == [[(0, 7, 5, 1)]]
    assert recording.counts.dropped == {"before the first column or row": 5}
    with pytest.raises(DataError, match="unknown words"):
        read_events(cmp(0x2007, 0x3005, 0x6001), size=(180, 240))
    odd = packet(store, "libcaer_cmp", b"123")
    path = write_bag(tmp_path / "odd.db3", store, ("/e", [odd]))
    with pytest.raises(DataError, match="damaged message.*\n.*\n.*cut short"):
        read_events(path, size=(180, 240))


def test_images_on_the_clock_of_the_events(tmp_path):
    store = types(False)
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (180, 240)).astype(np.uint8)
    colour = rng.integers(0, 256, (180, 240, 3)).astype(np.uint8)
    start = EPOCH_S * 1_000_000
    images = [
        image(store, start + 10, grey, "mono8"),
        image(store, start + 20, colour, "bgr8"),
        image(store, start + 30, colour, "rgb8"),
    ]
    path = write_bag(
        tmp_path / "a.bag",
        store,
        ("/dvs/image_raw", images),
        ("/dvs/events", [array(store, EVENTS)]),
    )
    frames = list(open_recording(path).frames())
    assert [frame.start_us - start for frame in frames] == [10, 20, 30]
    for frame, expected in zip(frames, (grey, colour[..., ::-1], colour), strict=True):
        np.testing.assert_array_equal(frame.image, expected)
    assert recording_facts(open_recording(path))["frames"] == 3
    bayer = [images[0], image(store, start, grey, "bayer_rggb8")]
    path = write_bag(
        tmp_path / "b.bag", store, ("/dvs/i", bayer), ("/dvs/events", [array(store, EVENTS)])
    )
    with pytest.raises(DataError, match="unsupported encoding") as caught:
        list(open_recording(path).frames())
    assert "bayer_rggb8" in str(caught.value) and "message 1" in str(caught.value)
    path = write_bag(
        tmp_path / "c.bag", store, ("/dvs/i", bayer[1:]), ("/dvs/events", [array(store, EVENTS)])
    )
    recording = open_recording(path)
    assert not recording.has_frames and "bayer_rggb8" in recording.choices[0]


def test_compressed_images(tmp_path):
    store = types(True)
    pixels = np.random.default_rng(0).integers(0, 256, (180, 240, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = np.frombuffer((tmp_path / "a.png").read_bytes(), np.uint8)
    kind = store.types["sensor_msgs/msg/CompressedImage"]
    start = int(EVENTS.t[0])
    messages = [
        kind(header(store, start), "png", data),
        kind(header(store, start + 1), "png", data[:99]),
    ]
    path = write_bag(
        tmp_path / "a.mcap", store, ("/i/compressed", messages), ("/e", [array(store, EVENTS)])
    )
    frames = open_recording(path).frames()
    np.testing.assert_array_equal(next(frames).image, pixels)
    with pytest.raises(DataError, match="compressed image"):
        next(frames)


def test_images_on_another_clock_are_left_out_and_reported(tmp_path):
    store = types(False)
    pictures = [image(store, 10, np.zeros((180, 240), np.uint8), "mono8")]
    words = evt3_words(some_events()).tobytes()
    path = write_bag(
        tmp_path / "a.bag", store, ("/image", pictures), ("/events", [packet(store, "evt3", words)])
    )
    recording = open_recording(path)
    assert not recording.has_frames and "/image are not read" in recording.choices[0]
    with pytest.raises(ConfigError, match="clock of ROS"):
        open_recording(path, image_topic="/image")
    late = [image(store, int(EVENTS.t[0]) + 2 * 86_400_000_000, GREY, "mono8")]
    path = write_bag(tmp_path / "b.bag", store, ("/image", late), ("/e", [array(store, EVENTS)]))
    recording = open_recording(path)
    assert not recording.has_frames and "172800 s apart" in recording.choices[0]


def topics_bag(folder: Path, store, topics: dict[str, list], suffix: str = ".bag") -> Path:
    path = folder / f"topics{suffix}"
    path.unlink(missing_ok=True)
    return write_bag(path, store, *topics.items())


def frame_level(recording) -> set[int]:
    """The grey levels of the images that are read."""
    return {int(frame.image[0, 0]) for frame in recording.frames()}


def test_of_several_topics_of_events_the_first_that_can_be_read_is(tmp_path):
    store = types(False)
    good, other = array(store, EVENTS), array(store, some_events(seed=3))
    empty = array(store, EVENTS[:0])
    topics = {
        "/a/events": [empty] * 30,
        "/b/events": [packet(store, "evt9", b"12")],
        "/c/events": [good],
        "/d/events": [other],
    }
    path = topics_bag(tmp_path, store, topics)
    recording = open_recording(path)
    assert_same(read_events(path), EVENTS)
    (line,) = recording.choices
    assert line.startswith("events of topic /c/events, the first by name; not of /a/events (empty)")
    assert '/b/events (encoding "evt9"' in line and "/d/events (--topic)" in line
    for topic in topics:
        assert f"topic {topic}" in recording.notes
    assert recording.notes["topic /c/events"].endswith("1 message, read as the events")
    named = open_recording(path, topic="/d/events")
    assert not named.choices
    assert_same(Events.concatenate(list(named.blocks()), 180, 240), some_events(seed=3))
    for name, found in (("/x", "/d/events (dvs_msgs"), ("/b/events", "evt9")):
        with pytest.raises(ConfigError, match=found.split()[0]) as caught:
            open_recording(path, topic=name)
        assert found in str(caught.value)
    del topics["/c/events"], topics["/d/events"]
    assert len(read_events(topics_bag(tmp_path, store, topics), size=(180, 240))) == 0


@pytest.mark.parametrize(
    ("events", "wanted", "others"),
    [
        ("/davis/right/events", "/davis/right/image_raw", ["/davis/left/image_raw"]),
        ("/davis/right/events", "/davis/right/image_raw", ["/davis/right/depth/image_raw"]),
        ("/dvs/events", "/camera/color/image_raw", ["/camera/aligned_depth_to_color/image_raw"]),
        ("/dvs/events", "/dvs/image_raw", ["/dvs/dvs_rendering", "/dvs/image_raw/compressed2"]),
        ("/dvs/events", "/dvs/image_raw", ["/dvs/image_rect", "/camera/image"]),
        ("/event_camera/events", "/event_camera/image_raw", ["/camera/color/image_raw"]),
        ("/right_events", "/right_image", ["/left_image"]),
        ("/events", "/image", ["/a/image_raw"]),
        ("/capture_node/events", "/capture_node/camera/image", ["/camera/image"]),
    ],
)
def test_images_of_the_own_camera_come_first(tmp_path, events, wanted, others):
    store = types(True)
    start = int(EVENTS.t[0])
    topics = {events: [array(store, EVENTS)]}
    for level, name in enumerate([wanted, *others]):
        topics[name] = [image(store, start, np.full((180, 240), level, np.uint8), "mono8")]
    path = topics_bag(tmp_path, store, dict(sorted(topics.items())), ".mcap")
    recording = open_recording(path)
    assert frame_level(recording) == {0}
    chosen = next(line for line in recording.choices if "(--image-topic)" in line)
    assert chosen.startswith(f"images of topic {wanted};")
    assert all(name in chosen for name in others)
    named = open_recording(path, image_topic=others[0])
    assert frame_level(named) == {1} and not named.choices
    with pytest.raises(ConfigError, match="no images under this name") as caught:
        open_recording(path, image_topic=events)
    assert wanted in str(caught.value) and "(sensor_msgs/msg/Image, 1 message)" in str(caught.value)


@pytest.mark.parametrize(
    ("events", "images", "said"),
    [
        ("/davis/right/events", "/davis/right/image_raw", ""),
        ("/davis/right/events", "/davis/left/image_raw", "another camera"),
        ("/dvs/events", "/camera/color/image_raw", "another camera"),
        ("/dvs/right_events", "/dvs/left_image", "another camera"),
        ("/events", "/camera/image", ""),  # of the same frame_id
        ("/dvs/events", "/dvs_rendering", "no photographs"),
    ],
)
def test_images_of_another_camera_are_said(tmp_path, events, images, said):
    store = types(True)
    pictures = [image(store, int(EVENTS.t[0]), GREY, "mono8")]
    topics = {events: [array(store, EVENTS)], images: pictures}
    lines = open_recording(topics_bag(tmp_path, store, topics, ".mcap")).choices
    assert any(said in line for line in lines) if said else not lines


def test_empty_and_unreadable_images_are_passed_over(tmp_path):
    store = types(True)
    depth = image(store, int(EVENTS.t[0]), np.zeros((180, 480), np.uint8), "16UC1")
    good = image(store, int(EVENTS.t[0]), np.full((180, 240), 7, np.uint8), "mono8")
    topics = {"/dvs/events": [array(store, EVENTS)], "/dvs/a": [depth], "/dvs/image": [good]}
    path = topics_bag(tmp_path, store, topics, ".mcap")
    recording = open_recording(path)
    assert frame_level(recording) == {7} and "16UC1" in recording.choices[0]
    with pytest.raises(ConfigError, match="16UC1"):
        open_recording(path, image_topic="/dvs/a")


def test_bags_without_events_are_refused(tmp_path):
    store = types(True)
    pictures = [image(store, 10, np.zeros((18, 24), np.uint8), "mono8")]
    path = write_bag(tmp_path / "a.db3", store, ("/image", pictures))
    with pytest.raises(NotEventsError, match="no events in this bag") as caught:
        read_events(path)
    assert "/image (sensor_msgs/msg/Image, 1 message)" in str(caught.value)
    path = write_bag(tmp_path / "b.db3", store, ("/e", [packet(store, "evt9", b"12")]))
    with pytest.raises(NotEventsError, match="encoding") as caught:
        read_events(path)
    assert "evt9" in str(caught.value)


@SUFFIXES
def test_a_damaged_message_is_named_or_left_out(tmp_path, suffix):
    store = types(suffix != ".bag")
    messages = [packet(store, "mono", b"12345678" * 3), packet(store, "mono", b"123")]
    path = write_bag(tmp_path / f"a{suffix}", store, ("/e", messages))
    with pytest.raises(DataError, match="damaged message") as caught:
        read_events(path, size=(32767, 32767))
    assert "topic /e, message 1" in str(caught.value)
    assert len(read_events(path, size=(32767, 32767), max_bad=0.5)) == 3


@SUFFIXES
def test_cut_bags_are_refused(tmp_path, suffix):
    store = types(suffix != ".bag")
    messages = [array(store, part) for part in parts(EVENTS)] * 3
    path = write_bag(tmp_path / f"a{suffix}", store, ("/e", messages))
    whole = path.read_bytes()
    for fraction in (0.3, 0.7, 0.95):
        path.write_bytes(whole[: int(fraction * len(whole))])
        with pytest.raises(DataError) as caught:
            read_events(path)
        assert str(path) in str(caught.value)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    store = types(False)
    path = write_bag(tmp_path / "a.bag", store, ("/e", [array(store, EVENTS)]))
    import sys

    monkeypatch.delitem(sys.modules, "scaleevent.formats.ros_readers", raising=False)
    monkeypatch.setattr(formats, "ros_readers", None, raising=False)
    monkeypatch.delattr(formats, "ros_readers")
    monkeypatch.setitem(sys.modules, "rosbags.rosbag1", None)
    with pytest.raises(MissingPackageError, match="rosbags") as caught:
        read_events(path)
    assert "scaleevent[ros]" in str(caught.value)


def test_the_real_mono_bag():
    folder = os.environ.get("SCALEEVENT_TEST_DATA")
    if not folder:
        pytest.skip("SCALEEVENT_TEST_DATA is not set: real recordings are not checked")
    name = "events/event_camera_codecs/test_data_mono_cd/test_data_mono_cd_0.db3"
    recording = open_recording(Path(folder) / name)
    assert (recording.height, recording.width) == (480, 640)
    assert sum(map(len, recording.blocks())) == 100
    facts = recording_facts(open_recording(
        Path(folder) / "events/event_camera_py/test_events_1.bag"
    ))  # fmt: skip
    assert facts["ignored"]["external triggers"] == 4157


def write_folder(
    folder: Path, store, *topics: tuple[str, list], plugin="SQLITE3", **options
) -> Path:
    """The folder of a ROS 2 bag with (topic, messages), one every millisecond."""
    bag = Writer2(folder, version=9, storage_plugin=StoragePlugin[plugin])
    if options:
        bag.set_compression(**options)
    with bag:
        for topic, messages in topics:
            kind = messages[0].__msgtype__
            link = bag.add_connection(topic, kind, typestore=store)
            for k, message in enumerate(messages):
                bag.write(link, k * 1_000_000, store.serialize_cdr(message, kind))
    return folder


MANY = [EVENTS[k : k + 10] for k in range(0, 1050, 10)]


def assert_damaged(path: Path, what: str, least: int, most: int, **options) -> None:
    """Strict reading raises, tolerant reading counts so many events as lost."""
    with pytest.raises(DataError, match=what):
        read_events(path, size=(180, 240), **options)
    recording = open_recording(path, size=(180, 240), max_bad=1.0, **options)
    for _ in recording.blocks():
        pass
    assert least <= recording.counts.bad <= most, recording.counts
    with pytest.raises(DataError, match="too much damage"):
        read_events(path, size=(180, 240), max_bad=0.001, **options)


def heads(data: bytes, store, part: Events) -> list[int]:
    """Positions in an MCAP file of messages that are as long as one of `part`."""
    message = store.serialize_cdr(array(store, part), "dvs_msgs/msg/EventArray")
    head = b"\x05" + (len(message) + 22).to_bytes(8, "little")
    return [found.start() for found in re.finditer(re.escape(head), data)]


def test_mcap_with_a_damaged_message_head(tmp_path):
    store = types(True)
    path = write_bag(tmp_path / "a.mcap", store, ("/e", [array(store, part) for part in MANY]))
    data = path.read_bytes()
    at = heads(data, store, MANY[0])[50]
    assert len(heads(data, store, MANY[0])) == 105
    path.write_bytes(data[:at] + bytes(9) + data[at + 9 :])
    assert_damaged(path, "the rest cannot be read", 550, 550)
    kept = read_events(path, size=(180, 240), max_bad=1)
    assert_same(kept, EVENTS[:500])
    path.write_bytes(data[:at] + b"\x99" + data[at + 1 :])  # a kind for private use
    assert_damaged(path, "not as many messages", 10, 10)


def test_mcap_checksums_are_compared(tmp_path):
    store = types(True)
    path = write_bag(tmp_path / "a.mcap", store, ("/e", [array(store, part) for part in MANY]))
    data = bytearray(path.read_bytes())
    footer = len(data) - 37
    summary = int.from_bytes(data[footer + 9 : footer + 17], "little")
    of_data, of_summary = crc32(data[: summary - 13]), crc32(data[summary : footer + 25])
    data[summary - 4 : summary] = of_data.to_bytes(4, "little")
    data[footer + 25 : footer + 29] = of_summary.to_bytes(4, "little")
    path.write_bytes(data)
    assert len(read_events(path)) == 1050
    at = heads(bytes(data), store, MANY[0])[50]
    for place, what in ((at + 100, "differ from their checksum"), (summary + 30, "damaged bag")):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(DataError, match=what):
            read_events(path)


def test_db3_without_messages_that_its_metadata_states(tmp_path):
    store = types(True)
    folder = write_folder(tmp_path / "bag", store, ("/e", [array(store, part) for part in MANY]))
    assert len(read_events(folder)) == len(read_events(folder / "bag.db3")) == 1050
    with closing(sqlite3.connect(folder / "bag.db3")) as file, file:
        file.execute("delete from messages where id between 30 and 49")
    for path in (folder, folder / "bag.db3"):
        assert_damaged(path, "not as many messages as declared", 200, 200)
    alone = shutil.copy(folder / "bag.db3", tmp_path / "alone 100%#1?.db3")  # as names may be
    assert len(read_events(alone)) == 850
    with closing(sqlite3.connect(alone)) as file, file:
        file.execute("update messages set topic_id = 9 where id > 95")
    assert_damaged(Path(alone), "not as many messages as declared", 1, 100)
    Path(f"{alone}-wal").write_bytes(b"1")
    with pytest.raises(DataError, match="not as many"):
        read_events(alone)


def test_messages_in_a_write_ahead_log_are_said(tmp_path):
    store = types(True)
    path = write_bag(tmp_path / "a.db3", store, ("/e", [array(store, EVENTS)]))
    (tmp_path / "a.db3-wal").write_bytes(b"1")
    with pytest.raises(DataError, match="not merged into the file") as caught:
        read_events(path)
    assert "wal_checkpoint" in str(caught.value)


def number(data: bytes, at: int, change: int = 0) -> bytes:
    """The data with a 32-bit number changed."""
    value = int.from_bytes(data[at : at + 4], "little") + change
    return data[:at] + value.to_bytes(4, "little") + data[at + 4 :]


def test_ros1_bag_whose_index_is_not_whole(tmp_path):
    store = types(False)
    messages = [array(store, part) for part in MANY]
    path = write_bag(tmp_path / "a.bag", store, ("/e", messages), chunk=5000)
    data = path.read_bytes()
    assert len(read_events(path)) == 1050
    path.write_bytes(data + b"anything")  # outside the index
    assert len(read_events(path)) == 1050
    path.write_bytes(number(data, data.index(b"chunk_count=") + 12, -1))
    with pytest.raises(DataError, match="more chunks than the header"):
        read_events(path)
    entries = data.rindex(b"op=\x04")  # the index of the last chunk: one entry less
    head = data.rindex(bytes([47, 0, 0, 0]), 0, entries)
    fewer = number(data, data.index(b"count=", head) + 6, -1)
    path.write_bytes(number(fewer, head + 51, -12))
    assert_damaged(path, "not as many messages as declared", 10, 10)
    path.write_bytes(number(data, data.index(b"index_pos=") + 10, -int.from_bytes(
        data[(at := data.index(b"index_pos=") + 10) : at + 4], "little")
    ))  # fmt: skip
    with pytest.raises(DataError, match="not indexed") as caught:
        read_events(path)
    assert "rosbag reindex" in str(caught.value)


@pytest.mark.parametrize("plugin", ["SQLITE3", "MCAP"])
@pytest.mark.parametrize("mode", [None, "MESSAGE", "FILE", "STORAGE"])
def test_the_folder_of_a_bag_is_one_recording(tmp_path, plugin, mode):
    if mode == "STORAGE" and plugin != "MCAP":
        pytest.skip("only MCAP compresses its chunks")
    store = types(True)
    options = {}
    if mode:
        options = {"fmt": CompressionFormat.ZSTD, "mode": CompressionMode[mode]}
    messages = [array(store, part) for part in parts(EVENTS)]
    pictures = [image(store, int(EVENTS.t[0]) + 9, GREY, "mono8")]
    topics = [("/dvs/events", messages), ("/dvs/image", pictures)]
    folder = write_folder(tmp_path / "2024.01.05 walk", store, *topics, plugin=plugin, **options)
    if mode == "FILE":
        with pytest.raises(DataError, match="are compressed") as caught:
            open_recording(folder)
        (packed,) = folder.glob("*.zstd")
        assert f"zstd -d {packed}" in str(caught.value)
        with zstd.open(packed) as file:
            packed.with_suffix("").write_bytes(file.read())
    assert_same(read_events(folder), EVENTS)
    recording = open_recording(folder)
    assert recording.path == folder and len(list(recording.frames())) == 1
    facts = info(InfoConfig(path=folder)).facts
    assert facts["events"] == len(EVENTS) and facts["frames"] == 1


def split_folder(tmp_path: Path, suffix: str) -> Path:
    """A bag in three files."""
    store = types(True)
    plugin = {".db3": "SQLITE3", ".mcap": "MCAP"}[suffix]
    cuts = [EVENTS[:400], EVENTS[400:1100], EVENTS[1100:]]
    folder = tmp_path / "raw" / "bag"
    folder.mkdir(parents=True)
    names, counts = [], []
    for number, events in enumerate(cuts):
        messages = [array(store, events[k : k + 100]) for k in range(0, len(events), 100)]
        one = write_folder(
            tmp_path / f"bag_{number}", store, ("/dvs/events", messages), plugin=plugin
        )
        (file,) = one.glob(f"*{suffix}")
        shutil.move(file, folder)
        names.append(file.name)
        counts.append(len(messages))
    topic = {"name": "/dvs/events", "type": "dvs_msgs/msg/EventArray"}
    metadata = {
        "version": 5,
        "relative_file_paths": names,
        "message_count": sum(counts),
        "topics_with_message_count": [{"topic_metadata": topic, "message_count": sum(counts)}],
        "files": [
            {"path": name, "message_count": count}
            for name, count in zip(names, counts, strict=True)
        ],
    }
    content = {"rosbag2_bagfile_information": metadata}
    (folder / "metadata.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


@pytest.mark.parametrize("suffix", [".db3", ".mcap"])
def test_a_bag_of_several_files_is_read_once(tmp_path, suffix):
    folder = split_folder(tmp_path, suffix)
    assert_same(read_events(folder), EVENTS)
    middle = int(EVENTS.t[700])
    assert_same(read_events(folder, middle, middle + 9000), EVENTS.between(middle, middle + 9000))
    part = folder / f"bag_1{suffix}"
    assert_same(read_events(part), EVENTS[400:1100])
    (line,) = open_recording(part).choices
    assert f"one of the 3 files of a bag: name the folder, {folder}" in line
    (sources, _, _) = find_sources(VoxelizeConfig(root=folder.parent, out=tmp_path / "out"))
    assert [source.path for source in sources] == [folder]
    assert {path.name for path in sources[0].inputs} == {
        "metadata.yaml", *(f"bag_{k}{suffix}" for k in range(3))
    }  # fmt: skip
    shutil.copy(part, folder / f"more{suffix}")
    (line,) = open_recording(folder).choices
    assert line.startswith(f"more{suffix} is not read")
    part.unlink()
    with pytest.raises(DataError, match="a file of the bag is missing"):
        open_recording(folder)


def test_a_bag_folder_whose_metadata_are_broken(tmp_path):
    folder = split_folder(tmp_path, ".db3")
    text = (folder / "metadata.yaml").read_text()
    for broken in (text[:60], text.replace("message_count: 15", "message_count: many"), text + "]"):
        (folder / "metadata.yaml").write_text(broken)
        with pytest.raises(DataError, match="damaged bag"):
            open_recording(folder)


def bomb(path: Path, kind: str, size: int, declared: int | None) -> Path:
    """A bag with a chunk of so many zeros, of which it declares another number."""
    data = {"bz2": bz2.compress, "lz4": lz4.frame.compress, "zstd": zstd.compress}[kind](
        bytes(size // 16 if kind == "bz2" else size)
    )
    data *= 16 if kind == "bz2" else 1  # streams may follow each other
    store = types(path.suffix != ".bag")
    message = array(store, EVENTS[:10])
    name = message.__msgtype__
    if path.suffix == ".bag":
        with Writer1(path) as bag:
            bag.compression_format, bag.compressor = kind, lambda chunk: data
            link = bag.add_connection("/e", name, typestore=store)
            bag.write(link, 1, store.serialize_ros1(message, name))
        at = path.read_bytes().index(b"size=") + 5
        found = 4
    else:
        with Writer2(
            folder := path.with_suffix(""), version=9, storage_plugin=PLUGINS[".mcap"]
        ) as bag:
            bag.storage.compression, bag.storage.compressor = kind, lambda chunk: data
            link = bag.add_connection("/e", name, typestore=store)
            bag.write(link, 1, store.serialize_cdr(message, name))
        shutil.move(folder / f"{folder.name}.mcap", path)
        shutil.rmtree(folder)
        found = 8
    if declared is not None:
        written = path.read_bytes()
        if path.suffix == ".mcap":
            head = written.index(len(data).to_bytes(8, "little") + data[:8])
            at = head - 4 - len(kind) - 4 - 8
            true = written[at : at + 8]
            written = written.replace(true, declared.to_bytes(8, "little"))
        else:
            written = written[:at] + declared.to_bytes(found, "little") + written[at + found :]
        path.write_bytes(written)
    return path


@pytest.mark.slow
def test_decompression_is_bounded(tmp_path):
    """Chunks of a gigabyte, whether they declare it or not, and many at one time."""
    gigabyte = 1 << 30
    paths = [
        bomb(tmp_path / f"{kind}{declared}{suffix}", kind, gigabyte, declared)
        for suffix, kind in ((".bag", "bz2"), (".bag", "lz4"), (".mcap", "lz4"), (".mcap", "zstd"))
        for declared in (None, gigabyte)
    ]
    code = """
import sys
from scaleevent.errors import DataError
from scaleevent.formats import open_recording
from tests.peak_memory import peak_mib
import scaleevent.formats.ros_readers
before = peak_mib()
for path in sys.argv[1:]:
    try:
        for _ in open_recording(path, size=(180, 240)).blocks():
            pass
    except DataError as error:
        assert "declare" in str(error) or "more than" in str(error), error
    else:
        raise AssertionError(path)
print(peak_mib() - before)
"""
    run = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 250


def test_whole_chunks_of_every_compression_are_read(tmp_path):
    events = some_events(200_000)
    for suffix, kind in ((".bag", "BZ2"), (".bag", "LZ4"), (".mcap", "zstd")):
        store = types(suffix != ".bag")
        messages = [
            packet(store, "libcaer", libcaer_words(events[k : k + 5000], 0))
            for k in range(0, 200_000, 5000)
        ]
        if suffix == ".bag":
            path = write_bag(tmp_path / f"{kind}.bag", store, ("/e", messages), compression=kind)
        else:
            options = {"fmt": CompressionFormat.ZSTD, "mode": CompressionMode.STORAGE}
            path = write_folder(tmp_path / "m", store, ("/e", messages), plugin="MCAP", **options)
        assert_same(read_events(path), events)


def test_messages_of_overlapping_chunks_are_those_of_rosbags(tmp_path):
    store = types(True)
    rng = np.random.default_rng(0)
    folder = tmp_path / "bag"
    with Writer2(folder, version=9, storage_plugin=PLUGINS[".mcap"]) as bag:
        kind = "event_camera_msgs/msg/EventPacket"
        links = [bag.add_connection(f"/{k}", kind, typestore=store) for k in range(3)]
        for k in range(300):
            message = packet(store, "mono", rng.bytes(16_000))
            time = int(k + rng.integers(0, 90)) // 2 * 1000
            bag.write(links[rng.integers(3)], time, store.serialize_cdr(message, kind))
    bag = open_bag(folder / "bag.mcap")
    with Reader2(folder / "bag.mcap") as oracle:
        assert len(oracle.storage.chunks) > 3
        for link in oracle.connections:
            for start in (None, 0, 77_000, 77_001, 10**9):
                expected = [message[1:] for message in oracle.messages([link], start=start)]
                assert list(bag.messages(link.topic, start)) == expected
