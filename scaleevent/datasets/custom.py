"""`custom`: your own recordings, with frames inside the file, in a folder beside it, or in a video.

A root is one recording file or a folder that holds one (or several AEDAT4 files). Frames that are
not in the recording come from `images`, `frames` or `rgb` beside it, or from a video, with their
times in a text file (`read_frame_times`). Whatever is found can be named instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.config.data import PrepareConfig, VoxelizeConfig
from scaleevent.datasets.calibration import read_homography, read_rig
from scaleevent.datasets.frames import (
    PICTURES,
    EventView,
    PictureFiles,
    check_count,
    list_pictures,
    pair_frames,
    picture_size,
    read_frame_times,
)
from scaleevent.datasets.video import VideoFile, video_length
from scaleevent.errors import ConfigError, DataError, NotEventsError
from scaleevent.formats import Frame, Recording, open_recording
from scaleevent.grids.geometry import homography_map, pixel_grid
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.pairing import TimedImage, window_rule

RECORDINGS = (
    ".aedat4", ".aedat", ".raw", ".dat", ".h5", ".hdf5", ".es", ".bag", ".db3", ".mcap", ".bin",
    ".mat", ".npz", ".npy",
)  # fmt: skip
TEXT_RECORDINGS = (".txt", ".csv")
FRAME_FOLDERS = ("images", "frames", "rgb")
VIDEOS = (".mp4", ".mkv", ".avi", ".mov", ".webm")
TIMES = ("timestamps.txt", "image_timestamps.txt", "images.txt", "exposure_timestamps.txt")


@dataclass(frozen=True)
class FramesInside:
    """Frames stored in the recording itself.

    Args:
        expected: Their number.
        point: start, middle or end: the moment of the exposure that is the image time.
        offset_us: Added to the times.
    """

    expected: int
    point: str
    offset_us: int
    files: tuple[Path, ...] = ()

    def timed(self, recording: Recording, view: EventView) -> Iterator[TimedImage]:
        """The frames in the order of the file, of the recording's segment alone if it has one."""
        if recording.segment is not None:
            resets = sum(b < a for a, b in pairwise(map(self._time, recording.frames())))
            _check_stretches(recording, resets + 1, recording.path)
        stretch, latest = 0, None
        for number, frame in enumerate(recording.frames()):
            time = self._time(frame)
            stretch += latest is not None and time < latest
            latest = time
            if recording.segment in (None, stretch):
                load = partial(view.place, frame.image, f"{recording.path}, frame {number}")
                yield TimedImage(time, load, {"frame": number})

    def _time(self, frame: Frame) -> int:
        """The image time of a frame."""
        middle = frame.start_us + (frame.end_us - frame.start_us) // 2
        times = {"start": frame.start_us, "middle": middle, "end": frame.end_us}
        return times[self.point] + self.offset_us


@dataclass(frozen=True)
class CustomRecording:
    """One recording and its frames: one task of `prepare`.

    Args:
        name: Unique, safe as a file name.
        recording: The event file.
        size: (height, width) of its sensor.
        told: What else `open_recording` is told of it.
        frames: Where the images come from.
        times: The file of frame times, if there is one.
        rule: How windows are found.
        homography: File of a 3x3 matrix, event pixel to frame pixel.
        calibration: YAML file of both cameras.
        lossless: Encode images as PNG.
        found: What was recognised, for people.
    """

    name: str
    recording: Path
    size: tuple[int, int]
    told: dict[str, Any]
    frames: FramesInside | PictureFiles | VideoFile
    times: Path | None
    rule: WindowRule
    homography: Path | None
    calibration: Path | None
    lossless: bool
    found: str

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        named = (self.times, self.homography, self.calibration)
        return (self.recording, *filter(None, named), *self.frames.files)

    @property
    def expected(self) -> int:
        """Number of frames."""
        return self.frames.expected

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """A pair for every frame that has events before it."""
        recording = open_recording(self.recording, size=self.size, **self.told)
        images = self.frames.timed(recording, self.view())
        yield from pair_frames(recording, images, self.rule, self.name, counts)

    def view(self) -> EventView:
        """How frames come onto the event pixels."""
        if self.homography is not None:
            source = homography_map(read_homography(self.homography), pixel_grid(*self.size))
            return EventView(*self.size, self.lossless, source)
        if self.calibration is None:
            return EventView(*self.size, self.lossless)
        rig = read_rig(self.calibration)
        if (rig.events.height, rig.events.width) != self.size:
            raise DataError(
                "the calibration is of another event camera",
                where=f"{self.calibration}, key intrinsics.cam0.resolution",
                found=f"{rig.events.width}x{rig.events.height}",
                expected=f"{self.size[1]}x{self.size[0]}, as {self.recording}",
            )
        frame_size = (rig.frames.height, rig.frames.width)
        return EventView(*self.size, self.lossless, rig.frame_map(), frame_size)


def sources(config: PrepareConfig) -> list[CustomRecording]:
    """The recordings found under the roots.

    Raises:
        ConfigError: No root, or options that exclude each other.
        DataError: No recording, no frames, no times, several of them, or counts that differ.
    """
    if not config.roots:
        raise ConfigError(
            "custom needs a folder or a recording", hint="scaleevent prepare custom FOLDER -o PAIRS"
        )
    if config.homography and config.calibration:
        raise ConfigError("give --homography or --calibration, not both")
    recordings = [found for root in config.roots for found in _recordings(root, config)]
    paths = [recording.path.resolve() for _, recording in recordings]
    if len(set(paths)) < len(paths):
        raise ConfigError("a recording is given twice", found=", ".join(map(str, paths)))
    names = unique_names([name for name, _ in recordings])
    found = [
        _source(name, recording, config)
        for name, (_, recording) in zip(names, recordings, strict=True)
    ]
    firsts = [source.frames.files[0].resolve() for source in found if source.frames.files]
    if len(set(firsts)) < len(firsts):
        raise ConfigError(
            "the same frames would go to several recordings",
            where=firsts[0].parent,
            found=f"{len(found)} recordings: {', '.join(str(path) for path in paths[:5])}",
            hint="prepare them one by one, or give --frames as a path below each root",
        )
    return found


def found_beside(recording: Path) -> dict[str, str]:
    """Frames, videos and time stamps in the folder of a recording, by name."""
    found = {}
    for path in sorted(recording.resolve().parent.iterdir()):
        if path.is_dir() and path.name in FRAME_FOLDERS:
            pictures = [one for one in path.iterdir() if one.suffix.lower() in PICTURES]
            found[path.name] = f"{len(pictures)} pictures"
        elif path.suffix.lower() in VIDEOS:
            found[path.name] = "video"
        elif path.name in TIMES:
            found[path.name] = "times of frames"
    return found


def unique_names(names: list[str]) -> list[str]:
    """The names, safe as file names and each different from the others, whatever their case."""
    taken: set[str] = set()
    unique = []
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "recording"
        number, candidate = 1, safe
        while candidate.lower() in taken:
            number += 1
            candidate = f"{safe}-{number}"
        taken.add(candidate.lower())
        unique.append(candidate)
    return unique


def told(config: PrepareConfig | VoxelizeConfig) -> dict[str, Any]:
    """What `open_recording` is told of every recording, beside its sensor's size."""
    return {
        "time_unit": config.time_unit,
        "columns": config.columns,
        "max_bad": config.tolerated,
    }


def _recordings(root: Path, config: PrepareConfig) -> list[tuple[str, Recording]]:
    """Proposed name and recording of everything in a root."""
    segment = None if config.segment is None else config.segment - 1
    opened = partial(open_recording, size=config.size, segment=segment, **told(config))
    if root.is_file():
        return [(root.stem, opened(root))]
    if not root.is_dir():
        raise DataError("no such file or folder", where=root)
    files = sorted(path for path in root.iterdir() if path.is_file() and path.name[0] != ".")
    named = (path.name for path in (config.timestamps, config.homography) if path)
    not_events = {*TIMES, *named}
    files = [path for path in files if path.name not in not_events]
    found, refused = [], []
    for suffixes in (RECORDINGS, TEXT_RECORDINGS):
        for path in files:
            if path.suffix.lower() not in suffixes:
                continue
            try:
                found.append(opened(path))
            except NotEventsError as error:
                refused.append(f"{path.name}: {error.what}")
        if found:
            break
    if not found:
        raise DataError(
            "no event recording in this folder",
            where=root,
            found="; ".join(refused[:5])
            or ", ".join(path.name for path in files[:10])
            or "no files",
            expected="a file such as " + ", ".join((*RECORDINGS, *TEXT_RECORDINGS)),
            hint="recordings in folders of their own are given one by one",
        )
    if len(found) > 1 and any(recording.format != "AEDAT4" for recording in found):
        raise DataError(
            "several recordings in one folder",
            where=root,
            found=", ".join(recording.path.name for recording in found),
            expected="one, or AEDAT4 files with their frames inside",
            hint="name the file instead of the folder",
        )
    if len(found) == 1:
        return [(root.resolve().name, found[0])]
    return [(recording.path.stem, recording) for recording in found]


def _source(name: str, recording: Recording, config: PrepareConfig) -> CustomRecording:
    folder = recording.path.parent
    times = None
    inside = config.frames is None and config.timestamps is None
    number = sum(1 for _ in recording.frames()) if inside else 0
    if number:
        frames = FramesInside(number, config.exposure_point, config.offset_us)
        found = f"{number} frames inside the file, {config.exposure_point} of the exposure"
    else:
        frames_at = _find_frames(folder, config)
        times = _find_times(folder, frames_at, config)
        frames, found = _timed_frames(recording, frames_at, times, config)
    source = CustomRecording(
        name=name,
        recording=recording.path,
        size=(recording.height, recording.width),
        told={**told(config), "segment": recording.segment},
        frames=frames,
        times=times,
        rule=window_rule(config),
        homography=config.homography,
        calibration=config.calibration,
        lossless=config.lossless,
        found=f"{recording.format} {recording.width}x{recording.height}; {found}",
    )
    view = source.view()  # calibration and sizes are wrong before hours of work, not after
    if isinstance(frames, PictureFiles):
        view.check_size(*picture_size(frames.paths[0]), frames.paths[0])
    return source


def _named(folder: Path, given: Path) -> Path:
    """A path the user gave, in the recording's folder or as it stands."""
    for path in (folder / given, given):
        if path.exists():
            return path
    raise DataError("no such file or folder", where=given, hint=f"looked in {folder} too")


def _find_frames(folder: Path, config: PrepareConfig) -> Path:
    """The folder of pictures, or the video, that belongs to the recording in `folder`."""
    if config.frames is not None:
        return _named(folder, config.frames)
    for name in FRAME_FOLDERS:
        if (folder / name).is_dir():
            return folder / name
    videos = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEOS)
    if len(videos) == 1:
        return videos[0]
    if not videos and list_pictures(folder):
        return folder
    raise DataError(
        "several videos" if videos else "no frames for this recording",
        where=folder,
        found=", ".join(video.name for video in videos) or None,
        expected=f"a folder {', '.join(FRAME_FOLDERS)}, or one video ({', '.join(VIDEOS)})",
        hint="name it: --frames; to use the events alone: scaleevent voxelize",
    )


def _find_times(folder: Path, frames: Path, config: PrepareConfig) -> Path:
    """The file of frame times."""
    if config.timestamps is not None:
        return _named(folder, config.timestamps)
    for place in dict.fromkeys((folder, frames if frames.is_dir() else folder)):
        for name in TIMES:
            if (place / name).is_file():
                return place / name
    raise DataError(
        "no time stamps for the frames",
        where=folder,
        expected=f"one of {', '.join(TIMES)}, there or in the folder of the frames",
        hint="name the file: --timestamps",
    )


def _timed_frames(
    recording: Recording, frames: Path, times: Path, config: PrepareConfig
) -> tuple[PictureFiles | VideoFile, str]:
    """Frames with their times, and how they were matched."""
    stamps = read_frame_times(times, config.frame_time_unit, config.exposure_point)
    us = stamps.us + config.offset_us
    chosen = _stretch(recording, us, times)
    told = f"times from {times.name} ({stamps.layout})"
    if frames.is_dir():
        if stamps.names is not None:
            places = (times.parent, frames, recording.path.parent)
            paths = [_picture(name, places, times) for name in stamps.names]
        else:
            paths = list_pictures(frames)
            check_count(len(paths), "pictures", frames, len(us), times)
        us, paths = us[chosen], paths[chosen]
        return PictureFiles.in_order(us, paths), f"{len(paths)} pictures in {frames}, {told}"
    if stamps.names is not None:
        raise DataError(
            "the frame times name pictures, but the frames are a video", where=times, found=frames
        )
    check_count(video_length(frames), "frames", frames, len(us), times)
    us = us[chosen]
    if (np.diff(us) < 0).any():
        raise DataError("times of video frames step back", where=times)
    video = VideoFile(tuple(us.tolist()), frames, first=chosen.start or 0)
    return video, f"{len(us)} frames in {frames}, {told}"


def _stretch(recording: Recording, times_us: np.ndarray, where: Path) -> slice:
    """The frames of the recording's segment, where their times were reset with its clock."""
    resets = (np.flatnonzero(np.diff(times_us) < 0) + 1).tolist()
    if recording.segment is None or not resets:
        return slice(None)
    _check_stretches(recording, len(resets) + 1, where)
    edges = [0, *resets, len(times_us)]
    return slice(*edges[recording.segment : recording.segment + 2])


def _check_stretches(recording: Recording, frames: int, where: Path) -> None:
    """Refuse frames whose times were reset more or less often than the events' clock.

    Raises:
        DataError: Both numbers.
    """
    events = len(replace(recording, segment=None, max_bad=1.0).stretches())
    if frames != events:
        raise DataError(
            "the clocks of frames and events were reset another number of times",
            where=where,
            found=f"{frames} stretches of frames, {events} of events",
            expected="as many of both, or frames of the chosen segment alone",
            hint="scaleevent voxelize uses the events alone",
        )


def _picture(name: str, places: tuple[Path, ...], times: Path) -> Path:
    """The picture that a line of the time file names, inside one of the places."""
    for place in places:
        path = place / name
        if path.resolve().is_relative_to(place.resolve()) and path.is_file():
            return path
    raise DataError(
        "a picture in the list of times is missing", where=times, found=name,
        expected=f"a file below {' or '.join(map(str, dict.fromkeys(places)))}",
    )  # fmt: skip
