"""`ddd17`: DDD17's grey images with the events before them; DDD20's files are alike.

    dirN/...         as packed for ESS, see `datasets.ddd17_seg`: dirN/imgs or dirN/video.mp4
    rec*.hdf5        as recorded, see `datasets.ddd17_raw`

Both are of a DAVIS346: events and images are on the same 346x260 pixels, the car's hood included.
ESS's images are those of the index, counted from 1.

What SensorsINI/ddd20-utils:export_ddd20_hdf.py makes of rec*.hdf5 is passed over: it leaves out
frames that its display is too slow for, rounds the times of the others to 32 bits, and keeps
neither overflows nor resets of the clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from scaleevent.config.data import DamageSettings, SourceConfig, WindowSettings
from scaleevent.datasets.ddd17_raw import RESET_GAP_US, SENSOR, TABLE, RawDavis
from scaleevent.datasets.ddd17_seg import (
    INDEXES,
    PIXELS,
    TIMES,
    DavisEvents,
    check_lengths,
    numbered,
    read_index,
)
from scaleevent.datasets.finding import files_below, find_named, require, shown
from scaleevent.datasets.frames import EventView, FramedRecording, Frames, PictureFiles, check_count
from scaleevent.datasets.held_out import Tests, leave_out
from scaleevent.datasets.recorded_frames import RecordedFrames
from scaleevent.datasets.video import VideoFile, video_length
from scaleevent.errors import DataError
from scaleevent.formats import Recording
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.pairing import window_rule
from scaleevent.system.hdf5_process import Hdf5File
from scaleevent.system.refusals import may_be_file
from scaleevent.system.reports import counted

VIDEO = "video.mp4"
RAW = "rec*.hdf5"
EXPORTED = ".exported.hdf5"  # ending of what DDD20's export makes of one

SPLITS = {"rec1487417411": "test"}
"""The recording that DDD17-Seg's test labels are of, by its own name: its files are called
rec1487417411_export_NUMBER (Shathe/Ev-SegNet); ESS calls it dir1."""


class Settings(SourceConfig, WindowSettings, DamageSettings):
    """What `ddd17` adds to the settings of `prepare`."""

    upright: bool = Field(
        default=True,
        description="turn rec*.hdf5 by 180 degrees: the camera was mounted upside down",
    )


@dataclass(frozen=True)
class Drive(FramedRecording):
    """One folder of ESS's packaging; `recording` is its file of times."""

    def view(self) -> EventView:
        """Images are on the event pixels as they are."""
        return EventView(*self.size, self.lossless)

    def opened(self) -> Recording:
        """The events."""
        events = DavisEvents(self.recording.parent, self.recording.stat().st_size // 8)
        return Recording(self.recording, events, *SENSOR, max_bad=self.options["max_bad"])

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        return (*super().inputs, self.recording.with_name(PIXELS))


@dataclass(frozen=True)
class RawDrive(RecordedFrames):
    """One recording as it was recorded.

    Args:
        upright: Whether pixels are turned by 180 degrees.
    """

    upright: bool

    def opened(self) -> Recording:
        """Its packets."""
        source = RawDavis(self.recording, self.upright)
        return Recording(self.recording, source, *SENSOR, max_bad=self.max_bad)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """As of any recording, without those whose window may reach over a reset of the clock."""
        for pair in super().pairs(counts):
            if pair.window.end_us - pair.window.start_us < RESET_GAP_US:
                yield pair
                continue
            counts["pairs"] -= 1
            counts[f"images dropped: window longer than {RESET_GAP_US / 1e6:.0f} s"] += 1


def sources(config: Settings) -> list[Drive | RawDrive]:
    """The recordings found under the roots, without those that test benchmarks.

    Raises:
        ConfigError: No root, a recording that is not there, or a test recording that was named.
        DataError: No recording, one that is found twice, missing or unusable files.
    """
    files = _found(config)
    out = leave_out(config, list(files))
    kept = {name: path for name, path in files.items() if name not in out}
    packed = {name: path.parent for name, path in kept.items() if path.name == TIMES}
    require({name: _needed(folder) for name, folder in packed.items()}, config.roots)
    return [
        _packed(name, path.parent, config) if name in packed else _raw(name, path, config)
        for name, path in kept.items()
    ]


def left_out(config: Settings) -> Tests:
    """The recordings under the roots that `sources` leaves out, and what they test.

    Raises:
        ConfigError, DataError: As `sources`.
    """
    return leave_out(config, list(_found(config)))


def _found(config: Settings) -> dict[str, Path]:
    """The main file of every recording that is wanted and there, in order of name."""
    hits = [(path.resolve().parent.name, path) for path in files_below(config.roots, TIMES)]
    files = files_below(config.roots, RAW)
    hits += [(path.stem, path) for path in files if not path.name.endswith(EXPORTED)]
    exported = 0 if hits else len(files)
    found = f"{counted(exported, 'export')} of DDD20, without exact times" if exported else None
    expected = f"dirN/{TIMES} (packed for ESS) or {RAW} (as recorded)"
    return find_named(config, hits, "no DDD17 recording in this folder", expected, found)


def _needed(folder: Path) -> dict[str, Path | None]:
    """The parts without which there are no pairs; None for one that is missing."""
    wanted = {
        PIXELS: [PIXELS], INDEXES[0]: INDEXES, f"imgs/*.png or {VIDEO}": ["imgs/*.png", VIDEO],
    }  # fmt: skip
    return {
        name: next((p for some in patterns for p in shown(folder, some) if may_be_file(p)), None)
        for name, patterns in wanted.items()
    }


def _packed(name: str, folder: Path, config: Settings) -> Drive:
    """A folder of ESS's packaging."""
    events = check_lengths(folder)
    index = next(folder / part for part in INDEXES if may_be_file(folder / part))
    frames, found = _frames(folder, index, read_index(index))
    source = Drive(
        name=name,
        recording=folder / TIMES,
        size=SENSOR,
        options={"max_bad": config.tolerated},
        frames=frames,
        times=index,
        pixel_map=None,
        calibration=None,
        rule=window_rule(config),
        lossless=config.lossless,
        origin={"sequence": name},
        found=f"packed for ESS, {events:,} events, {found}",
    )
    source.check()
    return source


def _frames(folder: Path, index: Path, times_us: np.ndarray) -> tuple[Frames, str]:
    """The images, by their numbers or from the video, and what was found, for people."""
    pictures = numbered(folder / "imgs")
    if not pictures:
        video = folder / VIDEO
        check_count(video_length(video), "frames", video, len(times_us), index)
        return VideoFile(tuple(times_us.tolist()), (video,)), f"{len(times_us):,} frames in {VIDEO}"
    numbers = np.array([*pictures])
    if numbers[-1] > len(times_us):
        raise DataError(
            "no time for an image", where=index, found=f"{len(times_us)} times",
            expected=f"{numbers[-1]} or more, as {pictures[int(numbers[-1])]}",
        )  # fmt: skip
    frames = PictureFiles.in_order(times_us[numbers - 1], [*pictures.values()])
    return frames, f"{len(numbers):,} of {len(times_us):,} images in imgs"


def _raw(name: str, path: Path, config: Settings) -> RawDrive:
    """A recording as it was recorded."""
    file = Hdf5File(path)
    if TABLE not in file.datasets:
        raise DataError(
            "no packets of a DAVIS in this file", where=path, expected=f"dataset {TABLE}",
            found=", ".join([*file.datasets][:12]) or "nothing",
        )  # fmt: skip
    number = RawDavis(path).count_frames()
    found = f"as recorded, {number:,} frames{', turned by 180 degrees' if config.upright else ''}"
    return RawDrive(
        name, path, SENSOR, window_rule(config), config.lossless, config.tolerated,
        {"sequence": name}, number, found, upright=config.upright,
    )  # fmt: skip
