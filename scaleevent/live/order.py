"""From raw blocks as they arrive to `Events` in order of time: nothing waits, all loss is counted.

A reader of files holds events back until later ones have shown which time stamps to believe
(`formats.clock`). A stream cannot wait, so the rule is simpler. It looks at one event after the
other, so that it makes no difference how the stream is cut:

- An event off the sensor is left out.
- An event up to `JITTER_US` earlier than the one before it is too late, and is left out.
- One earlier still, or more than a day later, contradicts the clock. It is left out as well; but
  after `RESET_EVENTS` of them that agree with each other, and none that agrees with the clock, the
  clock has begun anew. One that agrees with neither takes back `STRAY` of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba as nb
import numpy as np

from scaleevent.events import Events
from scaleevent.formats.clock import DAY_US
from scaleevent.formats.recording import Counts
from scaleevent.formats.source import JITTER_US, RawBlock

RESET_EVENTS = 256
"""Events that contradict the clock in the same way before it is believed to have begun anew."""

STRAY = 16
"""Of these, how many a wrong time stamp among them costs."""

OFF_SENSOR, LATE, WRONG = "off the sensor", "later than events after them", "wrong time stamps"

_NEVER = -(1 << 61)  # the clock before the first event
_KEEP, _OFF, _LATE, _WRONG, _RESET = range(5)
_CLOCK, _ROW, _THERE, _STATE = range(4)  # latest time, contradictions that agree, time of the last


class Order:
    """Sorts out the events of a stream that have no place in the order of time.

    Args:
        height: Sensor rows.
        width: Sensor columns.

    Attributes:
        counts: What became of all events; a stretch begins wherever the clock began anew.

    Example:
        >>> import numpy as np
        >>> from scaleevent.formats.source import RawBlock
        >>> from scaleevent.live.order import Order
        >>> order = Order(height=4, width=5)
        >>> t, x = np.array([10, 30, 20, 40]), np.array([0, 1, 2, 9], np.uint16)
        >>> list(order.add(RawBlock(0, t, x, x % 4, np.ones(4, np.uint8))))
        [Events(2 on 5x4, 10 .. 30 us)]
        >>> dict(order.counts.dropped)
        {'off the sensor': 1, 'later than events after them': 1}
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.counts = Counts()
        self._segment = 0
        self._state = np.array([_NEVER, 0, 0], np.int64)

    @property
    def time_us(self) -> int | None:
        """The latest time delivered or passed; None before the first."""
        return None if self._state[_CLOCK] == _NEVER else int(self._state[_CLOCK])

    def pass_to(self, time_us: int) -> None:
        """No event before this time is wanted any more."""
        self._state[_CLOCK] = max(int(self._state[_CLOCK]), time_us)

    def add(self, block: RawBlock) -> Iterator[Events]:
        """The events of a block that have a place; a part of its own begins at a clock reset."""
        counts = self.counts
        counts.add(block)
        for flaw in block.flaws:
            counts.add_flaw(flaw)
        if not len(block):
            return
        labels = np.empty(len(block), np.uint8)
        if not _label(block.t, block.x, block.y, self.height, self.width, self._state, labels):
            events = self._events(block)
            counts.add_events(events, self._segment)
            yield events
            return
        found = np.bincount(labels, minlength=_RESET + 1)
        for label, reason in ((_OFF, OFF_SENSOR), (_LATE, LATE), (_WRONG, WRONG)):
            counts.drop(reason, int(found[label]))
        places = np.arange(len(block))
        for number, part in enumerate(np.split(places, np.flatnonzero(labels == _RESET))):
            self._segment += number > 0
            kept = part[(labels[part] == _KEEP) | (labels[part] == _RESET)]
            if len(kept):
                events = self._events(block.take(kept))
                counts.add_events(events, self._segment)
                yield events

    def _events(self, block: RawBlock) -> Events:
        x, y = (column.astype(np.uint16, copy=False) for column in (block.x, block.y))
        return Events.unchecked(block.t, x, y, block.p, self.height, self.width)


@nb.njit(nogil=True, cache=True)
def _label(
    t: np.ndarray, x: np.ndarray, y: np.ndarray, height: int, width: int, state: np.ndarray,
    labels: np.ndarray,
) -> int:  # fmt: skip
    """Label (K,) events; the state is carried from call to call. Returns how many are not kept."""
    strange = 0
    clock, row, there = state[_CLOCK], state[_ROW], state[_THERE]
    for k in range(t.size):
        step = t[k] - clock
        if x[k] >= width or y[k] >= height:
            labels[k] = _OFF
            strange += 1
        elif clock == _NEVER or 0 <= step <= DAY_US:
            labels[k], clock, row = _KEEP, t[k], 0
        elif -JITTER_US <= step < 0:
            labels[k], row = _LATE, 0
            strange += 1
        else:
            strange += 1
            if row and -JITTER_US <= t[k] - there <= DAY_US:
                row, there = row + 1, t[k]
            elif row > STRAY:
                row -= STRAY
            else:
                row, there = 1, t[k]
            if row < RESET_EVENTS:
                labels[k] = _WRONG
            else:
                labels[k], clock, row = _RESET, t[k], 0
    state[_CLOCK], state[_ROW], state[_THERE] = clock, row, there
    return strange
