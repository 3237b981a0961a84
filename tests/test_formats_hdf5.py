"""HDF5: Prophesee's codec, MATLAB 7.3, seeking without an index, extents and samples."""

import struct
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.formats import hdf5, hdf5_ecf, open_recording, read_events, recording_facts
from scaleevent.formats.hdf5_ecf import decode, read_chunk
from tests.event_files import rows_of, some_events, write_dsec, write_hdf5
from tests.test_formats import assert_same

SIZE = {"height": 180, "width": 240}


# Prophesee's codec, with an encoder written from the description of the layout


def runs(values):
    """(value, how often in a row)."""
    found = []
    for value in values:
        if found and found[-1][0] == value:
            found[-1][1] += 1
        else:
            found.append([value, 1])
    return found


def coded_times(times):
    data, now = struct.pack("<Q", times[0]), times[0]
    for time, count in runs(times):
        step = time - now
        if step > 14:
            while step:
                data += bytes([0xF0 | step & 15])
                step >>= 4
        short = count < 15
        data += bytes([step << 4 | (count if short else 15)])
        data += b"" if short else struct.pack("<H", count)
        now = time
    return data


def coded_runs(values, bits, kind):
    most, data = (1 << bits) - 1, b""
    for value, count in runs(values):
        data += struct.pack(kind, value << bits | min(count, most))
        data += struct.pack("<H", count) if count >= most else b""
    return data


def packed_by_four(values, bits, kind):
    """Four values in three words: each word's free low bits are low bits of the value after."""
    data, word = b"", 8 * struct.calcsize(kind)
    free = word - bits
    for k in range(0, len(values), 4):
        a, b, c, d = [*values[k : k + 4], 0, 0, 0][:4]
        low = (1 << free) - 1
        words = [
            a << free | b & low,
            b >> free << 2 * free | c & ((1 << 2 * free) - 1),
            c >> 2 * free << bits | d,
        ]
        data += struct.pack(f"<3{kind[1]}", *words)
    return data


def coded_columns(columns):
    data, k = b"", 0
    while k < len(columns):
        mask, n = 0, 1
        for step in range(1, 6):
            if k + n < len(columns) and columns[k + n] == columns[k] + step:
                mask |= 1 << (5 - step)
                n += 1
        data += struct.pack("<H", columns[k] << 5 | mask)
        k += n
    return data


def coded_chunk(events, mode):
    t, x, y, p = (getattr(events, name).tolist() for name in "txyp")
    data = struct.pack("<I", len(t) << 2 | mode) + coded_times(t)
    if mode & 2:
        values = [b << 12 | a << 1 | c for a, b, c in zip(x, y, p, strict=True)]
        return data + packed_by_four(values, 24, "<I")
    data += coded_runs(y, 5, "<H")
    if mode & 1:
        return data + packed_by_four([a << 1 | c for a, c in zip(x, p, strict=True)], 12, "<H")
    return data + coded_columns(x) + coded_runs(p, 7, "<B")


def write_ecf(path, events, chunk=500, modes=(0, 1, 2), plain=(), filled=True):
    """CD/events as Prophesee writes it, its chunks in turn in these modes or `plain`.

    HDF5 has the last chunk `filled` up with zeros; the codec then takes times as standing still.
    """
    kind = np.dtype(
        {"names": ["x", "y", "p", "t"], "formats": ["<u2", "<u2", "<i2", "<i8"],
         "offsets": [0, 2, 4, 8], "itemsize": 16}
    )  # fmt: skip
    with h5py.File(path, "w") as file:
        file.attrs["geometry"] = np.bytes_("240x180")
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((chunk,))
        plan.set_filter(36559, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((len(events),), (h5py.h5s.UNLIMITED,))
        stored = h5py.h5t.py_create(kind, logical=True)
        made = h5py.h5d.create(file.create_group("CD").id, b"events", stored, space, plan)
        for number, at in enumerate(range(0, len(events), chunk)):
            part = events[at : at + chunk]
            if number in plain:
                rows = np.zeros(chunk, kind)
                for name in "txyp":
                    rows[name][: len(part)] = getattr(part, name)
                made.write_direct_chunk((at,), rows.tobytes(), 1)
            else:
                if filled and len(part) < chunk:
                    zeros = np.zeros(chunk - len(part), np.int64)
                    rest = Events.from_columns(zeros + part.t[-1], zeros, zeros, zeros, 180, 240)
                    part = Events.concatenate([part, rest], 180, 240)
                made.write_direct_chunk((at,), coded_chunk(part, modes[number % len(modes)]))
        file["EXT_TRIGGER/events"] = np.zeros(7, [("p", "<i2"), ("t", "<i8"), ("id", "<i2")])
    return path


def stepwise(number=2300, seed=0):
    """Events with runs, vectors, long and short waits."""
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.choice([0, 0, 0, 1, 3, 14, 15, 16, 400, 70_000], number)) + 77
    y = np.repeat(rng.integers(0, 180, number), rng.choice([1, 2, 40], number))[:number]
    x = np.cumsum(rng.choice([1, 1, 1, 2, 9], number)) % 240
    p = np.repeat(rng.integers(0, 2, number), rng.choice([1, 200], number))[:number]
    return Events.from_columns(t, x, y, p, 180, 240)


def test_ecf_as_the_codec_of_prophesee_wrote_it():
    """By prophesee-ai/hdf5_ecf as a filter of HDF5 1.10: chunks of 512 in modes 2, 1, 0."""
    k = np.arange(1300)
    chunk = k // 512
    t = k * k // 900 + 70_000 * (k // 400)
    x = np.where(chunk == 2, k, k * k * 17) % 1280
    y = np.where(chunk == 0, k * k * 31, k // 20) % 720
    p = np.where(chunk == 2, k // 50, k * k // 7) % 2
    read = read_events(Path(__file__).parent / "data" / "ecf.hdf5")
    assert_same(read, Events.from_columns(t, x, y, p, 720, 1280))


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("modes", [(0,), (1,), (2,), (0, 1, 2)])
def test_ecf_gives_the_events_back(tmp_path, modes, filled):
    events = stepwise()
    path = write_ecf(tmp_path / "a.hdf5", events, modes=modes, plain=(1, 3), filled=filled)
    assert_same(read_events(path), events)
    for start, end in ((200_000, 5_000_000), (None, 3_000_000), (9_000_000, None)):
        assert_same(read_events(path, start, end), events.between(start, end))
    recording = open_recording(path)
    facts = recording_facts(recording)
    assert facts["format"] == "HDF5, ECF codec" and facts["ignored"] == {"external triggers": 7}
    assert recording.source.extent().events == len(events)


def test_ecf_reads_only_the_chunks_of_the_range(tmp_path, monkeypatch):
    events = stepwise(30_000)
    recording = open_recording(write_ecf(tmp_path / "a.hdf5", events))
    decoded = []
    monkeypatch.setattr(hdf5_ecf, "read_chunk", lambda *a: decoded.append(a[1]) or read_chunk(*a))
    middle = int(events.t[15_000])
    part = Events.concatenate(recording.blocks(middle, middle + 1_000_000), 180, 240)
    assert_same(part, events.between(middle, middle + 1_000_000))
    assert 1 <= len(set(decoded)) < 20 < 60


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_damaged_ecf_chunks_never_read_beyond_their_bytes(mode):
    """Every cut and many flips: a count, -1, or events; the buffer ends at a guard."""
    events = stepwise(300)
    whole = np.frombuffer(coded_chunk(events, mode), np.uint8)
    columns = np.empty(300, np.int64), *np.empty((2, 300), np.uint16), np.empty(300, np.uint8)
    assert decode(whole, *columns) == 300
    for cut in range(len(whole) - (24 if mode else 1)):
        assert decode(whole[:cut], *columns) == -1
    rng = np.random.default_rng(0)
    for _ in range(2000):
        broken = whole.copy()
        broken[rng.integers(len(broken), size=3)] ^= rng.integers(1, 256, 3).astype(np.uint8)
        assert decode(broken[: rng.integers(len(broken) + 1)], *columns) >= -1


def test_a_damaged_ecf_chunk_is_named_and_what_is_before_it_kept(tmp_path):
    events = stepwise()
    path = write_ecf(tmp_path / "a.hdf5", events)
    with h5py.File(path, "r+") as file:
        bad = coded_chunk(events[1000:1400], 0)
        file["CD/events"].id.write_direct_chunk((1000,), bad)
    with pytest.raises(DataError, match="damaged ECF chunk") as caught:
        read_events(path)
    assert "chunk of row 1000" in str(caught.value) and "400 events" in str(caught.value)


# Other layouts


def test_matlab_7_3_columns_lie_or_stand(tmp_path):
    events = some_events()
    path = tmp_path / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["events/t"] = events.t[None] / 1e6
        file["events/x"] = events.x[:, None]
        file["events/y"] = events.y[None]
        file["events/p"] = events.p[:, None]
        file.attrs.update(SIZE)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(116) + b" " * 8 + b"\0\2IM")
    assert_same(read_events(path), events)
    assert_same(read_events(path, 20_000, 30_000), events.between(20_000, 30_000))


@pytest.mark.parametrize("geometry", ["240x180", np.bytes_("240x180")])
def test_the_geometry_is_a_string_of_either_kind(tmp_path, geometry):
    events = some_events()
    columns = {f"events/{name}": getattr(events, name) for name in "txyp"}
    path = write_hdf5(tmp_path / "a.h5", columns, geometry=geometry)
    assert_same(read_events(path), events)


def test_a_file_with_a_driver_of_its_own_is_refused(tmp_path):
    """Its data would lie in other files, or its block of settings take any memory."""
    path = write_dsec(tmp_path / "a.h5", some_events(500))
    data = bytearray(path.read_bytes())
    data[48:56] = (200).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="driver of its own"):
        read_events(path)


def test_a_matrix_of_four_rows(tmp_path):
    events = some_events()
    matrix = np.stack([events.x, events.y, events.t / 1e6, events.p * 2.0 - 1])
    path = write_hdf5(tmp_path / "a.h5", {"events": matrix}, **SIZE)
    assert_same(read_events(path), events)


def test_vector_has_its_offset_in_an_array(tmp_path):
    events = some_events(start_us=5_000_000)
    path = write_dsec(tmp_path / "a.h5", events, 5_000_000 - 1000)
    with h5py.File(path, "r+") as file:
        del file["t_offset"]
        file["t_offset"] = np.array([5_000_000 - 1000])
    assert_same(read_events(path, size=(180, 240)), events)


# Several streams


def two_cameras(path, left=None, right=None):
    """A stereo recording; None leaves a camera's datasets empty."""
    none = some_events()[:0]
    cameras = {"left": none if left is None else left, "right": none if right is None else right}
    stored = {
        f"davis/{side}/events/{name}": getattr(events, name)
        for side, events in cameras.items()
        for name in "txyp"
    }
    return write_hdf5(path, stored, **SIZE)


def read_topic(path, topic):
    """The events of one stream."""
    recording = open_recording(path, topic=topic, size=(180, 240))
    return Events.concatenate(recording.blocks(), 180, 240)


def test_of_several_streams_the_first_by_name_is_read_and_said(tmp_path):
    left, right = some_events(seed=1), some_events(seed=2)
    recording = open_recording(two_cameras(tmp_path / "a.h5", left, right))
    assert_same(Events.concatenate(recording.blocks(), 180, 240), left)
    said, unit = recording.choices
    assert unit.startswith("time unit us")
    assert said.startswith("events of /davis/left/events;") and "--topic" in said
    assert "/davis/right/events" in said
    assert recording.notes["other event streams"] == "/davis/right/events"
    alone = open_recording(two_cameras(tmp_path / "b.h5", left, right), topic="right/events")
    assert len(alone.choices) == 1 and alone.notes["events"] == "/davis/right/events"


@pytest.mark.parametrize("topic", ["/davis/right/events", "davis/right/events", "right/events"])
def test_the_topic_names_the_stream_by_its_path_or_end(tmp_path, topic):
    left, right = some_events(seed=1), some_events(seed=2)
    path = two_cameras(tmp_path / "a.h5", left, right)
    assert_same(read_topic(path, topic), right)


@pytest.mark.parametrize(
    ("topic", "what"),
    [("middle", "no such"), ("events", "several"), ("ight/events", "no such"), ("/", "no such")],
)
def test_a_topic_that_names_no_stream_or_two_lists_them(tmp_path, topic, what):
    path = two_cameras(tmp_path / "a.h5", some_events(), some_events())
    with pytest.raises(ConfigError, match=what) as caught:
        open_recording(path, topic=topic)
    assert "/davis/left/events, /davis/right/events" in str(caught.value)


def test_an_empty_stream_is_passed_over_and_said_unless_asked_for(tmp_path):
    events = some_events()
    path = two_cameras(tmp_path / "a.h5", right=events)
    recording = open_recording(path)
    assert_same(Events.concatenate(recording.blocks(), 180, 240), events)
    assert "/davis/left/events is empty" in recording.choices[0]
    assert len(read_topic(path, "left/events")) == 0
    both = open_recording(two_cameras(tmp_path / "b.h5"))
    assert both.notes["events"] == "/davis/left/events" and both.source.extent() is None


def test_a_stream_that_cannot_be_read_is_passed_over_and_said(tmp_path):
    events = some_events()
    path = two_cameras(tmp_path / "a.h5", events, events)
    with h5py.File(path, "r+") as file:
        del file["davis/left/events/t"]
        file["davis/left/events/t"] = events.t[:-1]
    recording = open_recording(path)
    assert_same(Events.concatenate(recording.blocks(), 180, 240), events)
    assert "/davis/left/events: event columns differ in length" in recording.choices[0]
    with pytest.raises(DataError, match="differ in length"):
        open_recording(path, topic="/davis/left/events")
    with h5py.File(path, "r+") as file:
        del file["davis/right/events"]
    with pytest.raises(DataError, match="differ in length"):
        open_recording(path)


def test_a_damaged_stream_is_not_passed_over(tmp_path):
    events = some_events()
    rows = np.stack([events.x, events.y, events.t / 1e6, events.p], 1)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for side in ("left", "right"):
            made = {"chunks": (500, 4), "compression": "gzip", "fletcher32": True}
            file.create_dataset(f"davis/{side}/events", data=rows, **made)
        place = file["davis/left/events"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(place + 40)
        file.write(b"\xff" * 50)
    with pytest.raises(DataError, match="damaged HDF5 file"):
        read_events(path, size=(180, 240))
    assert_same(read_topic(path, "right/events"), events)


# Seeking without an index


@pytest.fixture(params=["columns", "records", "matrix", "seconds"])
def unindexed(tmp_path, request):
    """20,000 events in chunks of 500 with jitter below a millisecond, and the sorted events."""
    rng = np.random.default_rng(0)
    events = some_events(20_000, span_us=2_000_000)
    order = np.argsort(events.t + rng.integers(0, 900, len(events)), kind="stable")
    t, x, y, p = (getattr(events, name)[order] for name in "txyp")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update(SIZE)
        made = {"chunks": (500,), **hdf5plugin.Blosc()}
        if request.param == "records":
            rows = np.rec.fromarrays([t, x, y, p], names="t,x,y,p")
            file.create_dataset("events", data=rows, **made)
        elif request.param == "matrix":
            rows = np.stack([x, y, t / 1e6, p], 1)
            file.create_dataset("davis/left/events", data=rows, **made | {"chunks": (500, 4)})
        else:
            seconds = request.param == "seconds"
            stored = (t / 1e6 if seconds else t, x, y, p)
            for name, column in zip("txyp", stored, strict=True):
                file.create_dataset(f"events/{name}", data=column, **made)
    return path, read_events(path)


def test_ranges_are_those_of_a_whole_read(unindexed):
    path, whole = unindexed
    recording = open_recording(path)
    rng = np.random.default_rng(1)
    edges = [None, 0, 1000, 3_000_000, *rng.integers(0, 2_010_000, 30).tolist()]
    for _ in range(60):
        start, end = (edges[k] for k in rng.integers(0, len(edges), 2))
        part = Events.concatenate(recording.blocks(start, end), 180, 240)
        assert list(rows_of(part)) == list(rows_of(whole.between(start, end)))


def test_little_more_than_the_range_is_read(unindexed):
    path, _ = unindexed
    recording = open_recording(path)
    assert sum(map(len, recording.blocks(1_000_000, 1_050_000))) > 300
    assert recording.counts.decoded < 3000


def test_times_that_do_not_ascend_are_not_trusted(tmp_path):
    first, second = some_events(3000, start_us=900_000), some_events(3000, seed=1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "txyp":
            column = np.concatenate([getattr(first, name), getattr(second, name)])
            file.create_dataset(f"events/{name}", data=column, chunks=(100,))
        file.attrs.update(SIZE)
    with pytest.raises(DataError, match="time steps back"):
        read_events(tmp_path / "a.h5", 905_000, 910_000)
    assert_same(read_events(tmp_path / "a.h5", 20_000, 30_000, segment=1),
                second.between(20_000, 30_000))  # fmt: skip


# Extent and sample


def test_extent_and_sample(unindexed, monkeypatch):
    path, whole = unindexed
    source = open_recording(path).source
    extent = source.extent()
    assert extent.events == 20_000
    assert (extent.first_us, extent.last_us) == (int(whole.t[0]), int(whole.t[-1]))
    monkeypatch.setattr(hdf5, "_SAMPLE", 100)
    parts = list(source.sample(10))
    assert [len(part) for part in parts] == [100] * 10
    assert parts[0].first == 0 and parts[-1].first == 19_900
    assert {(int(t), int(x)) for part in parts for t, x in zip(part.t, part.x, strict=True)} <= {
        (t, x) for t, x, _, _ in rows_of(whole)
    }


def test_an_empty_file_has_no_extent(tmp_path):
    empty = {f"events/{name}": np.empty(0, np.int64) for name in "txyp"}
    recording = open_recording(write_hdf5(tmp_path / "a.h5", empty, **SIZE))
    assert recording.source.extent() is None and recording.stretches() == []


def gzip_file(path, events, broken):
    """Events in chunks of 50,000, one chunk of the columns broken."""
    with h5py.File(path, "w") as file:
        file.attrs.update(SIZE)
        for name in "txyp":
            column = getattr(events, name)
            file.create_dataset(f"events/{name}", data=column, chunks=(50_000,), compression="gzip")
        place = file["events/x"].id.get_chunk_info(broken).byte_offset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 50)
    return path


@pytest.mark.parametrize("broken", [0, 6, 9, 11])
def test_a_chunk_that_cannot_be_decompressed_is_lost_alone(tmp_path, broken):
    events = some_events(590_000, span_us=3_000_000)
    path = gzip_file(tmp_path / "a.h5", events, broken)
    first, last = 50_000 * broken, min(50_000 * (broken + 1), 590_000)
    with pytest.raises(DataError, match="damaged HDF5 file") as caught:
        read_events(path)
    assert f"dataset /events/t, chunk of row {first}" in str(caught.value)
    kept = read_events(path, max_bad=0.1)
    assert_same(kept, Events.concatenate([events[:first], events[last:]], 180, 240))
    recording = open_recording(path, max_bad=0.1)
    for _ in recording.blocks():
        pass
    assert recording.counts.decoded == 590_000
    assert recording.counts.dropped == {"unreadable": last - first}
    with pytest.raises(DataError, match=f"{last - first} of 590000"):
        read_events(path, max_bad=0.06)


@pytest.mark.parametrize("name", ["t", "x"])
@pytest.mark.parametrize("broken", [71, 72])
def test_a_broken_chunk_of_a_range_is_not_blamed_on_the_index(tmp_path, name, broken):
    events = some_events(80_000, span_us=8_000_000)
    path = write_dsec(tmp_path / "a.h5", events)
    with h5py.File(path) as file:
        place = file[f"events/{name}"].id.get_chunk_info(broken).byte_offset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 50)
    start, end = int(events.t[71_500]), int(events.t[72_900])
    with pytest.raises(DataError, match="damaged HDF5 file") as caught:
        read_events(path, start, end, size=(180, 240))
    assert f"chunk of row {1000 * broken}" in str(caught.value)


def test_a_wrong_value_in_a_range_is_not_blamed_on_the_index(tmp_path):
    events = some_events(5000, span_us=500_000)
    path = write_dsec(tmp_path / "a.h5", events)
    start, end = int(events.t[1500]), int(events.t[2900])
    with h5py.File(path, "r+") as file:
        polarity = file["events/p"][()]
        polarity[2850:2950] = 7
        file["events/p"][()] = polarity
    with pytest.raises(DataError, match="polarity out of range") as caught:
        read_events(path, start, end, size=(180, 240))
    assert "event 2850" in str(caught.value)


def test_info_of_a_long_file_with_a_broken_end_reads_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr("scaleevent.formats.facts.SAMPLED_ABOVE", 100_000)
    events = some_events(590_000, span_us=3_000_000)
    path = gzip_file(tmp_path / "a.h5", events, 11)
    with pytest.raises(DataError):
        recording_facts(open_recording(path), full=False)
    facts = recording_facts(open_recording(path, max_bad=1.0), full=False)
    assert facts["read"] == "every event" and facts["events"] == 550_000
    assert "chunk of row 550000" in facts["damage"]["damaged HDF5 file"]
