"""`street`: the embedded world as a data set; every scene is a recording of one pair."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from scaleevent.config.data import PrepareConfig
from scaleevent.config.settings import parse_size
from scaleevent.errors import ConfigError
from scaleevent.grids.windows import Window
from scaleevent.pairs.pair import Label, Pair, encode_image
from scaleevent.street.scene import StreetSettings, render_scene

SCENES_PER_SHARD = 250
TRAINING = 0.7  # fraction of the scenes, the first ones, that train; the others test


class Settings(PrepareConfig):
    """What `street` adds to the settings of `prepare`."""

    seed: Annotated[int, Field(ge=0, description="family of scenes")] = 0
    scenes: Annotated[int, Field(ge=1, description="number of scenes")] = 1000
    size: Annotated[tuple[int, int], Field(description="image rows x columns")] = (96, 128)
    window: Annotated[Literal["time"], Field(description="rule for the window")] = "time"
    window_ms: Annotated[
        float, Field(gt=0, le=1000, description="duration of the window before the image")
    ] = 50.0
    speed: Annotated[float, Field(ge=0, le=16, description="factor on motion")] = 1.0
    darkness: Annotated[float, Field(ge=0, le=1, description="0 day .. 1 night")] = 0.0
    exposure: Annotated[float, Field(ge=-8, le=8, description="stops")] = 0.0
    shutter_ms: Annotated[float, Field(ge=0, le=1000, description="exposure time")] = 8.0
    noise_hz: Annotated[float, Field(ge=0, le=1000, description="noise events per pixel")] = 0.1
    after: Annotated[
        bool, Field(description="also the window after the image, for optical flow")
    ] = False

    _size = field_validator("size", mode="before")(parse_size)


@dataclass(frozen=True)
class Scenes:
    """A range of scenes: one task of `prepare`.

    Args:
        seed: Family of scenes.
        first: Index of the first scene.
        expected: Number of scenes.
        training: Scenes below this index are for training, all others for testing.
        settings: What the scenes look like.
        lossless: Encode images as PNG.
    """

    seed: int
    first: int
    expected: int
    training: int
    settings: StreetSettings
    lossless: bool
    inputs: tuple[Path, ...] = ()
    found: str = "rendered scenes"

    @property
    def name(self) -> str:
        """Such as street-0-000250."""
        return f"street-{self.seed}-{self.first:06d}"

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """Render the scenes."""
        for index in range(self.first, self.first + self.expected):
            scene = render_scene(self.seed, index, self.settings)
            after = Window(scene.image_us, scene.image_us + self.settings.window_us)
            filmed = len(scene.events) + len(scene.after or ())
            counts["images"] += 1
            counts["pairs"] += 1
            counts["events decoded"] += filmed
            counts["events kept"] += filmed
            split = "train" if index < self.training else "test"
            yield Pair(
                recording=f"street-{self.seed}-{index:06d}",
                image_us=scene.image_us,
                image=encode_image(scene.image, self.lossless),
                events=scene.events,
                window=Window(scene.start_us, scene.image_us),
                after=None if scene.after is None else (after, scene.after),
                labels={
                    "semantics": Label(scene.semantics, scene.image_us, scene.image_us),
                    "depth": Label(scene.depth, scene.image_us, scene.image_us),
                    "flow": Label(scene.flow, scene.image_us, after.end_us),
                },
                provenance={"seed": self.seed, "scene": index, "split": split},
            )


def sources(config: Settings) -> list[Scenes]:
    """The scenes that the settings ask for, in shards."""
    if config.roots:
        raise ConfigError("street takes no folder: it is rendered", where="roots")
    height, width = config.size
    settings = StreetSettings(
        height=height,
        width=width,
        window_us=round(1000 * config.window_ms),
        speed=config.speed,
        darkness=config.darkness,
        exposure=config.exposure,
        shutter_us=round(1000 * config.shutter_ms),
        noise_hz=config.noise_hz,
        after=config.after,
    )
    training = math.ceil(TRAINING * config.scenes)
    return [
        Scenes(
            config.seed, first, min(SCENES_PER_SHARD, config.scenes - first), training, settings,
            config.lossless,
        )
        for first in range(0, config.scenes, SCENES_PER_SHARD)
    ]  # fmt: skip
