"""What window rules and normalisers make of recordings, and of the embedded street.

    python examples/calibrate_windows.py [RECORDING ...] [--time-unit s] [--moments 40]

First table: the window of each rule at moments evenly over each recording: how long, how many
events, which part of the patches is active, and how many windows hold next to nothing. Published
event encoders take about 0.33 events a pixel (uzh-rpg/ess). Our adaptive rule has the purpose of
CrossEI's motion-adaptive sampling, whose formula is not published.

Second table: what a network sees of these windows through each normaliser. "Own level" is the part
of the input's variance that is each sample's mean: brightness that says nothing about the scene.
"Empty" is the standard deviation, between samples, of the value that a pixel without events has.
Without a recording: 60 scenes of `street`, whose windows are given.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scaleevent.config.catalog import NORMALISERS
from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.formats import open_recording
from scaleevent.grids.density import active_mask, patch_density
from scaleevent.grids.voxels import voxelize
from scaleevent.grids.windows import Window, WindowRule
from scaleevent.pairs.pairing import EventStream
from scaleevent.street.scene import render_scene

RULES = {
    **{f"quantile {share:g}": WindowRule(quantile=share) for share in (0.02, 0.1, 0.25, 0.5)},
    "count 0.33": WindowRule(kind="count"),
    "time 50 ms": WindowRule(kind="time", duration_us=50_000),
}
STILL = 0.05  # active part below which a window holds next to nothing
PATCH = 16


@dataclass
class Seen:
    """What one rule gave on one recording."""

    events: list[float] = field(default_factory=list)  # a pixel
    ms: list[float] = field(default_factory=list)
    active: list[float] = field(default_factory=list)
    stops: Counter[str] = field(default_factory=Counter)
    # per normaliser and sample: mean, variance, value of an empty pixel
    inputs: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)

    def add(self, window: Window, events: Events) -> None:
        """Measure a window."""
        self.stops[window.stop] += 1
        rows, columns = events.height // PATCH * PATCH, events.width // PATCH * PATCH
        voxel = np.ascontiguousarray(voxelize(events, window)[:, :rows, :columns])
        self.events.append(len(events) / (events.height * events.width))
        self.ms.append((window.end_us - window.start_us) / 1000)
        self.active.append(float(active_mask(patch_density(voxel)).mean()))
        for name, part in NORMALISERS.items():
            values, scale, shift = part.load()(voxel.copy())
            shown = values * scale + shift
            empty = shown[voxel == 0]
            middle = float(empty.mean()) if empty.size else np.nan
            measured = float(shown.mean()), float(shown.var()), middle
            self.inputs.setdefault(name, []).append(measured)


def windows_of(path: Path, time_unit: str | None, rule: WindowRule, moments: int) -> Seen:
    """The windows of a recording under a rule."""
    recording = open_recording(path, time_unit=time_unit)
    stretch = max(recording.stretches(), key=lambda one: one.last_us - one.first_us)
    stream, seen = EventStream(recording, rule), Seen()
    for end in np.linspace(stretch.first_us, stretch.last_us, moments + 1)[1:].astype(int):
        window, events = stream.window_before(int(end))
        if len(events):
            seen.add(window, events)
        else:
            seen.stops["empty"] += 1
    return seen


def windows_of_street(scenes: int) -> Seen:
    """The given windows of rendered scenes."""
    seen = Seen()
    for index in range(scenes):
        scene = render_scene(0, index)
        seen.add(Window(scene.start_us, scene.image_us), scene.events)
    return seen


def window_line(name: str, seen: Seen) -> str:
    """A row of the first table: medians over the moments."""
    still = np.mean(np.array(seen.active) < STILL)
    listed = ", ".join(f"{stop} {number}" for stop, number in seen.stops.most_common())
    return (
        f"{name:14}{np.median(seen.events):14.3f}{np.median(seen.ms):9.1f}"
        f"{np.median(seen.active):8.0%}{still:8.0%}  {listed}"
    )


def input_lines(seen: Seen) -> Iterator[str]:
    """Rows of the second table."""
    for name, measured in seen.inputs.items():
        means, variances, empty = np.array(measured).T
        own, inside = means.var(), variances.mean()
        spread = np.nanstd(empty)
        total = own + inside
        share = own / total if total > 0 else np.nan
        yield f"  {name:14}{share:10.0%}{np.sqrt(inside):14.3f}{spread:10.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recordings", type=Path, nargs="*")
    parser.add_argument("--time-unit")
    parser.add_argument("--moments", type=int, default=40)
    options = parser.parse_args()
    found: dict[str, dict[str, Seen]] = {}
    for path in options.recordings:
        try:
            found[str(path)] = {
                name: windows_of(path, options.time_unit, rule, options.moments)
                for name, rule in RULES.items()
            }
        except DataError as error:
            print(f"{path}: passed over, {error.what}")
    if not options.recordings:
        found["street"] = {"as rendered": windows_of_street(60)}
    for name, rules in found.items():
        print(f"\n{name}")
        print(f"{'window':14}{'events/pixel':>14}{'ms':>9}{'active':>8}{'still':>8}  began by")
        for rule, seen in rules.items():
            print(window_line(rule, seen) if seen.events else f"{rule:14}  no events")
    for rule in next(iter(found.values()), {}):
        every = Seen()
        for seen in (recordings[rule] for recordings in found.values()):
            for name, measured in seen.inputs.items():
                every.inputs.setdefault(name, []).extend(measured)
        print(f"\ninputs of all, {rule}")
        print(f"  {'normaliser':14}{'own level':>10}{'SD in sample':>14}{'empty':>10}")
        print("\n".join(input_lines(every)))


if __name__ == "__main__":
    main()
