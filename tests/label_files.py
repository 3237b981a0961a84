"""Label files as other programs write them: Pillow, NumPy, and the formats' descriptions."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = np.array([(10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200)], np.uint8)


def write_ids(path: Path, ids: np.ndarray, palette: bool = False) -> Path:
    """A PNG of (H, W) uint8 ids, grey or with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    if palette:
        image = Image.fromarray(ids, "P")
        image.putpalette(np.resize(COLOURS, (256, 3)).tobytes())
    image.save(path)
    return path


def write_depth16(path: Path, words: np.ndarray) -> Path:
    """A 16-bit grey PNG of (H, W) uint16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(words).save(path)
    return path


def write_npy(path: Path, values: np.ndarray) -> Path:
    """A NumPy file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
    return path


def write_flow16(path: Path, words: np.ndarray) -> Path:
    """A 16-bit RGB PNG of (H, W, 3) uint16, no filter, by the PNG specification."""
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in words)
    return _png(path, words.shape[1], words.shape[0], 16, 2, lines)


def write_ids4(path: Path, ids: np.ndarray) -> Path:
    """A grey PNG of 4 bits of (H, W) ids below 16, W even."""
    lines = b"".join(b"\0" + (row[::2] << 4 | row[1::2]).tobytes() for row in ids)
    return _png(path, ids.shape[1], ids.shape[0], 4, 0, lines)


def _png(path: Path, width: int, height: int, bits: int, colour: int, lines: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(lines))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b""))
    return path


def write_flo(path: Path, flow: np.ndarray) -> Path:
    """A Middlebury file of (2, H, W) float32, one number at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, height, width = flow.shape
    numbers = [struct.pack("<f", 202021.25), struct.pack("<ii", width, height)]
    for row in range(height):
        for column in range(width):
            numbers.append(struct.pack("<ff", *flow[:, row, column].tolist()))
    path.write_bytes(b"".join(numbers))
    return path


def write_classes(path: Path, text: str = "") -> Path:
    """A classes.yaml of three classes, or of this text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or (
        "classes:\n"
        "  - {name: road, colour: [128, 64, 128]}\n"
        "  - {name: car, color: '#00008e'}\n"
        "  - tree\n"
        "ignore: 255\n"
    ))  # fmt: skip
    return path
