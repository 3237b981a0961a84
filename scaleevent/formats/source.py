"""`Source`: what a format's reader is, and what it hands on: raw blocks, damage, frames, places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BLOCK = 1 << 18
"""Events a reader decodes at once: 3.4 MB of columns, small enough to stay in cache."""

JITTER_US = 1000
"""Steps back in time up to this are sorted and counted; larger ones are damage."""


@dataclass(frozen=True)
class Told:
    """What the caller knows of a file that may not say it.

    Args:
        time_unit: s, ms, us or ns.
        columns: Order of t, x, y, p in a table, such as "txyp".
    """

    time_unit: str | None = None
    columns: str | None = None


@dataclass(frozen=True)
class Flaw:
    """Damage a reader met and could read on from, or that ends what can be read.

    Args:
        what: The kind, such as "truncated file"; flaws of one kind are counted together.
        where: Place in the file, such as "byte 1200".
        found: What was there.
        expected: What should have been.
        hint: What to do about it.
        count: Words, lines or events that are lost by it; 0 where nobody can know.
    """

    what: str
    where: str
    found: str
    expected: str | None = None
    hint: str | None = None
    count: int = 0


@dataclass(frozen=True)
class RawBlock:
    """Events in the order a file stores them, not yet checked against sensor or clock.

    Args:
        first: Position of the first event in the recording.
        t: (K,) int64, absolute microseconds.
        x: (K,) integer column.
        y: (K,) integer row.
        p: (K,) uint8, 0 or 1.
        dropped: Events read beside these that cannot be used, by reason.
        ignored: What was read and is no event, such as external triggers, by kind.
        flaws: Damage met on the way.
    """

    first: int
    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    dropped: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    flaws: tuple[Flaw, ...] = ()

    def __len__(self) -> int:
        return len(self.t)

    def take(self, part: slice | np.ndarray) -> RawBlock:
        """The events of a slice, an index array or a mask; `first` stays that of the block."""
        return RawBlock(self.first, self.t[part], self.x[part], self.y[part], self.p[part])

    @classmethod
    def join(cls, parts: list[RawBlock]) -> RawBlock:
        """One block of several that follow each other in the file."""
        columns = [np.concatenate([getattr(part, name) for part in parts]) for name in "txyp"]
        return cls(parts[0].first, *columns)

    @classmethod
    def of_flaw(cls, first: int, flaw: Flaw) -> RawBlock:
        """No events, but the news of damage after event `first` - 1."""
        columns = (np.empty(0, kind) for kind in (np.int64, np.uint16, np.uint16, np.uint8))
        return cls(first, *columns, flaws=(flaw,))


@dataclass(frozen=True)
class Frame:
    """One picture of the camera.

    Args:
        image: (H, W) or (H, W, 3) uint8, grey or RGB.
        start_us: Begin of the exposure, microseconds on the clock of the events.
        end_us: End of the exposure.
    """

    image: np.ndarray
    start_us: int
    end_us: int


@dataclass(frozen=True)
class Extent:
    """What a file's header or index tells exactly about all its events, without reading them.

    Args:
        events: Their number.
        first_us: Time of the first; None where there are none.
        last_us: Time of the last.
    """

    events: int
    first_us: int | None
    last_us: int | None


class Source:
    """What a format module's `open_source(path, told)` returns; subclasses decode a format.

    Attributes:
        format: Name of the format, such as "EVT3".
        size: (height, width) where the file states it.
        notes: Header facts to show, by name.
        has_frames: Whether the file holds camera pictures.
    """

    format: str
    size: tuple[int, int] | None
    notes: dict[str, str]
    has_frames: bool = False

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """Raw blocks holding at least every event of the range, the jitter around it included.

        Without a range, all of them in the order of the file.
        """
        raise NotImplementedError

    def frames(self) -> Iterator[Frame]:
        """The camera's pictures in order; none for event-only formats."""
        return iter(())

    def total(self) -> int | None:
        """Number of events the file says to hold, where it says so before they are read."""
        return None

    def extent(self) -> Extent | None:
        """Number and times of all events, where a header or an index has them."""
        return None

    def sample(self, parts: int) -> Iterator[RawBlock]:
        """That many short blocks, evenly over the file; only where `extent` is known."""
        raise NotImplementedError


@dataclass
class TimeIndex:
    """Places of a file by time, noted while it was read: where a later read may begin.

    Args:
        every: Events between two notes.
    """

    every: int = 1 << 21
    _notes: list[tuple[int, int, Any]] = field(default_factory=list)
    _latest: int = -(1 << 63)

    def before(self, start_us: int | None, begin: Any) -> Any:
        """The last place noted that surely lies before a time, jitter included; else `begin`."""
        if start_us is not None:
            for latest, _, place in reversed(self._notes):
                if latest < start_us - JITTER_US:
                    return place
        return begin

    def note(self, t: np.ndarray, events: int, place: Any) -> None:
        """Note a place after `events` events, the last of them with times `t`, where it is due.

        Where no read may begin, `place` is None; the times count all the same.
        """
        known = self._notes[-1][1] if self._notes else 0
        if events <= known or not len(t):
            return
        self._latest = max(self._latest, int(t.max()))
        if place is not None and events >= known + self.every:
            self._notes.append((self._latest, events, place))
