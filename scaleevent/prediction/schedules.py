"""When predictions are made: at a rate, every so many events, or at given times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from scaleevent.events import Events


@dataclass(frozen=True)
class Span:
    """The part of a stretch of events in which windows end.

    Args:
        start_us: Microseconds after the first event; windows end later than that.
        duration_us: Length of the part; None: to the last event.
    """

    start_us: int = 0
    duration_us: int | None = None

    def of(self, first_us: int) -> tuple[int, int | None]:
        """Times (excluded, included) between which windows end, for a stretch that begins so."""
        start = first_us + self.start_us
        return start, None if self.duration_us is None else start + self.duration_us


class Ends(ABC):
    """The ends of windows in one stretch of events, in ascending order, each once.

    Args:
        within: From `Span.of`.
    """

    def __init__(self, within: tuple[int, int | None]) -> None:
        self.start_us, self.stop_us = within

    def see(self, events: Events) -> None:  # noqa: B027
        """Told of every event, in order, before it is asked for ends."""

    @abstractmethod
    def _first(self) -> int | None:
        """The next end, wherever it lies; None if it is not known yet, or there is none."""

    @abstractmethod
    def skip_to(self, time_us: int) -> int:
        """Leave out every end up to and including a time; returns how many these were."""

    @abstractmethod
    def latest(self, last_us: int) -> int:
        """The latest end that makes sense where `last_us` is the time of the last event."""

    def left(self) -> int:
        """How many ends were asked for by name and are still to come."""
        return 0

    def peek(self) -> int | None:
        """The next end; None if it is not known yet, or there is none."""
        end = self._first()
        return None if end is None or self.stop_us is not None and end > self.stop_us else end

    @property
    def over(self) -> bool:
        """Whether no event to come can bring another end."""
        end = self._first()
        return end is not None and self.peek() is None


class Schedule(ABC):
    """When windows end; says it anew for every stretch of events between clock resets."""

    @abstractmethod
    def ends(self, first_us: int, span: Span) -> Ends:
        """The ends in a stretch whose first event has the time `first_us`."""

    @abstractmethod
    def described(self) -> str:
        """In words, for reports."""


@dataclass(frozen=True)
class AtRate(Schedule):
    """Windows that end at a fixed rate; the first one period after the start.

    Args:
        rate: Per second. Ends are whole microseconds and do not drift.
    """

    rate: float

    def ends(self, first_us: int, span: Span) -> Ends:
        """See `Schedule`."""
        return _Clocked(span.of(first_us), Fraction(1_000_000) / Fraction(self.rate))

    def described(self) -> str:
        """The rate."""
        return f"{self.rate:g} a second"


class _Clocked(Ends):
    def __init__(self, within: tuple[int, int | None], period: Fraction) -> None:
        super().__init__(within)
        self._period, self._number = period, 1

    def _first(self) -> int:
        return self.start_us + round(self._number * self._period)

    def skip_to(self, time_us: int) -> int:
        before = self._number
        guess = int((time_us - self.start_us) / self._period) - 1
        self._number = max(self._number, guess)
        while self._first() <= time_us:
            self._number += 1
        return self._number - before

    def latest(self, last_us: int) -> int:
        """One period after the last event, so that this one too is within a window."""
        return last_us + max(round(self._period), 1)


@dataclass(frozen=True)
class EveryEvents(Schedule):
    """Windows that end right after every `number`-th event since the start.

    Events with the stamp of the last one belong to the window, and windows that would end at one
    time are one.
    """

    number: int

    def ends(self, first_us: int, span: Span) -> Ends:
        """See `Schedule`."""
        return _Counted(span.of(first_us), self.number)

    def described(self) -> str:
        """The number."""
        return f"one every {self.number:,} events"


class _Counted(Ends):
    def __init__(self, within: tuple[int, int | None], number: int) -> None:
        super().__init__(within)
        self._number, self._seen, self._latest = number, 0, self.start_us
        self._known: deque[int] = deque()

    def see(self, events: Events) -> None:
        t = events.between(self.start_us, None).t
        at = np.arange(self._number - 1 - self._seen % self._number, len(t), self._number)
        for end in np.unique(t[at]).tolist():
            if end + 1 > self._latest:
                self._latest = end + 1
                self._known.append(end + 1)
        self._seen += len(t)

    def _first(self) -> int | None:
        return self._known[0] if self._known else None

    def skip_to(self, time_us: int) -> int:
        skipped = 0
        while self._known and self._known[0] <= time_us:
            self._known.popleft()
            skipped += 1
        return skipped

    def latest(self, last_us: int) -> int:
        return last_us + 1


@dataclass(frozen=True, eq=False)
class AtTimes(Schedule):
    """Windows that end at given times.

    Args:
        times_us: (K,) int64, ascending, microseconds.
        since_first: Whether they count from the first event instead of the recording's clock.
    """

    times_us: np.ndarray
    since_first: bool = False

    def ends(self, first_us: int, span: Span) -> Ends:
        """See `Schedule`."""
        times = np.unique(self.times_us) + (first_us if self.since_first else 0)
        return _Listed(span.of(first_us), times)

    def described(self) -> str:
        """Their number."""
        return f"{len(self.times_us):,} given times"


class _Listed(Ends):
    def __init__(self, within: tuple[int, int | None], times: np.ndarray) -> None:
        super().__init__(within)
        self._times, self._next = times, 0

    def _first(self) -> int | None:
        return int(self._times[self._next]) if self._next < len(self._times) else None

    def skip_to(self, time_us: int) -> int:
        before = self._next
        self._next = max(before, int(np.searchsorted(self._times, time_us, "right")))
        return self._next - before

    def latest(self, last_us: int) -> int:
        return last_us + 1

    def left(self) -> int:
        stop = len(self._times)
        if self.stop_us is not None:
            stop = int(np.searchsorted(self._times, self.stop_us, "right"))
        return max(stop - self._next, 0)

    @property
    def over(self) -> bool:
        return self.peek() is None
