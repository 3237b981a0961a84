"""MATLAB files: which of several variables is read, damage of any kind, and bounded memory."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from scaleevent.errors import ConfigError, DataError, NotEventsError, ScaleEventError
from scaleevent.events import Events
from scaleevent.formats import matlab_elements, open_recording, read_events
from tests.event_files import some_events
from tests.test_formats import assert_same

EVENTS = some_events(1500)
OTHERS = some_events(900, seed=5)
EACH = 2000 if os.environ.get("SCALEEVENT_FUZZ") == "full" else 400
FEW = some_events(60, 180, 240)


def fields(events: Events = EVENTS) -> dict[str, np.ndarray]:
    return {"x": events.x, "y": events.y, "p": events.p * 2.0 - 1, "ts": events.t}


def matrix(events: Events = EVENTS) -> np.ndarray:
    return np.stack([events.x, events.y, events.t, events.p], axis=1).astype(np.int32)


def write_structs(path: Path, events: Events, compressed: bool = False) -> Path:
    """Change events and exposure measurements in a struct, and what is neither."""
    data = {"TD": fields(events), "EM": fields(events[:9]), "note": "text", "K": np.eye(3)}
    savemat(path, {"data": data}, do_compression=compressed)
    return path


def read(path: Path, **options) -> Events:
    recording = open_recording(path, **options)
    return Events.concatenate(recording.blocks(), recording.height, recording.width)


def test_vectors_of_any_shape_and_type(tmp_path):
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


def test_structs(tmp_path):
    path = tmp_path / "a.mat"
    columns = {"x": EVENTS.x, "y": EVENTS.y, "p": EVENTS.p * 2.0 - 1, "ts": EVENTS.t}
    other = {"x": np.eye(3), "name": "text", "deeper": {"t": 1.0}, "nothing": []}
    for compressed in (False, True):
        savemat(path, {"info": other, "TD": columns | other | columns}, do_compression=compressed)
        assert_same(read_events(path), EVENTS)
    matrix = np.stack([EVENTS.t / 1e6, EVENTS.x, EVENTS.y, EVENTS.p * 2.0 - 1])
    savemat(path, {"data": {"K": np.eye(3, 4), "events": matrix}})
    assert_same(read_events(path), EVENTS)


def test_whole_doubles_are_not_taken_for_integers(tmp_path):
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


def test_of_the_other_byte_order(tmp_path):
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


def test_files_without_events_are_refused(tmp_path):
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
    assert "image (5, 7), cells{1} (1, 1), of.x (1, 3)" in str(caught.value)
    savemat(path, {"t": EVENTS.t, "x": EVENTS.x[:5], "y": EVENTS.y, "p": EVENTS.p})
    with pytest.raises(DataError, match="differ in length"):
        read_events(path)


# Which of several


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("chosen", ["TD", "td_left", "CD", "dvs", "events"])
def test_change_events_are_read_not_exposure_measurements(tmp_path, chosen, compressed):
    path = tmp_path / "a.mat"
    for names in (("EM", chosen), (chosen, "EM")):
        stored = {name: fields(OTHERS if name == "EM" else EVENTS) for name in names}
        savemat(path, stored, do_compression=compressed)
        recording = open_recording(path, time_unit="us")
        assert_same(Events.concatenate(recording.blocks(), 180, 240), EVENTS)
        assert recording.notes["variable"] == chosen
        (line,) = recording.choices
        assert chosen in line and "EM" in line
        assert_same(read(path, topic="EM"), OTHERS)
    savemat(path, {"EM": fields(OTHERS)})
    with pytest.raises(NotEventsError, match="no change events") as caught:
        read_events(path)
    assert "EM, columns (1, 900)" in str(caught.value) and "--topic EM" in str(caught.value)
    both = {f"{name}_rows": matrix(OTHERS if name == "em" else EVENTS) for name in ("em", "td")}
    savemat(path, {"rec": both})
    assert_same(read(path), EVENTS)
    assert_same(read(path, topic="rec.em_rows"), OTHERS)
    savemat(path, {chosen: fields()})
    assert open_recording(path, time_unit="us").choices == ()


def test_of_several_equals_none_is_taken(tmp_path):
    path = tmp_path / "a.mat"
    for stored, names in (
        ({"left": fields(), "right": fields(OTHERS)}, ("left", "right")),
        ({"train": matrix(), "test": matrix(OTHERS)}, ("train", "test")),
        ({"data": {"one": matrix(), "two": matrix(OTHERS)}}, ("data.one", "data.two")),
        (fields() | {"rec": fields(OTHERS)}, ("ts, x, y, p", "rec")),
        ({"run": np.array([fields(), fields(OTHERS)], object)}, ("run{1}", "run{2}")),
    ):
        savemat(path, stored)
        with pytest.raises(DataError, match="several variables could be") as caught:
            read_events(path)
        message = str(caught.value)
        assert all(name in message for name in names) and "--topic" in message
        assert "1500" in message and "900" in message
        for name, events in zip(names, (EVENTS, OTHERS), strict=True):
            assert_same(read(path, topic=name), events)
            if "." in name:
                assert_same(read(path, topic=name.rpartition(".")[2].upper()), events)
        with pytest.raises(ConfigError, match="no events of this name") as caught:
            open_recording(path, topic="neither")
        assert all(name in str(caught.value) for name in names)


def test_what_cannot_be_events_is_passed_over_aloud(tmp_path):
    """Whatever its size or place; and an empty variable beside one with events."""
    path = tmp_path / "a.mat"
    rng = np.random.default_rng(0)
    poses = rng.normal(size=(5000, 4))
    savemat(path, {"pose": np.eye(4), "P": poses, "all": matrix(), "T": np.zeros((3, 4))})
    assert_same(read(path), EVENTS)
    assert open_recording(path, time_unit="us").choices == (
        "events of the variable all; not used: pose (4, 4), P (5000, 4), T (3, 4)",
    )
    savemat(path, {"none": fields(EVENTS[:0]), "some": fields()})
    assert_same(read(path), EVENTS)
    savemat(path, {"events": fields(EVENTS[:0]), "EM": fields()})
    assert len(read(path, size=(180, 240))) == 0


@pytest.mark.parametrize("compressed", [False, True])
def test_nested_structs(tmp_path, compressed):
    """AedatTools' struct, with frames and other data beside the events."""
    path = tmp_path / "a.mat"
    polarity = {
        "numEvents": len(EVENTS),
        "timeStamp": EVENTS.t.astype(np.uint32)[:, None],
        "x": EVENTS.x[:, None],
        "y": EVENTS.y[:, None],
        "polarity": EVENTS.p.astype(bool)[:, None],
    }
    special = {"numEvents": 3, "timeStamp": [1, 2, 3], "address": [0, 0, 1]}
    frames = np.array([np.zeros((5, 6), np.uint16), np.ones((5, 6), np.uint16)], object)
    frame = {"timeStampStart": [5, 6], "samples": frames}
    data = {"special": special, "polarity": polarity, "frame": frame}
    aedat = {"importParams": {"filePath": "a.aedat"}, "info": {"source": "Davis240C"}, "data": data}
    savemat(path, {"aedat": aedat}, do_compression=compressed)
    assert_same(read(path), EVENTS)
    assert open_recording(path).notes["variable"] == "aedat.data.polarity"
    assert_same(read(path, topic="polarity"), EVENTS)
    deep = matrix()
    for _ in range(40):
        deep = {"a": deep}
    savemat(path, {"deep": deep})
    with pytest.raises(NotEventsError):
        read_events(path)


def test_the_whole_table_decides_where_its_first_rows_do_not(tmp_path, monkeypatch):
    path = tmp_path / "a.mat"
    table = matrix()
    table[:300, :2] = 0
    table[:300, 2] = 1000
    monkeypatch.setattr("scaleevent.formats.matlab.SAMPLE", 200)
    savemat(path, {"events": table})
    assert (read(path, size=(180, 240)).t == table[:, 2]).all()


def test_blocks_and_places_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(matlab_elements, "BLOCK", 100)
    path = tmp_path / "a.mat"
    for stored in (matrix(), matrix().T.copy()):
        for compressed in (False, True):
            savemat(path, {"events": stored}, do_compression=compressed)
            recording = open_recording(path, size=(180, 240))
            recording.source.index.every = 200
            assert_same(Events.concatenate(recording.blocks(), 180, 240), EVENTS)
            part = Events.concatenate(recording.blocks(30_000, 40_000), 180, 240)
            assert_same(part, EVENTS.between(30_000, 40_000))
            assert next(recording.source.blocks(30_000, 40_000)).first > 500


# Damage


def elements(data: bytes) -> list[bytes]:
    """The elements behind the header of a little-endian file."""
    parts, at = [], 128
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        parts.append(data[at : at + 8 + length])
        at += 8 + length
    return parts


def repacked(path: Path, change) -> None:
    """Change the stream of the only variable of a compressed file."""
    data = path.read_bytes()
    (element,) = elements(data)
    packed = change(zlib.decompress(element[8:]))
    path.write_bytes(data[:128] + struct.pack("<II", 15, len(packed)) + packed)


@pytest.mark.parametrize("extra", [0, 8, 5000, 3 << 20])
def test_the_checksum_at_the_end_of_a_stream_is_compared(tmp_path, extra):
    """However much the stream holds behind the matrix."""
    path = tmp_path / "a.mat"
    savemat(path, {"events": matrix()}, do_compression=True)
    repacked(path, lambda plain: zlib.compress(plain + bytes(extra)))
    assert_same(read(path), EVENTS)
    repacked(path, lambda plain: zlib.compress(plain)[:-4] + bytes(4))
    with pytest.raises(DataError, match="damaged MATLAB file"):
        read_events(path)
    with pytest.raises(DataError, match="damaged MATLAB file"):
        open_recording(path, max_bad=1.0)


@pytest.mark.parametrize("change", [
    lambda plain: zlib.compress(plain)[:-1],
    lambda plain: zlib.compress(plain)[:-400],
    lambda plain: zlib.compress(plain + b"more"),
    lambda plain: zlib.compress(plain) + b"more",
    lambda plain: zlib.compress(plain[:-8]),
    lambda plain: zlib.compress(plain[:4] + struct.pack("<I", len(plain) + 8) + plain[8:]),
    lambda plain: zlib.compress(plain[:4] + struct.pack("<I", len(plain)) + plain[8:] + bytes(8)),
    lambda plain: b"",
])  # fmt: skip
def test_streams_of_another_length_are_damage(tmp_path, change):
    path = tmp_path / "a.mat"
    savemat(path, {"TD": fields(FEW)}, do_compression=True)
    repacked(path, zlib.compress)
    assert_same(read(path, size=(180, 240)), FEW)
    repacked(path, change)
    with pytest.raises(DataError, match="damaged MATLAB file"):
        read_events(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_cuts(tmp_path, compressed):
    path = tmp_path / "a.mat"
    savemat(path, {"events": matrix()}, do_compression=compressed)
    data = path.read_bytes()
    for cut in (20, 127, 130, 140, 200, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(DataError):
            read_events(path)


def test_sizes_that_lie(tmp_path):
    """No more is believed than there is."""
    path = tmp_path / "a.mat"
    savemat(path, {"events": matrix(FEW)})
    plain = path.read_bytes()
    for shape in ((2**30, 4), (2**31 - 1, 2**31 - 1), (-1, 4), (-60, -4)):
        lie = bytearray(plain)
        lie[128 + 8 + 16 + 8 : 128 + 8 + 16 + 16] = struct.pack("<ii", *shape)
        path.write_bytes(lie)
        with pytest.raises(DataError, match="damaged MATLAB file"):
            read_events(path)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One byte changed, a run zeroed, a cut, or bytes put in; behind the text of the header."""
    at = int(rng.integers(116, len(data)))
    more = int(rng.integers(1, 60))
    return [
        lambda: data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :],
        lambda: data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :],
        lambda: data[:at] + bytes(min(more, len(data) - at)) + data[at + more :],
        lambda: data[:at],
        lambda: data[:at] + rng.bytes(more) + data[at:],
        lambda: data[:at] + data[at + more :],
    ][int(rng.integers(6))]()


@pytest.mark.parametrize("compressed", [False, True])
def test_mutations_give_our_errors_or_events(tmp_path, compressed):
    """Compressed, they give the same events or none: every stream has a checksum."""
    path = write_structs(tmp_path / "a.mat", FEW, compressed)
    data, same = path.read_bytes(), 0
    for number in range(EACH):
        rng = np.random.default_rng(number)
        path.write_bytes(mutated(data, rng))
        try:
            events = read(path, size=(180, 240), max_bad=(None, 1.0)[number % 2])
        except ScaleEventError:
            continue
        same += 1
        if compressed:
            assert_same(events, FEW)
    assert same < 0.15 * EACH if compressed else 0.15 * EACH < same < 0.95 * EACH


# Memory


PEAK = """
import sys
from pathlib import Path
from scaleevent.commands import info
from scaleevent.config.data import InfoConfig
from scaleevent.errors import ScaleEventError
from tests.peak_memory import peak_mib
before = peak_mib()
try:
    info.run(InfoConfig(path=Path(sys.argv[1])))
except ScaleEventError as error:
    print(error)
print(peak_mib() - before)
"""


def peak(path: Path) -> float:
    """Megabytes that `scaleevent info` takes above its own."""
    command = [sys.executable, "-c", PEAK, path]
    root = Path(__file__).parents[1]
    run = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    return float(run.stdout.split()[-1])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    path, zeros = tmp_path / "a.mat", np.zeros(2_000_000)
    columns = {"ts": np.arange(2e6), "x": zeros, "y": zeros, "p": zeros}
    savemat(path, {"data": {"TD": columns}}, do_compression=True)
    repacked(path, lambda plain: zlib.compress(plain + bytes(200_000_000), 1))
    assert peak(path) < 100
    savemat(path, {f"v{k}": zeros.reshape(-1, 4) for k in range(8)}, do_compression=True)
    assert peak(path) < 100


@pytest.mark.parametrize("compressed", [False, True])
def test_columns_by_name_and_tables_with_further_columns(tmp_path, compressed):
    path = tmp_path / "a.mat"
    named = {"stamp": EVENTS.t, "col": EVENTS.x, "row": EVENTS.y, "sign": EVENTS.p}
    savemat(path, {"rec": named}, do_compression=compressed)
    names = "t=stamp x=col y=row p=sign"
    assert_same(read(path, columns=names, time_unit="us"), EVENTS)
    with pytest.raises(ConfigError, match="no columns of these names"):
        open_recording(path, columns=names.replace("sign", "polarity"))
    wide = np.concatenate([matrix(), np.full((len(EVENTS), 1), 7)], axis=1)
    for table in (wide, wide.T.copy()):
        savemat(path, {"rows": table}, do_compression=compressed)
        assert_same(read(path, columns="x y t p -", time_unit="us"), EVENTS)
    with pytest.raises(NotEventsError):
        open_recording(path)
