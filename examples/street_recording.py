"""A recording of the embedded world as a file: what a camera on the move sees for most of a second.

    python examples/street_recording.py recording.npz [SEED]

Events of 96x128 pixels in the columns t (microseconds), x, y, p, which `scaleevent info`,
`voxelize` and `predict` read as they read the files of any camera.
"""

import sys
from pathlib import Path

import numpy as np

from scaleevent.street.scene import StreetSettings, render_scene


def main(path: Path, seed: int = 1) -> None:
    filmed = StreetSettings(window_us=800_000, standing=0.0, speed=0.7)
    events = render_scene(seed, 0, filmed).events
    columns = {"t": events.t, "x": events.x, "y": events.y, "p": events.p}
    np.savez_compressed(path, **columns)
    print(f"{len(events):,} events of {filmed.window_us / 1e6:g} s: {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
