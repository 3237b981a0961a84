"""The street world: geometry against independent formulas, determinism, settings."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaleevent.errors import ConfigError
from scaleevent.street.camera import Lens, Pose
from scaleevent.street.layout import draw_world
from scaleevent.street.rays import BOX, FAR, GROUND, NEAR, SKY, SOLID, cast
from scaleevent.street.render import labels_and_flow, radiance
from scaleevent.street.scene import CLASSES, PALETTE, StreetScene, StreetSettings, render_scene
from scaleevent.street.surfaces import PLAIN, band, pulse

HEIGHT, WIDTH = 48, 64
LENS = Lens(0.86 * WIDTH, 0.5 * WIDTH, 0.46 * HEIGHT)
SMALL = StreetSettings(height=HEIGHT, width=WIDTH, layout="fixed")


def world_of(number, standing=0.0):
    """A world without ragged leaves, whose outlines no closed formula knows."""
    world = draw_world(np.random.default_rng([5, number]), 1.0, standing, 0.0, "fixed")
    solids = world.solids.copy()
    solids["material"] = PLAIN
    return replace(world, solids=solids)


def rays(pose):
    """(H, W, 3) directions of unit depth in world axes, by rotation matrix."""
    row, column = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    camera = np.stack(
        (
            (column - WIDTH / 2) / LENS.focal,
            (LENS.centre_y - row) / LENS.focal,
            np.ones((HEIGHT, WIDTH)),
        ),
        axis=-1,
    )
    return camera @ rotation(pose).T


def rotation(pose):
    """Camera (right, up, forward) to world."""
    cos, sin = np.cos(pose.yaw), np.sin(pose.yaw)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def digest(scene: StreetScene) -> str:
    parts = (scene.image, scene.semantics, scene.depth, scene.flow)
    events = scene.events
    whole = b"".join(a.tobytes() for a in (*parts, events.t, events.x, events.y, events.p))
    return hashlib.sha256(whole).hexdigest()


def meeting(solid, eye, direction):
    """Depth where a ray enters one solid, by trying every candidate; inf for none."""
    centre = np.array([solid["x"], solid["y"], solid["z"]])
    half = np.array([solid["half_x"], solid["half_y"], solid["half_z"]])
    o = eye - centre
    if solid["shape"] != BOX:
        o, d = o / half, direction / half
        roots = np.roots([d @ d, 2 * o @ d, o @ o - 1])
        roots = roots[np.isreal(roots)].real
        return roots.min() if len(roots) and roots.min() > NEAR else np.inf
    lean = np.array([solid["taper_x"], 0.0, solid["taper_z"]])
    planes = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            normal = np.zeros(3)
            normal[axis] = sign
            normal[1] += lean[axis]
            planes.append((normal, half[axis]))
    best = np.inf
    for normal, limit in planes:
        if normal @ direction >= 0:
            continue  # a ray leaves here, it does not enter
        depth = (limit - normal @ o) / (normal @ direction)
        point = o + depth * direction
        if NEAR < depth < best and all(n @ point <= b + 1e-9 for n, b in planes):
            best = depth
    return best


@pytest.mark.parametrize("number", [0, 1])
def test_every_ray_finds_the_nearest_surface(number):
    world = world_of(number)
    hits = cast(world.solids, world.ground, world.pose, LENS, 0.0, HEIGHT, WIDTH)
    eye = np.array(world.pose[:3])
    directions = rays(world.pose)
    rng = np.random.default_rng(number)
    for row, column in zip(rng.integers(0, HEIGHT, 60), rng.integers(0, WIDTH, 60), strict=True):
        direction = directions[row, column]
        depths = [meeting(solid, eye, direction) for solid in world.solids]
        nearest = int(np.argmin(depths))
        plane = -eye[1] / direction[1] if direction[1] < 0 else np.inf
        plane = plane if plane < FAR else np.inf
        expected = min(depths[nearest], plane)
        np.testing.assert_allclose(hits.depth[row, column], expected, rtol=1e-9)
        if depths[nearest] < plane:
            assert hits.surface[row, column] == nearest
        else:
            assert hits.surface[row, column] == (SKY if plane == np.inf else GROUND)


def test_no_part_of_a_solid_is_culled():
    """Boxes with leaning walls and ellipsoids in front of, next to and around the camera."""
    rng = np.random.default_rng(8)
    found = 0
    for _ in range(300):
        pose = Pose(0.0, 1.5, 0.0, rng.normal(0, 0.3))
        solid = np.zeros(1, SOLID)
        solid["x"], solid["y"], solid["z"] = rng.normal(0, (4, 2, 8))
        solid["half_x"], solid["half_y"], solid["half_z"] = rng.uniform(0.1, (2, 3, 15))
        solid["taper_x"], solid["taper_z"] = rng.uniform(0, 0.5, 2)
        solid["shape"] = rng.integers(2)
        solid["cos"] = 1.0
        hits = cast(solid, world_of(0).ground, pose, LENS, 0.0, HEIGHT, WIDTH)
        directions = rays(pose)
        for row, column in rng.integers(0, (HEIGHT, WIDTH), (40, 2)):
            direction = directions[row, column]
            expected = meeting(solid[0], np.array(pose[:3]), direction)
            if direction[1] >= 0 or expected < 1.5 / -direction[1]:
                np.testing.assert_allclose(hits.depth[row, column], expected, rtol=1e-9)
                found += np.isfinite(expected)
    assert found > 500


def test_depth_of_the_road_is_camera_height_over_slope():
    world = world_of(2)
    hits = cast(world.solids, world.ground, world.pose, LENS, 0.0, HEIGHT, WIDTH)
    row, _ = np.nonzero(hits.surface == GROUND)
    assert len(row) > HEIGHT * WIDTH / 6
    np.testing.assert_allclose(
        hits.depth[hits.surface == GROUND],
        LENS.focal * world.pose.y / (row + 0.5 - LENS.centre_y),
        rtol=1e-12,
    )


@pytest.mark.parametrize("number", [0, 3, 4])
def test_flow_meets_the_same_surface_later(number):
    """Where the flow leads, a ray at the later time finds the same point or one before it."""
    world, seconds = world_of(number), 0.05
    later = world.camera(seconds)
    hits = cast(world.solids, world.ground, world.pose, LENS, 0.0, HEIGHT, WIDTH)
    _, flow = labels_and_flow(
        world.solids, world.ground, world.pose, later, LENS, seconds, (0, 1, 4, 2), hits
    )
    points = np.array(world.pose[:3]) + hits.depth[..., None] * rays(world.pose)
    seen = np.full((HEIGHT, WIDTH), np.nan)
    forward = np.full((HEIGHT, WIDTH), np.nan)
    for row in range(0, HEIGHT, 3):
        for column in range(0, WIDTH, 3):
            number = hits.surface[row, column]
            if number == SKY or np.isnan(flow[0, row, column]):
                continue
            point = points[row, column].copy()
            if number != GROUND:
                solid = world.solids[number]
                point += seconds * np.array([solid["speed_x"], 0.0, solid["speed_z"]])
            right, up, forward[row, column] = (point - later[:3]) @ rotation(later)
            expected = LENS.focal / forward[row, column] * np.array([right, -up])
            expected += np.array([WIDTH / 2 - column - 0.5, LENS.centre_y - row - 0.5])
            np.testing.assert_allclose(flow[:, row, column], expected, atol=1e-4)
            lens = LENS._replace(shift_x=expected[0], shift_y=expected[1])
            seen[row, column] = _single_ray(world, later, lens, seconds, row, column)
    known = np.isfinite(seen)
    assert known.sum() > 150
    assert (seen[known] < forward[known] + 1e-6).all()
    assert (np.abs(seen[known] - forward[known]) < 1e-6).mean() > 0.93


def _single_ray(world, pose, lens, t, row, column):
    """Depth of one pixel: an image of one row and column about that pixel."""
    lens = lens._replace(centre_x=lens.centre_x - column, centre_y=lens.centre_y - row)
    return cast(world.solids, world.ground, pose, lens, t, 1, 1).depth[0, 0]


def test_flow_of_the_sky_is_the_turn_alone():
    world = world_of(6)
    hits = cast(world.solids, world.ground, world.pose, LENS, 0.0, HEIGHT, WIDTH)
    later = world.pose._replace(yaw=world.pose.yaw + 0.02, z=world.pose.z + 3.0)
    _, flow = labels_and_flow(
        world.solids, world.ground, world.pose, later, LENS, 0.1, (0, 1, 4, 2), hits
    )
    _, column = np.nonzero(hits.surface == SKY)
    assert len(column)
    angle = np.arctan((column + 0.5 - WIDTH / 2) / LENS.focal)
    expected = LENS.focal * (np.tan(angle - 0.02) - np.tan(angle))
    np.testing.assert_allclose(flow[0][hits.surface == SKY], expected, atol=1e-4)


def test_only_moving_things_flow_before_a_standing_camera():
    world = world_of(7, standing=1.0)
    hits = cast(world.solids, world.ground, world.pose, LENS, 0.0, HEIGHT, WIDTH)
    labels, flow = labels_and_flow(
        world.solids, world.ground, world.pose, world.camera(0.05), LENS, 0.05, (0, 1, 4, 2), hits
    )
    speed = np.hypot(world.solids["speed_x"], world.solids["speed_z"])
    moving = np.where(hits.surface >= 0, speed[np.maximum(hits.surface, 0)] > 0, False)
    assert moving.any()
    assert (np.abs(flow[:, moving]).max(axis=0) > 0).all()
    np.testing.assert_allclose(flow[:, ~moving], 0, atol=1e-5)
    assert set(np.unique(labels[moving])) <= {CLASSES.index("car"), CLASSES.index("person")}


def test_events_add_up_to_the_change_of_log_luminance():
    settings = replace(SMALL, threshold=(0.2, 0.2), threshold_spread=0.0, noise_hz=0.0)
    scene = render_scene(3, 1, settings)
    rng = np.random.default_rng([3, 1])
    world = draw_world(rng, settings.speed, settings.standing, settings.darkness, "fixed")
    logs = []
    for t in (-0.05, 0.0):
        pose = world.camera(t)
        hits = cast(world.solids, world.ground, pose, LENS, t, HEIGHT, WIDTH)
        light = radiance(world.solids, world.ground, world.light, pose, LENS, t, hits)
        logs.append(np.log(light @ [0.2126, 0.7152, 0.0722] + 0.005))
    net = np.zeros((HEIGHT, WIDTH))
    np.add.at(net, (scene.events.y, scene.events.x), 2.0 * scene.events.p - 1.0)
    assert np.abs(net).max() >= 3
    assert np.abs(0.2 * net - (logs[1] - logs[0])).max() < 0.4 + 1e-9


def test_a_scene_depends_on_its_number_alone():
    first = digest(render_scene(11, 4, SMALL))
    assert first != digest(render_scene(11, 5, SMALL))
    assert first != digest(render_scene(12, 4, SMALL))
    assert first == digest(render_scene(11, 4, SMALL))
    code = (
        "import test_street as t; from scaleevent.street.scene import render_scene;"
        "print(t.digest(render_scene(11, 4, t.SMALL)))"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == first


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"height": 16, "width": 16},
        {"height": 480, "width": 640},
        {"window_us": 1000},
        {"window_us": 1_000_000, "step_px": 20.0},
        {"speed": 16.0},
        {"darkness": 1.0, "noise_hz": 20.0},
        {"shutter_us": 0, "exposure": 4.0},
        {"shutter_us": 200_000, "exposure": -8.0},
        {"threshold": (0.01, 0.02), "threshold_spread": 1.0},
        {"layout": "varied"},
        {"layout": "varied", "height": 480, "width": 640},
        {"layout": "varied", "speed": 16.0, "after": True},
    ],
)
def test_a_scene_is_well_formed(change):
    settings = replace(SMALL, **change)
    size = (settings.height, settings.width)
    scene = render_scene(1, 2, settings)
    assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
    assert scene.semantics.shape == size and scene.semantics.dtype == np.uint8
    assert scene.semantics.max() < len(CLASSES) == len(PALETTE)
    assert scene.depth.shape == size and scene.depth.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(scene.depth), scene.semantics == CLASSES.index("sky"))
    assert np.nanmin(scene.depth) >= NEAR
    assert scene.flow.shape == (2, *size) and scene.flow.dtype == np.float32
    assert np.isfinite(scene.flow).mean() > 0.3
    assert scene.image_us - scene.start_us == settings.window_us
    assert len(scene.events) and (scene.events.height, scene.events.width) == size
    assert scene.start_us <= scene.events.t[0] and scene.events.t[-1] < scene.image_us


def test_settings_do_what_they_say():
    still = render_scene(1, 0, replace(SMALL, speed=0.0, noise_hz=0.0))
    assert len(still.events) == 0
    noise = render_scene(1, 0, replace(SMALL, speed=0.0, noise_hz=40.0))
    assert abs(len(noise.events) - 2 * HEIGHT * WIDTH) < 5 * np.sqrt(2 * HEIGHT * WIDTH)

    def pictures(**change):
        return np.stack([render_scene(1, n, replace(SMALL, **change)).image for n in range(3)])

    def detail(images):
        return np.abs(np.diff(images.astype(float), axis=2)).mean()

    normal = pictures()
    assert pictures(exposure=1.0).mean() > normal.mean() + 10 > pictures(exposure=-1.0).mean() + 20
    assert detail(pictures(shutter_us=300_000)) < 0.9 * detail(normal)
    assert detail(pictures(darkness=0.9)) > 1.3 * detail(normal)


def test_scenes_have_the_intended_activity():
    scenes = [render_scene(21, n, StreetSettings(layout="fixed")) for n in range(30)]
    rate = np.mean([len(s.events) for s in scenes]) / (96 * 128)
    cells = []
    for scene in scenes:
        count = np.zeros((12, 16))
        np.add.at(count, (scene.events.y // 8, scene.events.x // 8), 1)
        cells.append((count >= 16).mean())
    assert 0.2 < rate < 0.6
    assert 0.3 < np.mean(cells) < 0.45
    fraction = np.bincount(
        np.concatenate([s.semantics.ravel() for s in scenes]), minlength=len(CLASSES)
    ) / (30 * 96 * 128)
    assert (fraction > 0.005).all() and fraction.max() < 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"height": 481}, {"width": 8}, {"window_us": 0}, {"speed": -1.0}, {"standing": 1.5},
        {"darkness": 2.0}, {"exposure": 99.0}, {"shutter_us": -1}, {"threshold": (0.3, 0.1)},
        {"threshold": (0.0, 0.1)}, {"threshold_spread": -1.0}, {"noise_hz": float("nan")},
        {"step_px": 0.0}, {"layout": "round"},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        StreetSettings(**change)


def test_patterns_are_averages_over_the_footprint():
    rng = np.random.default_rng(0)
    for _ in range(50):
        middle, width = rng.uniform(-5, 5), rng.uniform(0.05, 3.0)
        u = middle + width * (np.arange(20_000) / 20_000 - 0.5 + 0.25e-4)
        fraction = rng.uniform(0.1, 0.9)
        np.testing.assert_allclose(
            pulse(middle, fraction, width), ((u % 1.0) < fraction).mean(), atol=1e-3
        )
        inside = ((u >= -1.0) & (u < 0.7)).mean()
        np.testing.assert_allclose(band(middle, -1.0, 0.7, width), inside, atol=1e-3)
