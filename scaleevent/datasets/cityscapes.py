"""`cityscapes`: Cityscapes' video snippets, filmed by a simulated event camera.

    {left,right}Img8bit_sequence/PART/CITY/CITY_SEQUENCE_FRAME_{left,right}Img8bit.png
    timestamp_sequence/PART/CITY/CITY_SEQUENCE_FRAME_timestamp.txt     nanoseconds; may be absent

mcordts/cityscapesScripts:README.md for names and times; the snippets of 30 frames at 17 Hz are
those of www.cityscapes-dataset.com/file-handling. In some cities a sequence is one snippet, in
others it is a drive of which many snippets were cut: their numbers go on, with holes between them.
Events never reach from one snippet into another, and snippets of one sequence are one recording,
so that none of them validates what another one trained. Times are those recorded, or else frame
numbers at 17 Hz; each snippet begins at its first frame's number at that rate, since recorded times
begin at 0 anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import Field

from scaleevent.datasets.clips import PictureClip
from scaleevent.datasets.filmed import (
    FilmedSettings,
    Found,
    Joined,
    at_rate,
    filmed,
    moved,
    picture_clip,
    read_number,
)
from scaleevent.datasets.finding import files_below, not_here, shown
from scaleevent.errors import DataError

FPS = 17.0
SNIPPET = 30  # frames
PARTS = ("train", "val", "test")
TIMES = "timestamp"

_NAME = re.compile(r"([a-z-]+)_([0-9]{6})_([0-9]{6})_(?:left|right)Img8bit\.png")


class Settings(FilmedSettings):
    """What `cityscapes` adds to the settings of `prepare`."""

    PARTS = PARTS

    camera: Literal["left", "right", "both"] = Field(
        default="left", description="of the stereo pair"
    )


def sources(config: Settings) -> list[Joined]:
    """The snippets found under the roots, in shards.

    Raises:
        ConfigError: No root, or a snippet that is not there.
        DataError: No snippet, one that is not whole, or times that are not there or no numbers.
    """
    config.require_roots()
    sides = ("left", "right") if config.camera == "both" else (config.camera,)
    snippets: dict[str, list[Path]] = {}
    found: list[Found] = []
    for side in sides:
        kind = f"{side}Img8bit"
        for part in config.PARTS:
            for city in files_below(config.roots, f"{kind}_sequence/{part}/*"):
                for sequence, pictures in _snippets(city, kind):
                    name = f"{pictures[0].name.removesuffix(f'_{kind}.png')}_{side}"
                    if name not in snippets:
                        snippets[name] = pictures
                    found.append(Found(name, part, pictures[0], sequence))
    if not found:
        single = files_below(config.roots, f"{sides[0]}Img8bit")
        raise not_here(
            config.roots, "no Cityscapes snippets in this folder",
            f"{sides[0]}Img8bit_sequence/PART/CITY/*_{sides[0]}Img8bit.png",
            f"give the folder that {sides[0]}Img8bit_sequence_trainvaltest.zip was unpacked in",
            "the annotated pictures alone, which are no video" if single else None,
        )  # fmt: skip
    timed = bool(files_below(config.roots, f"{TIMES}_sequence"))
    rate = () if timed else (
        f"times of pictures: {FPS:g} a second; timestamp_sequence_trainvaltest.zip has those "
        "recorded",
    )  # fmt: skip
    return filmed(config, found, lambda one: _clip(snippets[one.name], timed), rate)


def _snippets(city: Path, kind: str) -> Iterator[tuple[str, list[Path]]]:
    """Recording and pictures of every snippet, whole or not, of one city."""
    sequences: dict[str, dict[int, Path]] = {}
    for path in shown(city, f"*_{kind}.png"):
        match = _NAME.fullmatch(path.name)
        if match is None or match[1] != city.name:
            raise DataError(
                "file name without sequence and frame", where=path,
                expected=f"{city.name}_SSSSSS_FFFFFF_{kind}.png",
            )  # fmt: skip
        sequences.setdefault(f"{match[1]}_{match[2]}", {})[int(match[3])] = path
    for name, pictures in sorted(sequences.items()):
        numbers = sorted(pictures)
        ends = [k for k, (a, b) in enumerate(pairwise(numbers), 1) if b != a + 1]
        for first, last in pairwise((0, *ends, len(numbers))):
            run = [pictures[number] for number in numbers[first:last]]
            for start in range(0, len(run), SNIPPET):
                yield name, run[start : start + SNIPPET]


def _clip(pictures: list[Path], timed: bool) -> PictureClip:
    """The clip of a snippet.

    Raises:
        DataError: Not as many pictures as a snippet has, or no time of one.
    """
    if len(pictures) != SNIPPET:
        raise DataError(
            "a snippet that is not whole", where=pictures[0],
            found=f"{len(pictures)} pictures to {pictures[-1].name}",
            expected=f"{SNIPPET}, numbered without a hole",
            hint="a download or an archive that was not unpacked to its end looks like this; to "
            "leave the snippet out: --on-error skip",
        )  # fmt: skip
    folder = pictures[0].parent
    first = int(pictures[0].name.split("_")[-2])
    start_us = round(1e6 * first / FPS)
    if not timed:
        clip = picture_clip(folder, pictures, at_rate(range(SNIPPET), FPS), f"{FPS:g} frames/s")
        return moved(clip, start_us)
    files = [_time_file(path) for path in pictures]
    stamps = [read_number(path, "a number of nanoseconds") for path in files]
    times = [round((stamp - stamps[0]) / 1000) for stamp in stamps]
    return moved(picture_clip(folder, pictures, times, "recorded times", files), start_us)


def _time_file(picture: Path) -> Path:
    """The file of a picture's time, in the tree beside that of the pictures."""
    city, part, tree = picture.parents[:3]
    stem = picture.name.rpartition("_")[0]
    return tree.parent / f"{TIMES}_sequence" / part.name / city.name / f"{stem}_{TIMES}.txt"
