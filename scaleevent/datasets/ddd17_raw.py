"""DDD17's and DDD20's recordings as they were recorded: packets of the DAVIS346 in rows of HDF5.

    dvs/data         (rows, 3) items of bytes: host time as decimal text, packet header, packet
    dvs/timestamp    (rows,) int64 host time; rows that were never filled are empty

SensorsINI/ddd20-utils:record.py and datasets.py. Header and packets are libcaer's, little endian:
28 bytes type, source, size of an event, offset of its time, overflow of its time, capacity, number,
valid; SensorsINI/ddd20-utils:interfaces/caer.py. Times have 31 bits, and the header counts how
often they overflowed, so a special event of type 0, which tells of that, needs no further offset;
one of type 1 tells that the clock began anew (special.h of inivation's libcaer). What follows is
put `RESET_GAP_US` later, so that no window of time spans it, and a window of a number of events
that does is known by its length. A reset before everything else, as at the start of the camera,
moves nothing.

The camera was mounted upside down: pixels are turned by 180 degrees, as
SensorsINI/v2e:v2ecore/ddd20_utils/ddd_h5_reader.py does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scaleevent.errors import DataError
from scaleevent.formats.source import BLOCK, COPY_AGAIN, Frame, RawBlock, Source
from scaleevent.system.hdf5_process import Hdf5File

SENSOR = (260, 346)
TABLE = "/dvs/data"
RESET_GAP_US = 20_000_000  # longer than the longest window of time

_ROWS, _HEADERS = 128, 4096  # read at once: whole rows as they were written, headers alone
_SPECIAL, _POLARITY, _FRAME = 0, 1, 2  # types of packets
_RESET = 1  # type of a special event
_HEADER = np.dtype(
    [("type", "<i2"), ("source", "<i2"), *((name, "<i4") for name in (
        "size", "offset", "overflow", "capacity", "number", "valid"))]
)  # fmt: skip
_EVENT = np.dtype([("data", "<u4"), ("time", "<i4")])
# of a frame: info, start and end of the frame, of the exposure, width, height, column, row
_WORDS, _FRAME_BYTES = 9, 4 * 9 + 2 * SENSOR[0] * SENSOR[1]


class Packet(NamedTuple):
    """One packet: its row, type, what is added to its times, and its bytes."""

    row: int
    kind: int
    offset_us: int
    data: np.ndarray


@dataclass(frozen=True)
class RawDavis(Source):
    """Decoder of one recording.

    Args:
        path: The file.
        upright: Whether pixels are turned by 180 degrees.
    """

    path: Path
    upright: bool = True
    format = "DDD17 packets"
    size = SENSOR
    notes = {"time unit": "us"}

    @property
    def has_frames(self) -> bool:
        """It has."""
        return True

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """All events from the beginning."""
        first = gathered = invalid = 0
        parts: list[RawBlock] = []
        for packet in self._packets():
            if packet.kind != _POLARITY:
                continue
            block, dropped = self._events(packet, first + gathered)
            invalid += dropped
            parts.append(block)
            gathered += len(block)
            if gathered >= BLOCK:
                yield RawBlock.join(parts)
                first, gathered, parts = first + gathered, 0, []
        if parts:
            yield RawBlock.join(parts)
        if invalid:
            nothing = np.empty(0, np.int64)
            marked = {"marked invalid by the camera": invalid}
            yield RawBlock(first + gathered, nothing, nothing, nothing,
                           nothing.astype(np.uint8), marked)  # fmt: skip

    def frames(self) -> Iterator[Frame]:
        """The frames in the order of the file, of the upper 8 of their 16 bits."""
        for packet in self._packets():
            if packet.kind != _FRAME:
                continue
            if len(packet.data) % _FRAME_BYTES:
                raise self._damaged(packet.row, f"frames of {len(packet.data)} bytes in all")
            for frame in packet.data.reshape(-1, _FRAME_BYTES):
                yield self._frame(packet, frame)

    def count_frames(self) -> int:
        """Number of frames, from the headers."""
        file = Hdf5File(self.path)
        total = 0
        for first in range(0, len(file.datasets[TABLE]), _HEADERS):
            last = min(first + _HEADERS, len(file.datasets[TABLE]))
            lengths, items = file.ragged(TABLE, first, last, 1)
            if not np.isin(lengths, (0, _HEADER.itemsize)).all():
                raise self._damaged(first, "packet headers of other sizes in this row or later")
            headers = items.view(_HEADER)
            total += int(headers["number"][headers["type"] == _FRAME].sum())
        return total

    def _frame(self, packet: Packet, data: np.ndarray) -> Frame:
        """One frame of a packet."""
        words = data[: 4 * _WORDS].view("<i4").tolist()
        height, width = SENSOR
        if words[5:7] != [width, height]:
            raise self._damaged(packet.row, f"a frame of {words[5]}x{words[6]} pixels")
        image = (data[4 * _WORDS :].view("<u2").reshape(height, width) >> 8).astype(np.uint8)
        start, end = (word + packet.offset_us for word in words[3:5])
        if not start <= end:
            raise self._damaged(packet.row, f"an exposure from {start} to {end} us")
        return Frame(image[::-1, ::-1].copy() if self.upright else image, start, end)

    def _events(self, packet: Packet, first: int) -> tuple[RawBlock, int]:
        """The valid events of a packet, and how many are marked as invalid."""
        events = packet.data.view(_EVENT)
        data = events["data"]
        valid = (data & 1).astype(bool)
        t = events["time"].astype(np.int64) + packet.offset_us
        x, y = (data >> 17).astype(np.int32), (data >> 2 & 0x7FFF).astype(np.int32)
        if self.upright:
            x, y = SENSOR[1] - 1 - x, SENSOR[0] - 1 - y
        block = RawBlock(first, t, x, y, (data >> 1 & 1).astype(np.uint8)).take(valid)
        return block, int(np.count_nonzero(~valid))

    def _packets(self) -> Iterator[Packet]:
        """Packets of events and frames, in the order of the file."""
        file = Hdf5File(self.path)
        rows = len(file.datasets[TABLE]) if TABLE in file.datasets else 0
        offset = latest = 0
        met = False  # whether there is anything yet that a reset comes after
        for first in range(0, max(rows, 1), _ROWS):
            lengths, items = file.ragged(TABLE, first, min(first + _ROWS, rows))
            ends = np.cumsum(lengths.ravel()).reshape(lengths.shape)
            for row, (stamp, head, end) in enumerate(ends.tolist(), first):
                size = int(lengths[row - first, 1])
                if size == 0 and stamp == head == end:
                    continue  # never filled
                if size != _HEADER.itemsize:
                    raise self._damaged(row, f"a packet header of {size} bytes")
                header = items[stamp:head].view(_HEADER)[0]
                kind, data = int(header["type"]), items[head:end]
                if kind not in (_SPECIAL, _POLARITY, _FRAME):
                    continue
                whole = int(header["size"]) * int(header["capacity"])
                data = data[: int(header["size"]) * int(header["number"])]
                if end - head != whole or kind != _FRAME and header["size"] != _EVENT.itemsize:
                    raise self._damaged(row, f"{end - head} bytes where {whole} are declared")
                data = np.ascontiguousarray(data)
                wraps = int(header["overflow"]) << 31
                if kind == _SPECIAL:
                    if ((data.view(_EVENT)["data"] >> 1 & 0x7F) == _RESET).any():
                        offset = latest + RESET_GAP_US if met else 0
                elif len(data):
                    met = True
                    if kind == _POLARITY:
                        latest = int(data.view(_EVENT)["time"].max()) + wraps + offset
                    yield Packet(row, kind, wraps + offset, data)

    def _damaged(self, row: int, found: str) -> DataError:
        return DataError(
            "damaged packet", where=f"{self.path}, dataset {TABLE}, row {row}", found=found,
            hint=COPY_AGAIN,
        )  # fmt: skip
