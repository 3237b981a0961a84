"""Recordings that hold their frames, whose times are known only when they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from scaleevent.datasets.frame_times import moment
from scaleevent.datasets.frames import EventView, clocks_of, span_of_events
from scaleevent.errors import UnpairedError
from scaleevent.formats import Recording
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.pairing import TimedImage, pair_images
from scaleevent.pairs.source import Clocks


@dataclass(frozen=True)
class RecordedFrames(ABC):
    """One recording with frames of the same pixels inside: a `PairSource`.

    The image time is the middle of the exposure.

    Args:
        recording: The file.
        size: (height, width) of its sensor.
        rule: How windows are found.
        lossless: Encode images as PNG.
        max_bad: Fraction of the events that may be lost to damage; None: none.
        origin: Provenance of every pair, besides its frame.
        expected: Number of frames.
    """

    name: str
    recording: Path
    size: tuple[int, int]
    rule: WindowRule
    lossless: bool
    max_bad: float | None
    origin: dict[str, Any]
    expected: int
    found: str
    choices: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The file."""
        return (self.recording,)

    @abstractmethod
    def opened(self) -> Recording:
        """The recording, not yet read."""

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """A pair for every frame that has events before it.

        Raises:
            UnpairedError: No pair at all.
            DataError: As `pair_images`, or a frame of another size.
        """
        recording = self.opened()
        times: list[int] = []
        before = counts["pairs"]
        images = self._images(times)
        yield from pair_images(recording, images, self.rule, self.name, counts)
        if counts["pairs"] == before:
            raise UnpairedError(
                "no image has events before it",
                where=self.recording,
                found=f"images from {times[0]} to {times[-1]} us" if times else "no images",
                expected=span_of_events(recording),
                hint="a recording whose two clocks differ, or that was cut short",
            )

    def clocks(self, seconds: float) -> Clocks | None:
        """First and last time of images and events, as far as both are read in this time."""
        until, times, whole = monotonic() + seconds, list[int](), True
        for frame in self.opened().frames():
            times.append(moment(frame.start_us, frame.end_us, "middle"))
            if monotonic() > until:
                whole = False
                break
        span = (min(times), max(times)) if times else None
        return clocks_of(self.opened(), span, seconds, whole) if span else None

    def _images(self, times: list[int]) -> Iterator[TimedImage]:
        """The frames in the order of the file; their times are added to a list."""
        view = EventView(*self.size, self.lossless)
        for index, frame in enumerate(self.opened().frames()):
            time = moment(frame.start_us, frame.end_us, "middle")
            times.append(time)
            load = partial(view.place, frame.image, f"{self.recording}, frame {index}")
            yield TimedImage(time, load, self.origin | {"frame": index})
