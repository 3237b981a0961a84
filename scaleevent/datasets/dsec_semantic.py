"""`dsec-semantic`: DSEC-Semantic, class ids of 11 classes on the upper 440 rows of the event view.

Labels are one-channel PNGs of 640x440 and a text file with the time of each, at the 20 Hz of the
frames. Parts and classes: uzh-rpg/ess. A class id is its place in `config.benchmarks`; 255 is
no class.

Loaders differ in the events they lay under the labels: uzh-rpg/ess:DSEC/dataset/sequence.py, by the
labels' authors, and ldkong1205/OpenESS:DSEC/dataset/sequence_ov.py rectify them before they cut the
lowest 40 rows; hamarh/HMNet_pth:experiments/segmentation/data/dsec/scripts/preproc_events.py cuts
raw events. `event_view` chooses.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field

from scaleevent.config.benchmarks import DSEC_CLASSES
from scaleevent.config.data import WindowSettings
from scaleevent.datasets.dsec import RECTIFY, Place
from scaleevent.datasets.dsec_labels import (
    LabelledSequence,
    LabelSettings,
    find_labelled,
    labels_of_files,
    sensor_size,
)
from scaleevent.datasets.timed_labels import read_ids
from scaleevent.pairs.pairing import window_rule

CLASSES = len(DSEC_CLASSES)
CUT_ROWS = 40
"""Lowest rows of the event view, where the frames show nothing: no labels there."""

LABELS = (
    *("11classes", "semantic/left/11classes/data", "semantic/left/11classes"),
    *("semantic/11classes/data", "semantic/11classes", "semantic/{0}/11classes"),
)
TIMES = (
    *(
        f"{folder}{name}"
        for folder in ("", "semantic/", "semantic/left/", "semantic/{0}/")
        for name in ("{0}_semantic_timestamps.txt", "semantic_timestamps.txt")
    ),
    *("semantic/timestamps.txt", "semantic/left/timestamps.txt"),
)

SPLITS = {
    **{f"zurich_city_0{number}_a": "train" for number in (0, 1, 2, 4, 5, 6, 7, 8)},
    **dict.fromkeys(("zurich_city_13_a", "zurich_city_14_c", "zurich_city_15_a"), "test"),
}
"""uzh-rpg/ess. They hold 8,082 training labels and 2,809 test labels (379, 1,191 and 1,239). The
authors of ScaleEvent test on all of these and train on 7,945: 884 of 00_a, 1,671 of 05_a, all of
the others (zhiwen-xdu/ScaleEvent at 0fd5605:scale_event/dataset/data_specs). Which labels of those
two are missing does not show, since their files are numbered through."""

CHOICE = {"all": (0, 1), "ess": (6, 2)}
"""Labels left out at a sequence's start, and of the others every how many is taken.

uzh-rpg/ess:DSEC/dataset/sequence.py drops six and takes every second, to train and to test: 1,397
test labels.
"""


class Settings(LabelSettings, WindowSettings):
    """What `dsec-semantic` adds to the settings of `prepare`."""

    event_view: Literal["rectified", "raw"] = Field(
        default="rectified", description="pixels of the events"
    )
    labels: Literal["all", "ess"] = Field(
        default="all",
        description="ess: as its authors, every second from the seventh (1,397 of 2,809)",
    )


def sources(config: Settings) -> list[LabelledSequence]:
    """The benchmark's sequences found under the roots.

    Raises:
        ConfigError: No root, or a sequence that is not there.
        DataError: No sequence, one that is found twice, missing or unusable files.
    """
    maps = (RECTIFY,) if config.event_view == "rectified" else ()
    found = find_labelled(config, SPLITS, lambda place: place.parts(LABELS, TIMES, *maps))
    return [_source(place, parts, config) for place, parts in found.items()]


def _source(place: Place, parts: tuple[Path, ...], config: Settings) -> LabelledSequence:
    folder, times = parts[:2]
    rectify_map = place.part(RECTIFY)
    height, width = size = sensor_size(rectify_map)
    rows = height - CUT_ROWS
    split = SPLITS[place.name]
    hint = "these may be the labels of 19 classes: the folder 11classes is wanted"
    load = partial(read_ids, size=(rows, width), classes=CLASSES, hint=hint)
    origin = {"sequence": place.name, "split": split}
    labels, paths = labels_of_files(folder, times, 1, origin, load)
    return LabelledSequence(
        place=place,
        task="semantics",
        rectify_map=rectify_map if config.event_view == "rectified" else None,
        size=size,
        rows=rows,
        labels=labels,
        chosen=config.chosen(*CHOICE[config.labels]),
        files=(times, *paths),
        rule=window_rule(config),
        found=f"layout {place.layout}, {split}, {len(paths)} labels in {folder}",
    )
