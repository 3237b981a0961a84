"""`dsec-flow`: optical flow of DSEC in the rectified left event view, and its test set.

`flow/forward/%06d.png` holds the displacement over the span that the same line of
`flow/forward_timestamps.txt` names, `from, to` in microseconds, about 100 ms. A pair has the window
of that span and one as long before it (uzh-rpg/E-RAFT:loader/loader_dsec.py).

The test set has no public ground truth. Its spans come from `SEQUENCE.csv` with lines `from, to,
file index`, in test_forward_optical_flow_timestamps.zip; a submission names its files by the index.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from scaleevent.datasets.dsec import RECTIFY, Place
from scaleevent.datasets.dsec_labels import (
    LabelledSequence,
    LabelSettings,
    find_labelled,
    labels_of_files,
    sensor_size,
    with_folders,
)
from scaleevent.datasets.flow_png import decode_flow
from scaleevent.datasets.frames import read_bytes
from scaleevent.datasets.timed_labels import TimedLabel, check_size, read_times

FLOW = ("flow/forward", "optical_flow_forward_event")
TIMES = ("flow/forward_timestamps.txt", "optical_flow_forward_timestamps.txt")
TEST_TIMES = ("test_forward_flow_timestamps.csv", "{0}.csv")  # E-RAFT's name, and the archive's
TEST_FOLDERS = ("", "test_forward_optical_flow_timestamps/")

_CITY = {
    "train": "01_a 02_a 02_c 02_e 05_a 05_b 06_a 07_a 09_a 10_a 10_b 11_a 11_c",
    "validation": "02_d 03_a 08_a 11_b",
    "test": "12_a 14_c 15_a",
}
SPLITS = {
    **{f"zurich_city_{name}": split for split in _CITY for name in _CITY[split].split()},
    "thun_00_a": "validation",
    **dict.fromkeys(("interlaken_00_b", "interlaken_01_a", "thun_01_a", "thun_01_b"), "test"),
}
"""The official test, and the 18 sequences with ground truth, of which five are held out as in
J-Cuadrado/OF_EV_SNN:data/dataset/saved_flow_data/sequence_lists."""


class Settings(LabelSettings):
    """What `dsec-flow` adds to the settings of `prepare`: windows are the spans of its labels."""


def sources(config: Settings) -> list[LabelledSequence]:
    """The benchmark's sequences found under the roots.

    Raises:
        ConfigError: No root, or a sequence that is not there.
        DataError: No sequence, one that is found twice, missing or unusable files.
    """
    found = find_labelled(config, SPLITS, _needed)
    return [_source(place, parts, config) for place, parts in found.items()]


def _needed(place: Place) -> dict[str, Path | None]:
    """What a sequence needs besides its events: the map of their pixels, label times, labels."""
    if SPLITS[place.name] != "test":
        return place.parts(RECTIFY, TIMES, FLOW)
    name = TEST_TIMES[1].format(place.name)
    shared = (folder / part / name for folder in with_folders(place.root) for part in TEST_FOLDERS)
    times = place.part(TEST_TIMES) or next((path for path in shared if path.is_file()), None)
    return place.parts(RECTIFY) | {name: times}


def _source(place: Place, parts: tuple[Path, ...], config: Settings) -> LabelledSequence:
    rectify_map, times = parts[:2]
    size = sensor_size(rectify_map)
    split = SPLITS[place.name]
    origin = {"sequence": place.name, "split": split}
    if split == "test":
        paths: list[Path] = []
        labels = tuple(
            TimedLabel(start, end, None, {**origin, "file_index": index})
            for start, end, index in read_times(times, 3).tolist()
        )
    else:
        load = partial(read_flow, size=size)
        labels, paths = labels_of_files(parts[2], times, 2, origin, load)
    return LabelledSequence(
        place=place,
        task="flow",
        rectify_map=rectify_map,
        size=size,
        rows=size[0],
        labels=labels,
        chosen=slice(None) if split == "test" else config.chosen(0, 1),
        files=(times, *paths),
        rule=None,
        found=f"layout {place.layout}, {split}, {len(labels)} spans in {times}",
    )


def read_flow(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(2, H, W) float32 pixels right and down over the span, NaN where it is unknown.

    Raises:
        DataError: Not a flow file, or of another size.
    """
    flow, valid = decode_flow(read_bytes(path), where=path)
    check_size(flow, size, path)
    return np.where(valid, flow, np.float32(np.nan))
