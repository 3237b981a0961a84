"""Events a second of the ESIM stage, and clips a second of all of it, beside other simulators.

    python examples/bench_simulator.py --peers PATH...

One core, 640x480, CPU time, medians over rounds in which every simulator takes its turn; the ideal
model with a threshold of 0.2. `before` is the kernel that this one replaced: it grew its arrays
while it ran and sorted with numpy. esim_py and v2e's emulator take part where they are installed,
or found in the folders given with --peers (a checkout of SensorsINI/v2e); what is missing is said.
Each gets the frames in the form that it takes, made beforehand.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA")
os.environ |= {f"{name}_NUM_THREADS": "1" for name in THREADS}

import numba as nb  # noqa: E402
import numpy as np  # noqa: E402
from scipy.ndimage import gaussian_filter  # noqa: E402

from scaleevent.simulation.clip import Filming, film  # noqa: E402
from scaleevent.simulation.esim import EventSimulator  # noqa: E402
from scaleevent.simulation.flow import optical_flow  # noqa: E402
from scaleevent.simulation.sensor import SENSORS, SimulatedCamera  # noqa: E402
from scaleevent.simulation.upsampling import brightness, by_flow  # noqa: E402

HEIGHT, WIDTH, THRESHOLD, STEP_S = 480, 640, 0.2, 1e-3
Run = Callable[[np.ndarray], int]


def texture(seed: int = 0) -> np.ndarray:
    """Log intensity of a scene larger than the sensor: smooth noise, deviation 0.5."""
    field = np.random.default_rng(seed).normal(0, 1, (HEIGHT + 40, WIDTH + 160))
    smooth = gaussian_filter(field, 1.5)
    return 0.5 * smooth / smooth.std() - 1.5


def frames(speed: float, number: int) -> np.ndarray:
    """(number, H, W) log intensity; the scene moves left by `speed` pixels a frame."""
    scene, result = texture(), np.empty((number, HEIGHT, WIDTH))
    for k in range(number):
        whole, part = int(k * speed), k * speed % 1
        left = scene[20 : 20 + HEIGHT, 20 + whole : 20 + whole + WIDTH]
        right = scene[20 : 20 + HEIGHT, 21 + whole : 21 + whole + WIDTH]
        result[k] = (1 - part) * left + part * right
    return result


def ours(log: np.ndarray) -> int:
    simulator = EventSimulator(log[0], 0.0, THRESHOLD, THRESHOLD)
    return sum(len(simulator.advance(f, k * STEP_S)[0]) for k, f in enumerate(log[1:], 1))


@nb.njit(nogil=True)
def growing(
    before: np.ndarray, after: np.ndarray, start: float, end: float, level: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The kernel before this one, without its refractory time."""
    height, width = before.shape
    times = np.empty(height * width, np.float64)
    pixels = np.empty(height * width, np.int64)
    polarities = np.empty(height * width, np.uint8)
    n = 0
    for row in range(height):
        for column in range(width):
            first, final = before[row, column], after[row, column]
            rising = final > first
            step = THRESHOLD if rising else -THRESHOLD
            while first != final:
                crossing = level[row, column] + step
                if (crossing > final) if rising else (crossing < final):
                    break
                level[row, column] = crossing
                if n == len(times):
                    times = np.concatenate((times, np.empty_like(times)))
                    pixels = np.concatenate((pixels, np.empty_like(pixels)))
                    polarities = np.concatenate((polarities, np.empty_like(polarities)))
                times[n] = start + (crossing - first) / (final - first) * (end - start)
                pixels[n] = row * width + column
                polarities[n] = rising
                n += 1
    return times[:n], pixels[:n], polarities[:n]


def before(log: np.ndarray) -> int:
    level, total = log[0].copy(), 0
    for k in range(1, len(log)):
        frame = np.array(log[k])
        assert np.isfinite(frame).all()
        t, pixels, p = growing(log[k - 1], frame, (k - 1) * STEP_S, k * STEP_S, level)
        order = np.argsort(t, kind="stable")
        y, x = np.divmod(pixels[order], WIDTH)
        _ = t[order], x.astype(np.uint16), y.astype(np.uint16), p[order]
        total += len(t)
    return total


def esim_py() -> Run:
    import esim_py

    def run(log: np.ndarray) -> int:
        simulator = esim_py.EventSimulator(THRESHOLD, THRESHOLD, 0.0, 1e-3, False)
        times = np.arange(len(log)) * STEP_S
        return len(simulator.generateFromStampedImageSequence(list(log), times))

    return run


def v2e() -> Run:
    import torch
    from v2ecore.emulator import EventEmulator

    torch.set_num_threads(1)

    def run(log: np.ndarray) -> int:
        emulator = EventEmulator(
            pos_thres=THRESHOLD, neg_thres=THRESHOLD, sigma_thres=0, cutoff_hz=0,
            leak_rate_hz=0, shot_noise_rate_hz=0, refractory_period_s=0, device="cpu",
        )  # fmt: skip
        total = 0
        for k, frame in enumerate(np.exp(log) * 255):
            events = emulator.generate_events(frame, k * STEP_S)
            total += 0 if events is None else len(events)
        return total

    return run


def measure(runs: dict[str, Run], log: np.ndarray, rounds: int) -> dict[str, tuple[int, float]]:
    """Events, and the median of the CPU seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    events = {name: run(log[:3]) for name, run in runs.items()}  # compiles
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            events[name] = run(log)
            seconds[name].append(time.process_time() - start)
    return {name: (events[name], float(np.median(seconds[name]))) for name in runs}


def whole_clip(number: int) -> None:
    """Milliseconds a frame of everything after the decoder, and of its parts."""
    scene = texture(1)
    pictures = [
        np.repeat(np.clip(255 * np.exp(0.45 * scene[20 : 20 + HEIGHT, 20 + 4 * k : 660 + 4 * k]),
                          0, 255).astype(np.uint8)[..., None], 3, 2)
        for k in range(number)
    ]  # fmt: skip
    for name in ("ideal", "gen4"):
        for timed in (False, True):
            camera = SimulatedCamera(SENSORS[name], np.random.default_rng(0), HEIGHT, WIDTH)
            clip = ((k, 40_000 * k, picture) for k, picture in enumerate(pictures))
            start = time.process_time()
            events = sum(len(m.events) for m in film(clip, camera, Filming()) if m.events)
            spent = time.process_time() - start
            if timed:
                print(f"whole clip, {name}: {1e3 * spent / (number - 1):.0f} ms a frame at 4 px a "
                      f"frame, {events / (number - 1) / 1e3:.0f} k events")  # fmt: skip
    light = [(p[..., :1] / 255.0).astype(np.float32) ** 2 for p in pictures[:2]]
    start = time.process_time()
    optical_flow(*map(brightness, light))
    middle = time.process_time()
    by_flow(*light)
    print(f"optical flow {1e3 * (middle - start):.0f} ms, both ways and tiles "
          f"{1e3 * (time.process_time() - middle):.0f} ms")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", nargs="*", default=[])
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    sys.path += arguments.peers
    runs: dict[str, Run] = {"ours": ours, "before": before}
    for name, make in (("esim_py", esim_py), ("v2e", v2e)):
        try:
            runs[name] = make()
        except ImportError as error:
            print(f"{name} takes no part: {error}")
    for speed in (0.3, 1.0, 2.0):
        for name, (events, spent) in measure(runs, frames(speed, arguments.frames),
                                             arguments.rounds).items():  # fmt: skip
            each = 1e3 * spent / (arguments.frames - 1)
            rate, thousands = events / spent / 1e6, events / (arguments.frames - 1) / 1e3
            print(f"{speed:3.1f} px a frame  {name:8} {rate:6.1f} M events/s  "
                  f"{each:6.1f} ms a frame  {thousands:6.0f} k events")  # fmt: skip
    whole_clip(8)


if __name__ == "__main__":
    main()
