"""An index of many pairs: how long it takes to open, what it holds in memory, pairs a second.

    python examples/bench_scale.py                                   # small, some minutes
    python examples/bench_scale.py --out scale --pairs 100000 --rows 500000 --draws 50000

Small `street` pairs of 16x24 pixels, so that what grows with their number is seen, not their size.
`--rendered` of them are rendered; the others are the same pictures and events under names of their
own, written to shards of their own, which makes no difference to an index. The rows are the pairs,
named as often as it takes. What is made is kept in `--out`, and the same command goes on there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path

os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "NUMBA")}

SHARD = 250  # pairs
MB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder that is kept; else a temporary one")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rendered", type=int, default=500)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--files", type=int, help="open files that are allowed (ulimit -n)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.out, options.rows, options.draws, int(options.measure), options.files)
        return
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        make(out, options.pairs, options.rendered)
        for workers in options.workers:
            again = [sys.executable, __file__, *sys.argv[1:], "--measure", str(workers)]
            subprocess.run([*again, "--out", str(out)], check=True)


def make(out: Path, pairs: int, rendered: int) -> None:
    """Render some pairs, and write the others after them."""
    from scaleevent.commands.prepare import NOT_CONTENT
    from scaleevent.datasets.street import Settings, sources
    from scaleevent.pairs.preparing import write_store
    from scaleevent.pairs.store import PairStore, finish_shard, shard_entry
    from scaleevent.system.files import claimed_folder, write_json
    from scaleevent.system.locations import MANIFEST
    from scaleevent.system.workers import ProcessExecutor

    cfg = Settings(
        name="street", scenes=pairs, size=(16, 24), layout="fixed", shutter_ms=0, window_ms=20
    )
    tasks = sources(cfg)
    settings = cfg.model_dump(mode="json", exclude=NOT_CONTENT)
    first, folder = out / "rendered", out / "pairs"
    began = time.perf_counter()
    with claimed_folder(first, "pairs", resume=True, overwrite=False):
        with ProcessExecutor(os.cpu_count() or 1) as executor:
            manifest = write_store(
                tasks[: max(1, rendered // SHARD)], first, settings, executor=executor
            )
    seconds, made = time.perf_counter() - began, 0
    made_from = [first / entry["file"] for entry in manifest["shards"]]
    print(f"rendered: {len(PairStore(first)):,} pairs, {seconds:.0f} s in this run", flush=True)
    began = time.perf_counter()
    with claimed_folder(folder, "pairs", resume=True, overwrite=False):
        entries = []
        for number, task in enumerate(tasks):
            path = folder / f"{number:05d}-{task.name}.h5"
            entry = shard_entry(path, "copy")
            if entry is None:
                made += task.expected
                renamed(made_from[number % len(made_from)], path, task.first)
                entry = finish_shard(path, task.expected, {"pairs": task.expected}, "copy")
            entries.append(entry)
        write_json(folder / MANIFEST, manifest | {"shards": entries})
    seconds = time.perf_counter() - began
    print(f"written after them: {made:,} pairs in {seconds:.0f} s", flush=True)


def renamed(source: Path, target: Path, first: int) -> None:
    """A shard as another one, whose recordings are numbered from `first` on."""
    import shutil

    import h5py
    import numpy as np

    from scaleevent.datasets.street import recording_name
    from scaleevent.system.files import atomic_path

    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file:
            count = int(file.attrs["pairs"])
            names = [recording_name(0, first + k) for k in range(count)]
            data = np.frombuffer(json.dumps(names).encode(), np.uint8)
            assert len(data) == len(file["recordings/values"])  # as long as before
            file["recordings/values"][:] = data


def measure(out: Path, rows: int, draws: int, workers: int, files: int | None) -> None:
    """In a process of its own: open an index and read from it."""
    if files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    import numpy as np

    from scaleevent.grids.inputs import InputSettings
    from scaleevent.pairs.draws import StepBatches, draw_epoch
    from scaleevent.pairs.loading import load_batches
    from scaleevent.pairs.samples import PairSamples
    from scaleevent.pairs.splits import split_samples
    from scaleevent.pairs.store import PairStore

    folder = out / "pairs"
    before = memory(os.getpid())
    with told("open the manifest"):
        store = PairStore(folder)
    repeats = -(-rows // len(store))
    samples = PairSamples([store] * repeats, InputSettings(16, 24, patch=8))
    with told("look for images"):
        samples.check_images()
    with told("names of recordings"):
        _ = store.recordings
    with told("split off a tenth"):
        split = split_samples(samples, 0.1)
    train = split.train
    for sampling in ("uniform", "released"):
        with told(f"draw an epoch, {sampling}"):
            drawn = draw_epoch(samples, train, draws, 0, 0, sampling)
    print(
        f"{len(samples):,} rows of {len(store):,} pairs in {len(store.shards):,} shards, "
        f"{len(train):,} to train; the index takes "
        f"{(memory(os.getpid()) - before) / MB:,.0f} MB with its open shards"
    )
    batch = 16
    drawn = draw_epoch(samples, train, draws, 0, 0, "uniform")
    batches = StepBatches(lambda epoch: drawn, 1, len(drawn) // batch, batch)
    seen: list[tuple[float, int]] = []
    with watched(seen):
        began, used, count = time.perf_counter(), time.process_time(), 0
        for loaded in load_batches(samples, batches, workers):
            count += len(next(iter(loaded.values())))
            if count == batch:
                began, used = time.perf_counter(), time.process_time()  # the processes are there
        seconds = time.perf_counter() - began
        used = time.process_time() - used
    assert count == len(drawn) // batch * batch
    print(
        f"{workers} workers: {count:,} draws, {(count - batch) / seconds:,.0f} pairs/s"
        + (f" ({(count - batch) / used:,.0f} a second of processor time)" if not workers else "")
        + f"; at most {max(m for m, _ in seen) / MB:,.0f} MB and {max(f for _, f in seen):,} open "
        f"files in a process; {np.unique(drawn % len(store)).size:,} pairs seen",
        flush=True,
    )


@contextmanager
def told(what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print(f"{what:28}{time.perf_counter() - began:8.2f} s", flush=True)


@contextmanager
def watched(seen: list[tuple[float, int]]) -> Iterator[None]:
    """Note memory and open files of this process and of those that it started, over and over."""
    end = threading.Event()

    def watch() -> None:
        while True:
            for process in (os.getpid(), *(p.pid for p in active_children())):
                try:
                    seen.append((memory(process), len(os.listdir(f"/proc/{process}/fd"))))
                except OSError:  # it has ended
                    continue
            if end.wait(0.5):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def memory(process: int) -> float:
    """Bytes of a process: its own, with its part of those that it shares with others."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0.0


if __name__ == "__main__":
    main()
