"""Crop and scale for the sensors in use, token cells by brute force, and warps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleevent.errors import ConfigError, DataError
from scaleevent.grids.geometry import Fit, homography_map, pixel_grid, warp_image


@pytest.mark.parametrize(
    ("height", "width", "crop"),
    [
        (480, 640, (0, 0, 480, 640)),
        (260, 346, (0, 0, 260, 346)),  # 0.2 % off the aspect ratio: stretched
        (720, 1280, (0, 160, 720, 960)),
        (1280, 1920, (0, 106, 1280, 1707)),
        (1024, 2048, (0, 341, 1024, 1365)),
        (375, 1242, (0, 371, 375, 500)),
        (240, 304, (6, 0, 228, 304)),
        (440, 640, (0, 26, 440, 587)),
    ],
)
def test_crop_to_vga(height, width, crop):
    fit = Fit(height, width, 480, 640)
    assert fit.crop == crop
    down, across = fit.scale
    assert abs(down / across - 1) <= 0.01
    assert down * crop[2] == pytest.approx(480)
    assert across * crop[3] == pytest.approx(640)
    assert fit.identity == ((height, width) == (480, 640))


def test_crop_array_is_a_view():
    array = np.arange(3 * 6 * 10).reshape(3, 6, 10)
    kept = Fit(6, 10, 4, 4).crop_array(array)
    np.testing.assert_array_equal(kept, array[:, :, 2:8])
    assert np.shares_memory(kept, array)


@given(
    st.integers(1, 80), st.integers(1, 80), st.integers(1, 5), st.integers(1, 5),
    st.sampled_from([2, 7, 8, 16]),
)  # fmt: skip
def test_cells_hold_the_pixels_whose_centres_fall_in_them(height, width, h, w, patch):
    fit = Fit(height, width, h * patch, w * patch)
    top, left, kept_rows, kept_columns = fit.crop
    for edges, first, length, cells in zip(
        fit.cells(patch), (top, left), (kept_rows, kept_columns), (h, w), strict=True
    ):
        assert len(edges) == cells + 1
        assert (edges[0], edges[-1]) == (first, first + length)  # all cropped pixels, once each
        assert np.all(np.diff(edges) >= 0)
        for pixel in range(length):
            # (pixel + 1/2) cells / length, its integer part by exact arithmetic
            cell = (2 * pixel + 1) * cells // (2 * length)
            assert edges[cell] <= first + pixel < edges[cell + 1]


def test_cells_of_a_davis():
    rows, columns = Fit(260, 346, 480, 640).cells(16)
    centres = (np.arange(346) + 0.5) * 640 / 346
    np.testing.assert_array_equal(
        np.searchsorted(columns, np.arange(346), "right") - 1, centres // 16
    )
    assert (len(rows), len(columns)) == (31, 41)


def test_size_must_be_a_multiple_of_the_patch():
    with pytest.raises(ConfigError, match="multiple of the patch"):
        Fit(480, 640, 480, 640).cells(14)


# Warps


def test_identity_warp_returns_the_image():
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    warped, valid = warp_image(image, pixel_grid(7, 9))
    np.testing.assert_array_equal(warped, image)
    assert valid.all()


def test_warp_of_a_plane_is_exact_between_pixels():
    x, y = np.meshgrid(np.arange(20), np.arange(10))
    image = (3 * x + 10 * y).astype(np.uint8)
    source = pixel_grid(10, 20) + [0.4, -1.3]
    warped, valid = warp_image(image, source)
    inside = (source[..., 0] <= 19) & (source[..., 1] >= 0)
    np.testing.assert_array_equal(valid, inside)
    expected = 3 * source[..., 0] + 10 * source[..., 1]
    np.testing.assert_array_equal(warped[valid], np.rint(expected[valid]))
    assert not warped[~valid].any()


def test_warp_leaves_out_what_has_no_source():
    source = np.full((2, 2, 2), np.nan)
    source[0, 0] = 0
    warped, valid = warp_image(np.full((1, 1), 9, np.uint8), source)
    assert valid.tolist() == [[True, False], [False, False]]
    assert warped.tolist() == [[9, 0], [0, 0]]


def test_homography_map():
    matrix = [[2, 0, 3], [0, 2, -1], [0, 0.5, 1]]
    points = np.array([[1.0, 2.0], [0.0, 0.0], [5.0, -2.0], [5.0, -4.0]])
    mapped = homography_map(matrix, points)
    np.testing.assert_allclose(mapped[:2], [[5 / 2, 3 / 2], [3, -1]])
    assert np.isnan(mapped[2:]).all()  # on and behind the horizon


@pytest.mark.parametrize(
    "matrix", [np.eye(2), np.zeros((3, 3)), np.full((3, 3), np.nan), np.ones((3, 3))]
)
def test_matrix_that_maps_no_plane_is_refused(matrix):
    with pytest.raises(DataError, match="not a homography"):
        homography_map(matrix, np.zeros((1, 2)))
