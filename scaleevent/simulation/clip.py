"""A clip through a simulated camera: frames with times in, frames with the events before them out.

One pass, forwards; memory holds a few frames and the events of one interval, however long the clip
or a still scene in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.simulation.sensor import Columns, SimulatedCamera
from scaleevent.simulation.upsampling import MOST_STEPS, Between, Interpolator, by_flow, luminance

CUT = 0.3  # share of a picture whose motion agrees seen from both frames, below which a shot ends
SAME = 2  # levels of 255 that any pixel of a repeated frame differs by, at most
BRIDGED = 2  # repeated frames in a row that rate conversion may cause; more: nothing moves

_CODE = np.arange(256) / 255
TO_LIGHT = {
    "srgb": np.where(_CODE <= 0.04045, _CODE / 12.92, ((_CODE + 0.055) / 1.055) ** 2.4),
    "linear": _CODE,
}
"""Linear light of the 256 levels of a picture: of usual ones, IEC 61966-2-1, and of raw ones."""


@dataclass(frozen=True)
class Filming:
    """How a clip is turned into light, and into pictures and events.

    Args:
        gamma: What the levels of the frames mean, a key of `TO_LIGHT`.
        step_px: Largest motion between the pictures that events are simulated from.
        shutter_us: Exposure time of the pictures, centred on their times; 0 keeps the frames. It
            reaches at most to the frames beside.
        between: Makes the pictures between two frames.
    """

    gamma: str = "srgb"
    step_px: float = 1.0
    shutter_us: int = 0
    between: Interpolator = by_flow


@dataclass(frozen=True, eq=False)
class Moment:
    """A frame of the clip.

    Args:
        index: Position in the clip.
        time_us: Time of the frame.
        image: (H, W, 3) uint8, as the camera's exposure shows it.
        events: Those since the last frame that has any, up to and including the time of this one.
            None: the frame repeats the one before it, and what happens meanwhile comes with the
            next one.
        shot: Number of scene cuts before it; no events cross a cut.
        repeats: Whether the frame repeats the one before it.
        capped: Whether something moved too fast for pictures `step_px` apart.
    """

    index: int
    time_us: int
    image: np.ndarray
    events: Events | None
    shot: int
    repeats: bool = False
    capped: bool = False


@dataclass
class _Exposure:
    """Light that falls on a picture while its shutter is open, each part for its time."""

    frame: np.ndarray
    light: np.ndarray | float = 0.0
    frame_us: float = 0.0  # for how long the frame itself is seen
    other_us: float = 0.0  # and what is between it and the frames beside

    def add(self, light: np.ndarray, us: float) -> None:
        self.light = self.light + us * light
        self.other_us += us

    def mean(self) -> np.ndarray | None:
        """(H, W, C) light; None: nothing but the frame."""
        if not self.other_us:
            return None
        return (self.light + self.frame_us * self.frame) / (self.frame_us + self.other_us)


def film(
    frames: Iterable[tuple[int, int, np.ndarray]], camera: SimulatedCamera, filming: Filming
) -> Iterator[Moment]:
    """Events of a clip, frame by frame.

    A frame that repeats the one before it, as rate conversion makes them, is bridged: motion goes
    on through it; a longer run of them is a still scene. Where two frames have nothing in common,
    the camera begins anew.

    Args:
        frames: Positions in the clip, times in microseconds, ascending, and (H, W, 3) uint8
            pictures.
        camera: Sees the clip; its size is that of the frames.
        filming: How.

    Raises:
        DataError: Frames of two sizes, or times that do not ascend.
    """
    run = _Clip(camera, filming)
    for index, time_us, image in frames:
        yield from run.take(index, time_us, image)
    yield from run.waiting()


@dataclass
class _Clip:
    """The state of `film` between two frames."""

    camera: SimulatedCamera
    filming: Filming
    shot: int = 0
    image: np.ndarray | None = None  # the last one that shows something new
    light: np.ndarray | None = None  # its light, (H, W, C)
    time_us: int = 0  # its time, or where a still scene has got to
    latest_us: int = 0  # time of the last frame, which may repeat it
    repeats: int = 0
    pending: list[Moment] = field(default_factory=list)  # wait for the exposure of the first
    exposure: _Exposure | None = None
    origin_us: int = 0
    parts: list[Columns] = field(default_factory=list)

    def take(self, index: int, time_us: int, image: np.ndarray) -> Iterator[Moment]:
        """One more frame; yields those that are finished."""
        if self.image is None:
            self.origin_us = time_us
            yield from self._begin(index, time_us, image)
            return
        if image.shape != self.image.shape:
            raise DataError("frames differ in size", where=f"frame {index}",
                            found=image.shape, expected=self.image.shape)  # fmt: skip
        if time_us <= self.latest_us:
            raise DataError("frame times must increase", where=f"frame {index}",
                            found=f"{time_us} us after {self.latest_us} us")  # fmt: skip
        if _same(self.image, image):
            yield from self._repeated(index, time_us, image)
            return
        assert self.light is not None
        light = self._light(image)
        between = self.filming.between(self.light, light)
        if between.matched < CUT:
            self.shot += 1
            yield from self.waiting()
            yield from self._begin(index, time_us, image)
            return
        exposure = self._between(between, light, time_us)
        yield from self.waiting()
        capped = between.motion > MOST_STEPS * self.filming.step_px
        self._remember(time_us, image, light)
        moment = Moment(index, time_us, image, self._events(), self.shot, capped=capped)
        self.exposure = exposure
        yield from self._finished(moment)

    def waiting(self) -> Iterator[Moment]:
        """The frame whose exposure is over, and those that repeat it."""
        if self.exposure is not None and (light := self.exposure.mean()) is not None:
            image = _picture(light, self.filming.gamma)
            self.pending[0] = replace(self.pending[0], image=image)
        yield from self.pending
        self.pending, self.exposure = [], None

    def _repeated(self, index: int, time_us: int, image: np.ndarray) -> Iterator[Moment]:
        """A frame like the one before it: bridged, or one more of a still scene."""
        assert self.light is not None
        self.repeats += 1
        self.latest_us = time_us
        events = None
        if still := self.repeats > BRIDGED:
            yield from self.waiting()
            self._advance(self.light, time_us)
            self.time_us = time_us
            events = self._events()
        self.pending.append(Moment(index, time_us, image, events, self.shot, repeats=True))
        if still or not self.filming.shutter_us:
            yield from self.waiting()

    def _begin(self, index: int, time_us: int, image: np.ndarray) -> Iterator[Moment]:
        """The first frame of a shot."""
        light = self._light(image)
        self.camera.start(luminance(light), 1e-6 * (time_us - self.origin_us))
        self._remember(time_us, image, light)
        self.exposure = _Exposure(light)
        height, width, _ = image.shape
        yield from self._finished(
            Moment(index, time_us, image, Events.empty(height, width), self.shot)
        )

    def _finished(self, moment: Moment) -> Iterator[Moment]:
        """The frame at once if nothing is to be added to its picture."""
        self.pending.append(moment)
        if not self.filming.shutter_us:
            yield from self.waiting()

    def _remember(self, time_us: int, image: np.ndarray, light: np.ndarray) -> None:
        self.image, self.light, self.repeats = image, light, 0
        self.time_us = self.latest_us = time_us

    def _between(self, between: Between, light: np.ndarray, time_us: int) -> _Exposure:
        """Film from the last frame to this one; returns the beginning of this one's exposure."""
        start, span = self.time_us, time_us - self.time_us
        steps = between.steps(self.filming.step_px)
        half, step = 0.5 * self.filming.shutter_us, span / steps
        exposure = _Exposure(light)
        for ends in (self.exposure, exposure):
            if ends is not None:
                ends.frame_us += min(0.5 * step, half)
        for k in range(1, steps + 1):
            picture = light if k == steps else between.at(k / steps)
            self._advance(picture, start + span * k / steps)
            if k < steps and half:
                if self.exposure is not None and k * step <= half:
                    self.exposure.add(picture, step)
                if (steps - k) * step <= half:
                    exposure.add(picture, step)
        return exposure

    def _advance(self, light: np.ndarray, time_us: float) -> None:
        self.parts.append(self.camera.advance(luminance(light), 1e-6 * (time_us - self.origin_us)))

    def _events(self) -> Events:
        """The events since the last call, in whole microseconds, rounded down."""
        t, x, y, p = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        self.parts.clear()
        stamps = self.origin_us + np.floor(t * 1e6).astype(np.int64)
        assert self.image is not None
        height, width, _ = self.image.shape
        return Events(stamps, x, y, p, height, width)

    def _light(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) linear light, or (H, W, 1) where only the luminance is needed."""
        light = TO_LIGHT[self.filming.gamma].astype(np.float32)[image]
        return light if self.filming.shutter_us else luminance(light)[..., None]


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether a frame repeats another, but for the codec's rounding."""
    return int((np.maximum(one, other) - np.minimum(one, other)).max()) <= SAME


def _picture(light: np.ndarray, gamma: str) -> np.ndarray:
    """(H, W, 3) uint8 of linear light: the nearest level."""
    levels = TO_LIGHT[gamma]
    edges = 0.5 * (levels[1:] + levels[:-1])
    return np.searchsorted(edges, light).astype(np.uint8)
