"""Every recording below a folder, for `voxelize`: with frames where there are any, else by time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from scaleevent.config import PrepareConfig, VoxelizeConfig, WindowSettings
from scaleevent.datasets import custom
from scaleevent.datasets.source import PairSource
from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats import Recording, open_recording
from scaleevent.pairing import EventStream
from scaleevent.pairs import Pair
from scaleevent.windows import WindowRule, window_rule

SUFFIXES = (*custom.RECORDINGS, *custom.TEXT_RECORDINGS)


@dataclass(frozen=True)
class EventWindows:
    """Windows at a fixed rate over a recording without frames.

    Args:
        name: Unique, safe as a file name.
        path: The recording.
        size: Sensor (height, width).
        time_unit: Unit of the event times, where it was given.
        rule: How a window's start is found.
        period_us: Time between the ends of windows; the first ends one period after the first
            event.
        span_us: First and last event time.
        found: What was recognised, for people.
    """

    name: str
    path: Path
    size: tuple[int, int]
    time_unit: str | None
    rule: WindowRule
    period_us: int
    span_us: tuple[int, int]
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
        first, last = self.span_us
        return range(first + self.period_us, last + self.period_us, self.period_us)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """Pairs without an image; an empty window is a dropped one."""
        recording = open_recording(self.path, size=self.size, time_unit=self.time_unit)
        stream = EventStream(recording, self.rule)
        for end in self._ends():
            window, events = stream.window_before(end)
            counts["images"] += 1
            if not len(events):
                counts["images dropped: empty window"] += 1
                continue
            counts["pairs"] += 1
            yield Pair(self.name, end, b"", events, window, provenance={"file": self.path.name})
        stream.finish(counts)


def sources(config: VoxelizeConfig) -> tuple[list[PairSource], list[str]]:
    """The recordings below `config.root`, and what was passed over and why.

    Raises:
        DataError: No recording, or a damaged one.
    """
    root = config.root
    if not root.exists():
        raise DataError("no such file or folder", where=root)
    files = [root]
    passed: list[str] = []
    if root.is_dir():
        below = [path for path in sorted(root.rglob("*")) if path.is_file() and not _beside(path)]
        files = [path for path in below if path.suffix.lower() in SUFFIXES]
        others = Counter(p.suffix.lower() for p in below if p.suffix.lower() not in SUFFIXES)
        passed += [f"{number} x *{ending}" for ending, number in others.items()]
    found: list[Recording] = []
    damaged: list[DataError] = []
    for path in files:
        try:
            found.append(open_recording(path, size=config.size, time_unit=config.time_unit))
        except NotEventsError as error:
            if root.is_file():
                raise
            passed.append(f"{path}: {error.what}")
        except DataError as error:
            damaged.append(error)
    if len(damaged) == 1:
        raise damaged[0]
    if damaged:
        raise DataError(
            f"{len(damaged)} damaged recordings",
            where=root,
            found="; ".join(f"{error.where}: {error.what}" for error in damaged[:20]),
            hint="mend or move them, then run again",
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
    tasks = [
        _source(name, recording, config, alone=beside[recording.path.parent] == 1)
        for name, recording in zip(names, found, strict=True)
    ]
    return tasks, passed


def _beside(path: Path) -> bool:
    """Frames and their times, and hidden files: no recordings, and no news either."""
    frames = path.parent.name in custom.FRAME_FOLDERS
    return frames or path.name in custom.TIMES or path.name.startswith(".")


def _source(name: str, recording: Recording, config: VoxelizeConfig, alone: bool) -> PairSource:
    folder = recording.path.parent
    beside = any((folder / frames).is_dir() for frames in custom.FRAME_FOLDERS)
    if recording.has_frames or beside and alone:
        shared = {key: getattr(config, key) for key in WindowSettings.model_fields}
        options = PrepareConfig(
            name="custom", roots=[recording.path], size=config.size, time_unit=config.time_unit,
            **shared,
        )  # fmt: skip
        return replace(custom.sources(options)[0], name=name)
    first = last = None
    for block in recording.blocks():
        first = int(block.t[0]) if first is None else first
        last = int(block.t[-1])
    span = (0, 0) if first is None else (first, last)
    size = (recording.height, recording.width)
    period_us = max(1, round(1e6 / config.rate))
    return EventWindows(
        name,
        recording.path,
        size,
        config.time_unit,
        window_rule(config),
        period_us,
        span,
        recording.format,
    )
