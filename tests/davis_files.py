"""Writers of small MVSEC and DDD17 files, key by key and byte by byte as the originals are."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import PrepareConfig
from scaleevent.events import Events
from tests.event_files import some_events

DAVIS = (260, 346)
START_US = 1_506_117_000_123_457  # a moment of 2017, as MVSEC's clocks tell it


def davis_events(number: int = 4000, span_us: int = 400_000, start_us: int = START_US) -> Events:
    """Random events of the whole sensor."""
    return some_events(number, *DAVIS, start_us=start_us, span_us=span_us)


def grey_images(number: int) -> np.ndarray:
    """(number, 260, 346) uint8, each of another brightness."""
    shades = 10 * np.arange(1, number + 1, dtype=np.uint8)
    return np.broadcast_to(shades[:, None, None], (number, *DAVIS)).copy()


def write_mvsec_data(path: Path, events: Events, images: np.ndarray, images_us: Sequence) -> Path:
    """`SCENE_data.hdf5`: both cameras' events as rows x, y, t [s], p [-1, +1] in float64."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = (events.x, events.y, events.t / 1e6, events.p * 2.0 - 1.0)
    rows = np.stack([np.asarray(column, np.float64) for column in columns], 1)
    inside = np.searchsorted(events.t, images_us, "right") - 1
    with h5py.File(path, "w") as file:
        left = file.create_group("davis/left")
        left.create_dataset("events", data=rows, chunks=(512, 4), maxshape=(None, 4))
        left["image_raw"] = images
        left["image_raw_ts"] = np.asarray(images_us, np.float64) / 1e6
        left["image_raw_event_inds"] = inside
        file["davis/right/events"] = rows[::2]
        file["velodyne/scans_ts"] = np.zeros(1)
    return path


RIGHT_US = START_US + np.array([30_000, 61_000, 122_000])


def write_scene(root: Path, scene: str = "outdoor_day2", right: bool = True) -> Path:
    """The data file of a scene: both cameras have events, the right one perhaps images.

    Right events are every second left one, later images than the left ones. The first left image
    comes before any event (`image_raw_event_inds` -1), as at the start of the real files.
    """
    times_us = [START_US - 1, *IMAGES_US]
    path = root / "hdf5" / f"{scene}_data.hdf5"
    write_mvsec_data(path, davis_events(), grey_images(len(times_us)), times_us)
    if right:
        with h5py.File(path, "a") as file:
            file["davis/right/image_raw"] = 255 - grey_images(len(RIGHT_US))
            file["davis/right/image_raw_ts"] = np.asarray(RIGHT_US, np.float64) / 1e6
    return root


def write_mvsec_truth(path: Path, **maps: tuple[np.ndarray, Sequence]) -> Path:
    """`SCENE_gt.hdf5` with datasets by name, each maps and their times in us."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "a") as file:
        for name, (values, times_us) in maps.items():
            file[f"davis/left/{name}"] = values
            file[f"davis/left/{name}_ts"] = np.asarray(times_us, np.float64) / 1e6
    return path


def write_flow_npz(
    path: Path, flow: np.ndarray, times_us: Sequence, compressed: bool = False
) -> Path:
    """`SCENE_gt_flow_dist.npz` of (K, 2, 260, 346) flow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save = np.savez_compressed if compressed else np.savez
    save(
        path,
        timestamps=np.asarray(times_us, np.float64) / 1e6,
        x_flow_dist=flow[:, 0],
        y_flow_dist=flow[:, 1],
    )
    return path


def write_ddd17(
    folder: Path,
    events: Events,
    images_us: Sequence[int],
    masks: dict[int, np.ndarray],
    pictures: bool = True,
) -> Path:
    """One `dirN` of ESS's archive, image numbers from 1; stamps in ns, off the microsecond."""
    (folder / "index").mkdir(parents=True)
    (events.t * 1000 + 250).astype("<i8").tofile(folder / "events.dat.t")
    rows = np.stack([events.x, events.y, events.p], 1).astype("<i2")
    rows.tofile(folder / "events.dat.xyp")
    times = np.asarray(images_us, np.int64)
    ends = np.searchsorted(events.t, times, "left")
    begins = np.searchsorted(events.t, times - 50_000, "left")
    np.save(folder / "index/index_50ms.npy", np.stack([times * 1000 + 250, ends, begins], 1))
    (folder / "segmentation_masks").mkdir()
    for number, mask in masks.items():
        name = f"segmentation_{number:08d}.png"
        Image.fromarray(mask).save(folder / "segmentation_masks" / name)
    if pictures:
        (folder / "imgs").mkdir()
        for number, picture in enumerate(grey_images(len(times)), 1):
            picture[200:] = 255  # the hood
            Image.fromarray(picture).save(folder / "imgs" / f"img_{number:08d}.png")
    return folder


DEPTHS_US = START_US + np.array([60_003, 110_001, 160_000, 210_007])
IMAGES_US = START_US + np.array([20_000, 52_000, 112_000, 140_000, 320_000])


def depth_maps() -> np.ndarray:
    """Depth with holes, and values that are no depth in the corner."""
    rng = np.random.default_rng(0)
    maps = rng.uniform(2, 90, (len(DEPTHS_US), *DAVIS)).astype(np.float32)
    maps[rng.random(maps.shape) < 0.3] = np.nan
    maps[:, 0, :4] = (0, -1, np.inf, 7)
    return maps


def write_depth(root: Path, scene: str = "outdoor_night2", maps: np.ndarray | None = None) -> Path:
    """Both files of a scene with depth."""
    events = davis_events()
    images = grey_images(len(IMAGES_US))
    write_mvsec_data(root / f"{scene}_data.hdf5", events, images, IMAGES_US)
    maps = depth_maps() if maps is None else maps
    write_mvsec_truth(root / f"{scene}_gt.hdf5", depth_image_raw=(maps, DEPTHS_US))
    return root


FLOW_US = START_US + 50_000 * np.arange(1, 8)  # 50 .. 350 ms
FRAMES_US = START_US + np.array([20_000, 70_000, 92_000, 114_500, 180_000, 202_000, 260_000])


@cache
def flow_maps() -> np.ndarray:
    """Flow with holes, 50 ms a map."""
    rng = np.random.default_rng(2)
    maps = rng.normal(0, 6, (len(FLOW_US), 2, *DAVIS))
    maps[:, :, rng.random(DAVIS) < 0.2] = 0
    maps[:, 0, 5, :40] = 0  # one component alone
    maps[:, :, 10, 10], maps[:, 0, 12, 12] = np.nan, np.inf
    return maps


def write_flow(root: Path, scene: str = "indoor_flying2", truth: str = "npz") -> Path:
    """Both files of a scene with flow; `truth` is npz, compressed or hdf5."""
    events = davis_events()
    images = grey_images(len(FRAMES_US))
    write_mvsec_data(root / "hdf5" / f"{scene}_data.hdf5", events, images, FRAMES_US)
    if truth == "hdf5":
        path = root / "hdf5" / f"{scene}_gt.hdf5"
        write_mvsec_truth(path, flow_dist=(flow_maps(), FLOW_US))
    else:
        path = root / "gt_flow" / f"{scene}_gt_flow_dist.npz"
        write_flow_npz(path, flow_maps(), FLOW_US, compressed=truth == "compressed")
    return root


DRIVE_US = 1_000 + np.array([0, 60_000, 110_000, 160_000, 210_000, 900_000])


def class_masks(*numbers: int) -> dict[int, np.ndarray]:
    """Labels of these images, all classes and none of them in each."""
    rng = np.random.default_rng(4)
    return {
        number: rng.choice([0, 1, 2, 3, 4, 5, 255], (200, 346)).astype(np.uint8)
        for number in numbers
    }


def drive_events() -> Events:
    """Events of a drive, whose clock starts near 0."""
    return davis_events(start_us=1_000)


def write_drive(root: Path, name: str = "dir0", masks: dict | None = None) -> Path:
    """The folder of one drive, images 2, 4 and 5 labelled."""
    masks = class_masks(2, 4, 5) if masks is None else masks
    return write_ddd17(root / name, drive_events(), DRIVE_US.tolist(), masks)


DDD17_FRAMES_US = 1_000 + np.array([2_000, 62_000, 112_000, 290_000])  # starts of the exposures
EXPOSURE_US = 8_000


def write_raw_drive(
    root: Path, name: str = "rec1487339175", events: Events | None = None, reset: bool = False
) -> Path:
    """`rec*.hdf5` as SensorsINI/ddd20-utils:record.py writes it, sensor upside down.

    A row is the host's time as decimal text, a header and a packet; between packets of events are
    those of the motion sensor and special events; rows that were never filled end the table. Every
    tenth event is marked invalid besides the real ones. With `reset` the clock begins anew after
    two thirds of the events.
    """
    root.mkdir(parents=True, exist_ok=True)
    events = drive_events() if events is None else events
    frames = grey_images(len(DDD17_FRAMES_US))
    rows: list[tuple[int, bytes]] = []
    host = 1_487_339_175_000_000
    last = int(events.t[len(events) * 2 // 3])

    def row(kind: int, size: int, offset: int, items: list[bytes], t: int) -> tuple[int, bytes]:
        header = (kind, 1, size, offset, t >> 31, len(items), len(items), len(items))
        return t, struct.pack("<hhiiiiii", *header) + b"".join(items)

    for first in range(0, len(events), 250):
        part = events[first : first + 250]
        words = []
        for t, x, y, p in zip(*(getattr(part, c).tolist() for c in "txyp"), strict=True):
            word = (345 - x) << 17 | (259 - y) << 2 | p << 1
            words += [struct.pack("<Ii", word | 1, t & 0x7FFFFFFF)]
            words += [struct.pack("<Ii", word, t & 0x7FFFFFFF)] * (len(words) % 11 == 0)
        rows.append(row(1, 8, 4, words, int(part.t[0])))
    base = int(events.t[0]) - int(drive_events().t[0])
    for us, image in zip((DDD17_FRAMES_US + base).tolist(), frames, strict=True):
        low = us & 0x7FFFFFFF
        head = (1, low - 5, low + 9_000, low, low + EXPOSURE_US, 346, 260, 0, 0)
        pixels = (image[::-1, ::-1].astype("<u2") * 256 + 77).tobytes()
        rows.append(row(2, 36 + len(pixels), 12, [struct.pack("<9i", *head) + pixels], us))
    rows.append(row(3, 36, 4, [bytes(36)], int(events.t[0])))
    rows.append(row(0, 8, 4, [struct.pack("<Ii", 0 << 1 | 1, 0)], int(events.t[0])))  # a wrap
    rows.sort(key=lambda one: one[0])
    if reset:
        after = next(k for k, (t, data) in enumerate(rows) if t > last and data[0] == 1)
        rows.insert(after, row(0, 8, 4, [struct.pack("<Ii", 1 << 1 | 1, 0)], last))
    kind = h5py.special_dtype(vlen=np.uint8)
    with h5py.File(root / f"{name}.hdf5", "w") as file:
        data = file.create_dataset("dvs/data", (256, 3), kind, maxshape=(None, 3), chunks=(128, 3))
        stamps = np.zeros(256, np.int64)
        for k, (_, packet) in enumerate(rows):
            stamps[k] = host + 1000 * k
            parts = (str(stamps[k]).encode(), packet[:28], packet[28:])
            for column, part in enumerate(parts):
                data[k, column] = np.frombuffer(part, np.uint8)
        file["dvs/timestamp"] = stamps
        file["steering_wheel_angle/data"] = np.ones((5, 2))
    return root


def sources(name: str, *roots: Path, **settings: object) -> list:
    """The tasks that `prepare` would run."""
    config = PrepareConfig(name=name, roots=list(roots), **settings)
    return DATASETS[name].load().sources(config)
