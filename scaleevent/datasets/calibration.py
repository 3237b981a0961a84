"""Two cameras side by side: where a pixel of the event camera lies in the frame camera's picture.

Parallax is left out: the map holds for points far away, compared with the distance between
the cameras.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.errors import DataError
from scaleevent.grids.geometry import pixel_grid
from scaleevent.system.documents import YAML_BYTES, MalformedError, parse_yaml, read_bounded
from scaleevent.system.refusals import reading

_MATRIX_BYTES = 10_000  # text or .npy of nine numbers
_LONGEST_SIDE = 1 << 15  # pixels
_UNDISTORT_STEPS = 30
_SAME_PIXEL = 0.01  # pixels; an iteration that ends farther off has not found the ray
_SAME_RAY = 1e-4  # difference of two rays (a, b, 1) that are the same
_ROTATION_ERROR = 1e-3


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole with radial and tangential distortion; pixel centres have whole coordinates.

    Args:
        matrix: (3, 3) float64, rows [fx, 0, cx], [0, fy, cy], [0, 0, 1], in pixels.
        distortion: (4,) float64: k1, k2, p1, p2.
        height: Rows.
        width: Columns.
    """

    matrix: np.ndarray
    distortion: np.ndarray
    height: int
    width: int

    def distort(self, points: np.ndarray) -> np.ndarray:
        """Pixels where rays meet the sensor.

        With r2 = a^2 + b^2 and s = 1 + k1 r2 + k2 r2^2 (the "radtan" model, as in
        ethz-asl/kalibr:aslam_cv/aslam_cameras/.../RadialTangentialDistortion.hpp):
        a' = a s + 2 p1 a b + p2 (r2 + 2 a^2),  b' = b s + p1 (r2 + 2 b^2) + 2 p2 a b.

        Args:
            points: (..., 2) rays (a, b, 1), without unit.

        Returns:
            (..., 2) column and row.
        """
        scale, shift = self._distortion(points)
        return np.asarray((points * scale + shift) * self._focal + self._centre)

    def undistort(self, pixels: np.ndarray) -> np.ndarray:
        """Rays of pixels: the inverse of `distort`, by fixed-point iteration.

        Solves a = (a' - shift(a)) / s(a), the iteration of opencv/opencv:modules/calib3d/src/
        undistort.dispatch.cpp.

        Args:
            pixels: (..., 2) column and row.

        Returns:
            (..., 2) rays (a, b, 1); NaN where the model has no inverse.
        """
        distorted = (pixels - self._centre) / self._focal
        rays = distorted
        with np.errstate(all="ignore"):  # far outside the sensor the iteration may run away
            for _ in range(_UNDISTORT_STEPS):
                scale, shift = self._distortion(rays)
                rays = (distorted - shift) / scale
            lost = np.abs(self.distort(rays) - pixels).max(-1, keepdims=True)
            return np.where(lost <= _SAME_PIXEL, rays, np.nan)

    @property
    def _focal(self) -> np.ndarray:
        return self.matrix[[0, 1], [0, 1]]

    @property
    def _centre(self) -> np.ndarray:
        return self.matrix[:2, 2]

    def _distortion(self, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Radial factor (..., 1) and tangential shift (..., 2)."""
        k1, k2, p1, p2 = self.distortion
        a, b = rays[..., :1], rays[..., 1:]
        r2 = a * a + b * b
        shift_a = 2 * p1 * a * b + p2 * (r2 + 2 * a * a)
        shift_b = p1 * (r2 + 2 * b * b) + 2 * p2 * a * b
        return 1 + k1 * r2 + k2 * r2 * r2, np.concatenate([shift_a, shift_b], -1)


@dataclass(frozen=True, eq=False)
class Rig:
    """An event camera and a frame camera, both as they are.

    Args:
        events: The event camera (cam0).
        frames: The frame camera (cam1).
        rotation: (3, 3) float64, rays of the event camera to rays of the frame camera.
    """

    events: Camera
    frames: Camera
    rotation: np.ndarray

    def frame_map(self) -> np.ndarray:
        """Where the frame camera sees what each pixel of the event camera sees, far away.

        Returns:
            (H, W, 2) float64 column and row in the frame of every event pixel; NaN where the
            frame camera cannot see.
        """
        rays = self.events.undistort(pixel_grid(self.events.height, self.events.width))
        turned = np.concatenate([rays, np.ones_like(rays[..., :1])], -1) @ self.rotation.T
        depth = turned[..., 2:]
        with np.errstate(all="ignore"):
            rays = np.where(depth > 0, turned[..., :2] / depth, np.nan)
            pixels = self.frames.distort(rays)
            # distortion folds rays from far outside back into the picture: keep those it returns
            off = np.abs(self.frames.undistort(pixels) - rays).max(-1, keepdims=True)
            return np.where(off <= _SAME_RAY, pixels, np.nan)


def read_rig(path: Path) -> Rig:
    """Cameras from a YAML file in the layout of DSEC's cam_to_cam.yaml.

    Keys: intrinsics.cam0 (events) and .cam1 (frames), each with camera_matrix [fx, fy, cx, cy],
    distortion_coeffs [k1, k2, p1, p2], resolution [width, height]; extrinsics.T_10 (4x4), which
    takes points of cam0 to cam1.

    Raises:
        DataError: Not YAML, or a key that is missing, of the wrong shape, not finite or singular.
    """
    return _rig(_Keys.read(path))


def stated_rig(where: str, document: object) -> Rig:
    """As `read_rig`, of values that are there already, by the same keys.

    Args:
        where: Names them in errors.
        document: The values.
    """
    return _rig(_Keys(where, document))


def _rig(keys: _Keys) -> Rig:
    """The cameras of a document."""

    def camera(name: str) -> Camera:
        keys.require_model(name)
        distortion = keys.numbers(f"{name}.distortion_coeffs", (4,))
        return Camera(keys.matrix(name), distortion, *keys.size(name))

    events, frames = camera("intrinsics.cam0"), camera("intrinsics.cam1")
    return Rig(events, frames, keys.rotation("extrinsics.T_10", (4, 4)))


def read_rectified_rig(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """DSEC's virtual cameras without distortion, which its pictures and rectify_map refer to.

    From camRect0, camRect1, T_10 and R_rect0, 1 of its cam_to_cam.yaml.

    Returns:
        (3, 3) float64, rectified event pixel to rectified frame pixel: K_rect1 R K_rect0^-1 with
        R = R_rect1 T_10[:3, :3] R_rect0^T (uzh-rpg/DSEC, threads 25 and 51); (height, width) of
        the rectified frames.

    Raises:
        DataError: As `read_rig`.
    """
    keys = _Keys.read(path)
    turn = keys.rotation("extrinsics.T_10", (4, 4))
    rect0 = keys.rotation("extrinsics.R_rect0", (3, 3))
    rect1 = keys.rotation("extrinsics.R_rect1", (3, 3))
    inverse = np.linalg.inv(keys.matrix("intrinsics.camRect0"))
    homography = keys.matrix("intrinsics.camRect1") @ rect1 @ turn @ rect0.T @ inverse
    return homography, keys.size("intrinsics.camRect1")


def read_depth_scale(path: Path) -> float:
    """Focal length times baseline of DSEC's event cameras: depth in metres times disparity.

    From disparity_to_depth.cams_03 = Q of its cam_to_cam.yaml: the focal length is |Q[2, 3]|, the
    baseline |1 / Q[3, 2]|.

    Raises:
        DataError: Not YAML, or Q is missing, of the wrong shape, not finite or singular.
    """
    matrix = _Keys.read(path).numbers("disparity_to_depth.cams_03", (4, 4))
    focal, inverse_baseline = abs(matrix[2, 3]), abs(matrix[3, 2])
    if not focal or not inverse_baseline:
        raise DataError(
            "invalid calibration value",
            where=f"{path}, key disparity_to_depth.cams_03",
            found=matrix.tolist(),
            expected="a focal length in row 2, an inverse baseline in row 3",
        )
    return float(focal / inverse_baseline)


def read_homography(path: Path) -> np.ndarray:
    """(3, 3) float64 from a .npy file, or from text: nine numbers between blanks or commas.

    Raises:
        DataError: Unreadable, of another shape, not finite or singular.
    """
    with reading(path, "the homography cannot be read"):
        data = read_bounded(path, _MATRIX_BYTES)
    try:
        if path.suffix == ".npy":
            matrix = np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.float64)
        else:
            numbers = data.decode("ascii").replace(",", " ").split()
            matrix = np.array(numbers, np.float64).reshape(3, 3)
    except Exception as error:  # np.load raises many kinds on a damaged header
        raise DataError(
            "not a homography", where=path, found=error, expected="3x3 numbers, text or .npy"
        ) from None
    with np.errstate(all="ignore"):
        fits = matrix.shape == (3, 3) and np.isfinite(np.linalg.det(matrix))
    if not fits or not np.linalg.det(matrix):
        raise DataError(
            "not a homography",
            where=path,
            found=matrix.tolist() if matrix.size <= 9 else f"shape {matrix.shape}",
            expected="an invertible 3x3 matrix, event pixel to frame pixel",
        )
    return matrix


@dataclass(frozen=True)
class _Keys:
    """A calibration file's values by dotted key, each checked when it is asked for."""

    path: Path | str
    document: object

    @classmethod
    def read(cls, path: Path) -> _Keys:
        with reading(path, "calibration cannot be read"):
            text = read_bounded(path, YAML_BYTES)
        try:
            # OpenCV begins its files with %YAML:1.0, which is no YAML
            return cls(path, parse_yaml(re.sub(rb"^%YAML", b"#", text, flags=re.MULTILINE)))
        except MalformedError as error:
            where = error.at(path)
            raise DataError("calibration cannot be read", where=where, found=error) from None

    def numbers(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """Finite float64 values of one shape."""
        value = self._value(key)
        what = "invalid calibration value" if value is not None else "calibration key is missing"
        refusal = self._bad(key, what, value, f"{'x'.join(map(str, shape))} finite numbers")
        try:
            array = np.array(value, np.float64)
        except (ValueError, TypeError, OverflowError):
            raise refusal from None
        if array.shape != shape or not np.isfinite(array).all():
            raise refusal
        return array

    def matrix(self, camera: str) -> np.ndarray:
        """(3, 3) camera matrix."""
        key = f"{camera}.camera_matrix"
        fx, fy, cx, cy = values = self.numbers(key, (4,))
        if fx <= 0 or fy <= 0:
            raise self._bad(key, "camera matrix is singular", values, "[fx, fy, cx, cy], f > 0")
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])

    def size(self, camera: str) -> tuple[int, int]:
        """(height, width)."""
        key = f"{camera}.resolution"
        values = self.numbers(key, (2,))
        if (values < 1).any() or (values % 1).any() or (values > _LONGEST_SIDE).any():
            raise self._bad(key, "invalid camera resolution", values, "[width, height]")
        return int(values[1]), int(values[0])

    def rotation(self, key: str, shape: tuple[int, int]) -> np.ndarray:
        """(3, 3) rotation part."""
        turn = self.numbers(key, shape)[:3, :3]
        with np.errstate(all="ignore"):
            off = np.abs(turn @ turn.T - np.eye(3)).max()
        if not off <= _ROTATION_ERROR or np.linalg.det(turn) < 0:
            raise self._bad(key, "not a rotation", turn.tolist(), "orthonormal, determinant +1")
        return turn

    def require_model(self, camera: str) -> None:
        """Refuse lens models other than the one implemented, where the file names one."""
        for key, known in (("camera_model", "pinhole"), ("distortion_model", "radtan")):
            value = self._value(f"{camera}.{key}")
            if value not in (None, known):
                raise self._bad(f"{camera}.{key}", "lens model not supported", value, known)

    def _value(self, key: str) -> Any:
        value: object = self.document
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def _bad(self, key: str, what: str, found: object, expected: str) -> DataError:
        return DataError(what, where=f"{self.path}, key {key}", found=found, expected=expected)
