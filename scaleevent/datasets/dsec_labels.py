"""What the label benchmarks on DSEC share: finding labels beside the events, and their pairs.

Labels are found in the layouts of `scaleevent.datasets.dsec`, beside a sequence's events or in a
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
from scaleevent.datasets.dsec import Place, find_sequences, read_rectify_map
from scaleevent.datasets.frames import list_pictures
from scaleevent.datasets.timed_labels import (
    LabelView,
    TimedLabel,
    pair_labels,
    read_times,
    seen_from,
)
from scaleevent.errors import ConfigError, DataError
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
        unwanted: How many the protocol leaves out.
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

    Sequences of DSEC that the benchmark does not use are passed over.

    Args:
        config: Roots and wanted sequences.
        splits: The benchmark's sequences and their part of it.

    Raises:
        ConfigError: No root, or a wanted sequence that is not there.
        DataError: No sequence of the benchmark, or one that is found twice.
    """
    if not config.roots:
        raise ConfigError(
            f"{config.name} needs the folder of DSEC",
            hint=f"scaleevent prepare {config.name} FOLDER -o PAIRS",
        )
    found = [(place, root) for root in config.roots for place in find_sequences(root)]
    used = [(place, root) for place, root in found if place.name in splits]
    names = {place.name for place, _ in used}
    unknown = sorted(set(config.sequences) - names)
    if unknown:
        raise ConfigError(
            "sequence not found, or not of this benchmark", where="--sequences",
            found=", ".join(unknown), expected=", ".join(sorted(names)),
        )  # fmt: skip
    if not used:
        raise DataError(
            "no sequence of this benchmark in the folder",
            where=", ".join(map(str, config.roots)),
            found=", ".join(sorted({place.name for place, _ in found})),
            expected=", ".join(sorted(splits)),
        )
    wanted = {
        place.events.resolve(): (_with_label_folders(place, root), root)
        for place, root in used
        if not config.sequences or place.name in config.sequences
    }
    numbers = Counter(place.name for place, _ in wanted.values())
    for name, number in numbers.items():
        if number > 1:
            same = sorted(str(events) for events, (p, _) in wanted.items() if p.name == name)
            raise DataError("sequence found twice", where=name, found=", ".join(same))
    return dict(sorted(wanted.values(), key=lambda item: item[0].name))


def _with_label_folders(place: Place, root: Path) -> Place:
    """The place, its parts also looked for where archives of labels put them."""
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
