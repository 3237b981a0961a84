"""`sdsd`: SDSD, the same motions by day and in the dark, filmed by a simulated event camera.

    {indoor,outdoor}[_png]/GT/pairN/*.png            under normal light
    {indoor,outdoor}[_png]/{LQ,input}/pairN/*.png    under low light; both names are in use

dvlab-research/SDSD:README.md, and options/train/*.yml for the name `input` and the pairs that test.
How pictures are named, and at which rate they were taken, is told nowhere: they are taken in the
order of the numbers in their names, at the rate that the user states. The smaller copies in
`*_np` are no pictures and are not read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scaleevent.datasets.clips import PictureClip
from scaleevent.datasets.filmed import FilmedSettings, Found, Joined, at_rate, filmed, picture_clip
from scaleevent.datasets.finding import files_below, not_here
from scaleevent.datasets.frames import list_pictures
from scaleevent.errors import ConfigError, DataError

FOLDERS = {"normal": ("GT",), "low": ("LQ", "input")}  # of pictures, by light
TEST = {
    "indoor": frozenset((13, 15, 21, 23, 31, 33, 50, 52, 58, 60, 68, 70)),
    "outdoor": frozenset((1, 5, 14, 36, 46, 48, 49, 60, 62, 63, 66, 75, 76)),
}
"""Numbers of the pairs that SDSD's authors test on."""


class Settings(FilmedSettings):
    """What `sdsd` adds to the settings of `prepare`."""

    PARTS = ("train", "test")

    light: Literal["normal", "low", "both"] = Field(default="normal", description="on the scene")
    fps: float | None = Field(
        default=None, gt=0, le=1000, description="frames a second, which no file tells"
    )


def sources(config: Settings) -> list[Joined]:
    """The videos found under the roots, in shards.

    Raises:
        ConfigError: No root, no frame rate, or a video that is not there.
        DataError: No video.
    """
    config.require_roots()
    rate = config.fps
    if rate is None:
        raise ConfigError(
            "the frame rate of SDSD is not documented", where="--fps",
            hint="state it: --fps 30, or what you know",
        )  # fmt: skip
    found = [
        _found(place, scene, light)
        for scene in TEST
        for light, folders in FOLDERS.items()
        if config.light in (light, "both")
        for folder in folders
        for tree in (scene, f"{scene}_png")
        for place in files_below(config.roots, f"{tree}/{folder}/pair[0-9]*")
        if place.name.removeprefix("pair").isdecimal()
    ]
    if not found:
        arrays = files_below(config.roots, "*_np")
        raise not_here(
            config.roots, "no SDSD video in this folder",
            "{indoor,outdoor}_png/{GT,LQ}/pairN/*.png", "download indoor_png and outdoor_png",
            f"{arrays[0].name}, arrays in place of pictures" if arrays else None,
        )  # fmt: skip
    return filmed(config, found, lambda one: _clip(one.place, rate))


def _found(place: Path, scene: str, light: str) -> Found:
    part = "test" if int(place.name.removeprefix("pair")) in TEST[scene] else "train"
    name = f"{scene}_{place.name}"
    return Found(f"{name}_{light}", part, place, name)


def _clip(folder: Path, fps: float) -> PictureClip:
    """The clip of a video."""
    pictures = list_pictures(folder)
    if len(pictures) < 2:
        raise DataError("a video of fewer than two pictures", where=folder, found=len(pictures))
    how = f"{fps:g} frames/s{_holes(pictures)}"
    return picture_clip(folder, pictures, at_rate(range(len(pictures)), fps), how)


def _holes(pictures: list[Path]) -> str:
    """What the numbers in the names tell of pictures that may be missing, for people."""
    found = [re.findall("[0-9]+", path.stem)[-1:] for path in pictures]
    numbers = np.array([int(number) for some in found for number in some])
    steps = np.diff(numbers)
    if len(numbers) < len(pictures) or steps.min() < 1 or (steps == steps[0]).all():
        return ""
    return f", {int((steps // steps.min() - 1).sum())} missing by their numbers, which events cross"
