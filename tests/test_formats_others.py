"""ES, ATIS BIN and MATLAB: what their readers do beyond the plain events."""

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from scaleevent.errors import DataError, NotEventsError
from scaleevent.events import Events
from scaleevent.formats import matlab, open_recording, read_events
from scaleevent.formats import words as words_module
from tests.event_files import rows_of, some_events, write_aedat2, write_atis_bin, write_es
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


# ES


def slow_es(data):
    """Events and what is none, byte by byte; image rows."""
    rows, others, t, at = [], 0, 0, 20
    height = data[18] | data[19] << 8
    while at < len(data):
        if data[15] == 2:
            if data[at] >= 0xFC:
                t, at = t + 63 * (data[at] & 3), at + 1
                continue
            t += data[at] >> 2
            x, y = struct.unpack_from("<HH", data, at + 1)
            if data[at] & 1:
                others += 1
            else:
                rows.append((t, x, height - 1 - y, data[at] >> 1 & 1))
            at += 5
            continue
        if data[at] == 0xFF:
            t, at = t + 127, at + 1
        elif data[at] == 0xFE:
            others, at = others + 1, at + 1
        else:
            t += data[at] >> 1
            x, y = struct.unpack_from("<HH", data, at + 1)
            rows.append((t, x, height - 1 - y, data[at] & 1))
            at += 5
    return rows, others


@small_blocks
@pytest.mark.parametrize(("kind", "name"), [(1, "reset marks"), (2, "exposure measurements")])
@pytest.mark.parametrize("seed", range(3))
def test_es_decodes_as_the_slow_decoder_says(tmp_path, monkeypatch, seed, kind, name, block):
    monkeypatch.setattr(words_module, "BLOCK", block)
    rng = np.random.default_rng(seed)
    data = bytearray(write_es(tmp_path / "a.es", EVENTS[:0], kind).read_bytes())
    for _ in range(500):
        first = int(rng.choice([rng.integers(0, 252), rng.integers(252, 256)], p=[0.7, 0.3]))
        data.append(first)
        if first < (0xFE if kind == 1 else 0xFC):
            data += struct.pack("<HH", rng.integers(240), rng.integers(180))
    (tmp_path / "a.es").write_bytes(data)
    recording = open_recording(tmp_path / "a.es")
    found = [row for part in recording.blocks() for row in rows_of(part)]
    expected, others = slow_es(data)
    assert found == expected and recording.counts.ignored == {name: others} and others > 20


def test_es_cut_inside_a_record_is_refused(tmp_path):
    data = write_es(tmp_path / "a.es", EVENTS[:20]).read_bytes()
    for cut in range(1, 5):
        (tmp_path / "a.es").write_bytes(data[:-cut])
        with pytest.raises(DataError, match="truncated") as caught:
            read_events(tmp_path / "a.es")
        assert f"byte {len(data) - 5}" in str(caught.value)


def test_es_streams_of_other_kinds_are_refused(tmp_path):
    for kind, name in ((0, "generic"), (3, "display"), (4, "colour"), (9, "type 9")):
        with pytest.raises(NotEventsError, match="not an event stream of a camera") as caught:
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


def slow_bin(data):
    """Events, record by record."""
    rows, later = [], 0
    for x, y, high, middle, low in struct.iter_unpack("5B", data[: len(data) // 5 * 5]):
        if y == 240:
            later += 2**13
        else:
            t = later + ((high & 127) << 16 | middle << 8 | low)
            rows.append((t, x, y, high >> 7))
    return rows


@small_blocks
def test_bin_decodes_as_the_slow_decoder_says(tmp_path, monkeypatch, block):
    monkeypatch.setattr(words_module, "BLOCK", block)
    rng = np.random.default_rng(1)
    records = rng.integers(0, 240, (600, 5), dtype=np.uint8)
    times = np.sort(rng.integers(0, 2**13, 600))
    records[:, 2] = rng.integers(0, 2, 600) << 7
    records[:, 3], records[:, 4] = times >> 8, times & 255
    records[500:, 1] = np.where(rng.random(100) < 0.3, 240, records[500:, 1])
    path = tmp_path / "a.BIN"
    path.write_bytes(records.tobytes())
    assert list(rows_of(read_events(path, size=(240, 304)))) == slow_bin(records.tobytes())
    path.write_bytes(records.tobytes() + b"123")
    with pytest.raises(DataError, match="truncated") as caught:
        read_events(path, size=(240, 304))
    assert "byte 3000" in str(caught.value) and "3 bytes" in str(caught.value)


def test_other_bin_files_are_not_taken_for_events(tmp_path):
    rng = np.random.default_rng(0)
    for content in (
        rng.bytes(5000),
        bytes(5000),
        b"\xff" * 5000,
        rng.normal(size=1000).astype("<f4").tobytes(),
        (rng.random(3000) * 30).astype("<f4").tobytes(),
        np.arange(2000, dtype="<u4").tobytes(),
        np.arange(2000, dtype="<u2").tobytes(),
        bytes([0, 240, 0, 0, 0]) * 50,
    ):
        (tmp_path / "a.bin").write_bytes(content)
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


def test_matlab_structs(tmp_path):
    path = tmp_path / "a.mat"
    columns = {"x": EVENTS.x, "y": EVENTS.y, "p": EVENTS.p * 2.0 - 1, "ts": EVENTS.t}
    other = {"x": np.eye(3), "name": "text", "deeper": {"t": 1.0}, "nothing": []}
    for compressed in (False, True):
        savemat(path, {"info": other, "TD": columns | other | columns}, do_compression=compressed)
        assert_same(read_events(path), EVENTS)
    matrix = np.stack([EVENTS.t / 1e6, EVENTS.x, EVENTS.y, EVENTS.p * 2.0 - 1])
    savemat(path, {"data": {"K": np.eye(3, 4), "events": matrix}})
    assert_same(read_events(path), EVENTS)


def test_matlab_whole_doubles_are_not_taken_for_integers(tmp_path):
    """MATLAB stores them in fewer bytes; what they stand for decides about the time unit."""
    path = tmp_path / "a.mat"
    savemat(path, {"t": np.arange(500.0), "x": EVENTS.x, "y": EVENTS.y, "p": EVENTS.p})
    data = bytearray(path.read_bytes())
    values = data.index(struct.pack("<dd", 0.0, 1.0)) - 8
    assert struct.unpack_from("<II", data, values) == (9, 4000)
    flags = data.rindex(struct.pack("<II", 6, 8), 0, values)
    whole = data[flags - 8 : values]  # tag, flags, sizes, name
    short = whole + struct.pack("<II", 4, 1000) + np.arange(500, dtype="<u2").tobytes()
    short[4:8] = struct.pack("<I", len(short) - 8)
    data[flags - 8 : values + 8 + 4000] = short
    path.write_bytes(data)
    short_events = {"t": np.arange(500), "x": EVENTS.x[:500], "y": EVENTS.y[:500]}
    with pytest.raises(DataError, match="differ in length"):
        read_events(path)
    savemat(path, short_events | {"t": np.arange(500.0), "p": EVENTS.p[:500]})
    long = path.read_bytes()
    at = long.index(bytes(whole[8:]))
    end = at - 8 + len(whole) + 8 + 4000
    path.write_bytes(long[: at - 8] + short + long[end:])
    with pytest.raises(DataError, match="time unit is ambiguous"):
        read_events(path)
    assert read_events(path, time_unit="ms").t.tolist() == [1000 * k for k in range(500)]


def test_matlab_of_the_other_byte_order(tmp_path):
    """A big-endian file, written element by element."""

    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    def vector(name, values):
        content = element(6, struct.pack(">II", 12, 0))
        content += element(5, struct.pack(">ii", 1, len(values)))
        content += struct.pack(">HH4s", len(name), 1, name)
        return element(14, content + element(5, values.astype(">i4").tobytes()))

    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI"
    columns = (vector(name.encode(), getattr(EVENTS, name)) for name in "txyp")
    (tmp_path / "a.mat").write_bytes(head + b"".join(columns))
    assert_same(read_events(tmp_path / "a.mat"), EVENTS)


def test_matlab_files_without_events_are_refused(tmp_path):
    path = tmp_path / "a.mat"
    savemat(
        path,
        {
            "image": np.zeros((5, 7)),
            "cells": np.array([1, "a"], object),
            "waves": np.zeros((9, 4), complex),
            "of": {"x": np.zeros(3)},
        },
    )
    with pytest.raises(NotEventsError, match="MATLAB") as caught:
        read_events(path)
    assert "image (5, 7), of.x (1, 3)" in str(caught.value)
    savemat(path, {"t": EVENTS.t, "x": EVENTS.x[:5], "y": EVENTS.y, "p": EVENTS.p})
    with pytest.raises(DataError, match="differ in length"):
        read_events(path)


def test_matlab_takes_the_largest_matrix(tmp_path):
    matrix = np.stack([EVENTS.x, EVENTS.y, EVENTS.t, EVENTS.p], axis=1)
    savemat(tmp_path / "a.mat", {"pose": np.eye(4), "T": np.zeros((3, 4)), "all": matrix})
    assert_same(read_events(tmp_path / "a.mat"), EVENTS)


def test_matlab_sizes_are_checked_before_loading(tmp_path, monkeypatch):
    path = tmp_path / "a.mat"
    savemat(path, {"events": np.zeros((1000, 4))}, do_compression=True)
    monkeypatch.setattr(matlab, "_MAX_BYTES", 31_999)
    with pytest.raises(DataError, match="too large") as caught:
        read_events(path)
    assert "32,064 bytes declared" in str(caught.value)


def test_matlab_sizes_that_lie(tmp_path):
    """No more is inflated than an element says, nor believed than there is."""
    path = tmp_path / "a.mat"
    savemat(path, {"events": np.zeros((10, 4))})
    plain = path.read_bytes()
    element = bytearray(plain[128:])
    element[4:8] = struct.pack("<I", 10_000_000)
    packed = zlib.compress(bytes(element) + bytes(200_000_000))
    path.write_bytes(plain[:128] + struct.pack("<II", 15, len(packed)) + packed)
    tracemalloc.start()
    with pytest.raises(DataError):
        read_events(path)
    assert tracemalloc.get_traced_memory()[1] < 60_000_000
    tracemalloc.stop()
    huge = bytearray(plain)
    huge[128 + 8 + 16 + 8 : 128 + 8 + 16 + 16] = struct.pack("<ii", 2**30, 4)
    path.write_bytes(huge)
    with pytest.raises(DataError, match="damaged|too large"):
        read_events(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_damage(tmp_path, compressed):
    path = tmp_path / "a.mat"
    matrix = np.stack([EVENTS.x, EVENTS.y, EVENTS.t, EVENTS.p], axis=1)
    savemat(path, {"events": matrix.astype(np.int32)}, do_compression=compressed)
    data = path.read_bytes()
    for cut in (20, 127, 130, 140, 200, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(DataError):
            read_events(path)
    if compressed:  # the checksum of the stream
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(DataError, match="damaged"):
            read_events(path)
