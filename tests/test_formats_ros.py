"""ROS bags, written by the package rosbags: its serializer is the oracle of the raw layouts."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from scaleevent import formats
from scaleevent.errors import ConfigError, DataError, MissingPackageError, NotEventsError
from scaleevent.events import Events
from scaleevent.formats import open_recording, read_events, recording_facts, ros
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
    monkeypatch.setattr("scaleevent.formats.clock.RUN", 100)
    events = some_events(1500, span_us=500_000)
    store = types(suffix != ".bag")
    if encoding == "array":
        messages = [array(store, events[k : k + 20]) for k in range(0, 1500, 20)]
    else:
        words = evt3_words(events).tobytes()
        messages = [packet(store, "evt3", words[k : k + 90]) for k in range(0, len(words), 90)]
    path = write_bag(tmp_path / f"a{suffix}", store, ("/e", messages), together=together)
    recording = open_recording(path)
    recording.source.index.every = 100
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
    with pytest.raises(DataError, match="image cannot be read"):
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
