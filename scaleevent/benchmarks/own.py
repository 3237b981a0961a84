"""`custom` as a benchmark: task, classes and split are what its stores say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from scaleevent.benchmarks.meaning import task_of
from scaleevent.benchmarks.registry import BENCHMARKS, Benchmark
from scaleevent.config.benchmarks import BENCHMARKS as ENTRIES
from scaleevent.config.downstream import stores_of, without_labels
from scaleevent.config.labels import LabelFacts, checked_facts
from scaleevent.errors import ConfigError, DataError
from scaleevent.pairs.store import PairStore

STRETCH = 0.05  # difference of aspect ratios up to which the input shows the whole sensor
LONGER_SIDE = 640  # of the default input, pixels
STEP = 16  # sides of the default input are multiples of it


def benchmark_of(name: str, data: Sequence[Path]) -> Benchmark:
    """A benchmark by its name; `custom` from its stores.

    Args:
        name: Key of `config.benchmarks.BENCHMARKS`.
        data: The pair stores that were named.

    Raises:
        ConfigError: No data are named where they are needed; stores of different labels.
        DataError: A store without labels, or one that cannot be read.
    """
    if ENTRIES[name].task is not None:
        return BENCHMARKS[name]
    stores = [PairStore(folder) for folder in stores_of(name, data)]
    found = [own_labels(store) for store in stores]
    for store, facts in zip(stores, found, strict=True):
        if not facts.same_meaning(found[0]):
            raise ConfigError(
                "stores whose labels have different meanings", where=store.where,
                found=described(facts), expected=f"{described(found[0])}, as {stores[0].where}",
            )  # fmt: skip
    parts = {part for facts in found for part in facts.split.values()}
    return Benchmark(
        task_of(found[0]), default_size(stores[0]), ("own labels: no published numbers",), STRETCH,
        "test" if "test" in parts else "validation",
    )  # fmt: skip


def own_labels(store: PairStore) -> LabelFacts:
    """What the labels of a store mean.

    Raises:
        DataError: It has none, or no pair.
    """
    facts = store.manifest.get("labels")
    if facts is None:
        raise without_labels(store.where)
    if not len(store):
        raise DataError("the pair store holds no pair", where=store.where)
    return checked_facts(facts, store.where)


def default_size(store: PairStore) -> tuple[int, int]:
    """Rows and columns of the network's input, see `size_near`, for the sensor of a store."""
    shard, row = store.locate(0)
    return size_near(*shard.sensor(row))


def size_near(height: int, width: int) -> tuple[int, int]:
    """Multiples of 16, near in area, that show all of a sensor hardly stretched.

    No side is longer than 640 pixels. Where no such size is near, it is the one that
    stretches least.
    """
    scale = min(1.0, LONGER_SIDE / max(height, width))

    def near(side: int) -> list[int]:
        middle = int(side * scale / STEP)
        found = {STEP * min(max(1, middle + step), LONGER_SIDE // STEP) for step in (-1, 0, 1, 2)}
        return sorted(found)

    def rank(size: tuple[int, int]) -> tuple[float, float]:
        stretch = abs(size[0] * width / (size[1] * height) - 1)
        area = abs(math.log(size[0] * size[1] / (height * width * scale**2)))
        return (0.0, area + stretch) if stretch <= STRETCH else (stretch, area)

    return min(itertools.product(near(height), near(width)), key=rank)


def described(facts: LabelFacts) -> str:
    """Labels in a few words."""
    if facts.task == "segmentation":
        return f"segmentation, {', '.join(one.name for one in facts.classes)}"
    return f"depth up to {facts.max_depth:g} m" if facts.task == "depth" else facts.task
