"""Images and an event stream to pairs: each image gets the window of events that ends at it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaleevent.config.data import WindowSettings
from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.formats import Recording
from scaleevent.grids.windows import Window, WindowRule, choose_window, needless
from scaleevent.pairs.pair import Pair

EARLY = "before the first event"
"""Why an image has no pair: these are all at a recording's start."""


@dataclass(frozen=True)
class TimedImage:
    """An image that is read only if its pair is kept.

    Args:
        image_us: Image time on the clock of the events.
        load: Returns the encoded image on the event camera's pixels and its (H, W) bool validity
            mask, None if the image covers the whole sensor.
        provenance: Where the image came from; small and JSON-serialisable.
    """

    image_us: int
    load: Callable[[], tuple[bytes, np.ndarray | None]]
    provenance: dict[str, Any] = field(default_factory=dict)


def window_rule(settings: WindowSettings) -> WindowRule:
    """The rule that a command's settings ask for."""
    return WindowRule(
        kind=settings.window,
        duration_us=settings.longest_us,
        events_per_pixel=settings.window_events,
        cell=settings.cell,
        quantile=settings.quantile,
    )


def pair_images(
    recording: Recording,
    images: Iterable[TimedImage],
    rule: WindowRule,
    name: str,
    counts: Counter[str],
) -> Iterator[Pair]:
    """Pairs of one recording, in order of time; memory does not grow with its length.

    Args:
        recording: The event stream.
        images: Images in ascending order of time; those with a repeated time stamp are dropped.
        rule: How the start of each window is found.
        name: Recording name for the pairs.
        counts: Tally to add to: `images` = `pairs` + the sum of `images dropped: REASON`,
            `events decoded` = `events kept` + the sum of `events dropped: REASON`.

    Raises:
        DataError: Images out of order, or damage in the recording.
    """
    stream = EventStream(recording, rule)
    previous: int | None = None
    for item in images:
        counts["images"] += 1
        if previous is not None and item.image_us < previous:
            raise DataError(
                "image times are not ascending",
                where=f"{recording.path}, image at {item.image_us} us",
                found=f"follows an image at {previous} us",
            )
        reason = "repeated time stamp" if item.image_us == previous else None
        previous = item.image_us
        if reason is None:
            window, events = stream.window_before(item.image_us)
            reason = stream.why_unusable(item.image_us, events)
        if reason is not None:
            counts[f"images dropped: {reason}"] += 1
            continue
        image, valid = item.load()
        counts["pairs"] += 1
        yield Pair(
            name, item.image_us, image, events, window, valid=valid, provenance=item.provenance
        )
    stream.finish(counts)


def add_tally(recording: Recording, counts: Counter[str]) -> None:
    """Add the counts of a recording's latest read, which must have come to its end."""
    tally = recording.counts
    counts["events decoded"] += tally.decoded
    counts["events kept"] += tally.kept
    for reason, count in tally.dropped.items():
        counts[f"events dropped: {reason}"] += count
    for kind, flaw in tally.flaws.items():
        counts[f"damage: {kind}"] += max(flaw.count, 1)


class EventStream:
    """Reads a recording once, forwards, and holds only the events the next window may need."""

    def __init__(self, recording: Recording, rule: WindowRule) -> None:
        self.recording, self.rule = recording, rule
        self._blocks = recording.blocks()
        self._held = Events.empty(recording.height, recording.width)
        self._first_us: int | None = None
        self._ended = False

    def window_before(self, end_us: int) -> tuple[Window, Events]:
        """The window that ends at `end_us`, and its events; `end_us` must not decrease."""
        while not self._ended and (not len(self._held) or self._held.t[-1] < end_us):
            self._advance(end_us)
        window = choose_window(self._held, end_us, self.rule)
        return window, self._held.between(window.start_us, window.end_us)

    def next_event_us(self, time_us: int) -> int | None:
        """Time of the first event at or after `time_us`, the latest window's end; None: no more."""
        at = int(np.searchsorted(self._held.t, time_us, "left"))
        return int(self._held.t[at]) if at < len(self._held) else None

    def why_unusable(self, image_us: int, events: Events) -> str | None:
        """The reason why an image has no pair, or None if it has one."""
        if self._first_us is None or image_us <= self._first_us:
            return EARLY
        if self._ended and image_us > self._held.t[-1]:
            return "after the last event"
        return None if len(events) else "empty window"

    def finish(self, counts: Counter[str]) -> None:
        """Read the rest of the recording and add its tally."""
        for _ in self._blocks:
            self._refuse_reset()
        add_tally(self.recording, counts)

    def _refuse_reset(self) -> None:
        """Raise if the clock was reset: no window may span a reset."""
        segments = self.recording.counts.segments
        if len(segments) > 1:
            raise DataError(
                "the clock was reset within the recording",
                where=self.recording.path,
                found=f"t = {segments[1].first_us} us after {segments[0].last_us} us",
                expected="one stretch of time",
                hint="`scaleevent prepare custom` takes one: --segment 1, 2, ..; "
                "`scaleevent info FILE` lists them",
            )

    def _advance(self, end_us: int) -> None:
        block = next(self._blocks, None)
        if block is None:
            self._ended = True
            return
        if self._first_us is None:
            self._first_us = int(block.t[0])
        self._refuse_reset()
        self._held = with_block(self._held, block, end_us, self.rule)


def with_block(held: Events, block: Events, end_us: int, rule: WindowRule) -> Events:
    """Events and those that follow them, without what no window from `end_us` on can need.

    Args:
        held: Events so far.
        block: What follows.
        end_us: Earliest end of any window to come.
        rule: How windows are found.
    """
    spare = needless(held, end_us, rule)
    return Events.concatenate([held[spare:], block], block.height, block.width)
