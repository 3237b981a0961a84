"""Voxel grids a second: ours, every other package that is installed here, and the memory's limit.

    python examples/bench_voxels.py --events 250000 1000000 10000000

One core, 3x480x640, CPU time, medians over rounds in which every implementation takes its turn.
Bringing events into another package's own container is not timed. eventcv and evlib take part where
they are installed (`pip install eventcv evlib`); so does torch. The allocator keeps freed memory as
it does in the training loader: else fresh pages of the result cost every implementation more than
the fastest one computes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON")
os.environ |= {f"{name}_NUM_THREADS": "1" for name in THREADS} | {"POLARS_MAX_THREADS": "1"}

import numba as nb  # noqa: E402
import numpy as np  # noqa: E402

from scaleevent.events import Events  # noqa: E402
from scaleevent.grids.voxels import voxelize  # noqa: E402
from scaleevent.system.allocator import keep_freed_memory  # noqa: E402

HEIGHT, WIDTH, BINS = 480, 640, 3
SPANS_US = {250_000: 50_000, 1_000_000: 200_000, 10_000_000: 1_000_000}
Run = Callable[[], object]


def make_events(count: int, span_us: int, seed: int = 0) -> Events:
    """Moving edges (92 %), uniform noise (5 %) and hot pixels (3 %)."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, span_us, count))
    edges = 160
    x0, y0 = rng.uniform(0, WIDTH, edges), rng.uniform(0, HEIGHT, edges)
    angle, length = rng.uniform(0, np.pi, edges), rng.uniform(20, 220, edges)
    speed_x, speed_y = rng.normal(0, 160, edges), rng.normal(0, 60, edges)
    swept = length * np.hypot(speed_x, speed_y)
    edge = rng.choice(edges, count, p=swept / swept.sum())
    along = rng.random(count) - 0.5
    x = x0[edge] + speed_x[edge] * t * 1e-6 + along * (length * np.cos(angle))[edge]
    y = y0[edge] + speed_y[edge] * t * 1e-6 + along * (length * np.sin(angle))[edge]
    x = (x + rng.normal(0, 0.7, count)) % WIDTH
    y = (y + rng.normal(0, 0.7, count)) % HEIGHT
    kind = rng.random(count)
    noise, hot = kind < 0.05, (kind >= 0.05) & (kind < 0.08)
    x[noise], y[noise] = rng.uniform(0, WIDTH, noise.sum()), rng.uniform(0, HEIGHT, noise.sum())
    pixel = rng.integers(0, 40, hot.sum())
    x[hot], y[hot] = rng.integers(0, WIDTH, 40)[pixel], rng.integers(0, HEIGHT, 40)[pixel]
    p = (along > 0) ^ (rng.random(count) < 0.12)
    return Events.from_columns(
        t, x.astype(np.int64) % WIDTH, y.astype(np.int64) % HEIGHT, p, HEIGHT, WIDTH
    )


@nb.njit(nogil=True)
def read_all(t, x, y, p):
    """Touch every byte of the input: as fast as memory lets anything be."""
    total = np.int64(0)
    for i in range(t.size):
        total += t[i]
    small = np.uint32(0)
    for i in range(x.size):
        small += x[i]
    for i in range(y.size):
        small += y[i]
    for i in range(p.size):
        small += p[i]
    return total + small


def ours(events: Events) -> Run:
    out = np.empty((BINS, HEIGHT, WIDTH), np.float32)
    return lambda: voxelize(events, bins=BINS, out=out)


def eventcv(events: Events) -> Run:
    import eventcv as package

    rows = np.stack([events.x, events.y, events.t, events.p], 1).astype(np.int64)
    stream = package.from_numpy(rows, sensor_size=(WIDTH, HEIGHT), time_unit="us")
    span = int(events.t[-1] - events.t[0])
    return lambda: stream.voxel(bins=BINS, window_us=span).numpy()


def evlib(events: Events) -> Run:
    import evlib as package
    import polars

    frame = polars.DataFrame(
        {
            "t": polars.Series(events.t).cast(polars.Duration("us")),
            "x": events.x.astype(np.int16),
            "y": events.y.astype(np.int16),
            "polarity": events.p.astype(np.int8) * 2 - 1,
        }
    )
    make = package.representations.create_voxel_grid
    dense = package.representations.densify_voxel_grid
    return lambda: dense(make(frame, HEIGHT, WIDTH, BINS), BINS, HEIGHT, WIDTH)


def numpy_add_at(events: Events) -> Run:
    """The formula of uzh-rpg/rpg_e2vid:utils/inference_utils.py."""

    def run() -> np.ndarray:
        grid = np.zeros(BINS * HEIGHT * WIDTH, np.float32)
        tau = (BINS - 1) * (events.t - events.t[0]) / (events.t[-1] - events.t[0])
        low = tau.astype(np.int64)
        f = tau - low
        sign = events.p * 2.0 - 1
        index = (low * HEIGHT + events.y) * WIDTH + events.x
        np.add.at(grid, index, sign * (1 - f))
        right = low + 1 < BINS
        np.add.at(grid, index[right] + HEIGHT * WIDTH, (sign * f)[right])
        return grid

    return run


def torch_scatter_add(events: Events) -> Run:
    import torch

    torch.set_num_threads(1)
    t, x, y, p = (torch.tensor(getattr(events, c).astype(np.int64)) for c in "txyp")

    def run() -> np.ndarray:
        tau = (t - t[0]).float() * ((BINS - 1) / float(t[-1] - t[0]))
        low = tau.long().clamp_(max=BINS - 2)
        right = (2 * p - 1) * (tau - low)
        index = (low * HEIGHT + y) * WIDTH + x
        grid = torch.zeros(BINS * HEIGHT * WIDTH)
        grid.scatter_add_(0, index, (2 * p - 1) - right)
        grid.scatter_add_(0, index + HEIGHT * WIDTH, right)
        return grid.numpy()

    return run


PEERS = {
    "eventcv": eventcv,
    "evlib": evlib,
    "numpy add.at (rpg_e2vid)": numpy_add_at,
    "torch scatter_add_": torch_scatter_add,
}
OTHER_TIME = {"evlib"}  # B (t-t0)/(t1-t0): not our numbers


def compare(count: int, span_us: int, rounds: int) -> None:
    """Print the table of one window size."""
    events = make_events(count, span_us)
    columns = events.t, events.x, events.y, events.p
    runs: dict[str, Run] = {"memory read limit": lambda: read_all(*columns), "ours": ours(events)}
    absent = []
    for name, make in PEERS.items():
        try:
            runs[name] = make(events)
        except ImportError as error:
            absent.append(f"{name} ({error.name})")
    expected = np.array(runs["ours"]()).ravel()
    errors = {
        name: np.abs(np.asarray(runs[name]()).ravel() - expected).max()
        for name in runs.keys() - {"memory read limit", *OTHER_TIME}
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    turn = max(2_000_000 // count, 1)  # small windows come one after another, as in a loader
    for _ in range(rounds):
        for name, run in runs.items():
            for _ in range(turn):
                begin = time.process_time()
                run()
                seconds[name].append(time.process_time() - begin)
    median = {name: float(np.median(taken)) for name, taken in seconds.items()}
    fastest = min((name for name in PEERS if name in runs), key=median.__getitem__)
    print(
        f"\n{count:,} events in {span_us / 1000:g} ms, {BINS}x{HEIGHT}x{WIDTH}, CPU time, one core"
    )
    print(f"{'':26}{'median ms':>10}{'Mev/s':>9}{'best':>8}{'x fastest peer':>16}{'vs ours':>10}")
    for name in runs:
        print(
            f"{name:26}{1e3 * median[name]:10.2f}{count / median[name] / 1e6:9.1f}"
            f"{count / min(seconds[name]) / 1e6:8.1f}{median[fastest] / median[name]:16.2f}"
            + (f"{errors[name]:10.1e}" if name in errors else f"{'-':>10}")
        )
    print(f"fastest peer: {fastest}" + (f"; not installed: {', '.join(absent)}" if absent else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, nargs="+", default=[*SPANS_US])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    for count in options.events:
        compare(count, SPANS_US.get(count, count // 5), options.rounds)
    print(f"\nload {os.getloadavg()[0]:.1f}; vs ours: largest difference of a voxel")


if __name__ == "__main__":
    main()
