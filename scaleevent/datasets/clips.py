"""Clips to simulate from: videos, and folders of pictures with times; found, judged and framed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from scaleevent.datasets.custom_files import TIMES, VIDEOS, listed_picture
from scaleevent.datasets.frame_times import read_frame_times
from scaleevent.datasets.frames import check_count, list_pictures, picture_size, read_bytes
from scaleevent.datasets.video import frames_between, sampled_frames, timed_frames, video_facts
from scaleevent.errors import ConfigError, DataError
from scaleevent.pairs.pair import decode_image
from scaleevent.system.refusals import check_there, may_be_file

LONGEST_SIDE = 640  # of the sensor, where none is given
BLACK = 20  # levels of 255: a bar is no brighter
LOOKED_AT = 8  # pictures in which bars must be seen

Damaged = Callable[[DataError], None]  # told of a frame that is left out; may raise


@dataclass(frozen=True)
class Clip(ABC):
    """Frames with times, read one after another; picklable, and it opens nothing until asked.

    Args:
        path: The video, or the folder of the pictures.
        frames: Their number.
        height: Rows.
        width: Columns.
        found: What was recognised, for people.
        files: All that is read.
    """

    path: Path
    frames: int
    height: int
    width: int
    found: str
    files: tuple[Path, ...]

    @abstractmethod
    def read(self, damaged: Damaged) -> Iterator[tuple[int, int, np.ndarray]]:
        """Index, time in microseconds and (H, W, 3) uint8 picture of all frames that are whole.

        Args:
            damaged: Told of every frame that is not; it raises unless the frame may be left out.
        """

    def frame_times(self) -> np.ndarray:
        """(N,) int64 times of the frames, microseconds, where they are known unread; else empty."""
        return np.zeros(0, np.int64)

    def stretch(
        self, first: int, last: int, damaged: Damaged
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """`read` of the frames from `first` to `last` alone, both included, by `frame_times`."""
        for index, time, image in self.read(damaged):
            if index > last:
                return
            if index >= first:
                yield index, time, image


@dataclass(frozen=True)
class VideoClip(Clip):
    """A video, by its own times, or by a frame rate."""

    fps: float | None
    shown_us: tuple[int, ...] = ()  # its own times, ascending; empty where it has none

    def frame_times(self) -> np.ndarray:
        """See `Clip`; a frame's number is its place among the times of the file."""
        if self.fps:
            return np.round(1e6 * np.arange(self.frames) / self.fps).astype(np.int64)
        return np.array(self.shown_us, np.int64)

    def stretch(
        self, first: int, last: int, damaged: Damaged
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """See `Clip`; decoding begins at the key frame before the first of them."""
        if not self.shown_us:  # nothing tells where in the file a frame is
            yield from super().stretch(first, last, damaged)
            return
        own, times = np.array(self.shown_us, np.int64), self.frame_times()
        try:
            for time, image in frames_between(self.path, int(own[first]), int(own[last])):
                index = int(np.searchsorted(own, time))
                yield index, int(times[index]), image
        except DataError as error:
            damaged(error)

    def read(self, damaged: Damaged) -> Iterator[tuple[int, int, np.ndarray]]:
        """See `Clip`; after damage, a video is not read on."""
        index = 0
        try:
            for index, (time, image) in enumerate(timed_frames(self.path)):
                if self.fps:
                    time = round(1e6 * index / self.fps)
                if time is None:
                    raise _untimed(self.path, f"frame {index}")
                yield index, time, image
        except DataError as error:
            damaged(error)


@dataclass(frozen=True)
class PictureClip(Clip):
    """Pictures in a folder; `files` are the pictures, then the file of times if there is one."""

    times_us: tuple[int, ...]

    def frame_times(self) -> np.ndarray:
        """See `Clip`."""
        return np.array(self.times_us, np.int64)

    def stretch(
        self, first: int, last: int, damaged: Damaged
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """See `Clip`; no other picture is opened."""
        chosen = slice(first, last + 1)
        part = replace(self, files=self.files[chosen], times_us=self.times_us[chosen])
        for index, time, image in part.read(damaged):
            yield first + index, time, image

    def read(self, damaged: Damaged) -> Iterator[tuple[int, int, np.ndarray]]:
        """See `Clip`."""
        for index, (time, file) in enumerate(zip(self.times_us, self.files, strict=False)):
            try:
                image = decode_image(read_bytes(file), file)
            except DataError as error:
                damaged(error)
                continue
            yield index, time, image


@dataclass(frozen=True)
class UnreadableClip(Clip):
    """A clip that is left out as a whole."""

    @classmethod
    def because(cls, path: Path, error: DataError) -> UnreadableClip:
        """With the reason told."""
        files = (path,) if path.is_file() else ()
        return cls(path, 0, 0, 0, f"left out: {error.what}", files)

    def read(self, damaged: Damaged) -> Iterator[tuple[int, int, np.ndarray]]:
        """Nothing."""
        return iter(())


def _untimed(path: Path, found: str) -> DataError:
    return DataError("the video has no frame times", where=path, found=found,
                     hint="give its frame rate: --fps")  # fmt: skip


def find_clips(roots: list[Path]) -> list[tuple[str, Path]]:
    """Proposed name and path of every video and folder of pictures in or below the roots.

    Raises:
        DataError: A root that is not there, or nothing in it.
    """
    found: list[tuple[str, Path]] = []
    for root in roots:
        check_there(root)
        if root.is_file():
            found.append((root.stem, root))
            continue
        below = list(_below(root, set()))
        if not below:
            raise DataError(
                "no video and no pictures in this folder", where=root,
                found=", ".join(sorted(path.name for path in root.iterdir())[:8]) or "empty",
                expected=f"videos ({', '.join(VIDEOS)}) or folders of several PNG or JPEG files",
            )  # fmt: skip
        whole = root.resolve().name
        if len(below) == 1 and below[0].is_dir():
            found.append((whole, below[0]))
            continue
        for path in below:
            inner = path.relative_to(root)
            parts = [*inner.parts[:-1], path.stem] if path.is_file() else inner.parts
            found.append(("-".join(parts) or whole, path))
    return found


def _below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Videos and folders of pictures, by name; none through a link back to a folder seen."""
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    if len(list_pictures(folder)) > 1:
        yield folder
    for path in sorted(folder.iterdir()):
        if path.name[0] == ".":
            continue
        if path.suffix.lower() in VIDEOS and may_be_file(path):
            yield path
        elif path.is_dir():
            yield from _below(path, seen)


def open_clip(path: Path, fps: float | None, timestamps: Path | None, unit: str | None) -> Clip:
    """A clip with the times of its frames.

    Args:
        path: A video, or a folder of pictures.
        fps: Frames a second, in place of any times.
        timestamps: File of frame times, as a path or as a name in the folder or beside it.
        unit: Of the frame times; None: the usual one, if it is plausible.

    Raises:
        ConfigError: Both a frame rate and times.
        DataError: Not a clip, no times, times that do not ascend or do not fit the pictures.
    """
    if fps and timestamps:
        raise ConfigError("give --fps or --timestamps, not both")
    if path.is_dir():
        return _pictures(path, fps, timestamps, unit)
    facts = video_facts(path)
    if facts.frames < 2:
        raise DataError("a video of fewer than two frames", where=path, found=facts.frames)
    files: tuple[Path, ...] = (path,)
    if not fps and not facts.timed:
        raise _untimed(path, facts.codec)
    if timestamps:
        raise ConfigError(
            "--timestamps is for pictures; a video has times, or give --fps", where=path
        )
    rate = f"{fps:g} frames/s" if fps else f"{facts.seconds:.2f} s"
    found = f"{facts.codec} video {facts.width}x{facts.height}, {rate}"
    size = facts.height, facts.width
    return VideoClip(path, facts.frames, *size, found, files, fps, facts.times_us)


def _pictures(
    folder: Path, fps: float | None, timestamps: Path | None, unit: str | None
) -> PictureClip:
    """The pictures of a folder, in order of time."""
    pictures = list_pictures(folder)
    if fps:
        us = np.round(1e6 * np.arange(len(pictures)) / fps).astype(np.int64)
        files, how = pictures, f"{fps:g} frames/s"
    else:
        times = _times_of(folder, timestamps)
        read = read_frame_times(times, unit, "middle")
        if read.names is None:
            check_count(len(pictures), "pictures", folder, len(read.us), times)
            ordered = pictures
        else:
            places = (folder, folder.parent, times.parent)
            ordered = [listed_picture(name, places, times) for name in read.names]
        order = np.argsort(read.us, kind="stable")
        us, files = read.us[order], [*(ordered[k] for k in order), times]
        how = f"{times.name}: {read.layout}, {read.unit.name}"
    if len(us) < 2:
        raise DataError("a clip of fewer than two pictures", where=folder, found=len(us))
    height, width = picture_size(files[0])
    found = f"pictures {width}x{height}, {how}, {(us[-1] - us[0]) / 1e6:.2f} s"
    return PictureClip(folder, len(us), height, width, found, tuple(files), tuple(us.tolist()))


def _times_of(folder: Path, given: Path | None) -> Path:
    """The file of frame times, in the folder of the pictures or beside it."""
    names = [given] if given else [Path(name) for name in TIMES]
    places = [place / name for place in (folder, folder.parent) for name in names]
    for path in [*places, *([given] if given else [])]:
        if path.is_file():
            return path
    raise DataError(
        "no time stamps for the frames", where=folder,
        expected=str(given or f"one of {', '.join(TIMES)}, there or beside the folder"),
        hint="give their rate: --fps; or name the file: --timestamps",
    )  # fmt: skip


@dataclass(frozen=True)
class Framing:
    """The part of a frame that a sensor sees, scaled to its pixels.

    Args:
        box: Left, top, right and bottom edge in the frame, pixels.
        height: Sensor rows.
        width: Sensor columns.
    """

    box: tuple[float, float, float, float]
    height: int
    width: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8."""
        left, top, right, bottom = self.box
        if (right - left, bottom - top) == (self.width, self.height) and left % 1 == top % 1 == 0:
            return image[round(top) : round(bottom), round(left) : round(right)]
        picture = Image.fromarray(image)
        size = (self.width, self.height)
        return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=self.box))


@dataclass(frozen=True)
class View:
    """One of several parts of a picture, side by side.

    Args:
        ratio: Its columns by its rows.
        place: Where it is, from 0, at the left edge, to 1, at the right edge.
    """

    ratio: float
    place: float = 0.5


def frame_for(
    clip: Clip,
    bars: tuple[int, int, int, int],
    size: tuple[int, int] | None,
    view: View | None = None,
) -> Framing:
    """The largest part of the picture inside its bars that has the sensor's shape.

    Args:
        clip: Whose frames.
        bars: Rows above and below, columns left and right, that are no picture.
        size: (height, width) of the sensor; None: as the view, scaled down to `LONGEST_SIDE`.
        view: Which part; None: the middle, of the picture's own shape if `size` gives no other.

    Raises:
        ConfigError: A sensor of more pixels than the picture.
    """
    above, below, left, right = bars
    height, width = clip.height - above - below, clip.width - left - right
    if size is None:
        ratio = view.ratio if view else width / height
        high, wide = min(height, width / ratio), min(width, height * ratio)
        scale = min(1.0, LONGEST_SIDE / max(high, wide))
        size = max(round(high * scale), 1), max(round(wide * scale), 1)
    scale = min(height / size[0], width / size[1])
    if scale < 1:
        raise ConfigError(
            "the pictures are smaller than the sensor", where=clip.path,
            found=f"{width}x{height} (columns x rows)", expected=f"at least {size[1]}x{size[0]}",
            hint="a smaller sensor: --size",
        )  # fmt: skip
    high, wide = scale * size[0], scale * size[1]
    x = left + (width - wide) * (view.place if view else 0.5)
    y = above + (height - high) / 2
    if scale == 1:
        x, y = float(int(x)), float(int(y))
    return Framing((x, y, x + wide, y + high), *size)


def black_bars(pictures: list[np.ndarray]) -> tuple[int, int, int, int]:
    """Rows above and below, and columns left and right, that are black in all pictures.

    Bars are of equal width on both sides, to a hundredth, and end at an edge: a dark sky is none.
    """
    if not pictures:
        return 0, 0, 0, 0
    brightest = np.max([image.max(axis=2) for image in pictures], axis=0)
    result: list[int] = []
    for axis in (1, 0):
        line = brightest.max(axis=axis)
        lit = np.flatnonzero(line > BLACK)
        size = len(line)
        first, last = (int(lit[0]), int(size - 1 - lit[-1])) if len(lit) else (0, 0)
        same = abs(first - last) <= 2 + size // 100
        edges = (line[first : first + 2].max(), line[size - last - 2 :][:2].max())
        sharp = len(lit) and min(edges) > 2 * BLACK
        wide = min(first, last) >= max(size // 50, 2)
        result += [first, last] if same and sharp and wide else [0, 0]
    return result[0], result[1], result[2], result[3]


def sampled(clip: Clip, damaged: Damaged) -> list[np.ndarray]:
    """A few pictures from all over a clip, without those of another size."""
    pictures: list[np.ndarray] = []
    if isinstance(clip, VideoClip):
        try:
            pictures = sampled_frames(clip.path, LOOKED_AT)
        except DataError as error:
            damaged(error)
    else:
        for k in np.linspace(0, clip.frames - 1, LOOKED_AT).round().astype(int):
            try:
                pictures.append(decode_image(read_bytes(clip.files[k]), clip.files[k]))
            except DataError as error:
                damaged(error)
    return [image for image in pictures if image.shape[:2] == (clip.height, clip.width)]
