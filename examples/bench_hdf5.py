"""Windows out of a DSEC-style HDF5 file, beside a plain h5py slice of the same ranges.

    python examples/bench_hdf5.py --events 30000000

Blosc Zstandard with byte shuffle, as such files have it, once with small and once with large
chunks. Windows without overlap, each read once, in random order; elapsed time, because ours reads
in another process, the file in the system's cache; a process each, since HDF5 shares its chunk
cache between two readers of one file. "ours" is `Recording.blocks` with its index, jitter, checks
and conversion to int64 microseconds. The first opening includes the start of the other process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from scaleevent.formats import open_recording, recording_facts
from scaleevent.system.allocator import keep_freed_memory

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


class Plain:
    """What a script with h5py does that knows where every millisecond begins."""

    def __init__(self, path: Path, index: np.ndarray) -> None:
        self.file, self.index = h5py.File(path), index
        self.columns = [self.file[f"events/{name}"] for name in "txyp"]

    def read(self, start: int, end: int) -> int:
        """The events between two milliseconds; how many."""
        first, last = int(self.index[start]), int(self.index[end])
        return len([column[first:last] for column in self.columns][0])


class Ours:
    """A recording opened once."""

    def __init__(self, path: Path, index: np.ndarray) -> None:
        self.recording = open_recording(path)

    def read(self, start: int, end: int) -> int:
        """As `Plain.read`."""
        blocks = self.recording.blocks(OFFSET_US + 1000 * start, OFFSET_US + 1000 * end)
        return sum(map(len, blocks))


def prepare(kind: type, path: Path, index: np.ndarray) -> None:
    """In a worker: open the file."""
    global reader
    keep_freed_memory()
    reader = kind(path, index)


def timed(start: int, end: int) -> float:
    """In a worker: nanoseconds an event."""
    begin = time.perf_counter()
    events = reader.read(start, end)
    return (time.perf_counter() - begin) / events * 1e9


def compare(path: Path, index: np.ndarray, window_ms: int) -> None:
    """Print both rates and their ratio for one length of window."""
    starts = np.arange(5, len(index) - window_ms - 5, window_ms)
    np.random.default_rng(1).shuffle(starts)
    spawn = multiprocessing.get_context("spawn")
    with (
        spawn.Pool(1, prepare, (Plain, path, index)) as plain,
        spawn.Pool(1, prepare, (Ours, path, index)) as ours,
    ):
        windows = [(int(start), int(start + window_ms)) for start in starts]
        taken = np.array([[pool.apply(timed, w) for pool in (plain, ours)] for w in windows[2:]])
    theirs, own = np.median(taken, axis=0)
    print(f"{window_ms:6} ms{1e3 / theirs:12.1f}{1e3 / own:12.1f}{own / theirs:12.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=30_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for chunk in (16_384, 65_536, 262_144):
            path = Path(folder) / f"{chunk}.h5"
            index = write(path, options.events, chunk)
            print(
                f"\nchunks of {chunk:,}, {options.events:,} events, {path.stat().st_size:,} bytes"
            )
            print(f"{'window':>9}{'h5py Mev/s':>12}{'ours Mev/s':>12}{'time ratio':>12}")
            for window_ms in (50, 100):
                compare(path, index, window_ms)
            for which in ("first", "second"):
                begin = time.perf_counter()
                recording = open_recording(path)
                print(f"{which} opening: {time.perf_counter() - begin:.3f} s")
            begin = time.perf_counter()
            recording_facts(recording, full=False)
            print(f"facts from the index: {time.perf_counter() - begin:.2f} s")
            path.unlink()


if __name__ == "__main__":
    main()
