"""Videos for tracking of a DAVIS346, an AEDAT4 file each: what `visevent` and `coesot` share.

    [SUBSET/]VIDEO/VIDEO.aedat4      events and frames, beside pictures and boxes that are not read

Frames are taken from the recordings, with the middle of their exposure as their time: the pictures
beside them have no reliable times. All frames are taken, not only those that have boxes. Several
videos of VisEvent were cut from one recording (its issue 1): of such copies the first is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from scaleevent.config.data import DamageSettings, SequencesConfig, WindowSettings
from scaleevent.datasets.finding import files_below, find_named, shown
from scaleevent.datasets.recorded_frames import RecordedFrames
from scaleevent.errors import DataError
from scaleevent.formats import Recording, open_recording
from scaleevent.pairs.pairing import window_rule
from scaleevent.system.refusals import check_there, reading
from scaleevent.system.reports import counted

ENDING, BOXES = ".aedat4", "groundtruth.txt"
_SHOWN = 5  # names of videos
_BLOCKS, _BLOCK = 64, 1 << 16  # number and bytes of those by which files are compared


class TrackingSettings(SequencesConfig, WindowSettings, DamageSettings):
    """Settings of both."""


@dataclass(frozen=True)
class Video(RecordedFrames):
    """One video."""

    def opened(self) -> Recording:
        """Its recording."""
        return open_recording(self.recording, max_bad=self.max_bad)


def find_videos(config: TrackingSettings) -> list[Video]:
    """The videos found under the roots.

    Raises:
        ConfigError: No root, or a video that is not there.
        DataError: No video, one that is found twice, or a damaged recording.
        MissingPackageError: The package aedat is not installed.
    """
    hits = [(path.stem, path) for path in files_below(config.roots, f"*{ENDING}")]
    bare = sorted({
        path.parent.name for path in files_below(config.roots, BOXES)
        if not any(shown(path.parent, f"*{ENDING}"))
    })  # fmt: skip
    files = find_named(
        config, hits, "no video with its recording in this folder",
        expected=f"VIDEO/VIDEO{ENDING}",
        found=f"{len(bare)} folders with boxes alone" if bare else None,
    )  # fmt: skip
    copied = copies(files)
    said = _left_out(bare, "without a recording") if not config.sequences else ()
    said += _left_out(
        [f"{name} (as {first})" for name, first in copied.items()], "with the recording of another"
    )
    kept = [item for item in files.items() if item[0] not in copied]
    return [_video(name, path, config, () if k else said) for k, (name, path) in enumerate(kept)]


def copies(files: dict[str, Path]) -> dict[str, str]:
    """Videos whose recording is a copy, or the same file, as that of an earlier one: its name.

    Files of the same length that agree in blocks from all over them are copies: an AEDAT4 file has
    the times of its packets all over it. Parts of one recording are not found so.
    """
    first: dict[tuple[int, bytes], str] = {}
    lengths = Counter(check_there(path).st_size for path in files.values())
    copies = {}
    for name, path in files.items():
        length = path.stat().st_size
        if lengths[length] == 1:
            continue
        with reading(path, "the file cannot be read"), path.open("rb") as file:
            digest = sha256()
            for k in range(_BLOCKS):
                file.seek(k * max(length - _BLOCK, 0) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
        known = first.setdefault((length, digest.digest()), name)
        if known != name:
            copies[name] = known
    return copies


def _left_out(names: list[str], why: str) -> tuple[str, ...]:
    """A line about videos that are not taken, if there are any."""
    if not names:
        return ()
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    said = counted(len(names), "other video")
    return (f"{said} {why} left out: {', '.join(names[:_SHOWN])}{more}",)


def _video(name: str, path: Path, config: TrackingSettings, said: Iterable[str]) -> Video:
    """One video; the flags that choose a stream are not named, since this data set has none."""
    recording = open_recording(path, max_bad=config.tolerated)
    if not recording.has_frames:
        raise DataError(
            "a recording without frames", where=path,
            found=recording.notes.get("streams"), expected="a stream of frames",
        )  # fmt: skip
    number = recording.source.count_frames()
    return Video(
        name=name,
        recording=path,
        size=(recording.height, recording.width),
        rule=window_rule(config),
        lossless=config.lossless,
        max_bad=config.tolerated,
        origin={"sequence": name, "folder": path.parent.parent.name},
        expected=number,
        found=f"AEDAT4 {recording.width}x{recording.height}, {number:,} frames inside",
        choices=(*said, *(line.partition(" (--")[0] for line in recording.choices)),
    )
