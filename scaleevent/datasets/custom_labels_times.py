"""When the labels of a recording are: by the first rule that applies, which is told.

1. A file of times: `label_times`, or one of the usual names in the folder of the labels. It names
   the label files, or has a line for each in their order. Begin and end in a line are the span of
   optical flow.
2. The recording's frames by name: every label is called as a frame, and has its time.
3. Time stamps in the names: digits before the ending that are plausible as times and lie in the
   time of the events.
4. The recording's frames by number: as many labels as frames, in their order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaleevent.datasets.custom_files import TIMES
from scaleevent.datasets.frame_times import FrameTimes, read_frame_times
from scaleevent.datasets.frames import PictureFiles, check_count
from scaleevent.errors import DataError
from scaleevent.formats import Recording
from scaleevent.formats.columns import to_microseconds
from scaleevent.formats.units import frame_time_unit

if TYPE_CHECKING:
    from scaleevent.datasets.custom import CustomRecording, Settings

_WITHIN = 0.5  # share of time stamps in names that must lie in the time of the events
_CLOSEST_US = 100  # from label to label; what is closer are numbers
_SHOWN = 5  # names in a message
ENDLESS = "nothing says where its flow ends"


@dataclass(frozen=True)
class LabelTimes:
    """The labels of a recording in order of time.

    Args:
        files: Their files.
        start_us: Their times; of flow, where it begins.
        end_us: The same; of flow, where it ends.
        rule: How they were found, for people.
        left_out: Number of labels that are not among them, by reason.
        read: Files that tell the times.
        choices: What was guessed.
    """

    files: tuple[Path, ...]
    start_us: tuple[int, ...]
    end_us: tuple[int, ...]
    rule: str
    left_out: tuple[tuple[str, int], ...] = ()
    read: tuple[Path, ...] = ()
    choices: tuple[str, ...] = ()


def label_times(
    recording: Recording,
    files: Sequence[Path],
    framed: CustomRecording | None,
    task: str,
    config: Settings,
) -> LabelTimes:
    """The times of label files, by the first rule that applies.

    Args:
        recording: The events.
        files: Label files of one folder, in the order of their names.
        framed: The recording with its frames, where it has any.
        task: `flow` has spans.
        config: Files, units and offsets that were stated.

    Raises:
        DataError: No rule applies, a label without a time, or times that two labels share.
    """
    folder = files[0].parent
    times = _times_file(folder, recording, config)
    choices: tuple[str, ...] = ()
    until: np.ndarray | None = None  # times at which flow may end, besides those of labels
    ends: np.ndarray | None = None
    if times is not None:
        start, ends, rule, choices = _from_file(times, files, task, config)
    elif (found := _by_frame_names(files, framed)) is not None:
        start, rule = found, "of the frames of the same names"
        until = _frame_times(framed)
    elif (found := _in_names(files, recording, config)) is not None:
        start, rule = found, "from the time stamps in their names"
    elif framed is not None and len(framed.frames.times_us) == len(files):
        start, rule = _frame_times(framed), "of the frames, in the order of names"
    else:
        raise _no_times(folder, files, framed)
    order = np.argsort(start, kind="stable")
    start, ordered = start[order], [files[place] for place in order]
    if task == "flow":
        if config.flow_ms is not None:
            ends, reach = start + round(1000 * config.flow_ms), f"over {config.flow_ms:g} ms"
        elif ends is not None:
            ends, reach = ends[order], "to the end that the file of times states"
        else:
            ends = _following(start, start if until is None else until)
            reach = f"to the next {'label' if until is None else 'frame'}"
        rule = f"{rule}; flow reaches {reach}"
    else:
        ends = start
    if len(twice := np.flatnonzero(np.diff(start) == 0)):
        one = int(twice[0])
        both = f"{ordered[one].name} and {ordered[one + 1].name}"
        raise DataError("two labels at one time", where=folder, found=f"{both}, {start[one]} us")
    ended = np.flatnonzero(ends >= start)
    endless = len(start) - len(ended)
    return LabelTimes(
        tuple(ordered[place] for place in ended), tuple(start[ended].tolist()),
        tuple(ends[ended].tolist()), rule, ((ENDLESS, endless),) if endless else (),
        (times,) if times else (), choices,
    )  # fmt: skip


def _times_file(folder: Path, recording: Recording, config: Settings) -> Path | None:
    """The file of label times that was named, or lies among the labels."""
    if config.label_times is None:
        return next((folder / name for name in TIMES if (folder / name).is_file()), None)
    for path in (folder / config.label_times, recording.path.parent / config.label_times,
                 config.label_times):  # fmt: skip
        if path.is_file():
            return path
    raise DataError("no such file of label times", where=config.label_times,
                    hint=f"looked in {folder} and {recording.path.parent} too")  # fmt: skip


def _from_file(
    times: Path, files: Sequence[Path], task: str, config: Settings
) -> tuple[np.ndarray, np.ndarray | None, str, tuple[str, ...]]:
    """Times, ends where the file has them, the rule and what was guessed."""
    point = "start" if task == "flow" else config.exposure_point
    begin: FrameTimes = read_frame_times(times, config.frame_time_unit, point)
    end: FrameTimes = read_frame_times(times, config.frame_time_unit, "end")
    start = begin.us + config.offset_us
    ends = end.us + config.offset_us if (end.us != begin.us).any() else None
    rule = f"from {times.name}"
    if begin.names is not None:
        by_name = dict(
            zip((Path(name).stem for name in begin.names), range(len(start)), strict=True)
        )
        if lost := [path.name for path in files if path.stem not in by_name]:
            raise DataError(
                "labels that the file of times does not name", where=times,
                found=f"{len(lost)} of {len(files)}: {', '.join(lost[:_SHOWN])}",
                expected="a line `TIME NAME` for every label file",
            )  # fmt: skip
        places = [by_name[path.stem] for path in files]
        return start[places], None, f"{rule}, by name", begin.unit.choices
    check_count(len(files), "labels", files[0].parent, len(start), times)
    return start, ends, f"{rule}, in the order of names", begin.unit.choices


def _frame_times(framed: CustomRecording | None) -> np.ndarray:
    assert framed is not None
    return np.array(framed.frames.times_us, np.int64)


def _by_frame_names(files: Sequence[Path], framed: CustomRecording | None) -> np.ndarray | None:
    """The times of the frames of the same names; None where a label has no such frame."""
    if framed is None or not isinstance(framed.frames, PictureFiles):
        return None
    frames = framed.frames
    times = {path.stem: us for path, us in zip(frames.files, frames.times_us, strict=True)}
    if any(path.stem not in times for path in files):
        return None
    return np.array([times[path.stem] for path in files], np.int64)


def _in_names(files: Sequence[Path], recording: Recording, config: Settings) -> np.ndarray | None:
    """Times in the names of files; None where there are none that are plausible."""
    digits = [re.search(r"([0-9]+)$", path.stem) for path in files]
    if not all(digits):
        return None
    try:
        values = np.array([int(one[1]) for one in digits if one], np.int64)
    except OverflowError:
        return None
    if len(values) > 1 and (np.diff(np.sort(values)) == 0).any():
        return None
    try:
        unit = frame_time_unit(values, config.frame_time_unit, str(files[0].parent))
        us = to_microseconds(values, unit.name, 0, str(files[0].parent)) + config.offset_us
    except (DataError, OverflowError):  # numbers of frames
        return None
    if len(us) > 1 and np.median(np.diff(np.sort(us))) < _CLOSEST_US:  # in a unit that was stated
        return None
    extent = recording.source.extent()
    if extent is not None:
        first, last = extent.first_us, extent.last_us
    else:
        stretches = recording.stretches()
        if not stretches:
            return None
        first, last = stretches[0].first_us, stretches[-1].last_us
    inside = (us >= first) & (us <= last)
    return us if inside.mean() >= _WITHIN else None


def _following(start: np.ndarray, until: np.ndarray) -> np.ndarray:
    """The first time after each start; one before it where there is none."""
    later = np.searchsorted(until, start, "right")
    return np.append(until, np.iinfo(np.int64).min)[later]


def _no_times(folder: Path, files: Sequence[Path], framed: CustomRecording | None) -> DataError:
    names = ", ".join(path.name for path in files[:_SHOWN])
    frames = "no frames with times"
    if framed is not None:
        frames = f"{len(framed.frames.times_us)} frames, of other names"
    return DataError(
        "nothing tells when these labels are",
        where=folder,
        found=f"{len(files)} labels ({names}{', ..' if len(files) > _SHOWN else ''}); {frames}",
        expected=f"a file of times among them ({', '.join(TIMES)}), the names or the number of the "
        "frames, or names that are times in the span of the events, such as 000001250000.png",
        hint="name a file of their times, a line for each: --label-times; or the unit of the "
        "stamps in their names: --frame-time-unit",
    )
