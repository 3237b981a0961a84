"""Several runs of a kind: what differs, seeds as mean and deviation, differences run by run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scaleevent.config.downstream import TaskSettings
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.reporting.runs import RunRecord
from scaleevent.system.files import Json

SEEDS = ("seed", "world_seed", "split_seed", "draws_seed", "init_seed")
# settings that change no result, in any command; `cache` is how the same features are kept
NO_EFFECT = PretrainConfig.NO_EFFECT | TaskSettings.NO_EFFECT | {"submission"}


@dataclass(frozen=True)
class Spread:
    """A number over several runs."""

    mean: float
    sd: float | None  # sample standard deviation, with n - 1; None of a single run
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        mean = math.fsum(values) / len(values)
        if len(values) < 2:
            return cls(mean, None, 1)
        variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
        return cls(mean, math.sqrt(variance), len(values))


@dataclass(frozen=True)
class Group:
    """Runs with the same settings but the seeds."""

    letter: str
    runs: tuple[RunRecord, ...]
    seeds: tuple[str, ...]  # of each run, in words
    about: str  # in which settings it differs from the first group

    def spread(self, number: str) -> Spread | None:
        """A result over the runs that have it."""
        values = [run.numbers[number] for run in self.runs if number in run.numbers]
        return Spread.of(values) if values else None

    def by_seed(self, number: str) -> dict[str, float]:
        """A result by seeds, without seeds that several runs have."""
        pairs = zip(self.seeds, self.runs, strict=True)
        return {
            seed: run.numbers[number] for seed, run in pairs
            if number in run.numbers and self.seeds.count(seed) == 1
        }  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """How a number of one group differs from that of another, over runs with the same seeds."""

    number: str
    spread: Spread
    seeds: tuple[str, ...]  # of the pairs


def families(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs by what makes them comparable, in the order given."""
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        found.setdefault(run.family, []).append(run)
    return found


def differing(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """The settings, output folders aside, that are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if key != "out")
    return tuple(
        key for key in keys if len({_plain(run.settings.get(key)) for run in runs}) > 1
    )  # fmt: skip


def groups(runs: Sequence[RunRecord], everything: Sequence[RunRecord]) -> list[Group]:
    """The runs of a family, put together where only their seeds differ.

    A run that starts from another run of the report has that one's settings and seeds too.

    Args:
        runs: Of a family.
        everything: All runs of the report.
    """
    found: dict[str, list[tuple[RunRecord, str]]] = {}
    for run in runs:
        identity, seeds = _identity(run, everything)
        found.setdefault(identity, []).append((run, seeds))
    named = []
    first = json.loads(next(iter(found), "{}"))
    for number, (identity, members) in enumerate(found.items()):
        about = "; ".join(_changes(first, json.loads(identity))) if number else "the first runs"
        runs_of, seeds_of = zip(*members, strict=True)
        named.append(Group(_letter(number), runs_of, seeds_of, about))
    return named


def numbers_of(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """The names of all results, in the order of the first run that has each."""
    return tuple(dict.fromkeys(name for run in runs for name in run.numbers))


def varying(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """The names of the results that are not the same in all runs: no baseline without events."""
    values = {name: {run.numbers.get(name) for run in runs} for name in numbers_of(runs)}
    return tuple(name for name, found in values.items() if len(found) > 1)


def differences(first: Group, other: Group, numbers: Sequence[str]) -> list[Difference]:
    """`other` less `first`, for each number, over the seeds that both have."""
    found = []
    for number in numbers:
        ours, theirs = other.by_seed(number), first.by_seed(number)
        shared = [seed for seed in theirs if seed in ours]
        if shared:
            spread = Spread.of([ours[seed] - theirs[seed] for seed in shared])
            found.append(Difference(number, spread, tuple(shared)))
    return found


def _identity(
    run: RunRecord, everything: Sequence[RunRecord], above: tuple[Path, ...] = ()
) -> tuple[str, str]:
    """What must agree between runs of one group, as JSON; and the seeds, in words."""
    settings = {
        key: value for key, value in run.settings.items()
        if key not in NO_EFFECT and key not in SEEDS
    }  # fmt: skip
    seeds = [
        f"{key.replace('_', ' ')} {value}"
        for key in SEEDS if (value := run.settings.get(key)) is not None
    ]  # fmt: skip
    parent = _parent(run, everything)
    if parent is not None and parent.folder not in above:
        inner, inner_seeds = _identity(parent, everything, (*above, run.folder))
        settings["checkpoint"] = json.loads(inner) | {"command": parent.command}
        seeds += [f"from a run of {inner_seeds}"] if inner_seeds else []
    elif (weights := _weights(run.report)) is not None:
        settings["weights"] = weights
    if settings.get("data"):  # stores of other content may have the same names
        settings["stores"] = _stores(run.report)
    return _plain(settings), ", ".join(seeds) or "no seed"


def _stores(report: Json) -> object:
    """The fingerprints of the stores that a run has read."""
    data = report.get("data")
    return data.get("stores") if isinstance(data, dict) else data


def _weights(report: Json) -> object:
    """The hash of the weights that a run began with, or has scored."""
    for key in ("encoder", "checkpoint"):
        if isinstance(found := report.get(key), dict) and found.get("sha256"):
            return found["sha256"]
    return None


def _parent(run: RunRecord, everything: Sequence[RunRecord]) -> RunRecord | None:
    """The run of the report whose checkpoint a run starts from."""
    checkpoint = run.settings.get("checkpoint")
    if not isinstance(checkpoint, str):
        return None
    path = os.path.join(_base(run), checkpoint)
    places = {os.path.realpath(path), os.path.realpath(os.path.dirname(path))}
    others = (one for one in everything if one.folder != run.folder)
    return next((one for one in others if os.path.realpath(one.folder) in places), None)


def _base(run: RunRecord) -> str:
    """The folder in which a run was started, as its relative output folder tells; else this one."""
    out = os.path.normpath(str(run.settings.get("out") or ""))
    here = os.path.abspath(run.folder)
    within = not os.path.isabs(out) and here.endswith(os.sep + out)
    return here.removesuffix(os.sep + out) or os.sep if within else ""


def _changes(first: object, other: object, within: str = "") -> list[str]:
    """In words, where a record of settings differs from another."""
    if not isinstance(first, dict) or not isinstance(other, dict):
        return [f"{within} {_shown(other)} (was {_shown(first)})"]
    return [
        change
        for key in dict.fromkeys([*first, *other])
        if first.get(key) != other.get(key)
        for change in _changes(first.get(key), other.get(key), f"{within} {key}".strip())
    ]


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return str(value.get("command", "other"))
    return "none" if value is None else _plain(value).strip('"')


def _plain(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _letter(number: int) -> str:
    """A, B, .. Z, A1, B1, .."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")
