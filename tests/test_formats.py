import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from scaleevent.errors import DataError, MissingPackageError
from scaleevent.events import Events
from scaleevent.formats import FORMATS, Recording, open_recording, read_events, recording_facts
from scaleevent.formats import words as words_module
from tests import event_files
from tests.event_files import some_events, write_dsec, write_hdf5, write_raw, write_text

RECORD = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
EVT2_HEADER = ("evt 2.0", "geometry 240x180", "end")
EVT21_HEADER = ("evt 2.1", "geometry 240x180", "end")
EVT3_HEADER = ("format EVT3;height=180;width=240", "end")


def packed(events: Events) -> bytes:
    rows = np.empty(len(events), RECORD)
    for name in RECORD.names:
        rows[name] = getattr(events, name)
    return rows.tobytes()


def assert_same(events: Events, expected: Events) -> None:
    assert (events.height, events.width) == (expected.height, expected.width)
    assert packed(events) == packed(expected)


def assert_later_reads_skip(recording: Recording, events: Events) -> None:
    """A read begins at a place that an earlier one noted, and gives the same; 500 ms of events."""

    def part(start: int | None, end: int | None) -> tuple[Events, int]:
        blocks = recording.blocks(start, end)
        return Events.concatenate(blocks, events.height, events.width), recording.counts.decoded

    first, decoded_first = part(400_000, 420_000)
    assert_same(first, events.between(400_000, 420_000))
    assert_same(part(None, None)[0], events)
    firsts = []
    for start in (0, 90_000, 300_000, 490_000):
        assert_same(part(start, None)[0], events.between(start, None))
        block = next(recording.source.blocks(start, None))
        assert np.array_equal(block.t, events.t[block.first : block.first + len(block)])
        firsts.append(block.first)
    assert firsts[0] == 0 and firsts == sorted(firsts) and firsts[-1] > len(events) * 2 / 3
    again, decoded_again = part(400_000, 420_000)
    assert_same(again, first)
    assert decoded_again < decoded_first / 2


def valid_files(folder: Path, events: Events) -> dict[str, Path]:
    """The same events in every layout."""
    seconds = event_files.in_seconds(events)
    matrix = np.stack([events.t / 1e6, events.x, events.y, events.p * 2.0 - 1], axis=1)
    mvsec = matrix[:, [1, 2, 0, 3]]
    columns = {name: getattr(events, name) for name in "txyp"}
    records = np.frombuffer(packed(events), RECORD)
    size = {"height": events.height, "width": events.width}
    np.savez(folder / "columns.npz", **columns)
    np.savez_compressed(folder / "matrix.npz", events=matrix, K=np.eye(3))
    np.savez_compressed(folder / "fortran.npz", events=np.asfortranarray(mvsec))
    np.savez(folder / "alias.npz", timestamp=events.t, x=events.x, y=events.y, polarity=events.p)
    np.save(folder / "records.npy", records)
    np.save(folder / "matrix.npy", matrix.T)
    savemat(folder / "matrix.mat", {"events": mvsec, "K": np.eye(3)}, do_compression=True)
    savemat(folder / "vectors.mat", {"ts": events.t, "x": events.x, "y": events.y, "pol": events.p})
    group = {f"events/{name}": column for name, column in columns.items()}
    aliases = {"ts": events.t / 1e6, "xs": events.x, "ys": events.y, "ps": events.p.astype(bool)}
    raw = {f"raw_events/{name}": column for name, column in aliases.items()}
    return {
        "evt2": write_raw(folder / "evt2.raw", event_files.evt2_words(events), *EVT2_HEADER),
        "evt3": write_raw(folder / "evt3.raw", event_files.evt3_words(events), *EVT3_HEADER),
        "evt2.1": write_raw(folder / "evt21.raw", event_files.evt21_words(events), *EVT21_HEADER),
        "dat": event_files.write_dat(folder / "a.dat", events, "Height 180", "Width 240"),
        "es": event_files.write_es(folder / "a.es", events),
        "atis bin": event_files.write_atis_bin(folder / "a.bin", events),
        "aedat2": event_files.write_aedat2(folder / "a.aedat", events),
        "aedat3": event_files.write_aedat3(
            folder / "three.aedat",
            *(
                event_files.aedat3_packet(events[at : at + 700])
                for at in range(0, len(events), 700)
            ),
        ),
        "matlab matrix": folder / "matrix.mat",
        "matlab vectors": folder / "vectors.mat",
        "dsec": write_dsec(folder / "dsec.h5", events, offset=500),
        "hdf5 group": write_hdf5(folder / "group.h5", group, **size),
        "hdf5 aliases": write_hdf5(folder / "alias.hdf5", raw, **size),
        "hdf5 compound": write_hdf5(
            folder / "cd.h5", {"CD/events": records}, geometry=np.bytes_("240x180")
        ),
        "hdf5 matrix": write_hdf5(folder / "mvsec.h5", {"davis/left/events": mvsec}),
        "npz columns": folder / "columns.npz",
        "npz matrix": folder / "matrix.npz",
        "npz column by column": folder / "fortran.npz",
        "npz aliases": folder / "alias.npz",
        "npy records": folder / "records.npy",
        "npy transposed": folder / "matrix.npy",
        "text": write_text(folder / "plain.txt", seconds),
        "text with size": write_text(folder / "size.txt", seconds, "240 180\n# t x y p\n"),
        "text x y t p": write_text(folder / "o.txt", event_files.in_seconds(events, "xytp")),
        "csv": write_text(
            folder / "a.csv",
            [(k, *row) for k, row in enumerate(zip(events.p, events.x, events.y, events.t))],  # noqa: B905
            "number,polarity,x,y,t[us]\n",
            ",",
        ),
        "aedat4": event_files.write_aedat4(
            folder / "a.aedat4", [events[: len(events) // 2], events[len(events) // 2 :]]
        ),
    }


LAYOUTS = (
    "evt2", "evt2.1", "evt3", "dat", "es", "atis bin", "aedat2", "aedat3", "matlab matrix",
    "matlab vectors", "dsec", "hdf5 group", "hdf5 aliases", "hdf5 compound", "hdf5 matrix",
    "npz columns", "npz matrix", "npz column by column", "npz aliases", "npy records",
    "npy transposed", "text", "text with size", "text x y t p", "csv", "aedat4",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return valid_files(tmp_path_factory.mktemp("layouts"), some_events())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_events_back(files, layout):
    events = some_events()
    size = (180, 240) if layout == "dsec" else None
    assert_same(read_events(files[layout], size=size), events)
    for start, end in ((None, 20_000), (20_000, 30_001), (40_000, None), (10**7, None), (7, 7)):
        assert_same(read_events(files[layout], start, end, size=size), events.between(start, end))


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"text", "text x y t p", "atis bin"}))
def test_no_events_is_an_empty_recording(tmp_path, layout):
    if layout in ("evt2", "evt3"):
        words = np.array([], "<u4")
        header = EVT2_HEADER if layout == "evt2" else EVT3_HEADER
        path = write_raw(tmp_path / "empty.raw", words, *header)
    else:
        path = valid_files(tmp_path, Events.empty(180, 240))[layout]
    assert len(read_events(path)) == 0
    assert recording_facts(open_recording(path))["events"] == 0


@pytest.mark.parametrize("layout", ["evt2", "evt3", "text", "npz matrix", "hdf5 group", "aedat4"])
def test_small_blocks_give_the_same(files, layout, monkeypatch):
    for module in (words_module, *FORMATS.values()):
        if hasattr(module, "BLOCK"):
            monkeypatch.setattr(module, "BLOCK", 100)
    monkeypatch.setattr(FORMATS["text (txt, csv)"], "_CHUNK_BYTES", 1000)
    recording = open_recording(files[layout])
    blocks = list(recording.blocks())
    assert len(blocks) > 1
    assert_same(Events.concatenate(blocks, 180, 240), some_events())
    counts = recording.counts
    assert counts.decoded == counts.kept == 2000 and not counts.dropped
    list(recording.blocks(20_000, 30_000))
    assert counts.decoded == counts.kept + sum(counts.dropped.values()) and counts.kept < 2000


@pytest.mark.parametrize("layout", ["npy records", "npz columns", "npz matrix", "text"])
def test_a_second_read_begins_at_a_noted_place(files, layout, monkeypatch):
    for module in (words_module, *FORMATS.values()):
        if hasattr(module, "BLOCK"):
            monkeypatch.setattr(module, "BLOCK", 100)
    monkeypatch.setattr(FORMATS["text (txt, csv)"], "_CHUNK_BYTES", 1000)
    recording = open_recording(files[layout], size=(180, 240))
    recording.source.index.every = 300
    whole = Events.concatenate(recording.blocks(), 180, 240)
    firsts = []
    for start in (0, 9_000, 30_000, 50_000):
        part = Events.concatenate(recording.blocks(start), 180, 240)
        assert_same(part, whole.between(start, None))
        firsts.append(next(recording.source.blocks(start, None)).first)
    assert firsts[0] == 0 and firsts == sorted(firsts) and firsts[-1] >= 1000


# Prophesee words, against decoders that go word by word in plain Python


def slow_evt2(words):
    rows, high, loop = [], None, 0
    for word in words.tolist():
        kind = word >> 28
        if kind == 8:
            new = word & 0xFFFFFFF
            loop += high is not None and high - new > 2**27
            high = new
        elif kind < 2 and high is not None:
            low = word >> 22 & 63
            rows.append((loop * 2**34 + high * 64 + low, word >> 11 & 2047, word & 2047, kind))
    return rows


def slow_evt3(words):
    rows, high, low, loop, y, base, polarity = [], None, 0, 0, None, None, 0
    for word in words.tolist():
        kind, load = word >> 12, word & 0xFFF
        time = None if high is None else loop * 2**24 + high * 4096 + low
        if kind == 0:
            y = load & 2047
        elif kind == 2 and high is not None and y is not None:
            rows.append((time, load & 2047, y, load >> 11))
        elif kind == 3:
            base, polarity = load & 2047, load >> 11
        elif kind in (4, 5):
            width = 12 if kind == 4 else 8
            if None not in (high, y, base):
                rows += [(time, base + b, y, polarity) for b in range(width) if load >> b & 1]
            base = None if base is None else base + width
        elif kind == 6:
            low = load
        elif kind == 8:
            loop += high is not None and high - load >= 2048
            low = low if load == high else 0
            high = load
    return rows


def random_words(encoding, seed):
    """Any words at all, but times that rise, and coordinates on a 2048 x 2048 sensor."""
    rng = np.random.default_rng(seed)
    words = []
    time = int(rng.integers(0, 2**24))
    for _ in range(3000):
        time += int(rng.integers(0, 3)) * int(rng.integers(0, 2000))
        load = int(rng.integers(0, 4096))
        if encoding == "evt2":
            kind = int(rng.choice([0, 1, 8, 0xA, 0xE, 0xF]))
            words.append(kind << 28 | (load << 10 | load >> 2 if kind < 8 else time >> 6))
            if kind < 2:
                words[-1] = kind << 28 | load << 10 | load >> 2
                words[-1] &= ~(63 << 22)  # low time bits 0: only TIME_HIGH moves the clock
        else:
            kind = int(rng.choice([0, 2, 2, 3, 4, 5, 7, 8, 0xA, 0xE, 0xF]))
            words.append(kind << 12 | (time >> 12 & 0xFFF if kind == 8 else load))
            if kind in (3, 4, 5):
                words[-1] &= ~0x700  # base below 256 and few vectors in a row: on the sensor
    return np.array(words, "<u4" if encoding == "evt2" else "<u2")


@pytest.mark.parametrize("block", [50, 1 << 18])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("encoding", ["evt2", "evt3"])
def test_words_decode_as_the_slow_decoder_says(tmp_path, monkeypatch, encoding, seed, block):
    monkeypatch.setattr(words_module, "BLOCK", block)
    words = random_words(encoding, seed)
    header = ("evt 2.0" if encoding == "evt2" else "evt 3.0",)
    path = write_raw(tmp_path / "random.raw", words, *header)
    recording = open_recording(path, size=(2048, 2048))
    events = Events.concatenate(recording.blocks(), 2048, 2048)
    expected = (slow_evt2 if encoding == "evt2" else slow_evt3)(words)
    assert list(zip(*(getattr(events, n).tolist() for n in "txyp"), strict=True)) == expected
    counts = recording.counts
    assert counts.kept == len(expected) == counts.decoded - sum(counts.dropped.values())


def test_evt3_low_time_starts_anew_with_a_new_high_time_only(tmp_path):
    words = [0x8001, 0x61F4, 0x0003, 0x2805, 0x8001, 0x2006, 0x8002, 0x2007]
    path = write_raw(tmp_path / "a.raw", np.array(words, "<u2"), "evt 3.0")
    events = read_events(path, size=(180, 240))
    assert events.t.tolist() == [4096 + 500, 4096 + 500, 8192]
    assert events.x.tolist() == [5, 6, 7] and events.p.tolist() == [1, 0, 0]
    assert events.y.tolist() == [3, 3, 3]


def test_events_without_time_or_row_are_counted(tmp_path):
    words = [0x2805, 0x8001, 0x2805, 0x0003, 0x4007, 0x3004, 0x5003]
    path = write_raw(tmp_path / "a.raw", np.array(words, "<u2"), "evt 3.0")
    recording = open_recording(path, size=(180, 240))
    (events,) = recording.blocks()
    assert events.x.tolist() == [4, 5]
    assert recording.counts.dropped == {"before the first time and row": 5}
    assert recording.counts.decoded == 7


@pytest.mark.parametrize(("encoding", "bits"), [("evt2", 34), ("evt3", 24)])
def test_clock_wraps_are_unwrapped(tmp_path, encoding, bits):
    events = some_events(start_us=2**bits - 25_000, span_us=3 * 2**20)
    words = (event_files.evt2_words if encoding == "evt2" else event_files.evt3_words)(events)
    path = write_raw(tmp_path / "wrap.raw", words, "evt 2.0" if encoding == "evt2" else "evt 3.0")
    assert_same(read_events(path, size=(180, 240)), events)
    late = read_events(path, 2**bits, 2**bits + 5_000_000, size=(180, 240))
    assert_same(late, events.between(2**bits, None))


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (("evt 3.0", "geometry 320x240", "end"), (240, 320)),
        (("format EVT3;width=320;height=240",), (240, 320)),
        (("evt 3.0", "plugin_name hal_plugin_gen41_evk3"), (720, 1280)),
        (("evt 3.0", "sensor_name IMX636"), (720, 1280)),
        (("evt 3.0", "sensor_generation Gen3.1"), (480, 640)),
        (("evt 3.0", "sensor_name GenX320"), (320, 320)),
        (("evt 3.0",), (180, 240)),
    ],
)
def test_raw_header_gives_the_sensor(tmp_path, header, size):
    path = write_raw(tmp_path / "a.raw", event_files.evt3_words(some_events()), *header)
    recording = open_recording(path)
    assert (recording.height, recording.width) == size and recording.format == "EVT3"


# DSEC against the reference slicer, real files against their digests


def test_dsec_ranges_equal_the_reference_slicer(tmp_path):
    reference = np.load(Path(__file__).parent / "data" / "slicer.npz")
    offset = int(reference["t_offset"])
    columns = [
        reference[name].astype(kind) for name, kind in (("x", "u2"), ("y", "u2"), ("p", "u1"))
    ]
    events = Events(reference["t"] + offset, *columns, height=480, width=640)
    path = write_dsec(tmp_path / "events.h5", events, offset, reference["ms_to_idx"])
    answered = 0
    for (start, end), (first, last, has_index) in zip(
        reference["query"].tolist(), reference["answer"].tolist(), strict=True
    ):
        got = read_events(path, start, end)
        if has_index:
            assert_same(got, events[first:last] if first >= 0 else events[:0])
            answered += 1
        else:  # the reference gives nothing past its index; we give the events that exist
            assert_same(got, events.between(start, end))
    assert len(reference["query"]) == 69 and answered >= 55


def test_dsec_reads_only_the_range(tmp_path):
    path = write_dsec(tmp_path / "events.h5", some_events(20_000, span_us=1_000_000))
    recording = open_recording(path, size=(180, 240))
    list(recording.blocks(500_000, 510_000))
    assert recording.counts.kept < recording.counts.decoded < 2500


def test_of_two_cameras_the_first_is_read_and_the_other_named(tmp_path):
    left, right = some_events(seed=1), some_events(seed=2)
    stored = {
        f"davis/{side}/events": np.stack([e.x, e.y, e.t / 1e6, e.p * 2.0 - 1], axis=1)
        for side, e in (("right", right), ("left", left))
    }
    recording = open_recording(write_hdf5(tmp_path / "mvsec.h5", stored))
    assert_same(Events.concatenate(recording.blocks(), 180, 240), left)
    assert recording.notes["other event streams"] == "/davis/right/events"
    assert_same(read_events(recording.path, topic="/davis/right/events"), right)


# name: what the reader turns round of what the file stores
REAL_FILES = {
    "events/expelliarmus/evt3_sample.raw": "",
    "events/expelliarmus/evt2_sample.raw": "",
    "events/loris/NCARS_obj_004397_td.dat": "",
    "events/PyAedatTools/IMU_translBoxes.aedat": "xy",
    "events/colleenpamchen-jAER/DVS128-2017-03-21-short.aedat": "xyp",
    "events/faery/dvs.es": "y",
    "events/cpphots/trcl0.es": "y",
    "events/rpg_event_lifetime/building.mat": "",
    "events/rpg_event_lifetime/garfield.mat": "",
    "events/pydvs/poster_6dof.npz": "",
    "events/event-vision-library/faces_easy_0001.bin": "",
    "events/event_based_image_rec_inverse_problem/shapes_rotation/events.txt": "",
    "events/event_camera_py/test_events_1.bag": "",
    "events/event_camera_py/test_events_1/test_events_1.db3": "",
    "davis/cuke-emlb/demo-01.aedat4": "",
    "davis/event-vision-library/sample.aedat4": "",
    "davis/slider_depth/events_chunk.txt": "",
}


@pytest.fixture
def real():
    folder = os.environ.get("SCALEEVENT_TEST_DATA")
    if not folder:
        pytest.skip("SCALEEVENT_TEST_DATA is not set: real recordings are not checked")
    facts = json.loads((Path(folder) / "manifest.json").read_text())["files"]
    return Path(folder), {entry["file"]: entry for entry in facts}


def as_stored(events: Events, turned: str) -> Events:
    """Undo a reader's documented flips."""
    ends = {"x": events.width - 1, "y": events.height - 1, "p": 1}
    columns = (
        (end - getattr(events, name)).astype(getattr(events, name).dtype)
        if name in turned
        else getattr(events, name)
        for name, end in ends.items()
    )
    return Events(events.t, *columns, events.height, events.width)


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_file_digest(real, name):
    folder, facts = real
    recording = open_recording(folder / name)
    digest = hashlib.sha256()
    for block in recording.blocks():
        digest.update(packed(as_stored(block, REAL_FILES[name])))
    assert digest.hexdigest() == facts[name]["events"]["digest"]
    if facts[name]["width"]:
        assert (recording.width, recording.height) == (facts[name]["width"], facts[name]["height"])
    assert recording.counts.reordered == 0
    if recording.has_frames:
        frames, stated = list(recording.frames()), facts[name]["frames"]
        assert [frame.start_us for frame in frames] == stated["exposure_begin_us"]
        assert {frame.end_us - frame.start_us for frame in frames} == {stated["exposure_us"]}
        pixels = b"".join(frame.image.tobytes() for frame in frames)
        assert hashlib.sha256(pixels).hexdigest() == stated["pixels_sha256"]


def test_real_hdf5_with_seconds_and_bool(real):
    folder, facts = real
    name = "events/event-vision-library/event.hdf5"
    events, stored = read_events(folder / name), facts[name]["raw"]
    assert events.t.tolist() == np.rint(np.array(stored["t"]) * 1e6).astype(int).tolist()
    assert [events.x.tolist(), events.y.tolist()] == [stored["x"], stored["y"]]
    assert not events.p.any()


def test_real_files_of_other_kinds_are_refused(real):
    folder, facts = real
    ours = {
        *REAL_FILES,
        "events/event-vision-library/event.hdf5",
        "events/aedat-file-reader-rs/header_test_128.aedat_test",
        "events/event_camera_codecs/test_data_mono_cd/test_data_mono_cd_0.db3",
    }
    others = [f for f in facts if f.startswith(("events/", "davis/")) and f not in ours]
    for name in others:
        with pytest.raises(DataError):
            read_events(folder / name)


def test_frames_of_aedat4(tmp_path):
    grey = np.arange(180 * 240, dtype=np.uint32).astype(np.uint8).reshape(180, 240)
    bgr = np.zeros((180, 240, 3), np.uint8)
    bgr[..., 0] = 200
    path = tmp_path / "a.aedat4"
    event_files.write_aedat4(path, [some_events()], [(1000, 3000, grey), (5000, 6000, bgr)])
    first, second = open_recording(path).frames()
    assert (first.start_us, first.end_us, second.start_us) == (1000, 3000, 5000)
    assert np.array_equal(first.image, grey) and second.image[0, 0].tolist() == [0, 0, 200]


def test_aedat4_without_its_package(files, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "aedat", None)
    with pytest.raises(MissingPackageError, match=r"scaleevent\[aedat\]"):
        read_events(files["aedat4"])


def test_options_without_a_meaning_for_a_format_are_said(files):
    given = {"topic": "/a", "image_topic": "/b", "camera": "DVS128", "time_unit": "s"}
    recording = open_recording(files["evt3"], **given)
    flags = ("--time-unit", "--topic", "--image-topic", "--camera")
    assert [line.split()[0] for line in recording.choices] == list(flags)
    assert all(line.endswith("no meaning for EVT3") for line in recording.choices)
    text = open_recording(files["text"], time_unit="s", columns="txyp")
    assert text.choices == ()
