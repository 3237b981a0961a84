"""What a number of pairs costs: core-hours to prepare, bytes, and what a training run reads.

    python examples/plan_pairs.py                # pairs of 480x640 with 250,000 events
    python examples/plan_pairs.py --store PAIRS  # your own

Measured here, on one core: processor time to encode and write a pair of events and an image, to
render one of `street` at that size, and to load one into a batch of 16; bytes of a pair. Given, not
measured here: pairs a second of one GPU for each student (`examples/step_cost.py` measures them),
and that several GPUs do as many times as much. What decoding a source's own files takes comes on
top of encoding and writing: `scaleevent prepare NAME ROOT --dry-run` measures it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "NUMBA")}

import numpy as np  # noqa: E402
import torch  # noqa: E402
from bench_voxels import HEIGHT, WIDTH, make_events  # noqa: E402

from scaleevent.grids.inputs import InputSettings  # noqa: E402
from scaleevent.grids.windows import Window  # noqa: E402
from scaleevent.pairs.loading import load_batches  # noqa: E402
from scaleevent.pairs.pair import Pair, encode_image  # noqa: E402
from scaleevent.pairs.samples import PairSamples  # noqa: E402
from scaleevent.pairs.shard import FORMAT, ShardWriter  # noqa: E402
from scaleevent.pairs.store import PairStore, finish_shard  # noqa: E402
from scaleevent.street.scene import StreetSettings, render_scene  # noqa: E402
from scaleevent.system.allocator import keep_freed_memory  # noqa: E402
from scaleevent.system.files import write_json  # noqa: E402
from scaleevent.system.locations import MANIFEST  # noqa: E402

SPAN_US = 50_000
RATES = ("vits=308", "vitb=159", "vitl=57")  # one H100, bfloat16, 480x640: README, step_cost.py


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, help="take bytes and loading from this store")
    parser.add_argument("--pairs", type=int, default=500_000)
    parser.add_argument("--events", type=int, default=250_000)
    parser.add_argument("--made", type=int, default=12, help="pairs that are made to measure")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--rates", nargs="+", default=RATES, help="pairs a second of one GPU")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    hours = options.pairs / 3600
    if options.store:
        size, loaded = reading(PairStore(options.store))
    else:
        with tempfile.TemporaryDirectory() as folder:
            render, write = making(Path(folder), options.made, options.events)
            size, loaded = reading(PairStore(Path(folder)))
        for name, seconds in (("encode and write", write), ("render as street", render)):
            print(f"{name:20}{1e3 * seconds:8.1f} ms a pair {seconds * hours:8.1f} core-hours")
    print(f"{'store':20}{size / 1e3:8.0f} kB a pair {size * options.pairs / 1e9:8.0f} GB")
    print(f"{'load':20}{1e3 * loaded:8.1f} ms a pair {1 / loaded:8.0f} pairs/s a core")
    for name, rate in (text.split("=") for text in options.rates):
        needed = options.gpus * float(rate)
        print(
            f"{options.gpus} GPUs, {name:5} at {rate} pairs/s each: {needed:,.0f} pairs/s, "
            f"{needed * size / 1e6:,.0f} MB/s from the store, {needed * loaded:,.1f} cores that "
            f"load, {options.pairs / needed / 60:,.0f} minutes a pass"
        )


def making(folder: Path, pairs: int, events: int) -> tuple[float, float]:
    """Processor time to render a scene, and to encode and write a pair; leaves a store."""
    street = StreetSettings(HEIGHT, WIDTH)
    render_scene(0, 0, StreetSettings(96, 128))  # compiles
    began = time.process_time()
    images = [render_scene(0, number, street).image for number in range(3)]
    render = (time.process_time() - began) / len(images)
    windows = [make_events(events, SPAN_US, number) for number in range(pairs)]
    path = folder / "made.h5"
    for count in (1, pairs):  # the first one warms up
        began = time.process_time()
        with ShardWriter(path) as writer:
            for number in range(count):
                image = encode_image(images[number % len(images)])
                window = Window(0, SPAN_US)
                writer.add(Pair("made", SPAN_US, image, windows[number], window))
        entry = finish_shard(path, count, {}, "")
        write = (time.process_time() - began) / count
    write_json(folder / MANIFEST, {"format": FORMAT, "shards": [entry]})
    return render, write


def reading(store: PairStore, batches: int = 12, batch: int = 16) -> tuple[float, float]:
    """Bytes of a pair, and the median processor time to load one, in batches of random order."""
    size = sum(entry["bytes"] for entry in store.shards) / len(store)
    samples = PairSamples([store], InputSettings(HEIGHT, WIDTH, patch=16))
    groups = np.random.default_rng(0).integers(0, len(store), (batches + 2, batch)).tolist()
    loaded, seconds = load_batches(samples, groups, workers=0), []
    for _ in groups:
        began = time.process_time()
        next(loaded)
        seconds.append((time.process_time() - began) / batch)
    return size, float(np.median(seconds[2:]))  # the first ones compile, and get their memory


if __name__ == "__main__":
    main()
