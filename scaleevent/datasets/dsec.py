"""`dsec`: DSEC sequences as downloaded: left cameras, frames in the distorted event view.

Events stay raw, on whole pixels. Frames are DSEC-Det's `images/left/distorted`, already in that
view, or the rectified PNGs warped into it: rectify_map[y, x] gives the rectified event pixel, and
an infinite-depth homography takes it to the rectified frame (`scaleevent.datasets.calibration`).

Layouts seen in the wild, recognised by where `events.h5` lies:

    A  [train|test]/SEQ/events/left/events.h5                  merged, as DSEC-Det
    B  train_events/SEQ/events/left/events.h5                  one folder a product
    C  SEQ/events_left/events.h5                               as tonic
    D  {train|test}/SEQ/events_left/events.h5                  as E-RAFT
    E  SEQ_events_left/events.h5                               per-sequence zips side by side
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaleevent.config.data import DamageSettings, SequencesConfig, SourceConfig, WindowSettings
from scaleevent.datasets.calibration import read_rectified_rig
from scaleevent.datasets.finding import files_below, not_here, only_once, require, shown
from scaleevent.datasets.frame_times import read_frame_times
from scaleevent.datasets.frames import (
    EventView,
    FramedRecording,
    PictureFiles,
    blank_border,
    check_count,
    list_pictures,
    picture_size,
)
from scaleevent.datasets.held_out import Tests, leave_out
from scaleevent.datasets.timed_labels import in_order
from scaleevent.errors import DataError
from scaleevent.grids.geometry import homography_map, warp_image
from scaleevent.pairs.pairing import window_rule
from scaleevent.system.hdf5_process import Hdf5File, Part

# names of each part after a sequence's prefix, `FOLDER/SEQ/` or in layout E `FOLDER/SEQ_`
EVENTS = ("events/left/events.h5", "events_left/events.h5")
RECTIFY = tuple(
    f"{folder}/rectify_map{plural}.h5"
    for folder in ("events/left", "events_left")
    for plural in ("", "s")
)
DISTORTED = ("images/left/distorted", "images_distorted_left")
RECTIFIED = ("images/left/rectified", "images_rectified_left")
TIMES = ("images/timestamps.txt", "image_timestamps.txt")
CALIBRATION = ("calibration/cam_to_cam.yaml", "cam_to_cam.yaml")

TEST_SEQUENCES = {
    *("interlaken_00_a", "interlaken_00_b", "interlaken_01_a", "thun_01_a", "thun_01_b"),
    *("zurich_city_12_a", "zurich_city_13_a", "zurich_city_13_b", "zurich_city_14_a"),
    *("zurich_city_14_b", "zurich_city_14_c", "zurich_city_15_a"),
}
"""The official test split; the flow and semantic benchmarks test on sequences of it."""

SPLITS = dict.fromkeys(sorted(TEST_SEQUENCES), "test")

_MAP_BYTES = 64 << 20


class Settings(SourceConfig, WindowSettings, DamageSettings):
    """What `dsec` adds to the settings of `prepare`."""


@dataclass(frozen=True)
class Sequence(FramedRecording):
    """One sequence: one task of `prepare`; its `pixel_map` is rectify_map.h5.

    Args:
        rectified: Whether the pictures are rectified and need the warp; distorted ones do without.
    """

    rectified: bool

    def view(self) -> EventView:
        """How frames come onto the event pixels; what they show of them where that is known."""
        if self.pixel_map is None or self.calibration is None:
            return EventView(*self.size, self.lossless, valid=blank_border(self.frames.files))
        rectified = read_rectify_map(self.pixel_map)
        self.check_sensor(rectified.shape[:2], f"{self.pixel_map}, dataset rectify_map")
        homography, frame_size = read_rectified_rig(self.calibration)
        source = homography_map(homography, rectified)
        if self.rectified:
            return EventView(*self.size, self.lossless, source, frame_size)
        _, reached = warp_image(np.zeros(frame_size, np.uint8), source)
        return EventView(*self.size, self.lossless, valid=None if reached.all() else reached)


def read_rectify_map(path: Path) -> np.ndarray:
    """(H, W, 2) float64: rectified column and row of every event pixel, from rectify_map.h5.

    Raises:
        DataError: Not such a file.
    """
    file, name = Hdf5File(path), "/rectify_map"
    where = f"{path}, dataset rectify_map"
    size = file.checked(name).nbytes
    if size > _MAP_BYTES:
        raise DataError("rectify_map too large", where=where, found=f"{size} bytes")
    values = np.asarray(file.read(Part(name))[0], np.float64)
    if values.ndim != 3 or values.shape[2] != 2 or not np.isfinite(values).all():
        raise DataError(
            "rectify_map cannot be used",
            where=where,
            found=f"shape {values.shape}, {np.count_nonzero(~np.isfinite(values))} not finite",
            expected="(height, width, 2) finite numbers",
        )
    return values


def sources(config: Settings) -> list[Sequence]:
    """The sequences found under the roots, without those that test benchmarks.

    Raises:
        ConfigError: No root, a sequence that is not there, or a test sequence that was named.
        DataError: No sequence, one that is found twice, missing or unusable files.
    """
    places = find_places(config)
    out = leave_out(config, [place.name for place in places])
    needed = {place: place.needed() for place in places if place.name not in out}
    return [_source(*found, config) for found in require(needed, config.roots).items()]


def left_out(config: Settings) -> Tests:
    """The sequences under the roots that `sources` leaves out, and what they test.

    Raises:
        ConfigError, DataError: As `sources`.
    """
    return leave_out(config, [place.name for place in find_places(config)])


@dataclass(frozen=True)
class Place:
    """Where a sequence lies.

    Args:
        name: Of the sequence.
        layout: Letter of the layout.
        events: Its events.h5.
        prefixes: What its parts' names may follow.
        root: The user's folder that it lies in.
    """

    name: str
    layout: str
    events: Path
    prefixes: tuple[str, ...]
    root: Path

    def __str__(self) -> str:
        return f"{self.name} (layout {self.layout})"

    def part(self, names: tuple[str, ...]) -> Path | None:
        """The first of these files or folders that is there; `{0}` stands for the sequence."""
        paths = (Path(p + name.format(self.name)) for p in self.prefixes for name in names)
        return next((path for path in paths if path.exists()), None)

    def parts(self, *names: tuple[str, ...]) -> dict[str, Path | None]:
        """The `part` of each of several lists of names, by its usual name."""
        return {some[0].format(self.name): self.part(some) for some in names}

    def needed(self) -> dict[str, Path | None]:
        """The parts without which there are no pairs; None for one that is missing."""
        distorted = self.part(DISTORTED)
        pictures = {f"{RECTIFIED[0]} or {DISTORTED[0]}": distorted or self.part(RECTIFIED)}
        return pictures | self.parts(TIMES, *(() if distorted else (RECTIFY, CALIBRATION)))


def find_places(config: SequencesConfig, known: Collection[str] | None = None) -> list[Place]:
    """The wanted sequences under the roots, in order of name.

    Args:
        config: Roots and wanted sequences.
        known: The sequences of a benchmark, where all others are passed over.

    Raises:
        ConfigError: No root, or a wanted sequence that is not there.
        DataError: No sequence, or one that is found twice.
    """
    config.require_roots()
    found = [place for root in config.roots for place in find_sequences(root)]
    if not found:
        expected = f"SEQUENCE/{EVENTS[0]}, SEQUENCE/{EVENTS[1]} or SEQUENCE_{EVENTS[1]}"
        raise not_here(config.roots, "no DSEC sequence in this folder", expected)
    used = [place for place in found if known is None or place.name in known]
    config.check_sequences({place.name for place in used})
    if not used:
        raise DataError(
            "no sequence of this benchmark in the folder",
            where=", ".join(map(str, config.roots)),
            found=", ".join(sorted({place.name for place in found})),
            expected=", ".join(sorted(known or ())),
        )
    wanted = [place for place in used if not config.sequences or place.name in config.sequences]
    only_once((place.name, place.events) for place in wanted)
    return [place for _, place in sorted({place.name: place for place in wanted}.items())]


def find_sequences(root: Path) -> list[Place]:
    """Every sequence below a folder, in any of the layouts."""
    places = []
    for events in files_below([root], EVENTS[0]):
        folder = events.parents[2].absolute()
        product = folder.parent.name
        if product.endswith("_events"):
            siblings = sorted(shown(folder.parents[1], product.removesuffix("events") + "*"))
            prefixes = tuple(f"{sibling}/{folder.name}/" for sibling in siblings)
            places.append(Place(folder.name, "B", events, prefixes, root))
        else:
            places.append(Place(folder.name, "A", events, (f"{folder}/",), root))
    for events in files_below([root], EVENTS[1]):
        folder = events.parents[1].absolute()
        layout = "D" if folder.parent.name in ("train", "test") else "C"
        places.append(Place(folder.name, layout, events, (f"{folder}/",), root))
    for events in (hit for depth in ("", "*/") for hit in shown(root, f"{depth}*_{EVENTS[1]}")):
        prefix = str(events.absolute()).removesuffix(EVENTS[1])
        name = Path(prefix).name.removesuffix("_")
        places.append(Place(name, "E", events, (prefix,), root))
    return places


def _source(place: Place, parts: tuple[Path, ...], config: Settings) -> Sequence:
    folder, times = parts[:2]
    stamps = read_frame_times(times, "us", "middle")
    in_order(stamps.us, f"{times}, image")
    paths = list_pictures(folder)
    check_count(len(paths), "pictures", folder, len(stamps.us), times)
    frames = PictureFiles.in_order(stamps.us, paths)
    rectify_map = place.part(RECTIFY)
    if rectify_map is None:  # then the pictures are distorted: on the event pixels
        size = picture_size(frames.files[0])
    else:
        size = read_rectify_map(rectify_map).shape[:2]
    split = "test" if place.name in TEST_SEQUENCES else "train"
    source = Sequence(
        name=place.name,
        recording=place.events,
        size=size,
        options={"max_bad": config.tolerated},
        frames=frames,
        times=times,
        pixel_map=rectify_map,
        calibration=place.part(CALIBRATION),
        rule=window_rule(config),
        lossless=config.lossless,
        origin={"sequence": place.name, "official_split": split},
        found=f"layout {place.layout}, {len(frames.files)} pictures in {folder}",
        rectified=place.part(DISTORTED) is None,
    )
    source.check()
    return source
