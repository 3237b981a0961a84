"""`custom`: your own recordings, with frames in the file, in a folder next to it or in a video.

A root is one recording file or a folder that holds one (or several AEDAT4 files). Frames that are
not in the recording come from `images`, `frames` or `rgb` next to it, or from a video, with their
times in a text file (`read_frame_times`). Each of these can also be named by a setting.

With `labels` the pairs are those of label files, and frames are optional: see `custom_labels`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scaleevent.config.data import PrepareConfig, StreamSettings
from scaleevent.datasets.calibration import read_homography, read_rig
from scaleevent.datasets.custom_files import (
    find_all_recordings,
    find_frames,
    find_recordings,
    find_times,
    folder_of,
    listed_picture,
)
from scaleevent.datasets.custom_labels import labelled_sources
from scaleevent.datasets.custom_labels_pairs import LabelledRecording
from scaleevent.datasets.custom_labels_settings import LabelSettings
from scaleevent.datasets.frame_times import check_fit, moment, read_frame_times
from scaleevent.datasets.frames import (
    EventView,
    FramedRecording,
    Frames,
    PictureFiles,
    check_count,
    list_pictures,
    read_mask,
)
from scaleevent.datasets.video import VideoFile, video_length
from scaleevent.errors import ConfigError, DataError
from scaleevent.formats import Recording, open_recording
from scaleevent.formats.source import TimeUnit
from scaleevent.grids.geometry import homography_map, pixel_grid
from scaleevent.pairs.pairing import TimedImage, window_rule
from scaleevent.system.files import Json

WAYS = "another camera: --homography or --calibration; wrong sensor size: --size"
_LONGEST_NAME = 150  # file systems allow 255 bytes, with the number of a shard and what is added


class Settings(PrepareConfig, StreamSettings, LabelSettings):
    """What `custom` adds to the settings of `prepare`."""

    frames: Path | None = Field(default=None, description="folder or video of the frame camera")
    timestamps: Path | None = Field(default=None, description="text file of frame times")
    segment: int | None = Field(
        default=None, ge=1, description="which segment between clock resets (1, 2, ..; see info)"
    )
    frame_time_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        default=None, description="unit of the times of frames and labels"
    )
    offset_us: int = Field(default=0, description="added to times of frames and labels, us")
    exposure_point: Literal["start", "middle", "end"] = Field(
        default="middle", description="moment of the exposure that is the image time"
    )
    homography: Path | None = Field(
        default=None, description="3x3 matrix, event pixel to frame pixel"
    )
    calibration: Path | None = Field(
        default=None, description="YAML in the layout of DSEC's cam_to_cam.yaml"
    )
    valid: Path | None = Field(
        default=None,
        description="picture of the sensor's size, black where images do not show its scene",
    )


class FramesInside(Frames):
    """Frames stored in the recording itself, in the order of the file."""

    def timed(self, recording: Recording, view: EventView) -> Iterator[TimedImage]:
        """The frames, of the recording's segment alone if it has one."""
        chosen = _frames_of_segment(recording, np.array(self.times_us), recording.path)
        frames = enumerate(zip(self.times_us, recording.frames(), strict=True))
        for index, (time, frame) in islice(frames, chosen.start, chosen.stop):
            load = partial(view.place, frame.image, f"{recording.path}, frame {index}")
            yield TimedImage(time, load, {"frame": index})


@dataclass(frozen=True)
class CustomRecording(FramedRecording):
    """One recording and its frames; its `pixel_map` is a 3x3 matrix, event pixel to frame pixel.

    Args:
        mask: Picture that is black where no image shows the events' scene, if there is one.
    """

    clock_hint = "two clocks or units: give --offset-us, --frame-time-unit or --time-unit"

    mask: Path | None = field(default=None, kw_only=True)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Also the mask."""
        return (*super().inputs, *([self.mask] if self.mask else []))

    def view(self) -> EventView:
        """How frames come onto the event pixels, and what they show of them."""
        view = self._view()
        if self.mask is None:
            return view
        return replace(view, valid=read_mask(self.mask, self.size, self.recording))

    def _view(self) -> EventView:
        if self.pixel_map is not None:
            source = homography_map(read_homography(self.pixel_map), pixel_grid(*self.size))
            return EventView(*self.size, self.lossless, source)
        if self.calibration is None:
            return EventView(*self.size, self.lossless, ways=WAYS)
        rig = read_rig(self.calibration)
        where = f"{self.calibration}, key intrinsics.cam0.resolution"
        self.check_sensor((rig.events.height, rig.events.width), where)
        frame_size = (rig.frames.height, rig.frames.width)
        return EventView(*self.size, self.lossless, rig.frame_map(), frame_size)


def sources(config: Settings) -> list[CustomRecording] | list[LabelledRecording]:
    """The recordings found under the roots, with their frames or, where asked for, their labels.

    Raises:
        ConfigError: No root, or options that exclude each other.
        DataError: No recording, no frames, no times, several of them, or counts that differ.
    """
    config.require_roots()
    if config.homography and config.calibration:
        raise ConfigError("give --homography or --calibration, not both")
    segment = None if config.segment is None else config.segment - 1

    def opened(path: Path) -> Recording:
        return open_recording(path, size=config.size, segment=segment, **read_options(config))

    beside = (config.timestamps, config.homography, config.label_times)
    others = {path.name for path in beside if path}
    find = partial(find_all_recordings, labels=config.labels) if config.labels else find_recordings
    recordings = [found for root in config.roots for found in find(root, opened, others)]
    paths = [recording.path.resolve() for _, recording in recordings]
    if len(set(paths)) < len(paths):
        raise ConfigError("a recording is given twice", found=", ".join(map(str, paths)))
    names = unique_names([name for name, _ in recordings])
    if config.labels is not None:
        named = [(name, one) for name, (_, one) in zip(names, recordings, strict=True)]
        return labelled_sources(named, config, with_frames)
    found = [
        with_frames(name, recording, config)
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


def unique_names(names: list[str]) -> list[str]:
    """The names, safe as file names and each different from the others, whatever their case."""
    taken: set[str] = set()
    unique = []
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:_LONGEST_NAME] or "recording"
        number, candidate = 1, safe
        while candidate.lower() in taken:
            number += 1
            candidate = f"{safe}-{number}"
        taken.add(candidate.lower())
        unique.append(candidate)
    return unique


def read_options(config: StreamSettings) -> Json:
    """Arguments of `open_recording` for every recording, besides its sensor's size."""
    return {**config.reading, "max_bad": config.tolerated}


def with_frames(name: str, recording: Recording, config: Settings) -> CustomRecording:
    """A recording with the frames inside it, else those in files beside it.

    Raises:
        DataError: No frames, no times, several of them, or counts or sizes that differ.
    """
    point, inside = config.exposure_point, config.frames is None and config.timestamps is None
    spans = [(frame.start_us, frame.end_us) for frame in recording.frames()] if inside else []
    times, choices = None, recording.choices
    if spans:
        us = tuple(int(moment(*span, point)) + config.offset_us for span in spans)
        frames: Frames = FramesInside(us, ())
        found = f"{len(us)} frames inside the file, {point} of the exposure"
    else:
        folder = folder_of(recording.path)
        try:
            frames_at = find_frames(folder, config.frames)
        except DataError as error:  # the recording may hold images that are not read
            error.found = error.found or "; ".join(recording.choices) or None
            raise
        times = find_times(folder, frames_at, config.timestamps)
        frames, found, unit = _timed_frames(recording, frames_at, times, config)
        choices += unit.choices
    source = CustomRecording(
        name=name,
        recording=recording.path,
        size=(recording.height, recording.width),
        options={**read_options(config), "segment": recording.segment},
        frames=frames,
        times=times,
        pixel_map=config.homography,
        calibration=config.calibration,
        mask=config.valid,
        rule=window_rule(config),
        lossless=config.lossless,
        origin={},
        found=f"{recording.format} {recording.width}x{recording.height}; {found}",
        choices=choices,
    )
    source.check()
    return source


def _timed_frames(
    recording: Recording, frames: Path, times: Path, config: Settings
) -> tuple[Frames, str, TimeUnit]:
    """Frames with their times, how they were matched, for people, and the unit of the times."""
    stamps = read_frame_times(times, config.frame_time_unit, config.exposure_point)
    check_fit(recording, stamps, times, config.offset_us)
    us = stamps.us + config.offset_us
    resets = (np.diff(us) < 0).any()
    chosen = _frames_of_segment(recording, us, times) if resets else slice(None)
    origin = f"times from {times.name} ({stamps.layout})"
    if frames.is_dir():
        if stamps.names is not None:
            places = (times.parent, frames, folder_of(recording.path))
            paths = [listed_picture(name, places, times) for name in stamps.names]
        else:
            paths = list_pictures(frames)
            check_count(len(paths), "pictures", frames, len(us), times)
        us, paths = us[chosen], paths[chosen]
        found = f"{len(paths)} pictures in {frames}, {origin}"
        return PictureFiles.in_order(us, paths), found, stamps.unit
    if stamps.names is not None:
        raise DataError(
            "the frame times name pictures, but the frames are a video", where=times, found=frames
        )
    check_count(video_length(frames), "frames", frames, len(us), times)
    us = us[chosen]
    if (np.diff(us) < 0).any():
        raise DataError("times of video frames step back", where=times)
    video = VideoFile(tuple(us.tolist()), (frames,), first=chosen.start or 0)
    return video, f"{len(us)} frames in {frames}, {origin}", stamps.unit


def _frames_of_segment(recording: Recording, times_us: np.ndarray, where: Path) -> slice:
    """The frames of the recording's segment, where their times were reset with its clock.

    Raises:
        DataError: They were reset more or less often than the events' clock.
    """
    if recording.segment is None:
        return slice(None)
    edges = [0, *(np.flatnonzero(np.diff(times_us) < 0) + 1).tolist(), len(times_us)]
    events = len(replace(recording, segment=None, max_bad=1.0).stretches())
    if len(edges) - 1 != events:
        raise DataError(
            "the clocks of frames and events were reset a different number of times",
            where=where,
            found=f"{len(edges) - 1} segments of frames, {events} of events",
            expected="as many of both, or frames of the chosen segment alone",
            hint="`scaleevent voxelize FOLDER --on-error skip` uses the events alone",
        )
    return slice(*edges[recording.segment : recording.segment + 2])
