"""Several pair stores as one training set: their names, their weights, and which are not there."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from scaleevent.config.catalog import DATASETS, UNDOCUMENTED
from scaleevent.config.settings import nearest
from scaleevent.errors import ConfigError
from scaleevent.system.locations import MANIFEST, store_path
from scaleevent.system.reports import counted


def _read_weights(value: object) -> object:
    """`NAME=2` of the command line, or a mapping of YAML, to numbers above zero."""
    if isinstance(value, list):
        if not all(isinstance(one, str) and "=" in one for one in value):
            raise ValueError("expected NAME=WEIGHT")
        pairs = [one.rsplit("=", 1) for one in value]
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)} has two weights")
        value = dict(pairs)
    if not isinstance(value, dict):
        raise ValueError("expected NAME: WEIGHT, one a line")
    weights = {}
    for name, given in value.items():
        try:
            weights[str(name)] = weight = float(given)
        except (TypeError, ValueError):
            raise ValueError(f"the weight of {name} is not a number: {given!r}") from None
        if weight == 0:
            raise ValueError(f"the weight of {name} is zero: leave the store out instead")
        if not isfinite(weight) or weight < 0:
            raise ValueError(f"the weight of {name} is not a number above zero: {given!r}")
    return weights


Weights = Annotated[dict[str, float], BeforeValidator(_read_weights)]


def store_names(folders: Sequence[Path]) -> list[str]:
    """What stores are called: by the last part of their path, or all of it where two share that.

    Raises:
        ConfigError: A store is named twice.
    """
    where = [path.resolve() for path in folders]
    if len(set(where)) < len(where):
        twice = sorted({str(path) for path in where if where.count(path) > 1})
        raise ConfigError("a pair store is named twice", where="data", found=", ".join(twice))
    short = [path.name for path in where]
    return [
        str(folder) if short.count(name) > 1 else name
        for name, folder in zip(short, folders, strict=True)
    ]


def check_weights(weights: dict[str, float], folders: Sequence[Path]) -> None:
    """Refuse weights that do not belong to the stores, one to each.

    Raises:
        ConfigError: A weight of no store, or a store without one where others have theirs.
    """
    names = store_names(folders)
    for name in weights:
        if name not in names:
            raise ConfigError(
                f"a weight of a store that is not among the data{nearest(name, names)}",
                where="weights", found=name,
                expected=", ".join(names) or "none: street is rendered, there is no store",
            )  # fmt: skip
    if weights and (without := [name for name in names if name not in weights]):
        raise ConfigError(
            "some stores have a weight and some have none",
            where="weights", found=f"none for {', '.join(without)}",
            expected="a weight for every store, or none at all: then pairs count",
        )  # fmt: skip


def absent(named: Sequence[Path]) -> list[Path]:
    """The stores that are not there, prepared or not."""
    return [name for name in named if not store_path(name).exists()]


def way_to(name: Path) -> str:
    """How a store comes about that is not there, or not finished."""
    known, out = name.name, shlex.quote(str(store_path(name)))
    if known in DATASETS:
        return f"`scaleevent prepare {known} FOLDER -o {out}`"
    if known in UNDOCUMENTED:
        return f"its layout is unknown: `scaleevent prepare custom FOLDER -o {out}`, by recording"
    return f"`scaleevent prepare custom FOLDER -o {out}` makes one of recordings"


def check_named(named: Sequence[Path]) -> None:
    """Refuse stores that are not there, all of them at once, and tell how each is made.

    Raises:
        ConfigError: There are some.
    """
    lost = absent(named)
    if not lost:
        return
    raise ConfigError(
        f"{len(lost)} of {counted(len(named), 'pair store')} not there",
        where="data", found=", ".join(map(str, lost)), hint="; ".join(map(way_to, lost)),
    )  # fmt: skip


def is_ready(name: Path) -> bool:
    """Whether a store is there and finished."""
    return (store_path(name) / MANIFEST).is_file()
