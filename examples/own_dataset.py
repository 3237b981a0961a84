"""A data set of your own is one file and one line. This one: npz files of an image and its events.

python examples/own_dataset.py prepare clips my_clips/ --span-ms 50 -o pairs
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaleevent import Events, Window, cli
from scaleevent.config.catalog import DATASETS, Part
from scaleevent.config.data import PrepareConfig
from scaleevent.pairs.pair import Pair, encode_image

DATASETS["clips"] = Part("own_dataset", "npz files of an image and its events")  # the one line


class Settings(PrepareConfig):
    span_ms: float = 50.0


@dataclass(frozen=True)
class Clip:
    name: str  # also of the shard
    inputs: tuple[Path, ...]  # what is read; a changed file is prepared again
    span_us: int
    expected: int = 1  # images
    found: str = "an npz file"

    def pairs(self, counts):
        clip = np.load(self.inputs[0])  # t, x, y, p, image (H, W, 3), image_us
        end, image = int(clip["image_us"]), clip["image"]
        events = Events.from_columns(*(clip[column] for column in "txyp"), *image.shape[:2])
        events = events.between(end - self.span_us, end)
        counts.update({"images": 1, "pairs": 1, "events in windows": len(events)})
        yield Pair(self.name, end, encode_image(image), events, Window(end - self.span_us, end))


def sources(config: Settings) -> list[Clip]:
    files = sorted(file for root in config.roots for file in root.glob("*.npz"))
    return [Clip(file.stem, (file,), round(1000 * config.span_ms)) for file in files]


if __name__ == "__main__":
    cli.main()
