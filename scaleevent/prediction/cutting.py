"""A stream of events, from a file or a camera, to the windows that predictions are made of.

Nothing here knows files: events come as an iterator of blocks and are read once, forwards. Only
those are held that a window to come may need, so memory does not grow with the stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from scaleevent.events import Events
from scaleevent.grids.windows import Window, WindowRule, choose_window, needless
from scaleevent.prediction.schedules import Ends, Schedule, Span

PRUNED = 1 << 19  # events held more than were needed, at which those needed are looked for again


@dataclass(frozen=True)
class Quiet:
    """Word from a source that it will deliver no event before `until_us` any more.

    A window is whole as soon as an event at or after its end has come. A camera that sees nothing
    delivers none: then this makes windows whole.
    """

    until_us: int


@dataclass(frozen=True, eq=False)
class Cut:
    """One window and its events.

    Args:
        index: Number of the window, from 0, over all stretches.
        stretch: Number of the stretch between clock resets, from 0.
        first_us: Time of the first event of that stretch.
        window: The window.
        events: Its events.
        after: The window of the same length that starts at its end, and its events, where asked.
    """

    index: int
    stretch: int
    first_us: int
    window: Window
    events: Events
    after: tuple[Window, Events] | None = None


@dataclass
class Tally:
    """What became of the ends of windows; complete when all are cut.

    Args:
        windows: Windows delivered.
        empty: Without any event, left out.
        unfollowed: Left out because the window after them is not whole, which flow needs.
        beyond: Given times that lie outside the events of a stretch.
        events: Events seen.
        stretches: First and last event time of every stretch, and its windows.
    """

    windows: int = 0
    empty: int = 0
    unfollowed: int = 0
    beyond: int = 0
    events: int = 0
    stretches: list[tuple[int, int, int]] = field(default_factory=list)


def cut_windows(
    blocks: Iterable[Events | Quiet],
    schedule: Schedule,
    rule: WindowRule,
    *,
    span: Span | None = None,
    after: bool = False,
    tally: Tally | None = None,
) -> Iterator[Cut]:
    """The windows of a stream of events, each as soon as all of its events have come.

    The choice of a window is that of `choose_window` on the whole recording. A block that begins
    before the end of the one before it begins a new stretch (the clock was reset): no window spans
    two of them, and the schedule begins anew.

    Args:
        blocks: Blocks of events of one sensor, ascending in time within and between them, of any
            length; among them `Quiet`, from sources that know when nothing is to come.
        schedule: When windows end.
        rule: How the start of a window is found.
        span: The part of each stretch in which windows end; None: all of it.
        after: Also the window of the same length that follows; a cut comes when that is whole.
        tally: What is counted; its values are added to.

    Yields:
        Windows with at least one event, in the order of their ends. The iterator ends with the
        blocks, or as soon as the schedule or the span has no end any more in a stretch.
    """
    tally = Tally() if tally is None else tally
    stretch: _Stretch | None = None
    for block in blocks:
        if isinstance(block, Quiet):
            if stretch is not None:
                stretch.known_us = max(stretch.known_us, block.until_us)
                yield from stretch.due()
            continue
        if not len(block):
            continue
        if stretch is None or block.t[0] < stretch.last_us:
            if stretch is not None:
                yield from stretch.close()
            stretch = _Stretch(block, schedule, span or Span(), rule, after, tally)
        stretch.add(block)
        yield from stretch.due()
        if stretch.over:
            return
    if stretch is not None:
        yield from stretch.close()


class _Stretch:
    """Events between two clock resets, as far as windows to come need them."""

    def __init__(
        self, block: Events, schedule: Schedule, span: Span, rule: WindowRule, after: bool,
        tally: Tally,
    ) -> None:  # fmt: skip
        self.rule, self.after, self.tally = rule, after, tally
        self.first_us = int(block.t[0])
        self.last_us = self.known_us = self.first_us  # events before `known_us` have all come
        self.number = len(tally.stretches)
        tally.stretches.append((self.first_us, self.first_us, 0))
        self.ends: Ends = schedule.ends(self.first_us, span)
        tally.beyond += self.ends.skip_to(self.first_us)
        self.ends.skip_to(self.ends.start_us)
        self.held = Events.empty(block.height, block.width)
        self.new: list[Events] = []  # what has come since, not yet joined
        self.count, self.bound = 0, PRUNED
        self.waiting: deque[tuple[Window, Events]] = deque()  # for the window after them
        self.own = 0

    @property
    def over(self) -> bool:
        """Whether no event to come changes anything."""
        return self.ends.over and not self.waiting

    def add(self, block: Events) -> None:
        """Take the next block."""
        self.ends.see(block)
        self.new.append(block)
        self.count += len(block)
        self.tally.events += len(block)
        self.last_us = int(block.t[-1])
        self.known_us = max(self.known_us, self.last_us)
        self.tally.stretches[self.number] = (self.first_us, self.last_us, self.own)

    def due(self) -> Iterator[Cut]:
        """The windows that are whole now."""
        while (end := self.ends.peek()) is not None and end <= self.known_us:
            yield from self._followed()
            self._choose(end)
        yield from self._followed()
        if self.count > self.bound:
            self._prune()

    def close(self) -> Iterator[Cut]:
        """The windows that are left when the stretch has ended."""
        self.known_us = max(self.known_us, self.last_us + 1)
        latest = self.ends.latest(self.last_us)
        while (end := self.ends.peek()) is not None and end <= latest:
            self._choose(end)
        yield from self._followed()
        while self.waiting:  # nothing more follows these; shorter ones behind them may be whole
            self.waiting.popleft()
            self.tally.unfollowed += 1
            yield from self._followed()
        self.tally.beyond += self.ends.left()

    def _choose(self, end: int) -> None:
        """Find the window that ends here, or leave out all that are empty with it."""
        self._join()
        window = choose_window(self.held, end, self.rule)
        events = self.held.between(window.start_us, window.end_us)
        if len(events):
            self.ends.skip_to(end)
            self.waiting.append((window, events))
            return
        later = self.held.between(end, None)
        until = int(later.t[0]) if len(later) else max(self.known_us, end)
        self.tally.empty += self.ends.skip_to(until)

    def _followed(self) -> Iterator[Cut]:
        """Chosen windows whose turn has come: at once, or when the window after them is whole."""
        while self.waiting:
            window, events = self.waiting[0]
            following = None
            if self.after:
                next_window = Window(window.end_us, 2 * window.end_us - window.start_us)
                if next_window.end_us > self.known_us:
                    return
                self._join()
                between = self.held.between(next_window.start_us, next_window.end_us)
                following = (next_window, between)
            self.waiting.popleft()
            cut = Cut(self.tally.windows, self.number, self.first_us, window, events, following)
            self.tally.windows += 1
            self.own += 1
            self.tally.stretches[self.number] = (self.first_us, self.last_us, self.own)
            yield cut

    def _join(self) -> None:
        """All events in one."""
        if self.new:
            size = (self.held.height, self.held.width)
            self.held = Events.concatenate([self.held, *self.new], *size)
            self.new = []

    def _prune(self) -> None:
        """Let go of events that no window to come needs."""
        self._join()
        end = self.ends.peek()
        end = self.known_us if end is None else end
        spare = needless(self.held.between(None, end), end, self.rule)
        if self.waiting:  # the window after these is still to be cut
            first = int(self.held.t.searchsorted(self.waiting[0][0].end_us, "left"))
            spare = min(spare, first)
        self.held = self.held[spare:]
        self.count = len(self.held)
        self.bound = 2 * self.count + PRUNED
