"""`gopro`: the 240 frames a second of GOPRO_Large_all, filmed by a simulated event camera.

    {train,test}/GOPRxxxx_yy_zz/NNNNNN.png     1280x720; the first number may be any

SeungjunNah/DeepDeblur_release:README.md, "all the sharp images used to generate blurry images"; the
folders as tarun005/FLAVR:dataset/GoPro.py reads them; the rate is the paper's (Nah et al., CVPR
2017, section 2). GOPRO_Large is not taken: it holds every 7th to 13th of these frames, and which,
its files do not say.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from scaleevent.datasets.clips import PictureClip
from scaleevent.datasets.filmed import (
    FilmedSettings,
    Found,
    Joined,
    at_rate,
    check_whole,
    filmed,
    numbered,
    picture_clip,
)
from scaleevent.datasets.finding import files_below, not_here
from scaleevent.errors import DataError

FPS = 240.0
SEQUENCE = "GOPR[0-9][0-9][0-9][0-9]_[0-9][0-9]_[0-9][0-9]"

_PICTURE = "NNNNNN.png"


class Settings(FilmedSettings):
    """What `gopro` adds to the settings of `prepare`."""

    PARTS = ("train", "test")

    every: int = Field(default=8, ge=1, le=10_000, description="a pair for every so many frames")


def sources(config: Settings) -> list[Joined]:
    """The sequences found under the roots, in shards.

    Raises:
        ConfigError: No root, or a sequence that is not there.
        DataError: No sequence, missing pictures, or the archive of blurred pictures.
    """
    config.require_roots()
    found = [
        Found(place.name, part, place)
        for part in config.PARTS
        for place in files_below(config.roots, f"{part}/{SEQUENCE}")
    ]
    blurred = [one for one in found if (one.place / "blur").is_dir()]
    expected = "{train,test}/GOPRxxxx_yy_zz/NNNNNN.png"
    hint = "give the folder that holds train and test of GOPRO_Large_all.zip"
    if blurred:
        raise DataError(
            "GOPRO_Large, whose sharp pictures are no video at a known rate",
            where=blurred[0].place, expected=expected, hint=hint,
        )  # fmt: skip
    if not found:
        raise not_here(config.roots, "no GoPro sequence in this folder", expected, hint)
    return filmed(config, found, lambda one: _clip(one.place, config.on_error == "skip"))


def _clip(folder: Path, skips: bool) -> PictureClip:
    """The clip of a sequence."""
    pictures = numbered(folder, _PICTURE)
    missing = check_whole([*pictures], folder, skips)
    how = f"{FPS:g} frames/s{missing}"
    return picture_clip(folder, [*pictures.values()], at_rate([*pictures], FPS), how)
