"""`waymo`: Waymo Open Dataset's cameras, filmed by a simulated event camera.

    {training,validation,testing}/segment-*.tfrecord      of Perception 1.x: a record a frame
    segment-*/image_0/NNNN.png                            as extracted for Ev-Waymo: 10 a second

TFRecord files are read without TensorFlow: a record is a message `Frame`, whose images are JPEG
(waymo-research/waymo-open-dataset:src/waymo_open_dataset/dataset.proto). The time of an image is
the middle between the camera's trigger and the end of its readout, which that file shows as the
middle of the exposure of the middle row or column. The Parquet files of 2.x are not read.

Ev-Waymo (mickeykang16/Ev3DOD:data/DATA_PREPROCESS.md) has events beside its pictures; neither the
unit of their times nor which frame a file belongs to is documented, so that its pictures are filmed
anew.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scaleevent.datasets.clips import Clip, Damaged, PictureClip
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
from scaleevent.datasets.tfrecord import count_records, fields, records
from scaleevent.errors import DataError
from scaleevent.images import open_image
from scaleevent.pairs.pair import decode_image

FPS = 10.0
PART_OF = {"training": "train", "validation": "val", "testing": "test"}
CAMERAS = {"front": 1, "front-left": 2, "front-right": 3, "side-left": 4, "side-right": 5}
"""Numbers of `CameraName`."""

FRAME_IMAGES = 4  # numbers of the fields of `Frame` and, below, of `CameraImage`
NAME, IMAGE, TRIGGERED, READ_OUT = 1, 2, 7, 8

_PICTURE = "NNNN.png"


class Settings(FilmedSettings):
    """What `waymo` adds to the settings of `prepare`."""

    PARTS = ("train", "val", "test", "unknown")

    camera: Literal["front", "front-left", "front-right", "side-left", "side-right", "all"] = Field(
        default="front", description="of the car"
    )


@dataclass(frozen=True)
class SegmentClip(Clip):
    """One camera of a segment; `path` is its TFRecord file.

    Args:
        camera: Number of the camera.
    """

    camera: int

    def read(self, damaged: Damaged) -> Iterator[tuple[int, int, np.ndarray]]:
        """See `Clip`; after a damaged record, a file is not read on."""
        start_us = None
        frames = enumerate(records(self.path))
        while True:
            try:
                index, frame = next(frames)
            except StopIteration:
                return
            except DataError as error:
                damaged(error)
                return
            where = f"{self.path}, record {index}"
            try:
                time_us, data = camera_image(frame, self.camera, where)
                image = decode_image(data, where)
            except DataError as error:
                damaged(error)
                continue
            start_us = time_us if start_us is None else start_us
            yield index, time_us - start_us, image


def camera_image(frame: bytes, camera: int, where: object) -> tuple[int, bytes]:
    """Time, in microseconds since 1970, and JPEG file of one camera's image in a `Frame`.

    Raises:
        DataError: Not such a message, or without this image.
    """
    for number, value in fields(frame, where):
        if number != FRAME_IMAGES or not isinstance(value, bytes):
            continue
        parts = dict(fields(value, where))
        if parts.get(NAME) != camera:
            continue
        match [parts.get(number) for number in (IMAGE, TRIGGERED, READ_OUT)]:
            case [bytes(image), bytes(trigger), bytes(done)] if len(trigger) == len(done) == 8:
                seconds = [struct.unpack("<d", part)[0] for part in (trigger, done)]
                if all(0 < second < 1e10 for second in seconds):
                    return round(1e6 * sum(seconds) / 2), image
        raise DataError(
            "an image without its time", where=where,
            expected="camera_trigger_time and camera_readout_done_time",
        )  # fmt: skip
    raise DataError("a frame without an image of the camera", where=where, found=f"camera {camera}")


def sources(config: Settings) -> list[Joined]:
    """The segments found under the roots, in shards.

    Raises:
        ConfigError: No root, or a segment that is not there.
        DataError: No segment, or a damaged one.
    """
    config.require_roots()
    wanted = [*CAMERAS] if config.camera == "all" else [config.camera]
    found = [
        Found(f"{path.stem}_{camera}", _part(path), path, path.stem)
        for path in files_below(config.roots, "*segment-*.tfrecord")
        for camera in wanted
    ]
    if "front" in wanted:
        found += [
            Found(f"{folder.parent.name}_front", _part(folder.parent), folder, folder.parent.name)
            for folder in files_below(config.roots, "segment-*/image_0")
        ]
    if not found:
        newer = files_below(config.roots, "camera_image/*.parquet")
        raise not_here(
            config.roots, "no Waymo segment in this folder",
            "{training,validation}/segment-*.tfrecord, or segment-*/image_0/NNNN.png",
            "download the TFRecord files of Perception 1.x",
            "Parquet files of Perception 2.x, which are not read" if newer else None,
        )  # fmt: skip
    return filmed(config, found, lambda one: _clip(one, config.on_error == "skip"))


def _part(path: Path) -> str:
    """The part of the data set, by the folder or the name that the file was downloaded with."""
    folder = Path(os.path.abspath(path)).parent.name  # of `.` too, and links stay what they are
    for name, part in PART_OF.items():
        if folder == name or f"_{name}_segment" in path.name:
            return part
    return "unknown"


def _clip(one: Found, skips: bool) -> PictureClip | SegmentClip:
    """The clip of one camera of a segment."""
    if one.place.is_dir():
        pictures = numbered(one.place, _PICTURE)
        missing = check_whole([*pictures], one.place, skips)
        how = f"{FPS:g} frames/s{missing}"
        return picture_clip(one.place, [*pictures.values()], at_rate([*pictures], FPS), how)
    number = count_records(one.place, to_damage=skips)
    if number < 2:
        raise DataError("a segment of fewer than two frames", where=one.place, found=number)
    camera = CAMERAS[one.name.rpartition("_")[2]]
    where = f"{one.place}, record 0"
    first = next(records(one.place))
    with open_image(camera_image(first, camera, where)[1], where) as image:
        height, width = image.height, image.width
    found = f"{number:,} frames {width}x{height} of a TFRecord file"
    return SegmentClip(one.place, number, height, width, found, (one.place,), camera)
