"""The whole of `prepare video` by the frame, beside v2e and eventify-dvs on the same video.

    python examples/bench_prepare_video.py VIDEO --peers PATH... [--frames 12] [--rounds 3]

One process, one core, CPU time, medians over rounds in which everyone takes their turn; all get a
lossless copy of the first frames, at their size. What is compared:

    ours                decoding, flow, pictures at most a pixel apart, camera model davis346 (v2e's
                        defaults), windows, JPEG, a shard written
    ours, events alone  the camera model on these pictures, made beforehand
    v2e, same pictures  v2e's emulator with its default noise on these pictures, made beforehand;
                        decoding, interpolating and writing are not counted
    v2e, interpolation  the networks of its SuperSloMo alone, for as many pictures as ours; their
                        weights are a separate download, so these are random, at the same cost
    v2e, frames         the same emulator on the frames alone, decoded by OpenCV: nothing between
    eventify            video_to_event_stream, nothing between frames
    eventify, same      the same with as many pictures between as ours, blended linearly
    number

v2e (a checkout of SensorsINI/v2e) and eventify-dvs take part where they are installed, or found in
the folders given with --peers; what is missing is said.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path

THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA")
os.environ |= {f"{name}_NUM_THREADS": "1" for name in THREADS}

import numpy as np  # noqa: E402

from scaleevent.config.data import PrepareConfig  # noqa: E402
from scaleevent.datasets import simulated  # noqa: E402
from scaleevent.datasets.video import timed_frames  # noqa: E402
from scaleevent.pairs.shard import ShardWriter  # noqa: E402
from scaleevent.simulation.clip import TO_LIGHT  # noqa: E402
from scaleevent.simulation.sensor import SENSORS, SimulatedCamera  # noqa: E402
from scaleevent.simulation.upsampling import by_flow, luminance  # noqa: E402

MODEL = "davis346"
Run = Callable[[], int]  # returns a number of events


def copied(path: Path, number: int, to: Path) -> list[tuple[int, np.ndarray]]:
    """The first frames as a lossless video, and with their times."""
    import av

    frames = [(time or 0, image) for time, image in islice(timed_frames(path), number)]
    with av.open(str(to), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames[0][1].shape[:2]
        stream.pix_fmt = "bgr0"
        for k, (_, image) in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return [(40_000 * k, image) for k, (_, image) in enumerate(frames)]


def between(frames: list[tuple[int, np.ndarray]]) -> list[tuple[float, np.ndarray]]:
    """Seconds and (H, W) linear light of the pictures that ours are simulated from."""
    table = TO_LIGHT["srgb"].astype(np.float32)
    lights = [luminance(table[image])[..., None] for _, image in frames]
    made = [(0.0, lights[0][..., 0])]
    for (start, end), (first, second) in zip(
        pairwise(when for when, _ in frames), pairwise(lights), strict=True
    ):
        found = by_flow(first, second)
        steps = found.steps()
        for k in range(1, steps + 1):
            light = second if k == steps else found.at(k / steps)
            made.append((1e-6 * (start + (end - start) * k / steps), light[..., 0].copy()))
    return made


def ours(video: Path, folder: Path) -> Run:
    config = PrepareConfig(name="video", roots=[video], sensor=MODEL, size=None, keep_bars=True)

    def run() -> int:
        counts: Counter[str] = Counter()
        (source,) = simulated.sources(config)
        with ShardWriter(folder / "a.h5") as writer:
            for pair in source.pairs(counts):
                writer.add(pair)
        return counts["events kept"]

    return run


def events_alone(pictures: list[tuple[float, np.ndarray]]) -> Run:
    def run() -> int:
        camera = SimulatedCamera(SENSORS[MODEL], np.random.default_rng(0), *pictures[0][1].shape)
        camera.start(pictures[0][1], 0.0)
        return sum(len(camera.advance(light, t)[0]) for t, light in pictures[1:])

    return run


def v2e(pictures: Callable[[], list[tuple[float, np.ndarray]]]) -> Run:
    """v2e's emulator on pictures of levels 0 to 255."""
    import torch
    from v2ecore.emulator import EventEmulator

    torch.set_num_threads(1)

    def run() -> int:
        emulator = EventEmulator(
            pos_thres=0.2, neg_thres=0.2, sigma_thres=0.03, cutoff_hz=300, leak_rate_hz=0.01,
            shot_noise_rate_hz=0.001, refractory_period_s=0.0005, device="cpu",
        )  # fmt: skip
        total = 0
        for t, picture in pictures():
            events = emulator.generate_events(picture, t)
            total += 0 if events is None else len(events)
        return total

    return run


def v2e_interpolation(height: int, width: int, steps: float) -> float:
    """CPU seconds a frame of v2e's SuperSloMo: flow once, then each picture between."""
    import torch
    from v2ecore.model import UNet, backWarp

    torch.set_num_threads(1)
    height, width = 32 * (height // 32), 32 * (width // 32)  # as it does
    flow_net, picture_net = UNet(2, 4).eval(), UNet(12, 5).eval()
    warp = backWarp(width, height, "cpu")
    first, second = torch.rand(2, 1, 1, height, width)
    with torch.no_grad():
        start = time.process_time()
        there, back = flow_net(torch.cat([first, second], 1)).split(2, 1)
        flow = (there + back) / 2
        middle = time.process_time()
        seen = [first, second, there, back, flow, flow, warp(first, flow), warp(second, flow)]
        found = picture_net(torch.cat(seen, 1))
        warp(first, found[:, :2])
        warp(second, found[:, 2:4])
        end = time.process_time()
    return (middle - start) + (steps - 1) * (end - middle)


def levels(light: np.ndarray) -> np.ndarray:
    return np.searchsorted(TO_LIGHT["srgb"][:-1], light).astype(np.float32)


def grey_frames(video: Path) -> list[tuple[float, np.ndarray]]:
    """As v2e reads a video: OpenCV, grey levels."""
    import cv2

    reader, frames = cv2.VideoCapture(str(video)), []
    while True:
        there, image = reader.read()
        if not there:
            return frames
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
        frames.append((0.04 * len(frames), grey))


def eventify(video: Path, interp: int) -> Run:
    from eventify import video_to_event_stream

    return lambda: sum(len(chunk) for chunk in video_to_event_stream(str(video), interp=interp))


def measure(runs: dict[str, Run], rounds: int) -> dict[str, tuple[int, float]]:
    """Events, and the median of the CPU seconds."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    events = {name: run() for name, run in runs.items()}  # compiles
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            events[name] = run()
            spent[name].append(time.process_time() - start)
    return {name: (events[name], float(np.median(spent[name]))) for name in runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--peers", nargs="*", default=[])
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sys.path += arguments.peers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = folder / "first.mkv"
        frames = copied(arguments.video, arguments.frames, video)
        pictures = between(frames)
        shown = [(t, levels(light)) for t, light in pictures]
        steps = (len(pictures) - 1) / (len(frames) - 1)
        height, width = pictures[0][1].shape
        print(f"{len(frames)} frames of {width}x{height}, {steps:.1f} pictures a frame")
        runs: dict[str, Run] = {
            "ours": ours(video, folder), "ours, events alone": events_alone(pictures)
        }  # fmt: skip
        makers: dict[str, Callable[[], Run]] = {
            "v2e, same pictures": lambda: v2e(lambda: shown),
            "v2e, frames": lambda: v2e(lambda: grey_frames(video)),
            "eventify": lambda: eventify(video, 0),
            "eventify, same number": lambda: eventify(video, round(steps) - 1),
        }
        for peer, make in makers.items():
            try:
                runs[peer] = make()
            except ImportError as error:
                print(f"{peer} takes no part: {error}")
        for peer, (events, spent) in measure(runs, arguments.rounds).items():
            each = 1e3 * spent / (len(frames) - 1)
            rate, thousands = events / spent / 1e6, events / (len(frames) - 1) / 1e3
            print(f"{peer:22} {each:8.1f} ms a frame {thousands:8.1f} k events a frame "
                  f"{rate:6.2f} M events/s")  # fmt: skip
        if "v2e, same pictures" in runs:
            spent = [v2e_interpolation(height, width, steps) for _ in range(arguments.rounds)]
            print(f"{'v2e, interpolation':22} {1e3 * float(np.median(spent)):8.1f} ms a frame")


if __name__ == "__main__":
    main()
