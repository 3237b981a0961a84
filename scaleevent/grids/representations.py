"""Event representations of other code bases, in addition to `voxels.voxelize`.

"The voxel grid" has many definitions. They differ in how time is scaled, in the treatment of the
last events, in sub-pixel positions, and if all events have the same time stamp. Each function here
gives the numbers of one reference, quirks included, so that results of others can be reproduced;
everywhere else the default is `voxelize`. A grid may hold NaN where the reference does
(`event_utils`, `tonic` and `tencode` with a single time stamp, `*_norm` with one non-zero voxel).
Without events it is zero. `config.catalog.REPRESENTATIONS` names the sources.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numba as nb
import numpy as np

from scaleevent.events import Events
from scaleevent.grids.voxels import voxelize
from scaleevent.grids.windows import Window


class Columns(NamedTuple):
    """The fields of `Events` as the references take them.

    Coordinates may be fractions (integer or float), and times unsorted.
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    height: int
    width: int

    @property
    def sign(self) -> np.ndarray:
        """(K,) float64, -1 or 1."""
        return self.p * 2.0 - 1

    @property
    def pixel(self) -> np.ndarray:
        """(K,) int64 index of the pixel."""
        return self.y.astype(np.int64) * self.width + self.x.astype(np.int64)

    def scaled_time(self, end: float) -> np.ndarray:
        """(K,) float64: 0 for the first event, `end` for the last; all 0 if these coincide."""
        span = int(self.t[-1] - self.t[0]) if len(self.t) else 0
        scaled: np.ndarray = end * (self.t - self.t[:1]) / (span or 1)
        return scaled

    def grid(self, channels: int) -> np.ndarray:
        """(channels, H, W) float64 zeros."""
        return np.zeros((channels, self.height, self.width))

    def select(self, part: np.ndarray | slice) -> Columns:
        """The events of a mask or slice."""
        t, x, y, p = (column[part] for column in (self.t, self.x, self.y, self.p))
        return Columns(t, x, y, p, self.height, self.width)


def _add(grid: np.ndarray, layer: np.ndarray, pixel: np.ndarray, value: np.ndarray) -> None:
    """Add values to pixels of layers, leaving out layers outside the grid."""
    inside = (layer >= 0) & (layer < len(grid))
    np.add.at(grid.reshape(len(grid), -1), (layer[inside], pixel[inside]), value[inside])


def _between_bins(events: Columns, time: np.ndarray, bins: int, value: np.ndarray) -> np.ndarray:
    """(B, H, W) float64: each event is divided between the bins before and after its time."""
    grid = events.grid(bins)
    low = np.floor(time).astype(np.int64)
    _add(grid, low, events.pixel, value * (1 - (time - low)))
    inside = low >= 0  # the references drop an event before the first bin completely
    _add(grid, low[inside] + 1, events.pixel[inside], (value * (time - low))[inside])
    return grid


def e2vid(events: Columns, bins: int) -> np.ndarray:
    """(B, H, W) float32 of rpg_e2vid's events_to_voxel_grid_pytorch; drops unsorted events."""
    time = events.scaled_time(bins - 1)
    return _between_bins(events, time, bins, events.sign).astype(np.float32)


def e2vid_numpy(events: Columns, bins: int) -> np.ndarray:
    """The same from its events_to_voxel_grid, where times before the first wrap to the end."""
    grid = events.grid(bins).astype(np.float32)
    time = events.scaled_time(bins - 1)
    low = time.astype(np.int64)  # towards zero
    flat, size = grid.reshape(-1), events.height * events.width
    for side, weight in ((0, 1 - (time - low)), (1, time - low)):
        inside = low + side < bins
        at = events.pixel[inside] + (low[inside] + side) * size
        np.add.at(flat, at, (events.sign * weight)[inside])
    return grid


def ess(events: Columns, bins: int, apart: bool = False) -> np.ndarray:
    """(B, H, W) float32 brighter minus darker, or (2 B, H, W) brighter then darker."""
    time = events.scaled_time(bins - 1)
    on, off = (_between_bins(events, time, bins, (events.p == k) * 1.0) for k in (1, 0))
    return (np.concatenate([on, off]) if apart else on - off).astype(np.float32)


def event_utils(events: Columns, bins: int) -> np.ndarray:
    """(B, H, W) float64 of events_to_voxel: a triangle around each bin."""
    grid = events.grid(bins)
    if not len(events.t):
        return grid
    with np.errstate(invalid="ignore"):
        time = (bins - 1) * (events.t - events.t[0]) / np.float64(events.t[-1] - events.t[0])
    for b in range(bins):
        weight = events.sign * np.maximum(0, 1 - np.abs(time - b))
        np.add.at(grid[b].reshape(-1), events.pixel, weight)
    return grid


def tonic(events: Columns, bins: int) -> np.ndarray:
    """(B, H, W) float64 of to_voxel_grid: events of the last time stamp fall after the last bin."""
    grid = events.grid(bins)
    if not len(events.t):
        return grid
    if events.t[-1] == events.t[0]:
        grid.reshape(bins, -1)[:2, events.pixel] = np.nan
        return grid
    time = events.scaled_time(bins)
    low = time.astype(np.int64)
    _add(grid, low, events.pixel, events.sign * (1 - (time - low)))
    _add(grid, low + 1, events.pixel, events.sign * (time - low))
    return grid


def dsec(events: Columns, bins: int) -> np.ndarray:
    """(B, H, W) float32, bilinear in space and time; also the raw grid of E-RAFT and DepthAnyEvent.

    As in the reference, truncation instead of floor gives wrong weights left of, above and before
    the grid, and a single time stamp gives zeros.
    """
    grid = events.grid(bins)
    if not len(events.t):
        return grid.astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = (events.t - events.t[0]).astype(np.float32)
        t = t / t[-1]
        time = (bins - 1) * (t - t[0]) / (t[-1] - t[0])
    if not np.isfinite(time).all():
        return grid.astype(np.float32)
    x, y = events.x.astype(np.float32), events.y.astype(np.float32)
    value = events.sign.astype(np.float32)
    corners = [axis.astype(np.int64) for axis in (x, y, time)]
    for steps in product((0, 1), repeat=3):
        column, row, layer = (corner + step for corner, step in zip(corners, steps, strict=True))
        inside = (column >= 0) & (column < events.width) & (row >= 0) & (row < events.height)
        weight = value * (1 - np.abs(column - x)) * (1 - np.abs(row - y))
        weight = weight * (1 - np.abs(layer - time))
        _add(grid, layer[inside], (row * events.width + column)[inside], weight[inside])
    return grid.astype(np.float32)


def openeb_volume(
    events: Columns, bins: int, start_us: int, duration_us: int, nearest: bool = False
) -> np.ndarray:
    """(B, H, W) float32 of openeb's event_volume.

    Events in the outer half of the first and last bin leak inwards, or count fully if `nearest`.
    """
    time = (events.t - start_us) * (bins / duration_us) - 0.5
    low = np.clip(np.floor(time).astype(np.int64), 0, bins - 1)
    grid = events.grid(bins)
    weight = np.ones(len(time)) if nearest else np.maximum(0, 1 - np.abs(low - time))
    _add(grid, low, events.pixel, events.sign * weight)
    if not nearest:
        after = np.minimum(low + 1, bins - 1)
        _add(grid, after, events.pixel, events.sign * (1 - weight))
    return grid.astype(np.float32)


def openeb_cube(
    events: Columns, bins: int, duration_us: int, step: float, clip: float, apart: bool
) -> np.ndarray:
    """(B or 2 B, H, W) float32 of openeb's event cube, clipped after every event.

    Args:
        events: Events with times from 0 to the duration.
        bins: B.
        duration_us: Length of the window.
        step: Number of events that add up to 1.
        clip: Largest value.
        apart: Separate channels: 2 b holds darker events, 2 b + 1 brighter ones.
    """
    scale = np.float32(bins / duration_us)
    time = events.t.astype(np.float32) * scale - np.float32(0.5)
    return _add_clipped(events, time, bins, step, clip, apart)


def openeb_difference(events: Columns, step: float, clip: float) -> np.ndarray:
    """(1, H, W) float32: brighter minus darker, clipped after every event."""
    return _add_clipped(events, np.zeros(len(events.t), np.float32), 1, step, clip, apart=False)


def _add_clipped(
    events: Columns, time: np.ndarray, bins: int, step: float, clip: float, apart: bool
) -> np.ndarray:
    """The grid of openeb's processors, in float32 like theirs; `time` is (K,) float32, in bins."""
    grid = np.zeros((bins * (2 if apart else 1), events.height * events.width), np.float32)
    share, most = 1 / np.float32(step), np.float32(clip)
    _scatter_clipped(grid, time, events.pixel, events.p.astype(np.int64), bins, share, most, apart)
    return grid.reshape(-1, events.height, events.width)


@nb.njit(cache=True)
def _scatter_clipped(
    grid: np.ndarray, time: np.ndarray, pixel: np.ndarray, p: np.ndarray,
    bins: int, share: np.floating, most: np.floating, apart: bool,
) -> None:  # fmt: skip
    for k in range(time.size):
        whole = np.floor(time[k])
        rest = time[k] - whole
        for side in range(2):
            layer = np.int64(whole) + side
            if 0 <= layer < bins:
                weight = (rest if side else np.float32(1) - rest) * share
                if apart:
                    layer = 2 * layer + p[k]
                elif p[k] == 0:
                    weight = -weight
                grid[layer, pixel[k]] = min(max(grid[layer, pixel[k]] + weight, -most), most)


def openeb_histogram(events: Columns, step: float, clip: float) -> np.ndarray:
    """(2, H, W) float32: darker and brighter events, at most `clip`."""
    return (count(events) / np.float32(step)).clip(max=np.float32(clip))


def count(events: Columns) -> np.ndarray:
    """(2, H, W) float32: number of darker and of brighter events."""
    grid = events.grid(2)
    _add(grid, events.p.astype(np.int64), events.pixel, np.ones(len(events.t)))
    return grid.astype(np.float32)


def dae_histogram(events: Columns, most: int = 200) -> np.ndarray:
    """The same, at most `most`; events off the sensor are left out before coordinates are cut."""
    return count(_on_sensor(events)).clip(max=np.float32(most))


def frame(events: Columns) -> np.ndarray:
    """(1, H, W) float32: brighter minus darker."""
    return np.diff(count(events), axis=0)


def tencode(events: Columns, white: bool = False) -> np.ndarray:
    """(3, H, W) float32 in 0..1: of each pixel's last event, whether brighter, its age, if darker.

    Pixels without events are black, or white.
    """
    base = 255.0 if white else 0.0
    picture = np.full((3, events.height, events.width), base, np.float32)
    if not len(events.t):
        return picture  # not divided by 255, as in the reference
    with np.errstate(invalid="ignore"):
        age = 1 - (events.t - events.t[0]) / np.float64(events.t[-1] - events.t[0])
    kept = _on_sensor(events._replace(t=age))
    pixel = kept.pixel
    last = len(pixel) - 1 - np.unique(pixel[::-1], return_index=True)[1]
    flat = picture.reshape(3, -1)
    flat[0, pixel[last]] = 255.0 * kept.p[last]
    flat[1, pixel[last]] = 255.0 * kept.t[last]
    flat[2, pixel[last]] = 255.0 * (1 - kept.p[last].astype(np.float64))
    return picture / np.float32(255)


def _on_sensor(events: Columns) -> Columns:
    inside = (events.x >= 0) & (events.x < events.width)
    inside &= (events.y >= 0) & (events.y < events.height)
    return events.select(inside)


def tonic_slices(
    events: Columns, *, bins: int = 0, events_each: int = 0, window_us: int = 0
) -> list[slice]:
    """Events of each frame by one of three rules of ToFrame; leftover events are dropped."""
    if events_each:
        starts = range(0, len(events.t) - events_each + 1, events_each)
        return [slice(start, start + events_each) for start in starts]
    first, span = int(events.t[0]), int(events.t[-1] - events.t[0])
    window = window_us or span // bins
    frames = bins or span // window
    edges = first + np.arange(frames + 1) * window
    at = np.searchsorted(events.t, edges)
    return [slice(a, b) for a, b in zip(at[:-1], at[1:], strict=True)]


def tonic_frames(events: Columns, slices: list[slice]) -> np.ndarray:
    """(T, 2, H, W) int16: number of darker and of brighter events in each slice."""
    return np.stack([count(events.select(part)) for part in slices]).astype(np.int16)


def tonic_time_surface(events: Columns, window_us: int, decay_us: float) -> np.ndarray:
    """(T, 2, H, W) float64: exp(-age / decay) at the end of each window, 0 without events."""
    latest = np.full((2, events.height, events.width), -np.inf)
    surfaces = []
    for index, part in enumerate(tonic_slices(events, window_us=window_us)):
        p, y, x = (column[part].astype(np.int64) for column in (events.p, events.y, events.x))
        np.maximum.at(latest, (p, y, x), events.t[part].astype(np.float64))
        now = (index + 1) * window_us + events.t[0]
        surfaces.append(np.exp((latest - now) / decay_us))
    return np.stack(surfaces)


def time_surface(events: Columns, end_us: int, decay_us: float) -> np.ndarray:
    """(2, H, W) float32: exp(-age / decay) at `end_us` of the latest darker and brighter event."""
    latest = np.full((2, events.height, events.width), -np.inf)
    at = tuple(column.astype(np.int64) for column in (events.p, events.y, events.x))
    np.maximum.at(latest, at, events.t.astype(np.float64))
    surface: np.ndarray = np.exp((latest - end_us) / decay_us)
    return surface.astype(np.float32)


def population_norm(grid: np.ndarray) -> np.ndarray:
    """Standardise by mean and population deviation of the non-zero values.

    As E2VID, ESS and DepthAnyEvent do. A single value, or equal values, give NaN everywhere, as
    there; `inputs.std_pop` stays finite.
    """
    mask = grid != 0
    filled = mask.sum()
    if not filled:
        return grid
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = grid.sum() / filled
        deviation = np.sqrt((grid**2).sum() / filled - mean**2)
        normalised: np.ndarray = mask * (grid - mean) / deviation
    return normalised


def unbiased_norm(grid: np.ndarray) -> np.ndarray:
    """Standardise by mean and unbiased deviation of the non-zero values; DSEC, E-RAFT."""
    mask = grid != 0
    values = grid[mask]
    out = grid.copy()
    if len(values):
        deviation = values.std(ddof=1) if len(values) > 1 else 0.0
        out[mask] = (values - values.mean()) / (deviation if deviation > 0 else 1)
    return out


def represent(name: str, events: Events, window: Window, bins: int = 3) -> np.ndarray:
    """Events of a window in the representation of this name.

    Args:
        name: A key of `REPRESENTATIONS`.
        events: Events on an H x W sensor.
        window: Half-open time span.
        bins: B, for representations with several time bins.

    Returns:
        (C, H, W) float32; C is in `config.catalog.REPRESENTATIONS`.
    """
    inside = events.between(window.start_us, window.end_us)
    columns = Columns(inside.t, inside.x, inside.y, inside.p, inside.height, inside.width)
    return REPRESENTATIONS[name](columns, window, bins).astype(np.float32, copy=False)


REPRESENTATIONS: dict[str, Callable[[Columns, Window, int], np.ndarray]] = {
    "zhu": lambda e, w, b: voxelize(Events.unchecked(*e), w, b),
    "e2vid": lambda e, w, b: e2vid(e, b),
    "dsec": lambda e, w, b: dsec(e, b),
    "ess": lambda e, w, b: ess(e, b),
    "event_utils": lambda e, w, b: event_utils(e, b),
    "tonic": lambda e, w, b: tonic(e, b),
    "openeb_volume": lambda e, w, b: openeb_volume(e, b, w.start_us, max(w.end_us - w.start_us, 1)),
    "count": lambda e, w, b: count(e),
    "frame": lambda e, w, b: frame(e),
    "time_surface": lambda e, w, b: time_surface(e, w.end_us, max(w.end_us - w.start_us, 1)),
    "tencode": lambda e, w, b: tencode(e),
}
"""Name of a representation to its function of columns, window and bins B."""
