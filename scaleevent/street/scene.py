"""`street`: a built-in procedural world with images, events and exact ground truth.

A camera moves through a ray-cast street with buildings, cars, people and trees. Each scene has the
picture at one moment, the events of the window before it, and class, depth and flow of every pixel.
It depends on (seed, scene, settings) only. World, photon noise, thresholds, start levels and noise
events take their random numbers from one generator, in this order, so the order must not change.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from scaleevent.errors import ConfigError
from scaleevent.events import Events
from scaleevent.simulation.esim import EventSimulator, merge_events, noise_events, spread_thresholds
from scaleevent.street.camera import Lens, Pose
from scaleevent.street.layout import World, draw_world
from scaleevent.street.objects import CLASSES
from scaleevent.street.rays import cast
from scaleevent.street.render import labels_and_flow, radiance

__all__ = ["CLASSES", "PALETTE", "StreetScene", "StreetSettings", "render_scene"]

PALETTE = np.array(
    [(150, 195, 235), (95, 85, 100), (225, 120, 210), (130, 100, 85), (75, 145, 55),
     (40, 70, 200), (220, 30, 50), (240, 200, 40)],
    np.uint8,
)  # fmt: skip

Layout = Literal["fixed", "varied"]
DEFAULT_LAYOUT: Layout = "varied"

IMAGE_US = 1_000_000  # image time of every scene

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # linear sRGB, ITU-R BT.709
# Positions of four rays within a pixel, relative to its centre, in pixels
_SHIFTS = ((-0.25, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))
_SKY, _ROAD, _SIDEWALK, _GRASS = map(CLASSES.index, ("sky", "road", "sidewalk", "vegetation"))
_GROUND_LABELS = (_SKY, _ROAD, _GRASS, _SIDEWALK)
_DARK_CURRENT = 0.005  # radiance that event pixels add before the logarithm
_SATURATION = 4000.0  # electrons in a white pixel by day


@dataclass(frozen=True)
class StreetSettings:
    """How the world is filmed.

    Args:
        height: Image and sensor rows, up to 480.
        width: Image and sensor columns, up to 640.
        window_us: Length of the event window that ends at the image time.
        speed: Factor on all motion.
        standing: Fraction of scenes in which the camera stands still. In the layout "varied" one
            that is held, walks, flies or pans goes on turning a little.
        darkness: 0 = day .. 1 = night: less light, hence more photon noise and weaker events.
        exposure: Exposure compensation in stops: brightness relative to the automatic exposure.
        shutter_us: Exposure time, centred on the image time; causes motion blur.
        threshold: Range of the contrast threshold, log units; one value per scene.
        threshold_spread: Standard deviation over the pixels, relative to the threshold.
        noise_hz: Noise events per pixel and second.
        step_px: Largest image motion, in pixels, between the frames that events are simulated from.
        after: Also film the window that starts at the image time, for two-frame tasks.
        layout: "fixed": a straight street seen from a car; its bytes never change. "varied": a
            quarter of a town; each scene draws its own place, mount, view and lens.
    """

    height: int = 96
    width: int = 128
    window_us: int = 50_000
    speed: float = 1.0
    standing: float = 0.15
    darkness: float = 0.0
    exposure: float = 0.0
    shutter_us: int = 8_000
    threshold: tuple[float, float] = (0.12, 0.30)
    threshold_spread: float = 0.15
    noise_hz: float = 0.1
    step_px: float = 1.0
    after: bool = False
    layout: Layout = DEFAULT_LAYOUT

    def __post_init__(self) -> None:
        low, high = self.threshold
        limits = {
            "height": 16 <= self.height <= 480,
            "width": 16 <= self.width <= 640,
            "window_us": 100 <= self.window_us <= 1_000_000,
            "speed": 0 <= self.speed <= 16,
            "standing": 0 <= self.standing <= 1,
            "darkness": 0 <= self.darkness <= 1,
            "exposure": -8 <= self.exposure <= 8,
            "shutter_us": 0 <= self.shutter_us <= 1_000_000,
            "threshold": 0.01 <= low <= high <= 2,
            "threshold_spread": 0 <= self.threshold_spread <= 1,
            "noise_hz": 0 <= self.noise_hz <= 1000,
            "step_px": 0.1 <= self.step_px <= 100,
            "layout": self.layout in get_args(Layout),
        }
        for name, fits in limits.items():
            if not fits:
                raise ConfigError(f"street: {name} is out of range", found=getattr(self, name))


@dataclass(frozen=True, eq=False)
class StreetScene:
    """One moment of the street.

    Args:
        image: (H, W, 3) uint8, sRGB.
        events: Events with start_us <= t < image_us.
        after: Events of an equally long window that starts at the image time, if it was filmed.
        start_us: Start of the window of `events`.
        image_us: Time of image, semantics and depth.
        semantics: (H, W) uint8, index into `CLASSES`.
        depth: (H, W) float32, metres along the optical axis; NaN = sky.
        flow: (2, H, W) float32, motion right and down, in pixels, of the point seen at image time
            until image_us + window_us; NaN if it has passed the camera by then.
        pose: The camera at image time, see `camera`.
        lens: Focal length and principal point of the image, pixels.
        mount: What carries the camera: car, hand, quadruped, drone or mast.
    """

    image: np.ndarray
    events: Events
    after: Events | None
    start_us: int
    image_us: int
    semantics: np.ndarray
    depth: np.ndarray
    flow: np.ndarray
    pose: Pose
    lens: Lens
    mount: str


def render_scene(seed: int, scene: int, settings: StreetSettings | None = None) -> StreetScene:
    """Render one scene; its bytes do not depend on the process or on scenes rendered before.

    Args:
        seed: Selects a family of scenes; not negative.
        scene: Index within the family; not negative.
        settings: How the scene is filmed. None: `StreetSettings()`.
    """
    settings = settings or StreetSettings()
    rng = np.random.default_rng([seed, scene])
    world = draw_world(rng, settings.speed, settings.standing, settings.darkness, settings.layout)
    lens = Lens(world.focal * settings.width, 0.5 * settings.width, world.horizon * settings.height)
    hits = cast(world.solids, world.ground, world.pose, lens, 0.0, settings.height, settings.width)
    seconds = settings.window_us * 1e-6
    semantics, flow = labels_and_flow(
        world.solids, world.ground, world.pose, world.camera(seconds), lens, seconds,
        _GROUND_LABELS, hits,
    )  # fmt: skip
    blur = _frame_count(flow * (settings.shutter_us / settings.window_us), settings.step_px)
    image = _photograph(rng, world, lens, settings, max(blur, len(_SHIFTS)))
    windows = _film(rng, world, lens, settings, _frame_count(flow, settings.step_px))
    return StreetScene(
        image=image,
        events=next(windows),
        after=next(windows) if settings.after else None,
        start_us=IMAGE_US - settings.window_us,
        image_us=IMAGE_US,
        semantics=semantics,
        depth=np.where(np.isfinite(hits.depth), hits.depth, np.nan).astype(np.float32),
        flow=flow,
        pose=world.pose,
        lens=lens,
        mount=world.mount,
    )


def _view(world: World, lens: Lens, t: float, settings: StreetSettings) -> np.ndarray:
    """Linear RGB radiance (H, W, 3) `t` seconds after the image time."""
    pose = world.camera(t)
    hits = cast(world.solids, world.ground, pose, lens, t, settings.height, settings.width)
    return radiance(world.solids, world.ground, world.light, pose, lens, t, hits)


def _frame_count(flow: np.ndarray, step_px: float) -> int:
    """Number of intervals, 3 to 64, in which 9 of 10 pixels move at most one step each."""
    steps = float(np.nanquantile(np.hypot(*flow), 0.9) / step_px)
    return min(max(math.ceil(steps), 3), 64)


def _photograph(
    rng: np.random.Generator, world: World, lens: Lens, settings: StreetSettings, exposures: int
) -> np.ndarray:
    """The 8-bit picture: averaged over shutter time and pixel area, exposed, with photon noise."""
    shutter = settings.shutter_us * 1e-6
    light: np.ndarray = np.zeros((settings.height, settings.width, 3))
    for i in range(exposures):
        shift_x, shift_y = _SHIFTS[i % len(_SHIFTS)]
        t = shutter * ((i + 0.5) / exposures - 0.5)
        light += _view(world, lens._replace(shift_x=shift_x, shift_y=shift_y), t, settings)
    light /= exposures
    middle = np.exp(np.mean(np.log(light @ _LUMINANCE + 1e-5)))
    key = 0.2 * 2.0 ** (settings.exposure - 1.5 * settings.darkness)  # night is darker than day
    light = (light * (key / middle)).astype(np.float32)
    electrons = _SATURATION * 10.0 ** (-2.5 * settings.darkness)
    light += np.sqrt(light / electrons) * rng.standard_normal(light.shape, np.float32)
    light = np.clip(light, 0.0, 1.0)
    # sRGB transfer function, IEC 61966-2-1
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255.0 * coded).astype(np.uint8)


def _film(
    rng: np.random.Generator, world: World, lens: Lens, settings: StreetSettings, intervals: int
) -> Iterator[Events]:
    """Events of the window before the image time, then of each window after it, on demand."""
    height, width = settings.height, settings.width
    seconds = settings.window_us * 1e-6
    threshold = rng.uniform(*settings.threshold)
    spread = settings.threshold_spread * threshold
    positive = spread_thresholds(rng, threshold, spread, height, width)
    negative = spread_thresholds(rng, threshold, spread, height, width)

    def log_frame(i: int) -> np.ndarray:
        t = seconds * (i / intervals - 1.0)
        log: np.ndarray = np.log(_view(world, lens, t, settings) @ _LUMINANCE + _DARK_CURRENT)
        return log

    first = log_frame(0)
    # In a camera that has been running, any level within the thresholds is equally likely
    level = first - 0.999 * rng.uniform(-negative, positive)
    simulator = EventSimulator(first, 0.0, positive, negative, level=level)
    origin_us = IMAGE_US - settings.window_us
    for window in itertools.count():
        start_us = origin_us + window * settings.window_us
        end_us = start_us + settings.window_us
        frames = range(window * intervals + 1, (window + 1) * intervals + 1)
        parts = [simulator.advance(log_frame(i), seconds * i / intervals) for i in frames]
        t, x, y, p = (np.concatenate(column) for column in zip(*parts, strict=True))
        stamps = origin_us + np.floor(t * 1e6).astype(np.int64)
        signal = Events(stamps, x, y, p, height, width).between(start_us, end_us)
        noise = noise_events(rng, settings.noise_hz, start_us, end_us, height, width)
        yield merge_events(signal, noise)
