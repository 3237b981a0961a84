"""Layout `varied`: a quarter of a town with bent and sloping roads, a junction and a square.

The order of the random draws decides the bytes of every scene, so it must not change.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import numpy as np

from scaleevent.street.ground import centre_line, foot, open_lot, road_edge, room_for_car
from scaleevent.street.objects import (
    BUILDING,
    KERB,
    PAINTS,
    POLE,
    VEGETATION,
    Colour,
    StreetBuilder,
    draw_seed,
    pick,
)
from scaleevent.street.rays import ELLIPSOID, SOLID
from scaleevent.street.surfaces import FACADE, LEAVES, METAL, PLAIN, Ground

START, END = -62.0, 102.0  # of the main road along z, metres
CELL = 4.0  # metres; more than the radii of two things
STREET = (-5.0, 45.0)  # the part of it where cameras are, metres
BUSY = (-42.0, 82.0)  # the part of it with cars and furniture, metres

# Albedos are those of many materials: no class has a colour of its own
EARTH: tuple[Colour, ...] = (
    (0.36, 0.13, 0.08), (0.5, 0.4, 0.27), (0.42, 0.42, 0.42), (0.66, 0.64, 0.58), (0.6, 0.4, 0.25),
    (0.12, 0.13, 0.14), (0.45, 0.36, 0.25), (0.22, 0.14, 0.1), (0.3, 0.34, 0.24), (0.2, 0.24, 0.2),
    (0.1, 0.15, 0.09), (0.3, 0.36, 0.42), (0.25, 0.25, 0.24), (0.18, 0.2, 0.12),
)  # fmt: skip
FOLIAGE: tuple[Colour, ...] = (
    (0.09, 0.17, 0.05), (0.07, 0.12, 0.05), (0.16, 0.21, 0.09), (0.3, 0.2, 0.07), (0.22, 0.1, 0.06),
    (0.3, 0.3, 0.2), (0.12, 0.13, 0.08), (0.4, 0.36, 0.3), (0.17, 0.17, 0.14),
)  # fmt: skip


def draw_ground(rng: np.random.Generator) -> Ground:
    """A main road, perhaps a street that crosses or leaves it, perhaps a square beside it."""
    half_road = rng.uniform(2.8, 5.6)
    bend = pick(rng, (-1, 1)) * rng.uniform(3.0, 14.0) if rng.random() < 0.65 else 0.0
    bend_z, bend_half = rng.uniform(STREET[0] - 20.0, STREET[1] + 20.0), rng.uniform(32.0, 60.0)
    crossing_z = rng.uniform(*STREET) if rng.random() < 0.75 else 1e4
    slopes = rng.normal(0.0, (0.01, 0.035)) if rng.random() < 0.6 else np.zeros(2)
    square_side = float(pick(rng, (-1, 0, 1)))
    lawn = np.array(pick(rng, FOLIAGE)) * rng.uniform(0.7, 1.3)
    ground = Ground(
        half_road=half_road,
        lane_line=bool(rng.random() < 0.6),
        crossing_z=crossing_z,
        crossing_half=rng.uniform(2.6, 4.6),
        grey=math.exp(rng.uniform(math.log(0.06), math.log(0.3))),
        seed=draw_seed(rng),
        kerb=KERB,
        slope_x=float(np.clip(slopes[0], -0.02, 0.02)),
        slope_z=float(np.clip(slopes[1], -0.08, 0.08)),
        bend=bend,
        bend_z=bend_z,
        bend_half=bend_half,
        crossing_side=float(pick(rng, (-1, 0, 0, 1))),
        walk=rng.uniform(1.8, 4.5),
        square_side=square_side,
        square_z=rng.uniform(*STREET),
        square_half=rng.uniform(8.0, 20.0),
        square_reach=half_road + rng.uniform(12.0, 26.0),
        zebra=bool(rng.random() < 0.6),
        edge_line=bool(rng.random() < 0.5),
        sett=rng.uniform(0.12, 0.35) if rng.random() < 0.3 else 0.0,
        slab=rng.uniform(0.15, 0.7) if rng.random() < 0.7 else 0.0,
        tint=float(rng.random() ** 2),
        pavement=math.exp(rng.uniform(math.log(0.08), math.log(0.42))),
        pavement_tint=float(rng.random() ** 2),
        kerbstone=rng.uniform(0.15, 0.45),
        lawn=(float(lawn[0]), float(lawn[1]), float(lawn[2])),
    )
    x, slant = centre_line(ground, crossing_z)
    angle = rng.uniform(-0.35, 0.35) - math.atan(slant)  # nearly at right angles
    return ground._replace(crossing_x=x, crossing_cos=math.cos(angle), crossing_sin=math.sin(angle))


class TownBuilder(StreetBuilder):
    """Collects the solids of one quarter; things are built at the origin and then placed."""

    def __init__(self, rng: np.random.Generator, ground: Ground, speed: float) -> None:
        super().__init__(rng, ground, ground.half_road + ground.walk, speed)
        self.taken: defaultdict[tuple[int, int], list[tuple[float, float, float]]] = defaultdict(
            list
        )  # by square of `CELL` metres: x, z and radius of things, metres
        self.placed: list[tuple[float, ...]] = []  # of each solid: where and how it is put
        self.ready = np.zeros(0, SOLID)

    def at(self, aside: float, along: float) -> tuple[float, float, float]:
        """Position x, z of a point beside the main road, and the heading of the road there."""
        middle, slant = centre_line.py_func(self.ground, along)  # faster for one point
        heading = math.atan(slant)
        x = middle + aside * math.cos(heading)
        return x, along - aside * math.sin(heading), heading

    def free(self, x: float, z: float, radius: float) -> bool:
        """Whether nothing stands within `radius` metres of a point."""
        i, j = int(x // CELL), int(z // CELL)
        near = (self.taken[a, b] for a in (i - 1, i, i + 1) for b in (j - 1, j, j + 1))
        return all(math.hypot(x - a, z - b) > radius + r for part in near for a, b, r in part)

    def take(self, x: float, z: float, radius: float) -> None:
        """Note that something stands at a point."""
        self.taken[int(x // CELL), int(z // CELL)].append((x, z, radius))

    def place(
        self, build: Callable[[], None], x: float, z: float, heading: float,
        room: float = 0.0, lies: bool = False,
    ) -> None:  # fmt: skip
        """Build something at the origin, turn it to a heading and move it onto the ground at x, z.

        Args:
            build: Adds solids that stand at the origin and face along z.
            x: Metres.
            z: Metres.
            heading: Radians to the right of z.
            room: Radius that it takes up, metres.
            lies: It is sheared to lie on the slope; otherwise it is upright.
        """
        first, ground = len(self.solids), self.ground
        build()
        slope = (ground.slope_x, ground.slope_z) if lies else (0.0, 0.0)
        how = (x, foot(ground, x, z), z, math.cos(heading), math.sin(heading), *slope)
        self.placed += [how] * (len(self.solids) - first)
        if room:
            self.take(x, z, room)

    def array(self) -> np.ndarray:
        """(P,) `SOLID`: what has been placed so far."""
        done = len(self.ready)
        if done < len(self.solids):
            new = np.array(self.solids[done:], SOLID)
            x, y, z, cos, sin, slope_x, slope_z = np.array(self.placed[done:]).T
            dx, dz = cos * new["x"] + sin * new["z"], cos * new["z"] - sin * new["x"]
            new["y"] += y + slope_x * dx + slope_z * dz
            new["x"], new["z"] = x + dx, z + dz
            speed_x, speed_z = new["speed_x"].copy(), new["speed_z"]
            new["speed_x"], new["speed_z"] = (
                cos * speed_x + sin * speed_z, cos * speed_z - sin * speed_x
            )  # fmt: skip
            ground = self.ground
            new["speed_y"] = ground.slope_x * new["speed_x"] + ground.slope_z * new["speed_z"]
            new["cos"], new["sin"] = cos, sin
            new["slope_x"], new["slope_z"] = slope_x, slope_z
            self.ready = np.concatenate((self.ready, new))
        return self.ready

    def blocks(self) -> float:
        """Rows of houses along the roads, gardens and trees; returns the first rows' height."""
        rng = self.rng
        typical = rng.uniform(5.0, 15.0)
        heights = [typical]
        for side in (-1, 1):
            aside = self.row_x
            for row in range(2):
                depth = rng.uniform(8.0, 12.0)
                z = START + rng.uniform(0.0, 8.0)
                while z < END:
                    length = rng.uniform(8.0, 18.0) * (1.0 + 0.4 * row)
                    height = max(typical * rng.uniform(0.6, 1.5), 4.0)
                    setback = rng.uniform(0.6, 3.0) if rng.random() < 0.25 else 0.0
                    if self.lot(side, aside + setback, z + 0.5 * length, length, depth, height):
                        heights.append(height)
                    z += length + (rng.uniform(2.0, 9.0) if rng.random() < 0.2 + 0.2 * row else 0.0)
                aside += depth + rng.uniform(8.0, 14.0)
        for z in (START - 12.0, END + 12.0):  # both ends of the road are in sight
            x, z, heading = self.at(0.0, z)
            across = heading + 0.5 * math.pi
            self.place(partial(self.townhouse, 26.0, 6.0, 1.3 * typical), x, z, across)
        return float(np.mean(heights))

    def lot(
        self, side: int, aside: float, z: float, length: float, depth: float, height: float
    ) -> bool:
        """A house where no road, pavement or square is in the way, else perhaps a tree."""
        rng, ground = self.rng, self.ground
        x, z, heading = self.at(side * (aside + 0.5 * depth), z)
        if not open_lot(ground, x, z, heading, 0.5 * depth, 0.5 * length) or rng.random() < 0.12:
            self.garden(x, z, 0.4 * length)
            return False
        self.place(partial(self.townhouse, 0.5 * length, 0.5 * depth, height), x, z, heading)
        return True

    def garden(self, x: float, z: float, spread: float) -> None:
        """Up to two trees or bushes off the pavement."""
        rng = self.rng
        for _ in range(rng.integers(0, 3)):
            a, b = x + rng.uniform(-1, 1) * spread, z + rng.uniform(-1, 1) * spread
            if road_edge(self.ground, a, b) > 1.2 and self.free(a, b, 1.0):
                size = rng.uniform(0.9, 1.5)
                if rng.random() < 0.7:
                    self.place(partial(self.tree, 0.0, 0.0, size), a, b, 0.0, 0.4)
                else:
                    self.place(self.bush, a, b, rng.uniform(0, 3.0), 0.8)

    def townhouse(self, half_length: float, half_depth: float, height: float) -> None:
        """A house at the origin; most low ones have a pitched roof. It reaches into the slope."""
        rng = self.rng
        dig = KERB + 0.1 + 0.1 * max(half_length, half_depth)
        wall = self.shade_of(EARTH)
        self.add(
            BUILDING, FACADE, wall, (0.0, 0.5 * (height - dig), 0.0),
            (half_depth, 0.5 * (height + dig), half_length),
        )  # fmt: skip
        if height < 10.0 and rng.random() < 0.75:
            rise = rng.uniform(1.2, 2.2)
            lean = half_depth / (2.0 * rise)
            self.add(
                BUILDING, PLAIN, self.shade_of(EARTH), (0.0, height + rise, 0.0),
                (0.5 * half_depth + 0.3, rise, half_length + 0.2), taper=(lean, 0.0),
            )  # fmt: skip

    def shade_of(self, colours: tuple[Colour, ...]) -> Colour:
        """One of the colours, lighter or darker."""
        red, green, blue = pick(self.rng, colours)
        factor = self.rng.uniform(0.6, 1.25)
        return red * factor, green * factor, blue * factor

    def bush(self) -> None:
        """A bush at the origin."""
        size = self.rng.uniform(0.4, 0.9)
        half = (self.rng.uniform(0.5, 0.9), size, self.rng.uniform(0.5, 1.6))
        leaf = self.shade_of(FOLIAGE)
        self.add(VEGETATION, LEAVES, leaf, (0.0, 0.9 * size, 0.0), half, ELLIPSOID, shadow=0.5)

    def tree(self, x: float, z: float, size: float, base: float = 0.0) -> None:
        """As `StreetBuilder.tree`, with leaves of any season."""
        first = len(self.solids)
        super().tree(x, z, size, base)
        leaf = self.shade_of(FOLIAGE)
        for index in range(first + 1, len(self.solids)):
            solid = self.solids[index]
            self.solids[index] = (*solid[:10], *leaf, *solid[13:])

    def street_furniture(self) -> None:
        """Trees, lamp posts, signs, bollards and bushes along the kerbs and on the square."""
        rng, ground = self.rng, self.ground
        leafy = rng.random() < 0.55
        for side in (-1, 1):
            z = BUSY[0] + rng.uniform(0.0, 10.0)
            while z < BUSY[1]:
                x, at_z, heading = self.at(side * (ground.half_road + 0.55), z)
                if 0.3 < road_edge(ground, x, at_z) and self.free(x, at_z, 0.5):
                    self.kerbside(x, at_z, heading, side, leafy)
                z += rng.uniform(5.0, 11.0)
        for _ in range(0 if ground.square_side == 0.0 else rng.integers(3, 9)):
            aside = ground.square_side * rng.uniform(ground.half_road + 3.0, ground.square_reach)
            along = ground.square_z + rng.uniform(-1, 1) * ground.square_half
            x, z, heading = self.at(aside, along)
            if road_edge(ground, x, z) > 1.0 and self.free(x, z, 1.0):
                self.kerbside(x, z, heading, pick(rng, (-1, 1)), leafy)

    def kerbside(self, x: float, z: float, heading: float, side: int, leafy: bool) -> None:
        """One tree, lamp post, sign or bollard."""
        rng = self.rng
        kind = rng.random()
        if leafy and kind < 0.55:
            size = rng.uniform(0.75, 1.2)
            self.place(partial(self.tree, 0.0, 0.0, size), x, z, heading, 0.4)
        elif kind < 0.75:
            self.place(partial(self.lamp_post, side, 0.0, 0.0), x, z, heading, 0.3)
        elif kind < 0.92:
            turn = pick(rng, (0.0, math.pi))
            self.place(partial(self.sign, 0.0, 0.0), x, z, heading + turn, 0.4)
        else:
            self.place(self.bush, x, z, heading, 0.8)

    def post(self) -> None:
        """A bare pole at the origin: a bollard, or the foot of something out of sight."""
        rng = self.rng
        height = math.exp(rng.uniform(math.log(0.9), math.log(6.0)))
        tone = math.exp(rng.uniform(math.log(0.04), math.log(0.6)))
        red, green, blue = pick(rng, ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), pick(rng, EARTH)))
        radius = rng.uniform(0.05, 0.15)
        self.add(
            POLE, PLAIN if rng.random() < 0.5 else METAL, (tone * red, tone * green, tone * blue),
            (0.0, 0.5 * height - 0.1, 0.0), (radius, 0.5 * height + 0.1, radius),
        )  # fmt: skip

    def traffic(self) -> None:
        """Parked cars at the kerbs, cars that drive on both roads, and some on the square."""
        rng, ground = self.rng, self.ground
        for side in (-1, 1):
            full = rng.uniform(0.1, 0.9)
            z = BUSY[0] + rng.uniform(0.0, 9.0)
            while z < BUSY[1] and ground.half_road > 3.4:
                if rng.random() < full:
                    self.car_at(side * (ground.half_road - 1.05), z, pick(rng, (0.0, math.pi)), 0.0)
                z += rng.uniform(5.6, 9.0)
            for _ in range(rng.integers(0, 4)):
                pace = rng.uniform(1.0, 10.0) * self.speed
                turn = 0.0 if side > 0 else math.pi
                self.car_at(side * 0.32 * ground.half_road, rng.uniform(*BUSY), turn, pace)
        heading = math.atan2(ground.crossing_cos, ground.crossing_sin)
        for _ in range(rng.integers(0, 4) if ground.crossing_z < END else 0):
            away, lane = rng.uniform(-35.0, 35.0), pick(rng, (-1, 1))
            x = ground.crossing_x + away * math.sin(heading)
            z = ground.crossing_z + away * math.cos(heading)
            # cars keep to the right of their direction
            x += 0.42 * ground.crossing_half * math.cos(heading) * lane
            z -= 0.42 * ground.crossing_half * math.sin(heading) * lane
            turn = heading if lane > 0 else heading + math.pi
            self.car_in(x, z, turn, rng.uniform(0.0, 8.0) * self.speed)
        for _ in range(rng.integers(0, 4) if ground.square_side else 0):
            aside = ground.square_side * rng.uniform(ground.half_road + 4.0, ground.square_reach)
            along = ground.square_z + rng.uniform(-1, 1) * ground.square_half
            x, z, turn = self.at(aside, along)
            self.car_in(x, z, turn, 0.0, on_road=False)

    def car_at(self, aside: float, along: float, turn: float, pace: float) -> None:
        """A car beside the middle of the main road."""
        x, z, heading = self.at(aside, along)
        self.car_in(x, z, heading + turn, pace)

    def car_in(self, x: float, z: float, heading: float, pace: float, on_road: bool = True) -> None:
        """A car that is wholly on a road, or wholly off it, unless there is no room."""
        if room_for_car(self.ground, x, z, heading) != (1 if on_road else -1):
            return
        dx, dz = 1.26 * math.sin(heading), 1.26 * math.cos(heading)
        if self.free(x + dx, z + dz, 1.0) and self.free(x - dx, z - dz, 1.0):
            self.place(partial(self.car, 0.0, 0.0, 1, pace), x, z, heading, lies=True)
            self.take(x + dx, z + dz, 1.1)
            self.take(x - dx, z - dz, 1.1)

    def crowd(self) -> None:
        """People on the pavements, on the square and across the road."""
        rng, ground = self.rng, self.ground
        for _ in range(rng.integers(7, 18)):
            side = pick(rng, (-1, 1))
            aside = side * (ground.half_road + rng.uniform(0.3, max(ground.walk - 0.5, 0.4)))
            x, z, heading = self.at(aside, rng.uniform(STREET[0] - 20.0, STREET[1] + 20.0))
            self.walker(x, z, heading + pick(rng, (0.0, math.pi)))
        for _ in range(rng.integers(0, 5)):
            x, z, heading = self.at(rng.uniform(-1, 1) * ground.half_road, rng.uniform(*STREET))
            self.walker(x, z, heading + pick(rng, (-0.5, 0.5)) * math.pi)
        for _ in range(rng.integers(2, 9) if ground.square_side else 0):
            aside = ground.square_side * rng.uniform(ground.half_road + 2.0, ground.square_reach)
            along = ground.square_z + rng.uniform(-1, 1) * ground.square_half
            x, z, _ = self.at(aside, along)
            self.walker(x, z, rng.uniform(0.0, 2.0 * math.pi))

    def walker(self, x: float, z: float, heading: float) -> bool:
        """A person who stands or walks in a direction, where there is room."""
        if not self.free(x, z, 0.3):
            return False
        pace = pick(self.rng, (0.0, 1.0, 1.0)) * self.rng.uniform(0.6, 1.8) * self.speed
        self.place(partial(self.person, 0.0, 0.0, 0.0, (0.0, pace)), x, z, heading, 0.3)
        return True

    def car(self, x: float, z: float, axis: int, speed: float = 0.0) -> None:
        """As `StreetBuilder.car`, in more colours."""
        first = len(self.solids)
        super().car(x, z, axis, speed)
        if self.rng.random() < 0.5:
            paint = self.shade_of(pick(self.rng, (PAINTS, EARTH)))
            for index in (first, first + 1):
                solid = self.solids[index]
                self.solids[index] = (*solid[:10], *paint, *solid[13:])


def draw_town(rng: np.random.Generator, speed: float) -> tuple[TownBuilder, float]:
    """A quarter without a camera, and the mean height of its houses."""
    builder = TownBuilder(rng, draw_ground(rng), speed)
    height = builder.blocks()
    builder.street_furniture()
    builder.traffic()
    builder.crowd()
    return builder, height
