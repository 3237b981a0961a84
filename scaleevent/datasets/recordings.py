"""Every recording below a folder, for `voxelize`: with frames where there are any, else by time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaleevent.config import (
    DamageSettings,
    PrepareConfig,
    RecordingSettings,
    VoxelizeConfig,
    WindowSettings,
)
from scaleevent.datasets import custom
from scaleevent.datasets.source import PairSource
from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats import Recording, open_recording
from scaleevent.pairing import EventStream
from scaleevent.pairs import Pair
from scaleevent.windows import WindowRule, window_rule

SUFFIXES = (*custom.RECORDINGS, *custom.TEXT_RECORDINGS)
SHARED = tuple(
    key
    for settings in (WindowSettings, DamageSettings, RecordingSettings)
    for key in settings.model_fields
)


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
            event.
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
        return range(first + self.period_us, last + self.period_us, self.period_us)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """Pairs without an image; an empty window is a dropped one."""
        recording = open_recording(self.path, size=self.size, **self.told)
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
    tasks = [
        source
        for name, recording in zip(names, found, strict=True)
        for source in _sources(name, recording, config, beside[recording.path.parent] == 1)
    ]
    return tasks, passed


def _beside(path: Path) -> bool:
    """Frames and their times, and hidden files: no recordings, and no news either."""
    frames = path.parent.name in custom.FRAME_FOLDERS
    return frames or path.name in custom.TIMES or path.name.startswith(".")


def _sources(
    name: str, recording: Recording, config: VoxelizeConfig, alone: bool
) -> list[PairSource]:
    """One task, or one for every stretch between clock resets."""
    folder = recording.path.parent
    beside = any((folder / frames).is_dir() for frames in custom.FRAME_FOLDERS)
    if recording.has_frames or beside and alone:
        shared = {key: getattr(config, key) for key in SHARED}
        options = PrepareConfig(name="custom", roots=[recording.path], **shared)
        return [replace(custom.sources(options)[0], name=name)]
    stretches = recording.stretches()
    several = len(stretches) > 1
    return [
        EventWindows(
            name=f"{name}-{number + 1}" if several else name,
            path=recording.path,
            size=(recording.height, recording.width),
            told={**custom.told(config), "segment": number if several else None},
            rule=window_rule(config),
            period_us=max(1, round(1e6 / config.rate)),
            span_us=stretch and (stretch.first_us, stretch.last_us),
            found=recording.format,
        )
        for number, stretch in enumerate(stretches or [None])
    ]
