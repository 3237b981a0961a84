"""Which events belong to an image: a half-open window that ends at the image time.

The rule `adaptive` is ours. It serves the purpose of CrossEI's motion-adaptive sampling, whose
formula is not published: walk back from the image until a fraction `quantile` of all cells holds
enough events. It uses event order, not time, so the same events are chosen however fast the scene
moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError
from scaleevent.events import Events

# Why a window begins where it does. Stores hold the index, so the order is fixed.
STOPS = ("given", "density", "n_max", "t_max", "start")
DENSITY, MOST_EVENTS, RECORDING_START = map(STOPS.index, ("density", "n_max", "start"))


@dataclass(frozen=True)
class Window:
    """Half-open time span start_us <= t < end_us.

    Args:
        start_us: Start, microseconds; the first instant inside.
        end_us: End, microseconds; the first instant after the window.
        stop: What decided the start, one of `STOPS`.

    Example:
        >>> from scaleevent import Window
        >>> Window(start_us=950_000, end_us=1_000_000)
        Window(start_us=950000, end_us=1000000, stop='given')
    """

    start_us: int
    end_us: int
    stop: str = "given"

    def __post_init__(self) -> None:
        if self.end_us < self.start_us:
            raise ConfigError("a window ends before it starts", found=f"{self}")


@dataclass(frozen=True)
class WindowRule:
    """How `choose_window` finds the start.

    Args:
        kind: `adaptive`, `time` (fixed duration) or `count` (fixed number of events).
        duration_us: Length for `time`; the longest span for `adaptive`.
        events_per_pixel: Events for `count`, per pixel of the sensor.
        cell: Side of a cell in sensor pixels, for `adaptive`.
        quantile: Fraction of cells that must be full.
        density: Events per pixel that make a cell full.
        pixel_cap: Largest number of events of one pixel that count; limits hot pixels.
        fewest: Lower bound on the window's events, per pixel of the sensor.
        most: Upper bound on the window's events, per pixel of the sensor.

    Example:
        >>> from scaleevent import WindowRule
        >>> rule = WindowRule(kind="time", duration_us=50_000)  # always the last 50 ms
        >>> rule = WindowRule(kind="count", events_per_pixel=0.5)  # half an event per pixel
    """

    kind: Literal["adaptive", "time", "count"] = "adaptive"
    duration_us: int = 200_000
    events_per_pixel: float = 0.33
    cell: int = 16
    quantile: float = 0.5
    density: float = 0.25
    pixel_cap: int = 8
    fewest: float = 0.02
    most: float = 1.5


def choose_window(events: Events, end_us: int, rule: WindowRule) -> Window:
    """The window of an image taken at `end_us`.

    Args:
        events: Events that reach back at least `rule.duration_us` (for `count`: that many events)
            or to the start of the recording; events from `end_us` on are ignored.
        end_us: Image time; the window is half-open and ends here.
        rule: The rule and its parameters.

    Returns:
        The window. Events with the same time stamp as the first chosen one belong to it. Without
        any event before `end_us` it has zero length and the stop reason `start`.

    Example:
        >>> from scaleevent import Events, WindowRule, choose_window
        >>> events = Events.from_columns([10, 20, 35], [0, 1, 3], [2, 2, 0], [1, 0, 1], 4, 5)
        >>> choose_window(events, end_us=30, rule=WindowRule(kind="time", duration_us=15))
        Window(start_us=15, end_us=30, stop='given')
    """
    past = int(np.searchsorted(events.t, end_us, "left"))
    if rule.kind == "time":
        return Window(end_us - rule.duration_us, end_us)
    if past == 0:
        return Window(end_us, end_us, "start")
    pixels = events.height * events.width
    if rule.kind == "count":
        first = past - max(round(rule.events_per_pixel * pixels), 1)
        if first < 0:
            return Window(int(events.t[0]), end_us, "start")
        return Window(int(events.t[first]), end_us)
    earliest = int(np.searchsorted(events.t, end_us - rule.duration_us, "left"))
    rows, columns = -(-events.height // rule.cell), -(-events.width // rule.cell)
    first, stop = _walk_back(
        events.x, events.y, past, earliest, events.height, events.width, rule.cell,
        rule.density, int(np.ceil(rule.quantile * rows * columns)), rule.pixel_cap,
        int(np.ceil(rule.fewest * pixels)), int(rule.most * pixels),
    )  # fmt: skip
    if stop == RECORDING_START and earliest > 0:
        return Window(end_us - rule.duration_us, end_us, "t_max")
    return Window(int(events.t[first]), end_us, STOPS[stop])


def needless(events: Events, end_us: int, rule: WindowRule) -> int:
    """How many of the oldest events no window can hold that ends at `end_us` or later.

    One older event than that is left: it shows that the recording did not start within the window.

    Args:
        events: All before `end_us`; more of that time may follow.
        end_us: Earliest end of any window to come.
        rule: How windows are found.
    """
    if rule.kind == "count":
        needed = max(round(rule.events_per_pixel * events.height * events.width), 1)
        oldest = events.t[max(len(events) - needed, 0)] if len(events) else 0
        return int(np.searchsorted(events.t, oldest, "left"))  # ties belong to the window
    return max(int(np.searchsorted(events.t, end_us - rule.duration_us, "left")) - 1, 0)


@nb.njit(nogil=True, cache=True)
def _walk_back(
    x: np.ndarray, y: np.ndarray, past: int, earliest: int, height: int, width: int, cell: int,
    density: float, needed: int, cap: int, fewest: int, most: int,
) -> tuple[int, int]:  # fmt: skip
    """Index of the window's first event, and the index into STOPS of what ended the walk.

    Walks from the event before `past` back to `earliest`, over at most `most` events, until
    `needed` cells are full; the window then holds at least `fewest` events.
    """
    columns, rows = -(-width // cell), -(-height // cell)
    missing = np.empty(rows * columns, np.int32)  # events until a cell is full
    for row in range(rows):
        tall = min(cell, height - row * cell)  # border cells may be partial
        for column in range(columns):
            wide = min(cell, width - column * cell)
            missing[row * columns + column] = max(np.ceil(density * tall * wide), 1)
    cell_of_x = (np.arange(width) // cell).astype(np.uint32)
    cell_of_y = (np.arange(height) // cell * columns).astype(np.uint32)
    room = np.full(height * width, cap, np.uint8)  # how many more events of each pixel count
    last = max(earliest, past - max(most, 1))
    for i in range(past - 1, last - 1, -1):
        pixel = np.uint32(y[i]) * np.uint32(width) + np.uint32(x[i])
        counts = np.uint8(room[pixel] > 0)
        room[pixel] -= counts
        here = cell_of_y[y[i]] + cell_of_x[x[i]]
        missing[here] -= counts
        if counts and missing[here] == 0:
            needed -= 1
            if needed <= 0:
                first = min(i, past - fewest)
                if first >= last:
                    return first, DENSITY
                break
    if last == past - max(most, 1):
        return last, MOST_EVENTS
    return earliest, RECORDING_START
