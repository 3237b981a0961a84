"""AEDAT 2.0 and 3.1, ES, ATIS BIN and MATLAB: what their readers do beyond the plain events."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from scaleevent.errors import DataError, NotEventsError
from scaleevent.events import Events
from scaleevent.formats import open_recording, read_events
from scaleevent.formats import words as words_module
from tests.event_files import (
    aedat3_packet,
    rows_of,
    some_events,
    write_aedat2,
    write_aedat3,
    write_atis_bin,
    write_es,
)
from tests.test_formats import assert_same

EVENTS = some_events(1500)
small_blocks = pytest.mark.parametrize("block", [1, 7, 100, 1 << 18])


def read(path: Path) -> tuple[Events, object]:
    recording = open_recording(path)
    blocks = list(recording.blocks())
    return Events.concatenate(blocks, recording.height, recording.width), recording


@small_blocks
@pytest.mark.parametrize("write", [write_es, write_atis_bin, write_aedat2])
def test_any_block_size(tmp_path, monkeypatch, write, block):
    monkeypatch.setattr(words_module, "BLOCK", block)
    events = some_events(300)
    suffix = {write_es: ".es", write_atis_bin: ".bin", write_aedat2: ".aedat"}[write]
    assert_same(read_events(write(tmp_path / f"a{suffix}", events)), events)


@pytest.mark.parametrize("write", [write_es, write_atis_bin, write_aedat2])
def test_a_second_read_begins_at_a_noted_place(tmp_path, monkeypatch, write):
    monkeypatch.setattr(words_module, "BLOCK", 500)
    suffix = {write_es: ".es", write_atis_bin: ".bin", write_aedat2: ".aedat"}[write]
    recording = open_recording(write(tmp_path / f"a{suffix}", EVENTS), size=(180, 240))
    recording.source.index.every = 200
    assert sum(map(len, recording.blocks())) == len(EVENTS)
    for start in (9_000, 30_000, 45_000):
        part = Events.concatenate(recording.blocks(start), 180, 240)
        assert_same(part, EVENTS.between(start, None))
    assert next(recording.source.blocks(45_000, None)).first > 900


# AEDAT 2.0


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


def test_aedat2_headers(tmp_path):
    long = "".join(f"#<entry key='{k}'/>\r\n" for k in range(20_000))
    for head in (long, "#End Of ASCII Header\r\n", "# AEChip: again\r\n"):
        assert_same(read_events(write_aedat2(tmp_path / "a.aedat", EVENTS, head=head)), EVENTS)
    # events whose first byte is a "#": row 140 of 179
    first = Events.from_columns(EVENTS.t, EVENTS.x, np.full(1500, 39), EVENTS.p, 180, 240)
    path = write_aedat2(tmp_path / "a.aedat", first)
    assert b"\r\n#" in path.read_bytes()[40:]
    assert_same(read_events(path), first)
    for chip in ("Gen3", "DVS132S"):
        with pytest.raises(DataError, match="addresses are not known") as caught:
            read_events(write_aedat2(tmp_path / "b.aedat", EVENTS, chip))
        assert chip in str(caught.value) and "DAVIS" in str(caught.value)
    assert len(read_events(write_aedat2(tmp_path / "c.aedat", EVENTS[:0]))) == 0


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


# AEDAT 3.1


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
    ]
    found, recording = read(write_aedat3(tmp_path / "a.aedat", *packets))
    assert_same(found, events)
    assert recording.counts.ignored["other packets"] == 3
    assert recording.counts.dropped["marked invalid"] == 1
    assert recording.counts.decoded == 201
    assert recording.format == "AEDAT 3.1" and recording.notes["camera"] == "DAVIS240C"


def test_aedat3_counts_the_overflows_of_its_clock(tmp_path):
    events = some_events(start_us=2**31 - 20_000)
    late = int(np.searchsorted(events.t, 2**31))
    packets = aedat3_packet(events[:late]), aedat3_packet(events[late:], overflow=1)
    assert_same(read_events(write_aedat3(tmp_path / "a.aedat", *packets)), events)


def test_aedat3_of_an_unknown_camera_is_measured(tmp_path):
    path = write_aedat3(tmp_path / "a.aedat", aedat3_packet(EVENTS), camera="NewCam")
    found, recording = read(path)
    assert_same(found, EVENTS)
    assert "largest coordinates" in recording.notes["sensor size from"]


def test_aedat3_packets_that_cannot_be_end_the_reading(tmp_path):
    good = aedat3_packet(EVENTS[:100])
    for bad in (
        struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, 5, 9, 9),  # more than the capacity
        struct.pack("<hhiiiiii", 999, 1, 8, 4, 0, 5, 5, 5),
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


# ES


def slow_es(data):
    rows, t, at = [], 0, 20
    height = data[18] | data[19] << 8
    while at < len(data):
        if data[at] == 0xFF:
            t, at = t + 127, at + 1
        elif data[at] == 0xFE:
            at += 1
        else:
            t += data[at] >> 1
            x, y = struct.unpack_from("<HH", data, at + 1)
            rows.append((t, x, height - 1 - y, data[at] & 1))
            at += 5
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_es_decodes_as_the_slow_decoder_says(tmp_path, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(write_es(tmp_path / "a.es", EVENTS[:0]).read_bytes())
    for _ in range(500):
        kind = rng.random()
        if kind < 0.3:
            data += bytes([0xFF if kind < 0.2 else 0xFE])
        else:
            step = int(rng.integers(0, 254))
            data += struct.pack("<BHH", step, rng.integers(240), rng.integers(180))
    (tmp_path / "a.es").write_bytes(data)
    assert list(rows_of(read_events(tmp_path / "a.es"))) == slow_es(data)


def test_es_streams_of_other_kinds_are_refused(tmp_path):
    for kind, name in ((0, "generic"), (2, "ATIS"), (4, "colour"), (9, "type 9")):
        with pytest.raises(NotEventsError, match="not a DVS") as caught:
            read_events(write_es(tmp_path / "a.es", EVENTS[:5], kind))
        assert name in str(caught.value)
    data = bytearray(write_es(tmp_path / "a.es", EVENTS[:5]).read_bytes())
    data[12] = 3
    (tmp_path / "a.es").write_bytes(data)
    with pytest.raises(DataError, match="version") as caught:
        read_events(tmp_path / "a.es")
    assert "3.0.0" in str(caught.value)
    (tmp_path / "a.es").write_bytes(data[:17])
    data[12] = 2
    (tmp_path / "a.es").write_bytes(data[:17])
    with pytest.raises(DataError, match="truncated"):
        read_events(tmp_path / "a.es")


# ATIS BIN


def test_other_bin_files_are_not_taken_for_events(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8).tobytes()
    (tmp_path / "a.bin").write_bytes(noise)
    with pytest.raises(NotEventsError):
        read_events(tmp_path / "a.bin")
    write_atis_bin(tmp_path / "b.bin", EVENTS).rename(tmp_path / "b.dat")
    with pytest.raises(NotEventsError):
        read_events(tmp_path / "b.dat")


# MATLAB


def test_matlab_vectors_of_any_shape_and_type(tmp_path):
    path = tmp_path / "a.mat"
    savemat(
        path,
        {
            "t": (EVENTS.t / 1e6)[:, None],
            "x": EVENTS.x.astype(np.float32),
            "y": EVENTS.y[None],
            "p": EVENTS.p.astype(np.int8) * 2 - 1,
            "name": "text",
        },
    )
    assert_same(read_events(path), EVENTS)


def test_matlab_files_without_events_are_refused(tmp_path):
    path = tmp_path / "a.mat"
    savemat(path, {"image": np.zeros((5, 7)), "cells": np.array([1, "a"], object)})
    with pytest.raises(NotEventsError, match="MATLAB") as caught:
        read_events(path)
    assert "image (5, 7)" in str(caught.value)
    savemat(path, {"t": EVENTS.t, "x": EVENTS.x[:5], "y": EVENTS.y, "p": EVENTS.p})
    with pytest.raises(DataError, match="differ in length"):
        read_events(path)


def test_matlab_sizes_are_checked_before_loading(tmp_path, monkeypatch):
    from scaleevent.formats import matlab

    path = tmp_path / "a.mat"
    savemat(path, {"events": np.zeros((1000, 4))}, do_compression=True)
    monkeypatch.setattr(matlab, "_MOST_BYTES", 31_999)
    with pytest.raises(DataError, match="too large") as caught:
        read_events(path)
    assert "32,000" in str(caught.value)
