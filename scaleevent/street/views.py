"""Views of the layout `varied`: who carries the camera, where it is, how it moves and looks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scaleevent.street.camera import Pose
from scaleevent.street.objects import KERB, StreetBuilder, pick
from scaleevent.street.rays import SOLID

DRAWS = 40  # places tried for one camera
CLEARANCE = 1.0  # metres between the camera and the nearest solid


@dataclass(frozen=True)
class Mount:
    """What carries a camera, and how it is held.

    Args:
        name: Such as "car".
        height: Range above the ground, metres.
        pitch: Range, degrees, positive = down.
        roll: Standard deviation, degrees.
        pace: Range of the speed, m/s.
        shake: Standard deviation of the turning rates about yaw, pitch and roll, rad/s.
    """

    name: str
    height: tuple[float, float]
    pitch: tuple[float, float]
    roll: float
    pace: tuple[float, float]
    shake: tuple[float, float, float]


MOUNTS = (
    Mount("car", (1.1, 1.9), (-14.0, 20.0), 4.0, (1.0, 7.0), (0.10, 0.04, 0.03)),
    Mount("hand", (1.2, 2.0), (-28.0, 35.0), 14.0, (0.3, 1.8), (0.3, 0.25, 0.2)),
    Mount("quadruped", (0.35, 0.8), (-30.0, 15.0), 9.0, (0.3, 1.5), (0.25, 0.25, 0.2)),
    Mount("drone", (2.5, 12.0), (0.0, 75.0), 9.0, (0.5, 6.0), (0.2, 0.2, 0.2)),
    Mount("mast", (3.0, 8.0), (-5.0, 50.0), 3.0, (0.0, 0.0), (0.1, 0.05, 0.02)),
)


@dataclass(frozen=True)
class View:
    """A camera at image time and its motion; see `layout.World`."""

    mount: str
    pose: Pose
    focal: float
    velocity: tuple[float, float, float]
    turning: tuple[float, float, float]


def clearance(solids: np.ndarray, x: float, y: float, z: float) -> float:
    """Metres from a point to the nearest solid, taken as boxes; 0 inside one."""
    away = [
        np.abs(at - solids[axis])
        - solids[f"half_{axis}"]
        - (0.0 if axis == "y" else np.abs(solids[f"taper_{axis}"]) * solids["half_y"])
        for axis, at in (("x", x), ("y", y), ("z", z))
    ]
    return float(np.linalg.norm(np.maximum(away, 0.0), axis=0).min())


def draw_view(rng: np.random.Generator, builder: StreetBuilder, standing: float) -> View:
    """A camera in a street that stands clear of its solids."""
    mount = pick(rng, MOUNTS)
    solids = np.array(builder.solids, SOLID)
    solids = solids[solids["half_y"] > KERB]  # not the sidewalks
    best = -1.0
    for _ in range(DRAWS):
        y = math.exp(rng.uniform(*np.log(mount.height)))
        x, z = rng.uniform(-1, 1) * (builder.row_x - 1.0), rng.uniform(0.0, 50.0)
        room = clearance(solids, x, y, z)
        if room > best:
            best, place = room, (x, y, z)
        if room >= CLEARANCE:
            break
    yaw = rng.uniform(-math.pi, math.pi)
    pitch = math.radians(rng.uniform(*mount.pitch))
    pose = Pose(*place, yaw, pitch, math.radians(rng.normal(0, mount.roll)))
    focal = math.exp(rng.uniform(math.log(0.5), math.log(1.5)))
    if rng.random() < standing:
        return View(mount.name, pose, focal, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    pace, heading = rng.uniform(*mount.pace) * builder.speed, yaw + rng.normal(0, 0.35)
    climb = rng.normal(0, 0.6) * builder.speed if mount.name == "drone" else 0.0
    yaw_rate, pitch_rate, roll_rate = (rng.normal(0, mount.shake) * builder.speed).tolist()
    velocity = (pace * math.sin(heading), climb, pace * math.cos(heading))
    return View(mount.name, pose, focal, velocity, (yaw_rate, pitch_rate, roll_rate))


def near_things(rng: np.random.Generator, builder: StreetBuilder, view: View) -> None:
    """People and posts in front of a camera."""
    pose = view.pose
    cos, sin = math.cos(pose.yaw), math.sin(pose.yaw)
    reach = 1.0 + 0.5 * max(pose.y - 1.5, 0.0)

    def near(low: float, high: float) -> tuple[float, float]:
        ahead = reach * math.exp(rng.uniform(math.log(low), math.log(high)))
        aside = rng.uniform(-0.5, 0.5) / view.focal * ahead
        return pose.x + cos * aside + sin * ahead, pose.z + cos * ahead - sin * aside

    for _ in range(rng.integers(0, 5)):
        x, z = near(1.6, 9.0)
        pace = pick(rng, (-1, 0, 1)) * rng.uniform(0.6, 1.8) * builder.speed
        motion = pick(rng, ((0.0, pace), (pace, 0.0)))
        builder.person(x, z, 0.0 if abs(x) < builder.ground.half_road else KERB, motion)
    for _ in range(rng.integers(0, 4)):
        x, z = near(1.5, 8.0)
        kind = rng.random()
        if kind < 0.35:
            builder.sign(x, z)
        elif kind < 0.6:
            builder.lamp_post(pick(rng, (-1, 1)), x, z)
        else:
            radius, tone = rng.uniform(0.06, 0.2), rng.uniform(0.05, 0.5)
            builder.pole(x, z, rng.uniform(1.0, 5.0), radius, tone)
