"""Colours of the street: procedural albedo of each material, sky and sunlight, in linear RGB.

Patterns are averaged over the footprint of a pixel (stripes exactly, noise by fading out), so that
distant texture does not flicker: the simulator would turn flicker into false events.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb

FACADE, PLAIN, BODY, CABIN, WHEEL, LEAVES, BARK, CLOTH, METAL, PAVING = range(10)

TOP, SIDE_X, SIDE_Z, ROUND = range(4)  # the direction a surface faces

# No checks for division by zero; divisions by a constant become multiplications
kernel = nb.njit(nogil=True, cache=True, error_model="numpy", fastmath={"arcp"})

Rgb = tuple[float, float, float]  # linear

CURB = 0.12  # width of the kerb stone, metres
COURSE = 0.16  # height of a row of bricks, metres
DASH = 6.0  # period of the dashed lane line, metres
LINE = 0.14  # width of a painted line, metres


class Light(NamedTuple):
    """The light of a scene."""

    sun: tuple[float, float, float]  # unit vector towards the sun
    sun_rgb: Rgb
    ambient_rgb: Rgb
    zenith_rgb: Rgb
    horizon_rgb: Rgb
    cloud_rgb: Rgb
    clouds: float  # covered fraction of the sky, 0..1
    haze: float  # extinction, 1/m
    lamps: float  # fraction of lit windows, 0..1
    row_x: float  # m; facades stand at +-row_x and cast shadows into the street
    row_height: float  # m
    seed: int


class Ground(NamedTuple):
    """The ground: the street, another street that crosses it, and grass elsewhere.

    In the layout `fixed` all of it is the plane y = 0; the fields with a default are those of
    `varied`, see `ground`.
    """

    half_road: float  # m
    lane_line: bool  # whether there is a dashed line in the middle
    crossing_z: float  # centre of the crossing street, m
    crossing_half: float  # its half width, m
    grey: float  # albedo of the asphalt
    seed: int
    kerb: float = 0.0  # how much higher the ground off the roads is, m; 0: the layout `fixed`
    base: float = 0.0  # height of the roads at x = z = 0, m
    slope_x: float = 0.0  # rise of the ground, metres per metre
    slope_z: float = 0.0
    bend: float = 0.0  # the main road goes from x = -bend to bend, m
    bend_z: float = 0.0  # middle of its bend, m
    bend_half: float = 1.0  # half the length of its bend along z, m
    crossing_x: float = 0.0  # where the middles of both roads meet, m
    crossing_cos: float = 1.0  # of its angle to the world's x, and the sine: its rise in z
    crossing_sin: float = 0.0
    crossing_side: float = 0.0  # it leaves on both sides (0), to the right (1) or the left (-1)
    walk: float = 0.0  # width of the pavements, m
    square_side: float = 0.0  # on which side of the main road there is a square; 0: none
    square_z: float = 0.0  # its middle, m
    square_half: float = 0.0  # half its length along z, m
    square_reach: float = 0.0  # from the middle of the road to its far side, m
    zebra: bool = False  # whether pedestrian crossings are painted
    edge_line: bool = False  # whether lines are painted along the kerbs
    sett: float = 0.0  # size of the stones of the road, m; 0: asphalt
    slab: float = 0.0  # size of the stones of the pavement, m; 0: asphalt
    tint: float = 0.0  # 0 grey .. 1 brown road
    pavement: float = 0.3  # albedo
    pavement_tint: float = 0.0
    kerbstone: float = 0.3  # albedo
    lawn: Rgb = (0.08, 0.13, 0.04)


@kernel
def hashed(i: int, j: int, seed: int) -> float:
    """A pseudo-random number in 0..1 from two integers and a seed."""
    n = (i * 374761393 + j * 668265263 + seed * 2246822519) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((n ^ (n >> 16)) & 0xFFFF) * (1.0 / 65536.0)


@kernel
def value_noise(u: float, v: float, footprint: float, seed: int) -> float:
    """Smooth noise of period 1 in -1..1 that fades to 0 as a pixel covers a period."""
    fade = 1.5 - 1.5 * footprint
    if fade <= 0.0:
        return 0.0
    i = math.floor(u)
    j = math.floor(v)
    a = u - i
    b = v - j
    i = int(i)
    j = int(j)
    a = a * a * (3.0 - 2.0 * a)
    b = b * b * (3.0 - 2.0 * b)
    low = hashed(i, j, seed) * (1.0 - a) + hashed(i + 1, j, seed) * a
    high = hashed(i, j + 1, seed) * (1.0 - a) + hashed(i + 1, j + 1, seed) * a
    return min(fade, 1.0) * (2.0 * (low * (1.0 - b) + high * b) - 1.0)


@kernel
def pulse(u: float, fraction: float, footprint: float) -> float:
    """Pulse train of period 1, on for 0 <= frac(u) < fraction, averaged over the footprint."""
    width = max(footprint, 1e-3)
    a = u - 0.5 * width
    b = u + 0.5 * width
    i = math.floor(a)
    j = math.floor(b)
    return ((j - i) * fraction + min(b - j, fraction) - min(a - i, fraction)) / width


@kernel
def band(u: float, low: float, high: float, footprint: float) -> float:
    """1 for low <= u < high, averaged over the footprint."""
    width = max(footprint, 1e-3)
    a = max(u - 0.5 * width, low)
    b = min(u + 0.5 * width, high)
    return max(b - a, 0.0) / width


@kernel
def mixed(rgb: Rgb, other: Rgb, fraction: float) -> Rgb:
    """Mix two colours; `fraction` (0..1) is that of the other."""
    return (
        rgb[0] + (other[0] - rgb[0]) * fraction,
        rgb[1] + (other[1] - rgb[1]) * fraction,
        rgb[2] + (other[2] - rgb[2]) * fraction,
    )


@kernel
def sky(light: Light, x: float, y: float, z: float) -> Rgb:
    """Radiance of the sky in a direction (unit vector); clouds are at infinity."""
    up = max(y, 0.0)
    fall = (1.0 - up) ** 4
    scale = 1.6 / (up + 0.12)
    u = x * scale
    v = z * scale
    cloud = 0.62 * value_noise(u, v, 0.0, light.seed) + 0.38 * value_noise(
        2.6 * u, 2.6 * v, 0.0, light.seed + 1
    )
    cover = min(max(1.6 * (cloud + 2.0 * light.clouds - 1.0) + 0.5, 0.0), 1.0) * (1.0 - fall * fall)
    glow = x * light.sun[0] + y * light.sun[1] + z * light.sun[2]
    glow = 0.3 * max(2.0 * glow - 1.0, 0.0) ** 2 + 4.0 * max(100.0 * glow - 99.0, 0.0) ** 4
    red, green, blue = mixed(light.zenith_rgb, light.horizon_rgb, fall)
    red, green, blue = mixed((red, green, blue), light.cloud_rgb, cover)
    return (
        red + glow * light.sun_rgb[0],
        green + glow * light.sun_rgb[1],
        blue + glow * light.sun_rgb[2],
    )


@kernel
def sunlit(light: Light, ground: Ground, x: float, y: float, z: float) -> float:
    """0..1: whether the sun reaches a point of the street above the skyline of the facades."""
    across = light.sun[0]
    if abs(x) > light.row_x - 0.2 or abs(across) < 1e-3:
        return 1.0
    path = (math.copysign(light.row_x, across) - x) / across
    at_z = z + light.sun[2] * path
    if abs(at_z - ground.crossing_z) < ground.crossing_half:
        return 1.0
    block = int(math.floor(at_z / 11.0))
    top = light.row_height * (0.7 + 0.6 * hashed(block, 0, light.seed))
    return min(max(0.5 + y + light.sun[1] * path - top, 0.0), 1.0)


@kernel
def on_road(ground: Ground, x: float, z: float) -> bool:
    """Whether a point of the plane y = 0 belongs to one of the streets; the rest is grass."""
    return abs(x) <= ground.half_road or abs(z - ground.crossing_z) <= ground.crossing_half


@kernel
def ground_albedo(ground: Ground, x: float, z: float, across: float, along: float) -> Rgb:
    """Colour of the plane y = 0.

    Args:
        ground: The streets.
        x: Position of the point, metres.
        z: Position of the point, metres.
        across: Footprint of the pixel in x, metres.
        along: Footprint of the pixel in z, metres.
    """
    seed = ground.seed
    if not on_road(ground, x, z):
        leaf = 0.5 + 0.3 * value_noise(0.7 * x, 0.7 * z, 0.7 * along, seed)
        leaf += 0.3 * value_noise(6.0 * x, 6.0 * z, 6.0 * along, seed + 1)
        return 0.11 * leaf + 0.02, 0.2 * leaf + 0.03, 0.05 * leaf + 0.01
    grey = ground.grey * (
        1.0
        + 0.2 * value_noise(0.7 * x, 0.25 * z, 0.25 * along, seed)
        + 0.22 * value_noise(9.0 * x, 9.0 * z, 9.0 * along, seed + 1)
    )
    paint = 0.0
    from_crossing = abs(z - ground.crossing_z) - ground.crossing_half
    if from_crossing > 0.0:
        if ground.lane_line:
            dash = pulse(z / DASH, 0.5, along / DASH)
            paint = band(x, -LINE, LINE, across) * dash
        edge = ground.half_road - 0.35
        paint += band(abs(x), edge - LINE, edge, across)
        zebra = band(from_crossing, 1.0, 4.0, along)
        if zebra > 0.0:
            paint = zebra * pulse(x, 0.5, across)
    if paint > 0.0:
        worn = 0.8 + 0.2 * value_noise(5.0 * x, 5.0 * z, 5.0 * along, seed + 3)
        grey += (0.62 * worn - grey) * min(paint, 1.0)
    return grey, grey, 1.02 * grey


@kernel
def _wall(rgb: Rgb, seed: int, u: float, v: float, du: float, dv: float) -> Rgb:
    """Bricks with joints, or stained plaster."""
    grain = 1.0 + 0.14 * value_noise(0.45 * u, 0.35 * v, 0.45 * du, seed)
    if hashed(seed, 3, 5) < 0.5:
        joint = pulse(v / COURSE, 0.2, dv / COURSE)
        grain += 0.3 * (0.2 - joint) + 0.22 * value_noise(4.0 * u, 6.5 * v, 6.0 * du, seed + 1)
    else:
        grain += 0.12 * value_noise(2.5 * u, 0.8 * v, 2.5 * du, seed + 1)
    return rgb[0] * grain, rgb[1] * grain, rgb[2] * grain


@kernel
def facade(
    rgb: Rgb, seed: int, height: float, u: float, v: float, du: float, dv: float, lamps: float
) -> tuple[Rgb, float]:
    """A wall with a grid of windows, a ground floor with shop windows, and a cornice.

    The second value is above 0 where a lamp is lit behind the glass.
    """
    floor_height = 2.8 + 0.7 * hashed(seed, 1, 5)
    bay = 1.7 + 1.8 * hashed(seed, 2, 5)
    trim = band(v, floor_height - 0.12, floor_height + 0.22, dv)
    trim += band(v, height - 0.45, height, dv)
    if v < floor_height:  # shop windows
        bay *= 1.5
        fraction = 0.78
        level = 0
        low, high = 0.35, floor_height - 0.5
    else:
        fraction = 0.4 + 0.25 * hashed(seed, 4, 5)
        level = int(math.floor(v / floor_height))
        low, high = 0.75, floor_height - 0.35
    above = v - level * floor_height
    opening = 0.0
    glass = 0.0
    start = u / bay
    if v < height - 0.6:
        frame = 0.07 / bay
        opening = pulse(start + frame, fraction + 2.0 * frame, du / bay)
        opening *= band(above, low - 0.1, high + 0.07, dv)
        glass = pulse(start, fraction, du / bay) * band(above, low, high, dv)
        glass *= 1.0 - 0.7 * pulse(start - 0.5 * fraction + 0.02, 0.04, du / bay)
    colour = _wall(rgb, seed, u, v, du, dv)
    colour = mixed(colour, (0.58, 0.56, 0.52), 0.75 * min(max(trim, opening), 1.0))
    pane = hashed(int(math.floor(start)), level, seed + 9)
    tone = 0.03 + 0.13 * pane * pane + 0.10 * (above - low) / floor_height
    colour = mixed(colour, (0.8 * tone, 0.95 * tone, 1.25 * tone), glass)
    return colour, glass if pane < lamps else 0.0


@kernel
def car_surface(
    material: int, rgb: Rgb, height: float, face: int,
    u: float, v: float, du: float, dv: float, half_u: float,
) -> tuple[Rgb, float]:  # fmt: skip
    """Body paint with sills and lamps, or a cabin with windows below its roof.

    The second value is above 0 where a lamp is lit.
    """
    if material == CABIN:
        dark = 0.0
        if face != TOP:
            dark = band(v, 0.06, height - 0.09, dv) * band(abs(u), -1.0, half_u - 0.1, du)
            if face == SIDE_X:  # pillars between the side windows
                dark *= 1.0 - band(u, -0.06, 0.06, du)
        return mixed(rgb, (0.025, 0.03, 0.04), dark), 0.0
    lamp = 0.0
    dark = band(v, -0.1, 0.14, dv)
    if face == SIDE_X:
        seam = band(abs(u + 0.15), 0.53, 0.57, du) + band(u + 0.15, -0.02, 0.02, du)
        dark = max(dark, 0.5 * min(seam, 1.0))
        dark = max(dark, 0.4 * band(v, 0.36, 0.40, dv))
    elif face == SIDE_Z:
        lamp = band(abs(u), half_u - 0.42, half_u - 0.08, du) * band(v, 0.32, 0.5, dv)
        dark = max(dark, 0.7 * band(abs(u), -1.0, 0.3, du) * band(v, 0.2, 0.36, dv))
    return mixed(rgb, (0.02, 0.02, 0.022), dark), lamp


@kernel
def solid_albedo(
    material: int, rgb: Rgb, seed: int, height: float, half_u: float, face: int,
    u: float, v: float, du: float, dv: float, lamps: float,
) -> tuple[Rgb, float]:  # fmt: skip
    """Colour of a solid's surface, and the fraction of it that glows (lit windows, car lamps).

    Args:
        material: One of the material numbers above.
        rgb: Base albedo.
        seed: Seed of its texture.
        height: Height of the solid, metres.
        half_u: Half width of the face, metres.
        face: TOP, SIDE_X, SIDE_Z or ROUND.
        u: Horizontal position on the surface, metres from its middle.
        v: Height above the solid's base (on a top face: depth), metres.
        du: Footprint of the pixel along u, metres.
        dv: Footprint of the pixel along v, metres.
        lamps: Fraction of lit windows.
    """
    if material == FACADE and face != TOP:
        return facade(rgb, seed, height, u, v, du, dv, lamps)
    if material == BODY or material == CABIN:
        return car_surface(material, rgb, height, face, u, v, du, dv, half_u)
    if material == LEAVES:
        tone = 0.75 + 0.45 * value_noise(1.6 * u, 1.6 * v, 1.6 * du, seed)
        tone += 0.55 * value_noise(4.5 * u, 4.5 * v, 4.5 * du, seed + 1)
        tone += 0.5 * value_noise(10.0 * u, 10.0 * v, 10.0 * du, seed + 2)
        tone = max(tone, 0.12)
    elif material == PAVING:
        if face != TOP:
            tone = 0.8
        else:
            slab = pulse(u / 0.6, 0.06, du / 0.6) + pulse(v / 0.6, 0.06, dv / 0.6)
            tone = 1.0 - 0.4 * slab + 0.12 * value_noise(0.8 * u, 0.8 * v, 0.8 * dv, seed)
            tone += 0.2 * value_noise(7.0 * u, 7.0 * v, 7.0 * dv, seed + 1)
            tone += (1.25 - tone) * band(half_u - abs(u), 0.0, CURB, du)
    elif material == BARK:
        tone = 1.0 + 0.5 * value_noise(14.0 * u, 2.0 * v, 14.0 * du, seed)
    elif material == CLOTH:
        check = 0.25 * (hashed(seed, 1, 6) > 0.7)
        tone = 1.0 + check * (2.0 * pulse(v / 0.22, 0.5, dv / 0.22) - 1.0)
        tone += 0.25 * value_noise(6.0 * u, 6.0 * v, 6.0 * du, seed)
    elif material == WHEEL:
        rim = max(1.0 - (u * u + (v - 0.5 * height) ** 2) / (0.2 * height * height), 0.0)
        tone = 1.0 + (9.0 if rim > 0.5 else 0.0)
    elif material == METAL:
        tone = 1.0 + 0.25 * (2.0 * pulse(v / 0.9, 0.5, dv / 0.9) - 1.0) * (hashed(seed, 1, 6) > 0.7)
    else:
        tone = 1.0 + 0.05 * value_noise(2.0 * u, 2.0 * v, 2.0 * du, seed)
    tone = max(tone, 0.0)  # where two joints between paving slabs cross in a dark spot
    return (rgb[0] * tone, rgb[1] * tone, rgb[2] * tone), 0.0
