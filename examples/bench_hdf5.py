"""Windows out of a DSEC-style HDF5 file, beside a plain h5py slice of the same ranges.

    python examples/bench_hdf5.py --events 30000000

Blosc Zstandard with byte shuffle, as such files have it, once with small and once with large
chunks. One process, warm cache, CPU time; random windows, a new one for every read, since HDF5
shares its chunk cache between two readers of one file. "ours" is `Recording.blocks` with its index,
jitter, checks and conversion to int64 microseconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from scaleevent.formats import open_recording, recording_facts
from scaleevent.memory import keep_freed_memory

OFFSET_US = 10**9
RATE = 5e6  # events a second


def write(path: Path, number: int, chunk: int) -> np.ndarray:
    """The file; returns the first event of every millisecond."""
    rng = np.random.default_rng(0)
    span = int(number / RATE * 1e6)
    t = np.sort(rng.integers(0, span, number)).astype(np.uint32)
    x = (rng.integers(0, 640, number // 4 + 1).repeat(4)[:number]).astype(np.uint16)
    y = (rng.integers(0, 480, number // 4 + 1).repeat(4)[:number]).astype(np.uint16)
    columns = {"t": t, "x": x, "y": y, "p": rng.integers(0, 2, number).astype(np.uint8)}
    made = {"chunks": (chunk,), **hdf5plugin.Blosc("zstd", 1, hdf5plugin.Blosc.SHUFFLE)}
    index = np.searchsorted(t, np.arange(span // 1000 + 1) * 1000)
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file.create_dataset(f"events/{name}", data=column, **made)
        file["t_offset"] = np.int64(OFFSET_US)
        file["ms_to_idx"] = index.astype(np.uint64)
    return index


def compare(path: Path, index: np.ndarray, window_ms: int, rounds: int) -> None:
    """Print both rates and their ratio for one length of window."""
    recording = open_recording(path)
    rng = np.random.default_rng(1)
    seconds: dict[str, list[float]] = {"h5py": [], "ours": []}
    with h5py.File(path) as file:
        columns = [file[f"events/{name}"] for name in "txyp"]

        def plain(start: int, end: int) -> int:
            first, last = int(index[start]), int(index[end])
            return len([column[first:last] for column in columns][0])

        def ours(start: int, end: int) -> int:
            blocks = recording.blocks(OFFSET_US + 1000 * start, OFFSET_US + 1000 * end)
            return sum(map(len, blocks))

        for number in range(2 * rounds):
            name, read = (("h5py", plain), ("ours", ours))[number % 2]
            start = int(rng.integers(5, len(index) - window_ms - 5))
            begin = time.process_time()
            events = read(start, start + window_ms)
            seconds[name].append((time.process_time() - begin) / events)
    medians = {name: float(np.median(taken)) for name, taken in seconds.items()}
    print(
        f"{window_ms:6} ms{1e-6 / medians['h5py']:12.1f}{1e-6 / medians['ours']:12.1f}"
        f"{medians['ours'] / medians['h5py']:12.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=30_000_000)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        for chunk in (16_384, 65_536, 262_144):
            path = Path(folder) / f"{chunk}.h5"
            index = write(path, options.events, chunk)
            print(
                f"\nchunks of {chunk:,}, {options.events:,} events, {path.stat().st_size:,} bytes"
            )
            print(f"{'window':>9}{'h5py Mev/s':>12}{'ours Mev/s':>12}{'time ratio':>12}")
            for window_ms in (50, 100):
                compare(path, index, window_ms, options.rounds)
            recording = open_recording(path)
            begin = time.perf_counter()
            recording_facts(recording, full=False)
            print(f"facts from the index: {time.perf_counter() - begin:.2f} s")
            path.unlink()


if __name__ == "__main__":
    main()
