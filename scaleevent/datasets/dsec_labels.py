"""What the label benchmarks on DSEC have in common: finding labels, and pairs of labels and events.

Labels are found in the layouts of `scaleevent.datasets.dsec`, next to a sequence's events or in a
folder of their own under the same root, as the archives unpack them:

    SEQ/PART...               merged, or as tonic and E-RAFT
    SEQ_PART...               per-sequence archives side by side
    FOLDER/[train|test]/SEQ/PART...   one folder an archive
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from scaleevent.config.data import SequencesConfig
from scaleevent.datasets.dsec import Place, find_places, read_rectify_map
from scaleevent.datasets.finding import require, shown
from scaleevent.datasets.frames import check_count, list_pictures
from scaleevent.datasets.timed_labels import TimedLabel, pair_labels, read_times, seen_from
from scaleevent.formats import Recording, open_recording
from scaleevent.formats.hdf5 import DSEC_SIZE
from scaleevent.grids.geometry import pixel_grid
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pair import Pair

Parts = Mapping[str, Path | None]


class LabelSettings(SequencesConfig):
    """What all label benchmarks on DSEC add to the settings of `prepare`."""

    label_skip: int | None = Field(
        default=None, ge=0, description="labels left out at a sequence's start"
    )
    label_stride: int | None = Field(
        default=None, ge=1, description="of the others every how many is taken"
    )

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
    """One sequence and its labels: a `pairs.source.PairSource`, and `Replayable`.

    Args:
        place: Where its events lie.
        task: Name of the label in the pairs.
        rectify_map: rectify_map.h5; None where events stay on the sensor's pixels.
        size: (height, width) of the sensor.
        rows: Rows of it that the labels cover, from the top.
        labels: All of them, in order of time.
        chosen: Those that the protocol takes.
        files: All other files that are read.
        rule: How the window before a label is found; None for labels of a span.
    """

    place: Place
    task: str
    rectify_map: Path | None
    size: tuple[int, int]
    rows: int
    labels: tuple[TimedLabel, ...]
    chosen: slice
    files: tuple[Path, ...]
    rule: WindowRule | None
    found: str

    @property
    def name(self) -> str:
        """Its name in DSEC."""
        return self.place.name

    @property
    def scene(self) -> str:
        """Recording name of its pairs."""
        return self.name

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        maps = (self.rectify_map,) if self.rectify_map else ()
        return (self.place.events, *maps, *self.files)

    @property
    def expected(self) -> int:
        """Number of labels, chosen or not."""
        return len(self.labels)

    def opened(self) -> Recording:
        """Its events on the pixels of the labels: rectified where they are, without lower rows."""
        points = read_rectify_map(self.rectify_map) if self.rectify_map else pixel_grid(*self.size)
        return seen_from(open_recording(self.place.events, size=self.size), points, self.rows)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """A pair for every label that has events before it."""
        labels = self.labels[self.chosen]
        if unwanted := len(self.labels) - len(labels):
            counts["labels"] += unwanted
            counts["labels dropped: not of the protocol"] += unwanted
        yield from pair_labels(self.opened(), labels, self.task, self.rule, self.name, counts)


def find_labelled(
    config: LabelSettings, splits: Mapping[str, str], needed: Callable[[Place], Parts]
) -> dict[Place, tuple[Path, ...]]:
    """The benchmark's sequences under the roots, by name, each with its parts.

    Args:
        config: Roots and wanted sequences.
        splits: The benchmark's sequences and their part of it.
        needed: The parts of a sequence, None for those that are missing.

    Raises:
        ConfigError, DataError: As `dsec.find_places` and `finding.require`.
    """
    places = map(_with_label_folders, find_places(config, splits))
    return require({place: needed(place) for place in places}, config.roots)


def _with_label_folders(place: Place) -> Place:
    """The place, with the folders into which archives of labels unpack."""
    more = [
        f"{folder.absolute()}/{part}{place.name}{mark}"
        for folder in with_folders(place.root)
        for part in ("", "train/", "test/")
        for mark in ("/", "_")
    ]
    return replace(place, prefixes=(*place.prefixes, *more))


def with_folders(root: Path) -> list[Path]:
    """A root and the folders in it."""
    return [root, *(path for path in sorted(shown(root, "*")) if path.is_dir())]


def labels_of_files(
    folder: Path, times: Path, columns: int, origin: dict[str, str], load: Callable[..., np.ndarray]
) -> tuple[tuple[TimedLabel, ...], list[Path]]:
    """A label for each PNG file of a folder, and these files.

    Args:
        folder: The files, as many as the times and in their order.
        times: File of times, as for `read_times`.
        columns: 1 for instants, 2 for spans.
        origin: Provenance of the labels besides the name of the file and their number, from 0.
        load: Returns the values of a file.

    Raises:
        DataError: As `read_times`; or files and times that differ in number.
    """
    stamps = read_times(times, columns).tolist()
    paths = [path for path in list_pictures(folder) if path.suffix.lower() == ".png"]
    check_count(len(paths), "labels", folder, len(stamps), times)
    labels = (
        TimedLabel(
            span[0], span[-1], partial(load, path), {**origin, "file": path.name, "number": number}
        )  # fmt: skip
        for number, (span, path) in enumerate(zip(stamps, paths, strict=True))
    )
    return tuple(labels), paths


def sensor_size(rectify_map: Path | None) -> tuple[int, int]:
    """(height, width) of the event camera."""
    return DSEC_SIZE if rectify_map is None else read_rectify_map(rectify_map).shape[:2]
