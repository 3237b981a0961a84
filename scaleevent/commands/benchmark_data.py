"""The data of a benchmark: named stores, a shelf of stores, or the embedded `street`."""

from __future__ import annotations

from pathlib import Path

from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.commands.street_store import street_store
from scaleevent.errors import DataError
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.store import PairStore
from scaleevent.system.locations import named_store
from scaleevent.system.ranks import Ranks


def benchmark_samples(
    name: str, data: list[Path], settings: InputSettings, peers: Ranks, *, quiet: bool
) -> LabelledSamples:
    """The labelled samples of a benchmark.

    Args:
        name: Key of `BENCHMARKS`.
        data: Pair stores; where there are none, $SCALEEVENT_DATA/DATASET, or `street` for its own.
        settings: The network's input.
        peers: The main one renders `street`.
        quiet: No progress on stderr.

    Raises:
        ConfigError: No data is named.
        DataError: A store of another data set.
    """
    benchmark = BENCHMARKS[name]
    if benchmark.data == "street" and not data:
        if peers.main:
            street_store((settings.height, settings.width), quiet, benchmark.street)
        peers.wait()
        folders = [street_store((settings.height, settings.width), True, benchmark.street)]
    else:
        folders = data or [named_store(benchmark.data, name)]
    stores = [PairStore(folder) for folder in folders]
    for store in stores:
        found = store.manifest["settings"].get("name", store.manifest["kind"])
        if found != benchmark.data:
            raise DataError(
                f"this store is not of {name}",
                where=store.folder,
                found=found,
                expected=benchmark.data,
                hint=f"`scaleevent prepare {benchmark.data} ...` makes one",
            )
    return LabelledSamples(stores, benchmark.task, settings)
