"""The unit of stored times: never a wrong one without a word, whatever the container."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from scaleevent.datasets.frame_times import read_frame_times
from scaleevent.errors import DataError
from scaleevent.formats import open_recording

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
