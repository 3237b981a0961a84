"""The camera of the street: where it stands, how it is turned, and which way its pixels look.

World axes: x across the street, y up against gravity, z along the street, metres. Camera axes:
x right, y down, z forward along the optical axis. At rest (all angles 0) the camera looks along
the world's z with x to the right. It is turned by roll, then pitch, then yaw, each about an axis
that does not turn with it: world = Yaw Pitch Roll camera.

* roll turns it about its optical axis; positive: its right side goes down
* pitch about the world's x; positive: it looks down
* yaw about the vertical; positive: to the right, from z towards x

Pixel (row, column) looks through the point (column + 0.5, row + 0.5). Its ray reaches the point
`eye + depth * direction`, where depth is measured along the optical axis.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from scaleevent.street.surfaces import kernel

Vector = tuple[float, float, float]  # in world axes


class Pose(NamedTuple):
    """Position in metres and orientation in radians of a camera; see the head of this module."""

    x: float
    y: float  # height; the ground right below the camera has y = 0 at image time
    z: float
    yaw: float
    pitch: float = 0.0
    roll: float = 0.0


class Lens(NamedTuple):
    """Pinhole camera, all in pixels; shifts move the rays by fractions of a pixel."""

    focal: float
    centre_x: float  # principal point: where the optical axis meets the image
    centre_y: float
    shift_x: float = 0.0
    shift_y: float = 0.0


class Axes(NamedTuple):
    """The unit vectors of the camera's axes in world axes."""

    right: Vector
    down: Vector
    forward: Vector


@kernel
def camera_axes(pose: Pose) -> Axes:
    """The axes of a camera: the columns of the matrix that turns camera into world vectors."""
    cos, sin = math.cos(pose.yaw), math.sin(pose.yaw)
    level, steep = math.cos(pose.pitch), math.sin(pose.pitch)
    upright, tilted = math.cos(pose.roll), math.sin(pose.roll)
    below = (-steep * sin, -level, -steep * cos)  # down, before the roll
    return Axes(
        (upright * cos + tilted * below[0], tilted * below[1], tilted * below[2] - upright * sin),
        (upright * below[0] - tilted * cos, upright * below[1], upright * below[2] + tilted * sin),
        (level * sin, -steep, level * cos),
    )


@kernel
def on_sensor(lens: Lens, row: int, column: int) -> tuple[float, float]:
    """Where a pixel's ray meets the plane at depth 1: camera x (right) and y (down)."""
    return (
        (column + 0.5 + lens.shift_x - lens.centre_x) / lens.focal,
        (row + 0.5 + lens.shift_y - lens.centre_y) / lens.focal,
    )


@kernel
def direction(axes: Axes, lens: Lens, row: int, column: int) -> Vector:
    """The world direction of a pixel's ray, of length 1 along the optical axis."""
    a, b = on_sensor(lens, row, column)
    right, down, forward = axes
    return (
        right[0] * a + down[0] * b + forward[0],
        right[1] * a + down[1] * b + forward[1],
        right[2] * a + down[2] * b + forward[2],
    )


@kernel
def to_camera(axes: Axes, x: float, y: float, z: float) -> Vector:
    """Camera coordinates (right, down, forward) of a world vector."""
    right, down, forward = axes
    return (
        right[0] * x + right[1] * y + right[2] * z,
        down[0] * x + down[1] * y + down[2] * z,
        forward[0] * x + forward[1] * y + forward[2] * z,
    )


@kernel
def pixel_rays(pose: Pose, lens: Lens, height: int, width: int) -> np.ndarray:
    """The world directions of all pixels, of length 1 along the optical axis.

    What a pixel with depth d sees is at `(pose.x, pose.y, pose.z) + d * ray`.

    Returns:
        (H, W, 3) float64, in x, y (up), z.
    """
    rays = np.empty((height, width, 3))
    axes = camera_axes(pose)
    for row in range(height):
        for column in range(width):
            x, y, z = direction(axes, lens, row, column)
            rays[row, column, 0] = x
            rays[row, column, 1] = y
            rays[row, column, 2] = z
    return rays
