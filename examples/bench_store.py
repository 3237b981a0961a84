"""Training samples a second from a pair store, and where the time goes.

    python examples/bench_store.py

One core, 480x640, 250,000 events and a JPEG of quality 95 a pair, read in random order from a warm
cache: what one worker of the training loader does. CPU time; medians and minima.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "NUMBA")}

import numpy as np  # noqa: E402
import torch  # noqa: E402
from bench_voxels import HEIGHT, WIDTH, make_events  # noqa: E402

from scaleevent.grids.density import patch_density  # noqa: E402
from scaleevent.grids.geometry import Fit  # noqa: E402
from scaleevent.grids.inputs import InputSettings, image_input, voxel_input  # noqa: E402
from scaleevent.grids.windows import Window  # noqa: E402
from scaleevent.pairs.pair import Pair, decode_image, encode_image  # noqa: E402
from scaleevent.pairs.samples import PairSamples  # noqa: E402
from scaleevent.pairs.shard import FORMAT, ShardWriter  # noqa: E402
from scaleevent.pairs.store import MANIFEST, PairStore, finish_shard  # noqa: E402
from scaleevent.street.scene import StreetSettings, render_scene  # noqa: E402
from scaleevent.system.allocator import keep_freed_memory  # noqa: E402
from scaleevent.system.files import write_json  # noqa: E402

SPAN_US = 50_000


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
        image = decode_image(encoded)
    with stage("events to voxel"):
        voxel = shard.voxel(row, settings.bins)
    with stage("density"):
        patch_density(voxel, settings.patch, fit)
    with stage("normalise image"):
        image_input(image, fit)
    with stage("normalise voxel"):
        voxel_input(voxel, fit, settings.normaliser)


def timed(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def show(name: str, seconds: list[float]) -> None:
    print(f"{name:18}{1e3 * np.median(seconds):10.2f}{1e3 * min(seconds):10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--events", type=int, default=250_000)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.pairs, options.events)
        size = (Path(folder) / "bench.h5").stat().st_size / options.pairs
        store = PairStore(Path(folder))
        samples = PairSamples([store], InputSettings(HEIGHT, WIDTH, patch=16))
        rng = np.random.default_rng(0)
        whole: list[float] = []
        seconds: dict[str, list[float]] = defaultdict(list)
        samples[0]  # compiles
        for _ in range(options.rounds):
            for index in rng.permutation(options.pairs).tolist():
                whole.append(timed(lambda index=index: samples[index]))
            for index in rng.permutation(options.pairs).tolist():
                by_stage(store, index, samples.settings, seconds)
    print(f"{options.events:,} events a pair, {size / 1e3:,.0f} kB a pair, one core, CPU time")
    print(f"{'':18}{'median ms':>10}{'min ms':>10}")
    for name, taken in seconds.items():
        show(name, taken)
    show("whole sample", whole)
    print(f"{1 / np.median(whole):.0f} pairs/s (median), {1 / min(whole):.0f} (best)")


if __name__ == "__main__":
    main()
