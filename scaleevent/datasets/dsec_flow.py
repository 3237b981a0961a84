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

from scaleevent.datasets.dsec import RECTIFY, Place, require
from scaleevent.datasets.dsec_labels import (
    LabelledSequence,
    LabelSettings,
    find_labelled,
    label_files,
    part_of,
    sensor_size,
)
from scaleevent.datasets.flow_png import decode_flow
from scaleevent.datasets.timed_labels import TimedLabel, check_size, read_bytes, read_times

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
    places = find_labelled(config, SPLITS)
    needed = {place: _needed(place, root) for place, root in places.items()}
    parts = require(needed, config.roots)
    return [_source(place, parts[place], config) for place in places]


def _needed(place: Place, root: Path) -> dict[str, Path | None]:
    """What a sequence needs besides its events: the map of their pixels, label times, labels."""
    rectify_map = {RECTIFY[0]: place.part(RECTIFY)}
    if SPLITS[place.name] == "test":
        return rectify_map | {TEST_TIMES[1].format(place.name): _test_times(place, root)}
    return rectify_map | {names[0]: part_of(place, names) for names in (TIMES, FLOW)}


def _test_times(place: Place, root: Path) -> Path | None:
    """The file of test spans: next to the events, or with those of all sequences."""
    own = part_of(place, TEST_TIMES)
    shared = (
        folder / part / TEST_TIMES[1].format(place.name)
        for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir()))
        for part in TEST_FOLDERS
    )
    return own or next((path for path in shared if path.is_file()), None)


def _source(place: Place, parts: tuple[Path, ...], config: Settings) -> LabelledSequence:
    rectify_map, times = parts[:2]
    size = sensor_size(rectify_map)
    split = SPLITS[place.name]
    origin = {"sequence": place.name, "split": split}
    paths: list[Path] = []
    if split == "test":
        labels = [
            TimedLabel(start, end, None, origin | {"file_index": index})
            for start, end, index in read_times(times, 3).tolist()
        ]
    else:
        stamps, paths = label_files(parts[2], times, 2)
        labels = [
            TimedLabel(start, end, partial(read_flow, path, size), origin | {"file": path.name})
            for (start, end), path in zip(stamps.tolist(), paths, strict=True)
        ][config.chosen(0, 1)]
    spans = len(paths) or len(labels)
    return LabelledSequence(
        name=place.name,
        task="flow",
        events=place.events,
        rectify_map=rectify_map,
        size=size,
        rows=size[0],
        labels=tuple(labels),
        unwanted=spans - len(labels),
        files=(times, *paths),
        rule=None,
        found=f"layout {place.layout}, {split}, {spans} spans in {times}",
    )


def read_flow(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(2, H, W) float32 pixels right and down over the span, NaN where it is unknown.

    Raises:
        DataError: Not a flow file, or of another size.
    """
    flow, valid = decode_flow(read_bytes(path), where=path)
    check_size(flow, size, path)
    return np.where(valid, flow, np.float32(np.nan))
