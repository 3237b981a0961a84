"""Trees of picture data sets as they are published, written from their documentation."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from clip_files import moving
from PIL import Image

HEIGHT, WIDTH = 24, 56  # wider than 4:3, as all of them are


def pictures(count: int, step: float = 0.6) -> list[np.ndarray]:
    return moving(count, HEIGHT, WIDTH, step)


def save(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=95)
    return path


def write_snippet(
    root: Path, split: str, city: str, sequence: int, first: int, side: str = "left",
    times_ns: list[int] | None = None, count: int = 30,
) -> list[Path]:  # fmt: skip
    """{root}/{type}{video}/{split}/{city}/{city}_{seq:0>6}_{frame:0>6}_{type}{ext}, mcordts's."""
    paths = []
    for k, picture in enumerate(pictures(count)):
        stem = f"{city}_{sequence:06d}_{first + k:06d}"
        kind = f"{side}Img8bit"
        place = root / f"{kind}_sequence" / split / city / f"{stem}_{kind}.png"
        paths.append(save(place, picture))
        if times_ns is not None:
            time = root / "timestamp_sequence" / split / city / f"{stem}_timestamp.txt"
            time.parent.mkdir(parents=True, exist_ok=True)
            time.write_text(f"{times_ns[k]}\n")
    return paths


def write_drive(
    root: Path, drive: str = "2011_09_26_drive_0001", count: int = 4, camera: str = "image_02"
) -> Path:
    """A raw drive; its clock passes midnight, and times have nine decimals."""
    folder = root / drive[:10] / f"{drive}_sync" / camera
    lines = []
    for k, picture in enumerate(pictures(count)):
        save(folder / "data" / f"{k:010d}.png", picture)
        ns = 86_399_900_000_123 + k * 103_000_456
        day, ns = 26 + ns // 86_400_000_000_000, ns % 86_400_000_000_000
        seconds, part = divmod(ns, 10**9)
        clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        lines.append(f"2011-09-{day:02d} {clock}.{part:09d}\n")
    (folder / "timestamps.txt").write_text("".join(lines))
    return folder


def write_tracking(root: Path, tree: str, sequence: int, numbers: range | list[int]) -> Path:
    folder = root / tree / "image_02" / f"{sequence:04d}"
    for number, picture in zip(numbers, pictures(len(numbers)), strict=True):
        save(folder / f"{number:06d}.png", picture)
    return folder


def write_gopro(root: Path, split: str, name: str, first: int = 1, count: int = 17) -> Path:
    for k, picture in enumerate(pictures(count, 0.2)):
        save(root / split / name / f"{first + k:06d}.png", picture)
    return root / split / name


def write_davis(root: Path, lists: dict[str, list[str]], count: int = 3) -> None:
    (root / "ImageSets" / "2017").mkdir(parents=True, exist_ok=True)
    for split, names in lists.items():
        (root / "ImageSets" / "2017" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            for k, picture in enumerate(pictures(count)):
                save(root / "JPEGImages" / "480p" / name / f"{k:05d}.jpg", picture)


def write_pair(root: Path, scene: str, folder: str, number: int, count: int = 3) -> Path:
    place = root / scene / folder / f"pair{number}"
    for k, picture in enumerate(pictures(count)):
        save(place / f"{k + 9}.png", picture)  # 9, 10, 11: not in the order of their letters
    return place


# TFRecord and protobuf, byte by byte, from their specifications; the checksum bit by bit


def checksum(data: bytes) -> int:
    rest = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            top = (rest ^ (byte >> bit)) & 1
            rest = (rest >> 1) ^ (0x82F63B78 if top else 0)
    rest ^= 0xFFFFFFFF
    return ((rest >> 15 | rest << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def put(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    return varint(number << 3) + varint(value)


def jpeg(picture: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=95)
    return data.getvalue()


def frame_message(name: str, trigger: float, images: dict[int, np.ndarray]) -> bytes:
    """A `Frame`: context, timestamp, pose, images in any order, lasers, labels."""
    message = put(1, put(1, name.encode())) + put(2, round(1e6 * trigger))
    message += put(3, put(1, 1.0) * 16)
    for camera, picture in images.items():
        shutter = put(6, 0.001)
        pose = put(3, put(1, 0.5) * 16) + put(4, varint(1 << 3 | 5) + struct.pack("<f", 2.5))
        message += put(4, put(1, camera) + put(2, jpeg(picture)) + pose + put(5, trigger + 5.0)
                       + shutter + put(7, trigger) + put(8, trigger + 0.03))  # fmt: skip
    return message + put(5, put(1, 1) + put(2, b"\x00" * 200)) + put(1000, 1 << 40)


def write_records(path: Path, messages: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b""
    for message in messages:
        length = struct.pack("<Q", len(message))
        data += length + struct.pack("<I", checksum(length))
        data += message + struct.pack("<I", checksum(message))
    path.write_bytes(data)
    return path


def write_segment(path: Path, count: int = 4, cameras: tuple[int, ...] = (3, 1)) -> Path:
    messages = [
        frame_message(path.stem, 1_550_000_000.25 + 0.1 * k,
                      {camera: picture // camera for camera in cameras})
        for k, picture in enumerate(pictures(count))
    ]  # fmt: skip
    return write_records(path, messages)


# One recording of each

TREES = {
    "cityscapes": lambda root: write_snippet(root, "train", "aachen", 0, 0),
    "kitti": write_drive,
    "waymo": lambda root: write_segment(root / "training" / "segment-1.tfrecord"),
    "gopro": lambda root: write_gopro(root, "train", "GOPR0372_07_00"),
    "sdsd": lambda root: write_pair(root, "indoor_png", "GT", 1),
    "davis-2017": lambda root: write_davis(root, {"train": ["bear"]}),
}
