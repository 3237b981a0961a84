"""AEDAT 2.0, 3 and 4: what their readers do beyond the plain events."""

import os
import struct
from functools import partial
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
from backports import zstd

from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.formats import aedat as aedat_module
from scaleevent.formats import open_recording, read_events
from scaleevent.formats import words as words_module
from tests.event_files import (
    aedat3_packet,
    rows_of,
    some_events,
    write_aedat2,
    write_aedat3,
    write_aedat4,
)
from tests.test_formats import assert_same

EVENTS = some_events(1500)
small_blocks = pytest.mark.parametrize("block", [1, 7, 100, 1 << 18])


def read(path: Path) -> tuple[Events, object]:
    recording = open_recording(path)
    blocks = list(recording.blocks())
    return Events.concatenate(blocks, recording.height, recording.width), recording


# AEDAT 2.0


def slow_aedat2(data, chip):
    """Events and what is none, record by record; image coordinates."""
    rows, others = [], 0
    width, height = {"DVS128": (128, 128)}.get(chip, (346, 260))
    for address, t in struct.iter_unpack(">II", data):
        if chip == "DVS128":
            x, y, p = address >> 1 & 127, address >> 8 & 127, 1 - (address & 1)
            none = address >> 15 & 1
        else:
            x, y, p = address >> 12 & 1023, address >> 22 & 511, address >> 11 & 1
            none = address >> 31 or address >> 10 & 1
        if none:
            others += 1
        else:
            rows.append((t, width - 1 - x, height - 1 - y, p))
    return rows, others


@small_blocks
@pytest.mark.parametrize("chip", ["DVS128", "Davis346blue"])
def test_aedat2_decodes_as_the_slow_decoder_says(tmp_path, monkeypatch, chip, block):
    monkeypatch.setattr(words_module, "BLOCK", block)
    rng = np.random.default_rng(block)
    records = rng.integers(0, 2**32, (400, 2), dtype=np.uint32)
    if chip != "DVS128":  # on the sensor
        on_sensor = rng.integers(0, 346, 400) << 12 | rng.integers(0, 260, 400) << 22
        records[:, 0] = records[:, 0] & 0x80000FFF | on_sensor.astype(np.uint32)
    records[:, 1] = np.sort(records[:, 1])
    path = write_aedat2(tmp_path / "a.aedat", EVENTS[:0], chip)
    path.write_bytes(path.read_bytes() + records.astype(">u4").tobytes())
    events, recording = read(path)
    expected, others = slow_aedat2(records.astype(">u4").tobytes(), chip)
    assert list(rows_of(events)) == expected and 0 < others < 400
    assert recording.counts.ignored == {"frame, IMU and special samples": others}


@pytest.mark.parametrize(
    ("chip", "size"),
    [
        ("DVS128", (128, 128)),
        ("Davis128", (128, 128)),
        ("Davis208PixelParade", (192, 208)),
        ("DAVIS240B", (180, 240)),
        ("SBret10", (180, 240)),
        ("Davis346B", (260, 346)),
        ("Davis640", (480, 640)),
    ],
)
def test_aedat2_cameras_by_their_jaer_names(tmp_path, chip, size):
    events = some_events(50, *size)
    assert_same(read_events(write_aedat2(tmp_path / "a.aedat", events, chip)), events)


def test_aedat2_of_a_dvs128(tmp_path):
    events = some_events(height=128, width=128)
    path = write_aedat2(tmp_path / "a.aedat", events, "DVS128")
    assert_same(read_events(path), events)
    with path.open("ab") as file:
        file.write(struct.pack(">II", 0x8000 | 77, int(events.t[-1])))
    _, recording = read(path)
    assert recording.counts.ignored["frame, IMU and special samples"] == 1
    assert recording.counts.decoded == len(events)


def test_aedat2_frames_imu_and_special_samples_are_no_events(tmp_path):
    path = write_aedat2(tmp_path / "a.aedat", EVENTS)
    with path.open("ab") as file:
        for address in (0x80000000, 0x80000400, 0x00000400):
            file.write(struct.pack(">II", address | 5 << 12, int(EVENTS.t[-1])))
    events, recording = read(path)
    assert_same(events, EVENTS)
    assert recording.counts.ignored["frame, IMU and special samples"] == 3


def test_aedat2_clock_wraps(tmp_path):
    events = some_events(start_us=2**32 - 20_000)
    assert_same(read_events(write_aedat2(tmp_path / "a.aedat", events)), events)


def test_aedat2_zeroed_clock_is_a_new_segment(tmp_path):
    path = write_aedat2(tmp_path / "a.aedat", some_events(start_us=500_000))
    second = some_events(start_us=0, seed=1)
    again = write_aedat2(tmp_path / "b.aedat", second).read_bytes()
    path.write_bytes(path.read_bytes() + again[-8 * len(second) :])
    with pytest.raises(DataError, match="time steps back"):
        read_events(path)
    assert_same(read_events(path, segment=1), second)


def without_camera(path: Path) -> Path:
    """The file as old versions of jAER and v2e write it."""
    data = path.read_bytes()
    start = data.index(b"# AEChip")
    path.write_bytes(data[:start] + data[data.index(b"\n", start) + 1 :])
    return path


@pytest.mark.parametrize(("chip", "camera", "size"), [
    ("DVS128", "dvs128", (128, 128)), ("DAVIS240C", "DAVIS240", (180, 240)),
    ("DAVIS208", "DAVIS208B", (192, 208)), ("DAVIS346", "davis346red", (260, 346)),
    ("DAVIS346", "DVS346", (260, 346)), ("DAVIS640", "DAVIS640", (480, 640)),
    ("DVS640", "dvs640", None),
])  # fmt: skip
def test_aedat2_without_a_camera_is_told_it(tmp_path, chip, camera, size):
    events = some_events(200, *(size or (480, 640)))
    path = without_camera(write_aedat2(tmp_path / "a.aedat", events, chip))
    with pytest.raises(DataError, match="addresses are not known") as caught:
        open_recording(path)
    message = str(caught.value)
    assert "no line AEChip" in message and "--camera DVS128" in message and "--size" in message
    assert "DVS128, DAVIS128, DAVIS208, DAVIS240, DAVIS346, DAVIS640, DVS640" in message
    recording = open_recording(path, camera=camera)
    assert_same(Events.concatenate(recording.blocks(), *recording.source.size), events)
    assert recording.choices == ()
    if size:
        recording = open_recording(path, size=size)
        assert_same(Events.concatenate(recording.blocks(), *size), events)
        (line,) = recording.choices
        assert "from the sensor's size" in line and recording.notes["camera"] in line
    with pytest.raises(ConfigError, match="unknown camera") as caught:
        open_recording(path, camera="DAVIS")
    assert "DAVIS346" in str(caught.value)
    with pytest.raises(DataError, match="addresses are not known"):
        open_recording(path, size=(100, 100))


def test_aedat2_of_v2e(tmp_path):
    """Its 640x480 has the addresses of jAER's DVS640, not those of a DAVIS640."""
    head = "# This is a raw AE data file created by AEDat2Output in v2e (see its site)\r\n"
    for chip, size in (("DAVIS346", (260, 346)), ("DAVIS240", (180, 240)), ("DVS640", (480, 640))):
        events = some_events(200, *size)
        path = without_camera(write_aedat2(tmp_path / "a.aedat", events, chip, head))
        assert_same(read_events(path, size=size), events)


def test_a_stated_camera_counts_more_than_that_of_the_file(tmp_path):
    path = write_aedat2(tmp_path / "a.aedat", some_events(500, 128, 128), "DVS128")
    path.write_bytes(path.read_bytes().replace(b"DVS128", b"DAVIS128"))
    recording = open_recording(path, camera="DVS128")
    assert_same(Events.concatenate(recording.blocks(), 128, 128), some_events(500, 128, 128))
    assert recording.choices == ("addresses of a DVS128, as stated; the file names DAVIS128",)
    chip = write_aedat2(tmp_path / "b.aedat", some_events(50, 480, 640), "DavisRGBW640")
    with pytest.raises(DataError, match="addresses are not known") as caught:
        open_recording(chip, size=(480, 640))
    assert "--size" not in str(caught.value)


@pytest.mark.parametrize(("true", "said"), [
    ("DVS128", "DAVIS346"), ("DVS128", "DVS640"), ("DAVIS346", "DVS128"), ("DAVIS346", "DVS640"),
    ("DVS640", "DVS128"), ("DVS640", "DAVIS640"),
])  # fmt: skip
def test_a_camera_with_other_addresses_is_refused(tmp_path, true, said):
    sizes = {"DVS128": (128, 128), "DAVIS346": (260, 346), "DVS640": (480, 640)}
    events = some_events(500, *sizes[true])
    path = without_camera(write_aedat2(tmp_path / "a.aedat", events, true))
    with pytest.raises(DataError, match=f"not those of a {said}") as caught:
        open_recording(path, camera=said)
    assert true in str(caught.value).split("hint")[1]


def short_records(events: Events) -> bytes:
    """AEDAT 1.0 of a DVS128: 16 bits of address, 32 of time."""
    return b"".join(
        struct.pack(">HI", (127 - y) << 8 | (127 - x) << 1 | 1 - p, t & 0xFFFFFFFF)
        for t, x, y, p in rows_of(events)
    )


@pytest.mark.parametrize("block", [5, 6, 7, 100, 1 << 18])
@pytest.mark.parametrize(("name", "head"), [
    ("a.aedat", b"#!AER-DAT1.0\r\n# This is a raw AE data file\r\n"),
    ("b.aedat", b"# This is a raw AE data file\r\n"), ("c.aedat", b""), ("d.dat", b""),
])  # fmt: skip
def test_aedat1(tmp_path, monkeypatch, name, head, block):
    monkeypatch.setattr(words_module, "BLOCK", block)
    events = some_events(700, 128, 128, start_us=2**32 - 20_000)
    path, data = tmp_path / name, short_records(events)
    path.write_bytes(head + data)
    with pytest.raises(DataError, match=r"AEDAT 1\.0 of a camera .* not known") as caught:
        open_recording(path)
    assert "--camera DVS128" in str(caught.value)
    assert_same(read_events(path, size=(128, 128)), events)
    recording = open_recording(path, camera="Tmpdiff128")
    assert_same(Events.concatenate(recording.blocks(), 128, 128), events)
    assert recording.format == "AEDAT 1.0"
    with pytest.raises(ConfigError, match="another camera"):
        open_recording(path, camera="DAVIS346")
    last = int(events.t[-1]) & 0xFFFFFFFF
    path.write_bytes(head + data + struct.pack(">HI", 0x8000, last) + data[-6:-1])
    recording = open_recording(path, camera="DVS128")
    with pytest.raises(DataError, match="truncated"):
        list(recording.blocks())
    assert recording.counts.ignored == {"special samples": 1}


@pytest.mark.parametrize("name", ["a.aedat", "a.dat"])
def test_other_content_is_not_taken_for_aedat1(tmp_path, name):
    rng = np.random.default_rng(0)
    for content in (
        rng.bytes(6000), bytes(6000), b"\xff" * 6000, b"text and more text\n" * 300,
        np.arange(2000, dtype="<u4").tobytes(), np.arange(2000, dtype=">u4").tobytes(),
        write_aedat2(tmp_path / "b", some_events(300)).read_bytes()[66:],
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"recording|that is not events"):
            open_recording(tmp_path / name, camera="DVS128")


def test_aedat2_headers(tmp_path):
    long = "".join(f"#<entry key='{k}'/>\r\n" for k in range(20_000))
    for head in (long, "#End Of ASCII Header\r\n", "# AEChip: again\r\n"):
        assert_same(read_events(write_aedat2(tmp_path / "a.aedat", EVENTS, head=head)), EVENTS)
    # events whose first byte is a "#": row 140 of 179
    first = Events.from_columns(EVENTS.t, EVENTS.x, np.full(1500, 39), EVENTS.p, 180, 240)
    path = write_aedat2(tmp_path / "a.aedat", first)
    assert b"\r\n#" in path.read_bytes()[40:]
    assert_same(read_events(path), first)
    for chip in ("Gen3", "DVS132S", "DavisRGBW640", "CDAVIS"):
        with pytest.raises(DataError, match="addresses are not known") as caught:
            read_events(write_aedat2(tmp_path / "b.aedat", EVENTS, chip))
        assert chip in str(caught.value) and "DAVIS" in str(caught.value)
    assert len(read_events(write_aedat2(tmp_path / "c.aedat", EVENTS[:0]))) == 0


def test_aedat_headers_that_cannot_be_read(tmp_path, monkeypatch):
    path = write_aedat2(tmp_path / "a.aedat", EVENTS)
    path.write_bytes(path.read_bytes().replace(b"# AEChip: ", b"# Camera: "))
    with pytest.raises(DataError, match="no line AEChip"):
        read_events(path)
    for version in ("1.1", "3.7", "nonsense"):
        path.write_bytes(f"#!AER-DAT{version}\r\n".encode() + bytes(80))
        with pytest.raises(DataError, match="version") as caught:
            read_events(path)
        assert version in str(caught.value)
    monkeypatch.setattr(aedat_module, "MAX_HEADER_BYTES", 1 << 17)
    long = "#" + "comment" * 10 + "\r\n"
    with pytest.raises(DataError, match="header without end"):
        read_events(write_aedat2(path, EVENTS, head=long * 2000))
    assert_same(read_events(write_aedat2(path, EVENTS, head=long * 500)), EVENTS)


def test_a_real_header_with_text_for_events():
    """A line of dollar signs follows the header: no records, and not a multiple of eight bytes."""
    folder = os.environ.get("SCALEEVENT_TEST_DATA")
    if not folder:
        pytest.skip("SCALEEVENT_TEST_DATA is not set: real recordings are not checked")
    path = Path(folder) / "events/aedat-file-reader-rs/header_test_128.aedat_test"
    recording = open_recording(path)
    assert (recording.height, recording.width) == (128, 128)
    with pytest.raises(DataError, match="truncated") as caught:
        list(recording.blocks())
    assert "byte 4273" in str(caught.value) and "6 bytes" in str(caught.value)


# AEDAT 3


def slow_aedat3(data):
    """Events of the first camera, and what was left out, packet by packet."""
    rows, left, first, at = [], {}, None, 0
    while at < len(data):
        kind, source, size, _, overflow, _, number, _ = struct.unpack_from("<hhiiiiii", data, at)
        at += 28
        if kind == 1 and first in (None, source):
            first = source
            for word, t in struct.iter_unpack("<Ii", data[at : at + 8 * number]):
                if word & 1:
                    x, y = word >> 17, word >> 2 & 0x7FFF
                    rows.append((t + overflow * 2**31, x, y, word >> 1 & 1))
                else:
                    left["invalid"] = left.get("invalid", 0) + 1
        else:
            name = "other camera" if kind == 1 else "other kind"
            left[name] = left.get(name, 0) + 1
        at += number * size
    return rows, left


@small_blocks
def test_aedat3_decodes_as_the_slow_decoder_says(tmp_path, monkeypatch, block):
    monkeypatch.setattr(words_module, "BLOCK", block)
    rng = np.random.default_rng(3)
    data, t = b"", 0
    for _ in range(40):
        number = int(rng.integers(0, 30))
        kind = int(rng.choice([1, 1, 1, 0, 2, 3, 130]))
        size = 8 if kind == 1 else int(rng.integers(4, 200))
        data += struct.pack(
            "<hhiiiiii", kind, rng.choice([5, 5, 5, 6]), size, 4 if size >= 8 else 0, t >> 31,
            number + 3, number, number // 2,
        )  # fmt: skip
        if kind == 1:
            for _ in range(number):
                t += int(rng.integers(0, 2**28))
                if t >> 31 != (t - 2**28) >> 31 and t % 2**31 < 2**28:
                    t -= t % 2**31 + 1  # the clock runs over between packets only
                word = rng.integers(240) << 17 | rng.integers(180) << 2 | rng.integers(4)
                data += struct.pack("<II", word, t & 0x7FFFFFFF)
            t += 2**28
        else:
            data += rng.bytes(number * size)
    path = write_aedat3(tmp_path / "a.aedat", data)
    rows, left = slow_aedat3(data)
    recording = open_recording(path, max_bad=0.0)
    blocks = [list(rows_of(block)) for block in recording.source.blocks(None, None)]
    assert [row for block in blocks for row in block] == rows
    parts = list(recording.source.blocks(None, None))
    ignored = [sum(part.ignored[name] for part in parts) for name in parts[0].ignored]
    assert ignored == [left["other camera"], left["other kind"]]
    assert sum(part.dropped["marked invalid"] for part in parts) == left["invalid"] > 10


@small_blocks
def test_aedat3_takes_the_polarity_packets_of_one_camera(tmp_path, monkeypatch, block):
    monkeypatch.setattr(words_module, "BLOCK", block)
    events, other = some_events(200), some_events(50, seed=2)
    packets = [
        struct.pack("<hhiiiiii", 2, 1, 1000, 4, 0, 3, 3, 3) + bytes(3000),  # frames
        aedat3_packet(events[:90]),
        aedat3_packet(other, source=2),
        struct.pack("<hhiiiiii", 3, 1, 36, 4, 0, 2, 2, 2) + bytes(72),  # IMU
        aedat3_packet(events[90:]),
        aedat3_packet(events[-1:], valid=0),
        aedat3_packet(events[:0]),
        # compressed frames: bit 15, and the size in bytes for the capacity
        struct.pack("<Hhiiiiii", 0x8002, 1, 9000, 12, 0, 500, 2, 2) + b"\1" * 500,
        struct.pack("<hhiiiiii", 120, 1, 36, 4, 0, 2, 2, 2) + bytes(72),  # a user's own kind
    ]
    found, recording = read(write_aedat3(tmp_path / "a.aedat", *packets))
    assert_same(found, events)
    assert recording.counts.ignored == {
        "packets of other cameras": 1,
        "packets of frames, IMU samples and others": 4,
    }
    assert recording.counts.dropped["marked invalid"] == 1
    assert recording.counts.decoded == 201
    assert recording.format == "AEDAT 3.1" and recording.notes["camera"] == "DAVIS240C"


def test_aedat3_counts_the_overflows_of_its_clock(tmp_path):
    events = some_events(start_us=2**31 - 20_000)
    late = int(np.searchsorted(events.t, 2**31))
    packets = aedat3_packet(events[:late]), aedat3_packet(events[late:], overflow=1)
    assert_same(read_events(write_aedat3(tmp_path / "a.aedat", *packets)), events)


def test_aedat30_counts_rows_from_the_bottom(tmp_path):
    upside_down = Events(
        EVENTS.t, EVENTS.x, np.uint16(179) - EVENTS.y, EVENTS.p, height=180, width=240
    )
    path = write_aedat3(tmp_path / "a.aedat", aedat3_packet(upside_down))
    path.write_bytes(path.read_bytes().replace(b"DAT3.1", b"DAT3.0"))
    assert_same(read_events(path), EVENTS)
    path.write_bytes(path.read_bytes().replace(b"DAVIS240C", b"NewCamera"))
    with pytest.raises(DataError, match="not known") as caught:
        read_events(path)
    assert "NewCamera" in str(caught.value) and "--camera" in str(caught.value)
    recording = open_recording(path, camera="DAVIS240")
    assert_same(Events.concatenate(recording.blocks(), 180, 240), EVENTS)


def test_aedat3_of_two_cameras_is_measured(tmp_path):
    path = write_aedat3(tmp_path / "a.aedat", aedat3_packet(EVENTS))
    two = b"#Source 1: DAVIS240C\r\n#Source 2: DVS128\r\n"
    path.write_bytes(path.read_bytes().replace(b"#Source 1: DAVIS240C\r\n", two))
    found, recording = read(path)
    assert_same(found, EVENTS)
    assert recording.notes["camera"] == "DAVIS240C, DVS128"
    assert recording.choices == (
        "events of one camera, the first that has any, of DAVIS240C, DVS128",
    )
    assert "largest coordinates" in recording.notes["sensor size from"]


def test_aedat3_compressed_events_are_refused(tmp_path):
    path = write_aedat3(tmp_path / "a.aedat", aedat3_packet(EVENTS))
    path.write_bytes(path.read_bytes().replace(b"Format: RAW", b"Format: SerializedTS,PNGFrames"))
    with pytest.raises(DataError, match="SerializedTS"):
        read_events(path)


def test_aedat3_cut_at_any_byte_is_refused(tmp_path):
    whole = write_aedat3(
        tmp_path / "a.aedat",
        aedat3_packet(EVENTS[:3]),
        struct.pack("<hhiiiiii", 3, 1, 36, 4, 0, 2, 2, 2) + bytes(72),
    ).read_bytes()
    start = len(whole) - 28 - 24 - 28 - 72
    for cut in range(start + 1, len(whole)):
        (tmp_path / "cut.aedat").write_bytes(whole[:cut])
        if cut == start + 28 + 24:  # between packets
            assert len(read_events(tmp_path / "cut.aedat")) == 3
            continue
        with pytest.raises(DataError, match="truncated"):
            read_events(tmp_path / "cut.aedat")


def test_aedat3_of_an_unknown_camera_is_measured(tmp_path):
    path = write_aedat3(tmp_path / "a.aedat", aedat3_packet(EVENTS), camera="NewCam")
    found, recording = read(path)
    assert_same(found, EVENTS)
    assert "largest coordinates" in recording.notes["sensor size from"]


def test_aedat3_invalid_packets_end_the_reading(tmp_path):
    good = aedat3_packet(EVENTS[:100])
    for bad in (
        struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, 5, 9, 9),  # more than the capacity
        struct.pack("<hhiiiiii", 1, 1, 16, 4, 0, 5, 5, 5),  # events of another size
        struct.pack("<Hhiiiiii", 0x8001, 1, 8, 4, 0, 40, 5, 5),  # compressed ones
        struct.pack("<hhiiiiii", 3, 1, 8, 5, 0, 5, 5, 5),  # time outside the event
        struct.pack("<hhiiiiii", 3, 1, 8, 4, 0, 5, 5, 6),  # more valid than there are
        struct.pack("<hhiiiiii", 2, 1, 2**30, 4, 0, 2, 2, 2),
        struct.pack("<hhiiiiii", 1, 1, 8, 4, -1, 5, 5, 5),
    ):
        path = write_aedat3(tmp_path / "a.aedat", good, bad, good)
        place = path.stat().st_size - len(good) - len(bad)
        with pytest.raises(DataError, match="unknown words") as caught:
            read_events(path)
        assert f"byte {place}" in str(caught.value)
        assert_same(read_events(path, max_bad=1.0, size=(180, 240)), EVENTS[:100])
        with pytest.raises(DataError, match="too much damage"):
            read_events(path, max_bad=0.5)
    path = write_aedat3(tmp_path / "a.aedat", good[:-3])
    with pytest.raises(DataError, match="truncated"):
        read_events(path)


# AEDAT 4.0


def frame(level: int) -> tuple[int, int, np.ndarray]:
    return 1000, 3000, np.full((180, 240), level, np.uint8)


def levels(recording) -> list[int]:
    return [int(one.image[0, 0]) for one in recording.frames()]


def test_aedat4_streams_are_chosen_by_rule_or_named(tmp_path):
    other, third = some_events(300, seed=5), some_events(200, seed=6)
    more = [
        ("EVTS", "two", [other]),
        ("FRME", "two", [frame(3)]),
        ("EVTS", "three", [third]),
        ("FRME", "two", []),
    ]
    path = write_aedat4(tmp_path / "a.aedat4", [EVENTS], [frame(1)], more=more)
    recording = open_recording(path)
    assert levels(recording) == [1]
    assert_same(read_events(path), EVENTS)
    events, frames = recording.choices
    assert events.startswith('events of stream 0 events "EVTS0" one; not of 2 events')
    assert frames.startswith('frames of stream 1 frame "FRME1" one; not of 3 frame')
    assert frames.endswith("(empty) (--image-topic)") and events.endswith("(--topic)")

    path = write_aedat4(tmp_path / "b.aedat4", [], [frame(1)], more=more)
    recording = open_recording(path)  # the first without events; frames of the same camera
    assert levels(recording) == [3]
    assert_same(Events.concatenate(list(recording.blocks()), 180, 240), other)
    assert "(empty)" in recording.choices[0]
    for named in ("4", "EVTS4"):
        recording = open_recording(path, topic=named, image_topic="1")
        assert_same(Events.concatenate(list(recording.blocks()), 180, 240), third)
        assert recording.choices == ("the frames are of camera one, the events three",)
    for options in ({"topic": "1"}, {"topic": "x"}, {"image_topic": "EVTS2"}):
        with pytest.raises(ConfigError, match="no such stream") as caught:
            open_recording(path, **options)
        assert '3 frame "FRME3" two' in str(caught.value) or "EVTS4" in str(caught.value)


def test_aedat4_of_one_camera_leaves_nothing_to_choose(tmp_path):
    path = write_aedat4(tmp_path / "a.aedat4", [EVENTS], [frame(1)])
    assert open_recording(path).choices == ()


def checked_zstd(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


@pytest.mark.parametrize(
    ("number", "pack"),
    [
        (0, bytes),
        (1, lz4.frame.compress),
        (2, partial(lz4.frame.compress, content_checksum=True, block_checksum=True)),
        (2, partial(lz4.frame.compress, store_size=False, block_size=4)),
        (3, zstd.compress),
        (4, checked_zstd),
    ],
)
def test_an_aedat4_index_that_is_cut_off_is_noted(tmp_path, number, pack):
    path = write_aedat4(tmp_path / "a.aedat4", [EVENTS], compression=(number, pack))
    data = path.read_bytes()
    assert open_recording(path).notes["index"].startswith("none; the recording was not closed")
    place = data.index((-1).to_bytes(8, "little", signed=True))
    data = data[:place] + len(data).to_bytes(8, "little") + data[place + 8 :]
    rng = np.random.default_rng(0)
    for content in (rng.bytes(300_000), rng.integers(0, 9, 300_000, np.uint8).tobytes(), b"a" * 9):
        index = pack(struct.pack("<I", len(content)) + content)
        path.write_bytes(data + index)
        assert "index" not in open_recording(path).notes
        assert_same(read_events(path), EVENTS)
        for cut in (1, 8, len(index) // 2, len(index) - 2, len(index)):
            path.write_bytes((data + index)[:-cut])
            assert "cut off" in open_recording(path).notes["index"]
            assert_same(read_events(path), EVENTS)


def test_what_is_lost_after_damage_in_aedat4_is_estimated(tmp_path):
    packets = [EVENTS[k : k + 100] for k in range(0, 1500, 100)]
    path = write_aedat4(tmp_path / "a.aedat4", packets)
    data = bytearray(path.read_bytes())
    at = [k for k in range(len(data)) if data[k : k + 4] == b"EVTS"][7]
    data[at : at + 4] = b"EVXX"
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        read_events(path)
    recording = open_recording(path, max_bad=1.0)
    assert sum(map(len, recording.blocks())) == 500
    assert recording.counts.bad == 1000
    with pytest.raises(DataError, match="too much damage"):
        read_events(path, max_bad=0.5)
