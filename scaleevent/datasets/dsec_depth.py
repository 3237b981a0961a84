"""`dsec-depth`: depth in metres from DSEC's disparity maps, in the rectified left event view.

`disparity/event/%06d.png` holds 256 times the disparity in pixels between the two event cameras,
0 where it is unknown, at 10 Hz; `disparity/timestamps.txt` holds the time of each
(dsec.ifi.uzh.ch/data-format). Depth is not clipped here: that belongs to the metric.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from scaleevent.config.data import WindowSettings
from scaleevent.datasets.calibration import read_depth_scale
from scaleevent.datasets.dsec import CALIBRATION, RECTIFY, Place
from scaleevent.datasets.dsec_labels import (
    LabelledSequence,
    LabelSettings,
    find_labelled,
    labels_of_files,
    sensor_size,
)
from scaleevent.datasets.flow_png import decode_grey
from scaleevent.datasets.frames import read_bytes
from scaleevent.datasets.timed_labels import check_size
from scaleevent.pairs.pairing import window_rule

DISPARITY = ("disparity/event", "disparity_event")
TIMES = ("disparity/timestamps.txt", "disparity_timestamps.txt")
FIRST = 1
"""Maps left out at the start: a sequence's first has no events before it."""

_CITY = {
    "train": "00_a 00_b 01_a 01_b 01_c 01_d 01_e 01_f 02_a 02_b 02_c 02_d 02_e 03_a 04_a 04_b 04_c "
    "04_d 04_e 04_f 09_a 09_b 09_c 09_e 10_a 11_a 11_b 11_c",
    "test": "05_a 05_b 06_a 07_a 08_a 09_d 10_b",
}
SPLITS = {
    **{f"zurich_city_{name}": split for split in _CITY for name in _CITY[split].split()},
    **dict.fromkeys(("interlaken_00_c", "interlaken_00_d", "interlaken_00_e"), "train"),
    **dict.fromkeys(("interlaken_00_f", "interlaken_00_g", "thun_00_a"), "test"),
}
"""All sequences with ground truth, as Tesla-SHT/depthanyevent:dataset/dsec_dataset/constants.py
(DepthAnyEvent) divides them: 31 train, 10 test."""


class Settings(LabelSettings, WindowSettings):
    """What `dsec-depth` adds to the settings of `prepare`."""


def sources(config: Settings) -> list[LabelledSequence]:
    """The benchmark's sequences found under the roots.

    Raises:
        ConfigError: No root, or a sequence that is not there.
        DataError: No sequence, one that is found twice, missing or unusable files.
    """
    names = (DISPARITY, TIMES, RECTIFY, CALIBRATION)
    found = find_labelled(config, SPLITS, lambda place: place.parts(*names))
    return [_source(place, parts, config) for place, parts in found.items()]


def _source(place: Place, parts: tuple[Path, ...], config: Settings) -> LabelledSequence:
    folder, times, rectify_map, calibration = parts
    size = sensor_size(rectify_map)
    split = SPLITS[place.name]
    load = partial(read_depth, size=size, scale=read_depth_scale(calibration))
    origin = {"sequence": place.name, "split": split}
    labels, paths = labels_of_files(folder, times, 1, origin, load)
    return LabelledSequence(
        place=place,
        task="depth",
        rectify_map=rectify_map,
        size=size,
        rows=size[0],
        labels=labels,
        chosen=config.chosen(FIRST, 1),
        files=(times, calibration, *paths),
        rule=window_rule(config),
        found=f"layout {place.layout}, {split}, {len(paths)} disparity maps in {folder}",
    )


def read_depth(path: Path, size: tuple[int, int], scale: float) -> np.ndarray:
    """(H, W) float32 metres of a disparity file, NaN where it is unknown.

    Args:
        path: The file.
        size: (height, width) it must have.
        scale: Metres times pixels: depth = scale / disparity.

    Raises:
        DataError: Not such a file, or another size.
    """
    disparity = decode_grey(read_bytes(path), where=path)
    check_size(disparity, size, path)
    return (scale / disparity.astype(np.float64)).astype(np.float32)
