"""Which events belong to an image: a half-open window that ends at the image time.

`adaptive` is our rule with the purpose of CrossEI's motion-adaptive sampling, whose formula is not
published: walk back from the image until a share `quantile` of all cells holds enough events. It
looks at order only, so the chosen events do not change with the speed of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba as nb
import numpy as np

from scaleevent.config.data import WindowSettings
from scaleevent.errors import ConfigError
from scaleevent.events import Events

STOPS = ("given", "density", "n_max", "t_max", "start")  # why a window begins where it does


@dataclass(frozen=True)
class Window:
    """Half-open time span start_us <= t < end_us, and what decided its start (one of STOPS)."""

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
        events_per_pixel: Events for `count`, as a share of the sensor's pixels.
        cell: Side of a cell in native pixels, for `adaptive`.
        quantile: Share of cells that must be full.
        density: Events per pixel that make a cell full.
        pixel_cap: Events of one pixel that count, against hot pixels.
        fewest: Lower bound on events per pixel of the sensor.
        most: Upper bound on events per pixel of the sensor.
    """

    kind: Literal["adaptive", "time", "count"] = "adaptive"
    duration_us: int = 200_000
    events_per_pixel: float = 0.33
    cell: int = 16
    quantile: float = 0.1
    density: float = 0.25
    pixel_cap: int = 8
    fewest: float = 0.02
    most: float = 1.5


def window_rule(settings: WindowSettings) -> WindowRule:
    """The rule that a command's settings ask for."""
    return WindowRule(
        kind=settings.window,
        duration_us=settings.longest_us,
        events_per_pixel=settings.window_events,
        cell=settings.cell,
        quantile=settings.quantile,
    )


def choose_window(events: Events, end_us: int, rule: WindowRule) -> Window:
    """The window of an image taken at `end_us`.

    Args:
        events: The stream, reaching back beyond `rule.duration_us` (for `count`: that many
            events) unless the recording starts there; events from `end_us` on are ignored.
        end_us: Image time; the window is half-open and ends here.
        rule: The rule and its numbers.

    Returns:
        The window. Events tied with the first chosen one belong to it. With no event before
        `end_us` it has zero length and stop reason `start`.
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
    first, code = _walk_back(
        events.x, events.y, past, earliest, events.height, events.width, rule.cell,
        rule.density, int(np.ceil(rule.quantile * rows * columns)), rule.pixel_cap,
        int(np.ceil(rule.fewest * pixels)), int(rule.most * pixels),
    )  # fmt: skip
    if code == STOPS.index("start") and earliest > 0:
        return Window(end_us - rule.duration_us, end_us, "t_max")
    return Window(int(events.t[first]), end_us, STOPS[code])


@nb.njit(nogil=True, cache=True)
def _walk_back(x, y, past, earliest, height, width, cell, density, needed, cap, fewest, most):
    """First event of the window and the index into STOPS of what ended the walk."""
    columns, rows = -(-width // cell), -(-height // cell)
    missing = np.empty(rows * columns, np.int32)  # events until a cell is full
    for row in range(rows):
        tall = min(cell, height - row * cell)  # border cells may be partial
        for column in range(columns):
            wide = min(cell, width - column * cell)
            missing[row * columns + column] = max(np.ceil(density * tall * wide), 1)
    cell_of_x = (np.arange(width) // cell).astype(np.uint32)
    cell_of_y = (np.arange(height) // cell * columns).astype(np.uint32)
    room = np.full(height * width, cap, np.uint8)  # events of a pixel that still count
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
                    return first, 1
                break
    if last == past - max(most, 1):
        return last, 2
    return earliest, 4
