"""Ray casting: the nearest surface that each pixel of a camera in the street sees.

Axes, angles and depth are those of `camera`.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np

from scaleevent.street.camera import Axes, Lens, Pose, camera_axes, direction, to_camera
from scaleevent.street.ground import ground_height, meet_ground
from scaleevent.street.surfaces import LEAVES, Ground, hashed, kernel

GROUND, SKY, RAISED, STEP = -1, -2, -3, -4  # in `Hits.surface`: not the index of a solid
BOX, ELLIPSOID = range(2)
NEAR = 0.2  # metres; nothing is closer to the camera
FAR = 300.0  # metres; the ground beyond is hidden by haze and counts as sky


class Solid(Protocol):
    """One solid, a row of an array with dtype `SOLID`."""

    x: float  # centre at image time, metres
    y: float
    z: float
    half_x: float  # half sizes, metres
    half_y: float
    half_z: float
    taper_x: float  # inward lean of the walls, metres per metre
    taper_z: float
    speed_x: float  # metres per second
    speed_z: float
    red: float  # albedo, linear
    green: float
    blue: float
    shape: int  # BOX or ELLIPSOID
    material: int  # as numbered in `surfaces`
    label: int  # index into `objects.CLASSES`
    seed: int  # of its texture
    shadow: float  # how much it darkens the ground below, 0..1
    cos: float  # of the angle that it is turned to the right, seen from above
    sin: float
    slope_x: float  # it is sheared along y to lie on a slope: metres per metre in x and z
    slope_z: float
    speed_y: float


UPRIGHT = (1.0, 0.0, 0.0, 0.0, 0.0)  # the last columns of a solid that is not turned or sheared
SOLID = np.dtype(list(Solid.__annotations__.items()))  # float64 and int64 columns


class Hits(NamedTuple):
    """The nearest surface of every pixel, all (H, W)."""

    depth: np.ndarray  # float64 metres, inf = sky
    surface: np.ndarray  # int32, index of the solid, or SKY, GROUND, RAISED (ground), STEP (kerb)
    side: np.ndarray  # int8, side of a box, as numbered in `_meet_box`
    shade: np.ndarray  # float64 in 0..1, light that is left in the shadow of a solid


def cast(
    solids: np.ndarray, ground: Ground, pose: Pose, lens: Lens, t: float, height: int, width: int
) -> Hits:
    """Find the nearest surface of every pixel `t` seconds after the image time.

    Args:
        solids: (P,) `SOLID`, best nearest first.
        ground: The ground.
        pose: Camera at that time.
        lens: Projection.
        t: Seconds; solids move at constant speed.
        height: Image rows.
        width: Image columns.
    """
    hits = Hits(
        np.empty((height, width)),
        np.empty((height, width), np.int32),
        np.empty((height, width), np.int8),
        np.ones((height, width)),
    )
    _cast_plane(ground, pose, lens, hits)
    _cast_solids(solids, pose, lens, t, hits)
    if ground.kerb > 0.0:
        _cast_ground(ground, pose, lens, hits)
    _cast_shadows(solids, ground, pose, lens, t, hits)
    return hits


@kernel
def _cast_plane(ground: Ground, pose: Pose, lens: Lens, hits: Hits) -> None:
    """Fill in the plane of the roads below the horizon and the sky above."""
    height, width = hits.depth.shape
    axes = camera_axes(pose)
    above = pose.y - ground_height(ground, pose.x, pose.z)
    for row in range(height):
        for column in range(width):
            dx, dy, dz = direction(axes, lens, row, column)
            sinks = ground.slope_x * dx + ground.slope_z * dz - dy
            depth = above / sinks if sinks * FAR > above else np.inf
            hits.depth[row, column] = depth
            hits.surface[row, column] = GROUND if depth < FAR else SKY


@kernel
def _cast_ground(ground: Ground, pose: Pose, lens: Lens, hits: Hits) -> None:
    """Put in what is raised above the plane of the roads, where no solid is before it."""
    height, width = hits.depth.shape
    axes = camera_axes(pose)
    upper = pose.y - ground_height(ground, pose.x, pose.z) - ground.kerb
    for row in range(height):
        for column in range(width):
            dx, dy, dz = direction(axes, lens, row, column)
            sinks = ground.slope_x * dx + ground.slope_z * dz - dy
            if sinks * hits.depth[row, column] <= upper:
                continue
            depth, part = meet_ground(ground, pose.x, pose.y, pose.z, dx, dy, dz, FAR)
            if part > 0 and depth < hits.depth[row, column]:
                hits.depth[row, column] = depth
                hits.surface[row, column] = RAISED if part == 1 else STEP


@kernel
def to_solid(solid: Solid, x: float, y: float, z: float) -> tuple[float, float, float]:
    """A world vector in the axes of a solid, where it is upright and not turned."""
    return (
        solid.cos * x - solid.sin * z,
        y - solid.slope_x * x - solid.slope_z * z,
        solid.sin * x + solid.cos * z,
    )


@kernel
def _view_box(
    solid: Solid, x: float, y: float, z: float, half_x: float, half_y: float, half_z: float,
    axes: Axes, lens: Lens, height: int, width: int,
) -> tuple[int, int, int, int, float]:  # fmt: skip
    """Rows and columns (half-open) that a box can cover, and its least depth.

    The box has its centre at (x, y, z) from the eye, and is turned and sheared like the solid.
    Edges that reach behind the camera are cut at NEAR.
    """
    corners = np.empty((8, 3))
    for i in range(8):
        a = half_x if i & 1 else -half_x
        b = half_z if i & 4 else -half_z
        dx = solid.cos * a + solid.sin * b
        dz = solid.cos * b - solid.sin * a
        dy = (half_y if i & 2 else -half_y) + solid.slope_x * dx + solid.slope_z * dz
        corners[i, 0], corners[i, 1], corners[i, 2] = to_camera(axes, x + dx, y + dy, z + dz)
    left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
    nearest = np.min(corners[:, 2])
    for i in range(8):
        if corners[i, 2] < NEAR:
            continue
        for bit in (0, 1, 2, 4):
            j = i ^ bit
            cut = 0.0
            if bit != 0:
                if corners[j, 2] >= NEAR:
                    continue
                cut = (corners[i, 2] - NEAR) / (corners[i, 2] - corners[j, 2])
            depth = corners[i, 2] + cut * (corners[j, 2] - corners[i, 2])
            column = (corners[i, 0] + cut * (corners[j, 0] - corners[i, 0])) / depth * lens.focal
            row = (corners[i, 1] + cut * (corners[j, 1] - corners[i, 1])) / depth * lens.focal
            left = min(left, column)
            right = max(right, column)
            top = min(top, row)
            bottom = max(bottom, row)
    if left > right:
        return 0, 0, 0, 0, nearest
    limit = 1e6  # pixels; keeps the conversion to integers defined
    x0 = lens.centre_x - 0.5 - lens.shift_x
    y0 = lens.centre_y - 0.5 - lens.shift_y
    return (
        max(int(math.ceil(max(top, -limit) + y0)), 0),
        min(int(math.floor(min(bottom, limit) + y0)) + 1, height),
        max(int(math.ceil(max(left, -limit) + x0)), 0),
        min(int(math.floor(min(right, limit) + x0)) + 1, width),
        nearest,
    )


@kernel
def _meet_box(
    solid: Solid, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> tuple[float, int]:
    """Depth at which a ray enters a box with leaning walls, and the side; inf, -1 if it does not.

    The ray is origin + depth * direction, with the origin relative to the centre of the box. The
    box is the intersection of six half-spaces a.p <= b; a wall that leans by `taper` has
    a = (+-1, taper, 0).
    """
    enter = NEAR
    leave = np.inf
    face = -1
    for side in range(6):
        sign = 1.0 - 2.0 * (side & 1)
        if side < 2:
            slope = sign * dx + solid.taper_x * dy
            room = solid.half_x - sign * ox - solid.taper_x * oy
        elif side < 4:
            slope = sign * dz + solid.taper_z * dy
            room = solid.half_z - sign * oz - solid.taper_z * oy
        else:
            slope = sign * dy
            room = solid.half_y - sign * oy
        if slope < 0.0:
            if room < slope * enter:
                enter = room / slope
                face = side
        elif slope > 0.0:
            if room < slope * leave:
                leave = room / slope
        elif room < 0.0:
            return np.inf, -1
        if enter > leave:
            return np.inf, -1
    return (enter, face) if face >= 0 else (np.inf, -1)


@kernel
def _meet_ellipsoid(
    solid: Solid, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> float:
    """Depth at which a ray enters an ellipsoid; inf if it does not."""
    ox, oy, oz = ox / solid.half_x, oy / solid.half_y, oz / solid.half_z
    dx, dy, dz = dx / solid.half_x, dy / solid.half_y, dz / solid.half_z
    square = dx * dx + dy * dy + dz * dz
    half = ox * dx + oy * dy + oz * dz
    root = half * half - square * (ox * ox + oy * oy + oz * oz - 1.0)
    if root < 0.0:
        return np.inf
    depth = (-half - math.sqrt(root)) / square
    return depth if depth > NEAR else np.inf


@kernel
def _between_leaves(
    solid: Solid, px: float, py: float, pz: float, dx: float, dy: float, dz: float
) -> bool:
    """Whether a ray that grazes a ball of leaves passes between them, for ragged outlines."""
    nx, ny, nz = px / solid.half_x**2, py / solid.half_y**2, pz / solid.half_z**2
    inwards = -(nx * dx + ny * dy + nz * dz)
    limit = 0.55 * math.sqrt((nx * nx + ny * ny + nz * nz) * (dx * dx + dy * dy + dz * dz))
    if inwards > limit:
        return False
    tuft = 9.0  # per metre
    cell = int(math.floor(tuft * (px + 0.37 * pz)))
    return inwards < limit * hashed(cell, int(math.floor(tuft * py)), solid.seed + 5)


@kernel
def _cast_solids(solids: np.ndarray, pose: Pose, lens: Lens, t: float, hits: Hits) -> None:
    """Fill in the solids; fastest when near ones come first, since those behind are skipped."""
    height, width = hits.depth.shape
    axes = camera_axes(pose)
    for index in range(len(solids)):
        solid = solids[index]
        ox = pose.x - solid.x - solid.speed_x * t
        oy = pose.y - solid.y - solid.speed_y * t
        oz = pose.z - solid.z - solid.speed_z * t
        top, bottom, left, right, nearest = _view_box(
            solid, -ox, -oy, -oz,
            solid.half_x + abs(solid.taper_x) * solid.half_y,  # leaning walls are wider at the foot
            solid.half_y,
            solid.half_z + abs(solid.taper_z) * solid.half_y,
            axes, lens, height, width,
        )  # fmt: skip
        ox, oy, oz = to_solid(solid, ox, oy, oz)
        own = Axes(
            to_solid(solid, axes.right[0], axes.right[1], axes.right[2]),
            to_solid(solid, axes.down[0], axes.down[1], axes.down[2]),
            to_solid(solid, axes.forward[0], axes.forward[1], axes.forward[2]),
        )
        for row in range(top, bottom):
            for column in range(left, right):
                if hits.depth[row, column] <= nearest:
                    continue
                dx, dy, dz = direction(own, lens, row, column)
                side = -1
                if solid.shape == BOX:
                    depth, side = _meet_box(solid, ox, oy, oz, dx, dy, dz)
                else:
                    depth = _meet_ellipsoid(solid, ox, oy, oz, dx, dy, dz)
                if depth < hits.depth[row, column]:
                    if solid.material == LEAVES and _between_leaves(
                        solid, ox + depth * dx, oy + depth * dy, oz + depth * dz, dx, dy, dz
                    ):
                        continue
                    hits.depth[row, column] = depth
                    hits.surface[row, column] = index
                    hits.side[row, column] = side


@kernel
def _cast_shadows(
    solids: np.ndarray, ground: Ground, pose: Pose, lens: Lens, t: float, hits: Hits
) -> None:
    """Draw soft dark ellipses below solids on the ground; this does not trace any light."""
    height, width = hits.depth.shape
    axes = camera_axes(pose)
    steep = abs(ground.slope_x) + abs(ground.slope_z)
    for index in range(len(solids)):
        solid = solids[index]
        if solid.shadow == 0.0:
            continue
        x = solid.x + solid.speed_x * t
        z = solid.z + solid.speed_z * t
        half_x = 1.15 * solid.half_x + 0.15
        half_z = 1.15 * solid.half_z + 0.15
        top, bottom, left, right, _ = _view_box(
            solid, x - pose.x, 0.1 + ground_height(ground, x, z) - pose.y, z - pose.z,
            half_x, 0.1 + steep * max(half_x, half_z), half_z, axes, lens, height, width,
        )  # fmt: skip
        for row in range(top, bottom):
            for column in range(left, right):
                depth = hits.depth[row, column]
                dx, dy, dz = direction(axes, lens, row, column)
                if depth == np.inf:
                    continue
                px = pose.x + depth * dx
                pz = pose.z + depth * dz
                if pose.y + depth * dy - ground_height(ground, px, pz) > 0.2:
                    continue
                a, _, b = to_solid(solid, px - x, 0.0, pz - z)
                a /= half_x
                b /= half_z
                inside = 1.0 - a * a * a * a - b * b * b * b
                if inside > 0.0:
                    dark = solid.shadow * min(2.0 * inside, 1.0)
                    hits.shade[row, column] = min(hits.shade[row, column], 1.0 - dark)
