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

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from scaleevent.config.data import SequencesConfig
from scaleevent.errors import DataError
from scaleevent.events import first_backward_step
from scaleevent.formats import Recording, open_recording
from scaleevent.formats.columns import to_microseconds
from scaleevent.pairs.pair import Pair, encode_image

SIZE = (260, 346)
CAMERA = "davis/left"
DATA, TRUTH, FLOW_TRUTH = "_data.hdf5", "_gt.hdf5", "_gt_flow_dist.npz"

DAMAGE = (OSError, LookupError, RuntimeError, ValueError, TypeError, ArithmeticError)
"""What the HDF5 library raises on files that are not whole."""

BLOCK_BYTES, BLOCK_MAPS = 16 << 20, 8
"""Maps read at once, whichever are more: neighbours lie in the same chunks of the file, and the
flow between two images goes back by a few maps."""


def find_scenes(config: SequencesConfig, known: Collection[str]) -> dict[str, Path]:
    """The data file of every scene of a benchmark that is wanted and there, in order of name.

    Raises:
        ConfigError: No root, or a scene is asked for that is not one of them.
        DataError: No scene, or one that is asked for is not there.
    """
    config.require_roots()
    config.check_sequences(known)
    wanted = sorted(set(config.sequences or known))
    places = {name: find_file(config.roots, name + DATA) for name in wanted}
    found = {name: path for name, path in places.items() if path is not None}
    lost = sorted(set(config.sequences) - set(found))
    if lost or not found:
        raise DataError(
            "files of MVSEC are missing",
            where=", ".join(map(str, config.roots)),
            expected=", ".join(name + DATA for name in lost or wanted),
            hint="they may lie up to two folders below",
        )
    return found


def find_file(roots: list[Path], name: str) -> Path | None:
    """A file by its name, up to two folders below the roots.

    Raises:
        DataError: It is there twice.
    """
    hits = [
        path for root in roots for depth in ("", "*/", "*/*/") for path in root.glob(depth + name)
    ]
    places = sorted({str(path.resolve()) for path in hits})
    if len(places) > 1:
        raise DataError("file found twice", where=name, found=", ".join(places))
    return hits[0] if hits else None


def find_truths(
    config: SequencesConfig, scenes: Collection[str], endings: tuple[str, ...]
) -> dict[str, Path]:
    """The ground-truth file of every scene: the first of the endings that is there.

    Raises:
        DataError: Scenes that have none, all named.
    """
    hits = {
        name: [path for ending in endings if (path := find_file(config.roots, name + ending))]
        for name in scenes
    }
    missing = [name for name, paths in hits.items() if not paths]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(scenes)} sequences have no ground truth",
            where=", ".join(map(str, config.roots)),
            found=", ".join(name + DATA for name in missing) + " alone",
            expected=" or ".join(missing[0] + ending for ending in endings),
            hint="download it, or name the sequences that are whole: --sequences",
        )
    return {name: paths[0] for name, paths in hits.items()}


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


class BlockReader:
    """Numbered maps, read in blocks of neighbours; the last two blocks are held.

    A reader that goes forward, and back by less than a block, reads everything once.

    Args:
        read: Returns the maps from one index up to another.
        length: Number of maps.
        item_bytes: Size of one.
    """

    def __init__(
        self, read: Callable[[int, int], np.ndarray], length: int, item_bytes: int
    ) -> None:
        self._read, self._length = read, length
        self._block = max(BLOCK_BYTES // item_bytes, BLOCK_MAPS)
        self._held: dict[int, np.ndarray] = {}

    def __getitem__(self, index: int) -> np.ndarray:
        block, inside = divmod(index, self._block)
        if block not in self._held:
            start = block * self._block
            while len(self._held) > 1:
                del self._held[min(self._held)]
            self._held[block] = self._read(start, min(start + self._block, self._length))
        return np.asarray(self._held[block][inside])


class Hdf5Maps:
    """Pictures or maps of one HDF5 dataset with their times; a context that closes the file.

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
        self.path, self.name = path, name
        shape = SIZE if planes is None else (planes, *SIZE)
        with ExitStack() as opened:  # closes the file if it cannot be used
            try:
                self._file = opened.enter_context(h5py.File(path, "r"))
                self._maps = self._dataset(name, kind)
                stamps = self._dataset(f"{name}_ts", np.floating)
                seconds = stamps[()]
            except DAMAGE as error:
                raise self._damaged(error) from None
            if self._maps.shape[1:] != shape or stamps.shape != self._maps.shape[:1]:
                raise DataError(
                    "maps of another size, or without a time each",
                    where=f"{path}, dataset {name}",
                    found=f"{self._maps.shape}, {stamps.shape} times",
                    expected=f"(K, {', '.join(map(str, shape))}) and K times",
                )
            self.times_us = ascending_times(seconds, f"{path}, dataset {name}_ts")
            opened.pop_all()
        item_bytes = prod(shape) * self._maps.dtype.itemsize
        self._reader = BlockReader(self.read, len(self._maps), item_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.times_us)

    def __getitem__(self, index: int) -> np.ndarray:
        """One map, as stored; a view.

        Raises:
            DataError: Damaged data.
        """
        return self._reader[index]

    def read(self, start: int, stop: int) -> np.ndarray:
        """The maps from index `start` up to `stop`.

        Raises:
            DataError: Damaged data.
        """
        try:
            return np.asarray(self._maps[start:stop])
        except DAMAGE as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            "damaged HDF5 file",
            where=f"{self.path}, dataset {self.name}",
            found=str(error).strip("'\"").partition("\n")[0] or type(error).__name__,
            hint="copy the file again; a download cut short looks like this",
        )

    def _dataset(self, name: str, kind: type[np.generic]) -> h5py.Dataset:
        """A dataset of these values that are stored, all of them, in this file."""
        data = self._file.get(name)
        where = f"{self.path}, dataset {name}"
        if not isinstance(data, h5py.Dataset) or not np.issubdtype(data.dtype, kind):
            raise DataError(
                "no such dataset",
                where=where,
                found=data.dtype if isinstance(data, h5py.Dataset) else None,
                expected=kind.__name__,
            )
        if data.external or data.is_virtual or data.file.filename != self._file.filename:
            raise DataError("the data lie in another file", where=where)
        if data.chunks is None:
            whole = data.id.get_storage_size() >= data.nbytes
        else:
            sides = zip(data.shape, data.chunks, strict=True)
            whole = data.id.get_num_chunks() == prod(-(-size // chunk) for size, chunk in sides)
        if not whole:  # reading would give made-up zeros
            raise DataError("data are missing", where=where, found="less stored than declared")
        return data


def open_images(data: Path) -> Hdf5Maps:
    """The grey images of a `_data.hdf5`."""
    return Hdf5Maps(data, f"{CAMERA}/image_raw", np.uint8)


def ascending_times(seconds: np.ndarray, where: str) -> np.ndarray:
    """(K,) int64 microseconds of float64 seconds, rounded to nearest.

    Raises:
        DataError: Not numbers, or out of order.
    """
    times = to_microseconds(np.asarray(seconds, np.float64), "s", 0, where)
    back = first_backward_step(times)
    if back is not None:
        raise DataError(
            "times step back",
            where=f"{where}, entry {back}",
            found=f"{times[back]} us after {times[back - 1]} us",
        )
    return times


def complete(
    pairs: Iterable[Pair], task: str, images: Hdf5Maps, lossless: bool, counts: Counter[str]
) -> Iterator[Pair]:
    """The pairs with their grey image, those without a known label left out and counted.

    Args:
        pairs: From `scaleevent.datasets.timed_labels.pair_labels`; `frame` in the provenance is the
            index of the image, None for none.
        task: Name of the label, NaN where unknown.
        images: The grey images.
        lossless: Encode as PNG.
        counts: Tally of the pairs, corrected for those left out.

    Raises:
        DataError: Not one label is left.
    """
    made = False
    for pair in pairs:
        if np.isnan(pair.labels[task].values).all():
            counts["pairs"] -= 1
            counts[f"labels dropped: no pixel with {task}"] += 1
            continue
        made = True
        frame = pair.provenance["frame"]
        image = b"" if frame is None else encode_image(images[frame], lossless)
        yield replace(pair, image=image)
    if not made:
        raise DataError(
            f"no {task} label can be used",
            where=images.path,
            found={key: n for key, n in counts.items() if key.startswith("labels")},
        )
