"""`eventscape`: EventScape, driving in the simulator CARLA, colour images and events of one view.

    TOWN/SEQUENCE/rgb/data/TT_SSS_NNNN_image.png
    TOWN/SEQUENCE/events/data/TT_SSS_NNNN_events.npz     x, y, t, p of the events up to image NNNN
    TOWN/SEQUENCE/{rgb,events}/data/timestamps.txt       index and seconds of every image

uzh-rpg/rpg_ramnet:RAM_Net/data_loader/dataset.py and event_dataset.py, and its issue 2. In which
unit the events' times are is not documented: it is the one in which the events of the first and of
the last file lie between the times of their images; where none or several fit, the data are
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from scaleevent.config.data import DamageSettings, SequencesConfig, WindowSettings
from scaleevent.datasets.finding import files_below, find_named, require, shown
from scaleevent.datasets.frame_times import read_frame_times
from scaleevent.datasets.frames import (
    EventView,
    FramedRecording,
    PictureFiles,
    check_count,
    picture_size,
)
from scaleevent.datasets.timed_labels import in_order
from scaleevent.errors import DataError
from scaleevent.formats import Recording, open_recording
from scaleevent.formats.columns import MICROSECONDS_PER, TableSource
from scaleevent.formats.source import RawBlock, Source
from scaleevent.pairs.pairing import window_rule

EVENTS, PICTURES = "events/data", "rgb/data"
TIMES = tuple(f"{folder}/timestamps.txt" for folder in (PICTURES, "rgb", EVENTS, "events", "."))

_NUMBER = re.compile(r".*_([0-9]+)_(?:image\.png|events\.npz)")
_COLUMNS = "t=t x=x y=y p=p"


class Settings(SequencesConfig, WindowSettings, DamageSettings):
    """What `eventscape` adds to the settings of `prepare`."""


@dataclass(frozen=True)
class EventFiles(Source):
    """Events in one archive an image, in order.

    Args:
        files: The archives.
        unit: Of their times.
        size: (height, width) of the view.
    """

    files: tuple[Path, ...]
    unit: str
    size: tuple[int, int]
    notes: dict[str, str] = field(default_factory=dict)
    format = "EventScape archives"

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """All events, file by file."""
        first = 0
        for path in self.files:
            count = 0
            for block in _opened(path, self.unit, self.size).source.blocks(None, None):
                flaws = tuple(
                    replace(flaw, where=f"{path.name}, {flaw.where}") for flaw in block.flaws
                )
                yield replace(block, first=first + block.first, flaws=flaws)
                count += len(block) + sum(block.dropped.values())
            first += count


@dataclass(frozen=True)
class DriveInTown(FramedRecording):
    """One sequence; `recording` is its folder of events.

    Args:
        files: The archives of events, in order.
        unit: Of their times.
    """

    files: tuple[Path, ...]
    unit: str

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        return (*self.files, *filter(None, (self.times,)), *self.frames.files)

    def opened(self) -> Recording:
        """The events of all files, one after the other."""
        source = EventFiles(self.files, self.unit, self.size)
        return Recording(self.recording, source, *self.size, max_bad=self.options["max_bad"])

    def view(self) -> EventView:
        """Images are on the event pixels as they are."""
        return EventView(*self.size, self.lossless)


def sources(config: Settings) -> list[DriveInTown]:
    """The sequences found under the roots.

    Raises:
        ConfigError: No root, or a sequence that is not there.
        DataError: No sequence, one that is found twice, missing or unusable files.
    """
    places = [p for pattern in (EVENTS, f"*/{EVENTS}") for p in files_below(config.roots, pattern)]
    folders = [path.resolve().parents[1] for path in places]
    hits = [(f"{folder.parent.name}_{folder.name}", folder) for folder in folders]
    expected = f"TOWN/SEQUENCE/{EVENTS}/*_events.npz"
    found = find_named(config, hits, "no EventScape sequence in this folder", expected)
    needed = {
        name: {
            f"{PICTURES}/*_image.png": next(iter(shown(folder / PICTURES, "*_image.png")), None),
            f"{EVENTS}/*_events.npz": next(iter(shown(folder / EVENTS, "*_events.npz")), None),
            TIMES[0]: next((folder / p for p in TIMES if (folder / p).is_file()), None),
        }
        for name, folder in found.items()
    }
    parts = require(needed, config.roots)
    return [_source(name, folder, parts[name][2], config) for name, folder in found.items()]


def _source(name: str, folder: Path, times: Path, config: Settings) -> DriveInTown:
    pictures = _numbered(folder / PICTURES, "*_image.png")
    archives = _numbered(folder / EVENTS, "*_events.npz")
    stamps = in_order(read_frame_times(times, "s", "middle").us, f"{times}, image")
    check_count(len(pictures), "pictures", folder / PICTURES, len(stamps), times)
    if strange := sorted(archives.keys() - pictures.keys()):
        raise DataError(
            "events without an image of their number", where=archives[strange[0]],
            found=f"{len(strange)} such files", expected=f"{len(pictures)} images in {PICTURES}",
        )  # fmt: skip
    _check_whole(folder, [*pictures], archives)
    size = picture_size(next(iter(pictures.values())))
    times_us = dict(zip(pictures, stamps.tolist(), strict=True))
    unit = _unit(archives, times_us, size)
    source = DriveInTown(
        name=name,
        recording=folder / EVENTS,
        size=size,
        options={"max_bad": config.tolerated},
        frames=PictureFiles.in_order(stamps, [*pictures.values()]),
        times=times,
        pixel_map=None,
        calibration=None,
        rule=window_rule(config),
        lossless=config.lossless,
        origin={"sequence": name},
        found=f"{len(pictures):,} images, {len(archives):,} files of events, times in {unit}",
        files=tuple(archives.values()),
        unit=unit,
    )
    source.check()
    return source


def _check_whole(folder: Path, images: list[int], archives: dict[int, Path]) -> None:
    """Refuse events with a hole, which windows would reach across; those at an end may lack.

    Raises:
        DataError: Images between the first and the last one without a file of events.
    """
    lacking = [number for number in images[1:-1] if number not in archives]
    if lacking:
        raise DataError(
            "images without a file of events", where=folder / EVENTS,
            found=f"{len(lacking)} of {len(images)}, such as that of image {lacking[0]:04d}",
            expected="a file of events for every image but the first or the last",
            hint="a download or an archive that was not unpacked to its end looks like this",
        )  # fmt: skip


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """Files by the number of their image, ascending.

    Raises:
        DataError: A name without number, or a number twice.
    """
    found: dict[int, Path] = {}
    for path in shown(folder, pattern):
        match = _NUMBER.fullmatch(path.name)
        if match is None or int(match[1]) in found:
            raise DataError(
                "file name without a number of its own", where=path,
                expected="TT_SSS_NNNN_image.png and TT_SSS_NNNN_events.npz",
            )  # fmt: skip
        found[int(match[1])] = path
    return dict(sorted(found.items()))


def _opened(path: Path, unit: str, size: tuple[int, int]) -> Recording:
    return open_recording(path, size=size, time_unit=unit, columns=_COLUMNS)


def _unit(archives: dict[int, Path], times_us: dict[int, int], size: tuple[int, int]) -> str:
    """The unit in which events lie around their images: in the first and the last file with any.

    Raises:
        DataError: None fits, or several do.
    """
    numbers = [*times_us]
    interval = float(np.median(np.diff([*times_us.values()]))) if len(numbers) > 1 else 1e6
    spans = []
    for order in ([*archives], [*archives][::-1]):
        for number in order:
            stored = _span(archives[number], size)
            if stored is not None:
                spans.append((number, stored))
                break
    fitting = [
        unit
        for unit, factor in MICROSECONDS_PER.items()
        if spans and all(
            abs(edge * factor - times_us[number]) <= 1.5 * interval
            for number, span in spans for edge in span
        )
    ]  # fmt: skip
    if len(fitting) != 1:
        number, span = spans[0] if spans else (next(iter(archives)), (0.0, 0.0))
        raise DataError(
            "cannot tell the unit of the events' times",
            where=archives[number],
            found=f"events from {span[0]:g} to {span[1]:g}" if spans else "no events in any file",
            expected=f"times that in s, ms, us or ns lie about the image's, {times_us[number]} us",
        )
    return fitting[0]


def _span(path: Path, size: tuple[int, int]) -> tuple[float, float] | None:
    """First and last time of a file as they are stored; None if it holds no events."""
    source = _opened(path, "us", size).source
    if not isinstance(source, TableSource):
        raise DataError("not arrays of events", where=path, found=source.format)
    stored = [part["t"] for part in source.stored(0) if len(part["t"])]
    if not stored:
        return None
    return float(min(t.min() for t in stored)), float(max(t.max() for t in stored))
