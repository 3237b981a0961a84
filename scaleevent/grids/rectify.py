"""Voxels on another grid than the sensor's: each event is divided among the four nearest pixels.

For undistorted views (DSEC's rectify_map) and for other resolutions. Every event has a total weight
of one; the weight that falls outside the new grid is returned. The activity of a patch is still
measured on the sensor's own pixels (`density.patch_density` of `voxels.voxelize`).
"""

from __future__ import annotations

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError
from scaleevent.events import Events
from scaleevent.grids.windows import Window


def scaling_map(height: int, width: int, to_height: int, to_width: int) -> np.ndarray:
    """(H, W, 2) float32 x, y: positions of a sensor's pixels on a grid of another size.

    Pixel centres are at whole numbers, and the outer edges of both grids coincide. Positions are
    clipped to the outermost centres, so that no event is lost.
    """
    x = np.clip((np.arange(width) + 0.5) * (to_width / width) - 0.5, 0, to_width - 1)
    y = np.clip((np.arange(height) + 0.5) * (to_height / height) - 0.5, 0, to_height - 1)
    return np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32)


def voxelize_mapped(
    events: Events,
    places: np.ndarray,
    window: Window,
    bins: int = 3,
    size: tuple[int, int] | None = None,
) -> tuple[np.ndarray, float]:
    """Voxel grid of the events inside a window, at the positions that a map gives their pixels.

    Bilinear in time like `voxels.voxelize`, and bilinear in space with weights that sum to one.

    Args:
        events: K events on an H x W sensor.
        places: (H, W, 2) float32, x and y on the new grid of every sensor pixel, such as DSEC's
            rectify_map. Events of pixels whose position is not finite are left out.
        window: Half-open time span that the bins cover.
        bins: B, at least 1.
        size: (H', W') of the new grid; None: the sensor's.

    Returns:
        (B, H', W') float32, summed in float64, and the weight of events that fell outside the grid
        (one per event, with fractions).

    Raises:
        ConfigError: A map for another sensor, or no bins.
    """
    if places.shape != (events.height, events.width, 2):
        raise ConfigError(
            "the map is for another sensor",
            found=f"map {places.shape}",
            expected=f"({events.height}, {events.width}, 2)",
        )
    if bins < 1:
        raise ConfigError("a voxel grid needs at least one bin", where="bins", found=bins)
    inside = events.between(window.start_us, window.end_us)
    height, width = size or (events.height, events.width)
    grid = np.zeros((bins, height, width))
    span = max(window.end_us - window.start_us, 1)
    bins_per_us = (bins - 1) / span
    kept = _scatter(
        inside.t, inside.x, inside.y, inside.p, window.start_us, bins_per_us,
        np.ascontiguousarray(places, np.float32), grid,
    )  # fmt: skip
    return grid.astype(np.float32), len(inside) - kept


@nb.njit(nogil=True, cache=True)
def _scatter(
    t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray,
    start: int, bins_per_us: float, places: np.ndarray, grid: np.ndarray,
) -> float:  # fmt: skip
    """Add the events to the grid; returns the weight that fell inside."""
    bins, height, width = grid.shape
    kept = 0.0
    for k in range(t.size):
        column, row = np.float64(places[y[k], x[k], 0]), np.float64(places[y[k], x[k], 1])
        if not (-1 < column < width and -1 < row < height):
            continue
        left, top = np.int64(np.floor(column)), np.int64(np.floor(row))
        right, below = column - left, row - top
        time = (t[k] - start) * bins_per_us
        low = min(np.int64(time), bins - 1)
        later = time - low if low + 1 < bins else 0.0
        sign = 1.0 if p[k] else -1.0
        for i in range(2):
            if not 0 <= top + i < height:
                continue
            for j in range(2):
                if not 0 <= left + j < width:
                    continue
                weight = (below if i else 1 - below) * (right if j else 1 - right)
                kept += weight
                grid[low, top + i, left + j] += sign * weight * (1 - later)
                if later > 0:
                    grid[low + 1, top + i, left + j] += sign * weight * later
    return kept
