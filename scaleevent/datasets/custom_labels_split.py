"""Which recordings train and which test: from the user's list, by a seed, or in time within one.

One recording alone is cut in time: its first labels train, its last ones test, and what lies
between is left out, so that neighbours do not stand on both sides. The parts are recordings of
their own, `NAME@train-until-TIME` and `NAME@test-from-TIME`, with the time of the last label that
trains and of the first that tests; no name of a file has an `@`. So a model that was trained on one
cut is not scored on labels of another that it has seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaleevent.config.labels import Part, read_split
from scaleevent.config.settings import nearest
from scaleevent.errors import ConfigError, DataError

_CUT = re.compile(r"(train|test)(?:-(?:until|from)-(-?\d+)us)?")
GAP = 0.05  # of the time of one recording's labels, between those that train and test


@dataclass(frozen=True)
class Split:
    """The parts of recordings.

    Args:
        parts: Recording to part; those without one are left out. Empty: one recording, cut in time.
        told: How it was made, for people.
        read: The list that it was read from.
    """

    parts: Mapping[str, Part]
    told: str
    read: tuple[Path, ...] = ()


def part_name(name: str, part: Part, at_us: int) -> str:
    """The name of a part of one recording that is cut in time.

    Args:
        name: Of the recording.
        part: `train` or `test`.
        at_us: Time of the last label that trains, or of the first that tests, microseconds.
    """
    return f"{name}@{part}-{'until' if part == 'train' else 'from'}-{at_us}us"


def overlap(seen: str, tested: str) -> bool:
    """Whether a recording, or part of one, may hold something of another, as their names tell.

    Stores of earlier versions name parts without a time: those of one version are those of one cut.
    """
    (one, _, first), (other, _, second) = seen.partition("@"), tested.partition("@")
    if one != other:
        return False
    train, test = _CUT.fullmatch(first), _CUT.fullmatch(second)
    if train is None or test is None or (train[1], test[1]) != ("train", "test"):
        return True
    if train[2] is None or test[2] is None:
        return train[2] != test[2]
    return int(train[2]) >= int(test[2])


def split_recordings(
    recordings: Mapping[str, str], listed: Path | None, share: float, seed: int
) -> Split:
    """The part of every recording.

    Args:
        recordings: Names, and what their files are called, which the list may say instead.
        listed: The user's list; None draws from the seed.
        share: Of the recordings that test, at least one.
        seed: Of the draw; the same names give the same split.

    Raises:
        ConfigError: A list that names other recordings.
    """
    names = list(recordings)
    if listed is None:
        if len(names) == 1:
            told = f"one recording: the last {share:.0%} of its time tests"
            return Split({}, f"{told}, the {GAP:.0%} before that are left out")
        count = min(max(1, round(share * len(names))), len(names) - 1)
        drawn = np.random.default_rng(seed).permutation(len(names))[:count].tolist()
        ordered = sorted(names)
        tests = sorted(ordered[place] for place in drawn)
        parts: dict[str, Part] = {name: "test" if name in tests else "train" for name in ordered}
        shown = ", ".join(tests[:5]) + (", .." if len(tests) > 5 else "")
        return Split(parts, f"{count} of {len(names)} recordings test, by seed {seed}: {shown}")
    files = list(recordings.values())
    called = {file: name for name, file in recordings.items()
              if file not in names and files.count(file) == 1}  # fmt: skip
    found: dict[str, Part] = {}
    for name, part in read_split(listed).items():
        if (own := called.get(name, name)) in found:
            raise ConfigError("a recording in two places of a split", where=listed, found=name)
        found[own] = part
    if unknown := [name for name in found if name not in names]:
        raise ConfigError(
            "recordings of the split that are not here", where=listed,
            found=", ".join(f"{name}{nearest(name, names)}" for name in unknown[:10]),
            expected=", ".join(sorted(names)[:20]),
        )  # fmt: skip
    out = sorted(set(names) - set(found))
    told = f"parts from {listed.name}"
    return Split(found, f"{told}; left out: {', '.join(out)}" if out else told, (listed,))


def cut_in_time(
    times_us: Sequence[int], share: float, gap_us: int, where: Path
) -> tuple[slice, slice]:
    """The labels of one recording that train, and those that test.

    Args:
        times_us: Of the labels, ascending.
        share: Of their time that tests.
        gap_us: Least time between the two, microseconds.
        where: The recording, for messages.

    Raises:
        DataError: Too short for both parts and the gap.
    """
    first, last = (times_us[0], times_us[-1]) if times_us else (0, 0)
    begin = last - share * (last - first)
    before = begin - max(gap_us, GAP * (last - first))
    stop = int(np.searchsorted(times_us, before, "right"))
    start = int(np.searchsorted(times_us, begin, "left"))
    if not stop or start >= len(times_us):
        raise DataError(
            "one recording that is too short to train and test on", where=where,
            found=f"{len(times_us)} labels in {(last - first) / 1e6:.3g} s, "
            f"{gap_us / 1e6:.3g} s of them are left out between the two parts",
            hint="give several recordings, or say what this one is for: --split FILE with "
            "`test: [NAME]`",
        )  # fmt: skip
    return slice(0, stop), slice(start, None)
