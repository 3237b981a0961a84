"""Frames from a video file, through the optional package av."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from scaleevent.datasets.frames import EventView, Frames
from scaleevent.errors import DataError, MissingPackageError
from scaleevent.formats import Recording
from scaleevent.formats.source import COPY_AGAIN
from scaleevent.images import check_pixels
from scaleevent.pairs.pairing import TimedImage

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.stream import VideoStream

_SQUARE = 0.01  # how far from 1 the aspect of a pixel may be
_MOSTLY_THERE = 0.95  # of the frames in the head; an edit list may hide a few


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
        stream, count = container.streams.video[0], 0
        stream.thread_type = "NONE"  # so that complaints belong to the frame being decoded
        frames = container.decode(stream)
        while (frame := _checked(frames, path, count)) is not None:
            yield frame.to_ndarray(format="rgb24")
            count += 1


@dataclass(frozen=True)
class VideoFacts:
    """What the head of a video and its packets tell.

    Args:
        frames: Number of frames, counted without decoding them.
        height: Rows of a picture as it is shown.
        width: Columns of a picture as it is shown.
        seconds: From the first frame's time to the last one's; 0 where there are no times.
        codec: Its name.
        times_us: Times of all frames, microseconds, ascending; empty unless every frame has one.
    """

    frames: int
    height: int
    width: int
    seconds: float
    codec: str
    times_us: tuple[int, ...]

    @property
    def timed(self) -> bool:
        """Whether every frame has a time."""
        return bool(self.times_us)


def video_facts(path: Path) -> VideoFacts:
    """Facts about a video, of which only the first frame is decoded.

    Raises:
        MissingPackageError: The package av is absent.
        DataError: Not a video.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        times = [packet.pts for packet in container.demux(stream) if packet.size]
        known = [time for time in times if time is not None]
        span = float((max(known) - min(known)) * stream.time_base) if known else 0.0
        clock = stream.time_base
    with _opened(path) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream), None)
        height, width = (0, 0) if frame is None else _shown(frame, stream).shape[:2]
        whole = sorted(known) if len(known) == len(times) else []
        shown = tuple(_microseconds(time, clock) for time in whole)
        return VideoFacts(len(times), height, width, span, stream.codec_context.name, shown)


def _microseconds(time: int, clock: Fraction) -> int:
    return round(time * clock * 1_000_000)


def _shown(frame: VideoFrame, stream: VideoStream) -> np.ndarray:
    """(H, W, 3) uint8 as a player shows it: upright, and with square pixels."""
    image: np.ndarray = frame.to_ndarray(format="rgb24")
    aspect = float(stream.sample_aspect_ratio or 1)
    if abs(aspect - 1) > _SQUARE and 0.1 < aspect < 10:
        size = max(round(image.shape[1] * aspect), 1), image.shape[0]
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    turns = round(getattr(frame, "rotation", 0) / 90)  # to the left
    return np.ascontiguousarray(np.rot90(image, turns)) if turns % 4 else image


def timed_frames(path: Path) -> Iterator[tuple[int | None, np.ndarray]]:
    """Frames of a video with their own times, in the order they are shown.

    Yields:
        Microseconds, None where the video has none, and the (H, W, 3) uint8 picture.

    Raises:
        MissingPackageError: The package av is absent.
        DataError: Not a video, damaged, or it ends before the number of frames in its head.
    """
    with _opened(path) as container:
        stream, count = container.streams.video[0], 0
        stream.thread_type = "NONE"  # so that complaints belong to the frame being decoded
        frames = container.decode(stream)
        while (frame := _checked(frames, path, count)) is not None:
            time = None if frame.pts is None else _microseconds(frame.pts, stream.time_base)
            yield time, _shown(frame, stream)
            count += 1
        if count < _MOSTLY_THERE * stream.frames:
            raise DataError("the video ends early", where=path, found=f"{count} frames",
                            expected=f"{stream.frames}, as its head says")  # fmt: skip


def frames_between(path: Path, first_us: int, last_us: int) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of a video with times from `first_us` to `last_us`, both included.

    Decoding begins at the key frame before them. Where it complains after that jump, or the jump
    led too far, as in streams whose frames refer to those before a key frame, the rest is decoded
    from the beginning of the file: damage is what is found there too.

    Yields:
        Microseconds and the (H, W, 3) uint8 picture.

    Raises:
        MissingPackageError: The package av is absent.
        DataError: Not a video, or damaged at one of these frames or before.
    """
    reached = first_us - 1
    try:
        for reached, image in _decoded(path, first_us, last_us, jump=True):
            yield reached, image
    except DataError:
        yield from _decoded(path, reached + 1, last_us, jump=False)


def _decoded(
    path: Path, first_us: int, last_us: int, jump: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """See `frames_between`; a jump that leads too far is a DataError."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # so that complaints belong to the frame being decoded
        if jump:
            container.seek(floor(first_us / (1_000_000 * stream.time_base)), stream=stream)
        frames, count, early = container.decode(stream), 0, not jump
        while (frame := _checked(frames, path, count)) is not None:
            count += 1
            if frame.pts is None:
                raise DataError("a frame without a time", where=path)
            time = _microseconds(frame.pts, stream.time_base)
            if time > last_us:
                return
            early |= time <= first_us
            if not early:
                raise DataError("no key frame where one was announced", where=path)
            if time >= first_us:
                yield time, _shown(frame, stream)


def _checked(frames: Iterator[VideoFrame], path: Path, count: int) -> VideoFrame | None:
    """The next frame, None at the end; damage that the decoder would conceal is an error."""
    from av import logging

    level, once = logging.get_level(), logging.get_skip_repeated()
    logging.set_level(logging.ERROR)
    logging.set_skip_repeated(False)  # a second reading complains with the same words
    try:
        with logging.Capture() as told:
            frame = next(frames, None)
    finally:
        logging.set_level(level)
        logging.set_skip_repeated(once)
    if told or (frame is not None and frame.is_corrupt):
        found = f"near frame {count}" + (f": {told[0][2].strip()}" if told else "")
        raise DataError("a frame of the video is damaged", where=path, found=found, hint=COPY_AGAIN)
    return frame


def sampled_frames(path: Path, number: int) -> list[np.ndarray]:
    """Frames from all over a video, (H, W, 3) uint8, by jumping to the key frames before them.

    Raises:
        MissingPackageError: The package av is absent.
        DataError: Not a video, or damaged there.
    """
    with _opened(path) as container:
        stream, start = container.streams.video[0], container.start_time or 0
        pictures: list[np.ndarray] = []
        for k in range(number if container.duration else 0):
            container.seek(start + k * container.duration // number)  # in av.time_base
            pictures += [_shown(frame, stream) for frame in islice(container.decode(stream), 1)]
        if not pictures:
            pictures = [_shown(one, stream) for one in islice(container.decode(stream), number)]
        return pictures


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A container of PyAV, its errors as DataError."""
    try:
        import av
    except ImportError:
        raise MissingPackageError("av", "video", "reading frames from a video") from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                kinds = ", ".join(stream.type for stream in container.streams)
                raise DataError("no pictures in the video", where=path, found=kinds or "no stream")
            picture = container.streams.video[0].codec_context
            check_pixels(picture.height, picture.width, path)
            yield container
    except av.FFmpegError as error:
        found = error.strerror or error
        raise DataError("cannot read the video", where=path, found=found) from None
