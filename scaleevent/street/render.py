"""From ray hits to pictures and labels: radiance, class and optical flow of every pixel."""

from __future__ import annotations

import math

import numpy as np

from scaleevent.street.camera import Lens, Pose, camera_axes, direction, on_sensor, to_camera
from scaleevent.street.ground import ground_height, kerb_normal, lateral, paved, slope_albedo
from scaleevent.street.rays import ELLIPSOID, GROUND, NEAR, RAISED, SKY, STEP, Hits, Solid, to_solid
from scaleevent.street.surfaces import (
    ROUND,
    SIDE_X,
    SIDE_Z,
    TOP,
    WHEEL,
    Ground,
    Light,
    ground_albedo,
    kernel,
    on_road,
    sky,
    solid_albedo,
    sunlit,
)


@kernel
def radiance(
    solids: np.ndarray, ground: Ground, light: Light, pose: Pose, lens: Lens, t: float, hits: Hits
) -> np.ndarray:
    """Linear RGB radiance of the surfaces that `cast` found with the same arguments.

    Returns:
        (H, W, 3) float64.
    """
    height, width = hits.depth.shape
    picture = np.empty((height, width, 3))
    sun, ambient, horizon = light.sun_rgb, light.ambient_rgb, light.horizon_rgb
    axes = camera_axes(pose)
    for row in range(height):
        for column in range(width):
            dx, dy, dz = direction(axes, lens, row, column)
            length = math.sqrt(dx * dx + dy * dy + dz * dz)
            surface = hits.surface[row, column]
            if surface == SKY:
                red, green, blue = sky(light, dx / length, dy / length, dz / length)
            else:
                depth = hits.depth[row, column]
                x = pose.x + depth * dx
                y = pose.y + depth * dy
                z = pose.z + depth * dz
                pixel = depth / lens.focal
                glow = 0.0
                if surface == GROUND and ground.kerb == 0.0:
                    nx, ny, nz = 0.0, 1.0, 0.0
                    red, green, blue = ground_albedo(ground, x, z, pixel, pixel / -dy)
                elif surface < 0:
                    part = 0 if surface == GROUND else 1 if surface == RAISED else 2
                    sinks = ground.slope_x * dx + ground.slope_z * dz - dy
                    nx, ny, nz = -ground.slope_x, 1.0, -ground.slope_z
                    if part == 2:
                        nx, ny, nz = kerb_normal(ground, x, z)
                        sinks = 1.0
                    red, green, blue = slope_albedo(ground, part, x, z, dx, dz, pixel, sinks)
                else:
                    nx, ny, nz, red, green, blue, glow = _solid_surface(
                        solids[surface], hits.side[row, column],
                        light, t, pose, dx, dy, dz, depth, pixel,
                    )  # fmt: skip
                cosine = nx * light.sun[0] + ny * light.sun[1] + nz * light.sun[2]
                shade = hits.shade[row, column]
                direct = 0.0
                if cosine > 0.0:
                    over, above = (x, y) if ground.kerb == 0.0 else _in_street(ground, x, y, z)
                    direct = shade * cosine * sunlit(light, ground, over, above, z)
                around = (0.7 + 0.3 * ny) * (0.4 + 0.6 * shade)
                thick = light.haze * depth * length
                fog = 1.0 / (1.0 + thick + 0.5 * thick * thick)  # near exp(-thick), and cheaper
                red *= direct * sun[0] + around * ambient[0]
                green *= direct * sun[1] + around * ambient[1]
                blue *= direct * sun[2] + around * ambient[2]
                red = fog * (red + 0.1 * glow) + (1.0 - fog) * horizon[0]
                green = fog * (green + 0.07 * glow) + (1.0 - fog) * horizon[1]
                blue = fog * (blue + 0.035 * glow) + (1.0 - fog) * horizon[2]
            picture[row, column, 0] = red
            picture[row, column, 1] = green
            picture[row, column, 2] = blue
    return picture


@kernel
def _in_street(ground: Ground, x: float, y: float, z: float) -> tuple[float, float]:
    """Metres to the right of the middle of the main road, and above the roads."""
    return lateral(ground, x, z), y - ground_height(ground, x, z)


@kernel
def _solid_surface(
    solid: Solid, side: int, light: Light, t: float, pose: Pose,
    dx: float, dy: float, dz: float, depth: float, pixel: float,
) -> tuple[float, float, float, float, float, float, float]:  # fmt: skip
    """Normal, albedo and glow at the point where a ray meets a solid."""
    ox, oy, oz = to_solid(
        solid,
        pose.x - solid.x - solid.speed_x * t,
        pose.y - solid.y - solid.speed_y * t,
        pose.z - solid.z - solid.speed_z * t,
    )
    dx, dy, dz = to_solid(solid, dx, dy, dz)
    px, py, pz = ox + depth * dx, oy + depth * dy, oz + depth * dz
    v = py + solid.half_y
    dv = pixel
    if solid.shape == ELLIPSOID:
        face = ROUND
        half_u = solid.half_z
        nx = px / solid.half_x**2
        ny = py / solid.half_y**2
        nz = pz / solid.half_z**2
        if solid.material == WHEEL:
            u = pz
        else:  # around the upright axis, seam on the side away from the start of the street
            u = solid.half_x * math.atan2(px / solid.half_x, -pz / solid.half_z)
        du = pixel
    else:
        sign = 1.0 - 2.0 * (side & 1)
        nx, ny, nz = 0.0, 0.0, 0.0
        if side < 2:
            face, u, half_u = SIDE_X, pz, solid.half_z
            nx, ny = sign, solid.taper_x
            du = pixel / max(abs(dx), 0.02)
        elif side < 4:
            face, u, half_u = SIDE_Z, px, solid.half_x
            nz, ny = sign, solid.taper_z
            du = pixel / max(abs(dz), 0.02)
        else:
            face, u, half_u = TOP, px, solid.half_x
            ny = sign
            v = pz
            du = pixel
            dv = pixel / max(abs(dy), 0.02)
    nx, ny, nz = (
        solid.cos * nx - solid.slope_x * ny + solid.sin * nz,
        ny,
        solid.cos * nz - solid.slope_z * ny - solid.sin * nx,
    )
    scale = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
    (red, green, blue), glow = solid_albedo(
        solid.material, (solid.red, solid.green, solid.blue), solid.seed,
        2.0 * solid.half_y, half_u, face, u, v, du, dv, light.lamps,
    )  # fmt: skip
    return nx * scale, ny * scale, nz * scale, red, green, blue, glow


@kernel
def _ground_kind(ground: Ground, surface: int, x: float, z: float) -> int:
    """1 = road, 2 = grass, 3 = sidewalk."""
    if surface == GROUND:
        return 1 if ground.kerb > 0.0 or on_road(ground, x, z) else 2
    return 3 if surface == STEP or paved(ground, x, z) else 2


@kernel
def labels_and_flow(
    solids: np.ndarray, ground: Ground, pose: Pose, later: Pose, lens: Lens, seconds: float,
    ground_labels: tuple[int, int, int, int], hits: Hits,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Class ids at image time, and the exact motion of every pixel in the next `seconds`.

    Args:
        solids: (P,) `SOLID`.
        ground: The streets.
        pose: Camera at image time.
        later: Camera `seconds` later.
        lens: Projection.
        seconds: Interval of the flow.
        ground_labels: Labels of sky, road, grass and sidewalk.
        hits: The hits of `cast` at image time.

    Returns:
        (H, W) uint8 labels and (2, H, W) float32 flow in pixels (right, down); NaN where the
        point has passed the camera.
    """
    height, width = hits.depth.shape
    labels = np.empty((height, width), np.uint8)
    flow = np.empty((2, height, width), np.float32)
    axes, axes_later = camera_axes(pose), camera_axes(later)
    for row in range(height):
        for column in range(width):
            dx, dy, dz = direction(axes, lens, row, column)
            surface = hits.surface[row, column]
            if surface == SKY:  # at infinity only the turn counts
                labels[row, column] = ground_labels[0]
                x, y, z = dx, dy, dz
            else:
                depth = hits.depth[row, column]
                x = pose.x + depth * dx - later.x
                y = pose.y + depth * dy - later.y
                z = pose.z + depth * dz - later.z
                if surface < 0:
                    kind = _ground_kind(ground, surface, pose.x + depth * dx, pose.z + depth * dz)
                    labels[row, column] = ground_labels[kind]
                else:
                    x += seconds * solids[surface].speed_x
                    y += seconds * solids[surface].speed_y
                    z += seconds * solids[surface].speed_z
                    labels[row, column] = solids[surface].label
            right, down, forward = to_camera(axes_later, x, y, z)
            if forward < NEAR:
                flow[:, row, column] = np.nan
            else:
                a, b = on_sensor(lens, row, column)
                flow[0, row, column] = lens.focal * (right / forward - a)
                flow[1, row, column] = lens.focal * (down / forward - b)
    return labels, flow
