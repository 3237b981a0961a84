"""Open and read event recordings of any supported file format in the same way."""

from __future__ import annotations

from pathlib import Path

from scaleevent.errors import ConfigError, DataError, NotEventsError
from scaleevent.events import Events
from scaleevent.formats import (
    aedat,
    aedat4,
    arrays,
    atis_bin,
    dat,
    es,
    hdf5,
    matlab,
    prophesee,
    ros,
    text,
)
from scaleevent.formats.columns import MICROSECONDS_PER, parse_columns
from scaleevent.formats.facts import recording_facts
from scaleevent.formats.kinds import no_recording
from scaleevent.formats.recording import Counts, Recording
from scaleevent.formats.ros_bags import is_bag_folder, recording_files
from scaleevent.formats.sensors import measured_size
from scaleevent.formats.source import Format, Frame, ReadOptions
from scaleevent.system.refusals import reading

__all__ = [
    "FORMATS",
    "Counts",
    "Frame",
    "Recording",
    "is_bag_folder",
    "open_recording",
    "read_events",
    "recording_facts",
    "recording_files",
    "recording_kind",
]

_HEAD_BYTES = 1 << 16
_MAX_SIDE = 1 << 15  # pixels

FORMATS: dict[str, Format] = {
    "HDF5 (DSEC and others)": hdf5,
    "AEDAT4": aedat4,
    "Prophesee RAW (EVT2, EVT2.1, EVT3)": prophesee,
    "Prophesee DAT": dat,
    "AEDAT 1.0, 2.0, 3": aedat,
    "ES": es,
    "ROS bag": ros,
    "MATLAB": matlab,
    "npz, npy": arrays,
    "ATIS BIN": atis_bin,
    "text (txt, csv)": text,
}
"""Modules that read the supported formats, by the name of the format.

The first module that matches reads the file; text is last, since nothing marks a text file.
"""

USED_BY: dict[str, tuple[Format, ...]] = {
    "time_unit": (hdf5, arrays, matlab, text, ros),
    "columns": (hdf5, arrays, matlab, text),
    "topic": (hdf5, matlab, ros, aedat4),
    "image_topic": (ros, aedat4),
    "camera": (aedat,),
}
"""Which formats leave open what an option states; for others, a recording's choices say so."""


def open_recording(
    path: Path | str,
    *,
    size: tuple[int, int] | None = None,
    time_unit: str | None = None,
    columns: str | None = None,
    topic: str | None = None,
    image_topic: str | None = None,
    camera: str | None = None,
    max_bad: float | None = None,
    segment: int | None = None,
) -> Recording:
    """Open an event recording; its first bytes show the format, and its name resolves ties.

    Args:
        path: A file in one of `FORMATS`, or the folder of a ROS 2 bag.
        size: (height, width) of the sensor, instead of what the file states. If neither is known,
            the file is read once to find the largest coordinates.
        time_unit: s, ms, us or ns for files that do not define it (HDF5, NumPy, text, MATLAB),
            instead of the unit inferred from their values. `Recording.choices` says where this and
            the following options have no meaning.
        columns: Order of time, column, row and polarity in a table without names (NumPy, text,
            MATLAB, HDF5), such as "txyp", or "t x y p -" with a column that is not used, instead of
            the order inferred from its values (which assumes x before y); or the names of arrays,
            data sets, fields or columns, such as "t=stamp x=col y=row p=sign".
        topic: The event stream to read, of a file with several (a ROS topic, an HDF5 group, a
            MATLAB variable, id or name of an AEDAT4 stream), instead of the one chosen by rule,
            which `Recording.choices` states.
        image_topic: The ROS topic or AEDAT4 stream of the images, likewise.
        camera: Model of the camera, such as "DVS128", for AEDAT files that do not name it.
        max_bad: Fraction of the events, 0 to 1, that may be lost to damage; None: any damage is
            an error.
        segment: Index, from 0, of the stretch between clock resets to read; None: see `Recording`.

    Returns:
        The recording, opened but not read.

    Raises:
        DataError: The file is missing, empty, damaged or of another kind.
        ConfigError: An invalid size, time unit, order of columns or segment.
        MissingPackageError: The format needs a package that is not installed.
    """
    path = Path(path)
    if size is not None and not all(0 < side <= _MAX_SIDE for side in size):
        found = f"height {size[0]}, width {size[1]}"
        raise ConfigError("invalid sensor size", found=found, expected=f"1 .. {_MAX_SIDE} each")
    if time_unit is not None and time_unit not in MICROSECONDS_PER:
        units = ", ".join(MICROSECONDS_PER)
        raise ConfigError("unknown time unit", found=time_unit, expected=units)
    if columns is not None:
        parse_columns(columns)
    if segment is not None and segment < 0:
        raise ConfigError("no such segment", found=segment, expected="0 or more")
    module = _module_for(path)
    options = ReadOptions(time_unit, columns, topic, image_topic, camera, size)
    source = module.open_source(path, options)
    unused = [
        f"--{name.replace('_', '-')} is not used: it has no meaning for {source.format}"
        for name, formats in USED_BY.items()
        if getattr(options, name) is not None and module not in formats
    ]
    notes = dict(source.notes)
    if size is not None:
        notes["sensor size from"] = "the caller"
    elif source.size is not None:
        size = source.size
    else:
        size, notes["sensor size from"] = measured_size(source, path, max_bad is not None)
    if not all(0 < side <= _MAX_SIDE for side in size):
        raise DataError(
            "the sensor size in the file is invalid", where=path, found=f"{size[1]}x{size[0]}"
        )
    height, width = size
    return Recording(path, source, height, width, notes, max_bad, segment, tuple(unused))


def read_events(
    path: Path | str,
    start_us: int | None = None,
    end_us: int | None = None,
    *,
    size: tuple[int, int] | None = None,
    time_unit: str | None = None,
    columns: str | None = None,
    topic: str | None = None,
    camera: str | None = None,
    max_bad: float | None = None,
    segment: int | None = None,
) -> Events:
    """Read the events of a file with start_us <= t < end_us into memory; None: no limit.

    Args:
        path: A file in one of `FORMATS`.
        start_us: Start of the time range, in absolute microseconds on the clock of the file.
        end_us: End of the time range, exclusive.
        size: (height, width) of the sensor; see `open_recording`.
        time_unit: s, ms, us or ns; see `open_recording`.
        columns: Order or names of the columns; see `open_recording`.
        topic: The event stream to read, of a file with several; see `open_recording`.
        camera: Model of the camera, for AEDAT files that do not name it; see `open_recording`.
        max_bad: Fraction of the events that may be lost to damage; see `open_recording`.
        segment: Index of the stretch between clock resets to read; see `open_recording`.

    Raises:
        DataError: The file is missing, empty, damaged or of another kind; with `max_bad`, several
            stretches between clock resets have events in the range.
        ConfigError: An invalid size, time unit, order of columns or segment.
        MissingPackageError: The format needs a package that is not installed.
    """
    recording = open_recording(
        path,
        size=size,
        time_unit=time_unit,
        columns=columns,
        topic=topic,
        camera=camera,
        max_bad=max_bad,
        segment=segment,
    )
    blocks = list(recording.blocks(start_us, end_us))
    stretches = recording.counts.segments
    if sum(part.events > 0 for part in stretches) > 1:
        raise DataError(
            "events of several clocks have no common order of time",
            where=path,
            found=f"{len(stretches)} stretches between clock resets",
            hint=f"read one of them: segment=0 .. {len(stretches) - 1}",
        )
    return Events.concatenate(blocks, recording.height, recording.width)


def recording_kind(path: Path) -> str:
    """The key in `FORMATS` of a file's format, by its first bytes.

    Raises:
        DataError: As `open_recording` for what is no recording.
    """
    module = _module_for(path)
    return next(name for name, one in FORMATS.items() if one is module)


def _module_for(path: Path) -> Format:
    """The module that reads the file, chosen by its first bytes."""
    if is_bag_folder(path):
        return ros
    if path.is_dir():
        inside = sorted(each.name for each in path.iterdir())
        raise DataError(
            "a folder where a recording is expected",
            where=path,
            found=f"{len(inside)} entries{': ' if inside else ''}{', '.join(inside[:8])}",
            expected="one file, or the folder of a ROS 2 bag",
            hint="name one of its files; `scaleevent voxelize FOLDER` takes all recordings below",
        )
    with reading(path, "cannot read the file"), path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        hint = "the recording or its copy failed: look at the original"
        expected = "an event recording"
        raise DataError("empty file", where=path, found="0 bytes", expected=expected, hint=hint)
    for module in FORMATS.values():
        if module is text and (refused := no_recording(head, path)):
            refused.expected = ", ".join(FORMATS)
            raise refused
        if module.matches(head, path):
            return module
    raise NotEventsError(
        "not an event recording this version reads",
        where=path,
        found=f"unknown content, first bytes {head[:8].hex(' ')}",
        expected=", ".join(FORMATS),
    )
