"""Several pair stores as one training set: their names, their weights, and which are not there."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from scaleevent.config.catalog import DATASETS, UNDOCUMENTED
from scaleevent.config.settings import Settings, described_problems, nearest, read_yaml
from scaleevent.config.tags import WantedTags
from scaleevent.errors import ConfigError, DataError
from scaleevent.system.locations import MANIFEST, address_of, check_store, shown, store_path

VIDEOS = "videos"  # what pairs that are simulated while training are called


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


class MixSettings(Settings):
    """Those settings of `pretrain` that say what it trains on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    data: list[Path] = Field(min_length=1)
    videos: list[Path] = []
    weights: Weights = {}
    only: WantedTags = []
    sampling: Literal["released", "uniform"] = "released"

    @classmethod
    def of_file(cls, path: Path) -> MixSettings:
        """Those in a YAML file of settings.

        Raises:
            ConfigError: No such file, no settings, or settings that name no data.
        """
        try:
            return cls(**read_yaml(path))
        except ValidationError as error:
            raise ConfigError(
                "no mix in these settings", where=path, found=described_problems(error),
                expected="data: the names of stores, and weights",
            ) from None  # fmt: skip


def store_names(folders: Sequence[Path], taken: Collection[str] = ()) -> list[str]:
    """What stores are called: the last part of their path or address, or all where two share it.

    Args:
        folders: Pair stores.
        taken: Names of other pairs in the mix, which a store does not get.

    Raises:
        ConfigError: A store is named twice.
    """
    where = [path.resolve() for path in folders]
    if len(set(where)) < len(where):
        twice = sorted({str(path) for path in where if where.count(path) > 1})
        raise ConfigError("a pair store is named twice", where="data", found=", ".join(twice))
    short = [Path(os.path.abspath(path)).name for path in folders]  # of a link, not its target
    names = [
        address_of(folder) or str(folder) if short.count(name) > 1 else name
        for name, folder in zip(short, folders, strict=True)
    ]
    return [
        address_of(folder) or str(folder.absolute()) if name in taken else name
        for name, folder in zip(names, folders, strict=True)
    ]


def check_weights(
    weights: dict[str, float], folders: Sequence[Path], others: Sequence[str] = ()
) -> None:
    """Refuse weights that do not belong to the stores, one to each.

    Args:
        weights: By name.
        folders: Pair stores.
        others: Names of further ones.

    Raises:
        ConfigError: A weight of no store, or a store without one where others have theirs.
    """
    names = [*store_names(folders, others), *others]
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
    """The stores that are not there, prepared or not; what has an address counts as there."""
    return [name for name in named if address_of(name) is None and not store_path(name).exists()]


def way_to(name: Path) -> str:
    """How a store comes about that is not there, or not finished."""
    path, known = store_path(name), name.name
    if address_of(name) is not None:
        return f"fetched by a training, or by `scaleevent info {shlex.quote(shown(name))} --verify`"
    if path.exists():
        try:
            check_store(path)
        except DataError as error:
            return str(error.hint)
    out = shlex.quote(str(path))
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
        "no such pair store",
        where="data", found=f"{len(lost)} of {len(named)}: {', '.join(map(str, lost))}",
        hint=";\n    ".join(map(way_to, lost)),
    )  # fmt: skip


def is_ready(name: Path) -> bool:
    """Whether a store is there and finished; of one with an address, opening it tells."""
    return address_of(name) is not None or (store_path(name) / MANIFEST).is_file()
