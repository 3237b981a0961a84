"""Events as pictures and grids in every form that the field's code uses, beside `voxels.voxelize`.

"The voxel grid" is many functions: they differ in the scale of time, in what becomes of the last
events, in sub-pixels, and where all events have one stamp. Each function here gives the numbers of
one reference, quirks included, so that results of others can be reproduced; the default everywhere
else stays `voxelize`. A grid may hold NaN where the reference's does (`event_utils`, `tonic`,
`tencode` with one stamp, `*_norm` with one non-zero voxel); no events give zeros.

| name | channels | after |
|---|---|---|
| `zhu` | B signed bins over the window | Zhu et al. 2019, exact: `voxels.voxelize` |
| `e2vid` | B signed bins, first to last event | uzh-rpg/rpg_e2vid:utils/inference_utils.py |
| `dsec` | the same, bilinear in space too | uzh-rpg/DSEC:scripts/dataset/representations.py |
| `ess` | the same, bounds checked | uzh-rpg/ess:datasets/data_util.py |
| `event_utils` | the same, a triangle a bin | TimoStoff/event_utils |
| `tonic` | B bins, time to B: loses the last events | neuromorphs/tonic:to_voxel_grid |
| `openeb_volume` | B bins by their centres | prophesee-ai/openeb:event_to_tensor_torch.py |
| `count` | 2: darker, brighter | the histogram of uzh-rpg/ess |
| `frame` | 1: brighter minus darker | |
| `time_surface` | 2: exp(-age / window) of the latest event | neuromorphs/tonic:ToTimesurface |
| `tencode` | 3: brighter, age, darker | bartn8/depthanyevent |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numba as nb
import numpy as np

from scaleevent.events import Events
from scaleevent.grids.voxels import voxelize

if TYPE_CHECKING:
    from scaleevent.grids.windows import Window


class Columns(NamedTuple):
    """Events as the references take them: coordinates may have fractions, order may be broken.

    Args:
        t: (K,) int64 us.
        x: (K,) column, integer or float.
        y: (K,) row.
        p: (K,) 0 or 1.
        height: H.
        width: W.
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
        """(K,) int64 number of the pixel."""
        return self.y.astype(np.int64) * self.width + self.x.astype(np.int64)

    def scaled_time(self, end: float) -> np.ndarray:
        """(K,) float64: first event to 0, last to `end`; all 0 where both have one stamp."""
        return end * (self.t - self.t[0]) / (self.t[-1] - self.t[0] or 1)

    def grid(self, channels: int) -> np.ndarray:
        """(channels, H, W) float64 zeros."""
        return np.zeros((channels, self.height, self.width))


def _add(grid: np.ndarray, layer: np.ndarray, pixel: np.ndarray, value: np.ndarray) -> None:
    """Add values to pixels of layers; layers outside the grid are left out."""
    inside = (layer >= 0) & (layer < len(grid))
    np.add.at(grid.reshape(len(grid), -1), (layer[inside], pixel[inside]), value[inside])


def _between_bins(events: Columns, tau: np.ndarray, bins: int, value: np.ndarray) -> np.ndarray:
    """(B, H, W) float64: each event shared by the bins before and after its time."""
    grid = events.grid(bins)
    low = np.floor(tau).astype(np.int64)
    _add(grid, low, events.pixel, value * (1 - (tau - low)))
    inside = low >= 0  # the references drop what lies before the first bin whole
    _add(grid, low[inside] + 1, events.pixel[inside], (value * (tau - low))[inside])
    return grid


def e2vid(events: Columns, bins: int) -> np.ndarray:
    """(B, H, W) float32 of rpg_e2vid's events_to_voxel_grid_pytorch; drops disorder."""
    if not len(events.t):
        return events.grid(bins).astype(np.float32)
    tau = events.scaled_time(bins - 1)
    return _between_bins(events, tau, bins, events.sign).astype(np.float32)


def e2vid_numpy(events: Columns, bins: int) -> np.ndarray:
    """The same of its events_to_voxel_grid, where times before the first wrap to the end."""
    grid = events.grid(bins).astype(np.float32)
    if not len(events.t):
        return grid
    tau = events.scaled_time(bins - 1)
    low = tau.astype(np.int64)  # towards zero
    flat, size = grid.reshape(-1), events.height * events.width
    for side, share in ((0, 1 - (tau - low)), (1, tau - low)):
        inside = low + side < bins
        at = events.pixel[inside] + (low[inside] + side) * size
        np.add.at(flat, at, (events.sign * share)[inside])
    return grid


def ess(events: Columns, bins: int, apart: bool = False) -> np.ndarray:
    """(B, H, W) float32 brighter minus darker, or (2 B, H, W) brighter then darker."""
    if not len(events.t):
        return events.grid(bins * (2 if apart else 1)).astype(np.float32)
    tau = events.scaled_time(bins - 1)
    on, off = (_between_bins(events, tau, bins, (events.p == k) * 1.0) for k in (1, 0))
    return (np.concatenate([on, off]) if apart else on - off).astype(np.float32)


def event_utils(events: Columns, bins: int) -> np.ndarray:
    """(B, H, W) float64 of events_to_voxel: a triangle around each bin."""
    grid = events.grid(bins)
    if not len(events.t):
        return grid
    with np.errstate(invalid="ignore"):
        tau = (bins - 1) * (events.t - events.t[0]) / np.float64(events.t[-1] - events.t[0])
    for b in range(bins):
        weight = events.sign * np.maximum(0, 1 - np.abs(tau - b))
        np.add.at(grid[b].reshape(-1), events.pixel, weight)
    return grid


def tonic(events: Columns, bins: int) -> np.ndarray:
    """(B, H, W) float64 of to_voxel_grid: the last stamp falls behind the last bin."""
    grid = events.grid(bins)
    if not len(events.t):
        return grid
    if events.t[-1] == events.t[0]:
        grid.reshape(bins, -1)[:2, events.pixel] = np.nan
        return grid
    tau = events.scaled_time(bins)
    low = tau.astype(np.int64)
    _add(grid, low, events.pixel, events.sign * (1 - (tau - low)))
    _add(grid, low + 1, events.pixel, events.sign * (tau - low))
    return grid


def dsec(events: Columns, bins: int) -> np.ndarray:
    """(B, H, W) float32, bilinear in space and time; E-RAFT's and DepthAnyEvent's raw grid too.

    Truncation instead of floor gives wrong weights left of, above and before the grid; one stamp
    gives no time and so zeros. Both as in the reference.
    """
    grid = events.grid(bins)
    if not len(events.t):
        return grid.astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = (events.t - events.t[0]).astype(np.float32)
        t = t / t[-1]
        tau = (bins - 1) * (t - t[0]) / (t[-1] - t[0])
    if not np.isfinite(tau).all():
        return grid.astype(np.float32)
    x, y = events.x.astype(np.float32), events.y.astype(np.float32)
    value = events.sign.astype(np.float32)
    corners = [axis.astype(np.int64) for axis in (x, y, tau)]
    for right in (0, 1):
        for below in (0, 1):
            for later in (0, 1):
                column, row, layer = corners[0] + right, corners[1] + below, corners[2] + later
                inside = (column >= 0) & (column < events.width)
                inside &= (row >= 0) & (row < events.height)
                weight = value * (1 - np.abs(column - x)) * (1 - np.abs(row - y))
                weight = weight * (1 - np.abs(layer - tau))
                pixel = row * events.width + column
                _add(grid, layer[inside], pixel[inside], weight[inside])
    return grid.astype(np.float32)


def openeb_volume(
    events: Columns, bins: int, start_us: int, duration_us: int, nearest: bool = False
) -> np.ndarray:
    """(B, H, W) float32 of openeb's event_volume: the outer half bins leak inwards or are whole."""
    tau = (events.t - start_us) * (bins / duration_us) - 0.5
    low = np.clip(np.floor(tau).astype(np.int64), 0, bins - 1)
    grid = events.grid(bins)
    share = np.ones(len(tau)) if nearest else np.maximum(0, 1 - np.abs(low - tau))
    _add(grid, low, events.pixel, events.sign * share)
    if not nearest:
        after = np.minimum(low + 1, bins - 1)
        _add(grid, after, events.pixel, events.sign * (1 - share))
    return grid.astype(np.float32)


def openeb_cube(
    events: Columns, bins: int, duration_us: int, step: float, clip: float, apart: bool
) -> np.ndarray:
    """(B or 2 B, H, W) float32 of openeb's event cube, clipped after every event.

    Args:
        events: Times from 0 to the duration.
        bins: B.
        duration_us: Of the window.
        step: Events that make 1.
        clip: Largest value.
        apart: Channel 2 b is darker, 2 b + 1 brighter.
    """
    grid = np.zeros((bins * (2 if apart else 1), events.height * events.width), np.float32)
    tau = (events.t / duration_us * bins - 0.5).astype(np.float64)
    _clipped_shares(grid, tau, events.pixel, events.p.astype(np.int64), bins, step, clip, apart)
    return grid.reshape(-1, events.height, events.width)


@nb.njit(cache=True)
def _clipped_shares(grid, tau, pixel, p, bins, step, clip, apart):
    for k in range(tau.size):
        low = np.int64(np.floor(tau[k]))
        rest = tau[k] - low
        for side in range(2):
            layer = low + side
            if 0 <= layer < bins:
                share = (rest if side else 1 - rest) / step
                if apart:
                    layer = 2 * layer + p[k]
                elif p[k] == 0:
                    share = -share
                grid[layer, pixel[k]] = min(max(grid[layer, pixel[k]] + share, -clip), clip)


def openeb_difference(events: Columns, step: float, clip: float) -> np.ndarray:
    """(1, H, W) float32: brighter minus darker, clipped after every event."""
    grid = np.zeros((1, events.height * events.width), np.float32)
    zeros = np.zeros(len(events.t))
    _clipped_shares(grid, zeros, events.pixel, events.p.astype(np.int64), 1, step, clip, False)
    return grid.reshape(1, events.height, events.width)


def openeb_histogram(events: Columns, step: float, clip: float) -> np.ndarray:
    """(2, H, W) float32 darker, brighter, up to a value."""
    return np.minimum(count(events) / np.float32(step), np.float32(clip))


def count(events: Columns) -> np.ndarray:
    """(2, H, W) float32: events darker, brighter."""
    grid = events.grid(2)
    _add(grid, events.p.astype(np.int64), events.pixel, np.ones(len(events.t)))
    return grid.astype(np.float32)


def dae_histogram(events: Columns, most: int = 200) -> np.ndarray:
    """The same up to `most`; events off the sensor are left out before fractions are cut."""
    return np.minimum(count(_on_sensor(events)), np.float32(most))


def frame(events: Columns) -> np.ndarray:
    """(1, H, W) float32: brighter minus darker."""
    off, on = count(events)
    return (on - off)[None]


def tencode(events: Columns, white: bool = False) -> np.ndarray:
    """(3, H, W) float32 of 0..1: brighter, age, darker of the last event; else black or white."""
    base = 255.0 if white else 0.0
    picture = np.full((3, events.height, events.width), base, np.float32)
    if not len(events.t):
        return picture  # undivided, as the reference
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
    return Columns(*(column[inside] for column in events[:4]), events.height, events.width)


def tonic_slices(
    events: Columns, *, bins: int = 0, events_each: int = 0, window_us: int = 0
) -> list[slice]:
    """Events of each frame, by one of three rules of tonic's ToFrame; what is left is dropped."""
    if events_each:
        return [
            slice(k, k + events_each)
            for k in range(0, len(events.t) - events_each + 1, events_each)
        ]
    first, span = int(events.t[0]), int(events.t[-1] - events.t[0])
    window = window_us or span // bins
    number = bins or span // window
    edges = first + np.arange(number + 1) * window
    at = np.searchsorted(events.t, edges)
    return [slice(a, b) for a, b in zip(at[:-1], at[1:], strict=True)]


def tonic_frames(events: Columns, slices: list[slice]) -> np.ndarray:
    """(T, 2, H, W) int16: events darker and brighter in each slice."""
    parts = (Columns(*(c[part] for c in events[:4]), *events[4:]) for part in slices)
    return np.stack([count(part) for part in parts]).astype(np.int16)


def tonic_time_surface(events: Columns, window_us: int, decay_us: float) -> np.ndarray:
    """(T, 2, H, W) float64: exp(-age / decay) at the end of each window, 0 where nothing fired."""
    latest = np.full((2, events.height, events.width), -np.inf)
    surfaces = []
    for number, part in enumerate(tonic_slices(events, window_us=window_us)):
        p, y, x = (column[part].astype(np.int64) for column in (events.p, events.y, events.x))
        np.maximum.at(latest, (p, y, x), events.t[part].astype(np.float64))
        now = (number + 1) * window_us + events.t[0]
        surfaces.append(np.exp((latest - now) / decay_us))
    return np.stack(surfaces)


def time_surface(events: Columns, end_us: int, decay_us: float) -> np.ndarray:
    """(2, H, W) float32: exp(-age / decay) of the latest darker and brighter event at a time."""
    latest = np.full((2, events.height, events.width), -np.inf)
    at = tuple(column.astype(np.int64) for column in (events.p, events.y, events.x))
    np.maximum.at(latest, at, events.t.astype(np.float64))
    return np.exp((latest - end_us) / decay_us).astype(np.float32)


def population_norm(grid: np.ndarray) -> np.ndarray:
    """By mean and population deviation of what is not zero; E2VID, ESS, DepthAnyEvent.

    One value, or equal ones, give NaN everywhere, as the references; `inputs.NORMALISERS` has a
    form that stays finite.
    """
    mask = grid != 0
    number = mask.sum()
    if not number:
        return grid
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = grid.sum() / number
        deviation = np.sqrt((grid**2).sum() / number - mean**2)
        return mask * (grid - mean) / deviation


def unbiased_norm(grid: np.ndarray) -> np.ndarray:
    """By mean and unbiased deviation of what is not zero; DSEC, E-RAFT."""
    mask = grid != 0
    values = grid[mask]
    out = grid.copy()
    if len(values):
        deviation = values.std(ddof=1) if len(values) > 1 else 0.0
        out[mask] = (values - values.mean()) / (deviation if deviation > 0 else 1)
    return out


def represent(name: str, events: Events, window: Window, bins: int = 3) -> np.ndarray:
    """Events of a window in a representation by name.

    Args:
        name: A key of `REPRESENTATIONS`.
        events: On an H x W sensor.
        window: Half-open time span.
        bins: B, for grids of several bins.

    Returns:
        (C, H, W) float32; see the table above for C.
    """
    return REPRESENTATIONS[name](events, window, bins)


def _of_columns(
    make: Callable[[Columns, Window, int], np.ndarray],
) -> Callable[[Events, Window, int], np.ndarray]:
    def run(events: Events, window: Window, bins: int) -> np.ndarray:
        inside = events.between(window.start_us, window.end_us)
        columns = (inside.t, inside.x, inside.y, inside.p, inside.height, inside.width)
        return make(Columns(*columns), window, bins).astype(np.float32)

    return run


REPRESENTATIONS: dict[str, Callable[[Events, Window, int], np.ndarray]] = {
    "zhu": voxelize,
    "e2vid": _of_columns(lambda e, w, b: e2vid(e, b)),
    "dsec": _of_columns(lambda e, w, b: dsec(e, b)),
    "ess": _of_columns(lambda e, w, b: ess(e, b)),
    "event_utils": _of_columns(lambda e, w, b: event_utils(e, b)),
    "tonic": _of_columns(lambda e, w, b: tonic(e, b)),
    "openeb_volume": _of_columns(
        lambda e, w, b: openeb_volume(e, b, w.start_us, max(w.end_us - w.start_us, 1))
    ),
    "count": _of_columns(lambda e, w, b: count(e)),
    "frame": _of_columns(lambda e, w, b: frame(e)),
    "time_surface": _of_columns(
        lambda e, w, b: time_surface(e, w.end_us, max(w.end_us - w.start_us, 1))
    ),
    "tencode": _of_columns(lambda e, w, b: tencode(e)),
}
"""name: (events, window, bins) -> (C, H, W) float32."""
