"""Decode messages of ROS 1 and ROS 2: events as columns, images as arrays.

No Python object is made per event: the fields of a message are found by their offsets, and its
events are viewed with NumPy. Layouts as in the message definitions of rpg_dvs_ros,
prophesee_ros_wrapper, event_camera_msgs and sensor_msgs; ROS 2 aligns numbers to their size (CDR).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scaleevent.errors import DataError
from scaleevent.formats.source import Columns
from scaleevent.images import open_image

ENCODINGS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "mono8": (1, lambda image: image[..., 0]),
    "8UC1": (1, lambda image: image[..., 0]),
    "rgb8": (3, lambda image: image),
    "bgr8": (3, lambda image: image[..., ::-1]),
    "8UC3": (3, lambda image: image[..., ::-1]),
    "rgba8": (4, lambda image: image[..., :3]),
    "bgra8": (4, lambda image: image[..., 2::-1]),
}
"""Number of channels of an encoding, and the conversion of its pixels to grey or RGB."""


class Reader:
    """Reads the fields of one message in order.

    Args:
        data: The message.
        cdr: Whether it is encoded as in ROS 2.

    Raises:
        DataError: A field extends beyond the message, or numbers are big-endian.
    """

    def __init__(self, data: bytes, cdr: bool) -> None:
        self.data, self.cdr, self.at = data, cdr, 0
        if cdr:
            if data[:2] != b"\x00\x01":
                raise DataError("not a little-endian CDR message", found=data[:4].hex(" "))
            self.data = data[4:]

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        part = self.data[self.at : self.at + size]
        if len(part) < size:
            raise DataError(
                "message too short", found=f"{len(self.data)} bytes", expected=f"{self.at + size}"
            )
        self.at += size
        return part

    def number(self, size: int) -> int:
        """An unsigned integer of `size` bytes."""
        if self.cdr:
            self.at += -self.at % size
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        """A string; in ROS 2 its length includes the zero after it."""
        return self.take(self.number(4)).rstrip(b"\0").decode("latin-1")

    def header(self) -> int:
        """Skip the header and return its stamp in ns."""
        if not self.cdr:
            self.number(4)
        seconds, nanoseconds = self.number(4), self.number(4)
        self.text()
        return seconds * 1_000_000_000 + nanoseconds


class Packet(NamedTuple):
    """Content of a message of encoded events."""

    height: int  # sensor rows
    width: int  # sensor columns
    encoding: str
    base_ns: int  # the times of the events are relative to it, in encodings with such times
    words: bytes  # the encoded events


def read_packet(data: bytes, cdr: bool) -> Packet:
    """Read a message of event_camera_msgs/EventPacket or event_array_msgs/EventArray."""
    reader = Reader(data, cdr)
    reader.header()
    height, width = reader.number(4), reader.number(4)
    reader.number(8)
    base, encoding, big_endian = reader.number(8), reader.text(), reader.number(1)
    if big_endian:
        raise DataError("big-endian events", expected="little-endian ones")
    return Packet(height, width, encoding, base, reader.take(reader.number(4)))


def mono_columns(packet: Packet) -> Columns:
    """Events of encoding "mono": 64 bits with relative time in ns, column, row and polarity."""
    if len(packet.words) % 8:
        raise DataError("events cut short", found=f"{len(packet.words)} bytes of 8-byte words")
    words = np.frombuffer(packet.words, "<u8")
    t = (words & np.uint64(0xFFFFFFFF)).astype(np.int64) + packet.base_ns
    x = (words >> np.uint64(32)).astype(np.uint16)
    y = ((words >> np.uint64(48)) & np.uint64(0x7FFF)).astype(np.uint16)
    return t // 1000, x, y, (words >> np.uint64(63)).astype(np.uint8)


def read_event_array(
    data: bytes, cdr: bool, whole_stamps: bool
) -> tuple[tuple[int, int], np.ndarray]:
    """(height, width) and (K,) records of dvs_msgs/ or prophesee_event_msgs/EventArray.

    Args:
        data: The message.
        cdr: Whether it is encoded as in ROS 2.
        whole_stamps: Whether a stamp is one 64-bit number, as in old bags.

    Returns:
        Size, and records with x, y, p and either s and ns or the whole stamp t.
    """
    reader = Reader(data, cdr)
    reader.header()
    size = (reader.number(4), reader.number(4))
    count = reader.number(4)
    stamp = [("t", 4, "<u8")] if whole_stamps else [("s", 4, "<u4"), ("ns", 8, "<u4")]
    fields = [("x", 0, "<u2"), ("y", 2, "<u2"), *stamp, ("p", 12, "u1")]
    if not cdr:
        return size, np.frombuffer(reader.take(13 * count), _records(fields, 13), count)
    if whole_stamps:
        raise DataError("events with stamps of 64 bits in a ROS 2 bag")
    # except in the first event, x and y follow the polarity of the event before without padding
    body = reader.take(16 * count - 3) + b"\0\0\0" if count else b""
    rows = np.frombuffer(body, _records(fields, 16), count).copy()
    if count > 1:
        shifted = np.frombuffer(body[14:-2], np.dtype("<u2")).reshape(-1, 8)
        rows["x"][1:], rows["y"][1:] = shifted[:, 0], shifted[:, 1]
    return size, rows


def _records(fields: list[tuple[str, int, str]], size: int) -> np.dtype:
    """Record type of `size` bytes from names, offsets and types of its fields."""
    names, offsets, formats = zip(*fields, strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


def read_image(data: bytes, cdr: bool) -> tuple[int, np.ndarray]:
    """Stamp in ns and (H, W) or (H, W, 3) uint8 of a sensor_msgs/Image."""
    reader = Reader(data, cdr)
    stamp = reader.header()
    height, width = reader.number(4), reader.number(4)
    encoding = reader.text()
    reader.number(1)
    step, pixels = reader.number(4), reader.take(reader.number(4))
    if encoding not in ENCODINGS:
        raise DataError("images of another encoding", found=encoding, expected=", ".join(ENCODINGS))
    channels, convert = ENCODINGS[encoding]
    if step < width * channels or len(pixels) < step * height:
        raise DataError(
            "image too short", found=f"{len(pixels)} bytes", expected=f"{height} rows of {step}"
        )
    rows = np.frombuffer(pixels, np.uint8, step * height).reshape(height, step)
    image = rows[:, : width * channels].reshape(height, width, channels)
    return stamp, convert(image)


def read_compressed_image(data: bytes, cdr: bool) -> tuple[int, np.ndarray]:
    """The same for a sensor_msgs/CompressedImage."""
    reader = Reader(data, cdr)
    stamp = reader.header()
    reader.text()
    encoded = reader.take(reader.number(4))
    with open_image(encoded, "a compressed image") as picture:
        grey = picture.mode in ("L", "1")
        return stamp, np.asarray(picture.convert("L" if grey else "RGB"))
