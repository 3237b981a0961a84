"""What the label benchmarks on DSEC have in common: finding labels, and pairs of labels and events.

Labels are found in the layouts of `scaleevent.datasets.dsec`, next to a sequence's events or in a
folder of their own under the same root, as the archives unpack them:

    SEQ/PART...               merged, or as tonic and E-RAFT
    SEQ_PART...               per-sequence archives side by side
    FOLDER/[train|test]/SEQ/PART...   one folder an archive
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from scaleevent.config.data import SequencesConfig
from scaleevent.datasets.dsec import Place, find_places, read_rectify_map
from scaleevent.datasets.frames import list_pictures
from scaleevent.datasets.timed_labels import (
    LabelView,
    TimedLabel,
    pair_labels,
    read_times,
    seen_from,
)
from scaleevent.errors import DataError
from scaleevent.formats import open_recording
from scaleevent.formats.hdf5 import DSEC_SIZE
from scaleevent.grids.geometry import pixel_grid
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pair import Pair


class LabelSettings(SequencesConfig):
    """What all label benchmarks on DSEC add to the settings of `prepare`."""

    label_skip: Annotated[
        int | None, Field(ge=0, description="labels left out at a sequence's start")
    ] = None
    label_stride: Annotated[
        int | None, Field(ge=1, description="of the others every how many is taken")
    ] = None

    def chosen(self, skip: int, stride: int) -> slice:
        """Which labels are taken.

        Args:
            skip: Labels left out at the start, unless `label_skip` is given.
            stride: Every how many of the others is taken, unless `label_stride` is given.
        """
        first = skip if self.label_skip is None else self.label_skip
        return slice(first, None, self.label_stride or stride)


@dataclass(frozen=True)
class LabelledSequence:
    """One sequence and its labels: one task of `prepare`.

    Args:
        name: Its name in DSEC.
        task: Name of the label in the pairs.
        events: events.h5 of the left event camera.
        rectify_map: rectify_map.h5; None where events stay on the sensor's pixels.
        size: (height, width) of the sensor.
        rows: Rows of it that the labels cover, from the top.
        labels: Those that are wanted, in order of time.
        unwanted: Number of labels that the protocol leaves out.
        files: All other files that are read.
        rule: How the window before a label is found; None for labels of a span.
        found: What was recognised, for people.
    """

    name: str
    task: str
    events: Path
    rectify_map: Path | None
    size: tuple[int, int]
    rows: int
    labels: tuple[TimedLabel, ...]
    unwanted: int
    files: tuple[Path, ...]
    rule: WindowRule | None
    found: str

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        maps = (self.rectify_map,) if self.rectify_map else ()
        return (self.events, *maps, *self.files)

    @property
    def expected(self) -> int:
        """Number of labels, wanted or not."""
        return len(self.labels) + self.unwanted

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """A pair for every label that has events before it."""
        points = read_rectify_map(self.rectify_map) if self.rectify_map else pixel_grid(*self.size)
        recording = open_recording(self.events, size=self.size)
        seen = seen_from(recording, LabelView.of(points, self.rows))
        if self.unwanted:
            counts["labels"] += self.unwanted
            counts["labels dropped: not of the protocol"] += self.unwanted
        yield from pair_labels(seen, self.labels, self.task, self.rule, self.name, counts)


def find_labelled(config: LabelSettings, splits: Mapping[str, str]) -> dict[Place, Path]:
    """The benchmark's sequences under the roots, by name, each with the root it lies under.

    Args:
        config: Roots and wanted sequences.
        splits: The benchmark's sequences and their part of it.

    Raises:
        ConfigError, DataError: As `scaleevent.datasets.dsec.find_places`.
    """
    places = find_places(config, splits)
    return {_with_label_folders(place, root): root for place, root in places.items()}


def _with_label_folders(place: Place, root: Path) -> Place:
    """The place, with the folders into which archives of labels unpack."""
    folders = [root, *(path for path in sorted(root.iterdir()) if path.is_dir())]
    more = [
        f"{folder.absolute()}/{part}{place.name}{mark}"
        for folder in folders
        for part in ("", "train/", "test/")
        for mark in ("/", "_")
    ]
    return replace(place, prefixes=(*place.prefixes, *more))


def part_of(place: Place, names: Iterable[str]) -> Path | None:
    """The first of these files or folders that is there; `{0}` stands for the sequence."""
    return place.part(tuple(name.format(place.name) for name in names))


def label_files(folder: Path, times: Path, columns: int) -> tuple[np.ndarray, list[Path]]:
    """(K, columns) int64 times, and the PNG file of each label.

    Raises:
        DataError: As `read_times`; or files and times that differ in number.
    """
    stamps = read_times(times, columns)
    paths = [path for path in list_pictures(folder) if path.suffix.lower() == ".png"]
    if len(paths) != len(stamps):
        raise DataError(
            "labels and time stamps differ in number",
            where=f"{folder} and {times}",
            found=f"{len(paths)} labels, {len(stamps)} time stamps",
            hint="a download that did not finish, or files of another sequence",
        )
    return stamps, paths


def sensor_size(rectify_map: Path | None) -> tuple[int, int]:
    """(height, width) of the event camera."""
    return DSEC_SIZE if rectify_map is None else read_rectify_map(rectify_map).shape[:2]
