"""Events in a window to a (B, H, W) voxel grid: bilinear in time, signed, exact in any order.

The grid of Zhu et al. 2019 with integer pixels (the same numbers as uzh-rpg/rpg_e2vid:
utils/inference_utils.py): an event at normalised time u = (B-1)(t-start)/(end-start) adds s (1-f)
to bin floor(u) and s f to the next one, where f = u - floor(u) and s = +1 or -1.

How it is computed. The window splits into B-1 intervals, and inside one interval every event
touches the same two bins, so only P = sum(s) and F = sum(s f) are needed per pixel. Both are packed
into one 64-bit integer: f is a 26-bit fixed-point number, the low 45 bits hold F and the high 19
bits hold P, so adding an event is a single integer addition. Integer sums do not depend on order,
so the result does not depend on chunks, threads or the order of equal time stamps. Both fields have
room for 2^18 events on one pixel. Events are therefore added in chunks that are sure to fit on top
of the fullest pixel; where that would make small chunks, the sums are first moved to wider ones.
Each bin is assembled in integers and rounded once.
"""

from __future__ import annotations

import threading

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError
from scaleevent.events import Events
from scaleevent.grids.windows import Window
from scaleevent.packing import PackedEvents, field_shifts, unpack_words
from scaleevent.system.allocator import zeros_for_scatter

FRACTION_BITS = 26
LOW_BITS = 45
ROOM = 1 << 18  # events on one pixel that are sure to fit
CHUNK = ROOM - 1  # most events between two checks of the fullest pixel; F may borrow one from P
BLOCK = 2048  # events per pass: the scratch for index and value stays in the first-level cache

# In units of 2^-FRACTION_BITS both fields of a packed sum are LOW_BITS wide.
OFFSET = np.uint64(1 << (LOW_BITS - 1))
LOW_MASK = np.uint64((1 << LOW_BITS) - 1)
HIGH_MASK = np.uint64((1 << 64) - (1 << FRACTION_BITS))
PACKED_OFFSET = np.uint64((1 << 63) + (1 << (LOW_BITS - 1)))
ABOVE_ZERO = np.uint64(1 << LOW_BITS)

_scratch = threading.local()


def voxelize(
    events: Events, window: Window | None = None, bins: int = 3, *, out: np.ndarray | None = None
) -> np.ndarray:
    """Voxel grid of the events inside a window.

    Args:
        events: K events on an H x W sensor.
        window: Half-open time span that the bins cover; events outside are left out. None: from
            the first event to the last, both included.
        bins: B, at least 1. With one bin every event counts fully.
        out: (B, H, W) float32, C-contiguous, to be overwritten, for loops that reuse memory.

    Returns:
        (B, H, W) float32. Without events it is zero; without a window, events that all have the
        same time stamp go to bin 0. Compared with exact arithmetic, each event is off by at most
        2^-27 and the result by 2^-24 of itself: below 2e-5 + 2^-23 |value| together, unless
        thousands of events on a pixel round in the same direction.

    Raises:
        ConfigError: `bins` below 1, or `out` of another shape or dtype.

    Example:
        >>> from scaleevent import Events, voxelize
        >>> events = Events.from_columns([0, 5, 10], [1, 1, 1], [0, 0, 0], [1, 1, 0], 2, 2)
        >>> grid = voxelize(events, bins=3)  # one event in each bin
        >>> grid.shape
        (3, 2, 2)
        >>> grid[:, 0, 1]
        array([ 1.,  1., -1.], dtype=float32)
    """
    if bins < 1:
        raise ConfigError("a voxel grid needs at least one bin", where="bins", found=bins)
    shape = (bins, events.height, events.width)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ConfigError(
            "out does not fit the voxel grid",
            found=f"{out.dtype} {out.shape}",
            expected=f"C-contiguous float32 {shape}",
        )
    if window is not None:
        events = events.between(window.start_us, window.end_us)
    if len(events) == 0:
        out[:] = 0
        return out
    start = int(events.t[0]) if window is None else window.start_us
    end = int(events.t[-1]) if window is None else window.end_us
    span = max(end - start, 1)
    pixels = events.height * events.width
    sums = _take_scratch(max(bins - 1, 1), pixels)
    edges = [0, *map(int, np.searchsorted(events.t, _inner(start, span, bins))), len(events)]
    shift, scale = _steps(span, bins)
    moved: np.ndarray | None = None
    for b, packed in enumerate(sums):
        first, size = edges[b], CHUNK
        while first < edges[b + 1]:
            part = slice(first, min(first + size, edges[b + 1]))
            _scatter(
                events.t[part], events.x[part], events.y[part], events.p[part],
                start, shift, scale, 0.5 - b * 2.0**FRACTION_BITS, packed, events.width,
            )  # fmt: skip
            first = part.stop
            if first < edges[b + 1]:
                size = min(CHUNK, ROOM - _fullest(packed) - 1)
                if size < CHUNK // 2:
                    moved = np.zeros((len(sums) + 1, pixels), np.int64) if moved is None else moved
                    _move(packed, moved[b : b + 2])
                    size = CHUNK
    flat = out.reshape(bins, pixels)
    if moved is None:
        _unpack(sums, flat)
    else:
        for b, packed in enumerate(sums):
            _move(packed, moved[b : b + 2])
        flat[:] = moved[:bins] * 2.0**-FRACTION_BITS
    _keep_scratch(sums)
    return out


def voxelize_packed(packed: PackedEvents, window: Window, bins: int = 3) -> np.ndarray:
    """The same grid as `voxelize(packed.unpack(), window, bins)`, with fewer passes over memory.

    Args:
        packed: Events of this window, with waits counted from its start.
        window: Half-open time span that the bins cover.
        bins: B, at least 1.

    Returns:
        (B, H, W) float32.

    Raises:
        ConfigError: `bins` below 1.
        DataError: A pixel off the sensor.
    """
    words, height, width = packed.words, packed.height, packed.width
    if bins < 1 or len(packed.gaps) or len(words) > CHUNK:
        return voxelize(packed.unpack(), window, bins)
    span = max(window.end_us - window.start_us, 1)
    sums = _take_scratch(max(bins - 1, 1), height * width)
    inside = _scatter_words(
        words, window.start_us, *field_shifts(height, width), height, width,
        _inner(window.start_us, span, bins), *_steps(span, bins), sums,
    )  # fmt: skip
    if not inside:
        packed.unpack()  # raises, and names the event
    out = np.empty((bins, height, width), np.float32)
    _unpack(sums, out.reshape(bins, -1))
    _keep_scratch(sums)
    return out


def _take_scratch(intervals: int, pixels: int) -> np.ndarray:
    """Zeroed int64 memory: what this thread kept from its last call, if that is large enough."""
    # taken out, so that an error cannot leave memory there that is not zero
    held: np.ndarray | None = _scratch.__dict__.pop("sums", None)
    if held is None or held.size < intervals * pixels:
        held = zeros_for_scatter(intervals * pixels)
    return held[: intervals * pixels].reshape(intervals, pixels)


def _keep_scratch(sums: np.ndarray) -> None:
    """Keep memory, which is zero again, for the next call of this thread."""
    _scratch.sums = sums.base


def _inner(start: int, span: int, bins: int) -> np.ndarray:
    """Time at which each interval but the first begins: the first with u >= b, b = 1 .. B-2."""
    return np.array([start + -(-b * span // (bins - 1)) for b in range(1, bins - 1)], np.int64)


def _steps(span: int, bins: int) -> tuple[int, float]:
    """Low bits to drop from a time, and the fixed-point increase of u in one such time step."""
    shift = max(span.bit_length() - 31, 0)  # only above 35 minutes: coarser steps, still 2^-31
    return shift, (bins - 1) * 2.0 ** (FRACTION_BITS + shift) / span


@nb.njit(nogil=True, cache=True)
def _pixel_index(x: np.ndarray, y: np.ndarray, width: int, index: np.ndarray) -> None:
    for j in range(x.size):
        index[j] = np.uint32(y[j]) * np.uint32(width) + np.uint32(x[j])


@nb.njit(nogil=True, cache=True)
def _packed_values(
    t: np.ndarray, p: np.ndarray, start: int, shift: int, scale: float, base: float,
    value: np.ndarray,
) -> None:  # fmt: skip
    """Write s (2^LOW_BITS + f) of each event; `base` subtracts the interval's start and rounds."""
    for j in range(t.size):
        ticks = np.int32(np.uint64(t[j] - start) >> np.uint64(shift))
        f = np.int64(np.int32(np.float64(ticks) * scale + base))
        minus = np.int64(p[j]) - np.int64(1)  # 0 or -1: (v ^ minus) - minus is v or -v
        value[j] = (((np.int64(1) << LOW_BITS) + f) ^ minus) - minus


@nb.njit(nogil=True, cache=True)
def _add(index: np.ndarray, value: np.ndarray, sums: np.ndarray) -> None:
    for j in range(index.size):
        sums[np.int64(index[j])] += value[j]


@nb.njit(nogil=True, cache=True)
def _scatter(
    t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray,
    start: int, shift: int, scale: float, base: float, sums: np.ndarray, width: int,
) -> None:  # fmt: skip
    """Add one chunk in blocks: two passes that vectorise, then a loop that only adds."""
    index = np.empty(BLOCK, np.uint32)
    value = np.empty(BLOCK, np.int64)
    for i in range(0, t.size, BLOCK):
        n = min(BLOCK, t.size - i)
        _pixel_index(x[i : i + n], y[i : i + n], width, index)
        _packed_values(t[i : i + n], p[i : i + n], start, shift, scale, base, value)
        _add(index[:n], value[:n], sums)


@nb.njit(nogil=True, cache=True)
def _scatter_words(
    words: np.ndarray, start: int, row_shift: int, wait_shift: int, height: int, width: int,
    inner: np.ndarray, shift: int, scale: float, sums: np.ndarray,
) -> bool:  # fmt: skip
    """Add words to the sums of all intervals; stops and returns False at a pixel off the sensor."""
    t = np.empty(BLOCK, np.int64)
    x, y, p = np.empty(BLOCK, np.uint16), np.empty(BLOCK, np.uint16), np.empty(BLOCK, np.uint8)
    now, b = start, 0
    for i in range(0, words.size, BLOCK):
        n = min(BLOCK, words.size - i)
        right, bottom = unpack_words(words[i : i + n], now, row_shift, wait_shift, t, x, y, p)
        if right >= width or bottom >= height:
            return False
        now = t[n - 1]
        first = 0
        while first < n:
            over = b < inner.size and inner[b] <= now
            last = np.searchsorted(t[:n], inner[b]) if over else n
            part = slice(first, last)
            _scatter(
                t[part], x[part], y[part], p[part],
                start, shift, scale, 0.5 - b * 2.0**FRACTION_BITS, sums[b], width,
            )  # fmt: skip
            first = last
            b += over
    return True


def _fullest(sums: np.ndarray) -> int:
    """A power of two that bounds P and F of every pixel, in events."""
    bits = int(_changing_bits(sums)) & ((1 << 64) - 1)
    high = (bits >> LOW_BITS).bit_length() - 1
    low = (bits & ((1 << LOW_BITS) - 1)).bit_length() - 1 - FRACTION_BITS
    return 1 << max(high, low, 0)


@nb.njit(nogil=True, cache=True)
def _changing_bits(sums: np.ndarray) -> np.int64:
    """OR over pixels of x ^ (x << 1); the highest set bit in a field bounds its magnitude."""
    bits = np.int64(0)
    for k in range(sums.size):
        bits |= sums[k] ^ (sums[k] << 1)
    return bits


@nb.njit(nogil=True, cache=True)
def _fields(packed: np.int64) -> tuple[np.uint64, np.uint64]:
    """P and F of a packed sum in units of 2^-FRACTION_BITS, plus OFFSET, which makes them unsigned.

    Unsigned, because common instruction sets cannot shift signed 64-bit vectors to the right.
    """
    positive = np.uint64(packed) + PACKED_OFFSET
    high = (positive >> np.uint64(LOW_BITS - FRACTION_BITS)) & HIGH_MASK
    return high, positive & LOW_MASK


@nb.njit(nogil=True, cache=True)
def _move(sums: np.ndarray, wide: np.ndarray) -> None:
    """Move packed sums to the two bins of their interval, int64 in units of 2^-FRACTION_BITS."""
    for k in range(sums.size):
        high, low = _fields(sums[k])
        wide[0, k] += np.int64(high - low)
        wide[1, k] += np.int64(low - OFFSET)
        sums[k] = 0


@nb.njit(nogil=True, cache=True)
def _to_float(value: np.uint64) -> np.float32:
    """Units of 2^-FRACTION_BITS plus OFFSET to float32, rounded once; converts while above zero."""
    whole = np.float64(value + ABOVE_ZERO) - (ABOVE_ZERO + OFFSET)
    return np.float32(whole * 2.0**-FRACTION_BITS)


@nb.njit(nogil=True, cache=True)
def _unpack_block(sums: np.ndarray, carry: np.ndarray, out: np.ndarray) -> None:
    """Compute out = carry + P - F, then carry = F and sums = 0."""
    for k in range(sums.size):
        high, low = _fields(sums[k])
        sums[k] = 0
        out[k] = _to_float(carry[k] + high - low)
        carry[k] = low


@nb.njit(nogil=True, cache=True)
def _unpack(sums: np.ndarray, out: np.ndarray) -> None:
    """Write all bins from packed sums and set these to zero: bin b gets P_b - F_b + F_(b-1)."""
    carry = np.empty(BLOCK, np.uint64)
    bins, pixels = out.shape
    for i in range(0, pixels, BLOCK):
        n = min(BLOCK, pixels - i)
        carry[:] = OFFSET
        for b in range(sums.shape[0]):
            _unpack_block(sums[b, i : i + n], carry, out[b, i : i + n])
        if bins > sums.shape[0]:
            last = out[bins - 1, i : i + n]
            for k in range(n):
                last[k] = _to_float(carry[k])
