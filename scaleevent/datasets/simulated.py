"""`video`: plain videos and sequences of pictures, filmed by a simulated event camera.

Every clip is a recording. A root is a video, a folder of pictures, or a folder that holds these.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from scaleevent.config.data import PrepareConfig, WindowSettings
from scaleevent.config.settings import OneOf, parse_size
from scaleevent.datasets.clips import (
    Clip,
    Framing,
    UnreadableClip,
    View,
    black_bars,
    find_clips,
    frame_for,
    open_clip,
    sampled,
)
from scaleevent.datasets.custom import unique_names
from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.grids.windows import Window, WindowRule, choose_window
from scaleevent.pairs.pair import Pair, encode_image
from scaleevent.pairs.pairing import window_rule, with_block
from scaleevent.simulation.clip import Filming, Moment, film
from scaleevent.simulation.sensor import SENSORS, Sensor, SimulatedCamera
from scaleevent.simulation.upsampling import MOST_STEPS, by_flow
from scaleevent.system.files import Json


class CameraSettings(PrepareConfig, WindowSettings):
    """How clips are filmed: what all data sets add whose events are simulated."""

    sensor: Annotated[str, OneOf(SENSORS)] = Field(default="vid2e", description="camera model")
    threshold: tuple[float, float] | None = Field(
        default=None,
        description="range of the contrast threshold, log units, in place of the model's: 0.1-0.4",
    )
    illumination: float = Field(
        default=1.0, gt=0, le=10, description="light on the scene; less: slower, noisier pixels"
    )
    seed: int = Field(default=0, ge=0, description="of thresholds, levels and noise")
    size: tuple[int, int] | None = Field(
        default=None,
        description="sensor rows x columns; else the picture's, the longer side at most 640",
    )
    every: int = Field(default=1, ge=1, le=10_000, description="a pair for every so many frames")
    gamma: Literal["srgb", "linear"] = Field(
        default="srgb",
        description="what picture levels mean; linear: raw frames of an event camera",
    )
    shutter_ms: float = Field(
        default=0.0, ge=0, le=1000, description="exposure of the stored images, ms: motion blur"
    )
    step_px: float = Field(
        default=1.0, ge=0.1, le=100, description="largest motion between simulated pictures, pixels"
    )
    on_error: Literal["strict", "skip"] = Field(
        default="strict", description="damage in a clip: an error, or left out and counted"
    )

    _size = field_validator("size", mode="before")(parse_size)

    @field_validator("threshold", mode="before")
    @classmethod
    def _range(cls, value: object) -> object:
        """`0.1-0.4` or `0.2` to a range."""
        if not isinstance(value, str):
            return value
        parts = value.split("-")
        try:
            low, high = float(parts[0]), float(parts[-1])
        except ValueError:
            raise ValueError("expected a range, such as 0.1-0.4") from None
        if len(parts) > 2 or not 0 < low <= high:
            raise ValueError("expected a range, such as 0.1-0.4")
        return low, high

    @property
    def told_tags(self) -> list[str]:
        """Also the camera model, unless another sensor is named."""
        return [f"sensor=model {self.sensor}", *self.tag]

    @property
    def model(self) -> Sensor:
        """The camera model, with the thresholds that were asked for.

        Raises:
            ConfigError: Thresholds out of range.
        """
        chosen = SENSORS[self.sensor]
        return replace(chosen, threshold=self.threshold) if self.threshold else chosen


class Settings(CameraSettings):
    """What `video` adds to the settings of `prepare`."""

    fps: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="frames a second, in place of the video's own times",
    )
    timestamps: Path | None = Field(default=None, description="text file of the times of pictures")
    frame_time_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        default=None, description="unit of the frame times"
    )
    keep_bars: bool = Field(default=False, description="film black bars around the picture too")


@dataclass(frozen=True)
class SimulatedClip:
    """One clip and the camera that films it: one task of `prepare`.

    Args:
        clip: The frames.
        config: How they are filmed.
        rule: How windows are found.
        view: The part of the picture that is filmed; None: the largest of the sensor's shape.
        bars: Whether black bars around the picture are left out.
        scene: Recording name of the pairs, where several clips show one scene; None: `name`.
    """

    name: str
    clip: Clip
    config: CameraSettings
    rule: WindowRule
    view: View | None = None
    bars: bool = False
    scene: str | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The video, or pictures and times."""
        return self.clip.files

    @property
    def choices(self) -> tuple[str, ...]:
        """Where the camera model comes from."""
        thresholds = " with other thresholds, as asked" if self.config.threshold else ""
        return (f"camera model {self.config.sensor}{thresholds}: {self.config.model.describe()}",)

    @property
    def expected(self) -> int:
        """Number of frames that a pair is wanted for."""
        return -(-self.clip.frames // self.config.every)

    @property
    def found(self) -> str:
        """What was recognised."""
        return self.clip.found

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """A pair for every frame that events lead up to.

        Raises:
            DataError: Damage, unless it is to be left out.
        """
        config = self.config
        if isinstance(self.clip, UnreadableClip):
            counts["damage: unreadable clip"] += 1
            return
        rng = np.random.default_rng([config.seed, zlib.crc32(self.name.encode())])
        take = Take(self, self.framing(), rng)
        asked, shots = counts["images"], 0
        frames = self.frames(self.clip, take.framing, counts)
        for moment, held, start_us in take.moments(frames):
            shots = moment.shot + 1
            if moment.events is not None:
                counts["events decoded"] += len(moment.events)
                counts["events kept"] += len(moment.events)
                if moment.capped:
                    counts[f"frames with motion beyond {MOST_STEPS} steps"] += 1
            if moment.index % config.every:
                continue
            counts["images"] += 1
            pair, reason = self.pair_of(moment, held, start_us, take.about)
            if pair is None:
                counts[f"images dropped: {reason}"] += 1
                continue
            counts["pairs"] += 1
            yield pair
        counts["shots"] += shots
        missing = self.expected - (counts["images"] - asked)
        if missing > 0:
            counts["images"] += missing
            reason = "damaged" if frames.damages else "in the file, but not shown"
            counts[f"images dropped: {reason}"] += missing

    def pair_of(
        self, moment: Moment, held: Events, start_us: int, about: Json
    ) -> tuple[Pair | None, str]:
        """The pair of a frame, or the reason why there is none."""
        if moment.repeats:
            return None, "repeats the frame before"
        if moment.time_us == start_us:
            return None, "first frame of a shot"
        window = choose_window(held, moment.time_us, self.rule)
        if window.start_us < start_us:
            window = Window(start_us, window.end_us, "start")
        events = held.between(window.start_us, window.end_us)
        if not len(events):
            return None, "empty window"
        image = encode_image(moment.image, self.config.lossless)
        provenance = about | {"frame": moment.index, "shot": moment.shot}
        name = self.scene or self.name
        return Pair(name, moment.time_us, image, events, window, provenance=provenance), ""

    def frames(self, part: Clip, framing: Framing, counts: Counter[str]) -> _Frames:
        """Frames of some part of the clip, as the sensor sees them."""
        return _Frames(part, framing, self.config, counts)

    def framing(self) -> Framing:
        """What the sensor sees of a frame."""
        bars = (0, 0, 0, 0)
        if self.bars:
            bars = black_bars(sampled(self.clip, partial(refuse, config=self.config)))
        return frame_for(self.clip, bars, self.config.size, self.view)


class Take:
    """A clip in front of one copy of a camera, a function of its random numbers.

    Args:
        clip: How it is filmed.
        framing: What the sensor sees of a frame.
        rng: Draws thresholds, levels and noise.

    Attributes:
        about: What the provenance of pairs says of the camera.
    """

    def __init__(self, clip: SimulatedClip, framing: Framing, rng: np.random.Generator) -> None:
        config = clip.config
        self.clip, self.framing = clip, framing
        self._camera = SimulatedCamera(
            config.model, rng, framing.height, framing.width, config.illumination
        )
        thresholds = self._camera.positive, self._camera.negative
        self.about: Json = {
            "clip": clip.clip.path.name,
            "simulated": config.sensor,
            "thresholds": [round(float(one.mean()), 4) for one in thresholds],
            "box": [round(edge, 2) for edge in framing.box],
        }

    def moments(
        self, frames: Iterable[tuple[int, int, np.ndarray]]
    ) -> Iterator[tuple[Moment, Events, int]]:
        """Frames, with those events up to each that a window may need, and when its shot began."""
        config, size = self.clip.config, (self.framing.height, self.framing.width)
        filming = Filming(
            config.gamma,
            config.step_px,
            round(1000 * config.shutter_ms),
            partial(by_flow, step_px=config.step_px),
        )
        held, shot, start_us = Events.empty(*size), -1, 0
        for moment in film(frames, self._camera, filming):
            if moment.events is not None:
                if moment.shot != shot:
                    shot, start_us, held = moment.shot, moment.time_us, Events.empty(*size)
                held = with_block(held, moment.events, moment.time_us, self.clip.rule)
            yield moment, held, start_us


@dataclass
class _Frames:
    """The frames of a clip as the sensor sees them, without those that cannot be used."""

    clip: Clip
    framing: Framing
    config: CameraSettings
    counts: Counter[str]
    damages: int = 0

    def __iter__(self) -> Iterator[tuple[int, int, np.ndarray]]:
        latest, size = None, (self.clip.height, self.clip.width)
        for index, time, image in self.clip.read(self.damaged):
            if image.shape[:2] != size:
                self.damaged(DataError(
                    "frames differ in size", where=f"{self.clip.path}, frame {index}",
                    found=f"{image.shape[1]}x{image.shape[0]}", expected=f"{size[1]}x{size[0]}",
                ))  # fmt: skip
                continue
            if latest is not None and time <= latest:
                if time < latest:
                    raise DataError(
                        "image times are not ascending", where=self.clip.path,
                        found=f"frame {index} at {time} us after {latest} us",
                    )  # fmt: skip
                if index % self.config.every == 0:
                    self.counts["images"] += 1
                    self.counts["images dropped: repeated time stamp"] += 1
                continue
            latest = time
            yield index, time, self.framing(image)

    def damaged(self, error: DataError) -> None:
        """Count damage, or refuse it."""
        refuse(error, self.config)
        self.counts[f"damage: {error.what}"] += 1
        self.damages += 1


def refuse(error: DataError, config: CameraSettings) -> None:
    """Raise the error unless what is damaged may be left out."""
    if config.on_error == "strict":
        if "--on-error" not in (error.hint or ""):
            skip = "to leave out what is damaged, and count it: --on-error skip"
            error.hint = f"{error.hint}; or {skip}" if error.hint else skip
        raise error


def sources(config: Settings) -> list[SimulatedClip]:
    """The clips in and below the roots.

    Raises:
        ConfigError: No root, or settings that exclude each other or the clip.
        DataError: No clip, or one that cannot be read.
    """
    config.require_roots()
    _ = config.model  # refused before any file is read
    found = find_clips(config.roots)
    paths = [path.resolve() for _, path in found]
    if len(set(paths)) < len(paths):
        raise ConfigError("a clip is given twice", found=", ".join(map(str, paths[:5])))
    names = unique_names([name for name, _ in found])
    clips = []
    for name, (_, path) in zip(names, found, strict=True):
        try:
            clip = open_clip(path, config.fps, config.timestamps, config.frame_time_unit)
            frame_for(clip, (0, 0, 0, 0), config.size)
        except DataError as error:
            refuse(error, config)
            clip = UnreadableClip.because(path, error)
        clips.append(
            SimulatedClip(name, clip, config, window_rule(config), bars=not config.keep_bars)
        )
    return clips
