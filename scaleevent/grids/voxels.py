"""Events in a window to a (B, H, W) voxel grid: bilinear in time, signed, exact in any order.

The grid of Zhu et al. 2019 with integer pixels (the same numbers as uzh-rpg/rpg_e2vid:
utils/inference_utils.py): an event at normalised time tau = (B-1)(t-start)/(end-start) adds
s (1-f) to bin floor(tau) and s f to the next one, f = tau - floor(tau), s = +1 or -1.

How it is computed. Sorted time splits into B-1 intervals, and inside one interval every event
touches the same two bins, so it needs only P = sum(s) and F = sum(s f) per pixel. Both sit in one
64-bit integer: f is a 26-bit fixed-point number, the low 45 bits hold F, the high 19 bits hold P,
and an event is a single integer addition. Integer sums do not depend on order, so neither does the
result: not on chunks, threads or the order of equal stamps. Both fields have room for 2^18 events
on one pixel, so events come in chunks that surely fit beside the fullest pixel's; where that would
be few, the sums are moved out first. A bin is put together in integers and rounded once.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError
from scaleevent.events import Events
from scaleevent.packing import PackedEvents, field_shifts, unpack_words
from scaleevent.system.allocator import zeros_for_scatter

if TYPE_CHECKING:
    from scaleevent.grids.windows import Window

FRACTION_BITS = 26
LOW_BITS = 45
ROOM = 1 << 18  # events on one pixel that surely fit
CHUNK = ROOM - 1  # most events between two looks at the fill; F may borrow one from P
BLOCK = 2048  # events a pass: index and value scratch stay in the first-level cache

# In units of 2^-FRACTION_BITS both fields of a packed sum are LOW_BITS wide.
OFFSET = np.uint64(1 << LOW_BITS - 1)
LOW_MASK = np.uint64((1 << LOW_BITS) - 1)
HIGH_MASK = np.uint64((1 << 64) - (1 << FRACTION_BITS))
PACKED_OFFSET = np.uint64((1 << 63) + (1 << LOW_BITS - 1))
ABOVE_ZERO = np.uint64(1 << LOW_BITS)

_scratch = threading.local()


def voxelize(
    events: Events,
    window: Window | None = None,
    bins: int = 3,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Voxel grid of the events inside a window.

    Args:
        events: K events on an H x W sensor.
        window: Half-open time span that the bins cover; events outside are left out. None: from
            the first event to the last, both included.
        bins: B, at least 1. With one bin every event counts fully.
        out: (B, H, W) float32, C-contiguous, to be overwritten, where a loop wants to reuse memory.

    Returns:
        (B, H, W) float32. No events give zeros; events of one stamp without a window go to bin 0.
        Against exact arithmetic each event errs by at most 2^-27 and the result by 2^-24 of itself:
        below 2e-5 + 2^-23 |value| in all, unless thousands of events on a pixel round the same way.

    Raises:
        ConfigError: `bins` below 1, or `out` of another shape or dtype.
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
        first, fit = edges[b], CHUNK
        while first < edges[b + 1]:
            part = slice(first, min(first + fit, edges[b + 1]))
            _scatter(
                events.t[part], events.x[part], events.y[part], events.p[part],
                start, shift, scale, 0.5 - b * 2.0**FRACTION_BITS, packed, events.width,
            )  # fmt: skip
            first = part.stop
            if first < edges[b + 1]:
                fit = min(CHUNK, ROOM - _fullest(packed) - 1)
                if fit < CHUNK // 2:
                    moved = np.zeros((len(sums) + 1, pixels), np.int64) if moved is None else moved
                    _move(packed, moved[b : b + 2])
                    fit = CHUNK
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
    """The grid of `voxelize(packed.unpack(), window, bins)`, bit for bit, in fewer trips to memory.

    Args:
        packed: Events of this window, waits counted from its start.
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
        packed.unpack()  # names the event
    out = np.empty((bins, height, width), np.float32)
    _unpack(sums, out.reshape(bins, -1))
    _keep_scratch(sums)
    return out


def _take_scratch(intervals: int, pixels: int) -> np.ndarray:
    """Zeroed int64 memory; what this thread kept from its last call, where that is large enough."""
    held = _scratch.__dict__.pop("sums", None)  # taken, so that an error cannot leave it dirty
    if held is None or held.size < intervals * pixels:
        held = zeros_for_scatter(intervals * pixels)
    return held[: intervals * pixels].reshape(intervals, pixels)


def _keep_scratch(sums: np.ndarray) -> None:
    """Keep memory that is zeroed again for the next call of this thread."""
    _scratch.sums = sums.base


def _inner(start: int, span: int, bins: int) -> np.ndarray:
    """When each interval but the first begins: tau reaches b at or before that stamp."""
    return np.array([start + -(-b * span // (bins - 1)) for b in range(1, bins - 1)], np.int64)


def _steps(span: int, bins: int) -> tuple[int, float]:
    """Bits to drop from a time, and what one such step adds to a weight of FRACTION_BITS."""
    shift = max(span.bit_length() - 31, 0)  # spans over 35 minutes: coarser steps, still 2^-31
    return shift, (bins - 1) * 2.0 ** (FRACTION_BITS + shift) / span


@nb.njit(nogil=True, cache=True)
def _pixel_index(x, y, width, index):
    for j in range(x.size):
        index[j] = np.uint32(y[j]) * np.uint32(width) + np.uint32(x[j])


@nb.njit(nogil=True, cache=True)
def _packed_values(t, p, start, shift, scale, base, value):
    """Of each event s (2^LOW_BITS + f); `base` takes off the interval's start and rounds."""
    for j in range(t.size):
        ticks = np.int32(np.uint64(t[j] - start) >> np.uint64(shift))
        f = np.int64(np.int32(np.float64(ticks) * scale + base))
        minus = np.int64(p[j]) - np.int64(1)  # 0 or -1: two's-complement negation below
        value[j] = (((np.int64(1) << LOW_BITS) + f) ^ minus) - minus


@nb.njit(nogil=True, cache=True)
def _add(index, value, sums):
    for j in range(index.size):
        sums[np.int64(index[j])] += value[j]


@nb.njit(nogil=True, cache=True)
def _scatter(t, x, y, p, start, shift, scale, base, sums, width):
    """Add one chunk in blocks: two passes that vectorise, then a bare scatter."""
    index = np.empty(BLOCK, np.uint32)
    value = np.empty(BLOCK, np.int64)
    for i in range(0, t.size, BLOCK):
        n = min(BLOCK, t.size - i)
        _pixel_index(x[i : i + n], y[i : i + n], width, index)
        _packed_values(t[i : i + n], p[i : i + n], start, shift, scale, base, value)
        _add(index[:n], value[:n], sums)


@nb.njit(nogil=True, cache=True)
def _scatter_words(
    words, start, row_shift, wait_shift, height, width, inner, shift, scale, sums
):  # fmt: skip
    """Add words to the sums of all intervals; False, half-way, at a pixel off the sensor."""
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
    """A power of two of events that no pixel's P or F is beyond."""
    bits = int(_changing_bits(sums)) & (1 << 64) - 1
    high = (bits >> LOW_BITS).bit_length() - 1
    low = (bits & (1 << LOW_BITS) - 1).bit_length() - 1 - FRACTION_BITS
    return 1 << max(high, low, 0)


@nb.njit(nogil=True, cache=True)
def _changing_bits(sums):
    """Bits unlike the next lower one in any pixel: the top one of a field tells its size."""
    bits = np.int64(0)
    for k in range(sums.size):
        bits |= sums[k] ^ (sums[k] << 1)
    return bits


@nb.njit(nogil=True, cache=True)
def _fields(packed):
    """P and F of a packed sum in units of 2^-FRACTION_BITS, as unsigned numbers: plus OFFSET.

    Unsigned, because the instruction sets we meet shift no signed 64-bit vectors to the right.
    """
    positive = np.uint64(packed) + PACKED_OFFSET
    high = (positive >> np.uint64(LOW_BITS - FRACTION_BITS)) & HIGH_MASK
    return high, positive & LOW_MASK


@nb.njit(nogil=True, cache=True)
def _move(sums, wide):
    """Move packed sums to the two bins of their interval, int64 in units of 2^-FRACTION_BITS."""
    for k in range(sums.size):
        high, low = _fields(sums[k])
        wide[0, k] += np.int64(high - low)
        wide[1, k] += np.int64(low - OFFSET)
        sums[k] = 0


@nb.njit(nogil=True, cache=True)
def _to_float(value):
    """Units of 2^-FRACTION_BITS plus OFFSET to float32, rounded once; above 0 on the way."""
    whole = np.float64(value + ABOVE_ZERO) - (ABOVE_ZERO + OFFSET)
    return np.float32(whole * 2.0**-FRACTION_BITS)


@nb.njit(nogil=True, cache=True)
def _unpack_block(sums, carry, out):
    """Do out = carry + P - F, carry = F, sums = 0."""
    for k in range(sums.size):
        high, low = _fields(sums[k])
        sums[k] = 0
        out[k] = _to_float(carry[k] + high - low)
        carry[k] = low


@nb.njit(nogil=True, cache=True)
def _unpack(sums, out):
    """Write all bins from packed sums and zero these: bin b gets P_b - F_b + F_(b-1)."""
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
