"""`Fit`: one crop and scale from the sensor to the network's input, for events, images and labels.

Also the plane-to-plane warp that maps the picture of a separate frame camera into the view of the
event camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError, DataError

STRETCH = 0.01  # default of `Fit.stretch`; causes no visible distortion


@dataclass(frozen=True)
class Fit:
    """A centred crop of the sensor, scaled to the target.

    Args:
        height: Sensor rows.
        width: Sensor columns.
        target_height: Rows of the network's input.
        target_width: Columns of the network's input.
        stretch: Relative difference of aspect ratios up to which the whole sensor is scaled
            without a crop.
    """

    height: int
    width: int
    target_height: int
    target_width: int
    stretch: float = STRETCH

    @property
    def crop(self) -> tuple[int, int, int, int]:
        """(top, left, rows, columns) of the part of the sensor that is kept."""
        down, across = self.target_height / self.height, self.target_width / self.width
        if abs(down / across - 1) <= self.stretch:
            return 0, 0, self.height, self.width
        scale = max(down, across)
        rows = min(self.height, round(self.target_height / scale))
        columns = min(self.width, round(self.target_width / scale))
        return (self.height - rows) // 2, (self.width - columns) // 2, rows, columns

    @property
    def scale(self) -> tuple[float, float]:
        """Target pixels per sensor pixel, down and across; optical flow scales by the same."""
        _, _, rows, columns = self.crop
        return self.target_height / rows, self.target_width / columns

    @property
    def identity(self) -> bool:
        """Whether sensor and target are the same grid."""
        return (self.height, self.width) == (self.target_height, self.target_width)

    def cells(self, patch: int) -> tuple[np.ndarray, np.ndarray]:
        """Token cells in native pixels; a pixel belongs to the cell that contains its centre.

        Args:
            patch: Side of a token in target pixels.

        Returns:
            Row edges (h+1,) and column edges (w+1,), int64: token (i, j) covers the native pixels
            rows[i] <= y < rows[i+1], columns[j] <= x < columns[j+1].
        """
        if self.target_height % patch or self.target_width % patch:
            raise ConfigError(
                "the input size is not a multiple of the patch",
                found=f"{self.target_height}x{self.target_width} and patch {patch}",
            )
        top, left, rows, columns = self.crop
        return (
            _edges(top, rows, self.target_height, patch),
            _edges(left, columns, self.target_width, patch),
        )

    def crop_array(self, array: np.ndarray) -> np.ndarray:
        """The kept part of a (..., height, width) array, as a view."""
        top, left, rows, columns = self.crop
        return array[..., top : top + rows, left : left + columns]

    def crop_picture(self, picture: np.ndarray) -> np.ndarray:
        """The kept part of a (height, width, C) picture, as a view."""
        return self.crop_array(picture.transpose(2, 0, 1)).transpose(1, 2, 0)


def _edges(first: int, length: int, target: int, patch: int) -> np.ndarray:
    """First native index whose centre, scaled to the target, lies in or beyond each cell."""
    # (i + 1/2) * target / length >= cell * patch, solved for i in integers
    cells = np.arange(target // patch + 1, dtype=np.int64)
    edges = -(-(2 * cells * patch * length - target) // (2 * target))
    return first + np.clip(edges, 0, length)


def warp_image(image: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample an image bilinearly at the position that belongs to each target pixel.

    Args:
        image: (h, w) or (h, w, C) uint8.
        source: (H, W, 2) float64, column and row in `image` of every target pixel centre; whole
            numbers are pixel centres.

    Returns:
        The warped (H, W[, C]) uint8 image and a (H, W) bool mask, True where `image` covers it.
    """
    planes = image if image.ndim == 3 else image[..., None]
    out = np.zeros((*source.shape[:2], planes.shape[2]), np.uint8)
    valid = np.zeros(source.shape[:2], np.bool_)
    _sample(planes, np.asarray(source, np.float64), out, valid)
    return out.reshape(*source.shape[:2], *image.shape[2:]), valid


@nb.njit(nogil=True, cache=True)
def _sample(image: np.ndarray, source: np.ndarray, out: np.ndarray, valid: np.ndarray) -> None:
    rows, columns, channels = image.shape
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            x, y = source[i, j, 0], source[i, j, 1]
            if not (x >= 0 and y >= 0 and x <= columns - 1 and y <= rows - 1):
                continue  # outside, or NaN
            valid[i, j] = True
            left, top = int(x), int(y)
            right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
            fx, fy = x - left, y - top
            for c in range(channels):
                upper = image[top, left, c] * (1 - fx) + image[top, right, c] * fx
                lower = image[bottom, left, c] * (1 - fx) + image[bottom, right, c] * fx
                out[i, j, c] = np.uint8(np.rint(upper * (1 - fy) + lower * fy))


def homography_map(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a plane-to-plane map.

    Args:
        matrix: (3, 3) homography, for example from event-camera to frame-camera pixels.
        points: (..., 2) columns and rows.

    Returns:
        (..., 2) float64; NaN for points at or behind the horizon.

    Raises:
        DataError: The matrix is not 3x3, not finite, or singular.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or not np.linalg.det(matrix):
        raise DataError("not a homography", found=matrix.tolist(), expected="invertible 3x3 matrix")
    homogeneous = np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1) @ matrix.T
    depth = homogeneous[..., 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(depth > 0, homogeneous[..., :2] / depth, np.nan)


def pixel_grid(height: int, width: int) -> np.ndarray:
    """(H, W, 2) float64 column and row of every pixel centre."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y], -1).astype(np.float64)
