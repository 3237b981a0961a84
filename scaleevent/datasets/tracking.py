"""Videos for tracking of a DAVIS346, an AEDAT4 file each: what `visevent` and `coesot` share.

    [SUBSET/]VIDEO/VIDEO.aedat4      events and frames, beside pictures and boxes that are not read

Frames are taken from the recordings, with the middle of their exposure as their time: the pictures
beside them have no reliable times. All frames are taken, not only those that have boxes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scaleevent.config.data import DamageSettings, SequencesConfig, WindowSettings
from scaleevent.datasets.finding import files_below, only_once
from scaleevent.datasets.recorded_frames import RecordedFrames
from scaleevent.errors import DataError
from scaleevent.formats import Recording, open_recording
from scaleevent.pairs.pairing import window_rule
from scaleevent.system.reports import counted

ENDING, BOXES = ".aedat4", "groundtruth.txt"
_SHOWN = 5  # names of videos


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
    config.require_roots()
    hits = [(path.stem, path) for path in files_below(config.roots, f"*{ENDING}")]
    config.check_sequences({name for name, _ in hits})
    bare = sorted({
        path.parent.name for path in files_below(config.roots, BOXES)
        if not any(path.parent.glob(f"*{ENDING}"))
    })  # fmt: skip
    if not hits:
        raise DataError(
            "no video with its recording in this folder",
            where=", ".join(map(str, config.roots)),
            found=f"{len(bare)} folders with boxes alone" if bare else None,
            expected=f"VIDEO/VIDEO{ENDING}, up to two folders below",
        )
    wanted = (hit for hit in hits if not config.sequences or hit[0] in config.sequences)
    files = sorted(only_once(wanted).items())
    said = _left_out(bare) if not config.sequences else ()
    return [_video(name, path, config, () if k else said) for k, (name, path) in enumerate(files)]


def _left_out(bare: list[str]) -> tuple[str, ...]:
    """A line about videos without a recording."""
    if not bare:
        return ()
    more = f" and {len(bare) - _SHOWN} more" if len(bare) > _SHOWN else ""
    names = ", ".join(bare[:_SHOWN])
    said = counted(len(bare), "other video")
    return (f"{said} without a recording left out: {names}{more}",)


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
