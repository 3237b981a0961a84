"""`street`: the embedded world as a data set; every scene is a recording of one pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scaleevent.config.data import PrepareConfig
from scaleevent.errors import ConfigError
from scaleevent.grids.windows import Window
from scaleevent.pairs.pair import Label, Pair, encode_image
from scaleevent.street.scene import StreetSettings, render_scene

SCENES_PER_SHARD = 250


@dataclass(frozen=True)
class Scenes:
    """A range of scenes."""

    seed: int
    first: int
    expected: int
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
        for number in range(self.first, self.first + self.expected):
            scene = render_scene(self.seed, number, self.settings)
            after = Window(scene.image_us, scene.image_us + self.settings.window_us)
            filmed = len(scene.events) + len(scene.after or ())
            counts["images"] += 1
            counts["pairs"] += 1
            counts["events decoded"] += filmed
            counts["events kept"] += filmed
            yield Pair(
                recording=f"street-{self.seed}-{number:06d}",
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
                provenance={"seed": self.seed, "scene": number},
            )


def sources(config: PrepareConfig) -> list[Scenes]:
    """The scenes that a configuration asks for, in shards."""
    if config.roots:
        raise ConfigError("street takes no folder: it is rendered", where="roots")
    if config.window == "count" or config.window_ms and config.window_ms > 1000:
        raise ConfigError("street windows are fixed durations up to 1000 ms", where="window")
    height, width = config.size or (96, 128)
    settings = StreetSettings(
        height=height,
        width=width,
        window_us=round(1000 * (config.window_ms or 50.0)),
        speed=config.speed,
        darkness=config.darkness,
        exposure=config.exposure,
        shutter_us=round(1000 * config.shutter_ms),
        noise_hz=config.noise_hz,
        after=config.after,
    )
    return [
        Scenes(
            config.seed, first, min(SCENES_PER_SHARD, config.scenes - first), settings,
            config.lossless,
        )
        for first in range(0, config.scenes, SCENES_PER_SHARD)
    ]  # fmt: skip
