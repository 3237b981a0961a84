"""Data sets of pictures without events, filmed by a simulated event camera: what they share.

A data set finds its sequences, by name and part, and makes a clip of one: pictures, and the times
at which they were taken. Here it is settled which are taken, which parts of the picture a camera
sees, and how they are joined to shards.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from scaleevent.config.data import SequencesConfig
from scaleevent.datasets.clips import Clip, PictureClip, UnreadableClip, View, frame_for
from scaleevent.datasets.finding import only_once
from scaleevent.datasets.frames import PICTURES, picture_size
from scaleevent.datasets.simulated import CameraSettings, SimulatedClip, refuse
from scaleevent.errors import DataError
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.pairing import window_rule
from scaleevent.system.refusals import reading
from scaleevent.system.reports import counted

FRAMES_OF_A_SHARD = 1000  # short sequences are joined until they have as many
RATIO = 4 / 3  # of a view: that of nearly all event cameras


class FilmedSettings(CameraSettings, SequencesConfig):
    """What all these data sets add to the settings of `prepare`."""

    PARTS: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    """Parts that the data set is published in; `test` is left out unless it is asked for."""

    splits: list[str] = Field(
        default=[],
        description="only this split, such as train (repeat the flag); else all but test",
    )
    views: int = Field(
        default=1,
        ge=0,
        le=8,
        description="4:3 views of a picture, side by side; 0: the whole picture",
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        """Refuse parts that the data set does not have."""
        if strange := [part for part in self.splits if part not in self.PARTS]:
            raise ValueError(f"no split {strange[0]}; expected {', '.join(self.PARTS)}")
        return self

    def takes(self, part: str) -> bool:
        """Whether sequences of a part are wanted."""
        return part in self.splits if self.splits else part != "test"


@dataclass(frozen=True)
class Found:
    """A sequence that is there.

    Args:
        name: Unique in the data set and safe as a file name.
        part: Of the data set.
        place: Its folder or file.
        scene: What other sequences show at the same time, or before and after; None: none does.
    """

    name: str
    part: str
    place: Path
    scene: str | None = None


@dataclass(frozen=True)
class Joined:
    """Clips that are written as one shard: a `PairSource`."""

    clips: tuple[SimulatedClip, ...]
    told: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """That of the first clip, and how many more there are."""
        more = len(self.clips) - 1
        return f"{self.clips[0].name}-and-{more}-more" if more else self.clips[0].name

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read, each once."""
        return tuple(dict.fromkeys(path for clip in self.clips for path in clip.inputs))

    @property
    def expected(self) -> int:
        """Number of frames that a pair is wanted for."""
        return sum(clip.expected for clip in self.clips)

    @property
    def found(self) -> str:
        """What was recognised."""
        if len(self.clips) == 1:
            return self.clips[0].found
        broken = sum(isinstance(clip.clip, UnreadableClip) for clip in self.clips)
        left = f", {broken} left out" if broken else ""
        return f"{counted(len(self.clips), 'clip')}{left}; the first: {self.clips[0].found}"

    @property
    def choices(self) -> tuple[str, ...]:
        """What was chosen, for people."""
        lines = (line for clip in self.clips for line in clip.choices)
        return (*self.told, *dict.fromkeys(lines))

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """The pairs of all clips, one after the other.

        Raises:
            DataError: As of one clip.
        """
        for clip in self.clips:
            yield from clip.pairs(counts)


def filmed(
    config: FilmedSettings,
    found: Sequence[Found],
    opened: Callable[[Found], Clip],
    told: tuple[str, ...] = (),
) -> list[Joined]:
    """The sequences that are wanted, filmed, in shards.

    Args:
        config: Which are wanted, and how they are filmed.
        found: All that are there, of every part; one may be there twice by links.
        opened: Makes a clip of one.
        told: Lines for the user, about all of them.

    Raises:
        ConfigError: A sequence that is not there, or a sensor larger than the pictures.
        DataError: A sequence in two places, none in the wanted parts, or one that is damaged.
    """
    _ = config.model  # refused before any picture is read
    only_once((one.name, one.place) for one in found)
    found = [*{one.name: one for one in found}.values()]
    config.check_sequences({one.name for one in found})
    chosen = [one for one in found if one.name in config.sequences or not config.sequences]
    wanted = [one for one in chosen if config.takes(one.part)]
    others = Counter(one.part for one in chosen if not config.takes(one.part))
    left = ", ".join(f"{counted(n, 'sequence')} of {part}" for part, n in others.items())
    if not wanted:
        raise DataError(
            "no sequence of the wanted splits", where=", ".join(map(str, config.roots)),
            found=left or None,
            hint=f"--splits {next(iter(others))} takes them" if others else None,
        )  # fmt: skip
    if left and not config.splits:
        told = (*told, f"left out: {left}; --splits takes them")
    clips: list[SimulatedClip] = []
    for one in sorted(wanted, key=lambda one: one.name):
        try:
            clip = opened(one)
            frame_for(clip, (0, 0, 0, 0), config.size, _views(config)[0][1])
        except DataError as error:
            refuse(error, config)
            clip = UnreadableClip.because(one.place, error)
        clips += [
            SimulatedClip(
                one.name + ending, clip, config, window_rule(config), view,
                scene=one.scene or one.name,
            )
            for ending, view in _views(config)
        ]  # fmt: skip
    return _joined(clips, told)


def _views(config: FilmedSettings) -> list[tuple[str, View | None]]:
    """The parts of a picture that are filmed, and what their names end with."""
    if config.views < 2:
        return [("", View(RATIO) if config.views else None)]
    places = np.linspace(0, 1, config.views).tolist()
    return [(f"-view{k}", View(RATIO, place)) for k, place in enumerate(places, 1)]


def _joined(clips: list[SimulatedClip], told: tuple[str, ...]) -> list[Joined]:
    """Clips in their order, in groups of about `FRAMES_OF_A_SHARD` frames."""
    groups: list[list[SimulatedClip]] = [[]]
    for clip in clips:
        if sum(one.expected for one in groups[-1]) >= FRAMES_OF_A_SHARD:
            groups.append([])
        groups[-1].append(clip)
    return [Joined(tuple(group), told if not k else ()) for k, group in enumerate(groups)]


def numbered(folder: Path, *names: str) -> dict[int, Path]:
    """Pictures of a folder by their number, ascending.

    Args:
        folder: Where they lie.
        names: That a picture may have, with an N for every digit of its number.

    Raises:
        DataError: None, a picture of another name, or a number twice.
    """
    found: dict[int, Path] = {}
    for path in folder.iterdir():
        shape = re.sub("[0-9]", "N", path.name)
        if path.name[0] == "." or path.suffix.lower() not in PICTURES:
            continue
        number = int(path.stem) if shape in names and path.stem.isdecimal() else None
        if number is None or number in found:
            raise DataError(
                "file name without a number of its own", where=path, expected=" or ".join(names)
            )
        found[number] = path
    if len(found) < 2:
        raise DataError("a sequence of fewer than two pictures", where=folder, found=len(found))
    return dict(sorted(found.items()))


def check_whole(
    numbers: Sequence[int], folder: Path, skips: bool, ends: tuple[int, int] | None = None
) -> str:
    """Refuse pictures with a hole, which events would reach across, or without their ends.

    Args:
        numbers: Of the pictures, ascending.
        folder: Where they lie.
        skips: Whether they are taken all the same.
        ends: Numbers of the first and the last picture; None where nothing tells them.

    Returns:
        What is missing, for people; nothing where nothing is.

    Raises:
        DataError: Numbers between the first and the last one that are not there.
    """
    first, last = ends or (numbers[0], numbers[-1])
    missing = [k for a, b in pairwise((first - 1, *numbers, last + 1)) for k in range(a + 1, b)]
    if missing and not skips:
        raise DataError(
            "pictures of a sequence are missing", where=folder,
            found=f"no number {missing[0]}" + (f" and {len(missing) - 1} more are missing"
                                               if len(missing) > 1 else ""),
            expected=f"all numbers from {first} to {last}",
            hint="a download or an archive that was not unpacked to its end looks like this; to "
            "film what is there, across any holes: --on-error skip",
        )  # fmt: skip
    return f", {len(missing)} missing" if missing else ""


def picture_clip(
    folder: Path,
    pictures: Sequence[Path],
    times_us: Sequence[int],
    how: str,
    times: Sequence[Path] = (),
) -> PictureClip:
    """A clip of pictures whose times are known.

    Args:
        folder: For messages.
        pictures: In order of time.
        times_us: Of each picture.
        how: Where the times come from, for people.
        times: Files that they were read from.

    Raises:
        DataError: The first picture cannot be read, or times step back.
    """
    for k, (earlier, later) in enumerate(pairwise(times_us), 1):
        if later < earlier:
            raise DataError(
                "image times are not ascending", where=times[min(k, len(times) - 1)],
                found=f"{later} us after {earlier} us, for {pictures[k]}",
            )  # fmt: skip
    height, width = picture_size(pictures[0])
    seconds = (times_us[-1] - times_us[0]) / 1e6
    found = f"{len(pictures):,} pictures {width}x{height}, {how}, {seconds:.2f} s"
    files = (*pictures, *times)
    return PictureClip(folder, len(pictures), height, width, found, files, tuple(times_us))


def at_rate(numbers: Sequence[int], fps: float) -> list[int]:
    """Times of pictures in microseconds by their numbers, the first at 0."""
    return [round(1e6 * (number - numbers[0]) / fps) for number in numbers]


def moved(clip: PictureClip, start_us: int) -> PictureClip:
    """The clip with all its times later."""
    return replace(clip, times_us=tuple(time + start_us for time in clip.times_us))


def read_number(path: Path, what: str) -> int:
    """The whole number that a text file holds.

    Raises:
        DataError: No such file, or something else in it.
    """
    with reading(path, "the file cannot be read"):
        text = path.read_bytes()[:64].decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise DataError("not a number in this file", where=path, found=repr(text), expected=what)
    return int(text)
