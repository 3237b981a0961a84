"""What the readers do with damage, doubt and malice."""

import os
import struct
import time
import tracemalloc
import zipfile
from itertools import permutations
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from scaleevent.errors import ConfigError, DataError, NotEventsError
from scaleevent.events import Events
from scaleevent.formats import arrays, hdf5, open_recording, read_events, recording_facts, text
from scaleevent.formats.recording import Recording
from scaleevent.formats.source import JITTER_US, RawBlock
from tests import event_files
from tests.event_files import some_events, write_dsec, write_hdf5, write_raw, write_text
from tests.test_formats import EVT2_HEADER, LAYOUTS, assert_same, valid_files

EVENTS = some_events(300)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return valid_files(tmp_path_factory.mktemp("layouts"), EVENTS)


def columns(**changed):
    given = {name: np.array(getattr(EVENTS, name)) for name in "txyp"}
    return {f"events/{name}": column for name, column in (given | changed).items()}


def refused(path: Path, *words: str, **options) -> str:
    """Reading fails with our message, all the words in it."""
    with pytest.raises(DataError) as caught:
        read_events(path, **options)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message, message
    return message


# Not a recording


def test_absent_empty_or_folder(tmp_path):
    (tmp_path / "nothing.raw").touch()
    refused(tmp_path / "nothing.raw", "empty file", "0 bytes")
    refused(tmp_path / "absent.raw", "file not found")
    refused(tmp_path, "a folder where a recording is expected", "1 entries: nothing.raw")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "0 entries", "scaleevent voxelize")


def zipped(path: Path, *names: str) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"anything")
    return path.read_bytes()


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.txt", b"\x07\x08\x09garbage", ["unknown content, first bytes 07 08 09"]),
    ("a.raw", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
     ["a Git LFS pointer", "git lfs pull"]),
    ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["a Git LFS pointer"]),
    ("a.raw", bytes(100_000), ["nothing but zeros", "copy the file again"]),
    ("a.h5", b"\n<!DOCTYPE HTML><html>", ["a web page", "download"]),
    ("a.aedat4", b"<html>", ["a web page"]),
    ("a.txt", b'<?xml version="1.0"?><Error/>', ["an XML document"]),
    ("a.csv", b"\xef\xbb\xbf{\n \"t\": [1]}", ["a JSON document", ".npz or .csv"]),
    ("metadata.yaml", b"rosbag2_bagfile_information:\n",
     ["the description of a ROS 2 bag", "folder"]),
    ("a.raw.gz", b"\x1f\x8b\x08000", ["gzip data", "gzip -dc"]),
    ("a.tar.gz", b"\x1f\x8b\x08000", ["gzip data", "tar xf"]),
    ("a.bz2", b"BZh91AY", ["bzip2 data", "bzip2 -dc"]),
    ("a.xz", b"\xfd7zXZ\0", ["xz data", "xz -dc"]),
    ("a.zst", b"\x28\xb5\x2f\xfd0", ["Zstandard data", "zstd -dc"]),
    ("a.tar", bytes([65]) + bytes(256) + b"ustar\x0000", ["a tar archive", "tar xf"]),
    ("a.7z", b"7z\xbc\xaf\x27\x1c", ["a 7z archive", "7z x"]),
    ("a.rar", b"Rar!\x1a\x07\1\0", ["a RAR archive", "unrar"]),
    ("a.raw", b"\x89PNG\r\n\x1a\n0000", ["a PNG image", "--frames"]),
    ("a.jpg", b"\xff\xd8\xff\xe0", ["a JPEG image"]),
    ("a.avi", b"RIFF0000AVI LIST", ["an AVI video", "scaleevent prepare custom", "--frames"]),
    ("a.wav", b"RIFF0000WAVEfmt ", ["a WAV sound"]),
    ("a.mp4", b"\x00\x00\x00\x24ftypisom", ["an MP4 video", "--frames"]),
    ("a.mov", b"\x00\x00\x00\x14ftypqt  ", ["a QuickTime video"]),
    ("a.mkv", b"\x1aE\xdf\xa30", ["a Matroska or WebM video"]),
    ("a.pdf", b"%PDF-1.4", ["a PDF document"]),
    ("a.pkl", b"\x80\x04\x95", ["a Python pickle", "run code"]),
    ("a.pth", b"\x80\2\x8a\x0al\xfc", ["PyTorch weights", "--teacher"]),
    ("a.st", (40).to_bytes(8, "little") + b'{"a":{}}', ["safetensors weights"]),
    ("a.parquet", b"PAR1\x15", ["a Parquet table", ".npz or .csv"]),
    ("a.mat", struct.pack("<5i3s", 0, 5, 4, 0, 3, b"td\0") + b"1" * 160,
     ["a MATLAB 4 file", "-v7"]),
    ("a.zip", ("run/data.pkl", "run/data/0"), ["PyTorch weights"]),
    ("a.zip", ("t.npy", "x.npy"), ["NumPy arrays in an archive", ".npz"]),
    ("a.zip", ("day.raw", "night.raw"), ["a zip archive", "unzip"]),
    ("a.npz", ("day.raw", "night.raw"),
     ["a zip archive without NumPy", "day.raw, night.raw", "unzip"]),
    ("a.npz", (), ["a zip archive without NumPy arrays", "no files"]),
])  # fmt: skip
def test_other_content_is_named(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else zipped(path, *content))
    refused(path, *words)


def test_what_has_not_arrived_is_damage_and_other_files_are_not(tmp_path):
    for name, content, kind in (
        ("a.raw", b"version https://git-lfs.github.com/spec/v1\n", DataError),
        ("b.raw", bytes(9000), DataError),
        ("c.mp4", b"\x00\x00\x00\x18ftypmp42", NotEventsError),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            open_recording(tmp_path / name)
        assert type(caught.value) is kind and "EVT3" in str(caught.value)


def test_a_wrong_extension_does_not_matter(files, tmp_path):
    for layout in ("evt3", "hdf5 group", "npy records", "text", "aedat4"):
        wrong = tmp_path / "recording.bin"
        wrong.write_bytes(files[layout].read_bytes())
        assert_same(read_events(wrong, size=(180, 240)), EVENTS)


# Cut short


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_files_are_refused(files, tmp_path, layout):
    data = files[layout].read_bytes()
    path = tmp_path / files[layout].name
    keep = (
        len(data) - 1
        if path.suffix in (".raw", ".dat", ".bin", ".es", ".aedat")
        else len(data) * 2 // 3
    )
    path.write_bytes(data[:keep])
    refused(path)


def test_half_a_word_is_named_with_its_byte(tmp_path):
    path = write_raw(tmp_path / "a.raw", event_files.evt2_words(EVENTS), *EVT2_HEADER)
    size = path.stat().st_size
    os.truncate(path, size - 1)
    refused(path, "truncated", f"byte {size - 4}", "3 bytes")


def test_aedat4_with_a_data_table_cut_off(files, tmp_path):
    data = bytearray(files["aedat4"].read_bytes())
    place = data.index((-1).to_bytes(8, "little", signed=True))
    data[place : place + 8] = (10**6).to_bytes(8, "little")
    path = tmp_path / "a.aedat4"
    path.write_bytes(data)
    refused(path, "truncated", "byte 1000000")


def test_what_stands_before_the_cut_of_an_aedat4_file_can_be_read(tmp_path):
    frames = [(1000, 3000, np.zeros((4, 6), np.uint8)), (5000, 6000, np.ones((4, 6), np.uint8))]
    path = event_files.write_aedat4(tmp_path / "a.aedat4", [EVENTS[:200], EVENTS[200:]], frames)
    data = bytearray(path.read_bytes())
    place = data.index((-1).to_bytes(8, "little", signed=True))
    data[place : place + 8] = len(data).to_bytes(8, "little")
    path.write_bytes(data[:-5])
    refused(path, "truncated file", f"byte {len(data) - 5}", f"up to byte {len(data)}")
    with pytest.raises(DataError, match="truncated file"):
        list(open_recording(path).frames())
    recording = open_recording(path, max_bad=0.01)
    assert_same(Events.concatenate(recording.blocks(), 180, 240), EVENTS)
    assert set(recording.counts.flaws) == {"truncated file", "the rest cannot be read"}
    assert len(list(recording.frames())) == 1
    events_only = event_files.write_aedat4(tmp_path / "b.aedat4", [EVENTS[:200], EVENTS[200:]])
    events_only.write_bytes(events_only.read_bytes()[:-5])
    assert_same(read_events(events_only, max_bad=0.5), EVENTS[:200])


def test_text_names_the_line(tmp_path, monkeypatch):
    rows = event_files.in_seconds(EVENTS)
    path = write_text(tmp_path / "cut.txt", [*rows, ["0.06", "12"]], "# t x y p\n")
    refused(path, "line 302", "'0.06 12'")
    path = write_text(tmp_path / "word.txt", [*rows[:9], ["0.01", "x", "1", "1"], *rows[9:]])
    refused(path, "line 10")
    monkeypatch.setattr(text, "_SAMPLE_BYTES", 400)
    monkeypatch.setattr(text, "_CHUNK_BYTES", 700)
    path = write_text(tmp_path / "late.txt", [*rows[:250], ["0.06", "x", "1", "1"]])
    refused(path, "line 251")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_checksum_is_compared(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, t=EVENTS.t, x=EVENTS.x, y=EVENTS.y, p=EVENTS.p)
    with zipfile.ZipFile(path) as archive:
        checksum = archive.getinfo("y.npy").CRC
    stored, wrong = (value.to_bytes(4, "little") for value in (checksum, checksum ^ 1))
    path.write_bytes(path.read_bytes().replace(stored, wrong))
    refused(path, "CRC")


# Lies and traps


def test_declared_size_is_checked_before_reading(tmp_path):
    path = tmp_path / "bomb.npy"
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (2**30, 4)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 1000)
    refused(path, "truncated", str(2**35))
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        for name in "txyp":
            file.create_dataset(f"events/{name}", (2**40,), "u1", chunks=(2**20,))
    refused(tmp_path / "bomb.h5", "data are missing")


def test_python_objects_are_refused_unread(tmp_path):
    trap = tmp_path / "trap"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (trap,)

    objects = np.array([Bomb()] * 3, dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", t=objects, x=EVENTS.x, y=EVENTS.y, p=EVENTS.p)
    for name in ("a.npy", "a.npz"):
        refused(tmp_path / name, "Python objects")
    assert not trap.exists()


def test_hdf5_does_not_reach_outside_its_file(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1000))
    other = write_hdf5(tmp_path / "other.h5", columns())
    cases = {}
    with h5py.File(tmp_path / "external.h5", "w") as file:
        for name in "txyp":
            file.create_dataset(f"events/{name}", (300,), "u1", external=[(str(secret), 0, 300)])
        cases["external.h5"] = "another file"
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        for name in "txyp":
            layout = h5py.VirtualLayout((300,), "u1")
            layout[:] = h5py.VirtualSource(str(other), f"events/{name}", (300,))
            file.create_virtual_dataset(f"events/{name}", layout)
        cases["virtual.h5"] = "another file"
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["events"] = h5py.ExternalLink(str(other), "/events")
        cases["link.h5"] = "no events"
    with h5py.File(tmp_path / "loop.h5", "w") as file:
        for number in range(50):  # followed each time, they would be 50 ** depth groups
            file[f"a/{number}"] = file["/"]
        file["soft"] = h5py.SoftLink("/a")
        cases["loop.h5"] = "no events"
    with h5py.File(tmp_path / "unknown filter.h5", "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((300,))
        plan.set_filter(36559, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((300,))
        file.create_group("events")
        for name in "txyp":
            kind = h5py.h5t.NATIVE_UINT8
            data = h5py.h5d.create(file["events"].id, name.encode(), kind, space, plan)
            data.write_direct_chunk((0,), bytes(300))
        cases["unknown filter.h5"] = "filter 36559"
    for name, words in cases.items():
        refused(tmp_path / name, words)


def test_columns_must_match(tmp_path):
    refused(write_hdf5(tmp_path / "a.h5", columns(p=EVENTS.p[:-1])), "differ in length")
    np.savez(tmp_path / "a.npz", t=EVENTS.t, x=EVENTS.x, y=EVENTS.y, p=EVENTS.p[:-1])
    refused(tmp_path / "a.npz", "differ in length")
    words = columns(t=np.array([b"x"] * 300))
    refused(write_hdf5(tmp_path / "b.h5", words), "not numbers")


def test_a_wrong_millisecond_index_is_noticed(tmp_path):
    events = some_events(span_us=500_000)
    for number, index in enumerate((np.full(600, 200), np.full(600, 10**6))):
        path = write_dsec(tmp_path / f"{number}.h5", events, ms_to_idx=index)
        refused(path, "millisecond index", start_us=100_000, end_us=200_000)
    path = write_dsec(tmp_path / "zero.h5", EVENTS, ms_to_idx=np.zeros(60))
    part = read_events(path, 10_000, 20_000, size=(180, 240))
    assert_same(part, EVENTS.between(10_000, 20_000))


def test_broken_raw_headers(tmp_path):
    words = event_files.evt2_words(EVENTS)
    refused(write_raw(tmp_path / "a.raw", words, "evt 2.2"), "evt 2.2", "EVT2 or EVT2.1 or EVT3")
    for size in ("-5x0", "99999x9", "640"):
        refused(write_raw(tmp_path / "b.raw", words, f"geometry {size}"), "sensor size")


# Values that cannot be


@pytest.mark.parametrize("layout", LAYOUTS)
def test_events_off_the_sensor_are_counted_and_placed(files, layout):
    off = (EVENTS.x >= 120) | (EVENTS.y >= 90)
    first = int(np.argmax(off))
    number = f"{off.sum()} such events"
    refused(files[layout], f"event {first}\n", number, "< 120", "< 90", size=(90, 120))


def test_values_no_event_can_have(tmp_path):
    def stored(**changed):
        name = f"{len(list(tmp_path.iterdir()))}.h5"
        return write_hdf5(tmp_path / name, columns(**changed), height=180, width=240)

    bad = EVENTS.p.astype(np.int8)
    bad[7] = 3
    refused(stored(p=bad), "polarity", "event 7", "p = 3")
    fractions = EVENTS.x + 0.0
    fractions[9] += 0.5
    refused(stored(x=fractions), "whole", "event 9", "x = ")
    negative = np.where(np.arange(300) == 5, -1, EVENTS.y.astype(np.int32))
    refused(stored(y=negative), "off the sensor", "event 5", "y = -1")
    seconds = np.where(np.arange(300) == 11, np.nan, EVENTS.t / 1e6)
    refused(stored(t=seconds), "time stamp", "event 11")


@pytest.mark.parametrize("name", ["a.h5", "a.npz", "a.npy", "a.mat"])
def test_values_no_event_can_have_cost_their_events_alone(tmp_path, name):
    """A time, a pixel and a polarity of the 300 are wrong, one event in two ways."""
    given = {"t": EVENTS.t / 1e6, "x": EVENTS.x + 0.0, "y": EVENTS.y + 0.0, "p": EVENTS.p + 0.0}
    given["t"][20] = np.nan
    given["t"][21] = 1e30
    given["x"][30] += 0.5
    given["y"][30] = np.inf
    given["p"][[0, 299]] = (-1, 7)
    path = tmp_path / name
    table = np.stack([given[key] for key in "txyp"], axis=1)
    if name == "a.h5":
        write_hdf5(path, {f"events/{key}": column for key, column in given.items()})
    elif name == "a.npz":
        np.savez(path, **given)
    elif name == "a.npy":
        np.save(path, table)
    else:
        savemat(path, given)
    options = {"size": (180, 240), "time_unit": "s", "columns": "txyp"}
    refused(path, "time stamp out of range", "event 20\n", "nan", **options)
    kept = read_events(path, max_bad=0.02, **options)
    good = np.setdiff1d(np.arange(300), [0, 20, 21, 30, 299])
    expected = (np.array(getattr(EVENTS, key))[good] for key in "txyp")
    assert_same(kept, Events(*expected, 180, 240))
    recording = open_recording(path, max_bad=0.02, **options)
    for _ in recording.blocks():
        pass
    counts = recording.counts
    assert counts.decoded == 300 and counts.bad == 5
    assert counts.dropped == {
        "time stamp out of range": 2,
        "pixel coordinates are not whole numbers": 1,
        "polarity out of range": 2,
    }
    refused(path, "too much damage", "5 of 300", max_bad=0.016, **options)


def test_unsigned_times_beyond_ours(tmp_path):
    t = EVENTS.t.astype(np.uint64)
    t[5] = 2**63
    path = write_hdf5(tmp_path / "a.h5", columns(t=t), height=180, width=240)
    refused(path, "time stamp out of range", "event 5\n", time_unit="us")
    kept = read_events(path, max_bad=0.01, time_unit="us")
    assert len(kept) == 299 and kept.t[5] == EVENTS.t[6]


def test_a_wild_pixel_does_not_make_the_sensor(tmp_path):
    """Of a file that does not state its size: refused with the way out, or left out as damage."""
    x = EVENTS.x.astype(np.int32)
    x[[7, 8]] = (30_000, 2048)
    np.savez(tmp_path / "a.npz", t=EVENTS.t, x=x, y=EVENTS.y, p=EVENTS.p)
    refused(tmp_path / "a.npz", "x = 30000", "--size", time_unit="us")
    recording = open_recording(tmp_path / "a.npz", time_unit="us", max_bad=0.01)
    assert (recording.height, recording.width) == (180, 240)
    assert sum(map(len, recording.blocks())) == 298
    assert recording.counts.dropped == {"off the sensor": 2}


def test_the_size_of_a_file_that_breaks_off_is_that_of_its_whole_part(tmp_path):
    path = tmp_path / "a.h5"
    columns = {f"events/{name}": np.tile(getattr(EVENTS, name), 100) for name in "txyp"}
    columns["events/t"] = np.arange(30_000)
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column, chunks=(10_000,), compression="gzip")
        place = file["events/y"].id.get_chunk_info(2).byte_offset
    data = bytearray(path.read_bytes())
    data[place : place + 40] = bytes(40)
    path.write_bytes(data)
    refused(path, "damaged HDF5 file")
    recording = open_recording(path, max_bad=0.5)
    assert (recording.height, recording.width) == (180, 240)
    assert sum(map(len, recording.blocks())) == 20_000


def test_invalid_arguments(files):
    for size in ((-1, 10), (0, 10), (10, 10**6)):
        with pytest.raises(ConfigError, match="sensor size"):
            open_recording(files["evt2"], size=size)
    with pytest.raises(ConfigError, match="time unit"):
        open_recording(files["hdf5 group"], time_unit="hours")


# Time


@pytest.mark.parametrize(
    ("stored", "unit"),
    [
        (lambda t: t / 1e6, None),
        (lambda t: t / 1e3, "ms"),
        (lambda t: t, None),
        (lambda t: t.astype(np.uint32), None),
        (lambda t: t * 1000 + 999, "ns"),
        (lambda t: t * 1000.0, "ns"),
        (lambda t: t + 0.0, "us"),
    ],
)
def test_time_units(tmp_path, stored, unit):
    path = write_hdf5(tmp_path / "a.h5", columns(t=stored(EVENTS.t)), height=180, width=240)
    assert_same(read_events(path, time_unit=unit), EVENTS)


def test_dates_tell_the_unit_and_doubt_asks(tmp_path):
    epoch = 1_643_243_628_737_093
    late = Events(EVENTS.t + epoch, EVENTS.x, EVENTS.y, EVENTS.p, 180, 240)
    for stamps in (late.t, late.t * 1000, late.t / 1e6):
        path = write_hdf5(tmp_path / "a.h5", columns(t=stamps), height=180, width=240)
        assert_same(read_events(path), late)
    for stamps in (late.t * 30, EVENTS.t + 0.0, late.t / 1e3 + 0.25):
        path = write_hdf5(tmp_path / "a.h5", columns(t=stamps), height=180, width=240)
        refused(path, "time unit is ambiguous", "s, ms, us or ns")


def test_doubtful_column_order_asks(tmp_path):
    path = write_text(tmp_path / "a.txt", [[5, 3, 4, 1]])
    refused(path, "txyp", "xytp", "--columns")
    named = write_text(tmp_path / "b.txt", [[5, 3, 4, 1]], "t x y p\n")
    for events in (read_events(path, columns="txyp"), read_events(named, columns="pxyt")):
        assert (events.t, events.x, events.y, events.p) == (5, 3, 4, 1)


@pytest.mark.parametrize("order", ["".join(order) for order in permutations("txyp")])
def test_columns_in_any_order(tmp_path, order):
    """An order that the values would not suggest: y before x."""
    table = np.stack([getattr(EVENTS, name).astype(np.int64) for name in order], axis=1)
    np.save(tmp_path / "a.npy", table)
    savemat(tmp_path / "a.mat", {"events": table})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["events"] = table.T
    write_text(tmp_path / "a.txt", table.tolist())
    for name in ("a.npy", "a.mat", "a.h5", "a.txt"):
        options = {"size": (180, 240), "columns": order}
        assert_same(read_events(tmp_path / name, **options), EVENTS)


def test_an_order_names_four_columns(tmp_path):
    path = write_text(tmp_path / "a.txt", [[5, 3, 4, 1]])
    for order in ("txy", "txyy", "txypp", ""):
        with pytest.raises(ConfigError, match="order of four columns"):
            read_events(path, columns=order)


class Shuffled:
    """A source of raw blocks of given times, the x of an event being its position."""

    format, size, notes, has_frames = "test", None, {}, False

    def __init__(self, t, block):
        self.t, self.block = t, block

    def blocks(self, start_us, end_us):
        for first in range(0, len(self.t), self.block):
            t = self.t[first : first + self.block]
            x = np.arange(first, first + len(t), dtype=np.uint16)
            yield RawBlock(first, t, x, np.zeros_like(x), (x % 2).astype(np.uint8))


@pytest.mark.parametrize("block", [1, 7, 100, 5000])
@pytest.mark.parametrize("seed", range(4))
def test_jitter_is_sorted_stably_across_blocks(seed, block):
    rng = np.random.default_rng(seed)
    steady = np.sort(rng.integers(0, 20_000 * 10**seed, 3000))
    t = steady - np.where(rng.random(3000) < 0.3, rng.integers(0, 1001, 3000), 0)
    recording = Recording(Path("x"), Shuffled(t, block), 1, 3000)
    order = np.argsort(t, kind="stable")
    events = Events.concatenate(recording.blocks(), 1, 3000)
    assert np.array_equal(events.x, order) and np.array_equal(events.t, t[order])
    late = np.maximum.accumulate(t) > t
    assert recording.counts.reordered == late.sum() > 0
    part = Events.concatenate(recording.blocks(4000, 9000), 1, 3000)
    assert np.array_equal(part.x, events.between(4000, 9000).x)
    counts = recording.counts
    assert counts.decoded == counts.kept + sum(counts.dropped.values())


@pytest.mark.parametrize("block", [1, 10, 1000])
def test_larger_steps_back_are_damage(block):
    t = np.arange(0, 300_000, 1000)
    t[250] -= JITTER_US + 1 + 1000
    with pytest.raises(DataError, match=r"event 250\n") as caught:
        list(Recording(Path("x"), Shuffled(t, block), 1, 300).blocks())
    assert f"t = {t[250]} us, where the clock was at 249000 us" in str(caught.value)


def test_unsorted_file(tmp_path):
    t = np.array(EVENTS.t)
    t[200] -= 130_000
    path = write_hdf5(tmp_path / "a.h5", columns(t=t), height=180, width=240)
    refused(path, "wrong time stamps", "event 200", "/a.h5")
    t[200:] -= 130_000
    path = write_hdf5(tmp_path / "b.h5", columns(t=t), height=180, width=240)
    refused(path, "time steps back", "event 200", "/b.h5")


# Facts


@pytest.mark.parametrize("block", [300, 1 << 18])
def test_facts_of_a_planted_recording(tmp_path, monkeypatch, block):
    monkeypatch.setattr(hdf5, "BLOCK", block)
    t = np.concatenate([np.arange(0, 100_000, 100), np.arange(50_000, 60_000, 10)])
    t = np.sort(t) + 5_000_000
    x = np.zeros(len(t), np.uint16)
    p = (np.arange(len(t)) % 4 == 0).astype(np.uint8)
    events = Events(t, x, x, p, 180, 240)
    facts = recording_facts(open_recording(write_dsec(tmp_path / "a.h5", events, 123)))
    assert facts["format"] == "DSEC HDF5" and (facts["width"], facts["height"]) == (640, 480)
    assert facts["events"] == facts["decoded"] == 2000 and facts["dropped"] == {}
    assert (facts["first_us"], facts["last_us"]) == (5_000_000, 5_099_900)
    assert facts["peak_rate"] == 1100 / 0.01 and facts["positive_share"] == 0.25
    assert facts["mean_rate"] == pytest.approx(2000 / 0.0999)


def npz_member(path: Path, name: str) -> tuple[int, int]:
    """Where the compressed bytes of a member of a zip lie: begin and length."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(name)
    head = path.read_bytes()[member.header_offset :][:30]
    lengths = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    return member.header_offset + 30 + lengths, member.compress_size


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_flips_are_found_before_any_event_is_used(tmp_path, monkeypatch, save, order):
    """Also by a read of a part, and of columns that end before their member does."""
    monkeypatch.setattr(arrays, "BLOCK", 1000)
    path, events = tmp_path / "a.npz", some_events(20_000)
    table = np.stack([events.t / 1e6, events.x, events.y, events.p], axis=1)
    save(path, events=np.asarray(table, order=order), other=np.zeros(9))
    data = path.read_bytes()
    begin, length = npz_member(path, "events.npy")
    for at in np.random.default_rng(0).integers(begin + length // 2, begin + length, 25).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        for max_bad in (None, 1.0):
            with pytest.raises(DataError):
                next(open_recording(path, size=(180, 240), max_bad=max_bad).blocks(None, 9_000))


def test_npy_with_more_than_one_array_is_refused(tmp_path):
    """np.save twice into one file; np.load would give the first part of the recording."""
    table = np.stack([EVENTS.t / 1e6, EVENTS.x, EVENTS.y, EVENTS.p], axis=1)
    with (tmp_path / "a.npy").open("wb") as file:
        np.save(file, table[:200])
        np.save(file, table[200:])
    refused(tmp_path / "a.npy", "more data", "several arrays saved into one file")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("events.npy", (tmp_path / "a.npy").read_bytes())
    refused(tmp_path / "a.npz", "more data", "events.npy")


def test_npz_headers_are_bounded(tmp_path):
    """A header of 1 GB, and 5,000 arrays: neither takes memory or minutes."""
    path, length = tmp_path / "a.npz", 1 << 30
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        head = b"\x93NUMPY\x02\x00" + length.to_bytes(4, "little")
        with archive.open("events.npy", "w", force_zip64=True) as member:
            member.write(head)
            for _ in range(64):
                member.write(bytes(1 << 20))
    tracemalloc.start()
    refused(path, "damaged")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(5000):
            with archive.open(f"a{number}.npy", "w") as member:
                np.save(member, np.zeros(1))
    began = time.process_time()
    refused(path, "no events")
    assert time.process_time() - began < 10
