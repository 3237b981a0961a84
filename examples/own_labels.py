"""Own classes from labelled pictures alone: film them, prepare, fine-tune, score, print the table.

Takes a folder of consecutive pictures and one of label PNGs of the same names (ids, 8 bits). There
are no events, so a simulated camera films the pictures; with a real recording, begin at `prepare`.
What it leaves in OUT/mine is what a user would have: events, frames, labels, classes.yaml.

With a second or two of video, as the 31 frames of CamVid that this was tried on, the last part of
the clip tests what the first part taught: it shows the road ahead, not that the model knows roads.
"""
# python examples/own_labels.py CamVid/val CamVid/valannot --fps 15 -o out

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from scaleevent import PrepareConfig, finetune, prepare
from scaleevent.config.downstream import finetune_config
from scaleevent.datasets import simulated
from scaleevent.events import Events
from scaleevent.system.reports import Report

SIZE = (120, 160)  # rows and columns of the simulated sensor
CAMVID = """\
classes:
  - {name: sky, colour: [128, 128, 128]}
  - {name: building, colour: [128, 0, 0]}
  - {name: pole, colour: [192, 192, 128]}
  - {name: road, colour: [128, 64, 128]}
  - {name: pavement, colour: [60, 40, 222]}
  - {name: tree, colour: [128, 128, 0]}
  - {name: sign, colour: [192, 128, 128]}
  - {name: fence, colour: [64, 64, 128]}
  - {name: car, colour: [64, 0, 128]}
  - {name: pedestrian, colour: [64, 64, 0]}
  - {name: bicyclist, colour: [0, 128, 192]}
ignore: 11
"""


def film(pictures: Path, labels: Path, fps: float, out: Path) -> None:
    """Write the files of a user: events.npz, images, timestamps.txt and labels of the same names.

    Every picture but the first, which no events lead up to, has events before it.
    """
    settings = PrepareConfig(name="video", roots=[pictures], fps=fps, size=SIZE)
    (clip,) = simulated.sources(settings)
    names = [path.name for path in clip.clip.files if path.suffix == ".png"]
    take = simulated.Take(clip, clip.framing(), np.random.default_rng(0))
    parts, times = [], []
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True)
    for moment, _, _ in take.moments(clip.frames(clip.clip, take.framing, Counter())):
        name = names[moment.index]
        times.append(moment.time_us)
        Image.fromarray(moment.image).save(out / "images" / name)
        if moment.events is not None:
            parts.append(moment.events)
        with Image.open(labels / name) as label:  # ids have no values between them
            label.resize(SIZE[::-1], Image.Resampling.NEAREST).save(out / "labels" / name)
    events = Events.concatenate(parts, *SIZE)
    np.savez(out / "events.npz", t=events.t, x=events.x, y=events.y, p=events.p)
    (out / "timestamps.txt").write_text("".join(f"{time}\n" for time in times))


def main() -> Report:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--classes", type=Path, help="a classes.yaml; default: CamVid's")
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("--checkpoint", default="embedded", help="the encoder to start from")
    parser.add_argument("--decoder", default="linear")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/own_labels"))
    options = parser.parse_args()
    mine, store = options.out / "mine", options.out / "store"
    film(options.pictures, options.labels, options.fps, mine)
    classes = options.classes.read_text() if options.classes else CAMVID
    (mine / "classes.yaml").write_text(classes)
    prepare(
        PrepareConfig(name="custom", roots=[mine], labels=Path("labels"), size=SIZE, out=store)
    ).show(False)
    flags = {
        "benchmark": "custom", "checkpoint": options.checkpoint, "data": [store],
        "decoder": options.decoder, "epochs": options.epochs, "out": options.out / "run",
    }  # fmt: skip
    report = finetune(finetune_config(flags))
    report.show(False)
    return report


if __name__ == "__main__":
    main()
