"""`scaleevent prepare`: recordings and images of a data set to a pair store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import PrepareConfig
from scaleevent.errors import DataError
from scaleevent.pairs.preparing import lost, write_store
from scaleevent.pairs.source import PairSource
from scaleevent.system.files import Json
from scaleevent.system.reports import Report, progress, say
from scaleevent.system.workers import ProcessExecutor

NOT_CONTENT = {"out", "jobs", "resume", "overwrite", "take_over", "dry_run"}


def run(cfg: PrepareConfig, quiet: bool = False) -> Report:
    """Prepare a data set; the report counts every image and event by kind."""
    sources = DATASETS[cfg.name].load().sources(cfg)
    if not sources:
        raise DataError("nothing to prepare", where=", ".join(map(str, cfg.roots)) or cfg.name)
    images = sum(source.expected for source in sources)
    if cfg.dry_run:
        return _plan(cfg, sources, images)
    if not quiet:
        for line in choices(sources):
            say(line)
    settings = cfg.model_dump(mode="json", exclude=NOT_CONTENT)
    with (
        cfg.claimed(),
        progress(f"prepare {cfg.name}", images, "images", not quiet) as ticker,
        ProcessExecutor(cfg.jobs) as executor,
    ):
        manifest = write_store(
            sources, cfg.out, settings, executor=executor, advance=ticker.advance, warn=say
        )
    report = store_report("prepare", cfg.out, manifest, choices(sources))
    if not quiet and not manifest["counts"].get("pairs"):
        say("no pairs came out of this: see the counts for why images were dropped")
    return report


def choices(sources: Sequence[PairSource]) -> list[str]:
    """What the sources that read any recording guessed or chose, a line each."""
    return [f"{s.name}: {line}" for s in sources for line in getattr(s, "choices", ())]


def store_report(command: str, out: Path, manifest: Json, chosen: list[str]) -> Report:
    """The counts of a written store."""
    size = sum(shard.get("bytes", 0) for shard in manifest["shards"])
    return Report(
        command,
        f"{manifest['kind']} in {out}",
        ("what", "count"),
        tuple(manifest["counts"].items()),
        (
            *lost(manifest["counts"]),
            f"{len(manifest['shards'])} shards, {size / 1e6:,.1f} MB: {out}",
        ),
        {"out": str(out), "counts": manifest["counts"], "bytes": size, "choices": chosen},
    )


def _plan(cfg: PrepareConfig, sources: list[PairSource], images: int) -> Report:
    """What would be read and written."""
    rows = tuple(
        (s.name, s.found, s.expected, sum(path.stat().st_size for path in s.inputs) / 1e6)
        for s in sources
    )
    return Report(
        "prepare",
        f"prepare {cfg.name}: dry run, nothing is written",
        ("shard", "found", "images", "input MB"),
        rows,
        (f"{images:,} images in {len(sources)} shards would go to {cfg.out}", *choices(sources)),
        {"dry_run": True, "out": str(cfg.out), "images": images, "choices": choices(sources)},
    )
