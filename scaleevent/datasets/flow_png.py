"""Optical flow and disparity in 16-bit PNG files, which Pillow would cut down to 8 bits.

DSEC stores flow as three channels on disk in the order u, v, valid, with word = 128 f + 2^15
(uzh-rpg/DSEC:scripts/dataset/loading.py and its submission rules); KITTI 2015 the same with 64.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import numba as nb
import numpy as np

from scaleevent.errors import DataError
from scaleevent.images import PNG_SIGNATURE, png_chunks

DSEC_SCALE, KITTI_SCALE = 128.0, 64.0  # words per pixel of flow
ZERO_FLOW = 2**15
GREY_SCALE = 256.0  # words per pixel of disparity (DSEC, KITTI) or metre of depth (KITTI)

CHANNELS = {0: 1, 2: 3}  # by colour type: grey, RGB
FILTER_UP = 2
KNOWN = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # PLTE is but a suggestion in RGB files
CRITICAL = 0x20  # clear in the first letter of chunks that must not be skipped
MAX_PIXELS = 2**22  # fourteen times that of DSEC; a header that promises more is refused


def decode_flow(
    data: bytes, scale: float = DSEC_SCALE, *, where: object = None
) -> tuple[np.ndarray, np.ndarray]:
    """Flow and where it is known.

    Args:
        data: A PNG file.
        scale: Words per pixel: `DSEC_SCALE` or `KITTI_SCALE`.
        where: What the file is called in errors.

    Returns:
        (2, H, W) float32 pixels right and down, exact, 0 where unknown; (H, W) bool.

    Raises:
        DataError: Not an undamaged 16-bit RGB PNG, or a third channel other than 0 and 1.
    """
    words = read_png16(data, where=where)
    if words.shape[2] != 3 or words[..., 2].max() > 1:
        raise DataError(
            "not a flow map",
            where=where,
            found=f"{words.shape[2]} channels, the last up to {words[..., -1].max()}",
            expected="3 channels, the last 0 or 1",
        )
    valid = words[..., 2] == 1
    flow = (words[..., :2].astype(np.float32) - ZERO_FLOW) / np.float32(scale)
    return np.ascontiguousarray(np.where(valid, flow.transpose(2, 0, 1), 0)), valid


def encode_flow(
    flow: np.ndarray,
    valid: np.ndarray | None = None,
    scale: float = DSEC_SCALE,
    *,
    where: object = None,
) -> bytes:
    """A PNG file of flow, rounded to the nearest word, halves to even.

    Args:
        flow: (2, H, W) pixels right and down.
        valid: (H, W) bool; unknown pixels become 0 in all channels. None: a DSEC submission, flow
            everywhere and 0 in the third channel.
        scale: Words per pixel: `DSEC_SCALE` or `KITTI_SCALE`.
        where: What the file is called in errors.

    Raises:
        DataError: Flow that is not finite or does not fit 16 bits; from -256 to 255.99 px in DSEC.
    """
    if flow.ndim != 3 or len(flow) != 2 or (valid is not None and valid.shape != flow.shape[1:]):
        found = flow.shape if valid is None else f"{flow.shape}, valid {valid.shape}"
        raise DataError("not a flow map", where=where, found=found, expected="(2, H, W)")
    written = np.ones(flow.shape[1:], bool) if valid is None else valid.astype(bool)
    words = np.rint(np.asarray(flow, np.float64) * scale + ZERO_FLOW)
    wrong = np.argwhere(~((words >= 0) & (words <= 0xFFFF)) & written)
    if len(wrong):
        channel, row, column = wrong[0]
        raise DataError(
            "flow that its 16-bit encoding cannot hold",
            where=where,
            found=f"{flow[channel, row, column]} px at row {row}, column {column}; "
            f"{len(wrong)} values in total",
            expected=f"{-ZERO_FLOW / scale} to {(0xFFFF - ZERO_FLOW) / scale}",
        )
    image = np.zeros((*written.shape, 3), np.uint16)
    image[written, :2] = words[:, written].T
    if valid is not None:
        image[..., 2] = written
    return write_png16(image)


def decode_grey(data: bytes, *, where: object = None) -> np.ndarray:
    """Disparity in pixels (DSEC, KITTI) or depth in metres (KITTI): word / 256.

    Args:
        data: A PNG file.
        where: What the file is called in errors.

    Returns:
        (H, W) float32, NaN where the word is 0: unknown.

    Raises:
        DataError: Not an undamaged 16-bit grey PNG.
    """
    words = read_png16(data, where=where)
    if words.shape[2] != 1:
        raise DataError("not a grey image", where=where, found=f"{words.shape[2]} channels")
    words = words[..., 0]
    return np.where(words > 0, words / np.float32(GREY_SCALE), np.float32(np.nan))


def read_png16(data: bytes, *, where: object = None) -> np.ndarray:
    """Pixels of a 16-bit grey or RGB PNG file without interlacing.

    Returns:
        (H, W, C) uint16, C = 1 or 3, in the file's order.

    Raises:
        DataError: Another kind of PNG, no PNG, damage, or beyond 2^22 pixels.
    """
    refuse = partial(DataError, where=where)
    chunks = _chunks(data, where)
    kind, header = next(chunks)
    if kind != b"IHDR" or len(header) != 13:
        raise refuse("a PNG file without its header", found=kind)
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", header)
    if depth != 16 or colour not in CHANNELS or any(methods):
        raise refuse(
            "a PNG file of another kind",
            found=f"bit depth {depth}, colour type {colour}, "
            "compression {}, filter {}, interlace {}".format(*methods),
            expected="bit depth 16, colour type 0 (grey) or 2 (RGB), and 0, 0, 0",
        )
    if not 0 < width * height <= MAX_PIXELS:
        found, expected = f"{height} x {width}", f"up to {MAX_PIXELS} pixels"
        raise refuse("a PNG file of an implausible size", found=found, expected=expected)
    step = 2 * CHANNELS[colour]
    packed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    lines = _inflate(packed, height * (1 + step * width), refuse).reshape(height, -1)
    if lines[:, 0].max() > 4:
        raise refuse("a PNG line with an unknown filter", found=lines[:, 0].max())
    pixels = np.zeros((height + 1, step * (width + 1)), np.uint8)  # zeros above and to the left
    _unfilter(lines, step, pixels)
    words = np.ascontiguousarray(pixels[1:, step:]).view(">u2")
    return words.reshape(height, width, -1).astype(np.uint16)


def write_png16(image: np.ndarray) -> bytes:
    """A PNG file of (H, W, C) uint16 pixels, C = 1 or 3."""
    height, width, channels = image.shape
    colour = {count: colour for colour, count in CHANNELS.items()}[channels]
    raw = image.astype(">u2").reshape(height, -1).view(np.uint8)
    # neighbours in a column are alike, and their differences compress
    lines = np.full((height, 1 + raw.shape[1]), FILTER_UP, np.uint8)
    lines[:, 1:] = np.diff(raw, axis=0, prepend=np.zeros_like(raw[:1]))
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", _crc(kind, content))
        for kind, content in chunks
    )


def _crc(kind: bytes, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(kind))


def _chunks(data: bytes, where: object) -> Iterator[tuple[bytes, memoryview]]:
    """Name and content of every chunk up to the end mark, each of a kind that can be read."""
    for kind, content in png_chunks(data, where):
        if kind[0] & CRITICAL == 0 and kind not in KNOWN:
            raise DataError("a PNG file with a chunk we cannot read", where=where, found=kind)
        yield kind, content


def _inflate(packed: bytes, size: int, refuse: Callable[..., DataError]) -> np.ndarray:
    """Exactly `size` bytes from a zlib stream; never more than one byte beyond in memory."""
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(packed, size + 1)
    except zlib.error as error:
        raise refuse("damaged pixels in a PNG file", found=error) from error
    if len(raw) != size or not stream.eof:
        what = "a PNG file with other pixels than its header promises"
        found = f"{len(raw)} bytes" if len(raw) <= size else "more"
        raise refuse(what, found=found, expected=f"{size} bytes")
    return np.frombuffer(raw, np.uint8)


@nb.njit(nogil=True, cache=True)
def _unfilter(lines: np.ndarray, step: int, pixels: np.ndarray) -> None:
    """Undo PNG's five filters (W3C PNG, section 9) into `pixels`, padded by a row and a pixel."""
    for y in range(lines.shape[0]):
        kind = lines[y, 0]
        for x in range(step, pixels.shape[1]):
            left = np.int64(pixels[y + 1, x - step])
            up = np.int64(pixels[y, x])
            corner = np.int64(pixels[y, x - step])
            guess = np.int64(0)
            if kind == 1:
                guess = left
            elif kind == 2:
                guess = up
            elif kind == 3:
                guess = (left + up) // 2
            elif kind == 4:
                guess = _paeth(left, up, corner)
            pixels[y + 1, x] = np.uint8(lines[y, 1 + x - step] + guess)


@nb.njit(nogil=True, cache=True)
def _paeth(left: np.int64, up: np.int64, corner: np.int64) -> np.int64:
    """Whichever of three neighbours is nearest to left + up - corner."""
    to_left, to_up = abs(up - corner), abs(left - corner)
    to_corner = abs(left + up - 2 * corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner
