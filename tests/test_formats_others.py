"""ES, ATIS BIN and MATLAB: what their readers do beyond the plain events."""

import struct
from pathlib import Path

import numpy as np
import pytest

from scaleevent.errors import DataError, NotEventsError
from scaleevent.events import Events
from scaleevent.formats import open_recording, read_events
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
    assert next(recording.source.blocks(45_000, None)).first >= 500


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


def test_bs2_has_no_overflow_records(tmp_path):
    """The files of SLAYER: N-MNIST's records, and row 240 is a row."""
    events = some_events(400, 256, 256)
    path = tmp_path / "a.bs2"
    rows = rows_of(events)
    path.write_bytes(
        b"".join(bytes([x, y]) + (p << 23 | t).to_bytes(3, "big") for t, x, y, p in rows)
    )
    assert (events.y == 240).any()
    recording = open_recording(path, size=(256, 256))
    assert recording.format == "SLAYER BS2"
    assert_same(Events.concatenate(recording.blocks(), 256, 256), events)
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(NotEventsError):
        open_recording(path)


def test_other_bin_files_are_not_taken_for_events(tmp_path):
    rng = np.random.default_rng(0)
    for content in (
        rng.bytes(5000),
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
    (tmp_path / "a.bin").write_bytes(bytes(5000))
    with pytest.raises(DataError, match="nothing but zeros"):
        read_events(tmp_path / "a.bin")
    write_atis_bin(tmp_path / "b.bin", EVENTS).rename(tmp_path / "b.dat")
    with pytest.raises(NotEventsError):
        read_events(tmp_path / "b.dat")
