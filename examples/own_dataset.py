"""A data set of your own is one file and one line. This one: npz files of images and events."""
# python examples/own_dataset.py prepare clips my_clips/ --span-ms 50 -o pairs

from collections import namedtuple

import numpy as np

from scaleevent import Events, PrepareConfig, Window, cli
from scaleevent.config.catalog import DATASETS, Part
from scaleevent.pairs.pair import Pair, encode_image

DATASETS["clips"] = Part("own_dataset", "npz files of an image and its events")  # the one line


class Settings(PrepareConfig):
    span_ms: float = 50.0


# becomes one shard of so many images; it is made again when one of the inputs changes
class Clip(namedtuple("Clip", "name inputs expected found span_us")):
    def pairs(self, counts):
        clip = np.load(self.inputs[0])  # t, x, y, p, image (H, W, 3), image_us
        window = Window(int(clip["image_us"]) - self.span_us, int(clip["image_us"]))
        events = Events.from_columns(*(clip[column] for column in "txyp"), *clip["image"].shape[:2])
        events = events.between(window.start_us, window.end_us)
        counts.update({"images": 1, "pairs": 1, "events in windows": len(events)})
        yield Pair(self.name, window.end_us, encode_image(clip["image"]), events, window)


def sources(config):
    span_us, folder = round(1000 * config.span_ms), config.roots[0]
    return [Clip(path.stem, (path,), 1, "an npz", span_us) for path in sorted(folder.glob("*.npz"))]


if __name__ == "__main__":
    cli.main()
