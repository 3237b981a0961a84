"""Tiny roots of every data set, with planted answers, written from the layouts' descriptions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import yaml
from PIL import Image

from scaleevent.config.data import PrepareConfig
from scaleevent.events import Events
from tests import clip_files, davis_files, dsec_files
from tests.event_files import some_events, write_dsec

HEIGHT, WIDTH = 48, 64
FRAME_HEIGHT, FRAME_WIDTH = 72, 96
START_US, SPAN_US = 1_000_000, 200_000
IMAGES_US = (1_080_000, 1_130_000, 1_180_000)
SEQUENCE = "zurich_city_00_a"


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """(3, 3): turn about x, then y, then z, radians."""
    turns = []
    for axis, angle in enumerate((x, y, z)):
        turn = np.eye(3)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        turns.append(turn)
    return turns[2] @ turns[1] @ turns[0]


EVENT_CAMERA = ((60.0, 61.0, 31.0, 24.5), (-0.2, 0.08, 0.002, -0.001))
FRAME_CAMERA = ((80.0, 79.0, 47.5, 36.5), (-0.15, 0.05, -0.001, 0.002))
RECTIFIED_EVENTS = (58.0, 58.0, 32.0, 24.0)
RECTIFIED_FRAMES = (84.0, 84.0, 46.0, 35.0)
T_10 = rotation(0.03, -0.05, 0.02)  # event rays to frame rays
R_RECT0, R_RECT1 = rotation(0.01, 0.02, -0.01), rotation(-0.02, 0.03, 0.01)


def cam_to_cam() -> dict:
    """The rig as DSEC's cam_to_cam.yaml writes it."""

    def camera(values: tuple, size: tuple[int, int], lens: tuple | None = None) -> dict:
        entry = {"camera_matrix": list(values), "resolution": list(size)}
        if lens:
            entry |= {"camera_model": "pinhole", "distortion_model": "radtan"}
            entry["distortion_coeffs"] = list(lens)
        return entry

    move = np.eye(4)
    move[:3, :3], move[:3, 3] = T_10, (-0.045, 0.0, 0.0)
    events, frames = (WIDTH, HEIGHT), (FRAME_WIDTH, FRAME_HEIGHT)
    return {
        "intrinsics": {
            "cam0": camera(EVENT_CAMERA[0], events, EVENT_CAMERA[1]),
            "cam1": camera(FRAME_CAMERA[0], frames, FRAME_CAMERA[1]),
            "camRect0": camera(RECTIFIED_EVENTS, events),
            "camRect1": camera(RECTIFIED_FRAMES, frames),
        },
        "extrinsics": {
            "T_10": move.tolist(),
            "R_rect0": R_RECT0.tolist(),
            "R_rect1": R_RECT1.tolist(),
        },
    }


def write_calibration(path: Path, document: dict | None = None) -> Path:
    """A YAML file as OpenCV begins it."""
    text = yaml.safe_dump(document or cam_to_cam(), default_flow_style=None)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("%YAML:1.0\n---\n" + text)
    return path


def distorted_pixel(a: float, b: float, camera: tuple) -> tuple[float, float]:
    """Pixel of the ray (a, b, 1); the textbook formula, one number at a time."""
    (fx, fy, cx, cy), (k1, k2, p1, p2) = camera
    r2 = a**2 + b**2
    radial = 1 + k1 * r2 + k2 * r2**2
    x = a * radial + 2 * p1 * a * b + p2 * (r2 + 2 * a**2)
    y = b * radial + p1 * (r2 + 2 * b**2) + 2 * p2 * a * b
    return fx * x + cx, fy * y + cy


def scalar_ray(column: float, row: float, camera: tuple) -> tuple[float, float]:
    """Ray of a pixel by Newton's method with numerical slopes."""
    (fx, fy, cx, cy), _ = camera
    a, b, h = (column - cx) / fx, (row - cy) / fy, 1e-6
    for _ in range(8):
        u, v = distorted_pixel(a, b, camera)
        ua, va = distorted_pixel(a + h, b, camera)
        ub, vb = distorted_pixel(a, b + h, camera)
        j11, j12, j21, j22 = (ua - u) / h, (ub - u) / h, (va - v) / h, (vb - v) / h
        det = j11 * j22 - j12 * j21
        a -= (j22 * (u - column) - j12 * (v - row)) / det
        b -= (j11 * (v - row) - j21 * (u - column)) / det
    return a, b


@cache
def camera_rays(events: bool) -> np.ndarray:
    """(h, w, 3) rays of every pixel of the event or the frame camera."""
    camera = EVENT_CAMERA if events else FRAME_CAMERA
    height, width = (HEIGHT, WIDTH) if events else (FRAME_HEIGHT, FRAME_WIDTH)
    return np.array(
        [[(*scalar_ray(u, v, camera), 1.0) for u in range(width)] for v in range(height)]
    )


def painted(rays: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 of a world far away whose red and green tell the direction of a ray.

    Args:
        rays: (h, w, 3) in the coordinates of the event camera.
    """
    a, b = rays[..., 0] / rays[..., 2], rays[..., 1] / rays[..., 2]
    colours = np.stack([127.5 + 200 * a, 127.5 + 200 * b, np.full_like(a, 90.0)], -1)
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8)


def pixels_off(picture: np.ndarray, valid: np.ndarray) -> float:
    """Largest distance, in event pixels, between where the world should be seen and is."""
    rays = camera_rays(True)[..., :2]
    seen = (picture[..., :2].astype(np.float64) - 127.5) / 200
    return float((np.abs(seen - rays)[valid] * EVENT_CAMERA[0][0]).max())


def frame_picture() -> np.ndarray:
    """What the frame camera sees of the painted world, its own distortion included."""
    return painted(camera_rays(False) @ T_10)  # transposed inverse of a rotation is itself


def rectified_picture() -> np.ndarray:
    """What DSEC's rectified frame camera sees."""
    fx, fy, cx, cy = RECTIFIED_FRAMES
    row, column = np.mgrid[:FRAME_HEIGHT, :FRAME_WIDTH]
    rays = np.stack([(column - cx) / fx, (row - cy) / fy, np.ones(row.shape)], -1)
    return painted(rays @ R_RECT1 @ T_10)


def rectify_map() -> np.ndarray:
    """(H, W, 2) float32 rectified column and row of every event pixel."""
    fx, fy, cx, cy = RECTIFIED_EVENTS
    rays = camera_rays(True) @ R_RECT0.T
    rays = rays / rays[..., 2:]
    return np.stack([rays[..., 0] * fx + cx, rays[..., 1] * fy + cy], -1).astype(np.float32)


def fake_events(seed: int = 0) -> Events:
    """Random events on the small sensor, from `START_US` for `SPAN_US`."""
    return some_events(20_000, HEIGHT, WIDTH, start_us=START_US, span_us=SPAN_US, seed=seed)


def write_pictures(
    folder: Path, pictures: list[np.ndarray], name: str = "{:06d}.png"
) -> list[Path]:
    """PNG files named by number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name.format(number) for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return paths


def sensor_pictures(number: int = len(IMAGES_US)) -> list[np.ndarray]:
    """Pictures on the event pixels, each of another brightness."""
    return [np.full((HEIGHT, WIDTH), 40 * (k + 1), np.uint8) for k in range(number)]


def write_times(path: Path, lines: object) -> Path:
    """One value a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_custom(root: Path, events: Events | None = None) -> Path:
    """A folder with a recording, pictures and their times."""
    events = fake_events() if events is None else events
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "events.npz", **{name: getattr(events, name) for name in "txyp"})
    write_pictures(root / "images", sensor_pictures())
    write_times(root / "timestamps.txt", IMAGES_US)
    return root


def write_clip(folder: Path) -> Path:
    """Pictures of a texture that moves."""
    clip_files.write_sequence(folder, clip_files.moving(4))
    return folder


DSEC_PARTS = {  # layout: folder of events, pictures, file of times, folder of calibration
    "A": ("train/{0}/events/left", "train/{0}/images/left/rectified",
          "train/{0}/images/timestamps.txt", "train/{0}/calibration"),
    "B": ("test_events/{0}/events/left", "test_images/{0}/images/left/rectified",
          "test_images/{0}/images/timestamps.txt", "test_calibration/{0}/calibration"),
    "C": ("DSEC/{0}/events_left", "DSEC/{0}/images_rectified_left",
          "DSEC/{0}/image_timestamps.txt", "DSEC/{0}/calibration"),
    "D": ("test/{0}/events_left", "test/{0}/images_rectified_left",
          "test/{0}/image_timestamps.txt", "test/{0}"),
    "E": ("{0}_events_left", "{0}_images_rectified_left",
          "{0}_image_timestamps.txt", "{0}_calibration"),
}  # fmt: skip


def write_dsec_root(root: Path, layout: str = "A", sequence: str = SEQUENCE) -> Path:
    """A DSEC root with one sequence, frames rectified."""
    events, pictures, times, calibration = (
        root / part.format(sequence) for part in DSEC_PARTS[layout]
    )
    events.mkdir(parents=True)
    write_dsec(events / "events.h5", fake_events(), offset=START_US - 10_000)
    with h5py.File(events / "rectify_map.h5", "w") as file:
        file["rectify_map"] = rectify_map()
    write_pictures(pictures, [rectified_picture()] * len(IMAGES_US))
    write_times(times, IMAGES_US)
    write_calibration(calibration / "cam_to_cam.yaml")
    return root


def fake_configs(folder: Path) -> dict[str, PrepareConfig]:
    """A `prepare` configuration of every data set, its root written below `folder`."""

    def labelled(name: str, write: Callable[[Path], Path], **settings: bool) -> PrepareConfig:
        return PrepareConfig(name=name, roots=[write(folder / name)], **settings)

    return {
        "street": PrepareConfig(name="street", scenes=2, size=(48, 64)),
        "custom": PrepareConfig(name="custom", roots=[write_custom(folder / "my rig")]),
        "video": PrepareConfig(name="video", roots=[write_clip(folder / "clip")], fps=25),
        "dsec": PrepareConfig(name="dsec", roots=[write_dsec_root(folder / "dsec")]),
        "dsec-semantic": labelled("dsec-semantic", dsec_files.write_semantic),
        "dsec-depth": labelled("dsec-depth", dsec_files.write_depth),
        "dsec-flow": labelled("dsec-flow", dsec_files.write_flow),
        "ddd17-seg": labelled("ddd17-seg", lambda root: davis_files.write_drive(root).parent),
        "mvsec-depth": labelled("mvsec-depth", davis_files.write_depth),
        "mvsec-flow": labelled("mvsec-flow", davis_files.write_flow, all_frames=True),
    }
