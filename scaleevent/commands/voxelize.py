"""`scaleevent voxelize`: recordings, with or without frames, to voxel shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scaleevent.config.data import VoxelizeConfig
from scaleevent.datasets.recordings import UNPAIRED
from scaleevent.datasets.recordings import sources as find_sources
from scaleevent.pairs.alignment import spread
from scaleevent.pairs.describing import StoreResult, store_report
from scaleevent.pairs.drawing import frame_of, pair_name
from scaleevent.pairs.preparing import executor_of, unfinished, write_store
from scaleevent.pairs.source import choices
from scaleevent.pairs.store import PairStore
from scaleevent.panels import Row, panel, save_picture
from scaleevent.pictures import draw_voxel
from scaleevent.system.random_state import kept_random_state
from scaleevent.system.reports import progress, remark, say

NOT_CONTENT = {"out", "jobs", "dask", "shard", "resume", "overwrite", "take_over", "root"}
PREVIEW_ROWS, CHANNELS = 4, 3
EMPTY_SHARE = 0.2  # of windows without an active cell, above which we warn


@kept_random_state()
def run(cfg: VoxelizeConfig, quiet: bool = True) -> StoreResult:
    """Voxelize every recording below a folder.

    Args:
        cfg: What and where.
        quiet: No progress on stderr.

    Returns:
        Counts, the fraction of active cells, and the path of a preview picture.

    Raises:
        DataError: No recording, or a damaged one.
        ConfigError: The folder holds a store of other settings.
        StoppedError: A stop signal came; finished shards are kept.
    """
    sources, passed, unused = find_sources(cfg)
    if not quiet:
        for line in choices(sources):
            say(line)
    own = cfg.share.of(sources) if cfg.share else sources
    windows = sum(source.expected for source in own)
    with (
        cfg.claimed(),
        progress("voxelize", windows, "windows", not quiet) as ticker,
        executor_of(cfg, own) as executor,
    ):
        manifest = write_store(
            sources,
            cfg.out,
            cfg.model_dump(mode="json", exclude=NOT_CONTENT),
            executor=executor,
            share=cfg.share,
            voxels=cfg.model_dump(include={"bins", "tau", "patch", "representation"}),
            advance=ticker.advance,
            warn=remark,
        )
    report = store_report("voxelize", cfg.out, manifest, choices(sources))
    if unfinished(manifest):
        return report
    counts = manifest["counts"]
    notes = list(report.notes)
    active: float | None = None
    empty: float | None = None
    if not counts.get("pairs"):
        notes.append("warning: no window holds events")
    elif not counts.get("cells"):
        notes.append(
            f"activity not computed: the sensor is smaller than {cfg.patch}x{cfg.patch} pixels"
        )
    else:
        active = counts["cells active"] / counts["cells"]
        empty = counts["windows without an active cell"] / counts["pairs"]
        notes.append(
            f"{active:.1%} of {cfg.patch}x{cfg.patch} cells active at tau {cfg.tau:g}; "
            f"{empty:.1%} of windows have none"
        )
        if empty > EMPTY_SHARE:
            notes.append("warning: many windows are nearly empty; try a longer --window-ms")
    if counts.get("pairs"):
        notes.append(f"preview: {_preview(cfg.out)}")
    notes += [f"not a recording, passed over: {line}" for line in passed]
    instead = f"a window every {1000 / cfg.rate:g} ms instead"
    notes += [f"not used, {instead}: {line}" for line in unused]
    if unpaired := counts.get(UNPAIRED):
        notes.append(f"warning: {unpaired} {UNPAIRED}, {instead}; two clocks?")
    record = report.record | {"passed_over": passed, "not_used": unused}
    return replace(
        report, notes=tuple(notes), record=record, active_share=active, empty_share=empty
    )


def _preview(out: Path) -> Path:
    """A few windows: all channels together and one by one, and the frame where there is one."""
    store = PairStore(out)
    rows = []
    for number in spread(len(store), PREVIEW_ROWS):
        shard, row = store.locate(number)
        voxel = shard.stored_voxel(row)
        frame, lifted = frame_of(shard, row)
        bins = [draw_voxel(one[None]) for one in voxel[:CHANNELS]]
        name = f"window {number + 1:,} of {len(store):,}: {pair_name(shard, row)}{lifted}"
        rows.append(Row(name, (frame, draw_voxel(voxel), *bins)))
    shown = min(len(voxel), CHANNELS)
    columns = ["image", "all channels together", *(f"channel {k + 1}" for k in range(shown))]
    title = f"{out.resolve().name}: {len(voxel)} channels, {store.representation}"
    save_picture(out / "preview.png", panel(title, columns, rows))
    return out / "preview.png"
