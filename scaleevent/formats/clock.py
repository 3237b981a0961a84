"""Which time stamps to believe: late events, wrong stamps and resets, by what follows them.

The *clock* is the latest time believed so far. An event up to `JITTER_US` below it is late, and is
sorted to its place. An event further below contradicts what came before, and what follows decides
which side is wrong. A step forward contradicts nothing, since nothing may have moved, unless it is
longer than a day.

1. *Few wrong stamps.* Of all ways to read the `AROUND` events before and after a contradiction the
   cheapest is taken. Leaving an event out costs 1, and letting the clock begin anew a little less
   than `RESET`; between equals, the one with fewer long steps forward wins. So a wrong stamp costs
   its own event, ahead or behind, alone or with others, and a clock that stays back is a reset.
2. *Many that agree*, since a damaged time word or packet header spoils all its events: to the first
   pass they are a reset there or back. If within `RUN` events the clock jumps back to where it was,
   to a time much nearer than any between, all between are damage. A second recording walks past
   the end of the first instead, or never reaches it.

The rest is bookkeeping in bounded memory: events are held until `RUN` and a few others have been
judged, and then until no late one can come before them. While they ascend there is nothing to
judge, and whole blocks pass. How a file is cut into blocks changes no decision.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import numba as nb
import numpy as np

from scaleevent.events import first_backward_step
from scaleevent.formats.source import JITTER_US, RawBlock

RESET = 4
"""Events that must stay back before a clock is believed to have been reset."""

AROUND = 64
"""Events before and after a contradiction among which it is resolved."""

DAY_US = 24 * 3600 * 10**6
"""No recording stands still for so long. A step like that costs two events, so that one or two at
the beginning or end of a file do not stretch it over years."""

RUN = 1 << 16
"""Most events whose stamps can be wrong together: those of one time word or packet."""

WAITING = 1 << 23
"""Most events that wait for late ones: 109 MB, all of 50 ms for a camera of 160 million a second"""

CROWD, CROWD_US = 1 << 22, 1000
"""More events than any camera delivers in so many microseconds, by a factor of four."""

_NEVER = -(1 << 61)  # the clock before the first event
_DAMAGE, _GOOD, _RESET = 0, 1, 2  # labels of events; the last for the first one after a reset
_DROP = 1 << 20  # price of an event in units of that of a step forward of more than `JITTER_US`
_SURE = 4 * RESET  # events that agree after a contradiction before it counts as resolved


class Clock:
    """Sorts the blocks of a recording, and leaves out the events whose stamps are wrong.

    Args:
        damage: Called with the number of wrong stamps, the index and time of the first, and the
            time at which the clock was, before the events are left out; may raise.
        reset: Called with the number of the segment after a reset, the index and time of its first
            event and the latest time before it; may raise.
        crowded: Called with an index, a first and last time and a number of events, where these are
            more than any camera delivers; must raise.
    """

    def __init__(
        self,
        damage: Callable[[int, int, int, int], None],
        reset: Callable[[int, int, int, int], None],
        crowded: Callable[[int, int, int, int], None],
    ) -> None:
        self._damage, self._reset, self._crowded = damage, reset, crowded
        self.segment, self.reordered = 0, 0
        self.time = _NEVER
        """The latest time handed to sorting; but for a reset, later events are at most late."""
        self._pending: deque[RawBlock] = deque()  # not decided, in the order of the file
        self.held = 0
        """Number of pending events."""
        self._judge: _Judge | None = None  # of the pending events, unless they ascend
        self._sorted: deque[RawBlock] = deque()  # in order of time; late ones may follow
        self._waiting = 0  # number of sorted events
        self._delivered = _NEVER  # time of the last event handed on

    @property
    def latest(self) -> int:
        """The time from which on events ascend, if the ones before do."""
        return int(self._pending[-1].t[-1]) if self._pending else self.time

    def add(self, block: RawBlock, ascends: bool) -> Iterator[tuple[int, RawBlock]]:
        """Take the next block, and give those that need not wait any longer, by segment.

        Args:
            block: Events in the order of the file, one or more.
            ascends: Whether their times do, from `latest` on.
        """
        since = self.latest if self.latest != _NEVER else block.t[0]
        if self._judge is None and not (ascends and block.t[-1] - since <= DAY_US):
            self._judge = _Judge(self.time)
        self._pending.append(block)
        self.held += len(block)
        keep = RUN + 2 * AROUND
        if self._judge is None:
            self._believe(keep)
        elif self.held >= self._judge.left + keep:  # not for every small block
            yield from self._decide(self._judge, last=False)
        yield from self.flush(last=False)

    def finish(self) -> Iterator[tuple[int, RawBlock]]:
        """Decide on and give all that is left, after the last block of the file."""
        if self._judge is None:
            self._believe(0)
        else:
            yield from self._decide(self._judge, last=True)
        yield from self.flush()

    def flush(self, last: bool = True) -> Iterator[tuple[int, RawBlock]]:
        """Give what is decided: with `last` all of it, else what need not wait for late events."""
        while self._sorted:
            head, latest = self._sorted[0], int(self._sorted[-1].t[-1])
            if self._waiting > CROWD and latest - head.t[0] <= CROWD_US:
                self._crowded(head.first, int(head.t[0]), latest, self._waiting)
            if not last and self._waiting <= WAITING and head.t[-1] > self.time - JITTER_US:
                break
            self._sorted.popleft()
            self._waiting -= len(head)
            self._delivered = int(head.t[-1])
            yield self.segment, head

    def _believe(self, keep: int) -> None:
        """Take pending blocks, which ascend, as they are; leave at least `keep` events pending."""
        while self._pending and self.held - len(self._pending[0]) >= keep:
            head = self._pending.popleft()
            self.held -= len(head)
            self.time = int(head.t[-1])
            self._sorted.append(head)
            self._waiting += len(head)

    def _decide(self, judge: _Judge, last: bool) -> Iterator[tuple[int, RawBlock]]:
        """Judge the pending blocks, and sort in what is decided."""
        block = RawBlock.join([*self._pending])
        labels = judge.decide(block.t, last)
        starts = [0, *(np.flatnonzero(labels[1:] == _RESET) + 1).tolist(), len(labels)]
        for start, end in pairwise(starts if len(labels) else ()):
            if labels[start] == _RESET:
                yield from self.flush()
                self._reset(self.segment + 1, self._index(start), int(block.t[start]), self.time)
                self.segment, self.time, self._delivered = self.segment + 1, _NEVER, _NEVER
            good = start + np.flatnonzero(labels[start:end])
            self._report(block.t[:end], start, good)
            if len(good):
                self._sort_in(block.take(good), self._index(int(good[0])))
        self.held -= len(labels)
        rest = block.take(slice(len(labels), None))
        self._pending = deque([replace(rest, first=self._index(len(labels)))] if self.held else [])
        if ascending(rest.t, self.time) and judge.content:
            self._judge = None

    def _index(self, place: int) -> int:
        """Index in the recording of a pending event."""
        for block in self._pending:
            if place < len(block):
                return block.first + place
            place -= len(block)
        return -1

    def _report(self, t: np.ndarray, start: int, good: np.ndarray) -> None:
        """Report what is not good of the pending times t[start:]."""
        wrong = len(t) - start - len(good)
        if wrong:
            at = start + int(np.argmin(np.append(good, -1) == start + np.arange(len(good) + 1)))
            clock = max(self.time, int(t[start:at].max(initial=_NEVER)))
            if clock == _NEVER:  # nothing is known before it
                clock = int(t[good[0]]) if len(good) else int(t[at])
            self._damage(wrong, self._index(at), int(t[at]), clock)

    def _sort_in(self, block: RawBlock, index: int) -> None:
        """Sort in good events; what is earlier than an event handed on comes too late for it."""
        block = replace(block, first=index)
        self.reordered += _late(block.t, self.time)
        self.time = max(self.time, int(block.t.max()))
        if first_backward_step(block.t) is not None:
            block = block.take(np.argsort(block.t, kind="stable"))
        lost = int(np.searchsorted(block.t, self._delivered))
        if lost:
            self._damage(lost, index, int(block.t[0]), self._delivered)
            block = block.take(slice(lost, None))
        self._waiting += len(block)
        later: list[RawBlock] = []
        while len(block):  # merge each part with the one waiting block that it overlaps
            if not self._sorted or block.t[0] >= self._sorted[-1].t[-1]:
                later.append(block)
                break
            waiting = self._sorted.pop()
            end = int(np.searchsorted(block.t, waiting.t[-1]))
            begin = int(np.searchsorted(block.t, self._sorted[-1].t[-1])) if self._sorted else 0
            if end < len(block):
                later.append(block.take(slice(end, None)))
            if begin < end:
                both = RawBlock.join([waiting, block.take(slice(begin, end))])
                waiting = both.take(np.argsort(both.t, kind="stable"))
            later.append(waiting)
            block = block.take(slice(None, begin))
        self._sorted.extend(reversed(later))


class _Judge:
    """Labels pending events by what follows them.

    Args:
        clock: The clock before the first of them.
    """

    def __init__(self, clock: int) -> None:
        self._labels, self._clocks = np.empty(0, np.uint8), np.empty(0, np.int64)
        self._clock = clock  # before t[0]
        self._first, self._second = 0, 0  # events labelled in the first and in the second pass

    @property
    def left(self) -> int:
        """Number of pending events, of those it has seen."""
        return len(self._labels)

    @property
    def content(self) -> bool:
        """Whether none of these is wrong or begins anew, as far as it can tell."""
        return bool((self._labels[: self._first] == _GOOD).all())

    def decide(self, t: np.ndarray, last: bool) -> np.ndarray:
        """Label (N,) the pending events that can be decided, which are pending no more.

        Args:
            t: (K,) all pending times: those that are left, and further ones.
            last: Whether there are no more to come; then N = K.
        """
        new = len(t) - len(self._labels)
        labels = np.append(self._labels, np.zeros(new, np.uint8))
        clocks = np.append(self._clocks, np.zeros(new, np.int64))
        first = _resolve_all(t, self._clock, self._first, last, labels, clocks)
        second = len(t) if last else max(first - AROUND - 1, self._second)
        _leave_out_runs(t, self._clock, self._second, second, RUN, labels, clocks)
        done = len(t) if last else max(second - RUN - 1, 0)
        if done:
            self._clock = int(clocks[done - 1])
        self._first, self._second = first - done, second - done
        self._labels, self._clocks = labels[done:], clocks[done:]
        return labels[:done]


def ascending(t: np.ndarray, clock: int) -> bool:
    """Whether (K,) times are in order and begin at the clock or later."""
    return not len(t) or bool(clock <= t[0] and first_backward_step(t) is None)


@nb.njit(nogil=True, cache=True)
def _late(t: np.ndarray, clock: int) -> int:
    """Number of (K,) times that are earlier than one before them, or than the clock."""
    late = 0
    for k in range(t.size):
        late += t[k] < clock
        clock = max(clock, t[k])
    return late


@nb.njit(nogil=True, cache=True)
def _resolve_all(
    t: np.ndarray, clock: int, at: int, last: bool, labels: np.ndarray, clocks: np.ndarray
) -> int:
    """First pass: label events from index `at` on, and note the clock after each.

    Contradictions are resolved as they are met, which may change the last `AROUND` labels.

    Returns:
        The index up to which events are labelled; without `last` not all may be.
    """
    begin = clock
    if at:
        clock = clocks[at - 1]
    while at < t.size:
        if clock == _NEVER or -JITTER_US <= t[at] - clock <= DAY_US:
            clock = max(clock, t[at])
            labels[at], clocks[at] = _GOOD, clock
            at += 1
        elif last or at + AROUND <= t.size:
            start = max(at - AROUND, 0)
            clock = clocks[start - 1] if start else begin
            at = _resolve(t[: at + AROUND], clock, start, at, labels, clocks)
            clock = clocks[at - 1]
        else:
            break
    return at


@nb.njit(nogil=True, cache=True)
def _resolve(
    t: np.ndarray, clock: int, start: int, at: int, labels: np.ndarray, clocks: np.ndarray
) -> int:
    """Label the events from `start` on in the cheapest way; event `at` contradicts one before.

    A reading is known by its clock and its price. From event to event each may leave the event out
    or believe it; of those with the same clock after it, the cheapest lives on. One with a later
    clock lives on only if it is no dearer than those with earlier clocks, because these can believe
    whatever it can (if more than a day earlier, for the price of a day); and none that costs a
    reset more than the cheapest, which could begin anew.

    Returns:
        The index up to which events are labelled: where the cheapest has agreed for a while.
    """
    reset, day = RESET * _DROP - _DROP // 2, 2 * _DROP
    most = t.size - start + 2  # readings: every event adds one at most
    now, price = np.empty(most, np.int64), np.empty(most, np.int64)
    after, cost = np.empty(most, np.int64), np.empty(most, np.int64)
    did, parent = np.empty(most, np.uint8), np.empty(most, np.uint8)
    history = np.empty((2, t.size - start, most), np.uint8)
    now[0], price[0], size = clock, 0, 1  # readings by ascending clock
    end, agreed, best = start, 0, 0
    while end < t.size and (end <= at or agreed < _SURE):
        time = t[end]
        moved, origin, how = np.int64(1 << 62), 0, _GOOD  # the cheapest whose clock becomes `time`
        for s in range(size):
            step = price[s] + (time - now[s] > JITTER_US)
            if time - now[s] > DAY_US and now[s] != _NEVER:
                step += day
            if now[s] > time:
                step = price[s] + reset if now[s] - time > JITTER_US else moved
            if step <= moved:
                moved, origin, how = step, s, _RESET if now[s] > time else _GOOD
        count, placed = 0, False
        for s in range(size + 1):  # all successors by ascending clock
            if not placed and (s == size or now[s] >= time):
                placed = True
                if moved < 1 << 62:
                    after[count], cost[count], did[count], parent[count] = time, moved, how, origin
                    count += 1
            if s < size:
                believed = now[s] - JITTER_US <= time <= now[s]
                after[count], parent[count] = now[s], s
                cost[count] = price[s] if believed else price[s] + _DROP
                did[count] = _GOOD if believed else _DAMAGE
                count += 1
        limit, size, best = cost[:count].min() + reset, 0, 0
        for s in range(count):
            spare = day if size and after[s] - now[best] > DAY_US else 0  # which it need not pay
            if size and cost[s] > price[best] + spare or cost[s] > limit:
                continue
            now[size], price[size] = after[s], cost[s]
            history[0, end - start, size], history[1, end - start, size] = did[s], parent[s]
            if cost[s] <= price[best]:
                best = size
            size += 1
        agreed = agreed + 1 if history[0, end - start, best] == _GOOD else 0
        end += 1
    for k in range(end - 1, start - 1, -1):
        labels[k], best = history[0, k - start, best], history[1, k - start, best]
    for k in range(start, end):
        if labels[k] != _DAMAGE:
            clock = max(clock, t[k]) if labels[k] == _GOOD else t[k]
        clocks[k] = clock
    return end


@nb.njit(nogil=True, cache=True)
def _leave_out_runs(
    t: np.ndarray, clock: int, at: int, end: int, run: int, labels: np.ndarray, clocks: np.ndarray
) -> None:
    """Second pass: label as damage what lies between two places at which the clock was the same.

    Args:
        t: (K,) times.
        clock: The clock before t[0].
        at: Events labelled in this pass before.
        end: Events to label in it.
        run: `RUN`.
        labels: (K,) labels of the first pass, changed in place.
        clocks: (K,) the clock after each event, changed in place.
    """
    if at:
        clock = clocks[at - 1]
    reset = -run  # where the clock last began anew
    for k in range(at - 1, max(at - run, 0) - 1, -1):
        if labels[k] == _RESET:
            reset = k
            break
    for k in range(at, end):
        if labels[k] != _DAMAGE:
            if labels[k] == _RESET:
                reset = k
            if reset == k or (t[k] > clock + JITTER_US and k - reset <= run):
                before = _before_run(t, k, run, labels)
                if before >= 0:
                    labels[before + 1 : k], labels[k] = _DAMAGE, _GOOD
                    clock = clocks[before]
                    clocks[before + 1 : k] = clock
            clock = t[k] if labels[k] == _RESET else max(clock, t[k])
        clocks[k] = clock


@nb.njit(nogil=True, cache=True)
def _before_run(t: np.ndarray, k: int, run: int, labels: np.ndarray) -> int:
    """The last good event from which the clock left in a jump and came back in one at `k`; or -1.

    It is twice as near in time as any between, and both jumps are much longer than the steps before
    and after them: a clock that walks passes every time.
    """
    nearest, back, last = np.int64(1 << 62), np.int64(0), k
    for j in range(k - 1, max(k - run - 1, 0) - 1, -1):
        if labels[j] == _DAMAGE:
            continue
        ahead = t[k] - t[j]
        if last < k and ahead >= -JITTER_US and nearest > 2 * max(ahead, 0) + JITTER_US:
            jump = min(abs(t[last] - t[j]), back)
            if jump > 4 * max(_step(t, j, -1, labels), _step(t, k, 1, labels)):
                return j
        if last == k:
            back = abs(ahead)
        nearest, last = min(nearest, abs(ahead)), j
        if nearest <= JITTER_US:
            break
    return -1


@nb.njit(nogil=True, cache=True)
def _step(t: np.ndarray, k: int, way: int, labels: np.ndarray) -> int:
    """The longest of a few steps between good events, from event `k` on forward or backward."""
    longest, steps, last = 0, 0, k
    j = k + way
    while 0 <= j < t.size and steps < RESET:
        if labels[j] != _DAMAGE:
            longest, steps, last = max(longest, abs(t[j] - t[last])), steps + 1, j
        j += way
    return longest
