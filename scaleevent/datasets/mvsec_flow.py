"""`mvsec-flow`: MVSEC's optical flow between grey images, in the raw view of the left camera.

A pair stands at an image at t0; the next image, or the fourth with `dt` 4, is at t1. The label is
the flow from t0 to t1 (`datasets.flow_propagation`). Its windows are [t0, t1), the one every
published protocol feeds, and before it one as long, [t0 - (t1 - t0), t0), which two-frame networks
such as E-RAFT take as well.

Flow 0 in both components means unknown, here NaN. One component alone may be 0 where the
propagation lost it: EV-FlowNet's evaluation counts such pixels, tub-rip's does not.

Only frames of the published ranges are taken, unless `all_frames` asks for all that the ground
truth covers. ScaleEvent's lists are not public; its 7,775 test samples of the three indoor scenes
are more than the ranges hold.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from pydantic import Field

from scaleevent.config.data import SequencesConfig
from scaleevent.datasets.flow_propagation import propagate_flow
from scaleevent.datasets.hdf5_frames import BlockReader
from scaleevent.datasets.mvsec import (
    CAMERA,
    FLOW_TRUTH,
    SIZE,
    TRUTH,
    Hdf5Maps,
    Scene,
    TimedMaps,
    ascending_times,
    damage_as_data_error,
    find_scenes,
    open_images,
)
from scaleevent.datasets.timed_labels import TimedLabel
from scaleevent.errors import DataError

FLOW = f"{CAMERA}/flow_dist"

SCENES = {
    "indoor_flying1": ("test", slice(60, 1340)),
    "indoor_flying2": ("test", slice(140, 1500)),
    "indoor_flying3": ("test", slice(100, 1711)),
    "outdoor_day1": ("test", slice(4356, 4706)),
    "outdoor_day2": ("train", slice(30, None)),
}
"""Split, and the ground-truth maps (not images) that count: images strictly between the times of
the first and the last of them. tub-rip/event_based_optical_flow:src/data_loader/mvsec.py, and for
outdoor_day1 uzh-rpg/E-RAFT:config/mvsec_20.json."""

SPLITS = {name: split for name, (split, _) in SCENES.items()}

LONGEST_US = 500_000
"""Longest time between the two images; more is a gap in the recording."""

MOST_MAPS = 10_000_000
_PIECE = 1 << 20  # bytes


class Settings(SequencesConfig):
    """What `mvsec-flow` adds to the settings of `prepare`: windows are the spans of its labels."""

    dt: int = Field(default=1, ge=1, le=16, description="image intervals that a flow spans")
    all_frames: bool = Field(
        default=False, description="beyond the part that is usually scored, too"
    )


@dataclass(frozen=True)
class FlowScene(Scene):
    """A scene with flow.

    Args:
        dt: Images from the first to the second.
        part: Ground-truth maps whose time counts.
    """

    task = "flow"

    dt: int
    part: slice

    @classmethod
    def open_truth(cls, path: Path) -> TimedMaps:
        """The flow maps (2, 260, 346) of a `_gt_flow_dist.npz` or a `_gt.hdf5`."""
        if path.name.endswith(FLOW_TRUTH):
            return NpzFlow(path)
        return Hdf5Maps(path, FLOW, np.floating, planes=2)

    def labels(self, truth: TimedMaps, images: TimedMaps, counts: Counter[str]) -> list[TimedLabel]:
        """The flow from image to image, but for images at one time or far apart."""
        labels = []
        origin = {"sequence": self.name, "split": SCENES[self.name][0], "dt": self.dt}
        for first in first_images(images.times_us, truth.times_us, self.part, self.dt).tolist():
            start, end = images.times_us[[first, first + self.dt]].tolist()
            if 0 < end - start <= LONGEST_US:
                load = partial(flow_between, truth, start, end)
                labels.append(TimedLabel(start, end, load, origin | {"frame": first}))
                continue
            reason = "gap between the images" if end > start else "repeated time stamp"
            counts["labels"] += 1
            counts[f"labels dropped: {reason}"] += 1
        return labels


def flow_between(flow: TimedMaps, start_us: int, end_us: int) -> np.ndarray:
    """(2, H, W) float32 pixels right and down, NaN where both are unknown."""
    values = propagate_flow(flow, flow.times_us, start_us, end_us)
    values[:, (values == 0).all(0)] = np.nan
    return values.astype(np.float32)


def first_images(images_us: np.ndarray, truth_us: np.ndarray, part: slice, dt: int) -> np.ndarray:
    """(n,) indices of images in the part of the ground truth that counts, with their partners.

    Args:
        images_us: (F,) ascending image times.
        truth_us: (K,) ascending times of ground-truth maps.
        part: Maps between whose first and last time images must lie.
        dt: Images from the first to the second.
    """
    times = truth_us[part]
    if len(times) < 2 or len(images_us) <= dt:
        return np.empty(0, np.int64)
    inside = (images_us > times[0]) & (images_us < times[-1])
    return np.flatnonzero(inside[:-dt] & inside[dt:])


class NpzFlow(TimedMaps):
    """Flow maps of a `_gt_flow_dist.npz` (gigabytes), read forward.

    Args:
        path: The file: arrays `timestamps` (K,) seconds, `x_flow_dist` and `y_flow_dist`
            (K, 260, 346) pixels.

    Raises:
        DataError: Damaged, absent or of another size, or times that step back.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()  # an archive stays open as long as one of its members
        self.path = path
        with ExitStack() as opened:  # closes the file if it cannot be used
            with self._damage():
                self._archive = opened.enter_context(zipfile.ZipFile(path))
            file, shape, dtype = self._open("timestamps", opened)
            if prod(shape) > MOST_MAPS:
                where = f"{path}, array timestamps"
                raise DataError("too many maps", where=where, found=shape, expected=MOST_MAPS)
            seconds = self._read(file, shape, dtype).reshape(-1)
            self.times_us = ascending_times(seconds, f"{path}, array timestamps")
            self._files: list[IO[bytes]] = []
            self._components = [self._maps(f"{axis}_flow_dist", opened) for axis in "xy"]
            self.opened = opened.pop_all()

    def __getitem__(self, index: int) -> np.ndarray:
        return np.stack([maps[index] for maps in self._components])

    def _maps(self, name: str, opened: ExitStack) -> BlockReader:
        file, shape, dtype = self._open(name, opened)
        expected = (len(self.times_us), *SIZE)
        if shape != expected:
            raise DataError(
                "maps of another size, or without a time each",
                where=f"{self.path}, array {name}",
                found=shape,
                expected=expected,
            )
        begin, size = file.tell(), prod(SIZE) * dtype.itemsize

        def read(start: int, stop: int) -> np.ndarray:
            with self._damage():
                _go_to(file, begin + start * size)
            return self._read(file, (stop - start, *SIZE), dtype)

        self._files.append(file)
        return BlockReader(read, shape[0], size)

    def verify(self) -> None:
        """Read on to the end of both arrays, where an archive has their checksums."""
        with self._damage():
            for file in self._files:
                while file.read(_PIECE):
                    pass

    def _open(self, name: str, opened: ExitStack) -> tuple[IO[bytes], tuple[int, ...], np.dtype]:
        """An array's file behind its header, its shape and type."""
        with self._damage():
            file = opened.enter_context(self._archive.open(f"{name}.npy"))
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"array {name}: npy version {version}")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if fortran and len(shape) > 1 or dtype.kind != "f":
            raise DataError(
                "not an array of numbers, row by row",
                where=f"{self.path}, array {name}",
                found=f"{dtype}, column by column {fortran}",
            )
        return file, shape, dtype

    def _read(self, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        count = prod(shape)
        with self._damage():
            return np.frombuffer(file.read(count * dtype.itemsize), dtype, count).reshape(shape)

    def _damage(self) -> AbstractContextManager[None]:
        return damage_as_data_error("damaged NumPy archive", self.path)


def _go_to(file: IO[bytes], place: int) -> None:
    """Read on to a place in an array; only where it lies behind, seek, which loses the checksum."""
    if place < file.tell():
        file.seek(place)
    while (left := place - file.tell()) > 0 and file.read(min(left, _PIECE)):
        pass


def sources(config: Settings) -> list[FlowScene]:
    """The scenes of the benchmark found under the roots.

    Raises:
        ConfigError: No root, or a scene that is not of the benchmark.
        DataError: No scene, a ground truth that is missing or too short, unusable files.
    """
    scenes = find_scenes(config, SCENES, (FLOW_TRUTH, TRUTH))
    return [_source(name, *files, config) for name, files in scenes.items()]


def _source(name: str, data: Path, truth: Path, config: Settings) -> FlowScene:
    dt = config.dt
    part = slice(None) if config.all_frames else SCENES[name][1]
    with FlowScene.open_truth(truth) as flow, open_images(data) as images:
        if (np.diff(flow.times_us) == 0).any():
            repeated = int(np.argmin(np.diff(flow.times_us))) + 1
            raise DataError("two ground-truth maps at one time", where=f"{truth}, map {repeated}")
        expected = len(first_images(images.times_us, flow.times_us, part, dt))
        if not expected:
            raise DataError(
                "no images in the part of the ground truth that is evaluated",
                where=f"{data} and {truth}",
                found=f"{len(images)} images, {len(flow)} maps",
                expected=f"images between maps {part.start or 0} and {part.stop or len(flow)}",
            )
        found = f"{len(flow)} flow maps in {truth.name}, {len(images)} grey images, dt {dt}"
        return FlowScene(name, data, truth, None, config.lossless, expected, found, dt, part)
