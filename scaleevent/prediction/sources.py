"""Where events come from: a recording, or anything else that delivers blocks of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

from scaleevent.datasets.frame_times import moment
from scaleevent.events import Events
from scaleevent.formats import Recording
from scaleevent.formats.source import Frame
from scaleevent.grids.windows import WindowRule
from scaleevent.prediction.cutting import Cut, Quiet
from scaleevent.prediction.schedules import Span

STALE_US = 1_000_000  # a frame that is older than this is not drawn any more


@dataclass(frozen=True, eq=False)
class EventSource:
    """A stream of events of one sensor.

    Args:
        name: For people and for folders.
        height: Sensor rows.
        width: Sensor columns.
        blocks: Begins the stream; see `cut_windows` for what it delivers. One that cannot begin
            anew, such as a camera's, is called once.
        frames: Begins the camera's images, in order; None where there are none.
        extent_us: First and last event time, if they are known beforehand.
        pick: Passes windows on; that of a source that does not wait leaves out those that are late.
    """

    name: str
    height: int
    width: int
    blocks: Callable[[], Iterator[Events | Quiet]]
    frames: Callable[[], Iterator[Frame]] | None = None
    extent_us: tuple[int, int] | None = None
    pick: Callable[[Iterator[Cut]], Iterator[Cut]] = iter


def recorded(
    recording: Recording, name: str, span: Span, rule: WindowRule, *, frames: bool = True
) -> EventSource:
    """A recording as a source, of which only what `span` needs is read where its file can skip."""
    return EventSource(
        name,
        recording.height,
        recording.width,
        partial(_blocks, recording, span, rule),
        recording.frames if frames and recording.has_frames else None,
        _extent(recording),
    )


def _extent(recording: Recording) -> tuple[int, int] | None:
    """First and last event, from the file's index; a file that may have resets is read anyway."""
    if recording.max_bad is not None or recording.segment is not None:
        return None
    found = recording.source.extent()
    return None if found is None else (found.first_us, found.last_us)


def _blocks(recording: Recording, span: Span, rule: WindowRule) -> Iterator[Events | Quiet]:
    extent = _extent(recording)
    reach = span.start_us - rule.duration_us
    if extent is None or rule.kind == "count" or reach <= 0:
        yield from recording.blocks()
        return
    # The first event stands for those that are skipped: times count from it, and it shows that the
    # recording did not begin within a window.
    opening = next(recording.blocks(), Events.empty(recording.height, recording.width))[:1]
    yield from chain([opening], recording.blocks(extent[0] + max(reach, 1)))


class LatestFrame:
    """The frame to draw on at a time: the latest one of those until then.

    The time of a frame is the middle of its exposure.

    Args:
        source: Where the frames are from.

    Attributes:
        note: Why frames are not drawn, for people; None where they are, or there are none.
    """

    def __init__(self, source: EventSource) -> None:
        self._size = (source.height, source.width)
        self._frames = iter(source.frames()) if source.frames else iter(())
        self._now: Frame | None = None
        self._next = next(self._frames, None)
        self.drawn = 0
        self.note: str | None = None

    def at(self, time_us: int) -> Frame | None:
        """The frame, or None where none is of that time; times must not decrease."""
        while self._next is not None and _middle(self._next) <= time_us:
            self._now, self._next = self._next, next(self._frames, None)
        now = self._now
        if now is None or time_us - _middle(now) > STALE_US:
            return None
        if now.image.shape[:2] != self._size:
            height, width = now.image.shape[:2]
            self.note = (
                f"frames not drawn: they have {width}x{height} pixels, the events "
                f"{self._size[1]}x{self._size[0]}"
            )
            return None
        self.drawn += 1
        return now


def _middle(frame: Frame) -> int:
    return moment(frame.start_us, frame.end_us, "middle")
