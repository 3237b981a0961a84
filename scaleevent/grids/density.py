"""Event activity per token cell and the activation mask (paper eq. 2).

D is the sum of |voxel| over the bins and pixels of a cell. The paper's threshold, tau = 64 for
16x16 pixels at 640x480, is 0.25 per pixel. As a density per native (sensor) pixel it means the same
for every patch size, sensor and scale. That is our reading: on another sensor the printed rule,
which counts pixels of the input, is another one. A 16x16 patch of 640x480 shows 75 pixels of a
DAVIS346: there the rule is 3.4 times looser on voxels that were resized, and 3.4 times stricter on
events that were moved to the larger grid.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError
from scaleevent.grids.geometry import Fit

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")
TAU = 64.0
REFERENCE_PIXELS = 256  # tau is stated for a 16x16 patch
_cells = lru_cache(maxsize=16)(Fit.cells)  # all samples of a run share the same cells


def patch_density(voxel: np.ndarray, patch: int = 16, fit: Fit | None = None) -> np.ndarray:
    """Mean of |voxel| summed over bins, per native pixel of each token cell.

    Args:
        voxel: (B, H, W) float32 at native resolution, before any resize or normaliser.
        patch: Side of a token in pixels of the network's input.
        fit: Crop and scale from the sensor to the network's input. None: both are the same grid.

    Returns:
        (h, w) float64; 0 beyond the sensor. Multiplied by 256 it is the paper's D for a 16x16
        patch.

    Raises:
        ConfigError: `fit` is for another sensor size, or the input is not a multiple of `patch`.

    Example:
        >>> import numpy as np
        >>> from scaleevent import patch_density
        >>> voxel = np.zeros((3, 32, 32), np.float32)
        >>> voxel[0, 0, :16] = 4  # 64 = 16 x 4 in the cell at the top left
        >>> patch_density(voxel, patch=16)
        array([[0.25, 0.  ],
               [0.  , 0.  ]])
    """
    height, width = voxel.shape[-2:]
    if fit is None:
        fit = Fit(height, width, height, width)
    if (fit.height, fit.width) != (height, width):
        raise ConfigError(
            "voxel and fit are for different sensors",
            found=f"voxel {height}x{width}, fit {fit.height}x{fit.width}",
        )
    rows, columns = _cells(fit, patch)
    mean = cell_mean(np.ascontiguousarray(voxel, np.float32), rows, columns)
    return mean * (fit.shown(patch) > 0) if fit.pads else mean


def active_mask(density: Array, tau: float = TAU) -> Array:
    """Cells with D >= tau (paper eq. 2); takes arrays and tensors.

    Args:
        density: (..., h, w) from `patch_density`.
        tau: Activity threshold: |voxel| per 16x16 patch.

    Returns:
        (..., h, w) bool.

    Example:
        >>> import numpy as np
        >>> from scaleevent import active_mask
        >>> active_mask(np.array([[0.25, 0.1]]), tau=64.0)
        array([[ True, False]])
    """
    return density * REFERENCE_PIXELS >= tau


@nb.njit(nogil=True, cache=True)
def cell_mean(planes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(h, w) float64: mean over each cell of |planes| (B, H, W) summed over B.

    `rows` and `columns` are the edges of `Fit.cells`; empty cells take the nearest pixel.
    """
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
            mean[i, j] = total / ((last - first) * (right - left))  # rounds once, for D >= tau
    return mean


@nb.njit(nogil=True, cache=True)
def _span(edges: np.ndarray, cell: int) -> tuple[int, int]:
    """First pixel of a cell and the one after its last; at least one pixel."""
    first, last = edges[cell], edges[cell + 1]
    if last > first:
        return first, last
    nearest = min(first, edges[-1] - 1)
    return nearest, nearest + 1
