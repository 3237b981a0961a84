"""How fast windows are found, and how two processes share independent work.

    python examples/bench_windows.py

One core, CPU time, 480x640 with moving edges, noise and hot pixels; the rate is that of events the
walk back from the image looks at. At the end the same windows are found and voxelised by one and by
two processes (wall time).
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor

for _name in ("OMP", "MKL", "NUMBA"):
    os.environ[f"{_name}_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402
from bench_voxels import HEIGHT, WIDTH, make_events  # noqa: E402

from scaleevent.grids.voxels import voxelize  # noqa: E402
from scaleevent.grids.windows import WindowRule, choose_window  # noqa: E402
from scaleevent.system.allocator import keep_freed_memory  # noqa: E402


def walks(rounds: int) -> None:
    """Print the rate for windows of several lengths."""
    print(f"{'share of cells':>15}{'events':>10}{'stop':>9}{'us':>8}{'Mev/s':>8}{'best':>8}")
    for count, span, quantile in (
        (250_000, 50_000, 0.02), (250_000, 50_000, 0.1), (250_000, 50_000, 0.25),
        (1_000_000, 200_000, 0.1), (1_000_000, 200_000, 1.0),
    ):  # fmt: skip
        events = make_events(count, span)
        rule = WindowRule(quantile=quantile)
        window = choose_window(events, span, rule)
        walked = len(events.between(window.start_us, span))
        taken = []
        for _ in range(rounds):
            begin = time.process_time()
            choose_window(events, span, rule)
            taken.append(time.process_time() - begin)
        median = float(np.median(taken))
        print(
            f"{quantile:15.2f}{walked:10,}{window.stop:>9}{1e6 * median:8.0f}"
            f"{walked / median / 1e6:8.0f}{walked / min(taken) / 1e6:8.0f}"
        )


def work(seconds: float) -> int:
    """Windows found and voxelised within a time, over and over the same recording."""
    keep_freed_memory()
    events = make_events(1_000_000, 200_000)
    ends = np.linspace(60_000, 200_000, 15).astype(int)
    choose_window(events, 200_000, WindowRule())
    done, begin = 0, time.monotonic()
    while time.monotonic() - begin < seconds:
        window = choose_window(events, int(ends[done % len(ends)]), WindowRule())
        voxelize(events, window)
        done += 1
    return done


def scaling(seconds: float, rounds: int) -> None:
    """Print the windows a second of one and two processes, in turn."""
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(work, [0.1, 0.1]))
        one, two = [], []
        for _ in range(rounds):
            one.append(sum(pool.map(work, [seconds])))
            two.append(sum(pool.map(work, [seconds, seconds])))
    ratio = float(np.median(np.array(two) / np.array(one)))
    print(
        f"\nwindows found and voxelised: {np.median(one) / seconds:,.0f} /s in one process, "
        f"{np.median(two) / seconds:,.0f} in two: {ratio:.2f} times (median of {rounds})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    keep_freed_memory()
    print(f"{HEIGHT}x{WIDTH}, one core, CPU time, {options.rounds} rounds")
    walks(options.rounds)
    scaling(options.seconds, 5)
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
