from pathlib import Path

import numpy as np
import pytest

from scaleevent.datasets.calibration import (
    Camera,
    Rig,
    read_homography,
    read_rectified_rig,
    read_rig,
)
from scaleevent.errors import DataError
from scaleevent.grids.geometry import pixel_grid, warp_image
from tests import fakes


def camera(distortion=(-0.2, 0.08, 0.002, -0.001), focal: float = 60.0) -> Camera:
    matrix = np.array([[focal, 0, 31.0], [0, focal + 1, 24.5], [0, 0, 1]])
    return Camera(matrix, np.array(distortion), 48, 64)


def test_distortion_equals_the_scalar_formula():
    rays = np.random.default_rng(0).uniform(-0.6, 0.6, (50, 2))
    ours = camera().distort(rays)
    for ray, pixel in zip(rays, ours, strict=True):
        assert fakes.distorted_pixel(*ray, fakes.EVENT_CAMERA) == pytest.approx(pixel, abs=1e-10)


@pytest.mark.parametrize("distortion", [(0, 0, 0, 0), (-0.35, 0.12, 0.001, -0.002), (0.2, 0, 0, 0)])
def test_undistort_inverts_distort(distortion):
    lens = camera(distortion)
    grid = pixel_grid(48, 64)
    rays = lens.undistort(grid)
    assert np.abs(lens.distort(rays) - grid).max() < 1e-6


def test_pixels_that_no_ray_reaches_are_nan():
    lens = camera((-0.5, 0.0, 0.0, 0.0))  # x (1 - r^2 / 2) never exceeds 0.55
    edge = np.array([[31.0 + 60.0 * 0.54, 24.5], [31.0 + 60.0 * 0.60, 24.5]])
    assert np.isfinite(lens.undistort(edge)).all(1).tolist() == [True, False]


def test_one_camera_twice_maps_every_pixel_to_itself():
    lens = camera()
    source = Rig(lens, lens, np.eye(3)).frame_map()
    assert np.abs(source - pixel_grid(48, 64)).max() < 1e-6


def test_rays_folded_back_into_the_picture_are_not_seen():
    wide = camera((0, 0, 0, 0), focal=20.0)  # sees rays up to 1.6
    fold = camera((-0.5, 0.0, 0.0, 0.0))  # turns around at 0.82, back at the centre at 1.41
    source = Rig(wide, fold, np.eye(3)).frame_map()
    rays = np.linalg.norm(wide.undistort(pixel_grid(48, 64)), axis=2)
    assert np.isfinite(source[rays < 0.75]).all()
    assert np.isnan(source[rays > 0.85]).all()


def test_what_lies_behind_the_frame_camera_is_not_seen():
    back = np.diag([-1.0, 1.0, -1.0])
    assert np.isnan(Rig(camera(), camera(), back).frame_map()).all()


def test_painted_world_comes_back_aligned(tmp_path):
    rig = read_rig(fakes.write_calibration(tmp_path / "cam_to_cam.yaml"))
    picture, valid = warp_image(fakes.frame_picture(), rig.frame_map())
    assert 0.8 < valid.mean() < 1
    assert fakes.pixels_off(picture, valid) < 0.5
    still = Rig(rig.events, rig.frames, np.eye(3))  # the measure sees a missing rotation
    assert fakes.pixels_off(*warp_image(fakes.frame_picture(), still.frame_map())) > 2


def set_key(document: dict, key: str, value: object) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        document = document[parent]
    if value is None:
        del document[last]
    else:
        document[last] = value


BAD = {
    "intrinsics.cam0": None,
    "intrinsics.cam1.distortion_coeffs": [0.1, 0.2, 0.3],
    "intrinsics.cam0.camera_matrix": [60.0, float("nan"), 31.0, 24.0],
    "intrinsics.cam1.camera_matrix": [0.0, 79.0, 47.0, 36.0],
    "intrinsics.cam0.resolution": [64.5, 48],
    "intrinsics.cam1.distortion_model": "equidistant",
    "extrinsics.T_10": np.diag([1.0, 1.0, 0.0, 1.0]).tolist(),
}


@pytest.mark.parametrize("key", BAD)
def test_bad_calibration_names_file_and_key(tmp_path, key):
    document = fakes.cam_to_cam()
    set_key(document, key, BAD[key])
    path = fakes.write_calibration(tmp_path / "cam_to_cam.yaml", document)
    with pytest.raises(DataError) as caught:
        read_rig(path)
    assert str(path) in caught.value.where and key in caught.value.where


@pytest.mark.parametrize("key", ["intrinsics.camRect1.resolution", "extrinsics.R_rect0"])
def test_rectified_calibration_names_the_missing_key(tmp_path, key):
    document = fakes.cam_to_cam()
    set_key(document, key, None)
    path = fakes.write_calibration(tmp_path / "cam_to_cam.yaml", document)
    with pytest.raises(DataError, match="missing") as caught:
        read_rectified_rig(path)
    assert key in caught.value.where


@pytest.mark.parametrize("text", ["a: [1", "!!python/object/apply:os.getcwd []", "\x00", "5"])
def test_files_that_are_no_calibration(tmp_path, text):
    path = tmp_path / "cam_to_cam.yaml"
    path.write_text(text)
    with pytest.raises(DataError):
        read_rig(path)


def test_homographies(tmp_path: Path):
    matrix = np.array([[1.5, 0.1, 4], [0, 1.4, -3], [1e-4, 0, 1]])
    np.save(tmp_path / "h.npy", matrix)
    (tmp_path / "h.txt").write_text("1.5, 0.1, 4\n0 1.4 -3\n1e-4 0 1\n")
    for name in ("h.npy", "h.txt"):
        assert np.array_equal(read_homography(tmp_path / name), matrix)
    (tmp_path / "flat.txt").write_text("1 0 0 0 1 0 0 0 0")
    (tmp_path / "short.txt").write_text("1 0 0")
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    for name in ("flat.txt", "short.txt", "pickle.npy", "absent.txt"):
        with pytest.raises(DataError) as caught:
            read_homography(tmp_path / name)
        assert name in str(caught.value.where)
