"""Frames from a video file, through the optional package av."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np

from scaleevent.datasets.frames import EventView
from scaleevent.errors import DataError, MissingPackageError
from scaleevent.formats import Recording
from scaleevent.pairs.pairing import TimedImage


@dataclass(frozen=True)
class VideoFile:
    """Frames of a video; its own clock is not used.

    Args:
        times_us: Image times on the clock of the events, one a frame, ascending.
        path: The file.
        first: Frames of the video before the first of these.
    """

    times_us: tuple[int, ...]
    path: Path
    first: int = 0

    @property
    def expected(self) -> int:
        """Number of frames."""
        return len(self.times_us)

    @property
    def files(self) -> tuple[Path, ...]:
        """The video."""
        return (self.path,)

    def timed(self, recording: Recording, view: EventView) -> Iterator[TimedImage]:
        """The frames in the order of the video."""
        images = islice(video_frames(self.path), self.first, None)
        for index, time in enumerate(self.times_us, self.first):
            image = next(images, None)
            if image is None:
                raise DataError(
                    "the video ends early",
                    where=self.path,
                    found=f"{index} frames that can be decoded",
                    expected=f"{self.first + self.expected}, one for every time stamp",
                )
            load = partial(view.place, image, f"{self.path}, frame {index}")
            yield TimedImage(time, load, {"frame": index})


def video_length(path: Path) -> int:
    """Number of frames in a video, counted without decoding them.

    Raises:
        MissingPackageError: The package av is absent.
        DataError: Not a video.
    """
    av = _av()
    try:
        with av.open(str(path)) as container:
            return sum(1 for packet in container.demux(video=0) if packet.size)
    except (av.FFmpegError, IndexError) as error:
        raise DataError("cannot read the video", where=path, found=error) from None


def video_frames(path: Path) -> Iterator[np.ndarray]:
    """Frames of a video, (H, W, 3) uint8 RGB.

    Raises:
        MissingPackageError: The package av is absent.
        DataError: Not a video, or damaged.
    """
    av = _av()
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise DataError("cannot read the video", where=path, found=error) from None


def _av() -> ModuleType:
    try:
        import av
    except ImportError:
        raise MissingPackageError("av", "video", "reading frames from a video") from None
    return av
