"""What the embedded teacher learns from: level geometry, whatever way the camera is turned."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scaleevent.street.camera import Lens, Pose, pixel_rays

sys.path.append(str(Path(__file__).parents[1] / "examples"))

import train_teacher as course

HEIGHT, WIDTH = 48, 64
LENS = Lens(50.0, 0.5 * WIDTH, 0.5 * HEIGHT)


def seen(pose, slope=(0.0, 0.0), box=None):
    """Depth of sloping ground, and of an upright screen (left, right, top) 6 m ahead."""
    rays = pixel_rays(pose, LENS, HEIGHT, WIDTH)
    x, y, z = np.moveaxis(rays, 2, 0)
    sinks = slope[0] * x + slope[1] * z - y
    with np.errstate(divide="ignore"):
        depth = np.where(sinks > 0.01, pose.y / sinks, np.nan)
    if box is not None:
        at = 6.0 / z
        left, right, top = box
        hit = (left < at * x) & (at * x < right) & (pose.y + at * y < top) & (z > 0)
        depth = np.where(hit & ~(depth < at), at, depth)
    return SimpleNamespace(depth=depth.astype(np.float32), pose=pose, lens=LENS)


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.05, -0.03)])
@pytest.mark.parametrize("roll", [0.0, 0.3, -0.5])
def test_ground_is_level_for_a_turned_camera(roll, slope):
    scene = seen(Pose(0.0, 2.5, 0.0, 0.0, 0.5, roll), slope)
    maps = course.geometry(scene).astype(np.float64)
    near = scene.depth < 20
    assert near.mean() > 0.5
    above = np.exp(2.0 * maps[1] - 0.2) - 0.06
    assert np.abs(above[near]).max() < 0.06
    assert np.abs(maps[5][near] + 1).max() < 0.01  # into the ground
    assert np.abs(maps[7][near]).max() < 0.01
    assert np.isfinite(maps).all()


@pytest.mark.parametrize("roll", [0.0, 0.4])
def test_an_object_has_its_metric_size(roll):
    pose = Pose(0.0, 1.6, 0.0, 0.0, 0.1, roll)
    scene = seen(pose, box=(-0.4, 0.5, 1.8))
    maps = course.geometry(scene).astype(np.float64)
    rays = pixel_rays(pose, LENS, HEIGHT, WIDTH)
    at = 6.0 / rays[..., 2]
    there = np.isclose(scene.depth, at, rtol=1e-4) & (1.6 + at * rays[..., 1] > 0.3)
    wide, top = np.exp(1.5 * maps[2] + 1.6)[there], np.exp(1.7 * maps[3] + 0.5)[there] - 0.06
    assert there.sum() > 50
    assert np.abs(wide - 0.9).max() < 0.25 and np.abs(top - 1.8).max() < 0.2
    assert np.exp(1.5 * maps[2] + 1.6)[~there & (scene.depth < 4)].min() > 1.5  # the ground


def views(scenes=20):
    """A few small images with random maps."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (scenes, HEIGHT, WIDTH, 3), np.uint8))
    shapes = torch.from_numpy(rng.normal(size=(scenes, 8, HEIGHT, WIDTH)).astype(np.float16))
    return course.Views(images, shapes, torch.zeros(scenes, HEIGHT, WIDTH, dtype=torch.uint8))


def weights(taught, supervised=False, steps=2):
    """Of an encoder after a few steps on views."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    lesson = course.prepare(taught, 8, supervised, generator)
    encoder, losses = course.train(taught.images, lesson, steps, supervised, generator)
    assert np.isfinite(losses).all()
    return encoder.vit.state_dict()


def test_classes_are_never_read_unless_asked_for():
    taught = views()
    first, again = weights(taught), weights(taught._replace(semantics=None))
    assert all(torch.equal(first[name], one) for name, one in again.items())
    with pytest.raises(TypeError):
        weights(taught._replace(semantics=None), supervised=True)
    other = weights(taught, supervised=True)
    assert not all(torch.equal(first[name], one) for name, one in other.items())


def test_a_mirrored_view_is_a_view_of_the_mirrored_world():
    pose = Pose(0.0, 1.6, 0.0, 0.0, 0.1, 0.0)
    here, there = (course.geometry(seen(pose, box=b)) for b in ((-2, -1, 2), (1, 2, 2)))
    turned = here[:, :, ::-1].copy()
    turned[course.RIGHTWARD] *= -1
    assert np.abs(turned.astype(float) - there.astype(float)).max() < 0.03
