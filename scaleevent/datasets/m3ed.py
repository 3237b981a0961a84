"""`m3ed`: M3ED's two event cameras (IMX636, 1280x720) with images of the camera beside them.

    SEQ_data.h5, alone or in a folder SEQ
        prophesee/{left,right}/{x, y, t, p}       microseconds from 0 on the common clock
        prophesee/{left,right}/calib/...          intrinsics [fx, fy, cx, cy], distortion_coeffs,
                                                  resolution [width, height], T_to_prophesee_left
        ovc/{rgb,left,right}/{data, calib/...}    (F, 800, 1280, 3 or 1) uint8
        ovc/ts                                    (F,) microseconds, 25 Hz
    SEQ_semantics.h5, of some sequences
        warped_image, predictions, ts             in the view of the left event camera

Layout: daniilidis-group/m3ed:build_system/bag_processing/rosbag2hdf5.py. Its colours are what
OpenCV decoded, blue first. T_to_prophesee_left takes points of a camera to the left event camera,
as daniilidis-group/m3ed:build_system/semantics/internimage.py uses it.

The camera of the images stands beside the event cameras, so each event pixel sees the picture at
infinite distance (`datasets.calibration`); what it does not show is masked. With `semantics` the
authors' own warp is taken, with the classes that their network saw in it (Cityscapes' 19), which
are 255 where the picture shows nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scaleevent.config.benchmarks import IGNORE
from scaleevent.config.data import DamageSettings, SequencesConfig, WindowSettings
from scaleevent.datasets.calibration import Rig, stated_rig
from scaleevent.datasets.finding import files_below, find_named, require
from scaleevent.datasets.frames import EventView, FramedRecording
from scaleevent.datasets.hdf5_frames import Hdf5Frames, Hdf5Pictures
from scaleevent.datasets.timed_labels import in_order
from scaleevent.errors import DataError
from scaleevent.pairs.pair import Label, Pair
from scaleevent.pairs.pairing import window_rule
from scaleevent.system.hdf5_process import Hdf5File, Part

DATA, SEMANTICS = "_data.h5", "_semantics.h5"
CLASSES = 19  # Cityscapes' trainIds


class Settings(SequencesConfig, WindowSettings, DamageSettings):
    """What `m3ed` adds to the settings of `prepare`."""

    camera: Literal["both", "left", "right"] = Field(
        default="both", description="event camera to take"
    )
    images: Literal["rgb", "left", "right"] = Field(
        default="rgb", description="OVC camera of the images"
    )
    semantics: bool = Field(
        default=False,
        description="left events with the warped images and classes of SEQ_semantics.h5",
    )


@dataclass(frozen=True)
class EventCamera(FramedRecording):
    """One event camera in one sequence.

    Args:
        rig: It and the camera of the images; None where these are warped already.
        classes: File of the classes in the warped images.
    """

    rig: Rig | None
    classes: Path | None

    def view(self) -> EventView:
        """How images come onto the event pixels."""
        if self.rig is None:
            return EventView(*self.size, self.lossless)
        frame_size = (self.rig.frames.height, self.rig.frames.width)
        return EventView(*self.size, self.lossless, self.rig.frame_map(), frame_size)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """A pair for every image with events before it, with its classes where there are some."""
        if self.classes is None:
            yield from super().pairs(counts)
            return
        maps = Hdf5Pictures(self.classes, "/predictions")
        for pair in super().pairs(counts):
            ids = np.array(maps[pair.provenance["frame"]])
            if ((ids >= CLASSES) & (ids != IGNORE)).any():
                raise DataError(
                    "class that is not of the data set",
                    where=f"{self.classes}, dataset /predictions, {pair.provenance['frame']}",
                    found=int(ids[(ids >= CLASSES) & (ids != IGNORE)][0]),
                    expected=f"0 .. {CLASSES - 1}, or {IGNORE}",
                )
            label = Label(ids, pair.image_us, pair.image_us)
            yield replace(pair, valid=ids != IGNORE, labels={"semantics": label})


def sources(config: Settings) -> list[EventCamera]:
    """The event cameras of the sequences found under the roots.

    Raises:
        ConfigError: No root, or a sequence that is not there.
        DataError: No sequence, one that is found twice, missing or unusable files.
    """
    hits = [(path.name.removesuffix(DATA), path) for path in files_below(config.roots, f"*{DATA}")]
    expected = f"SEQUENCE{DATA}, or SEQUENCE/SEQUENCE{DATA}"
    files = find_named(config, hits, "no M3ED sequence in this folder", expected)
    if config.semantics:
        places = {name: path.with_name(name + SEMANTICS) for name, path in files.items()}
        parts = {
            name: {path.name: path if path.is_file() else None} for name, path in places.items()
        }
        found = require(parts, config.roots)
        return [_warped(name, files[name], found[name][0], config) for name in files]
    cameras = ("left", "right") if config.camera == "both" else (config.camera,)
    return [_raw(name, path, camera, config) for name, path in files.items() for camera in cameras]


def _raw(name: str, path: Path, camera: str, config: Settings) -> EventCamera:
    """An event camera and the raw images of an OVC camera."""
    file = Hdf5File(path)
    events, images = f"/prophesee/{camera}", f"/ovc/{config.images}"
    where = f"{path}, {events}/calib and {images}/calib"
    document = {
        "intrinsics": {"cam0": _calibration(file, events), "cam1": _calibration(file, images)},
        "extrinsics": {"T_10": _turn(file, events, images)},
    }
    rig = stated_rig(where, document)
    frames = Hdf5Frames.of(path, f"{images}/data", _times(file, "/ovc/ts"), blue_first=True)
    expected = (rig.frames.height, rig.frames.width)
    if frames.size != expected:
        raise DataError(
            "images do not have the size in the calibration",
            where=f"{path}, dataset {images}/data",
            found=f"{frames.size[1]}x{frames.size[0]}", expected=f"{expected[1]}x{expected[0]}",
        )  # fmt: skip
    size = (rig.events.height, rig.events.width)
    found = f"{camera} events, {len(frames.times_us):,} {config.images} images to be warped"
    return _source(name, path, camera, frames, size, config, found, rig)


def _warped(name: str, path: Path, semantics: Path, config: Settings) -> EventCamera:
    """The left event camera and the images and classes in its view."""
    file = Hdf5File(semantics)
    frames = Hdf5Frames.of(semantics, "/warped_image", _times(file, "/ts"), blue_first=True)
    classes = Hdf5Pictures(semantics, "/predictions")
    if (len(classes), classes.size) != (len(frames.times_us), frames.size):
        raise DataError(
            "images and their classes differ in number or size", where=semantics,
            found=f"{len(frames.times_us)} images {frames.size}, {len(classes)} {classes.size}",
        )  # fmt: skip
    found = f"left events, {len(frames.times_us):,} images warped by the authors, with classes"
    return _source(name, path, "left", frames, frames.size, config, found, None, semantics)


def _source(
    name: str,
    path: Path,
    camera: str,
    frames: Hdf5Frames,
    size: tuple[int, int],
    config: Settings,
    found: str,
    rig: Rig | None,
    classes: Path | None = None,
) -> EventCamera:
    options = {
        "topic": f"/prophesee/{camera}", "time_unit": "us", "max_bad": config.tolerated,
    }  # fmt: skip
    images = "warped" if classes else config.images
    return EventCamera(
        name=f"{name}_{camera}",
        recording=path,
        size=size,
        options=options,
        frames=frames,
        times=None,
        pixel_map=None,
        calibration=None,
        rule=window_rule(config),
        lossless=config.lossless,
        origin={"sequence": name, "camera": camera, "images": images},
        found=found,
        rig=rig,
        classes=classes,
        scene=name,
    )


def _times(file: Hdf5File, name: str) -> np.ndarray:
    """(F,) int64 ascending microseconds."""
    stamps = file.checked(name)
    if stamps.dtype.kind not in "iu" or len(stamps.shape or ()) != 1:
        raise DataError(
            "not image times", where=f"{file.path}, dataset {name}",
            found=f"{stamps.dtype} {stamps.shape}", expected="whole microseconds, one an image",
        )  # fmt: skip
    times = file.read(Part(name))[0].astype(np.int64)
    return in_order(times, f"{file.path}, dataset {name}, entry")


def _calibration(file: Hdf5File, camera: str) -> dict[str, object]:
    """Of one camera, by the keys of `calibration.read_rig`; keys that the file lacks are absent."""
    names = {
        "camera_matrix": "intrinsics", "distortion_coeffs": "distortion_coeffs",
        "resolution": "resolution",
    }  # fmt: skip
    values: dict[str, object] = {
        key: _numbers(file, f"{camera}/calib/{name}") for key, name in names.items()
    }
    for model in ("camera_model", "distortion_model"):
        values[model] = file.text(f"{camera}/calib/{model}")
    return values


def _turn(file: Hdf5File, events: str, images: str) -> list[list[float]]:
    """(4, 4) whose rotation takes rays of the event camera to rays of the image camera."""
    turn = np.eye(4)
    to_left = [
        np.array(_numbers(file, f"{one}/calib/T_to_prophesee_left")) for one in (events, images)
    ]
    for values, camera in zip(to_left, (events, images), strict=True):
        if values.shape != (4, 4):
            raise DataError(
                "not a pose", where=f"{file.path}, dataset {camera}/calib/T_to_prophesee_left",
                found=f"shape {values.shape}", expected="(4, 4)",
            )  # fmt: skip
    turn[:3, :3] = to_left[1][:3, :3].T @ to_left[0][:3, :3]
    rows: list[list[float]] = turn.tolist()
    return rows


def _numbers(file: Hdf5File, name: str) -> list[float]:
    """The values of a small dataset, nested."""
    file.checked(name)
    values: list[float] = np.asarray(file.read(Part(name))[0], np.float64).tolist()
    return values
