"""The reader of a file format (`Source`) and what it produces: raw blocks, damage, frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from scaleevent.errors import DataError, ScaleEventError
from scaleevent.system.refusals import refusal

BLOCK = 1 << 18
"""Events that a reader decodes at once: 3.4 MB of columns, small enough to stay in cache."""

JITTER_US = 50_000
"""Events up to this late are sorted and counted; what is earlier still, `clock` judges."""

COPY_AGAIN = "copy the file again; a download or recording cut short looks like this"

Position = TypeVar("Position")

Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""t, x, y and p of the same events."""


def empty_columns(length: int) -> Columns:
    """Uninitialised t (int64), x and y (uint16), and p (uint8) for a decoder to fill."""
    x, y = np.empty(length, np.uint16), np.empty(length, np.uint16)
    return np.empty(length, np.int64), x, y, np.empty(length, np.uint8)


@dataclass(frozen=True)
class ReadOptions:
    """What the caller states about a file whose format does not define it.

    Args:
        time_unit: s, ms, us or ns.
        columns: Order of the columns of a table, or their names; see `columns.parse_columns`.
        topic: The event stream to read, of a file with several: a ROS topic, an HDF5 group, a
            MATLAB variable, id or name of an AEDAT4 stream.
        image_topic: The ROS topic or AEDAT4 stream of the images.
        camera: Model of the camera, such as "DVS128", for files that do not name it.
        size: (height, width) of the sensor, instead of what the file states.
    """

    time_unit: str | None = None
    columns: str | None = None
    topic: str | None = None
    image_topic: str | None = None
    camera: str | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class TimeUnit:
    """The unit that stored times are taken for.

    Args:
        name: s, ms, us or ns.
        others: The further units that the stamps would allow, where it was guessed.
        choice: A line for people that says the guess; None where there was none.
        span_us: About the first and the last time, where it was guessed and they are known.
    """

    name: str
    others: tuple[str, ...] = ()
    choice: str | None = None
    span_us: tuple[int, int] | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The line as `Source.choices` has it."""
        return () if self.choice is None else (self.choice,)


@dataclass(frozen=True)
class Flaw:
    """Damage found by a reader, which may be able to continue after it.

    Args:
        what: The kind, such as "truncated file"; flaws of one kind are counted together.
        where: Position in the file, such as "byte 1200".
        found: What the file contains there.
        expected: What it should contain.
        hint: What the user can do about it.
        count: Number of words, lines or events that are lost; 0 if unknown.
    """

    what: str
    where: str
    found: str
    expected: str | None = None
    hint: str | None = None
    count: int = 0

    def error(self, path: Path, hint: str | None) -> DataError:
        """The damage as an error."""
        where = f"{path}, {self.where}"
        return DataError(
            self.what, where=where, found=self.found, expected=self.expected, hint=hint
        )


@dataclass(frozen=True)
class RawBlock:
    """Events in the order of the file, not yet checked against the sensor or the clock.

    Args:
        first: Index of the first event in the recording.
        t: (K,) int64, absolute microseconds.
        x: (K,) integer column.
        y: (K,) integer row.
        p: (K,) uint8, 0 or 1.
        dropped: Number of further events that were read but cannot be used, by reason.
        ignored: Number of items that are not events, such as external triggers, by kind.
        flaws: Damage found in this part of the file.
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
        """The events selected by a slice, an index array or a mask; `first` is not changed."""
        return RawBlock(self.first, self.t[part], self.x[part], self.y[part], self.p[part])

    @classmethod
    def join(cls, parts: list[RawBlock]) -> RawBlock:
        """Concatenate blocks that follow each other in the file."""
        t, x, y, p = (np.concatenate([getattr(part, name) for part in parts]) for name in "txyp")
        return cls(parts[0].first, t, x, y, p)

    @classmethod
    def empty(cls, first: int, flaw: Flaw) -> RawBlock:
        """A block without events that reports damage found after event `first` - 1."""
        t, x, y, p = empty_columns(0)
        return cls(first, t, x, y, p, flaws=(flaw,))


@dataclass(frozen=True)
class Frame:
    """One image of the camera.

    Args:
        image: (H, W) or (H, W, 3) uint8, grey or RGB.
        start_us: Start of the exposure in microseconds, on the clock of the events.
        end_us: End of the exposure.
    """

    image: np.ndarray
    start_us: int
    end_us: int


@dataclass
class Segment:
    """Events between two resets of the clock.

    Args:
        first_us: Time of the first event.
        last_us: Time of the last event.
        events: Number of events.
    """

    first_us: int
    last_us: int
    events: int = 0


@contextmanager
def errors_as_damage(kind: str, where: object, hint: str = COPY_AGAIN) -> Iterator[None]:
    """Convert every error of a library that decodes a file to a DataError.

    Where the system refuses (too many open files, no permission, a failing disk, no memory), it is
    an EnvironmentProblem instead.
    """
    try:
        yield
    except (ScaleEventError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # on broken files anything; panics of Rust are no Exception
        problem = refusal(error, where)
        if problem is not None:
            raise problem from error
        found = str(error).split("\n")[0].strip("'\"") or type(error).__name__
        raise DataError(f"damaged {kind}", where=where, found=found, hint=hint) from error


class Source:
    """The result of a format module's `open_source(path, options)`; subclasses decode a format.

    Attributes:
        format: Name of the format, such as "EVT3".
        size: (height, width) if the file states it.
        notes: Header facts to display, by name.
        choices: What was guessed or chosen among several, a line each; commands print them.
        time_unit: The unit of the stored times, for formats that do not define it.
    """

    format: str
    size: tuple[int, int] | None
    notes: dict[str, str]
    choices: tuple[str, ...] = ()
    time_unit: TimeUnit | None = None

    @property
    def has_frames(self) -> bool:
        """Whether the file contains camera images."""
        return False

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """Raw blocks with at least all events of the time range and the jitter around it.

        Without a range: all events, in the order of the file.
        """
        raise NotImplementedError

    def frames(self) -> Iterator[Frame]:
        """The images of the camera in order; empty for formats that store only events."""
        return iter(())

    def count_frames(self) -> int:
        """Number of `frames`, which most formats do not store."""
        return sum(1 for _ in self.frames())

    def total(self) -> int | None:
        """Number of events, if the file states it before they are read."""
        return None

    def extent(self) -> Segment | None:
        """Exact number and times of all events, if known without reading them; None if empty."""
        return None

    def sample(self, parts: int) -> Iterator[RawBlock]:
        """`parts` short blocks, evenly spaced over the file; only if `extent` is known."""
        raise NotImplementedError


@dataclass(frozen=True)
class FileSource(Source):
    """A source that reads the file `path`; the other fields are those of `Source`."""

    path: Path
    format: str
    size: tuple[int, int] | None
    notes: dict[str, str]
    choices: tuple[str, ...] = field(default=(), kw_only=True)
    time_unit: TimeUnit | None = field(default=None, kw_only=True)


class Format(Protocol):
    """What a module that reads a file format provides."""

    @property
    def SUFFIXES(self) -> tuple[str, ...]:
        """Endings by which such files are found in a folder; their content decides."""

    def matches(self, head: bytes, path: Path) -> bool:
        """Whether a file that begins with `head` has this format."""

    def open_source(self, path: Path, options: ReadOptions) -> Source:
        """Examine the file and return its decoder."""


@dataclass
class TimeIndex(Generic[Position]):
    """Positions in a file by time, recorded while it is read, where a later read may start.

    Args:
        every: Number of events between two recorded positions; more than `clock` holds back.
    """

    every: int = 1 << 19
    _notes: list[tuple[int, int, Position]] = field(default_factory=list)
    _latest: int = -(1 << 63)

    def before(self, start_us: int | None, begin: Position) -> Position:
        """A recorded position that is certainly before a time, or else `begin`.

        It is the last but one, so that what is read shows where the clock was at the last one: a
        clock reset there would otherwise not be seen.
        """
        if start_us is not None:
            places = [place for latest, _, place in self._notes if latest < start_us]
            if len(places) > 1:
                return places[-2]
        return begin

    def note(self, t: np.ndarray, events: int, place: Position | None) -> None:
        """Record the position after `events` events, the last of which have the times `t`.

        `place` is None where no read may start; the times are taken into account all the same.
        """
        known = self._notes[-1][1] if self._notes else 0
        if events <= known or not len(t):
            return
        self._latest = max(self._latest, int(t.max()))
        if place is not None and events >= known + self.every:
            self._notes.append((self._latest, events, place))
