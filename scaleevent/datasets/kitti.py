"""`kitti`: KITTI's colour cameras, filmed by a simulated event camera: raw drives, or Tracking.

    DATE/DATE_drive_NNNN_sync/image_0{2,3}/data/NNNNNNNNNN.png    raw; numbers from 0
    DATE/DATE_drive_NNNN_sync/image_0{2,3}/timestamps.txt         date and time of day, to 1 ns
    {training,testing}/image_0{2,3}/NNNN/NNNNNN.png               Tracking; 10 frames a second

utiasSTARS/pykitti:pykitti/raw.py and tracking.py; 02 is the left colour camera. Line N of the times
is that of picture N. Tracking has no times for its test part, so that both parts are timed by their
rate. Its sequences were cut from raw drives: only one of the two is taken. `test` is `testing`, or
for raw drives those of the Eigen split of depth estimation
(nianticlabs/monodepth2:splits/eigen/test_files.txt).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scaleevent.datasets.clips import PictureClip
from scaleevent.datasets.filmed import (
    FilmedSettings,
    Found,
    Joined,
    at_rate,
    check_whole,
    filmed,
    numbered,
    picture_clip,
)
from scaleevent.datasets.finding import files_below, not_here
from scaleevent.datasets.frame_times import lines_with_fields
from scaleevent.errors import DataError

FPS = 10.0
CAMERAS = {"left": "image_02", "right": "image_03"}
TIMES = "timestamps.txt"

EIGEN_TEST = frozenset({
    *(f"2011_09_26_drive_{number}" for number in (
        "0002", "0009", "0013", "0020", "0023", "0027", "0029", "0036", "0046", "0048", "0052",
        "0056", "0059", "0064", "0084", "0086", "0093", "0096", "0101", "0106", "0117",
    )),
    "2011_09_28_drive_0002", "2011_09_29_drive_0071",
    *(f"2011_09_30_drive_{number}" for number in ("0016", "0018", "0027")),
    *(f"2011_10_03_drive_{number}" for number in ("0027", "0047")),
})  # fmt: skip

_PICTURES = tuple(f"{number}.{kind}" for number in ("N" * 6, "N" * 10) for kind in ("png", "jpg"))
_DRIVE = re.compile(r"(\d{4}_\d\d_\d\d_drive_\d{4})_sync")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d{1,9})")


class Settings(FilmedSettings):
    """What `kitti` adds to the settings of `prepare`."""

    PARTS = ("train", "test")

    camera: Literal["left", "right", "both"] = Field(
        default="left", description="of the colour pair"
    )


def sources(config: Settings) -> list[Joined]:
    """The drives or sequences found under the roots, in shards.

    Raises:
        ConfigError: No root, or a sequence that is not there.
        DataError: No sequence, both raw drives and Tracking, missing pictures, or unusable times.
    """
    config.require_roots()
    raw: list[Found] = []
    tracking: list[Found] = []
    for side, folder in CAMERAS.items():
        if config.camera not in (side, "both"):
            continue
        for place in files_below(config.roots, f"*_drive_*_sync/{folder}"):
            if match := _DRIVE.fullmatch(place.parent.name):
                part = "test" if match[1] in EIGEN_TEST else "train"
                raw.append(Found(f"{match[1]}_{side}", part, place, match[1]))
        for tree, part in (("training", "train"), ("testing", "test")):
            for place in files_below(config.roots, f"{tree}/{folder}/[0-9][0-9][0-9][0-9]"):
                scene = f"{part}_{place.name}"
                tracking.append(Found(f"{scene}_{side}", part, place, scene))
    where = ", ".join(map(str, config.roots))
    if raw and tracking:
        raise DataError(
            "both raw drives and Tracking, which was cut from them", where=where,
            found=f"{len(raw)} drives, {len(tracking)} sequences of Tracking",
            hint="give the folder of one of the two",
        )  # fmt: skip
    if not raw and not tracking:
        folder = CAMERAS["right" if config.camera == "right" else "left"]
        raise not_here(
            config.roots, "no KITTI sequence in this folder",
            f"DATE/DATE_drive_NNNN_sync/{folder}/data or {{training,testing}}/{folder}/NNNN",
        )  # fmt: skip
    skips = config.on_error == "skip"
    if raw:
        return filmed(config, raw, lambda one: _drive(one.place, skips))
    told = f"times of pictures: {FPS:g} a second; Tracking has none recorded"
    return filmed(config, tracking, lambda one: _sequence(one.place, skips), (told,))


def _sequence(folder: Path, skips: bool) -> PictureClip:
    """The clip of a sequence of Tracking."""
    pictures = numbered(folder, *_PICTURES)
    missing = check_whole([*pictures], folder, skips)
    how = f"{FPS:g} frames/s{missing}"
    return picture_clip(folder, [*pictures.values()], at_rate([*pictures], FPS), how)


def _drive(camera: Path, skips: bool) -> PictureClip:
    """The clip of one camera of a raw drive."""
    if not (camera / "data").is_dir():
        raise DataError("a drive without pictures", where=camera, expected="data/NNNNNNNNNN.png")
    pictures, times = numbered(camera / "data", *_PICTURES), _times(camera / TIMES)
    if untimed := [number for number in pictures if number not in times]:
        raise DataError(
            "no time for a picture", where=camera / TIMES, found=f"{len(times)} times",
            expected=f"one in line {untimed[0] + 1}, for {pictures[untimed[0]]}",
        )  # fmt: skip
    missing = check_whole([*pictures], camera / "data", skips, (min(times), max(times)))
    chosen = [times[number] for number in pictures]
    files = [camera / TIMES]
    return picture_clip(camera, [*pictures.values()], chosen, f"{TIMES}{missing}", files)


def _times(path: Path) -> dict[int, int]:
    """Microseconds from the first time on, by the number of the picture.

    Raises:
        DataError: No such file, or a line that is not a date and a time of day.
    """
    ns: dict[int, int] = {}
    for number, line, fields in lines_with_fields(path, "frame times"):
        match = _TIME.fullmatch(" ".join(fields))
        try:
            if match is None:
                raise ValueError
            stamp = np.datetime64(f"{match[1]}T{match[2]}", "ns")
            ns[number - 1] = int(stamp.astype(np.int64))
        except ValueError:  # also a month 13
            raise DataError(
                "not a time of a picture", where=f"{path}, line {number}", found=repr(line[:80]),
                expected="such as 2011-09-26 13:02:25.964389445",
            ) from None  # fmt: skip
    first = next(iter(ns.values()), 0)
    return {number: round((time - first) / 1000) for number, time in ns.items()}
