"""How long each part of a prediction takes."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np

from scaleevent.system.files import Json

STAGES = ("reading", "voxelising", "network", "drawing")
MEANING = {
    "reading": "decoding the events and choosing the window",
    "waiting": "for the next window, whose events are decoded meanwhile; no part of the latency",
    "voxelising": "to the network's input",
    "network": "to a map on the sensor's pixels",
    "drawing": "pictures and files",
    "latency": "all of these of one window",
}


@dataclass(frozen=True)
class StageTime:
    """How long one stage takes, over all windows.

    Args:
        median: Milliseconds a window.
        p99: Milliseconds that 99 % of the windows do not exceed.
        share: Of the time of all stages, 0 to 1.
    """

    median: float
    p99: float
    share: float


@dataclass(frozen=True)
class Timing:
    """How long predictions took.

    Args:
        windows: Number of windows.
        seconds: From the first look at the recording to the last file.
        windows_per_second: Over these seconds.
        milliseconds: By stage, see `MEANING`; of no window none.
    """

    windows: int
    seconds: float
    windows_per_second: float
    milliseconds: Mapping[str, StageTime]

    def to_json(self) -> Json:
        """For reports."""
        found: Json = asdict(self)
        return found


class Stopwatch:
    """Seconds of each stage of each window.

    Args:
        waits: Whether `reading` is waiting for a window that others read and cut: it is then called
            so, and is no part of the latency.
    """

    def __init__(self, waits: bool = False) -> None:
        self._waits = waits
        self._seconds = {stage: array("f") for stage in STAGES}
        self._now = dict.fromkeys(STAGES, 0.0)
        self._began = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage of the present window."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._now[name] += time.perf_counter() - began

    def lap(self) -> None:
        """The present window is done."""
        for stage, seconds in self._now.items():
            self._seconds[stage].append(seconds)
        self._now = dict.fromkeys(STAGES, 0.0)

    @property
    def windows(self) -> int:
        """Number of windows."""
        return len(self._seconds[STAGES[0]])

    def timing(self) -> Timing:
        """What was measured until now."""
        wall = time.perf_counter() - self._began
        if not self.windows:
            return Timing(0, wall, 0.0, {})
        stages = {name: 1000 * np.array(values) for name, values in self._seconds.items()}
        waiting = {"waiting": stages.pop("reading")} if self._waits else {}
        total = np.sum(list(stages.values()), axis=0)
        whole = max(float(total.sum()) + sum(float(one.sum()) for one in waiting.values()), 1e-12)
        return Timing(
            self.windows,
            wall,
            self.windows / max(wall, 1e-9),
            {
                name: StageTime(
                    median=float(np.median(values)),
                    p99=float(np.percentile(values, 99)),
                    share=float(values.sum()) / whole,
                )
                for name, values in {**waiting, **stages, "latency": total}.items()
            },
        )


def timing_rows(timing: Timing) -> tuple[tuple[object, ...], ...]:
    """Rows of a table: stage, median ms, p99 ms, share of the time in percent."""
    return tuple(
        (name, one.median, one.p99, 100 * one.share) for name, one in timing.milliseconds.items()
    )


def timing_meaning(timing: Timing) -> str:
    """What the stages are that were measured, in words."""
    told = (f"{name}: {MEANING[name]}" for name in timing.milliseconds)
    return "; ".join([*told, "p99: 99 % of the windows take at most that long"])
