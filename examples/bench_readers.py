"""Events decoded a second from camera files: ours, other packages, and reading the bytes alone.

    python examples/bench_readers.py --events 22000000

The generated files hold the words of a real EVT3 recording in their usual numbers (rows of about
four events, vectors, a time word every microsecond), and the same events in the other formats.
One core, CPU time, files in the page cache, medians over rounds in which all take their turn.
"ours, unchecked" is `Source.blocks`, "ours" is `Recording.blocks` with all its checks. evlib and
faery take part where they are installed (`pip install evlib faery`), evlib into one table, faery in
packets, as they do it. The limit is reading the bytes into one small buffer. Below each table, two
processes read two files, against one process that reads one: wall time, the best of three turns,
which wants two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON")
os.environ |= {f"{name}_NUM_THREADS": "1" for name in THREADS} | {"POLARS_MAX_THREADS": "1"}

import numpy as np  # noqa: E402

from scaleevent.formats import open_recording  # noqa: E402
from scaleevent.system.allocator import keep_freed_memory  # noqa: E402

HEIGHT, WIDTH = 720, 1280
ROWS_A_US = 6  # rows read out in a microsecond
EVENTS_A_ROW = 4
VECTORS = 0.1  # share of the rows whose events stand close enough for a vector
MOST = 10  # events a row
HIGH_EVERY_US = 16  # the cameras repeat their high time word so often
TWO_PROCESSES = 800_000_000  # events each process reads in a turn, two seconds or more
TURNS = 3
Run = Callable[[], int]


class Rows:
    """Events as a sensor reads them out: rows of some events with one time.

    Args:
        count: About how many events.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        rows = count // EVENTS_A_ROW
        self.size = np.minimum(rng.geometric(1 / EVENTS_A_ROW, rows), MOST)
        self.t = 1_000_000 + np.cumsum(rng.random(rows) < 1 / ROWS_A_US)
        self.y = rng.integers(0, HEIGHT, rows)
        self.vector = (rng.random(rows) < VECTORS) & (self.size > 1)
        self.first = np.concatenate([[0], np.cumsum(self.size)[:-1]])
        self.count = int(self.size.sum())
        self.row = np.repeat(np.arange(rows), self.size)
        gap = rng.integers(1, np.where(self.vector, 4, 40)[self.row])
        gap[self.first] = 0
        gap = np.cumsum(gap)
        start = rng.integers(0, WIDTH // 32 - MOST * 40 // 32, rows) * 32
        self.x = start[self.row] + gap - gap[self.first][self.row]
        p = rng.integers(0, 2, self.count)
        self.p = np.where(self.vector[self.row], p[self.first][self.row], p)

    def changed(self, every_us: int) -> np.ndarray:
        """The rows that are the first of another stretch of so many microseconds."""
        stretch = self.t // every_us
        return np.concatenate([[True], stretch[1:] != stretch[:-1]])


def in_turn(*parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Words of several kinds in one sequence: (event they stand before, words, kind's rank)."""
    at = np.concatenate([before * 8 + rank for before, _, rank in parts])
    return np.concatenate([words for _, words, _ in parts])[np.argsort(at, kind="stable")]


def dat(rows: Rows) -> tuple[list[str], np.ndarray]:
    words = np.empty((rows.count, 2), "<u4")
    words[:, 0] = rows.t[rows.row]
    words[:, 1] = rows.x | rows.y[rows.row] << 14 | rows.p << 28
    header = ["Data file containing CD events.", "Version 2", f"Height {HEIGHT}", f"Width {WIDTH}"]
    return header, words


def evt2(rows: Rows) -> tuple[list[str], np.ndarray]:
    high = rows.changed(HIGH_EVERY_US)
    words = in_turn(
        (rows.first[high], 8 << 28 | rows.t[high] >> 6, 0),
        (
            np.arange(rows.count),
            rows.p << 28 | (rows.t[rows.row] & 63) << 22 | rows.x << 11 | rows.y[rows.row],
            1,
        ),
    )
    return ["evt 2.0", f"geometry {WIDTH}x{HEIGHT}", "end"], words.astype("<u4")


def evt21(rows: Rows) -> tuple[list[str], np.ndarray]:
    high = rows.changed(HIGH_EVERY_US)
    key = (rows.row * 2 + rows.p) * 64 + rows.x // 32
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    bits = np.bitwise_or.reduceat(1 << (rows.x % 32), starts)
    upper = (
        rows.p << 28 | (rows.t[rows.row] & 63) << 22 | rows.x // 32 * 32 << 11 | rows.y[rows.row]
    )
    words = in_turn(
        (rows.first[high], (8 << 28 | rows.t[high] >> 6) << 32, 0),
        (starts, upper[starts] << 32 | bits, 1),
    )
    return ["evt 2.1", f"geometry {WIDTH}x{HEIGHT}", "end"], words.astype("<u8")


def evt3(rows: Rows) -> tuple[list[str], np.ndarray]:
    high, low = rows.changed(HIGH_EVERY_US), rows.changed(1)
    first, single = rows.first[rows.vector], ~rows.vector[rows.row]
    bits = np.bitwise_or.reduceat(1 << (rows.x - rows.x[rows.first][rows.row]), rows.first)
    bits = bits[rows.vector]
    words = in_turn(
        (rows.first[high], 0x8000 | rows.t[high] >> 12 & 0xFFF, 0),
        (rows.first[low], 0x6000 | rows.t[low] & 0xFFF, 1),
        (rows.first, rows.y, 2),
        (first, 0x3000 | rows.p[first] << 11 | rows.x[first], 3),
        (first, 0x4000 | bits & 0xFFF, 4),
        (first, 0x4000 | bits >> 12 & 0xFFF, 5),
        (first, 0x5000 | bits >> 24, 6),
        (np.flatnonzero(single), (0x2000 | rows.p << 11 | rows.x)[single], 7),
    )
    return ["evt 3.0", f"geometry {WIDTH}x{HEIGHT}", "end"], words.astype("<u2")


FORMATS = {"EVT3": evt3, "EVT2": evt2, "EVT2.1": evt21, "DAT": dat}


def write(folder: Path, name: str, rows: Rows) -> Path:
    header, words = FORMATS[name](rows)
    path = folder / f"{name}{'.dat' if name == 'DAT' else '.raw'}"
    text = "".join(f"% {line}\n" for line in header).encode()
    path.write_bytes(text + (bytes([12, 8]) if name == "DAT" else b"") + words.tobytes())
    return path


def read_bytes(path: Path) -> Run:
    """The bytes of the file, from the page cache into one small buffer: no reader is faster."""
    buffer = bytearray(1 << 20)

    def run() -> int:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
        return 0

    return run


def ours_raw(path: Path) -> Run:
    return lambda: sum(len(block) for block in open_recording(path).source.blocks(None, None))


def ours(path: Path) -> Run:
    return lambda: sum(len(block) for block in open_recording(path).blocks())


def evlib(path: Path) -> Run:
    import evlib as package

    return lambda: package.load_events(str(path), sort=False).collect().height


def faery(path: Path) -> Run:
    import faery as package

    if path.stem == "EVT2.1":
        raise NotImplementedError("not written yet")  # it panics
    decoder = package.dat.Decoder if path.suffix == ".dat" else package.evt.Decoder
    return lambda: sum(
        len(packet if isinstance(packet, np.ndarray) else packet["events"])
        for packet in decoder(path, (WIDTH, HEIGHT), None)
    )


RUNS = {
    "reading the bytes": read_bytes, "ours, unchecked": ours_raw, "ours": ours, "evlib": evlib,
    "faery": faery,
}  # fmt: skip


def compare(path: Path, count: int, rounds: int) -> None:
    """Print the table of one file."""
    runs: dict[str, Run] = {}
    absent = []
    for name, make in RUNS.items():
        try:
            run = make(path)
            met = run()
        except ImportError as error:
            absent.append(f"{name} (not installed: {error.name})")
        except Exception as error:  # noqa: BLE001  a peer may not read a format
            if make in (read_bytes, ours_raw, ours):
                raise
            absent.append(f"{name} ({str(error)[:60]})")
        else:
            runs[name] = run
            if met not in (0, count):
                absent.append(f"{name} finds {met:,} events")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.process_time()
            run()
            seconds[name].append(time.process_time() - begin)
    median = {name: float(np.median(taken)) for name, taken in seconds.items()}
    size = path.stat().st_size
    print(f"\n{path.stem}: {count:,} events in {size / 1e6:.0f} MB, {size / count:.2f} bytes each")
    print(f"{'':20}{'median ms':>10}{'Mev/s':>9}{'best':>8}{'of the limit':>14}")
    for name in runs:
        print(
            f"{name:20}{1e3 * median[name]:10.1f}{count / median[name] / 1e6:9.1f}"
            f"{count / min(seconds[name]) / 1e6:8.1f}"
            f"{median['reading the bytes'] / median[name]:14.1%}"
        )
    if absent:
        print("; ".join(absent))


def read_in_process(path: Path, rounds: int, ready, begin, taken) -> None:  # noqa: ANN001
    keep_freed_memory()
    run = ours(path)
    run()
    ready.release()
    begin.wait()
    start = time.perf_counter()
    for _ in range(rounds):
        run()
    taken.put(time.perf_counter() - start)


def in_processes(paths: list[Path], rounds: int) -> float:
    """Seconds until as many processes have each read their file so often."""
    context = multiprocessing.get_context("spawn")
    ready, begin, taken = context.Semaphore(0), context.Event(), context.Queue()
    arguments = rounds, ready, begin, taken
    workers = [context.Process(target=read_in_process, args=(p, *arguments)) for p in paths]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    begin.set()
    seconds = max(taken.get() for _ in workers)
    for worker in workers:
        worker.join()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=22_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", nargs="+", choices=[*FORMATS], default=[*FORMATS])
    options = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        rows = Rows(options.events)
        for name in options.formats:
            path = write(Path(folder), name, rows)
            compare(path, rows.count, options.rounds)
            copy = path.with_stem(f"{name} copy")
            copy.write_bytes(path.read_bytes())
            reads = max(TWO_PROCESSES // rows.count, 1)
            turns = [
                (in_processes([path], reads), in_processes([path, copy], reads))
                for _ in range(TURNS)
            ]
            one, two = (min(seconds) for seconds in zip(*turns, strict=True))
            print(f"two processes: {2 * one / two:.2f} times the events a second of one")
            path.unlink()
            copy.unlink()
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
