"""Every recording below a folder, for `voxelize`: windows end at frames, else at a fixed rate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleevent.config.data import StreamSettings, VoxelizeConfig
from scaleevent.datasets import custom
from scaleevent.datasets.custom_files import (
    FRAME_FOLDERS,
    RECORDINGS,
    TEXT_RECORDINGS,
    TIMES,
    folder_of,
)
from scaleevent.datasets.finding import is_hidden
from scaleevent.errors import ConfigError, DataError, NotEventsError, UnpairedError
from scaleevent.formats import Recording, is_bag_folder, open_recording, recording_files
from scaleevent.formats.source import Segment
from scaleevent.formats.units import LONGEST_S, duration_text
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.pairing import EventStream, window_rule
from scaleevent.pairs.source import PairSource
from scaleevent.system.files import MARKER
from scaleevent.system.refusals import check_there, may_be_file

SUFFIXES = (*RECORDINGS, *TEXT_RECORDINGS)
MOST_WINDOWS = 10_000
"""Windows that a recording may be cut into, however few its events are."""

UNPAIRED = "recordings whose frames have no events before them"
"""Count of recordings with frames that were cut at a fixed rate nevertheless."""


@dataclass(frozen=True)
class EventWindows:
    """Windows at a fixed rate over a recording without frames: a `pairs.source.PairSource`.

    Args:
        path: The recording.
        size: Sensor (height, width).
        options: Further arguments of `open_recording`.
        rule: How a window's start is found.
        period_us: Time between the ends of windows; the first ends one period after the first
            event, the last after the last event.
        span_us: First and last event time; None without events.
    """

    name: str
    path: Path
    size: tuple[int, int]
    options: dict[str, Any]
    rule: WindowRule
    period_us: int
    span_us: tuple[int, int] | None
    found: str
    choices: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        return recording_files(self.path)

    @property
    def expected(self) -> int:
        """Number of windows."""
        return len(self.ends)

    @property
    def ends(self) -> range:
        """End of every window, in microseconds."""
        if self.span_us is None:
            return range(0)
        first, last = self.span_us
        return range(first + self.period_us, last + self.period_us + 1, self.period_us)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """Pairs without an image; an empty window is a dropped one."""
        recording = open_recording(self.path, size=self.size, **self.options)
        stream = EventStream(recording, self.rule)
        ends, index = self.ends, 0
        while index < len(ends):
            end = ends[index]
            window, events = stream.window_before(end)
            if len(events):
                index += 1
                counts["images"] += 1
                counts["pairs"] += 1
                yield Pair(self.name, end, b"", events, window, provenance={"file": self.path.name})
                continue
            # as empty are all that end before or at the next event
            later = stream.next_event_us(end)
            past = len(ends)
            if later is not None:
                past = (later - ends.start) // self.period_us + 1
            empty = past - index
            index = past
            counts["images"] += empty
            counts["images dropped: empty window"] += empty
        tally: Counter[str] = Counter()
        stream.finish(tally)
        # each segment of a file counts its own events; the first one counts all damage
        tally["events decoded"] -= tally.pop("events dropped: in another segment", 0)
        if self.options["segment"]:
            kept = tally["events kept"]
            tally = Counter({"events decoded": kept, "events kept": kept})
        counts.update(tally)


@dataclass(frozen=True)
class FrameWindows(custom.CustomRecording):
    """Windows that end at frames; at a fixed rate where no frame has events before it.

    Args:
        period_us: Time between the ends of windows, at the fixed rate.
    """

    period_us: int

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """Pairs with an image, or all without."""
        before = counts.copy()
        try:
            yield from super().pairs(counts)
        except UnpairedError:
            counts.clear()
            counts.update(before)
            counts[UNPAIRED] += 1
            recording = open_recording(self.recording, size=self.size, **self.options)
            for windows in _by_rate(recording, self.name, self.options, self.rule, self.period_us):
                yield from windows.pairs(counts)


def sources(config: VoxelizeConfig) -> tuple[list[PairSource], list[str], list[str]]:
    """The recordings below `config.root`; what is no recording; what of a recording is not used.

    Raises:
        DataError: No recording, or a damaged one.
    """
    root = config.root
    check_there(root)
    files = [root]
    passed: list[str] = []
    single = root.is_file() or is_bag_folder(root)
    if not single:
        below, ours = files_below(root, config.out)
        files = [path for path in below if path.is_dir() or path.suffix.lower() in SUFFIXES]
        known = set(files)
        others = Counter(path.suffix.lower() for path in below if path not in known)
        passed += [f"{number} x *{ending}" for ending, number in others.items()]
        passed += [f"{folder}: an output folder of scaleevent" for folder in ours]
    found: list[Recording] = []
    damaged: list[DataError] = []
    for path in files:
        try:
            found.append(open_recording(path, size=config.size, **custom.read_options(config)))
        except NotEventsError as error:
            if single:
                raise
            passed.append(f"{path}: {error.what}")
        except DataError as error:
            if config.tolerated is None or single:
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
    base = root.parent if single else root
    names = custom.unique_names([_name(recording.path, base) for recording in found])
    in_folder = Counter(folder_of(recording.path) for recording in found)
    tasks: list[PairSource] = []
    unused: list[str] = []
    for name, recording in zip(names, found, strict=True):
        made, why_not = _sources(name, recording, config, in_folder[folder_of(recording.path)] == 1)
        tasks += made
        unused += [f"frames of {recording.path}: {why_not}"] if why_not else []
    return tasks, passed, unused


def _name(path: Path, base: Path) -> str:
    """A name for a recording below a folder."""
    below = path.relative_to(base)
    return re.sub(r"[/\\]", "-", str(below if path.is_dir() else below.with_suffix("")))


def files_below(root: Path, out: Path) -> tuple[list[Path], list[Path]]:
    """What may be recordings, and the folders left out because this package wrote them.

    The folder of a ROS 2 bag is one recording, instead of its files.
    """
    ours = {marker.parent.resolve() for marker in root.rglob(MARKER)}
    if out.resolve().is_relative_to(root.resolve()) and out.exists():
        ours.add(out.resolve())
    bags = [path for path in root.rglob("*") if is_bag_folder(path)]
    parts = {file for bag in bags for file in recording_files(bag)}
    below = [
        path
        for path in sorted(root.rglob("*"))
        if path in bags or may_be_file(path) and path not in parts
        if ours.isdisjoint(path.resolve().parents)
        # frames, their times and hidden files are left out silently
        if path.parent.name not in FRAME_FOLDERS
        and path.name not in TIMES
        and not is_hidden(path, root)
    ]
    return below, sorted(ours)


def _sources(
    name: str, recording: Recording, config: VoxelizeConfig, alone: bool
) -> tuple[list[PairSource], str | None]:
    """One task, or one for every segment between clock resets; why frames are not used."""
    folder = folder_of(recording.path)
    period_us = max(1, round(1e6 / config.rate))
    pictures = any((folder / frames).is_dir() for frames in FRAME_FOLDERS)
    why_not = None
    if recording.has_frames or pictures and alone:
        try:
            shared = {key: getattr(config, key) for key in StreamSettings.model_fields}
            frames = custom.with_frames(name, recording, custom.Settings(name="custom", **shared))
            if config.tolerated is None or len(recording.stretches()) < 2:
                return [FrameWindows(**vars(frames), period_us=period_us)], None
            why_not = "the clock was reset"  # which frames may not show
        except DataError as error:
            why_not = error.what
    options = custom.read_options(config)
    return [*_by_rate(recording, name, options, window_rule(config), period_us)], why_not


def _check_plan(recording: Recording, segments: list[Segment], period_us: int) -> None:
    """Refuse windows out of all proportion to the events, before anything is written.

    Raises:
        ConfigError: What was planned, and the flags that lead to another plan.
    """
    span_us = sum(segment.last_us - segment.first_us for segment in segments)
    events = sum(segment.events for segment in segments)
    windows = span_us // period_us
    if windows <= MOST_WINDOWS or (windows <= events and span_us <= LONGEST_S * 1e6):
        return
    unit = recording.notes.get("time unit")
    hint = "fewer windows: --rate"
    if unit is not None:
        hint = f"the time unit may be another than {unit}: --time-unit s, ms, us or ns; or {hint}"
    raise ConfigError(
        "windows out of all proportion to the recording",
        where=recording.path,
        found=f"{windows:,} windows of {period_us:,} us for {events:,} events in "
        f"{duration_text(span_us / 1e6)}",
        expected=f"at most {MOST_WINDOWS:,}, or one an event in a recording of less than a day",
        hint=hint,
    )


def _by_rate(
    recording: Recording, name: str, options: dict[str, Any], rule: WindowRule, period_us: int
) -> list[EventWindows]:
    """Windows at a fixed rate over every segment between clock resets."""
    segments = recording.stretches()
    _check_plan(recording, segments, period_us)
    several = len(segments) > 1
    return [
        EventWindows(
            name=f"{name}-{index + 1}" if several else name,
            path=recording.path,
            size=(recording.height, recording.width),
            options=options | {"segment": index if several else None},
            rule=rule,
            period_us=period_us,
            span_us=(segment.first_us, segment.last_us) if segment else None,
            found=recording.format,
            choices=recording.choices,
        )
        for index, segment in enumerate(segments or [None])
    ]
