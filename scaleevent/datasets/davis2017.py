"""`davis-2017`: DAVIS 2017's videos, filmed by a simulated event camera.

    JPEGImages/{480p,Full-Resolution}/SEQUENCE/NNNNN.jpg     numbers from 0
    ImageSets/2017/{train,val,test-dev,test-challenge}.txt   a sequence a line

davisvideochallenge/davis2017-evaluation:davis2017/davis.py. Each archive has a tree of its own and
a list of its sequences: they may be unpacked over each other or given side by side. Nothing in them
says at which rate pictures were taken: 24 a second, as the paper of DAVIS 2016 says of its own
(Perazzi et al., CVPR 2016, section 3), is taken for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

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
from scaleevent.datasets.frame_times import lines_with_fields
from scaleevent.errors import DataError

LISTS = {"train": "train", "val": "val", "test-dev": "test", "test-challenge": "test"}
"""Lists of sequences, and the part of the data set that each is."""

_PICTURE = "NNNNN.jpg"


class Settings(FilmedSettings):
    """What `davis-2017` adds to the settings of `prepare`."""

    resolution: Literal["480p", "Full-Resolution"] = Field(
        default="480p", description="of the pictures"
    )
    fps: float = Field(
        default=24.0, gt=0, le=1000, description="frames a second, which no file tells"
    )


def sources(config: Settings) -> list[Joined]:
    """The listed sequences found under the roots, in shards.

    Raises:
        ConfigError: No root, or a sequence that is not there.
        DataError: No list, a listed sequence without its folder, or missing pictures.
    """
    config.require_roots()
    lists = [
        (part, path)
        for name, part in LISTS.items()
        for path in files_below(config.roots, f"ImageSets/2017/{name}.txt")
    ]
    if not lists:
        expected = f"ImageSets/2017/{{{','.join(LISTS)}}}.txt"
        raise not_here(config.roots, "no list of DAVIS 2017's sequences in this folder", expected)
    found, lacking = [], []
    for part, path in lists:
        pictures = path.parents[2] / "JPEGImages" / config.resolution
        for _, _, (name, *_) in lines_with_fields(path, "list of sequences"):
            place = pictures / name
            if place.is_dir() and place.parent == pictures:
                found.append(Found(name, part, place))
            elif config.takes(part) and (not config.sequences or name in config.sequences):
                lacking.append((path, name))
    if lacking and (config.on_error == "strict" or not found):
        raise DataError(
            "listed sequences are not there", where=lacking[0][0],
            found=f"no folder JPEGImages/{config.resolution}/{lacking[0][1]}"
            + (f" and {len(lacking) - 1} others" if len(lacking) > 1 else ""),
            hint="download the archive of this resolution and part, or --on-error skip"
            if found
            else "it takes the archive of this resolution and part",
        )  # fmt: skip
    told = (
        f"times of pictures: {config.fps:g} a second, {'as asked' if _asked(config) else 'assumed'}"
        f"{f'; {len(lacking)} listed sequences are not there' if lacking else ''}",
    )
    return filmed(config, found, lambda one: _clip(one.place, config), told)


def _asked(config: Settings) -> bool:
    return "fps" in config.model_fields_set


def _clip(folder: Path, config: Settings) -> PictureClip:
    """The clip of a sequence."""
    pictures = numbered(folder, _PICTURE)
    missing = check_whole([*pictures], folder, config.on_error == "skip")
    how = f"{config.fps:g} frames/s{missing}"
    return picture_clip(folder, [*pictures.values()], at_rate([*pictures], config.fps), how)
