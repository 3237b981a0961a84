"""Events in UDP packets, as AEStream and faery send them.

Formats, all little-endian, each packet a whole number of events:

- `t64_x16_y16_on8` (faery's default): 13 bytes an event: time in microseconds (u64), column (u16),
  row (u16), polarity (u8, 0 or 1); 100 events a packet by default.
- `t32_x16_y15_on1` (faery): 8 bytes: time modulo 2^32 (u32), column (u16), row << 1 | polarity
  (u16).
  Both: aestream/faery:python/faery/udp_encoder.py, docs/inputs/udp.md,
  python/faery/events_stream.py (EVENTS_DTYPE).
- `aestream` (AEStream's and SPIF's): a u32 word an event: bits 0-14 row, bit 15 polarity,
  bits 16-30 column; bit 31 is set if the event has no time. If it is not set, a second u32 word
  holds the time modulo 2^32. `aestream .. output udp` sends no times unless it is told
  `--include-timestamp`; at most 512 bytes a packet.
  aestream/aestream:src/cpp/output/dvs_to_udp.cpp, src/python/tensor_buffer.cpp (rows first).

Events without times get the time at which their packet arrived, in microseconds since the first
one; all events of a packet then have the same. No packet has a number, so packets that the network
loses cannot be counted; those that this machine had to drop are, on Linux. In the last packet with
times AEStream repeats old events behind the new ones (the size it states is twice too large); they
are earlier than the new ones, and are left out as late.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Literal, get_args
from urllib.parse import urlsplit

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError, DataError, EnvironmentProblem, InUseError
from scaleevent.formats.source import RawBlock
from scaleevent.formats.words import CLOCK, unwrap
from scaleevent.live.pipes import WAIT_SECONDS, Silence

PacketFormat = Literal["t64_x16_y16_on8", "t32_x16_y15_on1", "aestream"]
PACKET_FORMATS: tuple[str, ...] = get_args(PacketFormat)

LARGEST = 65_535  # bytes of a packet
BUFFER = 8 << 20  # bytes that the system may hold for us; it may allow fewer
TOGETHER = 256  # packets that are decoded together
BAD_PACKETS = 32
"""Packets in a row without an event that can be read, after which the format must be wrong."""

_RECORDS = {
    "t64_x16_y16_on8": np.dtype([("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "u1")]),
    "t32_x16_y15_on1": np.dtype([("t", "<u4"), ("x", "<u2"), ("y", "<u2")]),
    "aestream": np.dtype("<u4"),
}
_TIMELESS = np.uint32(1 << 31)
_OVERFLOWS = 40  # SO_RXQ_OVFL of Linux: packets that this socket had no room for


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of udp://HOST:PORT; an IPv6 address stands in brackets.

    Raises:
        ConfigError: Another scheme, or no such address.

    Example:
        >>> from scaleevent.live.udp import parse_address
        >>> parse_address("udp://[::1]:7777")
        ('::1', 7777)
    """
    expected, hint = "udp://HOST:PORT", "such as udp://0.0.0.0:7777 for all senders"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not text.startswith("udp://"):
        what = "unknown kind of address"
        raise ConfigError(what, found=text, expected=f"a file, - or {expected}", hint=hint)
    if not host or not port or parts.path not in ("", "/") or parts.query or parts.username:
        raise ConfigError("not an address to listen at", found=text, expected=expected, hint=hint)
    return host, port


def listen(host: str, port: int) -> socket.socket:
    """A socket that receives what is sent to this machine.

    Raises:
        InUseError: The port belongs to another program.
        EnvironmentProblem: The machine has no such address, or it may not be used.
    """
    where = f"udp://[{host}]:{port}" if ":" in host else f"udp://{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )[0]
        receiver = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _no_address(error, where) from error
    try:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        if sys.platform == "linux":
            receiver.setsockopt(socket.SOL_SOCKET, _OVERFLOWS, 1)
        receiver.settimeout(WAIT_SECONDS)
        receiver.bind(address)
    except OSError as error:
        receiver.close()
        raise _no_address(error, where) from error
    return receiver


def _no_address(error: OSError, where: str) -> EnvironmentProblem:
    found = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        hint = "end the program that listens there, or let the sender use another port"
        return InUseError("another program listens at this port", where=where, hint=hint)
    hint = "an address of this machine, not the sender's; 0.0.0.0 for all of them"
    if error.errno == errno.EACCES:
        hint = "ports below 1024 belong to the system: use a higher one"
    return EnvironmentProblem("cannot listen there", where=where, found=found, hint=hint)


class Packets:
    """Decoder of packets.

    Args:
        encoding: One of `PACKET_FORMATS`.
        height: Sensor rows, by which garbage is told from events.
        width: Sensor columns.
        name: What the source is called in messages.

    Attributes:
        packets: Packets seen.
        malformed: Packets left out, or their ends, by reason.
        overflowed: Packets that this machine had no room for, as far as it tells.
        timeless: Whether events have no times, so that their arrival counts.
    """

    def __init__(self, encoding: str, height: int, width: int, name: str) -> None:
        if encoding not in _RECORDS:
            expected = ", ".join(PACKET_FORMATS)
            raise ConfigError("unknown packet format", found=encoding, expected=expected)
        self.encoding, self.name = encoding, name
        self._height, self._width = height, width
        self.packets = self.overflowed = 0
        self.malformed: Counter[str] = Counter()
        self.timeless: bool | None = None
        self._first, self._bad = 0, 0
        self._clock = np.array(CLOCK, np.int64)  # of `unwrap`
        self._lengths: Counter[int] = Counter()

    def decode(self, packets: list[bytes], arrived_us: int) -> list[RawBlock]:
        """The events of packets that arrived together.

        Packets are judged one by one, but those without any doubt are decoded together: thousands
        may come in a second.

        Args:
            packets: Their bytes.
            arrived_us: When they came, microseconds since the first one.

        Raises:
            DataError: `BAD_PACKETS` in a row are malformed.
        """
        records = _RECORDS[self.encoding]
        if len(packets) > 1 and not any(len(each) % records.itemsize for each in packets):
            together = self._events(np.frombuffer(b"".join(packets), records), arrived_us, True)
            if isinstance(together, RawBlock):
                self.packets += len(packets)
                self._bad = 0
                return [together]
        found = (self._one(packet, arrived_us) for packet in packets)
        return [block for block in found if block is not None]

    def _one(self, packet: bytes, arrived_us: int) -> RawBlock | None:
        """The events of a packet; None if it is malformed."""
        self.packets += 1
        records = _RECORDS[self.encoding]
        found: RawBlock | str
        if not packet or len(packet) % records.itemsize:
            found = f"not a multiple of {records.itemsize} bytes" if packet else "empty"
        else:
            found = self._events(np.frombuffer(packet, records), arrived_us)
        if isinstance(found, RawBlock):
            self._bad = 0
            return found
        self.malformed[found] += 1
        self._bad += 1
        self._lengths[len(packet)] += 1
        if self._bad >= BAD_PACKETS:
            raise self.error()
        return None

    def error(self) -> DataError:
        """That these packets are something else."""
        lengths = ", ".join(str(length) for length, _ in self._lengths.most_common(3))
        reasons = "; ".join(self.malformed) or "no packet"
        return DataError(
            f"the packets are not {self.encoding}",
            where=self.name,
            found=f"{reasons}; packets of {lengths or 'no'} bytes",
            expected=f"{_RECORDS[self.encoding].itemsize} bytes an event, on the sensor's pixels",
            hint="the sender's format is another (--format), or its sensor is (--size)",
        )

    def _events(
        self, records: np.ndarray, arrived_us: int, certain: bool = False
    ) -> RawBlock | str:
        """The events, or what is wrong; `certain`: no event may be in doubt."""
        x: np.ndarray
        y: np.ndarray
        p: np.ndarray
        stamps: np.ndarray | None = None
        if self.encoding == "aestream":
            events, stamps, problem = self._aestream(records)
            if problem and (certain or not len(events)):
                return problem
            if problem:
                self.malformed[problem] += 1
            x, y = events >> np.uint32(16) & np.uint32(0x7FFF), events & np.uint32(0x7FFF)
            p = events >> np.uint32(15) & np.uint32(1)
        elif self.encoding == "t32_x16_y15_on1":
            x, y, p, stamps = records["x"], records["y"] >> 1, records["y"] & 1, records["t"]
        else:
            x, y, p = records["x"], records["y"], records["on"]
            if p.max() > 1 or records["t"].max() >= 1 << 61:
                return "polarity or time is none"
        off = len(x) - int(np.count_nonzero((x < self._width) & (y < self._height)))
        if off > (0 if certain else len(x) // 2):
            return "most events are off the sensor"
        if self.encoding == "t64_x16_y16_on8":
            t = records["t"].astype(np.int64)
        elif stamps is None:
            t = np.full(len(x), arrived_us, np.int64)
        else:
            t = np.empty(len(x), np.int64)
            _unwrap_all(np.ascontiguousarray(stamps), self._clock, t)
        x, y, p = x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8)
        block = RawBlock(self._first, t, x, y, p)
        self._first += len(block)
        return block

    def _aestream(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, str]:
        """Event words, their stamps if they have some, and what is wrong with those after them."""
        if self.timeless is None:
            self.timeless = bool(words[0] & _TIMELESS)
        events = words if self.timeless else words[: len(words) // 2 * 2 : 2]
        strange = (events & _TIMELESS != 0) != self.timeless
        sound = int(np.argmax(strange)) if strange.any() else len(events)
        problem = "events with times among those without" if sound < len(events) else ""
        if not self.timeless and len(words) % 2:
            problem = "half an event"
        stamps = None if self.timeless else words[1::2][:sound]
        return events[:sound], stamps, problem


def receive(
    receiver: socket.socket, packets: Packets, silence: Silence
) -> Iterator[tuple[list[RawBlock], int]]:
    """The events of the packets that have come, and when: microseconds since the first one.

    Nothing has come where there was no packet for `WAIT_SECONDS`.

    Args:
        receiver: From `listen`; it is closed at the end.
        packets: The decoder; what this machine had no room for is counted there as malformed.
        silence: When to stop waiting, which is the only end.

    Raises:
        DataError: What comes is of another format.
        EnvironmentProblem: The network has failed.
    """
    began = None
    with receiver:
        while not silence.over():
            found = _waiting(receiver, packets)
            now = silence.timer.now()
            if found:
                silence.broken()
                began = now if began is None else began
            if began is not None:
                arrived = round((now - began) * 1e6)
                yield packets.decode(found, arrived) if found else [], arrived


def _waiting(receiver: socket.socket, packets: Packets) -> list[bytes]:
    """The packets that wait to be read, at most `TOGETHER`; waits for a first one."""
    found: list[bytes] = []
    receiver.settimeout(WAIT_SECONDS)
    try:
        while len(found) < TOGETHER:
            if hasattr(receiver, "recvmsg"):
                packet, extra, _, _ = receiver.recvmsg(LARGEST, 64)
                for level, kind, data in extra:
                    if (level, kind) == (socket.SOL_SOCKET, _OVERFLOWS):
                        packets.overflowed = int.from_bytes(data[:4], sys.byteorder)
            else:
                packet = receiver.recv(LARGEST)
            found.append(packet)
            receiver.settimeout(0)
    except (TimeoutError, BlockingIOError):
        pass
    except OSError as error:
        raise EnvironmentProblem(
            "the network has failed", where=packets.name, found=error.strerror or error
        ) from error
    return found


@nb.njit(nogil=True, cache=True)
def _unwrap_all(stored: np.ndarray, clock: np.ndarray, t: np.ndarray) -> None:
    """Extend (K,) 32-bit times to int64; the state (latest, wraps) is carried from call to call."""
    latest, wraps = clock[0], clock[1]
    for k in range(stored.size):
        t[k], latest, wraps = unwrap(stored[k], latest, wraps)
    clock[0], clock[1] = latest, wraps
