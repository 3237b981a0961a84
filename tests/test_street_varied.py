"""The layout `varied`: its cameras, ground and motion against independent formulas; its scenes."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from scaleevent.datasets.street import Settings, sources
from scaleevent.grids.density import active_mask, patch_density
from scaleevent.grids.voxels import voxelize
from scaleevent.grids.windows import Window
from scaleevent.objectives.probing import place_probe
from scaleevent.street.camera import Lens, Pose, camera_axes, pixel_rays, to_camera
from scaleevent.street.ground import ground_height, open_lot, paved, road_edge
from scaleevent.street.layout import draw_world
from scaleevent.street.rays import BOX, FAR, NEAR, SKY, cast
from scaleevent.street.render import labels_and_flow
from scaleevent.street.scene import CLASSES, DEFAULT_LAYOUT, StreetSettings, render_scene
from scaleevent.street.surfaces import PAVING, PLAIN, TOP, solid_albedo
from scaleevent.street.views import CLEARANCE, MOUNTS, distances

HEIGHT, WIDTH = 48, 64
SMALL = StreetSettings(height=HEIGHT, width=WIDTH, layout="varied")
LABELS = tuple(CLASSES.index(name) for name in ("sky", "road", "vegetation", "sidewalk"))


def world_of(number, family=5):
    """A world without ragged leaves, whose outlines no closed formula knows."""
    rng = np.random.default_rng([family, number])
    world = draw_world(rng, 1.0, 0.0, 0.0, "varied")
    solids = world.solids.copy()
    solids["material"] = PLAIN
    lens = Lens(world.focal * WIDTH, 0.5 * WIDTH, 0.5 * HEIGHT)
    return replace(world, solids=solids), lens


def about(axis, angle):
    """Right-handed rotation about an axis of a right-handed frame."""
    cos, sin = math.cos(angle), math.sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = cos, -sin, sin, cos
    return matrix


def rotation(pose):
    """Camera (right, down, forward) to world (x, up, z), from three elementary rotations.

    In (right, down, forward), a right-handed frame, the roll is a right-handed turn about forward,
    the yaw one about down, and looking down a left-handed one about right.
    """
    turned = about(1, pose.yaw) @ about(0, -pose.pitch) @ about(2, pose.roll)
    return np.diag([1.0, -1.0, 1.0]) @ turned


def rays(pose, lens, height=HEIGHT, width=WIDTH):
    row, column = np.mgrid[0:height, 0:width] + 0.5
    camera = ((column - lens.centre_x) / lens.focal, (row - lens.centre_y) / lens.focal)
    return np.stack((*camera, np.ones((height, width))), -1) @ rotation(pose).T


# The camera


def test_rays_turn_with_the_camera_as_documented():
    lens = Lens(40.0, 31.0, 25.5)
    rng = np.random.default_rng(0)
    for _ in range(20):
        pose = Pose(1.0, 2.0, 3.0, *rng.uniform(-1.5, 1.5, 3))
        np.testing.assert_allclose(
            pixel_rays(pose, lens, HEIGHT, WIDTH), rays(pose, lens), atol=1e-12
        )
        vector = rng.normal(size=3)
        back = to_camera(camera_axes(pose), *vector)
        np.testing.assert_allclose(rotation(pose) @ back, vector, atol=1e-12)


def test_signs_of_the_angles():
    level = Pose(0.0, 1.5, 0.0, 0.0)
    lens = Lens(40.0, 0.5, 0.5)  # pixel (0, 0) is the optical axis, (0, 1) is to its right

    def ray(column, **angles):
        return pixel_rays(level._replace(**angles), lens, 1, 2)[0, column]

    np.testing.assert_allclose(ray(0), (0, 0, 1), atol=1e-15)
    assert ray(0, yaw=0.3)[0] > 0.2  # right
    assert ray(0, pitch=0.3)[1] < -0.2  # down
    assert ray(1, roll=0.3)[1] < -1e-3  # the right side sinks
    assert ray(1, roll=0.3)[0] > 0.0


# Depth and classes


def matrix_of(solid):
    """World to the axes of a solid: turned about the vertical, then sheared along it."""
    cos, sin = solid["cos"], solid["sin"]
    return np.array(
        [[cos, 0.0, -sin], [-solid["slope_x"], 1.0, -solid["slope_z"]], [sin, 0.0, cos]]
    )


def meeting(solid, eye, direction):
    """Depth where a ray enters one solid; boxes by half-spaces of the world; inf for none."""
    matrix = matrix_of(solid)
    half = np.array([solid["half_x"], solid["half_y"], solid["half_z"]])
    o = eye - np.array([solid["x"], solid["y"], solid["z"]])
    if solid["shape"] != BOX:
        form = matrix.T @ np.diag(half**-2.0) @ matrix
        a, b, c = direction @ form @ direction, 2 * o @ form @ direction, o @ form @ o - 1
        roots = np.roots([a, b, c])
        roots = roots[np.isreal(roots)].real
        return roots.min() if len(roots) and roots.min() > NEAR else np.inf
    planes = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            normal = sign * np.eye(3)[axis]
            normal += (axis != 1) * np.array(
                [0.0, solid["taper_x"] if axis == 0 else solid["taper_z"], 0.0]
            )
            planes.append((matrix.T @ normal, half[axis]))
    best = np.inf
    for normal, limit in planes:
        if normal @ direction >= 0:
            continue
        depth = (limit - normal @ o) / (normal @ direction)
        point = o + depth * direction
        if NEAR < depth < best and all(n @ point <= b + 1e-9 for n, b in planes):
            best = depth
    return best


def walk(ground, eye, direction, limit):
    """Depth and class where a ray first falls below the ground, in steps of 2 mm, then halves."""

    def below(depth):
        x, y, z = eye + depth * direction
        raised = ground.kerb if road_edge(ground, x, z) >= 0 else 0.0
        return y <= ground_height(ground, x, z) + raised

    slope = ground.slope_x * direction[0] + ground.slope_z * direction[2] - direction[1]
    above = eye[1] - ground_height(ground, eye[0], eye[2])
    if slope <= 0 or above / slope > limit:
        return np.inf, "sky"
    depth = max((above - ground.kerb) / slope - 1e-6, 0.0)
    step = 2e-3 / np.linalg.norm(direction)
    while not below(depth):
        depth += step
    low, high = max(depth - step, 0.0), depth
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if below(middle) else (middle, high)
    x, y, z = eye + high * direction
    height = y - ground_height(ground, x, z)
    if height < 1e-6 * high + 1e-9:
        return high, "road"
    kerb = height < ground.kerb - 1e-6 * high - 1e-9
    return high, "sidewalk" if kerb or paved(ground, x, z) else "vegetation"


@pytest.mark.parametrize("number", range(6))
def test_depth_and_class_of_rays(number):
    world, lens = world_of(number)
    hits = cast(world.solids, world.ground, world.pose, lens, 0.0, HEIGHT, WIDTH)
    labels, _ = labels_and_flow(
        world.solids, world.ground, world.pose, world.pose, lens, 0.05, LABELS, hits
    )
    eye, directions = np.array(world.pose[:3]), rays(world.pose, lens)
    rng = np.random.default_rng(number)
    for row, column in zip(rng.integers(0, HEIGHT, 40), rng.integers(0, WIDTH, 40), strict=True):
        direction = directions[row, column]
        depths = [meeting(solid, eye, direction) for solid in world.solids]
        nearest = int(np.argmin(depths))
        ground, kind = walk(world.ground, eye, direction, FAR)
        if depths[nearest] < ground:
            expected, kind = depths[nearest], CLASSES[world.solids[nearest]["label"]]
            np.testing.assert_allclose(hits.depth[row, column], expected, rtol=1e-9)
        elif kind != "sky":  # a kerb is met to a tenth of a millimetre of its outline
            np.testing.assert_allclose(hits.depth[row, column], ground, rtol=1e-3, atol=1e-3)
        else:
            assert hits.surface[row, column] == SKY and hits.depth[row, column] == np.inf
        near_edge = np.isfinite(ground) and depths[nearest] >= ground
        point = eye + min(ground, 1e3) * direction
        if near_edge and abs(road_edge(world.ground, point[0], point[2])) < 0.01:
            continue  # which side of the line a pixel is on is decided within a millimetre
        assert CLASSES[labels[row, column]] == kind


def test_raised_ground_and_kerbs_are_seen():
    kinds = Counter()
    for number in range(30):
        world, lens = world_of(number)
        hits = cast(world.solids, world.ground, world.pose, lens, 0.0, HEIGHT, WIDTH)
        kinds.update(np.unique(hits.surface[hits.surface < 0], return_counts=False).tolist())
    assert set(kinds) == {-1, -2, -3, -4} and kinds[-4] > 10


# Motion


@pytest.mark.parametrize("number", range(5))
def test_flow_is_the_reprojection_of_every_point(number):
    """Where the flow leads, a later ray finds the same point, or one that has come before it."""
    world, lens = world_of(number, family=6)
    seconds = 0.05
    world = replace(world, turning=(0.3, -0.25, 0.2), velocity=(1.0, -0.4, 2.0))
    later = world.camera(seconds)
    hits = cast(world.solids, world.ground, world.pose, lens, 0.0, HEIGHT, WIDTH)
    _, flow = labels_and_flow(
        world.solids, world.ground, world.pose, later, lens, seconds, LABELS, hits
    )
    eye, directions = np.array(world.pose[:3]), rays(world.pose, lens)
    same = []
    for row in range(0, HEIGHT, 5):
        for column in range(0, WIDTH, 5):
            number, sky = hits.surface[row, column], hits.surface[row, column] == SKY
            point = directions[row, column] if sky else hits.depth[row, column] * directions[
                row, column
            ] + eye - np.array(later[:3])  # fmt: skip
            if number >= 0:
                solid = world.solids[number]
                point += seconds * np.array([solid[f"speed_{axis}"] for axis in "xyz"])
            right, down, forward = rotation(later).T @ point
            if forward < NEAR:
                assert np.isnan(flow[:, row, column]).all()
                continue
            at = lens.focal / forward * np.array([right, down]) + (lens.centre_x, lens.centre_y)
            expected = at - (column + 0.5, row + 0.5)
            np.testing.assert_allclose(flow[:, row, column], expected, atol=2e-3, rtol=1e-5)
            if not sky:
                moved = lens._replace(centre_x=lens.centre_x - at[0] + 0.5,
                                      centre_y=lens.centre_y - at[1] + 0.5)  # fmt: skip
                seen = cast(world.solids, world.ground, later, moved, seconds, 1, 1).depth[0, 0]
                if number != -4:  # a point of a kerb may just be missed
                    assert seen < forward + 1e-3 * forward
                same.append(abs(seen - forward) < 1e-3 * forward)
    assert len(same) > 25 and np.mean(same) > 0.9


def test_flow_of_a_moment_is_the_derivative_of_the_projection():
    """Image velocity from the rigid-motion formula: flow over a tiny time, divided by it."""
    world, lens = world_of(1, family=6)
    world = replace(world, turning=(0.3, -0.25, 0.2), velocity=(1.0, -0.4, 2.0))
    hits = cast(world.solids, world.ground, world.pose, lens, 0.0, HEIGHT, WIDTH)
    tiny = 1e-3
    _, flow = labels_and_flow(
        world.solids, world.ground, world.pose, world.camera(tiny), lens, tiny, LABELS, hits
    )
    h = 1e-6
    still = hits.surface < 0
    depth = np.where(np.isfinite(hits.depth), hits.depth, 1.0)[..., None]
    points = np.array(world.pose[:3]) + depth * rays(world.pose, lens)

    def projected(t):
        pose = world.camera(t)
        seen = (points - np.array(pose[:3])) @ rotation(pose)
        return lens.focal * seen[..., :2] / seen[..., 2:]

    derivative = (projected(h) - projected(-h)) / (2 * h)
    known = still & (hits.surface != SKY)
    assert known.sum() > 200
    got = flow.transpose(1, 2, 0)[known] / tiny
    error = np.abs(got - derivative[known])
    assert (error < 0.02 * np.abs(derivative[known]) + 0.5).all()


def test_flow_of_the_sky_is_the_turn_alone():
    world, lens = world_of(4)
    up = world.pose._replace(pitch=-0.6, roll=0.4)
    hits = cast(world.solids, world.ground, up, lens, 0.0, HEIGHT, WIDTH)
    turned = up._replace(x=up.x + 2.0, yaw=up.yaw + 0.02, pitch=-0.57, roll=0.37)
    _, flow = labels_and_flow(world.solids, world.ground, up, turned, lens, 0.1, LABELS, hits)
    seen = rays(up, lens) @ rotation(turned)
    row, column = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    expected = lens.focal * seen[..., :2] / seen[..., 2:] - np.stack(
        (column - lens.centre_x, row - lens.centre_y), -1
    )
    sky = hits.surface == SKY
    assert sky.sum() > 200
    np.testing.assert_allclose(flow.transpose(1, 2, 0)[sky], expected[sky], atol=1e-4)


# Scenes


def test_cameras_stand_clear_and_things_stand_on_the_ground():
    mounts = Counter()
    limits = {mount.name: mount.height for mount in MOUNTS}
    for number in range(120):
        world, _ = world_of(number, family=7)
        pose, solids, ground = world.pose, world.solids, world.ground
        assert distances(solids, pose.x, pose.y, pose.z).min() >= CLEARANCE
        low, high = limits[world.mount]
        assert low - 1e-9 <= pose.y <= high + 1e-9
        assert abs(ground_height(ground, pose.x, pose.z)) < 1e-9
        mounts[world.mount] += 1
        foot = [ground_height(ground, s["x"], s["z"]) for s in solids]
        lowest = solids["y"] - solids["half_y"] - foot
        of_cars = solids["label"] == CLASSES.index("car")
        assert (np.abs(lowest[of_cars]) < 1.4).all()  # roofs are no higher
        for wheel in np.nonzero(of_cars & (solids["shape"] != BOX))[0]:
            raised = road_edge(ground, solids["x"][wheel], solids["z"][wheel]) >= 0.0
            assert abs(lowest[wheel] - ground.kerb * raised) < 1e-6
        houses = (solids["label"] == CLASSES.index("building")) & (solids["taper_x"] == 0.0)
        assert (lowest[houses] < 0.0).all()
    assert set(mounts) == {mount.name for mount in MOUNTS} and min(mounts.values()) > 10


def test_houses_keep_off_the_roads():
    for number in range(20):
        world, _ = world_of(number, family=8)
        building = world.solids["label"] == CLASSES.index("building")
        ends = np.abs(world.solids["half_z"]) > 25.0  # those that close the road
        for s in world.solids[building & ~ends & (world.solids["taper_x"] == 0.0)]:
            heading = math.atan2(s["sin"], s["cos"])
            assert open_lot(world.ground, s["x"], s["z"], heading, s["half_x"], s["half_z"])


@pytest.mark.parametrize("layout", ["fixed", "varied"])
def test_a_scene_says_where_it_was_seen_from(layout):
    scene = render_scene(3, 7, replace(SMALL, layout=layout))
    again = render_scene(3, 7, replace(SMALL, layout=layout))
    np.testing.assert_array_equal(scene.image, again.image)
    assert scene.pose == again.pose and scene.mount == again.mount
    eye = np.array(scene.pose[:3])
    point = eye + scene.depth[..., None] * pixel_rays(scene.pose, scene.lens, HEIGHT, WIDTH)
    road = scene.semantics == CLASSES.index("road")
    assert road.any()
    x, y, z = point[road].T
    design = np.stack((x, z, np.ones_like(x)), 1)  # the road is one plane
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    assert np.abs(residual).max() < 1e-3
    assert (scene.mount == "car" and scene.pose.pitch == scene.pose.roll == 0.0) or (
        layout == "varied"
    )


def test_the_layout_is_asked_for_by_name_and_told_of_each_pair():
    assert StreetSettings().layout == DEFAULT_LAYOUT
    assert Settings(name="street").layout == DEFAULT_LAYOUT
    for layout in ("fixed", "varied"):
        settings = Settings(name="street", layout=layout, scenes=2, size="48x64", seed=4)
        (shard,) = sources(settings)
        for number, pair in enumerate(shard.pairs(Counter())):
            scene = render_scene(4, number, replace(SMALL, layout=layout))
            np.testing.assert_array_equal(pair.labels["depth"].values, scene.depth)
            np.testing.assert_array_equal(pair.events.x, scene.events.x)
            assert pair.provenance["layout"] == layout
            assert pair.provenance["mount"] == scene.mount


def test_scenes_are_lively_and_show_every_class():
    settings = replace(SMALL, height=96, width=128)
    scenes = [render_scene(21, n, settings) for n in range(80)]
    rate = np.mean([len(s.events) for s in scenes]) / (96 * 128)
    windows = [voxelize(s.events, Window(s.start_us, s.image_us)) for s in scenes]
    active = np.array([active_mask(patch_density(voxel, 8)).mean() for voxel in windows])
    assert 0.3 < rate < 0.55
    assert (active < 0.05).mean() < 0.15
    labels = np.concatenate([s.semantics.ravel() for s in scenes])
    share = np.bincount(labels, minlength=len(CLASSES)) / labels.size
    assert share.min() > 0.025 and share.max() < 0.4


def test_place_says_little_of_a_varied_scene():
    scores = {}
    for layout in ("fixed", "varied"):
        settings = replace(SMALL, layout=layout, noise_hz=0.0)
        labels = np.stack([render_scene(22, n, settings).semantics for n in range(150)])
        train, test = torch.from_numpy(labels[:105]), torch.from_numpy(labels[105:])
        scores[layout] = np.nanmean(place_probe(train, test, (6, 8), len(CLASSES)))
    assert scores["fixed"] > 0.2 > 0.12 > scores["varied"]


def test_no_surface_reflects_less_than_nothing():
    """Where two joints between paving slabs cross in a dark spot, two darkenings came together."""
    least = 1.0
    for seed in range(40):
        for u in np.arange(-2.0, 2.0, 0.01):
            (red, _, _), _ = solid_albedo(
                PAVING, (0.3, 0.3, 0.3), seed, 0.12, 50.0, TOP, u, 0.018, 1e-3, 1e-3, 0.0
            )
            least = min(least, red)
    assert 0.0 <= least < 0.05


@pytest.mark.slow
def test_a_thousand_scenes_are_finite():
    settings = replace(SMALL, height=24, width=32)
    for number in range(1000):
        scene = render_scene(31, number, settings)  # not finite in a frame: refused by the camera
        sky = scene.semantics == CLASSES.index("sky")
        np.testing.assert_array_equal(np.isfinite(scene.depth), ~sky)
        assert scene.image.std() > 0.0
        assert np.isfinite(scene.flow).mean() > 0.5
