"""Prophesee words and records against slow decoders, written files and the vendor's test bench."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from scaleevent.errors import DataError, NotEventsError
from scaleevent.events import Events
from scaleevent.formats import open_recording, read_events
from scaleevent.formats import words as words_module
from tests.event_files import (
    evt2_words,
    evt3_words,
    evt21_words,
    rows_of,
    some_events,
    write_dat,
    write_raw,
)
from tests.test_formats import (
    RECORD,
    assert_later_reads_skip,
    assert_same,
    packed,
    slow_evt2,
    slow_evt3,
)

REAL = os.environ.get("SCALEEVENT_TEST_DATA")
needs_real = pytest.mark.skipif(
    not REAL, reason="SCALEEVENT_TEST_DATA is not set: real recordings are not checked"
)


def in_rows(events: Events) -> Events:
    """The same, sorted so that vectors have more than one event."""
    order = np.lexsort((events.x, events.y, events.p, events.t // 500))
    t = events.t // 500 * 500
    return Events(
        np.ascontiguousarray(t[order]), *(getattr(events, n)[order] for n in "xyp"),
        events.height, events.width,
    )  # fmt: skip


def slow_evt21(words):
    found, high, loop = [], None, 0
    for word in words.tolist():
        kind = word >> 60
        if kind == 8:
            new = word >> 32 & 0xFFFFFFF
            loop += high is not None and high - new > 2**27
            high = new
        elif kind < 2 and high is not None:
            t = loop * 2**34 + high * 64 + (word >> 54 & 63)
            x, y = word >> 43 & 2047, word >> 32 & 2047
            found += [(t, x + b, y, kind) for b in range(32) if word >> b & 1]
    return found


@pytest.mark.parametrize("block", [1, 37, 1 << 18])
@pytest.mark.parametrize("seed", range(3))
def test_evt21_words_decode_as_the_slow_decoder_says(tmp_path, monkeypatch, seed, block):
    monkeypatch.setattr(words_module, "BLOCK", block)
    rng = np.random.default_rng(seed)
    words, time = [], 0
    for _ in range(800):
        time += int(rng.integers(0, 3))
        kind = int(rng.choice([0, 1, 0, 1, 8, 0xA, 0xE, 0xF]))
        upper = time if kind == 8 else int(rng.integers(0, 1 << 22)) & ~0x200000  # low time 0
        words.append(kind << 60 | upper << 32 | int(rng.integers(0, 1 << 32)))
    words = np.array(words, "<u8")
    for endianness, stored in (("little", words), ("legacy", words << 32 | words >> 32)):
        header = ("evt 2.1", f"endianness {endianness}", "end")
        path = write_raw(tmp_path / f"{endianness}.raw", stored.astype("<u8"), *header)
        recording = open_recording(path, size=(2048, 4096))
        read = Events.concatenate(recording.blocks(), 2048, 4096)
        assert list(rows_of(read)) == slow_evt21(words)
        counts = recording.counts
        kinds = (words >> np.uint64(60)).astype(int)
        assert counts.ignored["external triggers"] == np.count_nonzero(kinds == 10)
        assert counts.ignored["other words"] == np.count_nonzero(kinds >= 14)
        assert counts.decoded == counts.kept + sum(counts.dropped.values())
        first = int(np.argmax(kinds == 8))
        lost = sum(int(w & np.uint64(0xFFFFFFFF)).bit_count() for w in words[:first] if w >> 60 < 2)
        assert counts.dropped.get("before the first time and row", 0) == lost


@pytest.mark.parametrize(
    "header",
    [
        ("evt 2.1", "geometry 240x180", "end"),
        ("format EVT21;height=180;width=240", "end"),
        ("format EVT2.1;height=180;width=240;endianness=legacy", "end"),
        ("evt 2.1", "endianness legacy", "sensor_name x", "geometry 240x180"),
        ("evt 2.1", "end"),  # measured: the corners fired
    ],
)
def test_evt21_headers(tmp_path, header):
    events = in_rows(some_events(3000))
    words = evt21_words(events)
    if "legacy" in " ".join(header):
        words = words << np.uint64(32) | words >> np.uint64(32)
    path = write_raw(tmp_path / "a.raw", words, *header)
    assert_same(read_events(path), events)
    assert open_recording(path).format == "EVT2.1"
    assert_same(read_events(path, 20_000, 30_000), events.between(20_000, 30_000))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="truncated"):
        read_events(path)


def test_evt21_clock_wraps(tmp_path):
    events = in_rows(some_events(start_us=2**34 - 20_000))
    path = write_raw(tmp_path / "a.raw", evt21_words(events), "evt 2.1", "end")
    assert events.t[0] < 2**34 < events.t[-1]
    assert_same(read_events(path), events)


def test_evt21_of_an_unknown_order_is_refused(tmp_path):
    path = write_raw(tmp_path / "a.raw", evt21_words(some_events(9)), "evt 2.1", "endianness big")
    with pytest.raises(DataError, match="endianness"):
        read_events(path)


@needs_real
@pytest.mark.parametrize("endianness", ["little", "legacy"])
def test_evt21_of_the_vendors_test_bench(tmp_path, endianness):
    """Hex words of a test bench; one of its time steps goes back by more than jitter."""
    name = "events/fpga-projects/tc_004/in_evt_file.evt"
    words = np.array([int(w, 16) for w in (Path(REAL) / name).read_text().split()], "<u8")
    if endianness == "legacy":
        words = words << np.uint64(32) | words >> np.uint64(32)
    path = write_raw(tmp_path / "a.raw", words, "evt 2.1", f"endianness {endianness}", "end")
    manifest = json.loads((Path(REAL) / "manifest.json").read_text())
    facts = next(entry for entry in manifest["files"] if entry["file"] == name)["events"]
    recording = open_recording(path, size=(1100, 1100))
    stored = np.concatenate([
        np.rec.fromarrays([b.t, b.x, b.y, b.p], dtype=RECORD)
        for b in recording.source.blocks(None, None)
    ])  # fmt: skip
    assert len(stored) == facts["count"]
    assert hashlib.sha256(stored.astype(RECORD).tobytes()).hexdigest() == facts["digest"]
    lenient = open_recording(path, size=(1100, 1100), max_bad=0.0)
    assert sum(map(len, lenient.blocks())) == facts["count"]


# Any words at all, in any pieces

KINDS = {  # bits before the kind, types of no event: triggers, the vendor's own, unknown
    "evt 2.0": ("<u4", 28, (10,), (14, 15), (2, 3, 4, 5, 6, 7, 9, 11, 12, 13), slow_evt2),
    "evt 2.1": ("<u8", 60, (10,), (14, 15), (2, 3, 4, 5, 6, 7, 9, 11, 12, 13), slow_evt21),
    "evt 3.0": ("<u2", 12, (10,), (7, 14, 15), (1, 9, 11, 12, 13), slow_evt3),
}


def events_met(version: str, words: np.ndarray) -> int:
    """Events in the words, known time and row or not."""
    met = 0
    for word in words.tolist():
        if version == "evt 3.0":
            kind = word >> 12
            bits = {2: 1, 4: word & 0xFFF, 5: word & 0xFF}.get(kind, 0)
            met += bits.bit_count()
        elif version == "evt 2.1":
            met += (word & 0xFFFFFFFF).bit_count() if word >> 60 < 2 else 0
        else:
            met += word >> 28 < 2
    return met


@pytest.mark.parametrize("block", [1, 37, 1 << 18])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("version", KINDS)
def test_any_words_decode_as_the_slow_decoder_says(tmp_path, monkeypatch, version, seed, block):
    monkeypatch.setattr(words_module, "BLOCK", block)
    dtype, bits, triggers, others, unknown, slow = KINDS[version]
    rng = np.random.default_rng(seed)
    kinds = rng.choice(16, 1500, p=rng.dirichlet(np.full(16, 0.4))).astype(np.uint64)
    words = (kinds << np.uint64(bits) | rng.integers(0, 1 << bits, 1500).astype(np.uint64)).astype(
        dtype
    )
    recording = open_recording(write_raw(tmp_path / "a.raw", words, version, "end"), size=(9, 9))
    blocks = list(recording.source.blocks(None, None))
    expected = slow(words)
    found = [
        row
        for b in blocks
        for row in zip(*(getattr(b, name).tolist() for name in "txyp"), strict=True)
    ]
    assert found == expected
    lost = sum(sum(b.dropped.values()) for b in blocks)
    assert len(expected) + lost == events_met(version, words)
    ignored = {
        name: sum(b.ignored[name] for b in blocks) for name in ("external triggers", "other words")
    }
    assert ignored["external triggers"] == np.isin(kinds, triggers).sum()
    assert ignored["other words"] == np.isin(kinds, others).sum()
    flaws = [flaw for b in blocks for flaw in b.flaws]
    assert sum(flaw.count for flaw in flaws) == np.isin(kinds, unknown).sum()
    for flaw in flaws:
        first = (int(flaw.where.split()[1]) - recording.source.start) // words.itemsize
        assert kinds[first] in unknown and int(flaw.found, 16) == words[first]


def test_evt3_vectors_past_the_sensor_do_not_come_back(tmp_path):
    words = np.array([0x8001, 0x0003, 0x3000] + [0x4FFF] * 7000, "<u2")
    path = write_raw(tmp_path / "a.raw", words, "evt 3.0", "end")
    (block,) = (b for b in open_recording(path, size=(9, 9)).source.blocks(None, None) if len(b))
    assert len(block) == 84_000 and (np.diff(block.x.astype(int)) >= -11).all()
    assert block.x[:48].tolist() == list(range(48)) and block.x[48:].min() == 48


@pytest.mark.parametrize("layout", ["evt 2.0", "evt 2.1", "evt 3.0", "dat"])
@pytest.mark.parametrize("lost", [1, 2, 3, 7, 501])
def test_a_cut_file_keeps_its_whole_words(tmp_path, layout, lost):
    events = in_rows(some_events(500))
    if layout == "dat":
        path, size = write_dat(tmp_path / "a.dat", events, *V2), 8
    else:
        words = {"evt 2.0": evt2_words, "evt 2.1": evt21_words, "evt 3.0": evt3_words}[layout]
        words = words(events)
        path, size = write_raw(tmp_path / "a.raw", words, layout, "end"), words.itemsize
    whole = Events.concatenate(open_recording(path, size=(180, 240)).blocks(), 180, 240)
    assert_same(whole, events)
    path.write_bytes(path.read_bytes()[:-lost])
    recording = open_recording(path, size=(180, 240), max_bad=0.0)
    kept = Events.concatenate(recording.blocks(), 180, 240)
    assert_same(kept, events[: len(kept)])
    gone = 1 + (lost - 1) // size  # words
    assert len(events) - gone * {8: 32, 2: 12}.get(size, 1) <= len(kept) <= len(events)
    assert layout != "dat" or len(kept) == len(events) - gone
    rest = -lost % size
    assert (recording.counts.flaws != {}) == (rest > 0)
    for flaw in recording.counts.flaws.values():
        assert flaw.what == "truncated file" and f"{rest} bytes" in flaw.found
        assert flaw.where == f"byte {path.stat().st_size - rest}"


def test_words_after_a_lost_stretch_are_read_on(tmp_path):
    """A hole in an EVT3 file: events without their row or time are wrong, none of them is lost."""
    events = in_rows(some_events(3000))
    words = np.delete(evt3_words(events), slice(1000, 1500))
    path = write_raw(tmp_path / "a.raw", words, "evt 3.0", "end")
    blocks = list(open_recording(path, size=(180, 240)).source.blocks(None, None))
    rows = [row for b in blocks for row in zip(b.t, b.x, b.y, b.p, strict=True)]
    assert rows == slow_evt3(words)
    late = events.t > rows[-1][0] - 20_000
    assert packed(events)[-RECORD.itemsize * late.sum() :] == packed(
        Events.from_columns(*map(np.array, zip(*rows[-late.sum() :], strict=True)), 180, 240)
    )


# Unknown words


@pytest.mark.parametrize(
    ("version", "dtype", "word"),
    [("2.0", "<u4", 5 << 28 | 77), ("2.1", "<u8", 12 << 60 | 77), ("3.0", "<u2", 0xB123)],
)
def test_undecodable_words_are_damage(tmp_path, version, dtype, word):
    path = write_raw(tmp_path / "a.raw", np.array([word, word], dtype), f"evt {version}", "end")
    start = path.stat().st_size - 2 * np.dtype(dtype).itemsize
    with pytest.raises(DataError, match="unknown words") as caught:
        read_events(path, size=(480, 640))
    assert f"byte {start}" in str(caught.value) and f"{word:#x}"[-4:] in str(caught.value)
    recording = open_recording(path, size=(480, 640), max_bad=1.0)
    assert list(recording.blocks()) == [] and recording.counts.bad == 2


# DAT


V2 = ("Data file containing CD events.", "Version 2", "Date 2014-12-01", "Height 180", "Width 240")


@pytest.mark.parametrize("block", [10, 1 << 18])
def test_dat_gives_the_events_back(tmp_path, monkeypatch, block):
    monkeypatch.setattr(words_module, "BLOCK", block)
    events = some_events()
    assert_same(read_events(write_dat(tmp_path / "a.dat", events, *V2)), events)
    path = write_dat(tmp_path / "b.bin", events, *V2, kind=0)
    assert_same(read_events(path, 20_000, 30_000), events.between(20_000, 30_000))
    assert open_recording(path).format == "DAT v2"
    path = write_dat(tmp_path / "c.dat", events, "Data file", "Version 1", version=1)
    assert_same(read_events(path), events)
    assert open_recording(path).format == "DAT v1"
    path = write_dat(tmp_path / "d.dat", events, "Date today")  # no size, no version
    assert_same(read_events(path), events)


@pytest.mark.parametrize("version", [1, 2])
def test_dat_records_of_any_bits(tmp_path, version):
    """Times that ascend and wrap at most once a step; the bits above the polarity mean nothing."""
    rng = np.random.default_rng(version)
    t = np.cumsum(rng.integers(0, 2**30, 3000))
    pixel = rng.integers(0, 2**32, 3000)
    words = (t % 2**32 | pixel << 32).astype("<u8")
    path = write_dat(tmp_path / "a.dat", some_events(9)[:0], "Data file", f"Version {version}")
    with path.open("ab") as file:
        file.write(words.tobytes())
    (block,) = open_recording(path, size=(9, 9)).source.blocks(None, None)
    columns, rows = (9, 8) if version == 1 else (14, 14)
    assert np.array_equal(block.t, t)
    assert np.array_equal(block.x, pixel % 2**columns)
    assert np.array_equal(block.y, pixel >> columns & 2**rows - 1)
    assert np.array_equal(block.p, pixel >> columns + rows & 1)


def test_dat_clock_wraps_and_late_events_across_a_wrap(tmp_path):
    events = some_events(start_us=2**32 - 20_000)
    assert_same(read_events(write_dat(tmp_path / "a.dat", events, *V2)), events)
    data = bytearray((tmp_path / "a.dat").read_bytes())
    start = len(data) - 8 * len(events)
    k = int(np.searchsorted(events.t, 2**32))  # swap the neighbours of the wrap
    a, b = (slice(start + 8 * n, start + 8 * n + 8) for n in (k - 1, k))
    data[a], data[b] = data[b], data[a]
    (tmp_path / "a.dat").write_bytes(data)
    recording = open_recording(tmp_path / "a.dat")
    read = Events.concatenate(recording.blocks(), 180, 240)
    assert packed(read) == packed(events) and recording.counts.reordered == 1


def test_other_dat_files_are_refused(tmp_path):
    events = some_events(9)
    path = write_dat(tmp_path / "a.dat", events, *V2, kind=14)
    with pytest.raises(NotEventsError, match="external triggers"):
        read_events(path)
    path = write_dat(tmp_path / "a.dat", events, *V2, size=12)
    with pytest.raises(DataError, match="12 bytes"):
        read_events(path)
    path = write_dat(tmp_path / "a.dat", events, *V2[:3], "Height 18x", "Width 240")
    with pytest.raises(DataError, match="sensor size"):
        read_events(path)
    path.write_bytes(b"% Data file\n% Version 2\n\x0c")
    with pytest.raises(DataError, match="truncated"):
        read_events(path)
    path = write_dat(tmp_path / "a.dat", events, *V2)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="3 bytes") as caught:
        read_events(path)
    assert f"byte {path.stat().st_size - 3}" in str(caught.value)


# The index by time


@pytest.mark.parametrize("kind", ["dat", "evt 2.0", "evt 2.1", "evt 3.0"])
def test_a_second_read_begins_at_a_noted_place(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(words_module, "BLOCK", 100)
    events = in_rows(some_events(3000, span_us=500_000))
    path = tmp_path / "a.raw"
    if kind == "dat":
        write_dat(path, events, *V2)
    else:
        words = {"evt 2.0": evt2_words, "evt 2.1": evt21_words, "evt 3.0": evt3_words}[kind]
        write_raw(path, words(events), kind, "geometry 240x180", "end")
    recording = open_recording(path)
    recording.source.index.every = 300
    assert_later_reads_skip(recording, events)
