"""`scaleevent-release`, `decd`: pairs as ScaleEvent's authors release them, pictures for events.

    SEQUENCE/image/NNNNN.jpg     what the teacher sees; numbers from 00001
    SEQUENCE/voxel/NNNNN.jpg     what the student sees: three time bins as colours of 8 bits
    SEQUENCE/evimg/NNNNN.jpg     events in colours on white, from which the mask is made

zhiwen-xdu/ScaleEvent:scale_event/dataset/decd.py, and alike for every data set. Its loader brings
each picture to one size, whatever it is (event_utils.py there): here those of another size than
`voxel` are, if their sides have the same ratio. Events cannot be had back from these pictures, so
that window, bins, normaliser and tau have no effect on such pairs; neither their times nor their
windows are known. Pairs are marked so, and files are kept as they are.

Sequences of every data set come in this layout: those whose names are of recordings that test
benchmarks are left out. MVSEC's are called as its files, without `_data` here. DECD has images in
this form alone: its ROS bags hold events (rpg.ifi.uzh.ch/event_driving_datasets.html).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scaleevent.config.data import SourceConfig
from scaleevent.datasets.finding import files_below, find_named, shown
from scaleevent.datasets.frames import PICTURES, picture_size, read_bytes
from scaleevent.datasets.held_out import Tests, leave_out
from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.grids.geometry import STRETCH
from scaleevent.grids.windows import Window
from scaleevent.images import open_image
from scaleevent.pairs.pair import EventPicture, Pair, decode_image, encode_image
from scaleevent.system.reports import counted

KINDS = ("image", "voxel", "evimg")
PAIRS_OF_A_SHARD = 1000  # sequences are joined until they have as many: most are very short

_NUMBER = re.compile(r"([0-9]+)\.jpe?g", re.IGNORECASE)


class Settings(SourceConfig):
    """What `scaleevent-release` and `decd` add to the settings of `prepare`."""


@dataclass(frozen=True)
class Sequences:
    """Some sequences, written as one shard: a `PairSource`.

    Args:
        folders: By the sequence's name, with the numbers of its pairs.
        size: (height, width) of the pictures of events.
    """

    name: str
    folders: dict[str, tuple[Path, tuple[str, ...]]]
    size: tuple[int, int]
    found: str

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        return tuple(
            folder / kind / file
            for folder, files in self.folders.values() for file in files for kind in KINDS
        )  # fmt: skip

    @property
    def expected(self) -> int:
        """Number of pairs."""
        return sum(len(files) for _, files in self.folders.values())

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """Every pair; its time is its number.

        Raises:
            DataError: A file that is not a whole picture, of another shape, or, where it shows
                events, without colours.
        """
        nothing = Events.empty(*self.size)
        for sequence, (folder, files) in self.folders.items():
            for file in files:
                image, voxel, shown = (
                    self._picture(folder / kind / file, counts) for kind in KINDS
                )
                number = int(Path(file).stem)
                counts["images"] += 1
                counts["pairs"] += 1
                counts["pairs with a picture in place of events"] += 1
                yield Pair(
                    sequence, number, image, nothing, Window(number - 1, number),
                    provenance={"sequence": sequence, "frame": file, "events": "picture, 8 bits"},
                    picture=EventPicture(voxel, shown),
                )  # fmt: skip

    def _picture(self, path: Path, counts: Counter[str]) -> bytes:
        """A picture that is whole, as it is stored, or as PNG if it had to be resized."""
        data = read_bytes(path)
        with open_image(data, path) as opened:
            colours = opened.mode
        allowed = ("RGB", "L") if path.parent.name == KINDS[0] else ("RGB",)  # cameras may be grey
        pixels = decode_image(data, path)
        (height, width), (rows, columns) = self.size, pixels.shape[:2]
        if colours not in allowed or abs(rows * width / (columns * height) - 1) > STRETCH:
            raise DataError(
                "picture of another shape or without colours", where=path,
                found=f"{columns}x{rows} {colours}",
                expected=f"{width}x{height} {' or '.join(allowed)}",
            )  # fmt: skip
        if (rows, columns) == self.size:
            return data
        counts["pictures resized to that of the events"] += 1
        resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        return encode_image(np.asarray(resized), lossless=True)


def sources(config: Settings) -> list[Sequences]:
    """The sequences found under the roots, joined to shards, without those that test benchmarks.

    Raises:
        ConfigError: No root, a sequence that is not there, or a test sequence that was named.
        DataError: No sequence, one that is found twice, or pictures without their partners.
    """
    found = _found(config)
    out = leave_out(config, list(found), any_family=True)
    groups: list[dict[str, tuple[Path, tuple[str, ...]]]] = []
    sizes: list[tuple[int, int]] = []
    for name, folder in found.items():
        if name in out:
            continue
        files = _files(folder)
        size = picture_size(folder / KINDS[1] / files[0])
        full = groups and sum(len(f) for _, f in groups[-1].values()) >= PAIRS_OF_A_SHARD
        if not groups or full or sizes[-1] != size:
            groups.append({})
            sizes.append(size)
        groups[-1][name] = folder, files
    return [_source(group, size) for group, size in zip(groups, sizes, strict=True)]


def left_out(config: Settings) -> Tests:
    """The sequences under the roots that `sources` leaves out, and what they test.

    Raises:
        ConfigError, DataError: As `sources`.
    """
    return leave_out(config, list(_found(config)), any_family=True)


def _found(config: Settings) -> dict[str, Path]:
    """The folder of every sequence that is wanted and there, in order of name."""
    folders = [path.resolve().parent for path in files_below(config.roots, KINDS[1])]
    hits = [(folder.name.removesuffix("_data"), folder) for folder in folders]
    if not hits and (bags := len(files_below(config.roots, "*.bag"))):
        raise DataError(
            "events without images, which distillation needs",
            where=", ".join(map(str, config.roots)), found=f"{bags} ROS bags",
            hint="`scaleevent voxelize FOLDER -o VOXELS` takes their events",
        )  # fmt: skip
    expected = ", ".join(f"SEQUENCE/{kind}/00001.jpg" for kind in KINDS)
    return find_named(config, hits, "no sequence in the layout of the authors' release", expected)


def _files(folder: Path) -> tuple[str, ...]:
    """Names of the pictures of a sequence, ascending by number.

    Raises:
        DataError: None, a name without number, or pictures without their partners.
    """
    named: dict[str, set[str]] = {}
    for kind in KINDS:
        files = shown(folder / kind, "*") if (folder / kind).is_dir() else ()
        named[kind] = {path.name for path in files if path.suffix.lower() in PICTURES}
    every = set().union(*named.values())
    lone = sorted(name for name in every if any(name not in named[kind] for kind in KINDS))
    if lone or not every:
        lacking = [kind for kind in KINDS if not every or lone[0] not in named[kind]]
        raise DataError(
            "pictures without their partners", where=folder,
            found=f"{len(lone)} of {len(every)}, such as {lone[0]}, which is not in "
            f"{' and '.join(lacking)}" if lone else "no pictures",
            expected=f"the same names in {', '.join(KINDS)}",
            hint="a download or an archive that was not unpacked to its end looks like this",
        )  # fmt: skip
    strange = sorted(name for name in every if not _NUMBER.fullmatch(name))
    if strange:
        raise DataError(
            "file name without a number", where=folder / KINDS[0] / strange[0],
            expected="00001.jpg, 00002.jpg, ..",
        )  # fmt: skip
    return tuple(sorted(every, key=lambda name: int(Path(name).stem)))


def _source(group: dict[str, tuple[Path, tuple[str, ...]]], size: tuple[int, int]) -> Sequences:
    names = list(group)
    name = names[0] if len(names) == 1 else f"{names[0]}-and-{len(names) - 1}-more"
    number = sum(len(files) for _, files in group.values())
    sequences = counted(len(names), "sequence")
    found = f"{sequences}, {number:,} pairs of pictures {size[1]}x{size[0]}"
    return Sequences(name, group, size, found)
