"""The unit of stored times: never a wrong one without a word, whatever the container."""

import re
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from scaleevent.commands import prepare, voxelize
from scaleevent.config.data import PrepareConfig, VoxelizeConfig
from scaleevent.datasets.frame_times import read_frame_times
from scaleevent.errors import ConfigError, DataError
from scaleevent.formats import open_recording
from scaleevent.formats.units import duration_text
from tests.fakes import write_pictures, write_times

FACTORS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
SENSORS = ((34, 34), (128, 128), (180, 240), (260, 346), (480, 640))
CONTAINERS = ("npz", "npz compressed", "npy", "text", "HDF5", "HDF5 matrix", "MATLAB")


def events_at(rng, rate: float, size: tuple[int, int], count: int) -> dict[str, np.ndarray]:
    """Random events in whole microseconds at a mean rate per pixel and second, with bursts."""
    gaps = rng.exponential(1, count) * rng.choice([0.1, 1.9], count // 100 + 1).repeat(100)[:count]
    t = np.cumsum(gaps) / (rate * size[0] * size[1]) * 1e6
    y, x = (rng.integers(0, side, count) for side in size)
    return {"t": t.astype(np.int64), "x": x, "y": y, "p": rng.integers(0, 2, count)}


def stored_times(us: np.ndarray, unit: str, kind: str) -> np.ndarray | None:
    """Times in a unit as int64, int32, float64 or float32; None if they do not fit."""
    values = us / FACTORS[unit]
    if kind.startswith("int"):
        values = np.rint(values)
        return values.astype(kind) if np.abs(values).max(initial=0) < np.iinfo(kind).max else None
    return values.astype(kind)


def write(path: Path, container: str, columns: dict[str, np.ndarray]) -> Path:
    path.mkdir()
    table = np.stack([columns[name] for name in "txyp"], axis=1, dtype=columns["t"].dtype)
    if container.startswith("npz"):
        (np.savez if container == "npz" else np.savez_compressed)(path / "a.npz", **columns)
        return path / "a.npz"
    if container == "npy":
        np.save(path / "a.npy", table)
        return path / "a.npy"
    if container == "text":
        form = "%d" if table.dtype.kind == "i" else "%.9f"
        np.savetxt(path / "a.txt", table, [form, "%d", "%d", "%d"])
        return path / "a.txt"
    if container == "MATLAB":
        savemat(path / "a.mat", columns)
        return path / "a.mat"
    with h5py.File(path / "a.h5", "w") as file:
        if container == "HDF5":
            for name, column in columns.items():
                file.create_dataset(f"events/{name}", data=column, chunks=(1000,))
        else:
            file["events"] = table
    return path / "a.h5"


def plausible(us: np.ndarray, true: str, unit: str, size: tuple[int, int]) -> bool:
    """Whether a recording read in `unit` has a rate and a duration that exist."""
    seconds = (us[-1] - us[0]) / 1e6 * FACTORS[unit] / FACTORS[true]
    rate = len(us) / seconds / (size[0] * size[1])
    return 0.004 < rate < 600 and seconds < 90_000


def test_a_unit_is_right_or_asked_for_or_said(tmp_path):
    """A wrong unit is only ever read where its rate is as plausible, and the guess is said."""
    rng = np.random.default_rng(0)
    tally = Counter()
    for number in range(600):
        size, unit = SENSORS[rng.integers(len(SENSORS))], str(rng.choice(["s", "ms", "us", "ns"]))
        kind = str(rng.choice(["int64", "int32", "float64", "float32"]))
        container = str(rng.choice(CONTAINERS))
        count = int(rng.integers(1000, 4000))
        events = events_at(rng, 10 ** rng.uniform(-2, 2.5), size, count)
        stored = stored_times(events["t"], unit, kind)
        if stored is None or (unit, stored.dtype.kind) == ("s", "i"):
            continue  # whole seconds are no event times
        if len(np.unique(stored)) < 4:
            continue  # nothing is seen of the time
        path = write(tmp_path / str(number), container, {**events, "t": stored})
        expected = np.rint(stored.astype(np.float64) * FACTORS[unit])
        options = {"size": size, "columns": "txyp"}
        try:
            recording = open_recording(path, **options)
        except DataError as error:
            message = str(error)
            assert "--time-unit" in message
            row = re.search(rf"\n +{unit}: .*", message)
            assert row, message
            assert "not plausible" not in row[0], message
            tally["asked"] += 1
            continue
        found = recording.notes["time unit"]
        assert [line for line in recording.choices if f"time unit {found}" in line]
        if found == unit:
            t = np.concatenate([block.t for block in recording.blocks()])
            assert np.abs(t - expected).max() <= 1
            tally["right"] += 1
            continue
        assert plausible(events["t"], unit, found, size), (container, kind, unit, recording.choices)
        tally["wrong, as plausible, and said"] += 1
    print(dict(tally))
    assert tally["right"] > 0.3 * tally.total()
    assert tally["wrong, as plausible, and said"] < 0.2 * tally.total()


def columns_of(t: np.ndarray, size: tuple[int, int] = (180, 240)) -> dict[str, np.ndarray]:
    """Events at these times, all over the sensor."""
    count = np.arange(len(t))
    return {"t": t, "x": count * 7 % size[1], "y": count * 11 % size[0], "p": count % 2}


def opened(folder: Path, container: str, t: np.ndarray, **options):
    path = write(folder / f"file {len(list(folder.iterdir()))}", container, columns_of(t))
    return open_recording(path, size=(180, 240), columns="txyp", **options)


SPREAD = np.sort(np.random.default_rng(1).integers(0, 3_000_000, 60_000))
ABSURD = {
    "milliseconds": SPREAD // 3003,
    "milliseconds with fractions": SPREAD / 1e3,
    "microseconds with fractions": SPREAD * 0.999 + 0.123,
    "nanoseconds of a counter": SPREAD * 1000,
    "whole milliseconds since 1970": SPREAD // 1000 + 1_643_243_628_737,
    "microseconds of another age": SPREAD + 4_900_000_000_000_000,
}


@pytest.mark.parametrize("kind", ABSURD)
@pytest.mark.parametrize("container", CONTAINERS)
def test_times_that_would_be_absurd_ask(tmp_path, container, kind):
    """Every unit is shown with what it would mean, and the one that is given is read."""
    with pytest.raises(DataError, match="time unit is ambiguous") as caught:
        opened(tmp_path, container, ABSURD[kind])
    message = str(caught.value)
    assert "--time-unit" in message and all(f"\n    {u:>2}: " in message for u in FACTORS)
    given = opened(tmp_path, container, ABSURD[kind], time_unit="ns")
    t = np.concatenate([block.t for block in given.blocks()])
    assert np.abs(t - ABSURD[kind] / 1000.0).max() <= 1
    assert given.choices == ()


USUAL = {
    "five events": (np.arange(5), "us"),
    "ten events a millisecond apart": (np.arange(10) * 1000, "us"),
    "one event": (np.array([7]), "us"),
    "events at one time": (np.full(5000, 7), "us"),
    "seconds": (SPREAD / 1e6, "s"),
    "seconds as 32-bit floats": ((SPREAD / 1e6).astype(np.float32), "s"),
    "microseconds": (SPREAD, "us"),
    "a clock of milliseconds": (SPREAD[:30_000] // 100_000 * 1000, "us"),
    "dates in seconds": (SPREAD / 1e6 + 1_643_243_628.5, "s"),
    "dates in microseconds": (SPREAD + 1_643_243_628_737_093, "us"),
    "dates in nanoseconds": (SPREAD * 1000 + 1_643_243_628_737_093_000, "ns"),
    "a still scene": (SPREAD * 80, "us"),
    "a wild stamp": (np.where(np.arange(60_000) == 500, 2**60, SPREAD), "us"),
    "a wild last stamp": (np.where(np.arange(60_000) == 59_999, 2**60, SPREAD), "us"),
    "a reset clock": (np.concatenate([SPREAD, SPREAD[::600] // 300]), "us"),
}


@pytest.mark.parametrize("kind", USUAL)
def test_the_usual_unit_stands_and_is_said(tmp_path, kind):
    t, unit = USUAL[kind]
    recording = opened(tmp_path, "npz", t)
    assert recording.notes["time unit"] == unit
    assert len(recording.choices) == 1
    assert f"time unit {unit}, " in recording.choices[0] and "--time-unit" in recording.choices[0]


def test_a_slow_beginning_is_not_the_whole(tmp_path):
    """A burst or a pause in the first 65,536 events does not decide over the rest."""
    burst = np.concatenate([np.arange(70_000) // 100, 1000 + np.arange(70_000) * 50])
    pause = np.concatenate([np.arange(70_000), 70_000 + np.arange(700_000) // 3000])
    for container in CONTAINERS:
        assert opened(tmp_path, container, burst).notes["time unit"] == "us"
        if container != "npz compressed":  # whose end is not looked at
            with pytest.raises(DataError, match="ambiguous"):
                opened(tmp_path, container, pause // 40)


@pytest.mark.parametrize("name", ["t_us", "timestamps_ns", "time_ms", "ts[us]", "event_t_us"])
def test_a_name_states_the_unit(tmp_path, name):
    unit = re.search("[mun]s", name.replace("timestamps", ""))[0]
    t = SPREAD if unit != "ns" else SPREAD * 1000
    others = {"event_x": 0, "event_y": 0, "event_p": 0} if name.startswith("event") else "xyp"
    columns = {key: columns_of(t)[key[-1]] for key in others} | {name: t}
    np.savez(tmp_path / "a.npz", **columns)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for key, column in columns.items():
            file[f"events/{key}"] = column
    header, table = ",".join(columns), np.stack([*columns.values()], axis=1)
    np.savetxt(tmp_path / "a.csv", table, "%d", delimiter=",", header=header, comments="")
    for path in (tmp_path / "a.npz", tmp_path / "a.h5", tmp_path / "a.csv"):
        recording = open_recording(path, size=(180, 240))
        assert (recording.notes["time unit"], recording.choices) == (unit, ())


def test_an_attribute_of_hdf5_states_the_unit(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for key, column in columns_of(SPREAD // 3000).items():
            file[f"events/{key}"] = column
        file["events/t"].attrs["units"] = "milliseconds"
    recording = open_recording(tmp_path / "a.h5", size=(180, 240))
    assert (recording.notes["time unit"], recording.choices) == ("ms", ())


# Frames


@pytest.mark.parametrize(("lines", "unit"), [
    ("0\n40\n80\n", None), ("0\n100\n200\n", None), ("0.0\n40.5\n81.0\n", None),
    ("0\n40000\n80000\n", "us"), ("0.0\n0.04\n0.08\n", "s"), ("1.5\n", "s"),
    ("0\n40000000\n80000000\n", None), ("1643243628737093000\n1643243628777093000\n", "ns"),
])  # fmt: skip
def test_frame_times_are_judged_alike(tmp_path, lines, unit):
    path = tmp_path / "times.txt"
    path.write_text(lines)
    if unit is None:
        with pytest.raises(DataError, match="ambiguous") as caught:
            read_frame_times(path, None, "middle")
        assert "--frame-time-unit" in str(caught.value) and "\n    ms: " in str(caught.value)
        return
    times = read_frame_times(path, None, "middle")
    assert times.unit.name == unit and "--frame-time-unit" in times.unit.choice
    assert read_frame_times(path, unit, "middle").unit.choice is None


@pytest.mark.parametrize("container", ["npz", "npz compressed", "HDF5", "text"])
def test_units_of_frames_and_events_must_fit_each_other(tmp_path, container):
    """Events in ms that could be us, at a tenth of an event per pixel and second."""
    rng = np.random.default_rng(0)
    us = np.sort(rng.integers(0, 10_000_000, 43_200))
    root = tmp_path / "raw"
    write(root, container, columns_of(us // 1000))
    write_pictures(root / "images", [np.full((180, 240, 3), 9, np.uint8)] * 20)
    write_times(root / "timestamps.txt", [f"{0.4 + k / 2.5:.6f}" for k in range(20)])
    shared = {"name": "custom", "roots": [root], "size": (180, 240), "columns": "txyp"}
    config = PrepareConfig(**shared, out=tmp_path / "p")
    with pytest.raises(ConfigError, match="do not fit each other") as caught:
        prepare.run(config, quiet=True)
    assert "--time-unit ms --frame-time-unit s" in str(caught.value)
    assert not (tmp_path / "p").exists()
    with pytest.raises(ConfigError, match="do not fit each other"):
        voxelize.run(
            VoxelizeConfig(root=root, out=tmp_path / "v", size=(180, 240), columns="txyp"),
            quiet=True,
        )
    given = PrepareConfig(**shared, out=tmp_path / "p", time_unit="ms")
    report = prepare.run(given, quiet=True)
    assert report.facts["counts"]["pairs"] == 20
    assert [line for line in report.facts["choices"] if "unit of the frame times s" in line]
    assert not [line for line in report.facts["choices"] if " time unit " in line]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.99997, "1000 ms"), (0.0125, "12.5 ms"), (119.96, "120 s"), (3e6, "34.7 days")],
)
def test_durations_are_written_without_exponents(seconds, text):
    assert duration_text(seconds) == text
