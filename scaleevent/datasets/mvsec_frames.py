"""`mvsec`: MVSEC's grey images with the events before them, of both DAVIS346 or of one.

    SCENE_data.hdf5    davis/{left,right}/{events, image_raw, image_raw_ts}

Events and images of a camera are on the same pixels: there is nothing to align. Both cameras see
one scene, so their pairs have one recording name and stay on one side of every split. The driving
scenes by day have no images of the right camera. Layout and units: `datasets.mvsec`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scaleevent.config.data import DamageSettings, SourceConfig, WindowSettings
from scaleevent.datasets.finding import find_known
from scaleevent.datasets.frames import EventView, FramedRecording
from scaleevent.datasets.hdf5_frames import Hdf5Frames
from scaleevent.datasets.held_out import Tests, leave_out
from scaleevent.datasets.mvsec import DATA, SIZE, ascending_times
from scaleevent.errors import DataError
from scaleevent.pairs.pairing import window_rule
from scaleevent.system.hdf5_process import Hdf5File, Part

SCENES = (
    *("indoor_flying1", "indoor_flying2", "indoor_flying3", "indoor_flying4"),
    *("outdoor_day1", "outdoor_day2", "outdoor_night1", "outdoor_night2", "outdoor_night3"),
    "motorcycle1",
)
"""daniilidis-group/mvsec:website/content/download/index.md."""

CAMERAS = ("left", "right")


class Settings(SourceConfig, WindowSettings, DamageSettings):
    """What `mvsec` adds to the settings of `prepare`."""

    camera: Literal["both", "left", "right"] = Field(default="both", description="DAVIS to take")


class DavisFrames(FramedRecording):
    """One DAVIS in one scene: images and events on the same pixels."""

    def view(self) -> EventView:
        """Images are on the event pixels as they are."""
        return EventView(*self.size, self.lossless)


def sources(config: Settings) -> list[DavisFrames]:
    """The cameras of the scenes found under the roots, without scenes that test benchmarks.

    Raises:
        ConfigError: No root, an unknown scene, or a test scene that was named.
        DataError: No scene, one that is found twice, or unusable files.
    """
    files = _found(config)
    out = leave_out(config, list(files))
    wanted = CAMERAS if config.camera == "both" else (config.camera,)
    found = []
    for scene, path in files.items():
        if scene not in out:
            found += _cameras(scene, path, wanted, config)
    return found


def left_out(config: Settings) -> Tests:
    """The scenes under the roots that `sources` leaves out, and what they test.

    Raises:
        ConfigError, DataError: As `sources`.
    """
    return leave_out(config, list(_found(config)))


def _found(config: Settings) -> dict[str, Path]:
    """The data file of every scene that is wanted and there, in order of name."""
    return find_known(config, SCENES, SCENES, f"*{DATA}", lambda path: path.name.removesuffix(DATA))


def _cameras(
    scene: str, path: Path, wanted: tuple[str, ...], config: Settings
) -> list[DavisFrames]:
    """The wanted cameras that have images; of several, one without is said."""
    datasets = Hdf5File(path).datasets
    with_images = [name for name in wanted if f"/davis/{name}/image_raw" in datasets]
    if not with_images:
        raise DataError(
            "no images in this file", where=path, found=", ".join([*datasets][:12]) or "nothing",
            expected=" or ".join(f"/davis/{name}/image_raw" for name in wanted),
        )  # fmt: skip
    without = [name for name in wanted if name not in with_images]
    lacking = f"; the {without[0]} camera has no images" if without else ""
    return [_source(scene, path, name, lacking, config) for name in with_images]


def _source(scene: str, path: Path, camera: str, lacking: str, config: Settings) -> DavisFrames:
    images = f"/davis/{camera}/image_raw"
    file = Hdf5File(path)
    stamps = file.checked(f"{images}_ts")
    if stamps.dtype.kind != "f" or len(stamps.shape or ()) != 1:
        raise DataError(
            "not image times", where=f"{path}, dataset {stamps.name}",
            found=f"{stamps.dtype} {stamps.shape}", expected="seconds, one an image",
        )  # fmt: skip
    (seconds,) = file.read(Part(stamps.name))
    times_us = ascending_times(np.asarray(seconds), f"{path}, dataset {stamps.name}")
    frames = Hdf5Frames.of(path, images, times_us)
    if frames.size != SIZE:
        raise DataError(
            "images of another sensor", where=f"{path}, dataset {images}",
            found=f"{frames.size[1]}x{frames.size[0]}", expected=f"{SIZE[1]}x{SIZE[0]}",
        )  # fmt: skip
    events = f"/davis/{camera}/events"
    file.checked(events)
    return DavisFrames(
        name=f"{scene}_{camera}",
        recording=path,
        size=SIZE,
        # rows are x, y, t in seconds since 1970, p in -1, +1
        options={
            "time_unit": "s", "columns": "x y t p", "topic": events, "max_bad": config.tolerated,
        },
        frames=frames,
        times=None,
        pixel_map=None,
        calibration=None,
        rule=window_rule(config),
        lossless=config.lossless,
        origin={"sequence": scene, "camera": camera},
        found=f"{camera} camera, {len(frames.times_us):,} grey images{lacking}",
        scene=scene,
    )  # fmt: skip
