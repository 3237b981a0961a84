"""Clips written for tests: moving textures as videos, with any times, or as pictures."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_TEXTURE = 40 + 160 * np.kron(np.random.default_rng(3).random((30, 60)), np.ones((8, 8)))


def moving(count: int, height: int = 48, width: int = 64, step: float = 2.0) -> list[np.ndarray]:
    """(height, width, 3) uint8 pictures of a texture that moves left by `step` pixels each."""
    pictures = []
    for k in range(count):
        whole, part = int(k * step), k * step % 1
        left = _TEXTURE[40 : 40 + height, 20 + whole : 20 + whole + width]
        right = _TEXTURE[40 : 40 + height, 21 + whole : 21 + whole + width]
        grey = np.round((1 - part) * left + part * right)
        pictures.append(np.stack((grey, 0.9 * grey, 0.8 * grey), 2).astype(np.uint8))
    return pictures


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    times_us: Sequence[int] | None = None,
    codec: str = "ffv1",
    pixels: str = "bgr0",
    aspect: Fraction | None = None,
    **options: str,
) -> Path:
    """A video whose frames have these times, 40 ms apart if none are given."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    head_first = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=head_first) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if times_us is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times_us is not None:
                frame.pts, frame.time_base = times_us[k] // 1000, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_h264(path: Path, pictures: Sequence[np.ndarray]) -> Path:
    """A video as cameras write them: `.mp4` or, without any times, `.h264`."""
    return write_video(path, pictures, codec="libx264", pixels="yuv420p", g="4")


def write_sequence(
    folder: Path, pictures: Sequence[np.ndarray], suffix: str = ".png", quality: int = 95
) -> list[Path]:
    """Pictures named by number, from 1 on, without leading zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"frame_{k + 1}{suffix}" for k in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path, quality=quality)
    return paths


def turn(path: Path, turns: int) -> Path:
    """Tell players to turn the pictures of an MP4 file by quarters to the right.

    The track header's matrix (ISO/IEC 14496-12, 8.3.2), in 16.16 fixed point.
    """
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    at += 4 + (32 if data[at] else 20) + 16
    a, b = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns % 4]
    one = 1 << 16
    data[at : at + 36] = struct.pack(
        ">9i", a * one, b * one, 0, -b * one, a * one, 0, 0, 0, 1 << 30
    )
    path.write_bytes(data)
    return path
