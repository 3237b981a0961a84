"""`ddd17-seg`: DDD17 with semantic labels, as packed for ESS (uzh-rpg/ess).

    dirN/events.dat.t              int64 nanoseconds, one an event
    dirN/events.dat.xyp            int16 x, y, p (0 or 1)
    dirN/index/index_50ms.npy      rows of time (ns) and event numbers; row k - 1 is of image k
    dirN/segmentation_masks/*.png  NAME_%08d.png, image numbers from 1, 200 x 346 class ids
    dirN/imgs/*.png                optional, numbered alike: ffmpeg -i video.mp4 imgs/img_%08d.png

Layout: uzh-rpg/ess:datasets/extract_data_tools/example_loader_ddd17.py. Labels are without the
car's hood, the lowest 60 rows, so events and images are too; a class id is its place in
`config.benchmarks`. A pair stands at a labelled image, its window follows the common rule. ESS
takes the last 640,000 events, counted before the hood is cut.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from scaleevent.config.benchmarks import DDD17_CLASSES
from scaleevent.config.data import SequencesConfig, WindowSettings
from scaleevent.datasets.finding import find_known, require, shown
from scaleevent.datasets.frames import read_bytes
from scaleevent.datasets.timed_labels import (
    TimedLabel,
    check_size,
    complete,
    in_order,
    pair_labels,
    read_ids,
    seen_from,
)
from scaleevent.errors import DataError
from scaleevent.formats import Recording
from scaleevent.formats.columns import to_block, to_microseconds
from scaleevent.formats.source import BLOCK, RawBlock, Source
from scaleevent.grids.geometry import pixel_grid
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pair import Pair, decode_image, encode_image
from scaleevent.pairs.pairing import window_rule
from scaleevent.system.refusals import may_be_file, reading

SENSOR = (260, 346)
SIZE = (200, 346)
CLASSES = len(DDD17_CLASSES)

SPLITS = {
    **dict.fromkeys(("dir0", "dir3", "dir4", "dir6", "dir7"), "train"),
    "dir1": "test",
    "dir5": "val",
}
"""As published numbers have it (uzh-rpg/ess:datasets/ddd17_events_loader.py, where dir1 is called
`valid`; ldkong1205/OpenESS): 15,950 and 3,890 masks. Dir5, ESS's `test`, holds one mask and is only
taken when named. The loaders of ScaleEvent's authors take fewer: 15,005, and of dir1 3,571
(zhiwen-xdu/ScaleEvent at 0fd5605:scale_event/dataset/data_specs), numbered through."""

TIMES, PIXELS, MASKS = "events.dat.t", "events.dat.xyp", "segmentation_masks"
INDEXES = tuple(f"index/index_{ms}ms.npy" for ms in (50, 10, 250))  # the same times in all three

_NUMBER = re.compile(r"(?:.*_)?([0-9]+)\.png")


class Settings(SequencesConfig, WindowSettings):
    """What `ddd17-seg` adds to the settings of `prepare`."""


@dataclass(frozen=True)
class DavisEvents(Source):
    """Decoder of `events.dat.t` and `events.dat.xyp`; the files are opened for each read.

    Args:
        folder: Where they lie.
        length: Number of events.
    """

    folder: Path
    length: int
    format = "DDD17 for ESS"
    size = SENSOR
    notes = {"time unit": "ns"}

    def total(self) -> int:
        """Number of events."""
        return self.length

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """All events from the beginning."""
        where = str(self.folder / TIMES)
        with (
            reading(self.folder, "cannot read the events"),
            (self.folder / TIMES).open("rb") as t,
            (self.folder / PIXELS).open("rb") as xyp,
        ):
            for first in range(0, self.length, BLOCK):
                count = min(BLOCK, self.length - first)
                times = np.fromfile(t, "<i8", count)
                x, y, p = np.fromfile(xyp, "<i2", 3 * count).reshape(-1, 3).T
                yield to_block(first, {"t": times, "x": x, "y": y, "p": p}, "ns", where)


@dataclass(frozen=True)
class Drive:
    """One folder of the data set: a `pairs.source.PairSource`, and `Replayable`.

    Args:
        events: Its events.
        index: File of image times.
        masks: Labels by image number, in order.
        pictures: Images by their number, where they were unpacked.
        rule: How windows are found.
        lossless: Encode images as PNG.
    """

    name: str
    events: DavisEvents
    index: Path
    masks: dict[int, Path]
    pictures: dict[int, Path]
    rule: WindowRule
    lossless: bool
    found: str

    @property
    def scene(self) -> str:
        """Recording name of its pairs."""
        return self.name

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        folder = self.events.folder
        pictures = (self.pictures[number] for number in self.masks if number in self.pictures)
        return (folder / TIMES, folder / PIXELS, self.index, *self.masks.values(), *pictures)

    @property
    def expected(self) -> int:
        """Number of labels."""
        return len(self.masks)

    def opened(self) -> Recording:
        """Its events on the upper rows, which the labels have."""
        recording = Recording(self.events.folder / TIMES, self.events, *SENSOR)
        return seen_from(recording, pixel_grid(*SENSOR), SIZE[0])

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """A pair for every label with at least one valid pixel and events before it.

        Raises:
            DataError: Damage, or not one pair.
        """
        labels, masks = self._labels(), self.events.folder / MASKS
        pairs = pair_labels(self.opened(), labels, "semantics", self.rule, self.name, counts)
        yield from complete(pairs, "semantics", "a class", self._image, counts, masks)

    def _labels(self) -> list[TimedLabel]:
        """The labels with the time of their image."""
        times = read_index(self.index)
        last = max(self.masks)
        if last > len(times):
            raise DataError(
                "no time for the image of a label",
                where=self.index,
                found=f"{len(times)} images",
                expected=f"image {last}, of {self.masks[last].name}",
            )
        origin = {"sequence": self.name, "split": SPLITS[self.name]}
        labels = []
        for number, (frame, path) in enumerate(self.masks.items()):
            time = int(times[frame - 1])
            load = partial(read_ids, path, SIZE, CLASSES, grey=True)
            where = origin | {"frame": frame, "number": number}
            labels.append(TimedLabel(time, time, load, where))
        return labels

    def _image(self, pair: Pair) -> bytes:
        """The upper rows of a pair's image, encoded; empty where it was not unpacked."""
        path = self.pictures.get(pair.provenance["frame"])
        if path is None:
            return b""
        picture = decode_image(read_bytes(path), path)
        check_size(picture[..., 0], SENSOR, path, "picture")
        return encode_image(np.ascontiguousarray(picture[: SIZE[0], :, 0]), self.lossless)


def read_index(path: Path) -> np.ndarray:
    """(K,) int64 ascending microseconds of the images, from a file of `index/`.

    Raises:
        DataError: Not such a file, or times that step back.
    """
    try:
        with reading(path, "cannot read the image times"), path.open("rb") as file:
            rows = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError("cannot read the image times", where=path, found=error) from None
    if rows.ndim != 2 or rows.dtype.kind not in "iu" or not len(rows):
        raise DataError(
            "not an index of images",
            where=path,
            found=f"{rows.dtype} {rows.shape}",
            expected="integers (K, 3): nanoseconds, event numbers",
        )
    return in_order(to_microseconds(rows[:, 0], "ns", 0, str(path)), f"{path}, row")


def sources(config: Settings) -> list[Drive]:
    """The folders of the data set found under the roots.

    Raises:
        ConfigError: No root, or a folder that is not of the benchmark.
        DataError: No folder, one that is found twice, missing or unusable files.
    """
    usual = {name for name, split in SPLITS.items() if split != "val"}
    files = find_known(config, SPLITS, usual, TIMES, lambda path: path.resolve().parent.name)
    folders = {name: path.resolve().parent for name, path in files.items()}
    require({name: _needed(folder) for name, folder in folders.items()}, config.roots)
    return [_source(name, folder, config) for name, folder in folders.items()]


def _needed(folder: Path) -> dict[str, Path | None]:
    """The parts without which there are no pairs; None for one that is missing."""
    wanted = {PIXELS: [PIXELS], INDEXES[0]: INDEXES, f"{MASKS}/*.png": [f"{MASKS}/*.png"]}
    return {
        name: next((p for some in patterns for p in shown(folder, some) if may_be_file(p)), None)
        for name, patterns in wanted.items()
    }


def check_lengths(folder: Path) -> int:
    """Number of events in a folder.

    Raises:
        DataError: The two files of events do not fit each other.
    """
    times, pixels = ((folder / part).stat().st_size for part in (TIMES, PIXELS))
    if times % 8 or pixels * 8 != times * 6:
        raise DataError(
            "the two files of events do not fit each other",
            where=f"{folder / TIMES} and {PIXELS}",
            found=f"{times} and {pixels} bytes",
            expected="8 and 6 bytes an event",
            hint="copy them again; a download cut short looks like this",
        )
    return times // 8


def _source(name: str, folder: Path, config: Settings) -> Drive:
    events = check_lengths(folder)
    masks = numbered(folder / MASKS)
    pictures = numbered(folder / "imgs")
    return Drive(
        name=name,
        events=DavisEvents(folder, events),
        index=next(folder / part for part in INDEXES if may_be_file(folder / part)),
        masks=masks,
        pictures=pictures,
        rule=window_rule(config),
        lossless=config.lossless,
        found=f"{events:,} events, {len(masks)} masks, {len(pictures)} images in imgs",
    )


def numbered(folder: Path) -> dict[int, Path]:
    """PNG files by the number at the end of their name, ascending; empty without the folder.

    Raises:
        DataError: A name without number, number 0, or a number twice.
    """
    found: dict[int, Path] = {}
    for path in shown(folder, "*.png"):
        match = _NUMBER.fullmatch(path.name)
        number = int(match[1]) if match else 0
        if number < 1 or number in found:
            raise DataError(
                "file name without a number of its own",
                where=path,
                expected="NAME_00000001.png, images counted from 1",
            )
        found[number] = path
    return dict(sorted(found.items()))
