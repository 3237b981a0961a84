"""Time that passes: the clock of the computer, and a recording played at its own speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from scaleevent.events import Events
from scaleevent.prediction.cutting import Quiet

STEP_US = 2_000
"""Events that are delivered together where a recording plays at its own speed."""


class Timer(Protocol):
    """A clock; tests have one that moves only when told to."""

    def now(self) -> float:
        """Seconds since some moment; never steps back."""

    def sleep(self, seconds: float) -> None:
        """Wait so long; not at all for negative times."""


class SystemTimer:
    """The computer's own clock."""

    def now(self) -> float:
        """Seconds since some moment; never steps back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait so long; not at all for negative times."""
        if seconds > 0:
            time.sleep(seconds)


class Pace:
    """Plays blocks of events at their own speed.

    After a clock reset time goes on at once.

    Args:
        blocks: Blocks of events in order of time, as `Recording.blocks` gives them.
        timer: The clock by which they are played.
        stop: Whether to end now; asked now and then.
        step_us: Events of so many microseconds come together, when the last of them is due.
        start_us: Microseconds after the first event of each stretch from which on time passes; what
            lies before comes at once.

    Example:
        >>> from scaleevent import Events
        >>> from scaleevent.live.pace import Pace, SystemTimer
        >>> events = Events.from_columns([0, 900, 4_100], [0] * 3, [0] * 3, [1] * 3, 4, 5)
        >>> [block for block in Pace([events], SystemTimer())]
        [Events(2 on 5x4, 0 .. 900 us), Quiet(until_us=4000), Events(1 on 5x4, 4100 .. 4100 us)]
    """

    def __init__(
        self,
        blocks: Iterable[Events | Quiet],
        timer: Timer,
        stop: Callable[[], bool] = lambda: False,
        step_us: int = STEP_US,
        start_us: int = 0,
    ) -> None:
        self._blocks, self._timer, self._stop, self._step = blocks, timer, stop, step_us
        self._start_us = start_us
        self._began: list[tuple[float, int]] = []  # a moment and its time on each stretch's clock

    def moment(self, time_us: int, stretch: int = -1) -> float:
        """When the camera's clock shows a time, on the timer.

        Args:
            time_us: The time, microseconds.
            stretch: Number of the stretch between clock resets, from 0; that of the last block by
                default. It must have begun.
        """
        began, first_us = self._began[stretch]
        return began + (time_us - first_us) / 1e6

    def __iter__(self) -> Iterator[Events | Quiet]:
        latest = start = edge = 0  # up to the edge events come together
        passes = False
        for block in self._blocks:
            if isinstance(block, Quiet) or not len(block):
                continue
            if not self._began or block.t[0] < latest:
                self._began.append((self._timer.now(), int(block.t[0])))
                start, passes = int(block.t[0]) + self._start_us, False
            latest = int(block.t[-1])
            early = block.between(None, start)
            block = block[len(early) :]
            if len(early):
                yield early
            if len(block) and not passes:
                self._began[-1] = (self._timer.now(), start)
                edge, passes = start + self._step, True
            while len(block) and not self._stop():
                part = block.between(None, edge)
                block = block[len(part) :]
                self._wait(edge if len(block) else int(part.t[-1]))
                yield part if len(part) else Quiet(edge)
                edge += self._step if len(block) else 0
            if self._stop():
                return

    def _wait(self, time_us: int) -> None:
        self._timer.sleep(self.moment(time_us) - self._timer.now())
