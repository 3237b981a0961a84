"""Activity per token cell against recorded numbers of the paper's equation and slow loops."""

import numpy as np
import pytest
from conftest import DATA, random_events

from scaleevent.errors import ConfigError
from scaleevent.grids.density import active_mask, cell_mean, patch_density
from scaleevent.grids.geometry import Fit
from scaleevent.grids.voxels import voxelize


def slow_density(voxel: np.ndarray, patch: int, fit: Fit) -> np.ndarray:
    """Every native pixel to the cell that holds its scaled centre, one at a time."""
    top, left, rows, columns = fit.crop
    shape = fit.target_height // patch, fit.target_width // patch
    total, count = np.zeros(shape), np.zeros(shape)
    for y in range(rows):
        for x in range(columns):
            i = int((y + 0.5) * fit.target_height / rows / patch)
            j = int((x + 0.5) * fit.target_width / columns / patch)
            total[i, j] += np.abs(voxel[:, top + y, left + x].astype(np.float64)).sum()
            count[i, j] += 1
    return total / count


def test_equals_the_papers_equation():
    with np.load(DATA / "activity_mask.npz") as archive:
        recorded = dict(archive)
    density = patch_density(recorded["paper_voxel"].astype(np.float32), 16)
    np.testing.assert_array_equal(density * 256, recorded["paper_density"])
    for tau in (32, 64, 128):
        expected = recorded[f"paper_mask_tau{tau}"].astype(bool)
        np.testing.assert_array_equal(active_mask(density, tau), expected)
    np.testing.assert_array_equal(active_mask(density), recorded["paper_mask_tau64"].astype(bool))


@pytest.mark.parametrize(
    ("height", "width", "target", "patch"),
    [
        (260, 346, (480, 640), 16),
        (48, 128, (48, 64), 8),
        (64, 96, (64, 96), 8),
        (90, 160, (48, 64), 16),
        (20, 26, (48, 64), 16),
    ],
)
def test_equals_a_slow_loop(height, width, target, patch):
    voxel = voxelize(random_events(height * width // 2, height, width, 1_000, seed=0), bins=3)
    fit = Fit(height, width, *target)
    density = patch_density(voxel, patch, fit)
    assert density.dtype == np.float64
    assert density.shape == (target[0] // patch, target[1] // patch)
    np.testing.assert_allclose(density, slow_density(voxel, patch, fit), rtol=1e-6)


def test_without_a_fit_the_grids_are_the_same():
    voxel = np.random.default_rng(1).normal(size=(3, 32, 48)).astype(np.float32)
    expected = np.abs(voxel).reshape(3, 2, 16, 3, 16).sum((0, 2, 4)) / 256
    np.testing.assert_allclose(patch_density(voxel), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 4), (7, 30)])
def test_tiny_sensors_take_the_nearest_pixel(size):
    voxel = 1 + np.arange(np.prod(size), dtype=np.float32).reshape(1, *size)
    fit = Fit(*size, 48, 64)
    top, left, rows, columns = fit.crop
    kept = voxel[0, top : top + rows, left : left + columns]
    density = patch_density(voxel, 8, fit)
    assert density.shape == (6, 8)
    assert kept.min() <= density.min()  # nothing from outside the crop
    assert density.max() <= kept.max()
    centre = np.add.outer((np.arange(6) + 0.5) * rows / 6, np.zeros(8)), (np.arange(8) + 0.5)
    nearest = kept[centre[0].astype(int), (centre[1] * columns / 8).astype(int)]
    assert np.abs(density - nearest).max() <= np.ptp(kept) / max(min(rows, columns) - 1, 1) + 1e-9


@pytest.mark.parametrize(("height", "width"), [(260, 346), (48, 64), (27, 36), (63, 84)])
def test_threshold_is_inclusive_for_every_cell_size(height, width):
    """A quarter event on every pixel is exactly tau = 64, whatever the number of pixels."""
    density = patch_density(
        np.full((1, height, width), 0.25, np.float32), 16, Fit(height, width, 48, 64)
    )
    assert active_mask(density, 64).all()
    assert not active_mask(density, np.nextafter(64, 65)).any()


def test_mask_works_on_tensors():
    torch = pytest.importorskip("torch")
    density = np.array([[0.2, 0.25], [0.3, 0.0]])
    mask = active_mask(torch.from_numpy(density))
    assert mask.dtype == torch.bool
    assert mask.tolist() == active_mask(density).tolist() == [[False, True], [True, False]]


def test_valid_share_of_a_cell():
    valid = np.zeros((1, 8, 8), np.float32)
    valid[0, :, :3] = 1
    fraction = cell_mean(valid, *Fit(8, 8, 8, 8).cells(4))
    assert fraction.tolist() == [[0.75, 0], [0.75, 0]]


def test_voxel_of_another_sensor_is_refused():
    with pytest.raises(ConfigError, match="different sensors"):
        patch_density(np.zeros((3, 8, 8), np.float32), 8, Fit(8, 16, 8, 16))
