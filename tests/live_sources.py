"""Time that moves only when told to, cut streams, and senders of UDP packets, for live sources."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import numpy as np

from scaleevent.events import Events
from scaleevent.formats.source import RawBlock
from tests.event_files import rows_of


class FakeTimer:
    """A clock that moves only by what is slept, and notes it."""

    def __init__(self, now: float = 100.0) -> None:
        self.time, self.slept = now, []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += max(seconds, 0)


def pieces(data: bytes, rng: np.random.Generator, mean: int) -> Iterator[bytes]:
    """The bytes, cut anywhere."""
    at = 0
    while at < len(data):
        step = int(rng.integers(1, 2 * mean))
        yield data[at : at + step]
        at += step


def joined(blocks: Iterable[RawBlock]) -> dict:
    """All that raw blocks say, however they are cut."""
    blocks = list(blocks)
    said: dict = {name: [] for name in "txyp"}
    for block in blocks:
        for name in "txyp":
            said[name] += getattr(block, name).tolist()
    said["first"] = [block.first for block in blocks if len(block)][:1]
    for kind in ("dropped", "ignored"):
        said[kind] = {}
        for block in blocks:
            for name, count in getattr(block, kind).items():
                said[kind][name] = said[kind].get(name, 0) + count
    said["flaws"] = {}
    for flaw in (flaw for block in blocks for flaw in block.flaws):
        said["flaws"].setdefault(flaw.what.split()[0], [flaw.where, 0])[1] += flaw.count
    return said


def faery_packets(events: Events, encoding: str, together: int = 100) -> list[bytes]:
    """As faery sends them, by its documentation."""
    rows = list(rows_of(events))
    packets = []
    for start in range(0, len(rows), together):
        packet = b""
        for t, x, y, p in rows[start : start + together]:
            if encoding == "t64_x16_y16_on8":
                packet += struct.pack("<QHHB", t, x, y, p)
            else:
                packet += struct.pack("<IHH", t & 0xFFFFFFFF, x, y << 1 | p)
        packets.append(packet)
    return packets


def aestream_packets(events: Events, stamped: bool) -> list[bytes]:
    """As AEStream sends them: the buffer, the moments of sending and the size of the last packet.

    With times, that size is twice too large: what older packets left in the buffer follows, and
    then what lies behind it (here: ones).
    """
    places = 512 // (8 if stamped else 4)
    buffer, filled, packets = [0] * places, 0, []
    for t, x, y, p in rows_of(events):
        word = ((x & 0x7FFF) if stamped else (x | 0x8000)) << 16
        buffer[filled] = word | ((y | 0x8000) if p else (y & 0x7FFF))
        filled += 1
        if stamped:
            buffer[filled] = t & 0xFFFFFFFF
            filled += 1
        if filled == places:
            packets.append(struct.pack(f"<{places}I", *buffer))
            filled = 0
    if filled:
        size = filled * (2 if stamped else 1)
        words = (buffer + [0xFFFFFFFF] * places)[:size]
        packets.append(struct.pack(f"<{size}I", *words))
    return packets
