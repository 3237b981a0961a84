"""From images and voxels to network input, against the formulas and other resizers."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from scaleevent.config.catalog import NORMALISERS
from scaleevent.errors import ConfigError
from scaleevent.grids.geometry import Fit
from scaleevent.grids.inputs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    image_input,
    resize_planes,
    voxel_input,
)

MEAN, STD = np.array(IMAGENET_MEAN)[:, None, None], np.array(IMAGENET_STD)[:, None, None]
SAME = Fit(12, 16, 12, 16)


def voxel_of(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("normaliser", "formula"),
    [
        ("minmax", lambda v: (v - v.min()) / (v.max() - v.min())),
        ("symmetric", lambda v: 0.5 + 0.5 * v / np.abs(v).max()),
        ("contrast", lambda v: 0.5 + 0.225 * v / np.sqrt((v[v != 0] ** 2).mean())),
        ("none", lambda v: v),
    ],
)
def test_normalisers_equal_their_formulas(normaliser, formula):
    voxel = voxel_of(0, 3, 12, 16)
    expected = (formula(voxel.astype(np.float64)) - MEAN) / STD
    out = voxel_input(voxel.copy(), SAME, normaliser)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_contrast_does_not_depend_on_scale_empty_pixels_or_a_hot_pixel():
    """Twice the events, a larger picture around them or one hot pixel of many change little."""
    voxel = np.zeros((3, 60, 80), np.float32)
    voxel[:, 20:40] = voxel_of(2, 3, 20, 80)

    def seen(v):
        return voxel_input(v.copy(), Fit(*v.shape[1:], *v.shape[1:]), "contrast") * STD + MEAN

    plain = seen(voxel)
    np.testing.assert_allclose(plain[voxel == 0], 0.5, atol=1e-6)
    np.testing.assert_allclose(seen(3 * voxel), plain, atol=1e-5)
    np.testing.assert_allclose(seen(-voxel), 1 - plain, atol=1e-5)
    around = np.pad(voxel, ((0, 0), (40, 40), (40, 40)))
    np.testing.assert_allclose(seen(around)[:, 40:-40, 40:-40], plain, atol=1e-5)
    hot = voxel.copy()
    hot[0, 0, 0] = 20 * np.abs(voxel).max()
    assert seen(hot)[:, 20:40].std() > 0.2 * plain[:, 20:40].std()
    squeezed = voxel_input(hot, Fit(60, 80, 60, 80), "minmax") * STD
    assert squeezed[:, 20:40].std() < 0.05  # of 0..1
    assert plain[:, 20:40].std() > 0.2


def test_default_spans_zero_to_one_over_the_whole_tensor():
    out = voxel_input(voxel_of(1, 3, 12, 16), SAME) * STD + MEAN
    assert (out.min(), out.max()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("value", [0.0, -2.0, 7.5])
def test_constant_voxel_is_finite(normaliser, value):
    out = voxel_input(np.full((3, 12, 16), value, np.float32), SAME, normaliser)
    assert np.isfinite(out).all()
    if normaliser == "minmax":
        np.testing.assert_allclose(out * STD + MEAN, 0.5, atol=1e-6)


def test_single_event_is_finite_and_visible():
    voxel = np.zeros((3, 12, 16), np.float32)
    voxel[1, 3, 4] = -1
    out = voxel_input(voxel, SAME) * STD + MEAN
    assert out[1, 3, 4] == pytest.approx(0, abs=1e-6)
    assert out[0, 0, 0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("source", "target"), [((26, 34), (48, 64)), ((48, 64), (24, 32)), ((72, 128), (48, 64))]
)
def test_resize_equals_torch(source, target):
    planes = voxel_of(2, 3, *source)
    fit = Fit(*source, *target)
    cropped = torch.from_numpy(np.ascontiguousarray(fit.crop_array(planes)))[None]
    expected = functional.interpolate(
        cropped, target, mode="bilinear", antialias=True, align_corners=False
    )[0].numpy()
    cut = fit.crop[2:] != source
    inner = np.s_[:, 1:-1, 1:-1] if cut else np.s_[:]  # at a cut, ours sees the pixels beyond
    np.testing.assert_allclose(resize_planes(planes, fit)[inner], expected[inner], atol=5e-5)


def test_voxel_is_normalised_after_the_resize():
    voxel = voxel_of(3, 3, 24, 32)
    fit = Fit(24, 32, 12, 16)
    resized = resize_planes(voxel, fit).astype(np.float64)
    expected = ((resized - resized.min()) / np.ptp(resized) - MEAN) / STD
    np.testing.assert_allclose(voxel_input(voxel, fit), expected, atol=2e-5)


def test_image_input_equals_numpy():
    image = np.random.default_rng(4).integers(0, 256, (12, 16, 3), np.uint8)
    before = image.copy()
    out = image_input(image, SAME)
    assert out.dtype == np.float32
    assert out.shape == (3, 12, 16)
    np.testing.assert_allclose(out, (image.transpose(2, 0, 1) / 255 - MEAN) / STD, atol=1e-6)
    np.testing.assert_array_equal(image, before)


def test_image_is_cropped_and_scaled_like_the_voxel():
    image = np.random.default_rng(5).integers(0, 256, (24, 48, 3), np.uint8)
    fit = Fit(24, 48, 12, 16)
    planes = resize_planes(image.transpose(2, 0, 1).astype(np.float32), fit)
    out = image_input(image, fit) * STD + MEAN
    np.testing.assert_allclose(out * 255, planes, atol=1.01)  # 8-bit rounding, twice in the resize


def test_unknown_normaliser_is_named():
    with pytest.raises(ConfigError, match="minmax, symmetric, contrast, none, minmax8"):
        voxel_input(voxel_of(6, 3, 12, 16), SAME, "zscore")


def test_other_bin_counts_are_refused():
    with pytest.raises(ConfigError, match="three bins"):
        voxel_input(np.zeros((5, 4, 4), np.float32), Fit(4, 4, 4, 4))
