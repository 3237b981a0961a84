"""What every data set becomes for `prepare`: a list of independent tasks that yield pairs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from scaleevent.formats import Recording
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pair import Pair
from scaleevent.system.files import Json
from scaleevent.system.refusals import check_there


class PairSource(Protocol):
    """One task of `prepare`, written as one shard; picklable, and it opens nothing until asked."""

    @property
    def name(self) -> str:
        """Unique in the data set and safe as a file name."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files read; their sizes and times decide whether a finished shard is up to date."""

    @property
    def expected(self) -> int:
        """Number of images or labels it will look at."""

    @property
    def found(self) -> str:
        """What was recognised, for people."""

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """All pairs, in a fixed order, adding to the tally (`pairs.pairing.pair_images`)."""


Span = tuple[int, int]
"""First and last time, microseconds."""


@dataclass(frozen=True)
class Clocks:
    """When the images and the events of a source were taken.

    Args:
        images: Of the images.
        events: Of the events, as far as they are known.
        whole: Whether `events` are all of them.
        all_images: Whether `images` are.
    """

    images: Span
    events: Span
    whole: bool
    all_images: bool = True

    def describe(self) -> str:
        """How much of the images' time the events cover."""
        (a, b), (c, d) = ([f"{us / 1e6:.3f}" for us in span] for span in (self.images, self.events))
        first, last = self.images
        shared = max(min(last, self.events[1]) - max(first, self.events[0]), 0)
        known = "" if self.whole else "at least "
        share = f"{known}{shared / max(last - first, 1):.0%} covered"
        seen = "" if self.all_images else "at least "
        return f"images from {a} to {seen}{b} s, events from {c} to {known}{d} s, {share}"


@runtime_checkable
class Clocked(Protocol):
    """A source that can tell the times of its images and events."""

    def clocks(self, seconds: float) -> Clocks | None:
        """The times, reading for so many seconds at most; None where there are none."""


@runtime_checkable
class Replayable(Protocol):
    """A source of labels whose events can be read again, as the camera gave them."""

    @property
    def scene(self) -> str:
        """Recording name of its pairs."""

    @property
    def rule(self) -> WindowRule | None:
        """How the window before a label is found; None for labels of a span."""

    def opened(self) -> Recording:
        """The events that its pairs are made of, on the pixels of the labels; not yet read."""


def input_stats(source: PairSource) -> list[tuple[Path, os.stat_result]]:
    """The files that a source reads, each with what the system tells of it.

    Raises:
        DataError: One that is not there, such as a link to a disk that is not mounted.
    """
    return [(path, check_there(path)) for path in source.inputs]


def label_facts(sources: Sequence[PairSource]) -> Json:
    """What a store's manifest says of its labels (`config.labels`); nothing of most data sets."""
    found = next((facts for one in sources if (facts := getattr(one, "facts", None))), None)
    return {"labels": found} if found else {}


def choices(sources: Sequence[PairSource]) -> list[str]:
    """What the sources guessed or chose, a line each; once what is the same for all of them."""
    told = [(source.name, tuple(getattr(source, "choices", ()))) for source in sources]
    common = set(told[0][1]).intersection(*(lines for _, lines in told)) if len(told) > 1 else set()
    everywhere = [f"all: {line}" for line in (told[0][1] if told else ()) if line in common]
    return everywhere + [
        f"{name}: {line}" for name, lines in told for line in lines if line not in common
    ]


def unused(roots: Sequence[Path], sources: Sequence[PairSource]) -> list[str]:
    """A line for every root, of several, in which no source has a file; for people."""
    used: set[str] = set()
    for path in {path for source in sources for path in source.inputs}:
        for place in (path.absolute(), path.resolve()):
            used.update(map(str, (place, *place.parents)))
    return [
        f"nothing in {root} is used"
        for root in roots
        if len(roots) > 1 and used.isdisjoint((str(root.absolute()), str(root.resolve())))
    ]
