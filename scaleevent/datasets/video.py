"""Frames from a video file, through the optional package av."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.datasets.frames import EventView, Frames
from scaleevent.errors import DataError, MissingPackageError
from scaleevent.formats import Recording
from scaleevent.images import check_pixels
from scaleevent.pairs.pairing import TimedImage


@dataclass(frozen=True)
class VideoFile(Frames):
    """Frames of a video, times ascending; its own clock is not used.

    Args:
        first: Frames of the video before the first of these.
    """

    first: int = 0

    def timed(self, recording: Recording, view: EventView) -> Iterator[TimedImage]:
        """The frames in the order of the video."""
        (path,) = self.files
        images = islice(video_frames(path), self.first, None)
        for index, time in enumerate(self.times_us, self.first):
            image = next(images, None)
            if image is None:
                raise DataError(
                    "the video ends early",
                    where=path,
                    found=f"{index} frames that can be decoded",
                    expected=f"{self.first + len(self.times_us)}, one for every time stamp",
                )
            load = partial(view.place, image, f"{path}, frame {index}")
            yield TimedImage(time, load, {"frame": index})


def video_length(path: Path) -> int:
    """Number of frames in a video, counted without decoding them.

    Raises:
        MissingPackageError: The package av is absent.
        DataError: Not a video.
    """
    with _opened(path) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def video_frames(path: Path) -> Iterator[np.ndarray]:
    """Frames of a video, (H, W, 3) uint8 RGB.

    Raises:
        MissingPackageError: The package av is absent.
        DataError: Not a video, or damaged.
    """
    with _opened(path) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A container of PyAV, its errors as DataError."""
    try:
        import av
    except ImportError:
        raise MissingPackageError("av", "video", "reading frames from a video") from None
    try:
        with av.open(str(path)) as container:
            picture = container.streams.video[0].codec_context
            check_pixels(picture.height, picture.width, path)
            yield container
    except (av.FFmpegError, IndexError) as error:
        raise DataError("cannot read the video", where=path, found=error) from None
