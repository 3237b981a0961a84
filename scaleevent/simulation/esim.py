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
        frame = _checked_frame(frame, self._frame.shape)
        if not t > self._t:
            raise DataError(
                "frame times must increase", found=f"{t} s", expected=f"after {self._t} s"
            )
        thresholds = self._positive, self._negative, self._refractory
        times, pixels, p = _crossings(
            self._frame, frame, self._t, float(t), *thresholds, self._level, self._last_event
        )
        self._frame, self._t = frame, float(t)
        order = np.argsort(times, kind="stable")
        y, x = np.divmod(pixels[order], frame.shape[1])
        return times[order], x.astype(np.uint16), y.astype(np.uint16), p[order]


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


def _checked_frame(frame: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A float64 copy of the frame; a copy, because the next interval starts from it."""
    frame = np.array(frame, dtype=np.float64, order="C")
    if frame.shape != shape:
        raise DataError("frames differ in size", found=frame.shape, expected=shape)
    if not np.isfinite(frame).all():
        raise DataError(
            "a log-intensity frame holds values that are not finite",
            hint="add a small constant before the logarithm, for example 1e-3",
        )
    return frame


def _threshold_map(name: str, threshold: float | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    threshold = np.asarray(threshold, dtype=np.float64)
    if threshold.shape not in ((), shape):
        what = f"the {name} thresholds have the wrong shape"
        raise ConfigError(what, found=threshold.shape, expected=f"a number or {shape}")
    if not (threshold > 0).all():
        raise ConfigError(f"a {name} threshold is not above 0", found=threshold.min())
    return np.array(np.broadcast_to(threshold, shape))


@nb.njit(nogil=True, cache=True)
def _crossings(
    before: np.ndarray, after: np.ndarray, start: float, end: float, positive: np.ndarray,
    negative: np.ndarray, refractory: float, level: np.ndarray, last_event: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Times (s), flat pixel indices and polarities of one interval, pixel by pixel.

    Updates `level` and `last_event` to the end of the interval. All arrays are (H, W) float64.
    """
    height, width = before.shape
    times = np.empty(height * width, np.float64)
    pixels = np.empty(height * width, np.int64)
    polarities = np.empty(height * width, np.uint8)
    n = 0
    for row in range(height):
        for column in range(width):
            first = before[row, column]
            final = after[row, column]
            rising = final > first
            step = positive[row, column] if rising else -negative[row, column]
            while first != final:
                crossing = level[row, column] + step
                if (crossing > final) if rising else (crossing < final):
                    break
                level[row, column] = crossing
                t = start + (crossing - first) / (final - first) * (end - start)
                if t - last_event[row, column] < refractory:
                    continue
                last_event[row, column] = t
                if n == len(times):
                    times = np.concatenate((times, np.empty_like(times)))
                    pixels = np.concatenate((pixels, np.empty_like(pixels)))
                    polarities = np.concatenate((polarities, np.empty_like(polarities)))
                times[n] = t
                pixels[n] = row * width + column
                polarities[n] = rising
                n += 1
    return times[:n], pixels[:n], polarities[:n]
