"""The data of a benchmark: named stores, a shelf of stores, or the embedded `street`."""

from __future__ import annotations

from pathlib import Path

from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.commands.street_store import street_store
from scaleevent.config.benchmarks import BENCHMARKS
from scaleevent.config.downstream import stores_of
from scaleevent.errors import DataError
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.store import PairStore
from scaleevent.system.ranks import Ranks
from scaleevent.tasks.task import Task


def benchmark_samples(
    name: str, task: Task, data: list[Path], settings: InputSettings, ranks: Ranks, *, quiet: bool
) -> LabelledSamples:
    """The labelled samples of a benchmark.

    Args:
        name: Key of `BENCHMARKS`.
        task: Of the benchmark.
        data: Pair stores; where there are none, $SCALEEVENT_DATA/DATASET, or the embedded data.
        settings: The network's input.
        ranks: The main one renders embedded data.
        quiet: No progress on stderr.

    Raises:
        ConfigError: No data is named.
        DataError: A store of another data set.
    """
    benchmark = BENCHMARKS[name]
    if benchmark.embedded and not data:
        size, rendered = (settings.height, settings.width), dict(benchmark.rendered)
        if ranks.main:
            street_store(size, quiet, rendered)
        ranks.wait()
        data = [street_store(size, True, rendered)]
    stores = [PairStore(folder) for folder in data or stores_of(name, data)]
    for store in stores:
        found = store.manifest["settings"].get("name", store.manifest["kind"])
        if found != benchmark.data:
            raise DataError(
                f"this store is not of {name}",
                where=store.where,
                found=found,
                expected=benchmark.data,
                hint=f"`scaleevent prepare {benchmark.data}"
                f"{'' if benchmark.embedded else ' FOLDER'} -o {benchmark.data}` makes one",
            )
    return LabelledSamples(stores, task, settings)
