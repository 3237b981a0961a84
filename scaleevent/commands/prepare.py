"""`scaleevent prepare`: recordings and images of a data set to a pair store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import PrepareConfig, SourceConfig
from scaleevent.datasets.descriptions import tags_for, unverified
from scaleevent.datasets.held_out import Tests, listed
from scaleevent.errors import DataError
from scaleevent.pairs.alignment import measure_prepared
from scaleevent.pairs.describing import StoreResult, store_report
from scaleevent.pairs.planning import plan
from scaleevent.pairs.preparing import executor_of, unfinished, write_store
from scaleevent.pairs.source import PairSource, choices, label_facts, unused
from scaleevent.pairs.store import PairStore
from scaleevent.system.random_state import kept_random_state
from scaleevent.system.reports import progress, remark, say

NOT_CONTENT = {
    *("out", "jobs", "dask", "shard", "resume", "overwrite", "take_over"),
    *("dry_run", "check_only", "picture", "transductive", "tag"),
}


@kept_random_state()
def run(cfg: PrepareConfig, quiet: bool = True) -> StoreResult:
    """Prepare a data set: its recordings and images as a pair store.

    Args:
        cfg: All settings.
        quiet: No progress on stderr.

    Returns:
        The store, with every image and event counted by kind; of a dry run a `DryRun`.

    Raises:
        DataError: Data that are damaged, inconsistent or not there.
        ConfigError: Settings that do not fit them, or the store that is resumed.
        StoppedError: A stop signal came; finished shards are kept.
    """
    module = DATASETS[cfg.name].load()
    sources = module.sources(cfg)
    out: Tests = module.left_out(cfg) if isinstance(cfg, SourceConfig) else {}
    if not sources:
        raise DataError("nothing to prepare", where=", ".join(map(str, cfg.roots)) or cfg.name)
    own = cfg.share.of(sources) if cfg.share else sources
    images = sum(source.expected for source in own)
    chosen = unverified(cfg.name) + choices(sources) + unused(cfg.roots, sources)
    if out:
        chosen.insert(0, f"left out, {len(out)} test recordings of benchmarks: {listed(out)}")
    if cfg.plans:
        return plan(cfg.name, cfg.out, cfg.jobs, own, chosen, cfg.sheet)
    if not quiet:
        for line in chosen:
            say(line)
    settings = cfg.model_dump(mode="json", exclude=NOT_CONTENT)
    with (
        cfg.claimed(),
        progress(f"prepare {cfg.name}", images, "images", not quiet) as ticker,
        executor_of(cfg, own) as executor,
    ):
        manifest = write_store(
            sources, cfg.out, settings, executor=executor, share=cfg.share, advance=ticker.advance,
            warn=remark, remarks=({"left_out": out} if isinstance(cfg, SourceConfig) else {})
            | {"tags": tags_for(cfg)} | label_facts(sources),
        )  # fmt: skip
    report = store_report("prepare", cfg.out, manifest, chosen)
    if unfinished(manifest):
        return report
    report = _with_shift(report, cfg, sources)
    if not quiet and not manifest["counts"].get("pairs"):
        say("no pairs came out of this: see the counts for why images were dropped")
    return report


def _with_shift(
    report: StoreResult, cfg: PrepareConfig, sources: Sequence[PairSource]
) -> StoreResult:
    """The report with the measured shift between events and images, where it can be measured."""
    try:
        measured = measure_prepared(sources, PairStore(cfg.out))
    except DataError as error:  # the pairs are whole all the same
        note = f"shift between events and images not measured: {error.what}"
        return replace(report, notes=(*report.notes, note))
    if measured is None:
        return report
    notes = (measured.describe(), *measured.warnings(cfg.out, getattr(cfg, "offset_us", None)))
    return replace(report, notes=report.notes + notes, alignment=measured)
