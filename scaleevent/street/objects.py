"""Objects of the street as solids for the ray caster: houses, trees, poles, cars, people."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from scaleevent.street.rays import BOX, ELLIPSOID, UPRIGHT
from scaleevent.street.surfaces import (
    BARK,
    BODY,
    CABIN,
    CLOTH,
    FACADE,
    LEAVES,
    METAL,
    PAVING,
    PLAIN,
    WHEEL,
    Ground,
)

CLASSES = ("sky", "road", "sidewalk", "building", "vegetation", "car", "person", "pole")
SIDEWALK, BUILDING, VEGETATION, CAR, PERSON, POLE = range(2, 8)

BEHIND, HORIZON = -14.0, 170.0  # extent of the street in z, metres; the camera is at 0
KERB = 0.12  # height of the sidewalk, metres

T = TypeVar("T")
Colour = tuple[float, float, float]  # albedo, linear RGB

WALLS: tuple[Colour, ...] = (
    (0.36, 0.13, 0.08), (0.5, 0.4, 0.27), (0.42, 0.42, 0.42), (0.68, 0.66, 0.6), (0.6, 0.4, 0.25),
    (0.25, 0.27, 0.3), (0.62, 0.52, 0.38), (0.3, 0.18, 0.12), (0.45, 0.5, 0.48), (0.66, 0.5, 0.42),
)  # fmt: skip
PAINTS: tuple[Colour, ...] = (
    (0.75, 0.75, 0.75), (0.03, 0.03, 0.035), (0.4, 0.41, 0.43), (0.5, 0.03, 0.03), (0.04, 0.1, 0.4),
    (0.16, 0.17, 0.18), (0.7, 0.68, 0.6), (0.05, 0.2, 0.12), (0.65, 0.4, 0.05),
)  # fmt: skip
LEAF: tuple[Colour, ...] = (
    (0.09, 0.2, 0.04), (0.06, 0.14, 0.04), (0.14, 0.22, 0.05), (0.08, 0.17, 0.05), (0.3, 0.17, 0.04)
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((0.6, 0.4, 0.3), (0.45, 0.28, 0.19), (0.2, 0.11, 0.07))
ROOFS: tuple[Colour, ...] = ((0.28, 0.1, 0.06), (0.2, 0.08, 0.05), (0.09, 0.09, 0.1))
PLATES: tuple[Colour, ...] = (
    (0.6, 0.03, 0.03), (0.03, 0.12, 0.5), (0.7, 0.6, 0.05), (0.7, 0.7, 0.7)
)  # fmt: skip


def draw_seed(rng: np.random.Generator) -> int:
    """A random seed for a texture."""
    return int(rng.integers(1 << 24))


def pick(rng: np.random.Generator, options: tuple[T, ...]) -> T:
    """One of the options at random; much faster than `rng.choice`."""
    return options[int(rng.random() * len(options))]


def _scaled(colour: Colour, factor: float) -> Colour:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


class StreetBuilder:
    """Collects the solids of one street."""

    def __init__(
        self, rng: np.random.Generator, ground: Ground, row_x: float, speed: float
    ) -> None:
        self.rng = rng
        self.ground = ground
        self.row_x = row_x  # facades stand at +-row_x, metres
        self.speed = speed  # factor on all motion
        self.seed = draw_seed(rng)
        self.solids: list[tuple[float, ...]] = []  # rows of `SOLID`

    def add(
        self,
        label: int,
        material: int,
        rgb: Colour,
        centre: tuple[float, float, float],
        half: tuple[float, float, float],
        shape: int = BOX,
        taper: tuple[float, float] = (0.0, 0.0),
        motion: tuple[float, float] = (0.0, 0.0),
        shadow: float = 0.0,
    ) -> None:
        """Append one solid; `half` are its half sizes in metres, `motion` m/s in x and z."""
        seed = self.seed + 8 * len(self.solids)  # a material uses this seed and a few after it
        self.solids.append(
            (*centre, *half, *taper, *motion, *rgb, shape, material, label, seed, shadow, *UPRIGHT)
        )

    def on_crossing(self, z: float, margin: float) -> bool:
        """Whether a position along the street lies in the crossing street."""
        return abs(z - self.ground.crossing_z) < self.ground.crossing_half + margin

    def sidewalks(self) -> None:
        """Raised sidewalks from the kerb to the facades, open at the crossing."""
        tone = self.rng.uniform(0.26, 0.42)
        near = min(self.ground.crossing_z - self.ground.crossing_half, HORIZON)
        far = self.ground.crossing_z + self.ground.crossing_half
        half_width = 0.5 * (self.row_x - self.ground.half_road)
        for side in (-1, 1):
            x = side * (self.ground.half_road + half_width)
            for start, end in ((BEHIND, near), (far, HORIZON)):
                if start < end:
                    self.add(
                        SIDEWALK, PAVING, (tone, tone, 0.97 * tone),
                        (x, 0.5 * KERB, 0.5 * (start + end)),
                        (half_width, 0.5 * KERB, 0.5 * (end - start)),
                    )  # fmt: skip

    def buildings(self) -> float:
        """A row of houses on both sides, with gaps for gardens; returns the houses' mean height."""
        rng = self.rng
        heights = []
        typical = rng.uniform(6.0, 16.0)
        for side in (-1, 1):
            z = BEHIND + rng.uniform(-6.0, 0.0)
            while z < HORIZON - 30.0:
                length = rng.uniform(7.0, 18.0)
                middle = z + 0.5 * length
                z += length
                if self.on_crossing(middle, 0.5 * length + 1.0):
                    continue
                if rng.random() < 0.14:
                    for _ in range(3):
                        x = side * (self.row_x + rng.uniform(1.5, 8.0))
                        self.tree(x, middle + rng.uniform(-4.0, 4.0), rng.uniform(1.0, 1.5))
                    continue
                height = max(typical * rng.uniform(0.65, 1.5), 4.0)
                heights.append(height)
                self.house(side, middle, 0.5 * length, height)
        if rng.random() < 0.6:  # the street ends at a house
            self.add(
                BUILDING, FACADE, pick(rng, WALLS),
                (rng.uniform(-20, 20), 9.0, HORIZON), (28.0, 9.0, 8.0),
            )  # fmt: skip
        return float(np.mean(heights))

    def house(self, side: int, z: float, half_length: float, height: float) -> None:
        """A house; most low ones have a pitched roof, and some are set back from the street."""
        rng = self.rng
        setback = rng.uniform(0.6, 2.5) if rng.random() < 0.25 else 0.0
        half_depth = 5.0
        x = side * (self.row_x + setback + half_depth)
        wall = _scaled(pick(rng, WALLS), rng.uniform(0.8, 1.15))
        self.add(
            BUILDING, FACADE, wall, (x, 0.5 * height, z), (half_depth, 0.5 * height, half_length)
        )
        if height < 10.0 and rng.random() < 0.75:
            rise = rng.uniform(1.2, 2.2)
            lean = half_depth / (2.0 * rise)
            self.add(
                BUILDING, PLAIN, pick(rng, ROOFS), (x, height + rise, z),
                (0.5 * half_depth + 0.3, rise, half_length + 0.2), taper=(lean, 0.0),
            )  # fmt: skip

    def tree(self, x: float, z: float, size: float, base: float = 0.0) -> None:
        """A trunk and a crown of three balls of leaves."""
        rng = self.rng
        trunk = size * rng.uniform(1.6, 2.4)
        leaf = _scaled(pick(rng, LEAF), rng.uniform(0.7, 1.2))
        half = 0.5 * trunk + 0.3
        self.add(
            VEGETATION, BARK, (0.11, 0.08, 0.055), (x, base + half, z),
            (0.13 * size, half, 0.13 * size), taper=(0.02, 0.02),
        )  # fmt: skip
        for _ in range(3):
            width = size * rng.uniform(1.0, 1.5)
            self.add(
                VEGETATION, LEAVES, leaf,
                (x + rng.uniform(-0.6, 0.6) * size, base + trunk + rng.uniform(0.6, 2.0) * size,
                 z + rng.uniform(-0.6, 0.6) * size),
                (width, size * rng.uniform(0.9, 1.4), width), ELLIPSOID, shadow=0.45,
            )  # fmt: skip

    def furniture(self) -> None:
        """Street trees, hedges, lamp posts, signs and traffic lights."""
        rng = self.rng
        leafy = rng.random() < 0.6
        for side in (-1, 1):
            x = side * (self.ground.half_road + 0.55)
            z = rng.uniform(4.0, 14.0)
            while z < 90.0:
                if not self.on_crossing(z, 1.5):
                    kind = rng.random()
                    if leafy and kind < 0.6:
                        self.tree(x + 0.25 * side, z, rng.uniform(0.75, 1.15), KERB)
                    elif kind < 0.8:
                        self.lamp_post(side, x, z)
                    else:
                        self.sign(x, z)
                z += rng.uniform(5.0, 11.0)
            for _ in range(rng.integers(0, 4)):
                size = rng.uniform(0.4, 0.8)
                self.add(
                    VEGETATION, LEAVES, pick(rng, LEAF),
                    (side * (self.row_x - 0.3), size, rng.uniform(5.0, 45.0)),
                    (0.5, size, rng.uniform(0.5, 1.6)), ELLIPSOID, shadow=0.5,
                )  # fmt: skip
            self.traffic_light(side)

    def pole(self, x: float, z: float, height: float, radius: float, tone: float) -> None:
        """An upright pole."""
        self.add(
            POLE, METAL, (tone, tone, tone), (x, 0.5 * height, z), (radius, 0.5 * height, radius)
        )

    def lamp_post(self, side: int, x: float, z: float) -> None:
        """A pole with an arm over the road."""
        height = self.rng.uniform(4.5, 7.0)
        tone = self.rng.uniform(0.05, 0.35)
        self.pole(x, z, height, 0.075, tone)
        arm = 0.8
        self.add(POLE, METAL, (tone, tone, tone), (x - side * arm, height, z), (arm, 0.05, 0.05))
        self.add(
            POLE, PLAIN, (0.6, 0.6, 0.55), (x - side * 2 * arm, height - 0.06, z),
            (0.3, 0.07, 0.14),
        )  # fmt: skip

    def sign(self, x: float, z: float) -> None:
        """A pole with a round or square plate, or a bollard."""
        rng = self.rng
        if rng.random() < 0.3:
            self.pole(x, z, 1.0, 0.09, 0.25)
            return
        height = rng.uniform(2.2, 3.0)
        self.pole(x, z, height, 0.04, 0.35)
        shape = ELLIPSOID if rng.random() < 0.6 else BOX
        self.add(POLE, PLAIN, pick(rng, PLATES), (x, height, z - 0.06), (0.32, 0.32, 0.03), shape)

    def traffic_light(self, side: int) -> None:
        """A traffic light in front of the crossing."""
        z = self.ground.crossing_z - self.ground.crossing_half - 0.6
        x = side * (self.ground.half_road + 0.3)
        self.pole(x, z, 3.2, 0.07, 0.2)
        self.add(POLE, PLAIN, (0.03, 0.03, 0.03), (x, 2.9, z - 0.1), (0.17, 0.45, 0.14))
        rgb, level = pick(self.rng, (((0.9, 0.05, 0.03), 3.18), ((0.05, 0.7, 0.3), 2.62)))
        self.add(POLE, PLAIN, rgb, (x, level, z - 0.24), (0.11, 0.11, 0.04), ELLIPSOID)

    def cars(self) -> None:
        """Cars that are parked at the kerbs, drive both ways or cross."""
        rng = self.rng
        half_road, speed = self.ground.half_road, self.speed
        for side in (-1, 1):
            full = rng.uniform(0.0, 0.85)
            z = rng.uniform(3.5, 9.0)
            while z < 70.0 and half_road > 3.8:
                if rng.random() < full and not self.on_crossing(z, 3.5):
                    self.car(side * (half_road - 1.05), z, 1)
                z += rng.uniform(5.6, 9.0)
        for _ in range(rng.integers(0, 3)):
            ahead = rng.uniform(9.0, 45.0)
            self.car(0.3 * half_road, ahead, 1, rng.uniform(1.0, 9.0) * speed)
        for _ in range(rng.integers(0, 3)):
            self.car(-0.36 * half_road, rng.uniform(10.0, 60.0), 1, -rng.uniform(3.0, 12.0) * speed)
        for lane in (-1, 1):
            if rng.random() < 0.4:
                z = self.ground.crossing_z + 0.5 * lane * self.ground.crossing_half
                self.car(rng.uniform(-14, 14), z, 0, lane * rng.uniform(2.0, 9.0) * speed)

    def car(self, x: float, z: float, axis: int, speed: float = 0.0) -> None:
        """A car along z (`axis` 1) or x (0): body, cabin and four wheels."""
        rng = self.rng
        paint = pick(rng, PAINTS)
        van = rng.random() < 0.2
        half_length = rng.uniform(1.9, 2.25) + 0.25 * van
        half_width = rng.uniform(0.84, 0.92)
        motion = (0.0, speed) if axis else (speed, 0.0)

        def part(
            material: int, rgb: Colour, along: float, aside: float, y: float,
            half: tuple[float, float, float], lean: tuple[float, float] = (0.0, 0.0),
            shape: int = BOX, shadow: float = 0.0,
        ) -> None:  # fmt: skip
            centre = (x + aside, y, z + along) if axis else (x + along, y, z + aside)
            if not axis:
                half, lean = half[::-1], lean[::-1]
            self.add(CAR, material, rgb, centre, half, shape, lean, motion, shadow)

        waist = 0.92 + 0.1 * van
        part(
            BODY, paint, 0.0, 0.0, 0.5 * (waist + 0.22),
            (half_width, 0.5 * (waist - 0.22), half_length), (0.06, 0.1), shadow=0.75,
        )  # fmt: skip
        roof = rng.uniform(0.27, 0.31) + 0.2 * van
        reach = (0.85 if van else 0.6) * half_length
        facing = -0.12 * half_length * (1.0 if speed >= 0 else -1.0)
        part(
            CABIN, paint, facing, 0.0, waist + roof,
            (half_width - 0.16, roof, reach - 0.22), (0.32, 0.35 if van else 0.8),
        )  # fmt: skip
        for along in (-0.62 * half_length, 0.62 * half_length):
            for aside in (-half_width + 0.08, half_width - 0.08):
                part(
                    WHEEL, (0.02, 0.02, 0.02), along, aside, 0.32, (0.12, 0.32, 0.32),
                    shape=ELLIPSOID,
                )  # fmt: skip

    def people(self) -> None:
        """People who walk on the sidewalks, and some who cross the road."""
        rng = self.rng
        half_road = self.ground.half_road
        for _ in range(rng.integers(5, 14)):
            side = pick(rng, (-1, 1))
            x = side * rng.uniform(half_road + 0.4, self.row_x - 0.4)
            pace = pick(rng, (-1, -1, 0, 1, 1)) * rng.uniform(0.8, 1.8)
            self.person(x, rng.uniform(4.0, 28.0), KERB, (0.0, pace * self.speed))
        for _ in range(pick(rng, (0, 0, 1, 2))):
            pace = pick(rng, (-1, 1)) * rng.uniform(0.8, 2.0) * self.speed
            self.person(rng.uniform(-1, 1) * half_road, rng.uniform(6.0, 24.0), 0.0, (pace, 0.0))

    def person(self, x: float, z: float, base: float, motion: tuple[float, float]) -> None:
        """Head, trunk, arms and legs of a person who walks with `motion` (m/s in x and z)."""
        rng = self.rng
        size = rng.uniform(1.55, 1.92)
        shirt = tuple((rng.uniform(0.15, 0.75) * rng.uniform(0.35, 1.0, 3)).tolist())
        trousers = _scaled(pick(rng, PAINTS[1:6]), 0.6)
        skin = pick(rng, SKINS)
        across = 1 if motion[0] == 0.0 else 0  # 1: walks along z
        stride = rng.uniform(-0.22, 0.22)

        def part(
            material: int, rgb: Colour, aside: float, y: float, ahead: float,
            half: tuple[float, float, float], swing: float = 0.0, shadow: float = 0.0,
        ) -> None:  # fmt: skip
            step = (swing * motion[0], swing * motion[1])
            centre = (x + aside, base + y * size, z + ahead)
            if not across:
                centre, half = (x + ahead, base + y * size, z + aside), half[::-1]
            moving = (motion[0] + step[0], motion[1] + step[1])
            self.add(PERSON, material, rgb, centre, half, ELLIPSOID, motion=moving, shadow=shadow)

        part(PLAIN, skin, 0.0, 0.93, 0.0, (0.085, 0.068 * size, 0.1))
        part(PLAIN, (0.04, 0.03, 0.02), 0.0, 0.955, 0.0, (0.092, 0.055 * size, 0.1))
        part(CLOTH, shirt, 0.0, 0.67, 0.0, (0.21, 0.2 * size, 0.14), shadow=0.5)
        for sign in (-1, 1):
            part(CLOTH, shirt, sign * 0.23, 0.63, -sign * stride * 0.6,
                 (0.06, 0.185 * size, 0.075), -0.3 * sign)  # fmt: skip
            part(CLOTH, trousers, sign * 0.1, 0.26, sign * stride,
                 (0.095, 0.26 * size, 0.11), 0.6 * sign)  # fmt: skip
