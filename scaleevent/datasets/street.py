"""`street`: the embedded world as a data set; every scene is a recording of one pair."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from scaleevent.config.benchmarks import BENCHMARKS
from scaleevent.config.data import PrepareConfig
from scaleevent.config.settings import parse_size
from scaleevent.errors import ConfigError
from scaleevent.grids.windows import Window
from scaleevent.pairs.pair import Label, Pair, encode_image
from scaleevent.street.scene import DEFAULT_LAYOUT, Layout, StreetSettings, render_scene

SCENES_PER_SHARD = 250
TRAINING = 0.7  # fraction of the scenes, the first ones, that train; the others test


def recording_name(seed: int, index: int) -> str:
    """The name of a scene as a recording."""
    return f"street-{seed}-{index:06d}"


def split_of(index: int, scenes: int) -> str:
    """The part of a family of `scenes` scenes that one belongs to."""
    return "train" if index < math.ceil(TRAINING * scenes) else "test"


SPLITS = {
    recording_name(one["seed"], index): split_of(index, one["scenes"])
    for one in (entry.rendered for entry in BENCHMARKS.values() if entry.embedded)
    for index in range(one["scenes"])
}
"""Scenes of the embedded benchmarks; other families of scenes train and test as asked for."""


class Settings(PrepareConfig):
    """What `street` adds to the settings of `prepare`."""

    seed: int = Field(default=0, ge=0, description="family of scenes")
    scenes: int = Field(default=1000, ge=1, description="number of scenes")
    size: tuple[int, int] = Field(default=(96, 128), description="image rows x columns")
    window: Literal["time"] = Field(default="time", description="rule for the window")
    window_ms: float = Field(
        default=50.0, gt=0, le=1000, description="duration of the window before the image"
    )
    speed: float = Field(default=1.0, ge=0, le=16, description="factor on motion")
    darkness: float = Field(default=0.0, ge=0, le=1, description="0 day .. 1 night")
    exposure: float = Field(default=0.0, ge=-8, le=8, description="exposure compensation in stops")
    shutter_ms: float = Field(default=8.0, ge=0, le=1000, description="exposure time, ms")
    noise_hz: float = Field(default=0.1, ge=0, le=1000, description="noise events per pixel")
    layout: Layout = Field(
        default=DEFAULT_LAYOUT, description="one camera in a straight street, or varied"
    )
    after: bool = Field(
        default=False, description="also the window after the image, for optical flow"
    )

    _size = field_validator("size", mode="before")(parse_size)


@dataclass(frozen=True)
class Scenes:
    """A range of scenes: one task of `prepare`.

    Args:
        config: Which scenes there are, and how they are stored.
        film: How they are filmed.
        first: Index of the first scene of this range.
        expected: Number of scenes.
    """

    config: Settings
    film: StreetSettings
    first: int
    expected: int
    inputs: tuple[Path, ...] = ()
    found: str = "rendered scenes"

    @property
    def name(self) -> str:
        """Such as street-0-000250."""
        return recording_name(self.config.seed, self.first)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """Render the scenes."""
        seed = self.config.seed
        for index in range(self.first, self.first + self.expected):
            scene = render_scene(seed, index, self.film)
            now, later = scene.image_us, scene.image_us + self.film.window_us
            filmed = len(scene.events) + len(scene.after or ())
            counts.update({"images": 1, "pairs": 1})
            counts.update({"events decoded": filmed, "events kept": filmed})
            split = split_of(index, self.config.scenes)
            yield Pair(
                recording=recording_name(seed, index),
                image_us=now,
                image=encode_image(scene.image, self.config.lossless),
                events=scene.events,
                window=Window(scene.start_us, now),
                after=None if scene.after is None else (Window(now, later), scene.after),
                labels={
                    "semantics": Label(scene.semantics, now, now),
                    "depth": Label(scene.depth, now, now),
                    "flow": Label(scene.flow, now, later),
                },
                provenance={
                    "seed": seed,
                    "scene": index,
                    "split": split,
                    "layout": self.film.layout,
                    "mount": scene.mount,
                },
                tags="static" if scene.mount == "mast" else "",
            )


def sources(config: Settings) -> list[Scenes]:
    """The scenes that the settings ask for, in shards."""
    if config.roots:
        raise ConfigError("street takes no folder: it is rendered", where="roots")
    film = StreetSettings(
        *config.size,
        window_us=round(1000 * config.window_ms),
        shutter_us=round(1000 * config.shutter_ms),
        **config.model_dump(
            include={"speed", "darkness", "exposure", "noise_hz", "after", "layout"}
        ),
    )
    return [
        Scenes(config, film, first, min(SCENES_PER_SHARD, config.scenes - first))
        for first in range(0, config.scenes, SCENES_PER_SHARD)
    ]
