"""Damage HDF5 files in their structure and in their chunks, and count what the reader makes of it.

    python examples/hdf5_damage.py --edits 200

Every edit is a whole file of which 10 to 60 bytes were zeroed (or some flipped): half of them at a
block of its structure, half anywhere outside the values, or inside the compressed chunks. It must
give an error or, where the values themselves are untouched or have checksums, the exact events; the
process that reads must live, whatever libhdf5 does.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from scaleevent.errors import ScaleEventError
from scaleevent.events import Events
from scaleevent.formats import read_events

EVENTS, SIZE = 3000, (180, 240)
SUMMED = {"compression": "gzip", "shuffle": True, "fletcher32": True}
# of HDF5's structure: the B-trees, heaps, headers and indexes that begin with these letters
BLOCKS = re.compile(
    rb"TREE|SNOD|HEAP|GCOL|OHDR|OCHK|FRHP|FHDB|FHIB|FSHD|FSSE|BTHD|BTIN|BTLF|EAHD|EAIB|EASB|EADB|"
    rb"FAHD|FADB|\x89HDF"
)


def events() -> Events:
    """What all files hold."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(1000, 400_000, EVENTS))
    x, y = rng.integers(0, SIZE[1], EVENTS), rng.integers(0, SIZE[0], EVENTS)
    return Events.from_columns(t, x, y, rng.integers(0, 2, EVENTS), *SIZE)


def columns(file: h5py.File, group: str = "events", **stored: object) -> None:
    """Four datasets."""
    for name, kind in zip("txyp", ("i8", "u2", "u2", "u1"), strict=True):
        values = getattr(events(), name).astype(kind)
        file.create_dataset(f"{group}/{name}", data=values, **stored)


def dsec(file: h5py.File, **stored: object) -> None:
    """As DSEC: times after an offset, and the first event of every millisecond."""
    stored = {"chunks": (500,), **hdf5plugin.Blosc("zstd", 1, hdf5plugin.Blosc.SHUFFLE)} | stored
    columns(file, **stored)
    del file["events/t"]
    file.create_dataset("events/t", data=(events().t - 1000).astype("u4"), **stored)
    file["t_offset"] = np.int64(1000)
    file["ms_to_idx"] = np.searchsorted(events().t - 1000, np.arange(410) * 1000).astype("u8")


def records(file: h5py.File, **stored: object) -> None:
    """As Prophesee: one table."""
    rows = np.zeros(EVENTS, [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
    for name in "txyp":
        rows[name] = getattr(events(), name)
    file.create_dataset("CD/events", data=rows, **stored)
    file.attrs["geometry"] = "240x180"


def mvsec(file: h5py.File, **stored: object) -> None:
    """A matrix among other groups, with attributes."""
    rows = np.stack([events().x, events().y, events().t / 1e6, events().p * 2.0 - 1], 1)
    for side in ("left", "right"):
        file.create_dataset(f"davis/{side}/events", data=rows, **stored)
        file[f"davis/{side}"].attrs.update({"height": SIZE[0], "width": SIZE[1]})
        for number in range(12):
            file[f"davis/{side}/extra{number}"] = np.arange(number)


def matlab(file: h5py.File) -> None:
    """As MATLAB 7.3, which keeps its own header before."""
    for name in "txyp":
        file[f"TD/{name}"] = getattr(events(), name).astype("f8")[None]


def m3ed(file: h5py.File, **stored: object) -> None:
    """As M3ED."""
    columns(file, "prophesee/left", **stored)
    file["prophesee/left/ms_map_idx"] = np.searchsorted(events().t, np.arange(410) * 1000)
    file["prophesee/left/calib/resolution"] = np.array([240, 180])


Layout = tuple[Callable[..., None], dict[str, object], dict[str, object], bool]
LAYOUTS: dict[str, Layout] = {
    # how it is filled, options of the file, options of the datasets, whether damage of values shows
    "gzip": (columns, {}, {"chunks": (500,), **SUMMED}, True),
    "gzip, 1000 chunks": (columns, {}, {"chunks": (3,), **SUMMED}, True),
    "gzip, latest": (columns, {"libver": "latest"}, {"chunks": (500,), **SUMMED}, True),
    "gzip, resizable": (
        columns, {"libver": "latest"}, {"chunks": (50,), "maxshape": (None,), **SUMMED}, True
    ),
    "gzip, v108": (columns, {"libver": ("v108", "v108")}, {"chunks": (20,), **SUMMED}, True),
    "contiguous": (columns, {}, {}, False),
    "contiguous, latest": (columns, {"libver": "latest"}, {}, False),
    "dsec": (dsec, {}, {}, False),
    "dsec, summed": (dsec, {}, {"fletcher32": True}, True),
    "records": (records, {}, {"chunks": (300,), **SUMMED}, True),
    "matrix": (mvsec, {}, {"chunks": (200, 4), **SUMMED}, True),
    "m3ed": (m3ed, {}, {"chunks": (500,), **SUMMED}, True),
    "matlab": (matlab, {"userblock_size": 512}, {}, False),
    "lz4": (columns, {}, {"chunks": (500,), **hdf5plugin.LZ4()}, False),
    "bitshuffle": (columns, {}, {"chunks": (512,), **hdf5plugin.Bitshuffle()}, False),
    "zstd": (columns, {}, {"chunks": (500,), **hdf5plugin.Zstd()}, False),
    "blosc2": (columns, {}, {"chunks": (500,), **hdf5plugin.Blosc2()}, False),
    "lzf": (columns, {}, {"chunks": (500,), "compression": "lzf"}, False),
}  # fmt: skip


def write(path: Path, layout: str) -> list[tuple[int, int]]:
    """A whole file; the ranges of bytes that hold values."""
    fill, made, stored, _ = LAYOUTS[layout]
    with h5py.File(path, "w", **made) as file:
        fill(file, **stored)
    values = []

    def note(name: str, data: object) -> None:
        if isinstance(data, h5py.Dataset):
            values.extend(extents(data))

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return sorted(values)


def extents(data: h5py.Dataset) -> list[tuple[int, int]]:
    """Where the values of a dataset lie."""
    if data.chunks is None:
        start = data.id.get_offset()
        return [] if start is None else [(start, start + data.id.get_storage_size())]
    chunks = [data.id.get_chunk_info(k) for k in range(data.id.get_num_chunks())]
    return [(chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks]


def damaged(
    whole: bytes, values: list[tuple[int, int]], kind: str, rng: np.random.Generator
) -> bytes:
    """The file with one edit; `kind` is "zeroed", "flipped" or "chunks"."""
    data = bytearray(whole)
    inside = np.zeros(len(data), bool)
    for start, end in values:
        inside[start:end] = True
    if kind != "chunks":
        inside = ~inside
    places = np.flatnonzero(inside)
    at = int(rng.choice(places))
    if kind != "chunks" and rng.random() < 0.5:
        blocks = [hit.start() for hit in BLOCKS.finditer(whole) if inside[hit.start()]]
        at = int(rng.choice(blocks)) + int(rng.integers(0, 120))
    for place in range(at, min(at + int(rng.integers(10, 61)), len(data))):
        if inside[place]:
            if kind == "zeroed":
                data[place] = 0
            elif rng.random() < 0.1:
                data[place] ^= int(rng.integers(1, 256))
    return bytes(data)


def outcome(path: Path, truth: Events) -> str:
    """What reading gives: "error", "exact" or "other events"."""
    try:
        read = read_events(path, size=SIZE)
    except ScaleEventError:
        return "error"
    same = all(np.array_equal(getattr(read, name), getattr(truth, name)) for name in "txyp")
    return "exact" if same else "other events"


def run(layout: str, kind: str, edits: int, folder: Path, seed: int = 0) -> tuple[Counter, float]:
    """How often what came of the edits, and the longest time for one, in seconds."""
    path = folder / "whole.h5"
    values = write(path, layout)
    truth, whole = events(), path.read_bytes()
    assert outcome(path, truth) == "exact", layout
    counts: Counter[str] = Counter()
    longest = 0.0
    for number in range(edits):
        rng = np.random.default_rng([seed, number, len(layout)])
        broken = folder / f"{kind}{number % 5}.h5"
        broken.write_bytes(damaged(whole, values, kind, rng))
        begin = time.perf_counter()
        result = outcome(broken, truth)
        counts[result] += 1
        if result == "other events" and kind == "zeroed":
            broken.rename(folder / f"other, {layout}, {number}.h5")
        longest = max(longest, time.perf_counter() - begin)
    return counts, longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--layout", choices=LAYOUTS, action="append")
    parser.add_argument("--keep", type=Path, help="folder for the files")
    options = parser.parse_args()
    print(f"{'layout':20}{'edits':10}{'error':>7}{'exact':>7}{'other':>7}{'longest s':>11}")
    with tempfile.TemporaryDirectory() as folder:
        for layout in options.layout or LAYOUTS:
            for kind in ("zeroed", "flipped", "chunks"):
                counts, longest = run(layout, kind, options.edits, options.keep or Path(folder))
                shown = (counts[name] for name in ("error", "exact", "other events"))
                row = "".join(f"{count:7}" for count in shown)
                print(f"{layout:20}{kind:10}{row}{longest:11.2f}", flush=True)


if __name__ == "__main__":
    main()
