"""Views of the layout `varied`: who carries the camera, where it is, how it moves and looks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from scaleevent.street.camera import Lens, Pose
from scaleevent.street.ground import ground_height, road_edge
from scaleevent.street.objects import pick
from scaleevent.street.rays import SKY, cast
from scaleevent.street.town import STREET, TownBuilder

DRAWS = 60  # cameras tried for one scene
CLEARANCE = 1.0  # metres between the camera and the nearest solid
COARSE = (9, 12)  # rows and columns of the picture that decides whether a view shows enough


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
        sways: Whether it turns even while it stands.
    """

    name: str
    height: tuple[float, float]
    pitch: tuple[float, float]
    roll: float
    pace: tuple[float, float]
    shake: tuple[float, float, float]
    sways: bool


MOUNTS = (
    Mount("car", (1.1, 1.9), (-26.0, 32.0), 6.0, (0.5, 2.8), (0.035, 0.02, 0.015), False),
    Mount("hand", (1.2, 2.0), (-28.0, 35.0), 14.0, (0.2, 1.1), (0.065, 0.055, 0.045), True),
    Mount("quadruped", (0.35, 0.8), (-36.0, 26.0), 10.0, (0.15, 0.8), (0.055, 0.045, 0.045), True),
    Mount("drone", (2.5, 12.0), (0.0, 75.0), 9.0, (0.5, 2.5), (0.045, 0.045, 0.045), True),
    Mount("mast", (3.0, 8.0), (-5.0, 50.0), 3.0, (0.0, 0.0), (0.12, 0.04, 0.02), True),
)


@dataclass(frozen=True)
class View:
    """A camera at image time and its motion; see `layout.World`."""

    mount: str
    pose: Pose
    focal: float
    velocity: tuple[float, float, float]
    turning: tuple[float, float, float]


def distances(solids: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    """(P,) metres from a point to solids, taken as boxes; 0 inside one."""
    dx, dy, dz = x - solids["x"], y - solids["y"], z - solids["z"]
    away = (
        np.abs(solids["cos"] * dx - solids["sin"] * dz)
        - solids["half_x"] - np.abs(solids["taper_x"]) * solids["half_y"],
        np.abs(dy - solids["slope_x"] * dx - solids["slope_z"] * dz) - solids["half_y"],
        np.abs(solids["sin"] * dx + solids["cos"] * dz)
        - solids["half_z"] - np.abs(solids["taper_z"]) * solids["half_y"],
    )  # fmt: skip
    return np.asarray(np.linalg.norm(np.maximum(away, 0.0), axis=0))


def draw_view(rng: np.random.Generator, builder: TownBuilder, standing: float) -> View:
    """A camera clear of all solids; the best of `DRAWS` that shows enough, else the clearest."""
    mount = pick(rng, MOUNTS)
    focal = math.exp(rng.uniform(math.log(0.5), math.log(1.5)))
    solids = builder.array()
    best, pose = -1.0, Pose(0.0, 0.0, 0.0, 0.0)
    for _ in range(DRAWS):
        x, z = _place(rng, builder, mount)
        y = math.exp(rng.uniform(math.log(mount.height[0]), math.log(mount.height[1])))
        height = y + ground_height(builder.ground, x, z)
        yaw = rng.uniform(-math.pi, math.pi)
        pitch, roll = rng.uniform(*mount.pitch), rng.normal(0.0, mount.roll)
        room = distances(solids, x, height, z).min()
        tried = Pose(x, height, z, yaw, math.radians(pitch), math.radians(roll))
        shows = room >= CLEARANCE and _shows_enough(solids, builder, tried, focal)
        if room > best or shows:
            best, pose = room, tried
        if shows:
            break
    speed, stands = builder.speed, rng.random() < standing
    pace, heading = rng.uniform(*mount.pace) * speed, pose.yaw + rng.normal(0.0, 0.4)
    climb = rng.normal(0.0, 0.6) * speed if mount.name == "drone" else 0.0
    yaw_rate, pitch_rate, roll_rate = (rng.normal(0.0, mount.shake) * speed).tolist()
    velocity = (pace * math.sin(heading), climb, pace * math.cos(heading))
    turning = (yaw_rate, pitch_rate, roll_rate)
    if stands:
        velocity = (0.0, 0.0, 0.0)
        turning = turning if mount.sways else (0.0, 0.0, 0.0)
    return View(mount.name, pose, focal, velocity, turning)


def _place(rng: np.random.Generator, builder: TownBuilder, mount: Mount) -> tuple[float, float]:
    """Where a camera might be."""
    ground, side = builder.ground, pick(rng, (-1, 1))
    along = rng.uniform(*STREET)
    if mount.name == "car":
        aside = side * rng.uniform(0.1, 0.75) * ground.half_road
    elif mount.name == "mast":
        kerb = rng.random() < 0.6
        aside = side * (ground.half_road + 0.4 if kerb else builder.row_x - CLEARANCE - 0.1)
    elif mount.name == "drone":
        aside = side * rng.uniform(0.0, builder.row_x + 1.0)
    else:
        where = rng.random()
        aside = side * rng.uniform(0.0, 1.0) * ground.half_road
        if where < 0.55:
            aside = side * (ground.half_road + rng.uniform(0.2, max(ground.walk - 1.0, 0.3)))
        elif where < 0.8 and ground.square_side:
            aside = ground.square_side * rng.uniform(ground.half_road, ground.square_reach)
            along = ground.square_z + rng.uniform(-1, 1) * ground.square_half
    x, z, _ = builder.at(aside, along)
    return x, z


def _shows_enough(solids: np.ndarray, builder: TownBuilder, pose: Pose, focal: float) -> bool:
    """Whether a view is neither nearly all sky nor mostly a surface at arm's length."""
    height, width = COARSE
    lens = Lens(focal * width, 0.5 * width, 0.5 * height)
    hits = cast(solids, builder.ground, pose, lens, 0.0, height, width)
    near = (hits.depth < 1.6 * max(pose.y, 1.0)) & (hits.surface >= 0)
    return bool(near.mean() < 0.4 and (hits.surface == SKY).mean() < 0.7)


def near_things(rng: np.random.Generator, builder: TownBuilder, view: View) -> None:
    """People and posts in front of a camera, where there is room for them."""
    pose = view.pose
    cos, sin = math.cos(pose.yaw), math.sin(pose.yaw)
    above = pose.y - ground_height(builder.ground, pose.x, pose.z)
    low, high = math.log(max(1.5, 0.5 * above)), math.log(9.0 + 2.0 * above)
    solids = builder.array()

    def near() -> tuple[float, float, bool]:
        ahead = math.exp(rng.uniform(low, high))
        if pose.pitch > 0.5:
            ahead = max(above / math.tan(pose.pitch) * rng.uniform(0.6, 1.6), 1.5)
        aside = rng.uniform(-0.5, 0.5) / view.focal * ahead
        x, z = pose.x + cos * aside + sin * ahead, pose.z + cos * ahead - sin * aside
        foot = ground_height(builder.ground, x, z)
        return (
            x,
            z,
            bool(distances(solids, x, foot + 1.0, z).min() > 0.45) and builder.free(x, z, 0.3),
        )

    for _ in range(rng.integers(0, 6)):
        x, z, room = near()
        heading = rng.uniform(0.0, 2.0 * math.pi)
        if room:
            builder.walker(x, z, heading)
    for _ in range(rng.integers(0, 7)):
        x, z, room = near()
        heading, kind = rng.uniform(0.0, 2.0 * math.pi), rng.random()
        if not room or road_edge(builder.ground, x, z) < -1.2:
            continue
        if kind < 0.3:
            builder.place(partial(builder.sign, 0.0, 0.0), x, z, heading, 0.3)
        elif kind < 0.55:
            builder.place(partial(builder.lamp_post, 1, 0.0, 0.0), x, z, heading, 0.3)
        else:
            builder.place(builder.post, x, z, heading, 0.3)
