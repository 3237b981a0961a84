"""`Fit`: one crop or pad, and one scale, from a sensor to the network's input.

Events, images, labels and masks all go through it, and predictions come back by it. Also the
plane-to-plane warp that maps the picture of a separate frame camera into the view of the event
camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import numba as nb
import numpy as np

from scaleevent.config.benchmarks import IGNORE
from scaleevent.errors import ConfigError, DataError

STRETCH = 0.01  # default of `Fit.stretch`; causes no visible distortion


@dataclass(frozen=True)
class Fit:
    """A centred box of the sensor's plane, scaled to the target.

    Args:
        height: Sensor rows.
        width: Sensor columns.
        target_height: Rows of the network's input.
        target_width: Columns of the network's input.
        stretch: Relative difference of aspect ratios up to which the box is the whole sensor.
        pad: What the box is on other sensors: the smallest of the target's shape around the whole
            sensor, or, without it, the largest within it.
    """

    height: int
    width: int
    target_height: int
    target_width: int
    stretch: float = STRETCH
    pad: bool = False

    @property
    def crop(self) -> tuple[int, int, int, int]:
        """(top, left, rows, columns) of the box; it reaches beyond the sensor where `pads`.

        Its sides are whole pixels. Where rounding them would stretch by more than 1 %, as on
        sensors of few pixels, it is the next smaller (larger with `pad`) that does not.
        """
        down, across = self.target_height / self.height, self.target_width / self.width
        if abs(down / across - 1) <= self.stretch:
            return 0, 0, self.height, self.width
        scale = min(down, across) if self.pad else max(down, across)
        rows, columns = round(self.target_height / scale), round(self.target_width / scale)
        bound = max if self.pad else min
        rows, columns = bound(self.height, max(rows, 1)), bound(self.width, max(columns, 1))
        if self._stretch(rows, columns) > STRETCH:
            rows, columns = self._rounded(rows, columns)
        return (self.height - rows) // 2, (self.width - columns) // 2, rows, columns

    def _stretch(self, rows: int, columns: int) -> float:
        return abs(self.target_height * columns / (self.target_width * rows) - 1)

    def _rounded(self, rows: int, columns: int) -> tuple[int, int]:
        """The nearest box that is hardly stretched; the one given if the sensor has none within."""
        for width in count(columns) if self.pad else range(columns, 0, -1):
            height = round(width * self.target_height / self.target_width)
            if (height >= rows if self.pad else height <= rows) and height:
                if self._stretch(height, width) <= STRETCH:
                    return height, width
        return rows, columns

    @property
    def pads(self) -> bool:
        """Whether the box reaches beyond the sensor."""
        _, _, rows, columns = self.crop
        return rows > self.height or columns > self.width

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
            rows[i] <= y < rows[i+1], columns[j] <= x < columns[j+1], none beyond the sensor.

        Raises:
            ConfigError: The target is not a multiple of `patch`.
        """
        if self.target_height % patch or self.target_width % patch:
            raise ConfigError(
                "the input size is not a multiple of the patch",
                found=f"{self.target_height}x{self.target_width} and patch {patch}",
            )
        top, left, rows, columns = self.crop
        return (
            _edges(top, rows, self.target_height, patch).clip(0, self.height),
            _edges(left, columns, self.target_width, patch).clip(0, self.width),
        )

    def shown(self, patch: int) -> np.ndarray:
        """(h, w) float64: the share of each token's area that lies on the sensor."""
        top, left, rows, columns = self.crop

        def shares(first: int, length: int, target: int, size: int) -> np.ndarray:
            edges = first + np.arange(target // patch + 1) * (patch * length / target)
            return np.diff(edges.clip(0, size)) * (target / (patch * length))

        down = shares(top, rows, self.target_height, self.height)
        return np.outer(down, shares(left, columns, self.target_width, self.width)).clip(0, 1)

    def crop_array(self, array: np.ndarray, fill: float = 0) -> np.ndarray:
        """What the box holds of a (..., height, width) array: a view, unless the box `pads`.

        Beyond the sensor it holds `fill`.
        """
        top, left, rows, columns = self.crop
        if not self.pads:
            return array[..., top : top + rows, left : left + columns]
        boxed = np.full((*array.shape[:-2], rows, columns), fill, array.dtype)
        boxed[(..., *self.on_sensor)] = array
        return boxed

    def crop_picture(self, picture: np.ndarray, fill: float = 0) -> np.ndarray:
        """The same of a (height, width, C) picture."""
        return self.crop_array(picture.transpose(2, 0, 1), fill).transpose(1, 2, 0)

    def crop_label(self, label: np.ndarray) -> np.ndarray:
        """The same of a (..., height, width) label or mask, which is unknown beyond the sensor.

        Unknown is NaN, `IGNORE` for classes, False for a mask.
        """
        if label.dtype.kind == "f":
            return self.crop_array(label, np.nan)
        return self.crop_array(label, 0 if label.dtype == bool else IGNORE)

    @property
    def on_sensor(self) -> tuple[slice, slice]:
        """Rows and columns of a map of the box, such as a prediction, that lie on the sensor."""
        top, left, rows, columns = self.crop
        return (
            slice(max(-top, 0), min(self.height - top, rows)),
            slice(max(-left, 0), min(self.width - left, columns)),
        )

    def onto_sensor(self, values: np.ndarray, fill: float) -> np.ndarray:
        """A (..., rows, columns) map of the box, such as a prediction, on all of the sensor.

        Args:
            values: Of the box.
            fill: What pixels get that the box does not hold.

        Returns:
            (..., height, width) of the same type.
        """
        top, left, rows, columns = self.crop
        down, across = self.on_sensor
        whole = np.full((*values.shape[:-2], self.height, self.width), fill, values.dtype)
        whole[..., down.start + top : down.stop + top, across.start + left : across.stop + left] = (
            values[..., down, across]
        )
        return whole

    def to_input(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) float64 columns and rows of the sensor's plane in the input.

        Whole numbers are pixel centres, in both.
        """
        top, left, _, _ = self.crop
        down, across = self.scale
        return np.asarray((points - np.array([left, top]) + 0.5) * np.array([across, down]) - 0.5)

    def to_sensor(self, points: np.ndarray) -> np.ndarray:
        """The inverse of `to_input`."""
        top, left, _, _ = self.crop
        down, across = self.scale
        return np.asarray((points + 0.5) / np.array([across, down]) - 0.5 + np.array([left, top]))


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
