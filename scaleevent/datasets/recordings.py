"""Every recording below a folder, for `voxelize`: with frames where there are any, else by time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaleevent.config.data import (
    DamageSettings,
    PrepareConfig,
    RecordingSettings,
    VoxelizeConfig,
    WindowSettings,
)
from scaleevent.datasets import custom
from scaleevent.errors import DataError, NotEventsError, UnpairedError
from scaleevent.formats import Recording, open_recording
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.pairing import EventStream, window_rule
from scaleevent.pairs.source import PairSource
from scaleevent.system.files import MARKER

SUFFIXES = (*custom.RECORDINGS, *custom.TEXT_RECORDINGS)
SHARED = tuple(
    key
    for settings in (WindowSettings, DamageSettings, RecordingSettings)
    for key in settings.model_fields
)


UNPAIRED = "recordings whose frames have no events before them"
"""Tally of recordings that were cut at a fixed rate though they have frames."""


@dataclass(frozen=True)
class EventWindows:
    """Windows at a fixed rate over a recording without frames.

    Args:
        name: Unique, safe as a file name.
        path: The recording.
        size: Sensor (height, width).
        told: What else `open_recording` is told of it.
        rule: How a window's start is found.
        period_us: Time between the ends of windows; the first ends one period after the first
            event, the last after the last event.
        span_us: First and last event time; None without events.
        found: What was recognised, for people.
    """

    name: str
    path: Path
    size: tuple[int, int]
    told: dict[str, Any]
    rule: WindowRule
    period_us: int
    span_us: tuple[int, int] | None
    found: str

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The file that is read."""
        return (self.path,)

    @property
    def expected(self) -> int:
        """Number of windows."""
        return len(self._ends())

    def _ends(self) -> range:
        if self.span_us is None:
            return range(0)
        first, last = self.span_us
        return range(first + self.period_us, last + self.period_us + 1, self.period_us)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """Pairs without an image; an empty window is a dropped one."""
        recording = open_recording(self.path, size=self.size, **self.told)
        stream = EventStream(recording, self.rule)
        ends, number = self._ends(), 0
        while number < len(ends):
            end = ends[number]
            window, events = stream.window_before(end)
            if len(events):
                number += 1
                counts["images"] += 1
                counts["pairs"] += 1
                yield Pair(self.name, end, b"", events, window, provenance={"file": self.path.name})
                continue
            # as empty are all that end before or at the next event
            later = stream.next_event_us(end)
            past = len(ends)
            if later is not None:
                past = (later - ends.start) // self.period_us + 1
            empty = past - number
            number = past
            counts["images"] += empty
            counts["images dropped: empty window"] += empty
        tally: Counter[str] = Counter()
        stream.finish(tally)
        counts.update(self._own(tally))

    def _own(self, tally: Counter[str]) -> Counter[str]:
        """Of a file with several stretches, each counts its own events; the first, all damage."""
        others = tally.pop("events dropped: in another segment", 0)
        tally["events decoded"] -= others
        if not self.told["segment"]:
            return tally
        kept = tally["events kept"]
        return Counter({"events decoded": kept, "events kept": kept})


@dataclass(frozen=True)
class FrameWindows:
    """Windows that end at frames; at a fixed rate where no frame has events before it.

    Args:
        frames: The recording and its frames.
        period_us: Time between the ends of windows, at the fixed rate.
    """

    frames: custom.CustomRecording
    period_us: int

    @property
    def name(self) -> str:
        """Unique, safe as a file name."""
        return self.frames.name

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        return self.frames.inputs

    @property
    def expected(self) -> int:
        """Number of frames."""
        return self.frames.expected

    @property
    def found(self) -> str:
        """What was recognised, for people."""
        return self.frames.found

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """Pairs with an image, or all without."""
        before = counts.copy()
        try:
            yield from self.frames.pairs(counts)
        except UnpairedError:
            counts.clear()
            counts.update(before)
            counts[UNPAIRED] += 1
            frames = self.frames
            recording = open_recording(frames.recording, size=frames.size, **frames.told)
            for part in _stretches(recording, self.name, frames.told, frames.rule, self.period_us):
                yield from part.pairs(counts)


def sources(config: VoxelizeConfig) -> tuple[list[PairSource], list[str], list[str]]:
    """The recordings below `config.root`; what is no recording; what of a recording is not used.

    Raises:
        DataError: No recording, or a damaged one.
    """
    root = config.root
    if not root.exists():
        raise DataError("no such file or folder", where=root)
    files = [root]
    passed: list[str] = []
    if root.is_dir():
        below, ours = _files_below(root, config.out)
        files = [path for path in below if path.suffix.lower() in SUFFIXES]
        others = Counter(p.suffix.lower() for p in below if p.suffix.lower() not in SUFFIXES)
        passed += [f"{number} x *{ending}" for ending, number in others.items()]
        passed += [f"{folder}: an output folder of scaleevent" for folder in ours]
    found: list[Recording] = []
    damaged: list[DataError] = []
    for path in files:
        try:
            found.append(open_recording(path, size=config.size, **custom.told(config)))
        except NotEventsError as error:
            if root.is_file():
                raise
            passed.append(f"{path}: {error.what}")
        except DataError as error:
            if config.tolerated is None or root.is_file():
                damaged.append(error)
            else:
                passed.append(f"{path}: damaged, {error.what}")
    if len(damaged) == 1:
        raise damaged[0]
    if damaged:
        raise DataError(
            f"{len(damaged)} damaged recordings",
            where=root,
            found="; ".join(f"{error.where}: {error.what}" for error in damaged[:20]),
            hint="mend or move them, or pass over them with --on-error skip",
        )
    if not found:
        raise DataError(
            "no event recording found",
            where=root,
            found="; ".join(passed[:5]) or None,
            expected=f"files such as {', '.join(SUFFIXES)}",
        )
    base = root if root.is_dir() else root.parent
    names = custom.unique_names(
        [re.sub(r"[/\\]", "-", str(r.path.relative_to(base).with_suffix(""))) for r in found]
    )
    beside = Counter(recording.path.parent for recording in found)
    tasks: list[PairSource] = []
    unused: list[str] = []
    for name, recording in zip(names, found, strict=True):
        made, why_not = _sources(name, recording, config, beside[recording.path.parent] == 1)
        tasks += made
        unused += [f"frames of {recording.path}: {why_not}"] if why_not else []
    return tasks, passed, unused


def _files_below(root: Path, out: Path) -> tuple[list[Path], list[Path]]:
    """Files that may be recordings, and the folders left out because this package wrote them."""
    ours = {marker.parent.resolve() for marker in root.rglob(MARKER)}
    if out.resolve().is_relative_to(root.resolve()) and out.exists():
        ours.add(out.resolve())
    below = [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not _beside(path) and ours.isdisjoint(path.resolve().parents)
    ]
    return below, sorted(ours)


def _beside(path: Path) -> bool:
    """Frames and their times, and hidden files: no recordings, and no news either."""
    frames = path.parent.name in custom.FRAME_FOLDERS
    return frames or path.name in custom.TIMES or path.name.startswith(".")


def _sources(
    name: str, recording: Recording, config: VoxelizeConfig, alone: bool
) -> tuple[list[PairSource], str | None]:
    """One task, or one for every stretch between clock resets; why frames are not used."""
    folder = recording.path.parent
    period_us = max(1, round(1e6 / config.rate))
    beside = any((folder / frames).is_dir() for frames in custom.FRAME_FOLDERS)
    why_not = None
    if recording.has_frames or beside and alone:
        try:
            frames = _with_frames(name, recording, config)
            return [FrameWindows(frames, period_us)], None
        except DataError as error:
            why_not = error.what
    parts = _stretches(recording, name, custom.told(config), window_rule(config), period_us)
    return parts, why_not


def _with_frames(name: str, recording: Recording, config: VoxelizeConfig) -> custom.CustomRecording:
    """The recording with its frames.

    Raises:
        DataError: The frames cannot be used, or the clock was reset: frames may not tell where.
    """
    shared = {key: getattr(config, key) for key in SHARED}
    options = PrepareConfig(name="custom", roots=[recording.path], **shared)
    source = replace(custom.sources(options)[0], name=name)
    if config.tolerated is not None and len(recording.stretches()) > 1:
        raise DataError("the clock was reset", where=recording.path)
    return source


def _stretches(
    recording: Recording, name: str, told: dict[str, Any], rule: WindowRule, period_us: int
) -> list[EventWindows]:
    """Windows at a fixed rate over every stretch between clock resets."""
    stretches = recording.stretches()
    several = len(stretches) > 1
    return [
        EventWindows(
            name=f"{name}-{number + 1}" if several else name,
            path=recording.path,
            size=(recording.height, recording.width),
            told=told | {"segment": number if several else None},
            rule=rule,
            period_us=period_us,
            span_us=stretch and (stretch.first_us, stretch.last_us),
            found=recording.format,
        )
        for number, stretch in enumerate(stretches or [None])
    ]
