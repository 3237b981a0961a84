"""Ground-truth flow between any two times from a series of flow maps, as MVSEC is evaluated.

The rules are those of daniilidis-group/EV-FlowNet:src/eval_utils.py, its odd ones included, since
every published number rests on them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from scaleevent.errors import DataError


class FlowMaps(Protocol):
    """K flow maps (2, H, W), of which only those that are asked for need to be read."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


def propagate_flow(maps: FlowMaps, times: np.ndarray, start: float, end: float) -> np.ndarray:
    """Displacement of every pixel from `start` to `end`.

    Each pixel walks through the maps: it moves by the flow at the nearest pixel of where it is, the
    first and last map scaled by the fraction of their interval that is covered. A component that
    meets flow 0 or leaves the image is set to 0. A window shorter than the interval it begins in
    takes that one map, scaled, even where it reaches into the next.

    Args:
        maps: K flow maps (2, H, W) in pixels right and down; the k-th holds from times[k] to
            times[k+1].
        times: (K,) ascending, in the unit of `start` and `end`.
        start: When the displacement begins.
        end: When it ends.

    Returns:
        (2, H, W) float64 pixels; 0 in a component is unknown, and so is NaN, where a pixel met flow
        that is not finite.

    Raises:
        DataError: The times do not ascend, or the window is empty or not covered by them.
    """
    times = np.asarray(times, np.float64)
    if len(times) != len(maps) or np.any(np.diff(times) <= 0):
        raise DataError(
            "flow maps without ascending times", found=f"{len(maps)} maps, {len(times)} times"
        )
    if not (len(times) and times[0] <= start < end <= times[-1]):
        raise DataError(
            "no ground-truth flow for the window",
            found=f"{start} to {end}",
            expected=f"within {times[0]} to {times[-1]}" if len(times) else "flow maps",
        )
    first = int(np.searchsorted(times, start, side="right")) - 1
    if end - start < times[first + 1] - times[first]:
        fraction = (end - start) / (times[first + 1] - times[first])
        return _finite(np.asarray(maps[first], np.float64) * fraction)
    last = int(np.searchsorted(times, end, side="left")) - 1
    origin = np.mgrid[: maps[first].shape[1], : maps[first].shape[2]][::-1].astype(np.float64)
    position, alive = origin.copy(), np.ones(origin.shape, bool)
    for k in range(first, last + 1):
        covered = min(end, times[k + 1]) - max(start, times[k])
        flow = _nearest(np.asarray(maps[k], np.float64), position)
        alive &= flow != 0
        position += flow * (covered / (times[k + 1] - times[k]))
    return _finite(np.where(alive | ~np.isfinite(position), position - origin, 0))


def _nearest(flow: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Flow (2, H, W) at the pixels nearest to positions (2, H, W); 0 outside, NaN stays."""
    _, height, width = flow.shape
    x, y = np.rint(position)
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    found = np.zeros_like(position)
    found[:, inside] = flow[:, y[inside].astype(np.intp), x[inside].astype(np.intp)]
    return found


def _finite(flow: np.ndarray) -> np.ndarray:
    """NaN in both components where one is not finite."""
    return np.where(np.isfinite(flow).all(0), flow, np.nan)
