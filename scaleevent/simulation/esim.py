"""The ESIM event camera model: log-intensity frames in, events out."""

from __future__ import annotations

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError, DataError
from scaleevent.events import COLUMNS, Events

THRESHOLD_FLOOR = 0.01  # as uzh-rpg/rpg_esim:event_camera_simulator/esim/src/event_simulator.cpp


class EventSimulator:
    """An ideal event camera; log intensity changes linearly between frames.

    Each pixel remembers a level. While the log intensity is at least one threshold above (below)
    it, the level moves up (down) by that threshold, and an event is due at the time of the
    crossing. An event within the pixel's refractory period is suppressed, but the level still
    moves. Model: uzh-rpg/rpg_vid2e:esim_py/src/esim.cpp, in float64; in addition, the level at the
    first frame can be given.

    Args:
        first: (H, W) log intensity at `t`; causes no events.
        t: Time of the first frame, seconds.
        positive: Threshold for brighter events, log units; a scalar or (H, W).
        negative: Threshold for darker events, log units; a scalar or (H, W).
        refractory: Seconds a pixel stays silent after an event.
        level: (H, W) remembered log intensity at the start, less than a threshold away from the
            first frame. None: the first frame itself.

    Raises:
        ConfigError: A threshold that is not positive, or a negative refractory period.
        DataError: A frame that is not (H, W) or not finite, or a level a threshold or more away.
    """

    def __init__(
        self,
        first: np.ndarray,
        t: float,
        positive: float | np.ndarray,
        negative: float | np.ndarray,
        refractory: float = 0.0,
        level: np.ndarray | None = None,
    ) -> None:
        if np.ndim(first) != 2:
            raise DataError("a frame is not an (H, W) array", found=np.shape(first))
        shape = np.shape(first)
        self._frame = _checked_frame(first, shape)
        self._t = float(t)
        self._positive = _threshold_map("positive", positive, shape)
        self._negative = _threshold_map("negative", negative, shape)
        if not refractory >= 0:
            raise ConfigError("the refractory period is negative", found=refractory)
        self._refractory = float(refractory)
        self._level = _checked_frame(self._frame if level is None else level, shape)
        ahead = self._frame - self._level
        if (ahead >= self._positive).any() or (-ahead >= self._negative).any():
            raise DataError(
                "a remembered level is a threshold or more away from the first frame",
                expected="first - positive < level < first + negative",
            )
        self._last_event = np.full(shape, -np.inf)
        # these are used again for every interval
        self._crossed = np.empty(self._frame.size, np.uint64)
        self._times = np.empty(0, np.float64)
        self._pixels = np.empty(0, np.uint64)

    def advance(
        self, frame: np.ndarray, t: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Events between the previous frame (exclusive) and this one (inclusive).

        Args:
            frame: (H, W) log intensity at `t`.
            t: Seconds, later than the previous frame.

        Returns:
            t (K,) float64 seconds, ascending; x, y (K,) uint16; p (K,) uint8, 1 = brighter.
            Simultaneous events are in row-major order.

        Raises:
            DataError: A frame of another shape or not finite, or a time that does not advance.
        """
        frame = _as_frame(frame, self._frame.shape)
        if not t > self._t:
            raise DataError(
                "frame times must increase", found=f"{t} s", expected=f"after {self._t} s"
            )
        crossed, most = _crossed(frame, self._positive, self._negative, self._level, self._crossed)
        if most < 0:
            raise _not_finite()
        if most > len(self._times):
            self._times = np.empty(most + most // 4, np.float64)
            self._pixels = np.empty(len(self._times), np.uint64)
        count = _crossings(
            self._crossed[:crossed], self._frame, frame, self._t, float(t), self._positive,
            self._negative, self._refractory, self._level, self._last_event, self._times,
            self._pixels,
        )  # fmt: skip
        events = _by_time(self._times[:count], self._pixels[:count], self._t, float(t))
        np.copyto(self._frame, frame)
        self._t = float(t)
        return events


def spread_thresholds(
    rng: np.random.Generator, mean: float, sigma: float, height: int, width: int
) -> np.ndarray:
    """One threshold per pixel, normal around `mean`, at least `THRESHOLD_FLOOR`.

    Each pixel keeps its threshold. With new thresholds for each frame, as in ESIM, a level that
    is far from the log intensity can get stuck.

    Returns:
        (H, W) float64, log units.
    """
    return np.maximum(rng.normal(mean, sigma, (height, width)), THRESHOLD_FLOOR)


def noise_events(
    rng: np.random.Generator, rate_hz: float, start_us: int, end_us: int, height: int, width: int
) -> Events:
    """Events of random pixel, time and polarity in [start_us, end_us), `rate_hz` per pixel."""
    count = rng.poisson(rate_hz * (end_us - start_us) * 1e-6 * height * width)
    return Events.from_columns(
        np.sort(rng.integers(start_us, end_us, count)),
        rng.integers(0, width, count),
        rng.integers(0, height, count),
        rng.integers(0, 2, count),
        height,
        width,
    )


def merge_events(first: Events, second: Events) -> Events:
    """Merge two streams of one sensor by time; at equal times, events of `first` come first.

    Raises:
        DataError: The sensors differ in size.
    """
    size = (first.height, first.width)
    if (second.height, second.width) != size:
        raise DataError(
            "events of two sensors cannot be merged",
            found=f"{size[0]} x {size[1]} and {second.height} x {second.width}",
        )
    order = np.argsort(np.concatenate((first.t, second.t)), kind="stable")
    both = (np.append(getattr(first, name), getattr(second, name))[order] for name in COLUMNS)
    t, x, y, p = both
    return Events(t, x, y, p, *size)


def _as_frame(frame: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The frame in float64, as it is where it can be."""
    frame = np.ascontiguousarray(frame, dtype=np.float64)
    if frame.shape != shape:
        raise DataError("frames differ in size", found=frame.shape, expected=shape)
    return frame


def _checked_frame(frame: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A float64 copy of the frame; a copy, because the next interval starts from it."""
    frame = _as_frame(frame, shape).copy()
    if not np.isfinite(frame).all():
        raise _not_finite()
    return frame


def _not_finite() -> DataError:
    return DataError(
        "a log-intensity frame holds values that are not finite",
        hint="add a small constant before the logarithm, for example 1e-3",
    )


def _threshold_map(name: str, threshold: float | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    threshold = np.asarray(threshold, dtype=np.float64)
    if threshold.shape not in ((), shape):
        what = f"the {name} thresholds have the wrong shape"
        raise ConfigError(what, found=threshold.shape, expected=f"a number or {shape}")
    if not (threshold > 0).all():
        raise ConfigError(f"a {name} threshold is not above 0", found=threshold.min())
    return np.array(np.broadcast_to(threshold, shape))


@nb.njit(nogil=True, cache=True)
def _crossed(
    after: np.ndarray, positive: np.ndarray, negative: np.ndarray, level: np.ndarray,
    pixels: np.ndarray,
) -> tuple[int, int]:  # fmt: skip
    """Write row << 32 | column << 1 of the pixels that reach a threshold in an interval.

    Returns:
        How many these are, and no fewer crossings than the interval has; (0, -1) where a value of
        `after` is not finite.
    """
    n, most = 0, 0
    for row in range(after.shape[0]):
        for column in range(after.shape[1]):
            final, start = after[row, column], level[row, column]
            if not final - final == 0.0:
                return 0, -1
            if final >= start + positive[row, column]:
                most += int((final - start) / positive[row, column]) + 1
            elif final <= start - negative[row, column]:
                most += int((start - final) / negative[row, column]) + 1
            else:
                continue
            pixels[n] = (row << 32) | (column << 1)
            n += 1
    return n, most


@nb.njit(nogil=True, cache=True)
def _crossings(
    crossed: np.ndarray, before: np.ndarray, after: np.ndarray, start: float, end: float,
    positive: np.ndarray, negative: np.ndarray, refractory: float, level: np.ndarray,
    last_event: np.ndarray, times: np.ndarray, pixels: np.ndarray,
) -> int:  # fmt: skip
    """Write the events of one interval, pixel by pixel; returns how many there are.

    A level is less than a threshold away from `before`, so that a frame at or beyond a threshold
    has moved towards it.

    Args:
        crossed: (uint64) row << 32 | column << 1 of the pixels that reach a threshold.
        before: (H, W) log intensity at `start`; as all frames and maps, float64.
        after: (H, W) log intensity at `end`.
        start: Seconds.
        end: Seconds.
        positive: (H, W) thresholds.
        negative: (H, W) thresholds.
        refractory: Seconds.
        level: (H, W), moved to the end of the interval.
        last_event: (H, W) seconds, moved to the end of the interval.
        times: Receives seconds.
        pixels: (uint64) receives row << 32 | column << 1 | polarity.
    """
    n = 0
    for pixel in crossed:
        row, column = np.int64(pixel) >> 32, (np.int64(pixel) & 0xFFFFFFFF) >> 1
        final, memory = after[row, column], level[row, column]
        rising = final >= memory + positive[row, column]
        step = positive[row, column] if rising else -negative[row, column]
        first = before[row, column]
        if final == first or rising != (final > first):  # a given level, rounded to its limit
            continue
        event = pixel | np.uint64(rising)
        while True:
            crossing = memory + step
            if (crossing > final) if rising else (crossing < final):
                break
            memory = crossing
            t = start + (crossing - first) / (final - first) * (end - start)
            if refractory > 0.0:
                if t - last_event[row, column] < refractory:
                    continue
                last_event[row, column] = t
            times[n] = t
            pixels[n] = event
            n += 1
        level[row, column] = memory
    return n


_RUN = 24  # entries that insertion sort orders faster than a merge


@nb.njit(nogil=True, cache=True)
def _sort_part(t: np.ndarray, key: np.ndarray, first: int, last: int) -> None:
    """Sort t[first:last] and `key` with it in place; stable.

    Runs by insertion, then merges of neighbouring runs; NumPy's own sorts take seconds to compile.
    """
    for low in range(first, last, _RUN):
        for i in range(low + 1, min(low + _RUN, last)):
            moving, event = t[i], key[i]
            at = i
            while at > low and t[at - 1] > moving:
                t[at], key[at] = t[at - 1], key[at - 1]
                at -= 1
            t[at], key[at] = moving, event
    run = _RUN
    while run < last - first:
        for low in range(first, last - run, 2 * run):
            early_t, early_key = t[low : low + run].copy(), key[low : low + run].copy()
            early, late, high = 0, low + run, min(low + 2 * run, last)
            for at in range(low, high):
                if early == run:
                    break  # the rest of the later run is where it belongs
                if late < high and t[late] < early_t[early]:
                    t[at], key[at] = t[late], key[late]
                    late += 1
                else:
                    t[at], key[at] = early_t[early], early_key[early]
                    early += 1
        run *= 2


@nb.njit(nogil=True, cache=True)
def _by_time(
    times: np.ndarray, pixels: np.ndarray, start: float, end: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Events ascending in time, those of one time in the order given: t, x, y, p.

    A counting sort over equal parts of the interval, then a sort within each part.
    """
    count = len(times)
    parts = max(count // 2, 1)
    scale = parts / (end - start)
    ends = np.zeros(parts + 1, np.int64)
    for i in range(count):
        ends[min(max(int((times[i] - start) * scale), 0), parts - 1) + 1] += 1
    for part in range(parts):
        ends[part + 1] += ends[part]
    t = np.empty(count, np.float64)
    key = np.empty(count, np.uint64)
    for i in range(count):
        part = min(max(int((times[i] - start) * scale), 0), parts - 1)
        at = ends[part]
        t[at], key[at] = times[i], pixels[i]
        ends[part] = at + 1
    first = 0
    for part in range(parts):
        last = ends[part]
        if last - first > 1:
            _sort_part(t, key, first, last)
        first = last
    x = np.empty(count, np.uint16)
    y = np.empty(count, np.uint16)
    p = np.empty(count, np.uint8)
    for i in range(count):
        event = key[i]
        x[i] = (event >> np.uint64(1)) & np.uint64(0xFFFF)
        y[i] = event >> np.uint64(32)
        p[i] = event & np.uint64(1)
    return t, x, y, p
