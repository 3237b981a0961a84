"""Training samples a second from a pair store, and where the time goes.

    python examples/bench_store.py [--against CHECKOUT]

One core, 480x640, 250,000 events and a JPEG of quality 95 a pair, read in random order from a warm
cache: what one worker of the training loader does. CPU time; medians and minima. Then pairs a
second of one process and of two at a time, by the wall clock, in turns.

`--against` names a checkout of another version, such as `git worktree add --detach OLD COMMIT`
makes: both versions read the same store in turns, each in a process of its own.
"""

from __future__ import annotations

import argparse
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
    """A process that reads all samples of a store in a new order whenever it is asked to."""

    def __init__(self, folder: Path, normaliser: str, code: Path | None = None) -> None:
        path = os.pathsep.join(map(str, filter(None, (code, os.environ.get("PYTHONPATH")))))
        command = [sys.executable, __file__, "--serve", str(folder), "--normaliser", normaliser]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        self.pipes = self.process.stdin, self.process.stdout
        self.ask()
        self.answer()  # it has compiled

    def ask(self) -> None:
        assert self.pipes[0] is not None
        self.pipes[0].write("again\n")
        self.pipes[0].flush()

    def answer(self) -> list[float]:
        """CPU seconds of each sample."""
        assert self.pipes[1] is not None
        return list(map(float, self.pipes[1].readline().split()))

    def close(self) -> None:
        assert self.pipes[0] is not None
        self.pipes[0].close()
        self.process.wait()


def serve(folder: Path, normaliser: str) -> None:
    samples = samples_of(folder, normaliser)
    rng = np.random.default_rng(0)
    for _ in sys.stdin:
        seconds = []
        for index in rng.permutation(len(samples)).tolist():
            begin = time.process_time()
            samples[index]
            seconds.append(time.process_time() - begin)
        print(*seconds, flush=True)


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


def versions(folder: Path, normaliser: str, other: Path | None, rounds: int) -> None:
    """Whole samples, by this version and perhaps another one in turns."""
    codes = {"this version": Path(__file__).parents[1]} | ({str(other): other} if other else {})
    readers = {name: Reader(folder, normaliser, code) for name, code in codes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    ratios = []
    for _ in range(rounds):
        took = {}
        for name, reader in readers.items():
            reader.ask()
            answer = reader.answer()
            seconds[name] += answer
            took[name] = np.median(answer)
        ratios.append(list(took.values())[-1] / took["this version"])
    for name, taken in seconds.items():
        show(f"sample, {name[-40:]}", taken)
        print(f"{1 / np.median(taken):.0f} pairs/s (median), {1 / min(taken):.0f} (best)")
    if other:
        print(f"{np.median(ratios):.2f} times the other's pairs/s (median of {rounds} rounds)")
    for reader in readers.values():
        reader.close()


def scaling(folder: Path, normaliser: str, rounds: int) -> None:
    """Pairs a second by the wall clock, of one process and of two."""
    readers = [Reader(folder, normaliser) for _ in range(2)]
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for count, taken in rates.items():
            begin = time.perf_counter()
            for reader in readers[:count]:
                reader.ask()
            done = sum(len(reader.answer()) for reader in readers[:count])
            taken.append(done / (time.perf_counter() - begin))
    one, two = (np.median(taken) for taken in rates.values())
    best = max(rates[2]) / max(rates[1])
    print(
        f"wall clock: one process {one:.0f} pairs/s, two {two:.0f}: {two / one:.2f} times", end=""
    )
    print(f" (of the best rounds {best:.2f})")
    for reader in readers:
        reader.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--events", type=int, default=250_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--normaliser", default="contrast", choices=NORMALISERS)
    parser.add_argument("--against", type=Path, help="checkout of another version")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if options.serve:
        return serve(options.serve, options.normaliser)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.pairs, options.events)
        size = (folder / "bench.h5").stat().st_size / options.pairs
        print(
            f"{options.events:,} events a pair, {size / 1e3:,.0f} kB a pair, "
            f"normaliser {options.normaliser}, one core, CPU time"
        )
        stages(folder, options.normaliser, options.rounds)
        versions(folder, options.normaliser, options.against, options.rounds)
        scaling(folder, options.normaliser, options.rounds)


if __name__ == "__main__":
    main()
