"""Event activity per token cell and the activation mask (paper eq. 2).

D is the sum of |voxel| over bins and a cell's pixels. The paper's threshold, tau = 64 for 16x16
pixels at 640x480, is 0.25 per pixel; kept as a density per native pixel, it means the same for
every patch size, sensor and scale.
"""

from __future__ import annotations

from functools import lru_cache

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError
from scaleevent.grids.geometry import Fit

TAU = 64.0
REFERENCE_PIXELS = 256  # tau is stated for a 16x16 patch
_cells = lru_cache(maxsize=16)(Fit.cells)  # the same for all samples of a run


def patch_density(voxel: np.ndarray, patch: int = 16, fit: Fit | None = None) -> np.ndarray:
    """Mean of |voxel| summed over bins, per native pixel of each token cell.

    Args:
        voxel: (B, H, W) float32 at native resolution, before any resize or normaliser.
        patch: Side of a token in pixels of the network's input.
        fit: From the sensor to the network's input. None: they are the same grid.

    Returns:
        (h, w) float64. 256 times it is the paper's D for a 16x16 patch.
    """
    height, width = voxel.shape[-2:]
    if fit is None:
        fit = Fit(height, width, height, width)
    if (fit.height, fit.width) != (height, width):
        raise ConfigError(
            "voxel and fit are of different sensors",
            found=f"voxel {height}x{width}, fit {fit.height}x{fit.width}",
        )
    return cell_mean(np.ascontiguousarray(voxel, np.float32), *_cells(fit, patch))


def active_mask(density: np.ndarray, tau: float = TAU) -> np.ndarray:
    """Cells with D >= tau (paper eq. 2); works alike on arrays and tensors.

    Args:
        density: (..., h, w) from `patch_density`.
        tau: Threshold in |voxel| per 16x16 patch.

    Returns:
        (..., h, w) bool.
    """
    return density * REFERENCE_PIXELS >= tau


@nb.njit(nogil=True, cache=True)
def cell_mean(planes, rows, columns):
    """Mean over each cell of the sum of |planes| (B, H, W); empty cells take the nearest pixel."""
    h, w = rows.size - 1, columns.size - 1
    bins, _, width = planes.shape
    mean = np.empty((h, w), np.float64)
    line = np.empty(width, np.float64)
    for i in range(h):
        first, last = _span(rows, i)
        line[:] = 0
        for y in range(first, last):
            for b in range(bins):
                for x in range(width):
                    line[x] += abs(planes[b, y, x])
        for j in range(w):
            left, right = _span(columns, j)
            total = 0.0
            for x in range(left, right):
                total += line[x]
            mean[i, j] = total / ((last - first) * (right - left))  # one rounding: tau is inclusive
    return mean


@nb.njit(nogil=True, cache=True)
def _span(edges, cell):
    first, last = edges[cell], edges[cell + 1]
    if last > first:
        return first, last
    nearest = min(first, edges[-1] - 1)
    return nearest, nearest + 1
