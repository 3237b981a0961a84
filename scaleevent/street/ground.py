"""The ground of the layout `varied`: a slope with bent roads and raised pavements and lawns.

Roads are where `road_edge` is negative. There the ground is the plane `ground_height`; elsewhere it
lies `Ground.kerb` above it, and the step is an upright kerb.
"""

from __future__ import annotations

import math

import numpy as np

from scaleevent.street.surfaces import (
    CURB,
    DASH,
    LINE,
    Ground,
    Rgb,
    band,
    hashed,
    kernel,
    mixed,
    pulse,
    value_noise,
)

ROUNDING = 5.0  # metres of kerb that are rounded where two roads meet
STEPS = 48  # along a ray that passes between the two levels of the ground
CLOSE = 1e-4  # metres to the kerb that count as having met it


@kernel
def ground_height(ground: Ground, x: float, z: float) -> float:
    """Height of the roads, metres."""
    return ground.base + ground.slope_x * x + ground.slope_z * z


@kernel
def centre_line(ground: Ground, z: float) -> tuple[float, float]:
    """Position x of the middle of the main road, metres, and its change per metre of z."""
    u = min(max((z - ground.bend_z) / ground.bend_half, -1.0), 1.0)
    slant = 1.5 * ground.bend / ground.bend_half * (1.0 - u * u)
    return 0.5 * ground.bend * u * (3.0 - u * u), slant


@kernel
def lateral(ground: Ground, x: float, z: float) -> float:
    """Metres to the right of the middle of the main road."""
    if ground.bend == 0.0:
        return x
    middle, slant = centre_line(ground, z)
    return (x - middle) / math.sqrt(1.0 + slant * slant)


@kernel
def beside_crossing(ground: Ground, x: float, z: float) -> float:
    """Metres from the edge of the crossing street, as if it had no end; negative on it."""
    along = ground.crossing_cos * (z - ground.crossing_z)
    return abs(along - ground.crossing_sin * (x - ground.crossing_x)) - ground.crossing_half


@kernel
def road_edge(ground: Ground, x: float, z: float) -> float:
    """About the distance to the nearest kerb, metres; negative on a road."""
    return _edge(ground, x, z, lateral(ground, x, z))


@kernel
def _edge(ground: Ground, x: float, z: float, across: float) -> float:
    main = abs(across) - ground.half_road
    other = beside_crossing(ground, x, z)
    if ground.crossing_side != 0.0:  # it ends in the main road
        other = max(other, -ground.crossing_side * across)
    blend = max(ROUNDING - abs(main - other), 0.0)
    return min(main, other) - 0.25 / ROUNDING * blend * blend


@kernel
def paved(ground: Ground, x: float, z: float) -> bool:
    """Whether a point off the roads belongs to a pavement or square; the rest is lawn."""
    across = lateral(ground, x, z)
    return _paved(ground, z, across, _edge(ground, x, z, across))


@kernel
def _paved(ground: Ground, z: float, across: float, edge: float) -> bool:
    if edge < ground.walk:
        return True
    aside = ground.square_side * across
    return abs(z - ground.square_z) < ground.square_half and 0.0 < aside < ground.square_reach


@kernel
def foot(ground: Ground, x: float, z: float) -> float:
    """Height of the ground with its pavements, metres."""
    return ground_height(ground, x, z) + (ground.kerb if road_edge(ground, x, z) >= 0.0 else 0.0)


@kernel
def room_for_car(ground: Ground, x: float, z: float, heading: float) -> int:
    """1 where a car of 4.2 m is wholly on a road, -1 where it is wholly off the roads, else 0."""
    least, most = np.inf, -np.inf
    for i in range(-1, 2):
        along = 2.1 * i
        edge = road_edge(ground, x + along * math.sin(heading), z + along * math.cos(heading))
        least, most = min(least, edge), max(most, edge)
    return 1 if most < -0.95 else -1 if least > 0.95 else 0


@kernel
def open_lot(
    ground: Ground, x: float, z: float, heading: float, half_width: float, half_length: float
) -> bool:
    """Whether a turned rectangle holds no road, pavement or square; pavements may touch it."""
    cos, sin = math.cos(heading), math.sin(heading)
    for i in range(-1, 2):
        for j in range(-1, 2):
            a = i * (half_width - 0.3) if i else 0.0
            b = j * half_length
            if paved(ground, x + cos * a + sin * b, z + cos * b - sin * a):
                return False
    return True


@kernel
def meet_ground(
    ground: Ground, x: float, y: float, z: float, dx: float, dy: float, dz: float, far: float
) -> tuple[float, int]:
    """Depth at which a ray from a point above it meets the ground, and on which part.

    Returns:
        The depth, inf beyond `far`; 0 = road, 1 = raised ground, 2 = kerb.
    """
    sinks = ground.slope_x * dx + ground.slope_z * dz - dy  # metres per metre of depth
    above = y - ground_height(ground, x, z)
    if sinks * far <= above - ground.kerb:
        return np.inf, 0
    depth = (above - ground.kerb) / sinks  # where it passes the upper level
    last = above / sinks
    edge = road_edge(ground, x + depth * dx, z + depth * dz)
    if edge >= 0.0:
        return depth, 1
    pace = math.sqrt(dx * dx + dz * dz)
    for _ in range(STEPS):  # no step leads past a kerb
        step = 0.8 * max(-edge, CLOSE) / max(pace, 1e-9)
        if depth + step >= last:
            return last if last < far else np.inf, 0
        depth += step
        edge = road_edge(ground, x + depth * dx, z + depth * dz)
        if edge > -CLOSE:
            return depth, 2
    return last if last < far else np.inf, 0


@kernel
def kerb_normal(ground: Ground, x: float, z: float) -> tuple[float, float, float]:
    """Horizontal unit vector from a kerb towards the road."""
    step = 1e-3
    here = road_edge(ground, x, z)
    a = here - road_edge(ground, x + step, z)
    b = here - road_edge(ground, x, z + step)
    scale = 1.0 / max(math.sqrt(a * a + b * b), 1e-12)
    return a * scale, 0.0, b * scale


@kernel
def _stones(across: float, along: float, size: float, du: float, dv: float) -> float:
    """0..1: how much of a pixel is joint between stones; rows are offset by half a stone."""
    row = math.floor(along / size)
    shift = 0.5 * (row - 2.0 * math.floor(0.5 * row))
    joint = pulse(along / size, 0.07, dv / size)
    return joint + (1.0 - joint) * pulse(across / size + shift, 0.07, du / size)


@kernel
def _paint(ground: Ground, x: float, z: float, across: float, du: float, dv: float) -> float:
    """0..1: how much of a pixel of a road is painted: lines and zebra crossings."""
    beside = beside_crossing(ground, x, z)
    if abs(across) > ground.half_road or beside < 0.8:
        return 0.0
    if ground.zebra and beside < 4.8:
        return band(beside, 1.2, 4.4, dv) * pulse(across, 0.5, du)
    paint = 0.0
    if ground.lane_line:
        paint = band(across, -LINE, LINE, du) * pulse(z / DASH, 0.5, dv / DASH)
    edge = ground.half_road - 0.35
    return paint + ground.edge_line * band(abs(across), edge - LINE, edge, du)


@kernel
def slope_albedo(
    ground: Ground, part: int, x: float, z: float, dx: float, dz: float, pixel: float, sinks: float
) -> Rgb:
    """Colour of the ground.

    Args:
        ground: The ground.
        part: As `meet_ground` returns it.
        x: Position of the point, metres.
        z: Position of the point, metres.
        dx: Of the ray's direction.
        dz: Of the ray's direction.
        pixel: Size of the pixel across the ray, metres.
        sinks: How fast the ray nears the ground, metres per metre of depth.
    """
    seed = ground.seed
    grow = pixel * max(1.0 / max(sinks, 1e-3) - 1.0, 0.0) / max(math.sqrt(dx * dx + dz * dz), 1e-9)
    du, dv = pixel + grow * abs(dx), pixel + grow * abs(dz)
    blur = max(du, dv)
    across = lateral(ground, x, z)
    edge = _edge(ground, x, z, across) if part == 1 else 0.0
    if part == 1 and not _paved(ground, z, across, edge):
        leaf = 0.75 + 0.3 * value_noise(0.7 * x, 0.7 * z, 0.7 * blur, seed)
        leaf += 0.3 * value_noise(6.0 * x, 6.0 * z, 6.0 * blur, seed + 1)
        red, green, blue = ground.lawn
        return red * leaf, green * leaf, blue * leaf
    road = part == 0
    tone = ground.grey if road else ground.pavement
    size = ground.sett if road else ground.slab
    grain = 1.0 + 0.2 * value_noise(0.7 * x, 0.35 * z, 0.7 * blur, seed)
    grain += 0.2 * value_noise(8.0 * x, 8.0 * z, 8.0 * blur, seed + 1)
    if size > 0.0:
        grain *= 1.0 - 0.45 * _stones(across, z, size, du, dv)
    else:  # repairs
        cell = hashed(int(math.floor(across / 1.7)), int(math.floor(z / 4.3)), seed + 2)
        if cell < 0.12:
            grain *= 0.6 + 5.0 * cell
    tone *= grain
    tint = ground.tint if road else ground.pavement_tint
    if not road:
        tone += (ground.kerbstone - tone) * band(edge, -1.0, CURB, du)
    else:
        paint = _paint(ground, x, z, across, du, dv)
        if paint > 0.0:
            worn = 0.8 + 0.2 * value_noise(5.0 * x, 5.0 * z, 5.0 * blur, seed + 3)
            tone += (0.62 * worn - tone) * min(paint, 1.0)
    return mixed((tone, tone, tone), (1.15 * tone, tone, 0.78 * tone), tint)
