"""How real simulated events are: numbers beside those of real events of the same frames.

    python examples/simulator_realism.py RECORDING... --encoder runs/pretrain/encoder.safetensors

Each recording has frames and events of one sensor, as `scaleevent prepare custom` takes them. Its
frames are filmed by every camera model, in the middle of the thresholds that it draws for clips,
and both streams are measured between the first frame and the last: events a second and pixel; share
of brighter ones; time between two events of a pixel (the largest difference of both cumulative
distributions, Kolmogorov and Smirnov's); and the distance of the encoder's tokens over windows that
end at the same times: Frechet's, between two normal distributions of their mean and covariance,
relative to the variance of the real ones. `real` stands beside it: one half of the recording
against the other, which moves on in between.

With --tune N, so many settings are drawn and the best one is shown: the lowest sum, over the
recordings, of |log2 of the rates|, 4 |difference of the shares|, 2 times the gaps' difference, and
half of log2 of the tokens' distance over that of `real`, where it is larger. The score
of a setting on recordings that it was chosen on is no evidence for others: so it is with
`davis-fitted` and the three that it names. With --picture, a PNG of all streams is drawn.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.linalg import sqrtm
from scipy.stats import ks_2samp

from scaleevent.config.data import PrepareConfig
from scaleevent.datasets import custom
from scaleevent.datasets.custom import CustomRecording
from scaleevent.events import Events
from scaleevent.grids.windows import Window
from scaleevent.pairs.pair import decode_image
from scaleevent.panels import Row, panel, save_picture
from scaleevent.pictures import draw_events
from scaleevent.simulation.clip import TO_LIGHT
from scaleevent.simulation.sensor import SENSORS, Sensor, SimulatedCamera
from scaleevent.simulation.upsampling import by_flow, luminance
from scaleevent.system.reports import Report

WINDOW_US, STEP_US = 30_000, 10_000
COLUMNS = ("recording", "events", "ev/s/pixel", "brighter", "gap ms", "gaps KS", "tokens")


@dataclass
class Filmed:
    """A recording's real events, and its frames as light at many times."""

    name: str
    real: Events
    times: list[float]  # seconds since the first frame
    light: list[np.ndarray]
    start_us: int
    end_us: int

    def simulated(self, sensor: Sensor, seed: int = 0) -> Events:
        size = self.light[0].shape
        camera = SimulatedCamera(sensor, np.random.default_rng(seed), *size)
        camera.start(self.light[0], 0.0)
        parts = [camera.advance(x, t) for x, t in zip(self.light[1:], self.times[1:], strict=True)]
        t, x, y, p = (np.concatenate(column) for column in zip(*parts, strict=True))
        stamps = self.start_us + np.floor(t * 1e6).astype(np.int64)
        return Events(stamps, x, y, p, *size).between(self.start_us, self.end_us)

    def windows(self) -> Iterator[Window]:
        for end in range(self.start_us + WINDOW_US, self.end_us + 1, STEP_US):
            yield Window(end - WINDOW_US, end)


def load(path: Path, size: tuple[int, int] | None, gamma: str) -> Filmed:
    config = PrepareConfig(name="custom", roots=[path], size=size, lossless=True)
    (source,) = custom.sources(config)
    assert isinstance(source, CustomRecording)
    recording = source.opened()
    events = Events.concatenate(recording.blocks(), recording.height, recording.width)
    frames = [(f.image_us, f.load()[0]) for f in source.frames.timed(recording, source.view())]
    inside = [f for f in frames if events.t[0] <= f[0] <= events.t[-1]]
    start, end = inside[0][0], inside[-1][0]
    pictures = [
        luminance(TO_LIGHT[gamma].astype(np.float32)[decode_image(image)])[..., None]
        for _, image in inside
    ]
    times, light = [0.0], [pictures[0][..., 0]]
    for k in range(1, len(inside)):
        between = by_flow(pictures[k - 1], pictures[k])
        steps, first = between.steps(), inside[k - 1][0]
        span = inside[k][0] - first
        for j in range(1, steps + 1):
            light.append((between.at(j / steps) if j < steps else pictures[k])[..., 0])
            times.append(1e-6 * (first - start + span * j / steps))
    return Filmed(source.name, events.between(start, end), times, light, start, end)


class Tokens:
    """Features of windows of events; none without an encoder."""

    def __init__(self, path: Path | None) -> None:
        from scaleevent.predictor import Predictor  # torch takes a second

        self.predictor = Predictor.load(path) if path else None

    def of(self, events: Events, windows: list[Window]) -> np.ndarray | None:
        if self.predictor is None:
            return None
        tokens = [self.predictor.features(events, at=window).numpy() for window in windows]
        return np.concatenate([one.reshape(-1, one.shape[-1]) for one in tokens])


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """Of two clouds of features; relative to the variance of the first."""
    means, covariances = zip(*((x.mean(0), np.cov(x.T)) for x in (one, other)), strict=True)
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    spread = np.trace(covariances[0] + covariances[1] - 2 * root)
    return float((np.sum((means[0] - means[1]) ** 2) + spread) / np.trace(covariances[0]))


def gaps(events: Events) -> np.ndarray:
    """Seconds between two events of a pixel."""
    pixel = events.y.astype(np.int64) * events.width + events.x
    order = np.argsort(pixel, kind="stable")
    return 1e-6 * np.diff(events.t[order])[np.diff(pixel[order]) == 0]


def facts(one: Events, span_us: int) -> tuple[float, float, np.ndarray]:
    rate = len(one) / (one.height * one.width * span_us * 1e-6)
    return rate, float(one.p.mean()) if len(one) else np.nan, gaps(one)


def row(name: str, events: Events, span: int, against: Events, against_span: int,
        distance: float | None) -> dict[str, object]:  # fmt: skip
    rate, share, between = facts(events, span)
    other = facts(against, against_span)[2]
    ks = ks_2samp(between, other).statistic if len(between) and len(other) else np.nan
    values = (len(events), round(rate, 3), round(share, 3),
              round(1e3 * float(np.median(between)), 2) if len(between) else None,
              round(float(ks), 3), None if distance is None else round(distance, 4))  # fmt: skip
    return dict(zip(COLUMNS, (name, *values), strict=True))


def real_halves(filmed: Filmed, tokens: Tokens) -> tuple[dict[str, object], float]:
    """The real recording, and its second half against its first."""
    middle = (filmed.start_us + filmed.end_us) // 2
    halves = filmed.real.between(None, middle), filmed.real.between(middle, None)
    windows = list(filmed.windows())
    half = len(windows) // 2
    features = [tokens.of(filmed.real, part) for part in (windows[:half], windows[half:])]
    distance = None if features[0] is None else frechet(*features)
    span = filmed.end_us - filmed.start_us
    result = row(f"{filmed.name}: real", filmed.real, span, filmed.real, span, distance)
    ks = ks_2samp(*map(gaps, halves)).statistic
    return result | {"gaps KS": round(float(ks), 3)}, distance or 0.0


def typical(sensor: Sensor) -> Sensor:
    """A camera in the middle of what is drawn for clips."""
    middle = sum(sensor.threshold) / 2
    return replace(sensor, threshold=(middle, middle), balance=(sensor.balance[0], 0.0))


def compare(filmed: Filmed, sensor: Sensor, name: str, tokens: Tokens) -> dict[str, object]:
    events, windows = filmed.simulated(typical(sensor)), list(filmed.windows())
    features = [tokens.of(one, windows) for one in (filmed.real, events)]
    distance = None if features[0] is None else frechet(*features)
    span = filmed.end_us - filmed.start_us
    return row(f"{filmed.name}: {name}", events, span, filmed.real, span, distance)


def misfit(filmed: list[Filmed], sensor: Sensor, tokens: Tokens, bases: list[float]) -> float:
    total = 0.0
    for one, base in zip(filmed, bases, strict=True):
        rate, share, _ = facts(one.real, one.end_us - one.start_us)
        result = compare(one, sensor, "", tokens)
        if not result["events"]:
            return np.inf
        total += abs(np.log2(result["ev/s/pixel"] / rate + 1e-6))
        total += 4 * abs(result["brighter"] - share) + 2 * result["gaps KS"]
        total += 0.5 * max(np.log2((result["tokens"] or 1e-9) / max(base, 1e-9)), 0.0)
    return float(total)


def drawn(rng: np.random.Generator) -> Sensor:
    """Settings within what is published for DAVIS cameras, and around it."""
    threshold = float(np.exp(rng.uniform(np.log(0.2), np.log(0.8))))
    return replace(
        SENSORS["davis346"], source="drawn, and the best on these recordings", assumed="",
        threshold=(threshold, threshold),
        balance=(float(np.exp(rng.uniform(np.log(0.6), np.log(1.6)))), 0.0),
        spread=rng.uniform(0.05, 0.4), refractory=float(10 ** rng.uniform(-4, -2.5)),
        cutoff_hz=float(10 ** rng.uniform(1.3, 3)), leak_hz=float(10 ** rng.uniform(-2, 0)),
        shot_hz=float(10 ** rng.uniform(-2, 0.7)), dark=float(10 ** rng.uniform(-3, -1)),
    )  # fmt: skip


def tuned(filmed: list[Filmed], tokens: Tokens, bases: list[float], number: int) -> Sensor:
    rng = np.random.default_rng(0)
    candidates = [drawn(rng) for _ in range(number)]
    quick = [misfit(filmed, one, Tokens(None), bases) for one in candidates]
    best = sorted(range(number), key=quick.__getitem__)[: max(number // 8, 1)]
    whole = {k: misfit(filmed, candidates[k], tokens, bases) for k in best}
    first = min(whole, key=whole.__getitem__)
    print(f"misfit {whole[first]:.3f}: {candidates[first]}")
    return candidates[first]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--size", type=lambda text: tuple(map(int, text.split("x"))))
    parser.add_argument("--gamma", choices=tuple(TO_LIGHT), default="linear")
    parser.add_argument("--tune", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    tokens = Tokens(arguments.encoder)
    filmed = [load(path, arguments.size, arguments.gamma) for path in arguments.recordings]
    firsts, bases = zip(*(real_halves(one, tokens) for one in filmed), strict=True)
    sensors = dict(SENSORS)
    if arguments.tune:
        sensors["drawn"] = tuned(filmed, tokens, list(bases), arguments.tune)
    rows = []
    for one, first in zip(filmed, firsts, strict=True):
        rows += [first, *(compare(one, s, name, tokens) for name, s in sensors.items())]
    for name, sensor in sensors.items():
        print(f"{name}: misfit {misfit(filmed, sensor, tokens, list(bases)):.3f}")
    notes = tuple(f"{name}: {sensor.describe()}" for name, sensor in sensors.items())
    Report("realism", "simulated beside real events of the same frames", COLUMNS,
           tuple(tuple(r.values()) for r in rows), notes).show(False)  # fmt: skip
    if arguments.picture:
        names = ["real", *sensors]
        lines = []
        for one in filmed:
            window = list(one.windows())[-1]
            streams = [one.real, *(one.simulated(typical(s)) for s in sensors.values())]
            shown = [draw_events(e.between(window.start_us, window.end_us)) for e in streams]
            lines.append(Row(one.name, shown))
        save_picture(arguments.picture, panel("the last 30 ms", names, lines))


if __name__ == "__main__":
    main()
