"""Random layout of one world: a street or a town, its light and its camera.

The order of the random draws decides the bytes of every scene, so it must not change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scaleevent.street.camera import Pose
from scaleevent.street.ground import ground_height
from scaleevent.street.objects import HORIZON, StreetBuilder, draw_seed, pick
from scaleevent.street.rays import SOLID
from scaleevent.street.surfaces import Ground, Light
from scaleevent.street.town import draw_town
from scaleevent.street.views import distances, draw_view, near_things


@dataclass(frozen=True, eq=False)
class World:
    """A street and the camera that moves through it; time 0 is the image time."""

    solids: np.ndarray  # (P,) SOLID, nearest first
    ground: Ground
    light: Light
    pose: Pose  # camera at image time
    velocity: tuple[float, float, float]  # of the camera, m/s in x, y and z
    turning: tuple[float, float, float]  # rates of its yaw, pitch and roll, rad/s
    focal: float = 0.86  # image widths
    horizon: float = 0.46  # row of the principal point in image heights
    mount: str = "car"  # what carries the camera

    def camera(self, t: float) -> Pose:
        """The camera `t` seconds after the image time."""
        x, y, z, yaw, pitch, roll = self.pose
        (vx, vy, vz), (turn, nod, tilt) = self.velocity, self.turning
        return Pose(
            x + vx * t, y + vy * t, z + vz * t, yaw + turn * t, pitch + nod * t, roll + tilt * t
        )


def draw_world(
    rng: np.random.Generator, speed: float, standing: float, darkness: float, layout: str
) -> World:
    """A random world.

    Args:
        rng: Source of randomness.
        speed: Factor on all motion.
        standing: Probability that the camera stands still.
        darkness: 0 = day, 1 = night.
        layout: "fixed" or "varied", see `scene.StreetSettings`.
    """
    if layout == "varied":
        return _draw_varied(rng, speed, standing, darkness)
    half_road = rng.uniform(3.4, 5.4)
    ground = Ground(
        half_road=half_road,
        lane_line=bool(rng.random() < 0.75),
        crossing_z=rng.uniform(16.0, 60.0) if rng.random() < 0.6 else 10.0 * HORIZON,
        crossing_half=rng.uniform(3.0, 4.5),
        grey=rng.uniform(0.07, 0.15),
        seed=draw_seed(rng),
    )
    row_x = half_road + rng.uniform(2.4, 4.6)
    builder = StreetBuilder(rng, ground, row_x, speed)
    builder.sidewalks()
    heights = builder.buildings()
    builder.furniture()
    builder.cars()
    builder.people()
    if rng.random() < standing:
        velocity, yaw_rate = (0.0, 0.0, 0.0), 0.0
    else:
        velocity = (rng.uniform(-0.4, 0.4) * speed, 0.0, rng.uniform(1.0, 7.0) * speed)
        yaw_rate = rng.normal(0.0, 0.07) * speed
    pose = Pose(rng.uniform(-0.1, 0.45) * half_road, rng.uniform(1.3, 2.0), 0.0, rng.normal(0, 0.1))
    solids = np.array(builder.solids, SOLID)
    nearest_first = np.argsort(solids["z"] - solids["half_z"], kind="stable")
    return World(
        solids=solids[nearest_first],
        ground=ground,
        light=_draw_light(rng, darkness, row_x, heights),
        pose=pose,
        velocity=velocity,
        turning=(yaw_rate, 0.0, 0.0),
    )


def _draw_varied(rng: np.random.Generator, speed: float, standing: float, darkness: float) -> World:
    """A quarter of a town and one of many views of it."""
    builder, row_height = draw_town(rng, speed)
    view = draw_view(rng, builder, standing)
    near_things(rng, builder, view)
    ground, pose = builder.ground, view.pose
    solids = builder.array()
    nearest_first = np.argsort(distances(solids, pose.x, pose.y, pose.z), kind="stable")
    solids = solids[nearest_first]
    level = ground_height(ground, pose.x, pose.z)  # the road below the camera gets height 0
    solids["y"] -= level
    return World(
        solids=solids,
        ground=ground._replace(base=ground.base - level),
        light=_draw_light(rng, darkness, builder.row_x, row_height),
        pose=pose._replace(y=pose.y - level),
        velocity=view.velocity,
        turning=view.turning,
        focal=view.focal,
        horizon=0.5,
        mount=view.mount,
    )


def _draw_light(
    rng: np.random.Generator, darkness: float, row_x: float, row_height: float
) -> Light:
    """Sunshine, clouds or a low sun; darkness dims it, makes it bluer and lights the windows."""
    weather = pick(rng, (0, 0, 1, 2))
    azimuth = rng.uniform(0, 2 * math.pi)
    elevation = math.radians(rng.uniform(*((32, 65), (40, 70), (10, 24))[weather]))
    sun = ((2.3, 2.1, 1.75), (0.25, 0.25, 0.25), (2.6, 1.45, 0.6))[weather]
    ambient = ((0.36, 0.43, 0.56), (0.72, 0.75, 0.8), (0.36, 0.36, 0.46))[weather]
    zenith = ((0.1, 0.24, 0.6), (0.5, 0.54, 0.6), (0.13, 0.22, 0.45))[weather]
    horizon = ((0.62, 0.76, 0.95), (0.72, 0.75, 0.8), (1.0, 0.66, 0.4))[weather]
    cloud = ((1.0, 1.0, 1.0), (0.62, 0.64, 0.68), (0.85, 0.6, 0.5))[weather]
    dim = 10.0 ** (-1.5 * darkness)
    night = np.array((0.6, 0.75, 1.25)) * darkness + (1.0 - darkness)

    def dimmed(rgb: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
        red, green, blue = (factor * night * rgb).tolist()
        return red, green, blue

    return Light(
        sun=(
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
            math.cos(elevation) * math.cos(azimuth),
        ),
        sun_rgb=dimmed(sun, dim * (1.0 - darkness)),
        ambient_rgb=dimmed(ambient, dim),
        zenith_rgb=dimmed(zenith, dim),
        horizon_rgb=dimmed(horizon, dim),
        cloud_rgb=dimmed(cloud, dim),
        clouds=(rng.uniform(0.1, 0.6), rng.uniform(0.7, 1.0), rng.uniform(0.1, 0.5))[weather],
        haze=rng.uniform(0.001, 0.006),
        lamps=0.6 * darkness,
        row_x=row_x,
        row_height=row_height,
        seed=draw_seed(rng),
    )
