"""Frames next to events: their files, their times, and how they come onto the event pixels."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import numpy as np

from scaleevent.errors import DataError, UnpairedError
from scaleevent.formats import Recording, open_recording, recording_facts, recording_files
from scaleevent.grids.geometry import warp_image
from scaleevent.grids.windows import WindowRule
from scaleevent.images import open_image
from scaleevent.pairs.pair import Pair, decode_image, encode_image
from scaleevent.pairs.pairing import TimedImage, pair_images
from scaleevent.pairs.source import Clocks
from scaleevent.system.refusals import check_there, may_be_file, reading

PICTURES = (".png", ".jpg", ".jpeg")
_LOOKED_AT = 9  # pictures that tell what is blank in all
_LIT = 128  # of 255: not black in a mask, which JPEG blurs


@dataclass(frozen=True, eq=False)
class EventView:
    """The event camera's pixel grid, and how a frame is brought onto it.

    Args:
        height: Sensor rows.
        width: Sensor columns.
        lossless: Encode as PNG, not JPEG.
        source: (H, W, 2) column and row in the frame of every event pixel; None where frames are
            on the event pixels already.
        frame_size: (height, width) that frames must have for `source`; None where it is unknown.
        valid: (H, W) bool, event pixels whose scene frames may show; None for all of them. With
            `source`, those that a frame does not reach are left out besides.
        ways: What to do about frames of another size, where the settings offer something.
    """

    height: int
    width: int
    lossless: bool
    source: np.ndarray | None = None
    frame_size: tuple[int, int] | None = None
    valid: np.ndarray | None = None
    ways: str | None = None

    def place_file(self, path: Path) -> tuple[bytes, np.ndarray | None]:
        """Encoded image and validity mask of a picture file; bytes unchanged if it fits as it is.

        Raises:
            DataError: Not a whole PNG or JPEG file, or of another size.
        """
        data = read_bytes(path)
        image = decode_image(data, path)  # even where not needed: refuses files cut short
        if self.source is not None:
            return self.place(image, path)
        height, width = image.shape[:2]
        self.check_size(height, width, path)
        return data, self.valid

    def place(self, image: np.ndarray, where: object) -> tuple[bytes, np.ndarray | None]:
        """Encoded image and validity mask of (h, w) or (h, w, 3) uint8.

        Raises:
            DataError: Of another size; `where` names it.
        """
        height, width = image.shape[:2]
        self.check_size(height, width, where)
        if self.source is None:
            return encode_image(image, self.lossless), self.valid
        warped, valid = warp_image(image, self.source)
        if self.valid is not None:
            valid &= self.valid
        return encode_image(warped, self.lossless), None if valid.all() else valid

    def check_size(self, height: int, width: int, where: object) -> None:
        """Refuse frames that cannot be brought onto the event pixels.

        Raises:
            DataError: Both sizes, and the ways out.
        """
        if self.source is not None:
            if self.frame_size in (None, (height, width)):
                return
            raise DataError(
                "frames do not have the size in the calibration",
                where=where,
                found=f"{width}x{height}",
                expected=f"{self.frame_size[1]}x{self.frame_size[0]}",
            )
        if (height, width) == (self.height, self.width):
            return
        hint = self.ways
        k = height / self.height
        if hint and k > 1 and k % 1 == 0 and k == width / self.width:
            shift = (k - 1) / 2  # between the pixel centres of the two grids
            hint += (
                f"; the same view {k:g}x larger: --homography with "
                f"{k:g} 0 {shift:g}  0 {k:g} {shift:g}  0 0 1"
            )
        raise DataError(
            "frames are not on the event camera's pixels",
            where=where,
            found=f"frame {width}x{height} (columns x rows)",
            expected=f"{self.width}x{self.height}, the sensor of the events",
            hint=hint,
        )


@dataclass(frozen=True)
class Frames(ABC):
    """The frames of a recording; a subclass reads them from pictures, a video or the recording.

    Args:
        times_us: Image times on the clock of the events.
        files: Files besides the recording that the frames are read from.
    """

    times_us: tuple[int, ...]
    files: tuple[Path, ...]

    @abstractmethod
    def timed(self, recording: Recording, view: EventView) -> Iterator[TimedImage]:
        """The frames in their order, on the event pixels."""


class PictureFiles(Frames):
    """Frames stored in one file each, in order of time."""

    @classmethod
    def in_order(cls, times_us: np.ndarray, files: list[Path]) -> PictureFiles:
        """Sort by time; equal times keep their order."""
        order = np.argsort(times_us, kind="stable").tolist()
        return cls(tuple(times_us[order].tolist()), tuple(files[k] for k in order))

    def timed(self, recording: Recording, view: EventView) -> Iterator[TimedImage]:
        """The frames, each read only if it is used."""
        for time, path in zip(self.times_us, self.files, strict=True):
            yield TimedImage(time, partial(view.place_file, path), {"frame": path.name})


@dataclass(frozen=True)
class FramedRecording(ABC):
    """One recording and its frames: a `PairSource`; a subclass relates the two cameras.

    Args:
        recording: The event file, or the folder of a ROS 2 bag.
        size: (height, width) of its sensor.
        options: Further arguments of `open_recording`.
        frames: Where the images come from.
        times: The file of frame times, if there is one.
        pixel_map: File that says where event pixels lie in another view, if there is one.
        calibration: YAML file of both cameras, if there is one.
        rule: How windows are found.
        lossless: Encode images as PNG.
        origin: Provenance of every pair, besides its frame.
        scene: Recording name of the pairs, where several sources show one scene; None: `name`.
    """

    clock_hint: ClassVar[str] = "files of two recordings, or a download that did not finish"
    """What to do where no image has events before it."""

    name: str
    recording: Path
    size: tuple[int, int]
    options: dict[str, Any]
    frames: Frames
    times: Path | None
    pixel_map: Path | None
    calibration: Path | None
    rule: WindowRule
    lossless: bool
    origin: dict[str, Any]
    found: str
    choices: tuple[str, ...] = field(default=(), kw_only=True)
    scene: str | None = field(default=None, kw_only=True)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read, each once."""
        others = filter(None, (self.times, self.pixel_map, self.calibration))
        files = (*recording_files(self.recording), *others, *self.frames.files)
        return tuple(dict.fromkeys(files))

    @property
    def expected(self) -> int:
        """Number of frames."""
        return len(self.frames.times_us)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """A pair for every frame that has events before it.

        Raises:
            UnpairedError: No pair at all.
            DataError: As `pair_images`.
        """
        recording = self.opened()
        images = (
            replace(image, provenance=self.origin | image.provenance)
            for image in self.frames.timed(recording, self.view())
        )
        before = counts["pairs"]
        yield from pair_images(recording, images, self.rule, self.scene or self.name, counts)
        if counts["pairs"] == before:
            times = self.frames.times_us
            raise UnpairedError(
                "no image has events before it",
                where=recording.path,
                found=f"images from {times[0]} to {times[-1]} us" if times else "no images",
                expected=span_of_events(recording),
                hint=self.clock_hint,
            )

    def opened(self) -> Recording:
        """The recording, not yet read; `pairs.alignment` reads it again."""
        return open_recording(self.recording, size=self.size, **self.options)

    def clocks(self, seconds: float) -> Clocks | None:
        """First and last time of images and events; events are read where the file has no index."""
        times = self.frames.times_us
        return clocks_of(self.opened(), (times[0], times[-1]), seconds) if times else None

    @abstractmethod
    def view(self) -> EventView:
        """How frames come onto the event pixels."""

    def check(self) -> None:
        """Refuse a calibration or pictures of a wrong size: before hours of work, not after."""
        view = self.view()
        if isinstance(self.frames, PictureFiles):
            first = self.frames.files[0]
            view.check_size(*picture_size(first), first)

    def check_sensor(self, size: tuple[int, ...], where: object) -> None:
        """Refuse a calibration of another sensor.

        Raises:
            DataError: Both sizes.
        """
        if size != self.size:
            raise DataError(
                "the calibration is of another event camera",
                where=where,
                found=f"{size[1]}x{size[0]}",
                expected=f"{self.size[1]}x{self.size[0]}, as {self.recording}",
            )


def clocks_of(
    recording: Recording, images: tuple[int, int], seconds: float, all_images: bool = True
) -> Clocks | None:
    """First and last time of images and of a recording's events; None where it holds none.

    Args:
        recording: The events, which are read where the file has no index.
        images: First and last time of the images.
        seconds: How long events are read at most.
        all_images: Whether these are all of the images.
    """
    if (extent := recording.source.extent()) is not None:
        return Clocks(images, (extent.first_us, extent.last_us), True, all_images)
    until, span, whole = monotonic() + seconds, None, True
    for block in recording.blocks():
        first, last = int(block.t[0]), int(block.t[-1])
        span = (min(first, span[0]), max(last, span[1])) if span else (first, last)
        if monotonic() > until:
            whole = False
            break
    return Clocks(images, span, whole, all_images) if span else None


def read_bytes(path: Path) -> bytes:
    """All of a file.

    Raises:
        DataError: It cannot be read.
    """
    check_there(path)
    with reading(path, "the file cannot be read"):
        return path.read_bytes()


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) from a picture's header.

    Raises:
        DataError: Not a PNG or JPEG file, or too large.
    """
    check_there(path)
    with open_image(path, path) as picture:
        return picture.height, picture.width


def blank_border(files: Sequence[Path]) -> np.ndarray | None:
    """(H, W) bool, False where pictures that someone else has warped hold nothing.

    That is black in every one of some of them, evenly spaced, as far as it is joined to the border:
    what is dark in the scene is not the same in all pictures.

    Returns:
        None where nothing is blank.

    Raises:
        DataError: A picture that cannot be read, or of another size than the others.
    """
    picked = np.linspace(0, len(files) - 1, min(len(files), _LOOKED_AT)).round().astype(int)
    black = None
    for path in (files[k] for k in picked):
        here = ~decode_image(read_bytes(path), path).any(axis=2)
        if black is not None and here.shape != black.shape:
            raise DataError(
                "pictures differ in size", where=path, found=here.shape, expected=black.shape
            )
        black = here if black is None else black & here
    if black is None:
        return None
    from scipy import ndimage  # help and completion of every data set wait for what is imported

    parts, _ = ndimage.label(black)
    edges = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    blank = black & np.isin(parts, edges)
    return ~blank if blank.any() and not blank.all() else None


def read_mask(path: Path, size: tuple[int, int], recording: Path) -> np.ndarray | None:
    """(H, W) bool of a picture, False where it is black; None where it is nowhere.

    Args:
        path: The picture.
        size: (height, width) of the event camera.
        recording: What it is for, for messages.

    Raises:
        DataError: Not a PNG or JPEG file, of another size, or black all over.
    """
    mask = decode_image(read_bytes(path), path).max(axis=2) >= _LIT
    if mask.shape != size or not mask.any():
        raise DataError(
            "not a mask of the event camera's pixels", where=path,
            found=f"{mask.shape[1]}x{mask.shape[0]}, {mask.mean():.0%} of it not black",
            expected=f"{size[1]}x{size[0]} (columns x rows), as {recording}; black where images "
            "show nothing, else white",
        )  # fmt: skip
    return None if mask.all() else mask


def check_count(count: int, what: str, frames: Path, stamps: int, times: Path) -> None:
    """Refuse pictures, frames or labels and time stamps that differ in number.

    Raises:
        DataError: Both numbers.
    """
    if count != stamps:
        raise DataError(
            f"{what} and time stamps differ in number",
            where=f"{frames} and {times}",
            found=f"{count} {what}, {stamps} time stamps",
            hint="a download that did not finish, or files of another recording; where the times "
            "are your own, remove what has no partner, or write `time file` in each line",
        )


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Sorts by name, numbers in order of their value."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def list_pictures(folder: Path) -> list[Path]:
    """PNG and JPEG files of a folder, sorted by name with numbers in order of their value."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    return sorted(
        (path for path in files if path.name[0] != "." and may_be_file(path)), key=natural_order
    )


def span_of_events(recording: Recording) -> str:
    """Times that an image or label of the recording may have, for people."""
    facts = recording_facts(recording)
    if not facts["events"]:
        return "events: the recording holds none, or none that the grid of its labels shows"
    return f"times inside the events, {facts['first_us']} to {facts['last_us']} us"
