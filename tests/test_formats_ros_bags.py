"""Bags as containers: declared counts, folders, bounds; their messages are in test_formats_ros."""

import bz2
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from itertools import product
from pathlib import Path
from zlib import crc32

import lz4.frame
import numpy as np
import pytest
import yaml
from backports import zstd
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Reader as Reader2
from rosbags.rosbag2 import Writer as Writer2

from scaleevent.commands.info import run as info
from scaleevent.config.data import InfoConfig, VoxelizeConfig
from scaleevent.datasets import custom
from scaleevent.datasets.recordings import sources as find_sources
from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.formats import open_recording, read_events
from scaleevent.formats.ros_bags import open_bag
from scaleevent.pairs.pair import decode_image
from tests.event_files import some_events
from tests.test_formats import assert_same
from tests.test_formats_ros import (
    EVENTS,
    GREY,
    PLUGINS,
    array,
    image,
    libcaer_words,
    packet,
    parts,
    types,
    write_bag,
)


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


@pytest.mark.parametrize(
    ("plugin", "mode"),
    [*product(["SQLITE3", "MCAP"], [None, "MESSAGE", "FILE"]), ("MCAP", "STORAGE")],
)
def test_the_folder_of_a_bag_is_one_recording(tmp_path, plugin, mode):
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


def test_prepare_takes_the_images_of_the_own_camera(tmp_path):
    store = types(True)
    events = some_events(20_000, span_us=200_000)
    topics = [("/davis/right/events", [array(store, events)])]
    for level, side in ((50, "left"), (200, "right")):
        pixels = np.full((180, 240), level, np.uint8)
        times = (events.t[0] + np.arange(1, 4) * 60_000).tolist()
        pictures = [image(store, time, pixels, "mono8") for time in times]
        topics.append((f"/davis/{side}/image_raw", pictures))
    folder = write_folder(tmp_path / "raw" / "walk", store, *topics)
    for root in (folder, folder.parent):
        (source,) = custom.sources(custom.Settings(name="custom", roots=[root]))
        assert source.recording == folder
        assert source.choices[0].startswith("images of topic /davis/right/image_raw;")
        made = list(source.pairs(Counter()))
        assert len(made) == 3
        assert {int(np.asarray(decode_image(pair.image)).mean()) for pair in made} == {200}


def test_prepare_says_why_images_in_a_bag_are_not_read(tmp_path):
    store = types(True)
    depth = image(store, int(EVENTS.t[0]), np.zeros((180, 480), np.uint8), "16UC1")
    path = write_bag(
        tmp_path / "a.mcap", store, ("/e", [array(store, EVENTS)]), ("/depth", [depth])
    )
    with pytest.raises(DataError, match="no frames for this recording") as caught:
        custom.sources(custom.Settings(name="custom", roots=[path]))
    assert "/depth" in str(caught.value) and "16UC1" in str(caught.value)
