"""Send a recording as UDP packets at its own speed: python play_udp.py FILE udp://HOST:PORT.

As AEStream and faery send them, so that `scaleevent predict CKPT udp://HOST:PORT` can be tried
without a camera: start that first, in another terminal.
"""

from __future__ import annotations

import argparse
import socket

import numpy as np

from scaleevent.events import Events
from scaleevent.formats import open_recording
from scaleevent.live.pace import Pace, SystemTimer
from scaleevent.live.udp import PACKET_FORMATS, parse_address
from scaleevent.prediction.cutting import Quiet

EVENTS = 64  # of a packet: 832 bytes at most


def packet(events: Events, encoding: str, stamped: bool) -> bytes:
    """Events as the bytes of one packet, see `scaleevent.live.udp`."""
    t, x, y, p = (getattr(events, name) for name in "txyp")
    if encoding == "t64_x16_y16_on8":
        return np.rec.fromarrays([t, x, y, p], dtype="<u8,<u2,<u2,u1").tobytes()
    stamps = (t & 0xFFFFFFFF).astype("<u4")
    if encoding == "t32_x16_y15_on1":
        return np.rec.fromarrays([stamps, x, y << 1 | p], dtype="<u4,<u2,<u2").tobytes()
    words = x.astype("<u4") << 16 | p.astype("<u4") << 15 | y
    if stamped:
        return np.stack([words, stamps], axis=1).tobytes()
    return (words | np.uint32(1 << 31)).tobytes()


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("recording")
parser.add_argument("address")
parser.add_argument("--format", choices=PACKET_FORMATS, default=PACKET_FORMATS[0])
parser.add_argument("--no-times", action="store_true", help="aestream: as it sends by default")
options = parser.parse_args()
address = parse_address(options.address)
family = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0][0]
recording = open_recording(options.recording)
print(f"to a receiver with --size {recording.height}x{recording.width}")
sent = 0
with socket.socket(family, socket.SOCK_DGRAM) as sender:
    for block in Pace(recording.blocks(), SystemTimer()):
        for start in range(0, 0 if isinstance(block, Quiet) else len(block), EVENTS):
            events = block[start : start + EVENTS]
            sender.sendto(packet(events, options.format, not options.no_times), address)
            sent += len(events)
print(f"{sent:,} events sent")
