"""Frames stored in a dataset of an HDF5 file, and reading numbered maps in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Self

import numpy as np

from scaleevent.datasets.frames import EventView, Frames
from scaleevent.errors import DataError
from scaleevent.formats import Recording
from scaleevent.pairs.pairing import TimedImage
from scaleevent.system.hdf5_process import Hdf5File, Part

BLOCK_BYTES, BLOCK_MAPS = 16 << 20, 8
"""Maps read at once, whichever are more: neighbours lie in the same chunks of the file, and the
flow between two images goes back by a few maps."""


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


class Hdf5Pictures:
    """Pictures or maps of 8 bits in one dataset, by number.

    Args:
        path: The file.
        dataset: (F, h, w), (F, h, w, 1) or (F, h, w, 3) uint8.

    Attributes:
        size: (height, width).

    Raises:
        DataError: No such dataset, or of another kind.
    """

    def __init__(self, path: Path, dataset: str) -> None:
        self.path, self.dataset = path, dataset
        self._file = Hdf5File(path)
        data = self._file.checked(dataset)
        shape = data.shape or ()
        if data.dtype != np.uint8 or not (
            len(shape) == 3 or len(shape) == 4 and shape[3] in (1, 3)
        ):
            raise DataError(
                "not pictures of 8 bits", where=f"{path}, dataset {dataset}",
                found=f"{data.dtype} {shape}",
                expected="uint8 (frames, height, width) or (frames, height, width, 1 or 3)",
            )  # fmt: skip
        self.size: tuple[int, int] = (shape[1], shape[2])
        self._length = shape[0]
        self._blocks = BlockReader(self._read, shape[0], prod(shape[1:]))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> np.ndarray:
        """(h, w) or (h, w, 3) uint8; a view.

        Raises:
            DataError: Damaged data, with the numbers of those that were read together.
        """
        values = self._blocks[index]
        return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values

    def _read(self, start: int, stop: int) -> np.ndarray:
        try:
            return self._file.read(Part(self.dataset, (start, stop)))[0]
        except DataError as error:
            error.where = f"{self.path}, dataset {self.dataset}, frames {start} to {stop - 1}"
            raise


@dataclass(frozen=True)
class Hdf5Frames(Frames):
    """Frames of one dataset, see `Hdf5Pictures`, in order of time.

    Args:
        dataset: Its name.
        size: (height, width) of a frame.
        blue_first: Whether colours are stored as blue, green, red.
    """

    dataset: str
    size: tuple[int, int]
    blue_first: bool = False

    @classmethod
    def of(cls, path: Path, dataset: str, times_us: np.ndarray, blue_first: bool = False) -> Self:
        """The frames of a dataset, each with its time.

        Args:
            path: The file.
            dataset: Name of the dataset.
            times_us: (F,) ascending int64.
            blue_first: Whether colours are stored as blue, green, red.

        Raises:
            DataError: No such dataset, not pictures of 8 bits, or another number of times.
        """
        maps = Hdf5Pictures(path, dataset)
        if len(times_us) != len(maps):
            raise DataError(
                "frames and time stamps differ in number", where=f"{path}, dataset {dataset}",
                found=f"{len(maps)} frames, {len(times_us)} time stamps",
                hint="copy the file again; a download cut short looks like this",
            )  # fmt: skip
        return cls(tuple(times_us.tolist()), (path,), dataset, maps.size, blue_first)

    def timed(self, recording: Recording, view: EventView) -> Iterator[TimedImage]:
        """The frames in their order, a block of neighbours read at a time."""
        (path,) = self.files
        maps = Hdf5Pictures(path, self.dataset)

        def load(index: int) -> tuple[bytes, np.ndarray | None]:
            frame = maps[index]
            frame = frame[..., ::-1] if self.blue_first and frame.ndim == 3 else frame
            where = f"{path}, dataset {self.dataset}, frame {index}"
            return view.place(np.ascontiguousarray(frame), where)

        for index, time in enumerate(self.times_us):
            yield TimedImage(time, partial(load, index), {"frame": index})
