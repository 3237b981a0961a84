"""Tiny roots of every data set, with planted answers, written from the layouts' descriptions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import yaml
from PIL import Image

from scaleevent.config.data import PrepareConfig
from scaleevent.events import Events
from tests import clip_files, davis_files, dsec_files
from tests.event_files import some_events, write_aedat4, write_dsec

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


def write_videos(root: Path, subset: str = "train", *names: str) -> Path:
    """Videos of tracking data sets: AEDAT4 beside pictures with wrong times, which are not read."""
    for number, name in enumerate(names or ("dvSave-2021_09_01_06_59_10",)):
        folder = root / subset / name
        write_pictures(folder / "vis_imgs", [np.full((HEIGHT, WIDTH), 7, np.uint8)], "{:04d}.bmp")
        (folder / "groundtruth.txt").write_text("1,2,3,4\n")
        (folder / "start_end_index.txt").write_text("1\n2\n")
        frames = [
            (us, us + 4001, np.stack([grey, grey + 1, grey + 2], -1))  # blue, green, red
            for us, grey in zip(IMAGES_US, sensor_pictures(), strict=True)
        ]
        events = fake_events(number)
        parts = [events[k : k + 1500] for k in range(0, len(events), 1500)]
        write_aedat4(folder / f"{name}.aedat4", parts, frames, size=(HEIGHT, WIDTH))
    return root


TOWN_US = (1_040_000, 1_080_000, 1_120_000, 1_160_000, 1_190_000)


def write_eventscape(
    root: Path, unit: str = "ns", town: str = "Town01", sequence: str = "sequence_3"
) -> Path:
    """A sequence of EventScape: file NNNN holds the events up to image NNNN; one file is empty.

    Numbers do not begin at 0, and image 5 has no events before it in a file of its own.
    """
    folder = root / town / sequence
    events = fake_events()
    scale = {"ns": 1000, "us": 1, "s": 1e-6}[unit]
    for kind in ("rgb", "events"):
        (folder / kind / "data").mkdir(parents=True)
    pictures = [np.full((HEIGHT, WIDTH, 3), (10 * k, 20 * k, 30), np.uint8) for k in range(5)]
    for number, picture in enumerate(pictures):
        name = f"01_003_{number + 5:04d}"
        Image.fromarray(picture).save(folder / "rgb/data" / f"{name}_image.png")
        start = 0 if number == 0 else TOWN_US[number - 1]
        inside = (events.t >= start) & (events.t < TOWN_US[number])
        if number == 3:
            inside &= False
        columns = {"x": events.x[inside], "y": events.y[inside], "p": events.p[inside] * 2.0 - 1}
        columns["t"] = events.t[inside] * scale
        np.savez(folder / "events/data" / f"{name}_events.npz", **columns)
    lines = [f"{k + 5} {us / 1e6:.6f}" for k, us in enumerate(TOWN_US)]
    write_times(folder / "rgb/data/timestamps.txt", lines)
    write_times(folder / "events/data/timestamps.txt", lines)
    return root


def write_rgbe_seg(root: Path, name: str = "dvSave-2021_09_01_06_59_10") -> Path:
    """A clip of RGBE-SEG: rows x, y, t, p of each picture's events; the second file is empty."""
    events = fake_events()
    folder = root / "train" / name
    (folder / "event").mkdir(parents=True)
    names = "0003{:02d}.png"  # numbers of the video it was cut from
    write_pictures(folder / "rgb_image", sensor_pictures(), names)
    write_pictures(folder / "voxel_image", sensor_pictures(), names)
    for number, end in enumerate(IMAGES_US):
        inside = (events.t >= end - 30_000) & (events.t < end) & (number != 1)
        columns = (getattr(events, column)[inside].astype(np.int64) for column in "xytp")
        rows = np.stack([*columns], 1)
        np.savez(folder / "event" / names.format(number).replace("png", "npz"), rows)
    return root


def in_seconds(clip: Path) -> Path:
    """A clip of RGBE-SEG whose times are rewritten as seconds."""
    for path in (clip / "event").iterdir():
        with np.load(path) as stored:
            rows = stored["arr_0"].astype(np.float64)
        rows[:, 2] /= 1e6
        np.savez(path, rows)
    return clip


def write_released(root: Path) -> Path:
    """A sequence of the authors' release."""
    writer = import_module("tests.test_released").write_sequence
    folder: Path = writer(root, "back1")
    return folder.parent


def m3ed_files() -> ModuleType:
    """Writers that build on this module."""
    return import_module("tests.m3ed_files")


def fake_configs(folder: Path) -> dict[str, PrepareConfig]:
    """A `prepare` configuration of every data set, its root written below `folder`."""

    def labelled(name: str, write: Callable[[Path], Path], **settings: object) -> PrepareConfig:
        return PrepareConfig(name=name, roots=[write(folder / name)], **settings)

    def planted(write: Callable[[Path], object]) -> Callable[[Path], Path]:
        def tree(root: Path) -> Path:
            write(root)
            return root

        return tree

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
        "mvsec": labelled("mvsec", davis_files.write_scene),
        "ddd17": labelled("ddd17", lambda root: davis_files.write_drive(root).parent),
        "visevent": labelled("visevent", write_videos),
        "coesot": labelled("coesot", write_videos),
        "scaleevent-release": labelled("scaleevent-release", write_released),
        "decd": labelled("decd", write_released),
        "rgbe-seg": labelled("rgbe-seg", write_rgbe_seg),
        "eventscape": labelled("eventscape", write_eventscape),
        **{
            name: labelled(name, planted(write), **({"fps": 25.0} if name == "sdsd" else {}))
            for name, write in import_module("tests.filmed_files").TREES.items()
        },
        "m3ed": labelled("m3ed", lambda root: m3ed_files().write_m3ed(root)),
    }
