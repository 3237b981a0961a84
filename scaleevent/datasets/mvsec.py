"""MVSEC as its authors' HDF5 files hold it: the left DAVIS346, raw (distorted) pixels.

    SCENE_data.hdf5          davis/left/{events, image_raw, image_raw_ts}
    SCENE_gt.hdf5            davis/left/{depth_image_raw, flow_dist} and their times NAME_ts
    SCENE_gt_flow_dist.npz   the same flow: timestamps, x_flow_dist, y_flow_dist

They may lie anywhere up to two folders below the roots. Times are seconds since 1970 in float64,
whose step there is 0.24 us: rounded to whole microseconds they are the camera's own stamps again.
Keys and units: daniilidis-group/mvsec:website/content/download/index.md and
tub-rip/event_based_optical_flow:src/data_loader/mvsec.py.
"""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from scaleevent.config.data import SequencesConfig
from scaleevent.datasets.finding import files_below, find_known, only_once, require
from scaleevent.datasets.hdf5_frames import BlockReader
from scaleevent.datasets.timed_labels import TimedLabel, complete, in_order, pair_labels
from scaleevent.errors import DataError
from scaleevent.formats import Recording, open_recording
from scaleevent.formats.columns import to_microseconds
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pair import Pair, encode_image
from scaleevent.system.hdf5_process import Dataset, Hdf5File, Part
from scaleevent.system.refusals import refusal

SIZE = (260, 346)
CAMERA = "davis/left"
DATA, TRUTH, FLOW_TRUTH = "_data.hdf5", "_gt.hdf5", "_gt_flow_dist.npz"

DAMAGE = (
    *(OSError, LookupError, RuntimeError, ValueError, TypeError, ArithmeticError),
    *(EOFError, zlib.error, zipfile.BadZipFile),
)
"""What archives raise on files that are not whole."""


@dataclass(frozen=True)
class Scene(ABC):
    """One scene: a `PairSource`, `Replayable`; a subclass reads its truth and makes labels of it.

    Args:
        data: Its `_data.hdf5`.
        truth: The file of its ground truth.
        rule: How the window before a label is found; None for labels of a span.
        lossless: Encode images as PNG.
    """

    task: ClassVar[str]

    name: str
    data: Path
    truth: Path
    rule: WindowRule | None
    lossless: bool
    expected: int
    found: str

    @property
    def scene(self) -> str:
        """Recording name of its pairs."""
        return self.name

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Both files."""
        return (self.data, self.truth)

    @abstractmethod
    def labels(self, truth: TimedMaps, images: TimedMaps, counts: Counter[str]) -> list[TimedLabel]:
        """The labels; `frame` in their provenance is the index of their image, None for none."""

    @classmethod
    @abstractmethod
    def open_truth(cls, path: Path) -> TimedMaps:
        """The ground truth in a file."""

    def opened(self) -> Recording:
        """The events of the left camera."""
        return open_left(self.data)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """A pair for every label that is known at some pixel and has events."""
        with self.open_truth(self.truth) as truth, open_images(self.data) as images:

            def image(pair: Pair) -> bytes:
                frame = pair.provenance["frame"]
                return b"" if frame is None else encode_image(images[frame], self.lossless)

            labels = self.labels(truth, images, counts)
            pairs = pair_labels(self.opened(), labels, self.task, self.rule, self.name, counts)
            yield from complete(pairs, self.task, self.task, image, counts, self.data)
            truth.verify()


def find_scenes(
    config: SequencesConfig, known: Collection[str], endings: tuple[str, ...]
) -> dict[str, tuple[Path, Path]]:
    """Data file and ground truth of every scene that is wanted and there, in order of name.

    Args:
        config: Roots and wanted scenes.
        known: The scenes of the benchmark.
        endings: Of files of ground truth; the first that is there is taken.

    Raises:
        ConfigError: No root, or a scene that is not of the benchmark.
        DataError: No scene, one that is there twice or not at all, or without ground truth.
    """
    data = find_known(config, known, known, f"*{DATA}", lambda path: path.name.removesuffix(DATA))
    truths = {}
    for name in data:
        names = [name + ending for ending in endings]
        hits = only_once((n, path) for n in names for path in files_below(config.roots, n))
        truths[name] = {f"ground truth {' or '.join(names)}": next(iter(hits.values()), None)}
    return {name: (data[name], truth) for name, (truth,) in require(truths, config.roots).items()}


def open_left(path: Path) -> Recording:
    """The left camera's events of a `_data.hdf5`.

    Raises:
        DataError: Damaged, or without them.
    """
    recording = open_recording(path, size=SIZE, time_unit="s")
    stream = recording.notes["events"]
    if stream != f"/{CAMERA}/events":
        raise DataError(
            "no events of the left camera", where=path, found=stream, expected=f"/{CAMERA}/events"
        )
    return recording


@contextmanager
def damage_as_data_error(what: str, where: object) -> Iterator[None]:
    """Convert every error on a file that is not whole to a DataError."""
    try:
        yield
    except DAMAGE as error:
        problem = refusal(error, where)
        if problem is not None:
            raise problem from None
        raise DataError(
            what,
            where=where,
            found=str(error).strip("'\"").partition("\n")[0] or type(error).__name__,
            hint="copy the file again; a download cut short looks like this",
        ) from None


class TimedMaps(ABC):
    """Maps by number with their times; a context that closes their file.

    Attributes:
        times_us: (K,) ascending times.
    """

    times_us: np.ndarray

    def __init__(self) -> None:
        self.opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.opened.close()

    def __len__(self) -> int:
        return len(self.times_us)

    @abstractmethod
    def __getitem__(self, index: int) -> np.ndarray:
        """One map, as stored; a view.

        Raises:
            DataError: Damaged data.
        """

    def verify(self) -> None:  # noqa: B027 - most formats check what they read
        """Compare checksums that a format has only for the whole of its data.

        Raises:
            DataError: Damaged data.
        """


class Hdf5Maps(TimedMaps):
    """Pictures or maps of one HDF5 dataset.

    Args:
        path: The file.
        name: Dataset (K, 260, 346), or with `planes` (K, planes, 260, 346); times are in NAME_ts.
        kind: Type of its values.
        planes: Values a pixel.

    Raises:
        DataError: Damaged, absent, of another size, or times that are no times or step back.
    """

    def __init__(
        self, path: Path, name: str, kind: type[np.generic], planes: int | None = None
    ) -> None:
        super().__init__()
        self.path, self.name = path, name
        shape = SIZE if planes is None else (planes, *SIZE)
        where = f"{path}, dataset {name}"
        self._file = Hdf5File(path)
        maps = self._dataset(name, kind)
        stamps = self._dataset(f"{name}_ts", np.floating)
        if maps.shape != (len(maps), *shape) or stamps.shape != (len(maps),):
            raise DataError(
                "maps of another size, or without a time each",
                where=where,
                found=f"{maps.shape}, {stamps.shape} times",
                expected=f"(K, {', '.join(map(str, shape))}) and K times",
            )
        (seconds,) = self._file.read(Part(stamps.name))
        self.times_us = ascending_times(seconds, f"{where}_ts")
        self._reader = BlockReader(self.read, len(maps), prod(shape) * maps.dtype.itemsize)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._reader[index]

    def read(self, start: int, stop: int) -> np.ndarray:
        """The maps from index `start` up to `stop`.

        Raises:
            DataError: Damaged data.
        """
        return self._file.read(Part(f"/{self.name}", (start, stop)))[0]

    def _dataset(self, name: str, kind: type[np.generic]) -> Dataset:
        """A dataset of these values that are stored, all of them, in this file."""
        data = self._file.datasets.get(f"/{name}")
        if data is not None and not np.issubdtype(data.dtype, kind):
            where = f"{self.path}, dataset {name}"
            found, expected = data.dtype, kind.__name__
            raise DataError("no such dataset", where=where, found=found, expected=expected)
        return self._file.checked(f"/{name}")


def open_images(data: Path) -> Hdf5Maps:
    """The grey images of a `_data.hdf5`."""
    return Hdf5Maps(data, f"{CAMERA}/image_raw", np.uint8)


def ascending_times(seconds: np.ndarray, where: str) -> np.ndarray:
    """(K,) int64 microseconds of float64 seconds, rounded to nearest.

    Raises:
        DataError: Not numbers, or out of order.
    """
    times = to_microseconds(np.asarray(seconds, np.float64), "s", 0, where)
    return in_order(times, f"{where}, entry")
