"""What a validity mask costs: bytes a pair in a store, and milliseconds a pair in the loader.

    python examples/bench_mask.py

A slanted border hides a tenth of 640x480 pixels, the same in all pairs of a recording, as a warp by
calibration leaves it. Processor time of one core, median over pairs; `own` masks differ from pair
to pair.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scaleevent.events import Events
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.windows import Window
from scaleevent.pairs.pair import Pair, encode_image
from scaleevent.pairs.sample_inputs import StoredPair, image, valid
from scaleevent.pairs.shard import Shard, ShardWriter

HEIGHT, WIDTH, PAIRS = 480, 640, 200
SETTINGS = InputSettings(HEIGHT, WIDTH, 16)


def write(path: Path, masks: list[np.ndarray | None]) -> Shard:
    """Pairs of noise with these masks and no events."""
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    data = encode_image(picture.repeat(8, 0).repeat(8, 1))
    with ShardWriter(path) as writer:
        for k, mask in enumerate(masks):
            window = Window(1000 * k, 1000 * k + 1000)
            nothing = Events.empty(HEIGHT, WIDTH)
            writer.add(Pair("r", 1000 * k + 1000, data, nothing, window, valid=mask))
    return Shard(path)


def milliseconds(shard: Shard, make: Callable[[StoredPair], object]) -> float:
    """Of one input of a pair whose voxel is there already."""
    taken = []
    for k in range(PAIRS):
        pair = StoredPair(shard, k, SETTINGS)
        assert pair.fit  # makes the voxel
        start = time.process_time()
        make(pair)
        taken.append(time.process_time() - start)
    return 1000 * float(np.median(taken))


def main() -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    masks: dict[str, list[np.ndarray | None]] = {
        "none": [None] * PAIRS,
        "one": [y + 0.02 * x < 0.9 * HEIGHT + 6] * PAIRS,
        "own": [y + 0.02 * x < 0.9 * HEIGHT + k % 50 for k in range(PAIRS)],
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, some in masks.items():
            shard = write(Path(folder) / f"{name}.h5", some)
            stored = shard.file["valid/values"].id.get_storage_size() if name != "none" else 0
            print(
                f"mask {name:4} {stored / PAIRS:7,.0f} bytes a pair, token shares "
                f"{milliseconds(shard, valid):.2f} ms, image {milliseconds(shard, image):.2f} ms"
            )


if __name__ == "__main__":
    main()
