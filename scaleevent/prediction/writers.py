"""Predictions as files: pictures, arrays, one HDF5 file, a video; and the times of all."""

from __future__ import annotations

import csv
import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import hdf5plugin
import numpy as np

from scaleevent.config.predict import Kind
from scaleevent.errors import MissingPackageError
from scaleevent.panels import save_picture
from scaleevent.prediction.cutting import Cut
from scaleevent.prediction.views import View
from scaleevent.system.files import atomic_path
from scaleevent.system.hdf5 import new_hdf5

if TYPE_CHECKING:
    from av.video.stream import VideoStream

PICTURES, ARRAYS, HDF5, VIDEO, TIMES = "pictures", "maps", "maps.h5", "video.mp4", "times.csv"
COLUMNS = (
    "index", "stretch", "window_start_us", "window_end_us", "seconds", "events", "stop", "file",
)  # fmt: skip
CLOCK = 60_000  # ticks a second of a video; mpeg4 takes no more than 65,535
TABLE_ROWS = 1024


class Writer(ExitStack):
    """Writes the predictions of one recording in one form; a context manager."""

    @abstractmethod
    def write(self, cut: Cut, values: np.ndarray, picture: np.ndarray | None) -> str:
        """Write one, and return its file's name within the recording's folder."""


class PictureWriter(Writer):
    """A PNG for each window."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def write(self, cut: Cut, values: np.ndarray, picture: np.ndarray | None) -> str:
        """See `Writer`."""
        assert picture is not None
        name = f"{PICTURES}/{cut.index:06d}.png"
        save_picture(self.folder / name, picture)
        return name


class ArrayWriter(Writer):
    """A .npy for each window."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def write(self, cut: Cut, values: np.ndarray, picture: np.ndarray | None) -> str:
        """See `Writer`."""
        name = f"{ARRAYS}/{cut.index:06d}.npy"
        with atomic_path(self.folder / name, values.nbytes) as temporary:
            with open(temporary, "wb") as file:
                np.save(file, values, allow_pickle=False)
        return name


class Hdf5Writer(Writer):
    """All windows in one HDF5 file, with checksums; it gets its name when all are written.

    Data sets: `map` (N, ...), `window_us` (N, 2) and `first_us` (N,) int64, `events` (N,) int64.
    Attributes: `view`, `unit`, `recording`, `sensor` (height, width).
    """

    def __init__(self, folder: Path, view: View, recording: str) -> None:
        super().__init__()
        self.path = folder / HDF5
        self._about = {"view": view.name, "unit": view.unit, "recording": recording}

    def __enter__(self) -> Hdf5Writer:
        with ExitStack() as stack:
            self._file, self._check = stack.enter_context(new_hdf5(self.path))
            self._file.attrs.update(self._about)
            self.push(stack.pop_all())
        return self

    def write(self, cut: Cut, values: np.ndarray, picture: np.ndarray | None) -> str:
        """See `Writer`."""
        self._check()
        self._file.attrs["sensor"] = values.shape[-2:]
        window = cut.window
        self._append("map", values, 1)
        for name, row in (
            ("window_us", np.array([window.start_us, window.end_us], np.int64)),
            ("first_us", np.int64(cut.first_us)),
            ("events", np.int64(len(cut.events))),
        ):
            self._append(name, np.asarray(row), TABLE_ROWS)
        return HDF5

    def _append(self, name: str, row: np.ndarray, chunk: int) -> None:
        if name not in self._file:
            self._file.create_dataset(
                name, (0, *row.shape), row.dtype, maxshape=(None, *row.shape),
                chunks=(chunk, *row.shape), fletcher32=True,
                **hdf5plugin.Blosc("lz4", 5, hdf5plugin.Blosc.SHUFFLE),
            )  # fmt: skip
        table = self._file[name]
        table.resize(table.shape[0] + 1, axis=0)
        table[-1] = row


class VideoWriter(Writer):
    """One MP4 file of the pictures, each shown at the time its window ended.

    Args:
        folder: Of the recording.
        rate: Pictures a second, where they come at a fixed rate.

    Raises:
        MissingPackageError: The package av is absent.
    """

    def __init__(self, folder: Path, rate: float) -> None:
        super().__init__()
        check_packages(["video"])
        import av

        self._av = av
        self.path = folder / VIDEO
        self.rate = max(Fraction(rate).limit_denominator(1000), Fraction(1, 1000))
        self.codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"

    def __enter__(self) -> VideoWriter:
        self._tick, self._end = 0, 0
        self._stream: VideoStream | None = None
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            self._video = stack.enter_context(self._av.open(str(temporary), "w", format="mp4"))
            stack.push(self._flush)
            self.push(stack.pop_all())
        return self

    def write(self, cut: Cut, values: np.ndarray, picture: np.ndarray | None) -> str:
        """See `Writer`."""
        assert picture is not None
        rows, columns = (side + side % 2 for side in picture.shape[:2])  # codecs want even sides
        even = np.full((rows, columns, 3), 255, np.uint8)
        even[: picture.shape[0], : picture.shape[1]] = picture
        end = cut.window.end_us
        if self._stream is None:
            self._stream = self._begun(rows, columns)
        else:
            passed = round((end - self._end) * CLOCK / 1e6)
            usual = round(CLOCK / self.rate)
            self._tick += max(passed if end > self._end else usual, 1)  # a clock reset goes on
        self._end = end
        frame = self._av.VideoFrame.from_ndarray(even, format="rgb24")
        frame.pts, frame.time_base = self._tick, Fraction(1, CLOCK)
        for packet in self._stream.encode(frame):
            self._video.mux(packet)
        return VIDEO

    def _begun(self, rows: int, columns: int) -> VideoStream:
        stream = cast("VideoStream", self._video.add_stream(self.codec, rate=self.rate))
        stream.width, stream.height, stream.pix_fmt = columns, rows, "yuv420p"
        stream.codec_context.time_base = Fraction(1, CLOCK)
        if self.codec == "mpeg4":  # it takes a bit rate instead of a quality
            stream.bit_rate = 8 * rows * columns
        return stream

    def _flush(self, kind: object, *_: object) -> None:
        if kind is None and self._stream is not None:
            for packet in self._stream.encode():
                self._video.mux(packet)


class TimesWriter(ExitStack):
    """`times.csv`: a line for each window."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / TIMES
        self._file: IO[str]

    def __enter__(self) -> TimesWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            self._file = stack.enter_context(open(temporary, "w", encoding="utf-8", newline=""))
            self._lines = csv.writer(self._file, lineterminator="\n")
            self._lines.writerow(COLUMNS)
            self.push(stack.pop_all())
        return self

    def add(self, cut: Cut, files: Sequence[str]) -> None:
        """One line; several files are separated by blanks."""
        window = cut.window
        seconds = f"{(window.end_us - cut.first_us) / 1e6:.6f}"
        self._lines.writerow(
            (cut.index, cut.stretch, window.start_us, window.end_us, seconds, len(cut.events),
             window.stop, " ".join(files))
        )  # fmt: skip


def check_packages(kinds: Sequence[Kind]) -> None:
    """Refuse kinds of files whose package is absent, before anything is done.

    Raises:
        MissingPackageError: It and how to install it.
    """
    if "video" in kinds and importlib.util.find_spec("av") is None:
        raise MissingPackageError("av", "video", "writing a video")


def writers(
    kinds: Sequence[Kind], folder: Path, view: View, recording: str, rate: float
) -> list[Writer]:
    """The writers of some kinds of files, not yet entered."""
    made: dict[Kind, Callable[[], Writer]] = {
        "png": lambda: PictureWriter(folder),
        "npy": lambda: ArrayWriter(folder),
        "hdf5": lambda: Hdf5Writer(folder, view, recording),
        "video": lambda: VideoWriter(folder, rate),
    }
    return [made[kind]() for kind in kinds]
