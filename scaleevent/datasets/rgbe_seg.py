"""`rgbe-seg`: RGBE-SEG, clips of VisEvent and COESOT that EventSAM's authors cut and align.

    SEQUENCE/event/NAME.npz        (N, 4) x, y, t, p of the events that belong to a picture
    SEQUENCE/rgb_image/NAME.png    the picture; voxel_image, event_image and masks are not read

zhiwen-xdu/EventSAM:README.md and its issue 12. A pair has all events of its file as they are: the
time of the picture is not stored and taken for the end of these events, so that settings of windows
have no meaning here. The unit of the times is not documented either; it is judged by the rate of
events that it implies, in the first file of each sequence that has any, unless it is given, and
must be the same in all sequences.

MVSEC-SEG, DDD17-SEG and DSEC-SEG of the same authors have this layout too: sequences whose names
are of recordings that test benchmarks are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from scaleevent.config.data import DamageSettings, SourceConfig
from scaleevent.datasets.finding import files_below, find_named, shown
from scaleevent.datasets.frames import EventView, list_pictures, picture_size
from scaleevent.datasets.held_out import Tests, leave_out
from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.formats import Recording, open_recording
from scaleevent.grids.windows import Window
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.pairing import add_tally

EVENTS, PICTURES = "event", "rgb_image"
_COLUMNS = "x y t p"


class Settings(SourceConfig, DamageSettings):
    """What `rgbe-seg` adds to the settings of `prepare`."""

    time_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        default=None, description="unit of the event times"
    )


@dataclass(frozen=True)
class Clip:
    """One sequence: a `PairSource`.

    Args:
        files: Archive of events and picture of every pair.
        size: (height, width) of the sensor, which is that of the pictures.
        unit: Of the events' times.
        lossless: Encode images as PNG.
        max_bad: Fraction of the events that may be lost to damage; None: none.
    """

    name: str
    files: tuple[tuple[Path, Path], ...]
    size: tuple[int, int]
    unit: str
    lossless: bool
    max_bad: float | None
    found: str
    choices: tuple[str, ...]

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        return tuple(path for pair in self.files for path in pair)

    @property
    def expected(self) -> int:
        """Number of pictures."""
        return len(self.files)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """A pair for every picture whose file of events is not empty.

        Raises:
            DataError: Damage.
        """
        view = EventView(*self.size, self.lossless)
        for archive, picture in self.files:
            counts["images"] += 1
            recording = _opened(archive, self.size, self.unit, self.max_bad)
            events = Events.concatenate([*recording.blocks()], *self.size)
            add_tally(recording, counts)
            if not len(events):
                counts["images dropped: empty window"] += 1
                continue
            image, valid = view.place_file(picture)
            counts["pairs"] += 1
            window = Window(int(events.t[0]), int(events.t[-1]) + 1)
            provenance = {"sequence": self.name, "frame": picture.name, "window": "as released"}
            yield Pair(
                self.name, window.end_us, image, events, window, valid=valid, provenance=provenance
            )


def sources(config: Settings) -> list[Clip]:
    """The sequences found under the roots, without those that test benchmarks.

    Raises:
        ConfigError: No root, a sequence that is not there, or a test sequence that was named.
        DataError: No sequence, one that is found twice, files without their partners, or times in
            different units.
    """
    found = _found(config)
    out = leave_out(config, list(found), any_family=True)
    kept = {name: folder for name, folder in found.items() if name not in out}
    return _of_one_unit([_source(name, folder, config) for name, folder in kept.items()])


def left_out(config: Settings) -> Tests:
    """The sequences under the roots that `sources` leaves out, and what they test.

    Raises:
        ConfigError, DataError: As `sources`.
    """
    return leave_out(config, list(_found(config)), any_family=True)


def _found(config: Settings) -> dict[str, Path]:
    """The folder of every sequence that is wanted and there, in order of name."""
    folders = [path.resolve().parent for path in files_below(config.roots, EVENTS)]
    hits = [(folder.name.removesuffix("_data"), folder) for folder in folders]
    expected = f"SEQUENCE/{EVENTS}/NAME.npz and SEQUENCE/{PICTURES}/NAME.png"
    return find_named(config, hits, "no RGBE-SEG sequence in this folder", expected)


def _of_one_unit(clips: list[Clip]) -> list[Clip]:
    """Clips whose times were judged alike, which is said once; those without events are any."""
    judged = {clip.unit: clip for clip in reversed(clips) if clip.choices}
    if len(judged) > 1:
        raise DataError(
            "sequences whose times are in different units",
            where=", ".join(sorted(clip.name for clip in judged.values())),
            found="; ".join(line for clip in judged.values() for line in clip.choices),
            hint="prepare those of one unit at a time: --sequences NAME",
        )
    told = next(iter(judged.values()), None)
    return [clip if clip is told else replace(clip, choices=()) for clip in clips]


def _source(name: str, folder: Path, config: Settings) -> Clip:
    pictures = list_pictures(folder / PICTURES) if (folder / PICTURES).is_dir() else []
    archives = {path.stem: path for path in shown(folder / EVENTS, "*.npz")}
    lone = sorted({path.stem for path in pictures} ^ archives.keys())
    if lone or not pictures:
        raise DataError(
            "pictures and events without their partners", where=folder,
            found=f"{len(pictures)} pictures, {len(archives)} files of events, "
            f"{len(lone)} names in one folder alone: {', '.join(lone[:5])}",
            expected=f"the same names in {EVENTS} and {PICTURES}",
            hint="a download or an archive that was not unpacked to its end looks like this",
        )  # fmt: skip
    size = picture_size(pictures[0])
    files = tuple((archives[path.stem], path) for path in pictures)
    first = _first_with_events(files, size, config)
    unit = first.notes["time unit"]
    return Clip(
        name, files, size, unit, config.lossless, config.tolerated,
        f"{len(files):,} pictures with events, times in {unit}", first.choices,
    )  # fmt: skip


def _first_with_events(
    files: tuple[tuple[Path, Path], ...], size: tuple[int, int], config: Settings
) -> Recording:
    """The first file that has events; the first of all if none has."""
    opened = None
    for archive, _ in files:
        recording = _opened(archive, size, config.time_unit, config.tolerated)
        opened = opened or recording
        if any(len(block) for block in recording.blocks()):
            return recording
    assert opened is not None
    return opened


def _opened(
    path: Path, size: tuple[int, int], unit: str | None, max_bad: float | None
) -> Recording:
    return open_recording(path, size=size, time_unit=unit, columns=_COLUMNS, max_bad=max_bad)
