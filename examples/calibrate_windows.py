"""What the adaptive window does on recordings: how long, how many events, how much is active.

    python examples/calibrate_windows.py RECORDING... [--time-unit s]

Walks back from 40 moments evenly over each recording. The rule's default, a tenth of all cells, is
held against the density that published event encoders take: about 0.33 events a pixel in a window
(uzh-rpg/ess). Our rule has the purpose of CrossEI's motion-adaptive sampling, whose formula is not
published.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from scaleevent.errors import DataError
from scaleevent.formats import open_recording
from scaleevent.grids.density import active_mask, patch_density
from scaleevent.grids.voxels import voxelize
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pairing import EventStream

SHARES = (0.02, 0.05, 0.1, 0.25, 0.5)
MOMENTS = 40


def measure(path: Path, time_unit: str | None) -> list[tuple[float, dict[str, float], Counter]]:
    """For each share of cells: medians over the moments, and why windows began where they did."""
    rows = []
    for share in SHARES:
        recording = open_recording(path, time_unit=time_unit)
        (stretch,) = recording.stretches()
        rule = replace(WindowRule(), quantile=share)
        stream = EventStream(recording, rule)
        values, stops = [], Counter()
        for end in np.linspace(stretch.first_us, stretch.last_us, MOMENTS + 1)[1:].astype(int):
            window, events = stream.window_before(int(end))
            if not len(events):
                stops["empty"] += 1
                continue
            stops[window.stop] += 1
            cut = (recording.height // 16 * 16, recording.width // 16 * 16)
            voxel = voxelize(events, window)[:, : cut[0], : cut[1]]
            values.append(
                (
                    len(events) / (recording.height * recording.width),
                    (window.end_us - window.start_us) / 1000,
                    active_mask(patch_density(np.ascontiguousarray(voxel))).mean(),
                )
            )
        medians = np.median(np.array(values), axis=0) if values else [np.nan] * 3
        names = ("events a pixel", "ms", "active")
        rows.append((share, dict(zip(names, medians, strict=True)), stops))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recordings", type=Path, nargs="+")
    parser.add_argument("--time-unit")
    options = parser.parse_args()
    pooled: dict[float, list[dict[str, float]]] = {share: [] for share in SHARES}
    for path in options.recordings:
        try:
            rows = measure(path, options.time_unit)
        except DataError as error:
            print(f"\n{path}: passed over, {error.what}")
            continue
        print(f"\n{path}")
        print(f"{'share':>6}{'events a pixel':>16}{'ms':>8}{'active':>8}  windows began by")
        for share, medians, stops in rows:
            listed = ", ".join(f"{stop} {number}" for stop, number in stops.most_common())
            print(
                f"{share:6.2f}{medians['events a pixel']:16.3f}{medians['ms']:8.1f}"
                f"{medians['active']:8.1%}  {listed}"
            )
            pooled[share].append(medians)
    print("\nmedian over recordings")
    for share, medians in pooled.items():
        if medians:
            middle = {key: np.median([one[key] for one in medians]) for key in medians[0]}
            print(
                f"{share:6.2f}{middle['events a pixel']:16.3f}{middle['ms']:8.1f}"
                f"{middle['active']:8.1%}"
            )


if __name__ == "__main__":
    main()
