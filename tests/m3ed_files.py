"""Writers of small M3ED files, key by key as daniilidis-group/m3ed:build_system writes them.

The left event camera and the colour camera are those of `fakes`, whose world is painted far away;
the right event camera has the left one's lens and looks another way.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from tests import fakes
from tests.fakes import EVENT_CAMERA, FRAME_CAMERA, HEIGHT, T_10, WIDTH, rotation

SEQUENCE = "car_urban_day_penno_small_loop"
RIGHT_TO_LEFT = rotation(0.02, 0.03, -0.04)
IMAGES_US = (0, 40_000, 80_000, 120_000, 160_000)  # 25 Hz on the sensors' clock
SPAN_US = 190_000


def events_of(camera: str):
    """Random events from 0 on; the clock of a sequence begins with it."""
    seed = {"left": 1, "right": 2}[camera]
    return fakes.some_events(9_000, HEIGHT, WIDTH, start_us=3, span_us=SPAN_US, seed=seed)


def painted_frames() -> np.ndarray:
    """(F, h, w, 3) what the colour camera sees, blue first; blue tells the image's number."""
    frames = np.stack([fakes.frame_picture()] * len(IMAGES_US))
    frames[..., 2] = 10 * np.arange(len(IMAGES_US))[:, None, None]
    return frames[..., ::-1]


def write_calib(
    group: h5py.Group, camera: tuple, size: tuple[int, int], to_left: np.ndarray
) -> None:
    """`calib` as Kalibr's values are put there; the models are texts."""
    calib = group.create_group("calib")
    calib["intrinsics"], calib["distortion_coeffs"] = np.array(camera[0]), np.array(camera[1])
    calib["camera_model"], calib["distortion_model"] = "pinhole", "radtan"
    calib["resolution"] = np.array(size)
    calib["T_to_prophesee_left"] = to_left


def pose(turn: np.ndarray, move: tuple = (0, 0, 0)) -> np.ndarray:
    """(4, 4) of points of a camera to the left event camera."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, move
    return matrix


def write_m3ed(root: Path, sequence: str = SEQUENCE, folder: bool = True) -> Path:
    """`SEQ_data.h5`; the index ends in zeros, as where events end before the recording."""
    place = root / sequence if folder else root
    place.mkdir(parents=True, exist_ok=True)
    to_left = {"left": np.eye(3), "right": RIGHT_TO_LEFT}
    with h5py.File(place / f"{sequence}_data.h5", "w") as file:
        for camera, turn in to_left.items():
            events = events_of(camera)
            group = file.create_group(f"prophesee/{camera}")
            kinds = {"x": "u2", "y": "u2", "t": "i8", "p": "i1"}
            for name, kind in kinds.items():
                group.create_dataset(
                    name, data=getattr(events, name).astype(kind), chunks=(4000,),
                    maxshape=(None,), compression="lzf",
                )  # fmt: skip
            index = np.searchsorted(events.t, 1000 * np.arange(SPAN_US // 1000 + 20))
            index[index == len(events)] = 0
            group["ms_map_idx"] = index.astype("u8")
            write_calib(group, EVENT_CAMERA, (WIDTH, HEIGHT), pose(turn, (0.12, 0, 0)))
            inside = np.searchsorted(events.t, IMAGES_US).astype("u8")
            file[f"ovc/ts_map_prophesee_{camera}_t"] = inside
        frames = painted_frames()
        for camera, data in (("rgb", frames), ("left", frames[..., :1])):
            file.create_dataset(
                f"ovc/{camera}/data", data=data, chunks=(1, *data.shape[1:]), compression="lzf"
            )
            size = (fakes.FRAME_WIDTH, fakes.FRAME_HEIGHT)
            write_calib(file[f"ovc/{camera}"], FRAME_CAMERA, size, pose(T_10.T, (0.05, 0, 0)))
        file["ovc/ts"] = np.array(IMAGES_US, "i8")
    return root


def classes() -> np.ndarray:
    """(F, H, W, 1) trainIds, 255 in the lowest rows, where the picture shows nothing."""
    ids = np.random.default_rng(3).integers(0, 19, (len(IMAGES_US), HEIGHT, WIDTH, 1), np.uint8)
    ids[:, 40:] = 255
    return ids


def warped() -> np.ndarray:
    """(F, H, W, 3) pictures in the left event view, blue first: 0 where nothing is shown."""
    picture = fakes.painted(fakes.camera_rays(True)).copy()
    picture[40:] = 0
    return np.stack([picture] * len(IMAGES_US))[..., ::-1]


def write_semantics(root: Path, sequence: str = SEQUENCE) -> Path:
    """`SEQ_semantics.h5` beside the data."""
    with h5py.File(root / sequence / f"{sequence}_semantics.h5", "w") as file:
        file["ts"] = np.array(IMAGES_US, "i8")
        file["ts_map_prophesee_left_t"] = np.zeros(len(IMAGES_US), "u8")
        for name, data in (("warped_image", warped()), ("predictions", classes())):
            file.create_dataset(name, data=data, chunks=(1, *data.shape[1:]), compression="lzf")
    return root
