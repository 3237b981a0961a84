"""`scaleevent voxelize`: recordings, with or without frames, to voxel shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from scaleevent.commands.prepare import choices, store_report
from scaleevent.config.data import VoxelizeConfig
from scaleevent.datasets.recordings import UNPAIRED
from scaleevent.datasets.recordings import sources as find_sources
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.preparing import write_store
from scaleevent.pairs.store import PairStore
from scaleevent.pictures import draw_voxel, panel, save_picture
from scaleevent.system.reports import Report, progress, say
from scaleevent.system.workers import ProcessExecutor

NOT_CONTENT = {"out", "jobs", "resume", "overwrite", "take_over", "root"}
PREVIEW_ROWS = 4
EMPTY_SHARE = 0.2  # of windows without an active cell, above which we warn


def run(cfg: VoxelizeConfig, quiet: bool = False) -> Report:
    """Voxelize every recording below a folder.

    Args:
        cfg: What and where.
        quiet: No progress on stderr.

    Returns:
        Counts, the fraction of active cells, and the path of a preview picture.
    """
    sources, passed, unused = find_sources(cfg)
    if not quiet:
        for line in choices(sources):
            say(line)
    windows = sum(source.expected for source in sources)
    with (
        cfg.claimed(),
        progress("voxelize", windows, "windows", not quiet) as ticker,
        ProcessExecutor(cfg.jobs) as executor,
    ):
        manifest = write_store(
            sources,
            cfg.out,
            cfg.model_dump(mode="json", exclude=NOT_CONTENT),
            executor=executor,
            voxels=cfg.model_dump(include={"bins", "tau", "patch", "representation"}),
            advance=ticker.advance,
            warn=say,
        )
    report = store_report("voxelize", cfg.out, manifest, choices(sources))
    counts = manifest["counts"]
    notes, facts = list(report.notes), dict(report.facts)
    if not counts.get("pairs"):
        notes.append("warning: no window holds events")
    elif not counts.get("cells"):
        notes.append(
            f"activity not computed: the sensor is smaller than {cfg.patch}x{cfg.patch} pixels"
        )
    else:
        active = counts["cells active"] / counts["cells"]
        empty = counts["windows without an active cell"] / counts["pairs"]
        facts |= {"active_share": active, "empty_share": empty}
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
    facts |= {"passed_over": passed, "not_used": unused}
    return replace(report, notes=tuple(notes), facts=facts)


def _preview(out: Path) -> Path:
    """A few windows: all channels together and one by one, and the frame where there is one."""
    store = PairStore(out)
    picked = np.unique(np.linspace(0, len(store) - 1, PREVIEW_ROWS).round().astype(int))
    rows = []
    for number in picked:
        shard, row = store.locate(int(number))
        voxel = shard.stored_voxel(row)
        frame = shard.image(row)
        blank = np.full((*voxel.shape[1:], 3), 240, np.uint8)
        bins = [draw_voxel(one[None]) for one in voxel[:3]]
        rows.append([decode_image(frame) if frame else blank, draw_voxel(voxel), *bins])
    columns = ["frame", "all together", *(f"channel {b}" for b in range(len(rows[0]) - 2))]
    save_picture(out / "preview.png", panel(columns, rows))
    return out / "preview.png"
