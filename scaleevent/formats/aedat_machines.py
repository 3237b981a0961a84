"""Decoders of AEDAT 1.0 and 2.0 addresses (jAER) and AEDAT 3.1 packets (libcaer).

Addresses as in SensorsINI/jaer:src/ch/unizh/ini/jaer/chip/retina/DVS128.java and DVS640.java and
src/eu/seebetter/ini/chips/davis/DavisBaseCamera.java, of 16 bits before version 2.0
(src/net/sf/jaer/eventio/AEFileInputStream.java); packets as in inivation/libcaer's
include/libcaer/events/packetHeader.h and polarity.h.
"""

from __future__ import annotations

from functools import partial

import numba as nb
import numpy as np
from numpy import ndarray

from scaleevent.formats.words import (
    CLOCK,
    DROPPED,
    FIRST_UNKNOWN,
    OTHER,
    TRIGGERS,
    UNKNOWN,
    Machine,
    unwrap,
)


@nb.njit(nogil=True, cache=True, inline="always")
def _swapped(value: np.uint64) -> int:
    """Convert a big-endian 32-bit number that was read as a little-endian one."""
    v = int(np.int64(value & np.uint64(0xFFFFFFFF)))
    return (v & 0xFF) << 24 | (v & 0xFF00) << 8 | (v >> 8) & 0xFF00 | v >> 24


@nb.njit(nogil=True, cache=True)
def decode_addresses(
    layout: tuple[int, ...],
    words: ndarray,
    state: ndarray,
    tally: ndarray,
    t: ndarray,
    x: ndarray,
    y: ndarray,
    p: ndarray,
) -> tuple[int, int]:
    """Decode records of address and time; `layout` states the bits of an address."""
    special, x_shift, x_mask, y_shift, y_mask, p_shift, p_flip = layout
    latest, wraps = state[0], state[1]
    n = 0
    for k in range(words.size):
        address = _swapped(words[k])
        now, latest, wraps = unwrap(_swapped(words[k] >> np.uint64(32)), latest, wraps)
        if address & special:
            tally[OTHER] += 1
            continue
        t[n] = now
        x[n] = (address >> x_shift) & x_mask
        y[n] = (address >> y_shift) & y_mask
        p[n] = (address >> p_shift & 1) ^ p_flip
        n += 1
    state[0], state[1] = latest, wraps
    return words.size, n


def _address_machine(*layout: int) -> Machine:
    decode = partial(decode_addresses, layout)
    return Machine(np.dtype("<u8"), CLOCK, decode, others="frame, IMU and special samples")


DVS128 = _address_machine(0x8000, 1, 0x7F, 8, 0x7F, 0, 1)
DVS640 = _address_machine(0, 1, 0x3FF, 11, 0x3FF, 0, 0)
DAVIS = _address_machine(0x80000400, 12, 0x3FF, 22, 0x1FF, 11, 0)
"""By the bits of special samples (DAVIS: 31 for frames and IMU, 10 for others), shift and mask of
column and row, and the bit of the polarity and whether it is inverted."""

_SHORT = 6  # bytes of a record of AEDAT 1.0


@nb.njit(nogil=True, cache=True)
def decode_short(
    data: ndarray, state: ndarray, tally: ndarray, t: ndarray, x: ndarray, y: ndarray, p: ndarray
) -> tuple[int, int]:
    """Decode whole records of a DVS128: 16 bits of address and 32 of time, both big-endian."""
    latest, wraps = state[0], state[1]
    n = at = 0
    while at + _SHORT <= data.size and n < len(t):
        time = np.int64(0)
        for k in range(2, _SHORT):
            time = time << 8 | np.int64(data[at + k])
        now, latest, wraps = unwrap(int(time), latest, wraps)
        if data[at] & 0x80:
            tally[OTHER] += 1
        else:
            t[n] = now
            x[n] = data[at + 1] >> 1
            y[n] = data[at]
            p[n] = data[at + 1] & 1 ^ 1
            n += 1
        at += _SHORT
    state[0], state[1] = latest, wraps
    return at, n


DVS128_SHORT = Machine(np.dtype("u1"), CLOCK, decode_short, others="special samples")

_HEADER, _EVENT = 28, 8
_POLARITY = 1
_COMPRESSED = 0x8000
_MAX_PACKET = 1 << 28
_EVENTS_LEFT, _SKIP, _OVERFLOW, _SOURCE, _BROKEN = range(5)


@nb.njit(nogil=True, cache=True, inline="always")
def _u32(data: ndarray, at: int) -> np.uint64:
    low = np.uint64(data[at]) | np.uint64(data[at + 1]) << np.uint64(8)
    high = np.uint64(data[at + 2]) << np.uint64(16) | np.uint64(data[at + 3]) << np.uint64(24)
    return low | high


@nb.njit(nogil=True, cache=True, inline="always")
def _i32(data: ndarray, at: int) -> int:
    return int(np.int64(np.int32(_u32(data, at))))


@nb.njit(nogil=True, cache=True)
def decode_packets(
    data: ndarray, state: ndarray, tally: ndarray, t: ndarray, x: ndarray, y: ndarray, p: ndarray
) -> tuple[int, int]:
    """Decode packets of the first camera until the data end, possibly inside a header or an event.

    The type of a compressed packet has bit 15 set and its capacity is its size in bytes. After an
    invalid header the next packet cannot be found, so all that follows is undecodable.
    """
    n = at = 0
    while at < data.size:
        if state[_BROKEN]:
            tally[UNKNOWN] += data.size - at
            at = data.size
        elif state[_SKIP]:
            step = min(state[_SKIP], data.size - at)
            state[_SKIP] -= step
            at += step
        elif state[_EVENTS_LEFT]:
            count = min(state[_EVENTS_LEFT], (data.size - at) // _EVENT, len(t) - n)
            if not count:
                break
            later = state[_OVERFLOW] << 31
            for _ in range(count):
                pixel = _u32(data, at)
                t[n] = _i32(data, at + 4) + later
                x[n] = pixel >> np.uint64(17)
                y[n] = (pixel >> np.uint64(2)) & np.uint64(0x7FFF)
                p[n] = (pixel >> np.uint64(1)) & np.uint64(1)
                valid = int(np.int64(pixel & np.uint64(1)))
                n += valid
                tally[DROPPED] += 1 - valid
                at += _EVENT
            state[_EVENTS_LEFT] -= count
        else:
            if at + _HEADER > data.size:
                break
            kind, source = _i32(data, at) & 0xFFFF, (_i32(data, at) >> 16) & 0xFFFF
            size, place, overflow = _i32(data, at + 4), _i32(data, at + 8), _i32(data, at + 12)
            capacity, count, valid = _i32(data, at + 16), _i32(data, at + 20), _i32(data, at + 24)
            stored = capacity if kind & _COMPRESSED else count * size
            valid_header = (
                0 < size <= _MAX_PACKET
                and 0 <= place <= size - 4
                and overflow >= 0
                and 0 <= valid <= count
                and (count <= capacity or kind & _COMPRESSED)
                and 0 <= stored <= _MAX_PACKET
                and (kind & 0x7FFF != _POLARITY or kind == _POLARITY and size == _EVENT)
            )
            if not valid_header:
                tally[FIRST_UNKNOWN] = at
                state[_BROKEN] = 1
                continue
            at += _HEADER
            if kind == _POLARITY and state[_SOURCE] in (-1, source):
                state[_SOURCE] = source
                state[_EVENTS_LEFT] = count
                state[_OVERFLOW] = overflow
            else:
                tally[TRIGGERS if kind == _POLARITY else OTHER] += 1
                state[_SKIP] = stored
    return at, n


PACKETS = Machine(
    np.dtype("u1"),
    (0, 0, 0, -1, 0),
    decode_packets,
    dropped="marked invalid",
    triggers="packets of other cameras",
    others="packets of frames, IMU samples and others",
    unfinished=(_EVENTS_LEFT, _SKIP),
)
