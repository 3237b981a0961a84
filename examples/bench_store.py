"""Training samples a second from a pair store, and where the time goes.

    python examples/bench_store.py [--against CHECKOUT]

One core, 480x640, 250,000 events and a JPEG of quality 95 a pair, read in random order from a warm
cache. CPU time of one sample, by stage and whole, and of a pair in the batches that training takes;
medians and minima. Then pairs a second that one worker and two load, by the wall clock, in turns.

`--against` names a checkout of another version, such as `git worktree add --detach OLD COMMIT`
makes: both versions read the same store in turns, each in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "NUMBA")}

import numpy as np  # noqa: E402
import torch  # noqa: E402
from bench_voxels import HEIGHT, WIDTH, make_events  # noqa: E402

from scaleevent.config.catalog import NORMALISERS  # noqa: E402
from scaleevent.grids.density import patch_density  # noqa: E402
from scaleevent.grids.geometry import Fit  # noqa: E402
from scaleevent.grids.inputs import InputSettings, image_input, voxel_input  # noqa: E402
from scaleevent.grids.windows import Window  # noqa: E402
from scaleevent.pairs.pair import Pair, encode_image  # noqa: E402
from scaleevent.pairs.samples import PairSamples  # noqa: E402
from scaleevent.pairs.shard import FORMAT, ShardWriter  # noqa: E402
from scaleevent.pairs.store import MANIFEST, PairStore, finish_shard  # noqa: E402
from scaleevent.street.scene import StreetSettings, render_scene  # noqa: E402
from scaleevent.system.allocator import keep_freed_memory  # noqa: E402
from scaleevent.system.files import write_json  # noqa: E402

SPAN_US = 50_000
ROUNDS_AT_MOST = 10_000
STAGES = (
    "read image", "decode JPEG", "events to voxel", "density", "normalise image", "normalise voxel"
)  # fmt: skip


def write(folder: Path, pairs: int, events: int) -> None:
    """A store of one shard."""
    path = folder / "bench.h5"
    street = StreetSettings(HEIGHT, WIDTH)
    with ShardWriter(path) as writer:
        for number in range(pairs):
            writer.add(
                Pair(
                    recording="bench",
                    image_us=SPAN_US,
                    image=encode_image(render_scene(0, number, street).image),
                    events=make_events(events, SPAN_US, number),
                    window=Window(0, SPAN_US),
                )
            )
    entry = finish_shard(path, pairs, {}, "bench")
    write_json(folder / MANIFEST, {"format": FORMAT, "shards": [entry]})


def by_stage(
    store: PairStore, index: int, settings: InputSettings, seconds: dict[str, list[float]]
) -> None:
    """What `PairSamples` does, with a clock between its steps."""
    from scaleevent.pairs.jpeg import decode_quickly  # earlier versions have none

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        begin = time.process_time()
        yield
        seconds[name].append(time.process_time() - begin)

    fit = Fit(HEIGHT, WIDTH, settings.height, settings.width)
    shard, row = store.locate(index)
    with stage("read image"):
        encoded = shard.image(row)
    with stage("decode JPEG"):
        image = decode_quickly(encoded)
    with stage("events to voxel"):
        voxel = shard.voxel(row, settings.bins)
    with stage("density"):
        patch_density(voxel, settings.patch, fit)
    with stage("normalise image"):
        image_input(image, fit)
    with stage("normalise voxel"):
        voxel_input(voxel, fit, settings.normaliser)


def show(name: str, seconds: list[float]) -> None:
    print(f"{name:18}{1e3 * np.median(seconds):10.2f}{1e3 * min(seconds):10.2f}")


def samples_of(folder: Path, normaliser: str) -> PairSamples:
    settings = InputSettings(HEIGHT, WIDTH, patch=16, normaliser=normaliser)
    return PairSamples([PairStore(folder)], settings)


class Reader:
    """A process that loads all pairs of a store in batches of a new order whenever it is asked."""

    def __init__(
        self, folder: Path, normaliser: str, batch: int, code: Path | None = None, workers: int = 0
    ) -> None:
        path = os.pathsep.join(map(str, filter(None, (code, os.environ.get("PYTHONPATH")))))
        command = [
            sys.executable, Path(__file__).resolve(), "--serve", folder, "--normaliser", normaliser,
            "--batch", batch, "--workers", workers,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": path}, cwd=folder,  # or its workers look here first
        )  # fmt: skip
        self.pipes = self.process.stdin, self.process.stdout
        for _ in range(2):
            self.ask()  # it compiles, and its batches have their memory

    def ask(self) -> dict[str, list[float]]:
        """Seconds a pair: `sample` and `batch` of processor time, `wall` by the clock."""
        assert self.pipes[0] is not None and self.pipes[1] is not None
        self.pipes[0].write("again\n")
        self.pipes[0].flush()
        answer: dict[str, list[float]] = json.loads(self.pipes[1].readline())
        return answer

    def close(self) -> None:
        assert self.pipes[0] is not None
        self.pipes[0].close()
        self.process.wait()


def serve(folder: Path, normaliser: str, batch: int, workers: int) -> None:
    samples = samples_of(folder, normaliser)
    rng = np.random.default_rng(0)
    each = len(samples) // batch
    orders = (rng.permutation(len(samples)) for _ in range(ROUNDS_AT_MOST))
    groups = [order[batch * i : batch * (i + 1)].tolist() for order in orders for i in range(each)]
    before = importlib.util.find_spec("scaleevent.pairs.loading") is None  # in another checkout
    room = importlib.import_module(f"scaleevent.pairs.{'samples' if before else 'loading'}")
    batches = room.load_batches(samples, groups, workers)
    for _ in sys.stdin:
        for _ in range(2 * workers):  # which workers have loaded while nobody asked
            next(batches)
        seconds: dict[str, list[float]] = defaultdict(list)
        count = each * (8 if workers else 1)
        began = time.perf_counter()
        for _ in range(count):
            begin = time.process_time()
            next(batches)
            seconds["batch"].append((time.process_time() - begin) / batch)
        seconds["wall"].append((time.perf_counter() - began) / (batch * count))
        for index in rng.permutation(len(samples)).tolist() if not workers else ():
            begin = time.process_time()
            samples[index]
            seconds["sample"].append(time.process_time() - begin)
        print(json.dumps(seconds), flush=True)


def stages(folder: Path, normaliser: str, rounds: int) -> None:
    samples = samples_of(folder, normaliser)
    seconds: dict[str, list[float]] = defaultdict(list)
    by_stage(samples.stores[0], 0, samples.settings, {name: [] for name in STAGES})  # compiles
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for index in rng.permutation(len(samples)).tolist():
            by_stage(samples.stores[0], index, samples.settings, seconds)
    print(f"{'':18}{'median ms':>10}{'min ms':>10}")
    for name, taken in seconds.items():
        show(name, taken)


def versions(folder: Path, normaliser: str, batch: int, other: Path | None, rounds: int) -> None:
    """Samples alone and in batches, by this version and perhaps another one in turns."""
    codes = {"this version": Path(__file__).parents[1]} | ({str(other): other} if other else {})
    for kind, words, workers in (
        ("sample", "sample", 0),
        ("batch", f"in batches of {batch}", 0),
        ("wall", "by one worker", 1),
    ):
        readers = {
            name: Reader(folder, normaliser, batch, code, workers) for name, code in codes.items()
        }
        taken = {name: [] for name in codes}
        for _ in range(rounds):
            for name, reader in readers.items():
                taken[name].append(reader.ask()[kind])
        for name, reader in readers.items():
            seconds = np.concatenate(taken[name])
            show(words, seconds)
            print(f"{1 / np.median(seconds):.0f} pairs/s (median): {name[-40:]}")
            reader.close()
        if other:
            mine, others = (np.median(one, axis=1) for one in taken.values())
            ratio = np.median(others / mine)
            print(f"{ratio:.2f} times the other's pairs/s (median of {rounds} rounds)")


def scaling(folder: Path, normaliser: str, batch: int, rounds: int) -> None:
    """Pairs a second by the wall clock, of one worker and of two."""
    readers = {count: Reader(folder, normaliser, batch, workers=count) for count in (1, 2)}
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for count, reader in readers.items():
            rates[count] += [1 / wall for wall in reader.ask()["wall"]]
    one, two = (np.median(taken) for taken in rates.values())
    best = max(rates[2]) / max(rates[1])
    print(f"wall clock: one worker {one:.0f} pairs/s, two {two:.0f}: {two / one:.2f} times", end="")
    print(f" (of the best rounds {best:.2f})")
    for reader in readers.values():
        reader.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--events", type=int, default=250_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--normaliser", default="contrast", choices=NORMALISERS)
    parser.add_argument(
        "--against", type=lambda name: Path(name).resolve(), help="checkout of another version"
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if options.serve:
        return serve(options.serve, options.normaliser, options.batch, options.workers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.pairs, options.events)
        size = (folder / "bench.h5").stat().st_size / options.pairs
        print(
            f"{options.events:,} events a pair, {size / 1e3:,.0f} kB a pair, "
            f"normaliser {options.normaliser}, one core, CPU time"
        )
        stages(folder, options.normaliser, options.rounds)
        versions(folder, options.normaliser, options.batch, options.against, options.rounds)
        scaling(folder, options.normaliser, options.batch, options.rounds)


if __name__ == "__main__":
    main()
