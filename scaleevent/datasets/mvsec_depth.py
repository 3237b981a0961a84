"""`mvsec-depth`: MVSEC's driving scenes with LiDAR depth, in the raw view of the left camera.

Labels are `depth_image_raw`, the depth of the distorted pixels, with the events as the camera
gave them: whole pixels, and no calibration file is needed. `depth_image_rect` would need events
moved to fractions of pixels. DepthAnyEvent feeds raw events too
(Tesla-SHT/depthanyevent:dataset/mvsec_dataset/sbt/mvsec_sequence.py); which of the two maps
E2Depth's processed files hold, on which published numbers rest, is not documented.

Each map (20 Hz) is a pair whose window ends at it, 50 ms in the published protocol
(`--window time`). Grey images come at other times: a pair has the nearest one, if it is near.
Outdoor_day2 trains, of which E2Depth left some maps out (no list is public); outdoor_day1 and the
nights are tested on.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from scaleevent.config.data import SequencesConfig, WindowSettings
from scaleevent.datasets.mvsec import (
    CAMERA,
    TRUTH,
    Hdf5Maps,
    Scene,
    TimedMaps,
    find_scenes,
    open_images,
)
from scaleevent.datasets.timed_labels import TimedLabel
from scaleevent.pairs.pairing import window_rule

DEPTH = f"{CAMERA}/depth_image_raw"

SCENES = {
    "outdoor_day1": ("test", "day"),
    "outdoor_day2": ("train", "day"),
    "outdoor_night1": ("test", "night"),
    "outdoor_night2": ("test", "night"),
    "outdoor_night3": ("test", "night"),
}
"""Split and subset of the scenes: Tesla-SHT/depthanyevent:dataset/mvsec_dataset."""

SPLITS = {name: split for name, (split, _) in SCENES.items()}

NEAR_US = 50_000
"""A grey image this far from a map still shows its scene: the time between maps."""


class Settings(SequencesConfig, WindowSettings):
    """What `mvsec-depth` adds to the settings of `prepare`."""


class DepthScene(Scene):
    """A scene with depth."""

    task = "depth"

    @classmethod
    def open_truth(cls, path: Path) -> Hdf5Maps:
        """The depth maps of a `_gt.hdf5`."""
        return Hdf5Maps(path, DEPTH, np.floating)

    def labels(self, truth: TimedMaps, images: TimedMaps, counts: Counter[str]) -> list[TimedLabel]:
        """The maps, each with the index of the image nearest in time."""
        split, subset = SCENES[self.name]
        origin = {"sequence": self.name, "split": split, "subset": subset}
        frames = nearest_images(truth.times_us, images.times_us)
        labels = []
        for index, (time, frame) in enumerate(zip(truth.times_us.tolist(), frames, strict=True)):
            seen = {} if frame is None else {"frame_us": int(images.times_us[frame])}
            load = partial(valid_depth, truth, index)
            provenance = {**origin, "map": index, "frame": frame, **seen}
            labels.append(TimedLabel(time, time, load, provenance))
        return labels


def valid_depth(depths: TimedMaps, index: int) -> np.ndarray:
    """(H, W) float32 metres, NaN wherever there is no positive finite depth."""
    depth = np.asarray(depths[index], np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


def nearest_images(times_us: np.ndarray, images_us: np.ndarray) -> list[int | None]:
    """Index of the image nearest to each time, the earlier of two; None where none is near.

    Args:
        times_us: (K,) times.
        images_us: (F,) ascending image times.
    """
    if not len(images_us):
        return [None] * len(times_us)
    after = np.searchsorted(images_us, times_us, "left").clip(0, len(images_us) - 1)
    before = (after - 1).clip(0)
    earlier, later = np.abs(times_us - images_us[before]), np.abs(times_us - images_us[after])
    nearest = np.where(earlier <= later, before, after)
    near = np.minimum(earlier, later) <= NEAR_US
    return [int(k) if ok else None for k, ok in zip(nearest, near, strict=True)]


def sources(config: Settings) -> list[DepthScene]:
    """The scenes of the benchmark found under the roots.

    Raises:
        ConfigError: No root, or a scene that is not of the benchmark.
        DataError: No scene, a ground truth that is missing, unusable files.
    """
    scenes = find_scenes(config, SCENES, (TRUTH,))
    return [_source(name, *files, config) for name, files in scenes.items()]


def _source(name: str, data: Path, truth: Path, config: Settings) -> DepthScene:
    with DepthScene.open_truth(truth) as depths, open_images(data) as images:
        found = f"{len(depths)} depth maps, {len(images)} grey images"
        rule = window_rule(config)
        return DepthScene(name, data, truth, rule, config.lossless, len(depths), found)
