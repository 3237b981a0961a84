"""`scaleevent info`: what a recording, pair store or checkpoint is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaleevent.commands.info_weights import weight_facts
from scaleevent.config.data import InfoConfig
from scaleevent.datasets.custom_files import found_beside
from scaleevent.errors import DataError
from scaleevent.formats import is_bag_folder, open_recording, recording_facts
from scaleevent.pairs.drawing import draw_pairs
from scaleevent.pairs.store import PairStore, verify_shards
from scaleevent.panels import save_picture
from scaleevent.pictures import draw_recording
from scaleevent.system.locations import MANIFEST
from scaleevent.system.reports import Report

SEGMENTS = 20  # listed one by one


def run(cfg: InfoConfig, quiet: bool = False) -> Report:
    """Facts about a path.

    Args:
        cfg: The path, and options for recordings.
        quiet: Unused, since there is no progress to show.
    """
    path = cfg.path
    if not path.exists():
        raise DataError("no such file or folder", where=path)
    if path.is_dir() and not is_bag_folder(path) or path.name == MANIFEST:
        return _store(path if path.is_dir() else path.parent, cfg)
    if path.suffix == ".safetensors":
        facts, remarks = weight_facts(path)
        return Report("info", str(path), ("fact", "value"), _rows(facts), remarks, facts)
    # reads what can be read of a damaged recording, and reports the damage
    recording = open_recording(path, size=cfg.size, **cfg.reading, max_bad=1.0)
    facts = recording_facts(recording, cfg.full) | {"beside": found_beside(path)}
    notes = list(recording.choices)
    if len(facts.get("segments", ())) > 1:
        notes.append("the clock was reset: prepare custom takes one segment, --segment 1, 2, ..")
    if cfg.picture:
        save_picture(cfg.picture, draw_recording(recording, facts))
        notes.append(f"picture: {cfg.picture}")
    return Report("info", str(path), ("fact", "value"), _rows(facts), tuple(notes), facts)


def _rows(facts: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    rows: list[tuple[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += [(f"{key}: {name}", part) for name, part in value.items()]
        elif key == "segments":
            lines = [f"{s['first_us']} .. {s['last_us']} us, {s['events']:,} events" for s in value]
            if len(lines) > 1:
                rows += [(f"segment {k}", line) for k, line in enumerate(lines[:SEGMENTS], 1)]
            if len(lines) > SEGMENTS:
                rows.append(("more segments", f"{len(lines) - SEGMENTS} (--json lists all)"))
        else:
            rows.append((key.replace("_", " "), value))
    return tuple(rows)


def _store(folder: Path, cfg: InfoConfig) -> Report:
    store = PairStore(folder)
    notes: list[str] = []
    if cfg.verify:
        verify_shards(store)
    if cfg.picture and len(store):
        picture, notes = draw_pairs(store)
        save_picture(cfg.picture, picture)
        notes.append(f"picture: {cfg.picture}")
    manifest = store.manifest
    settings = {
        f"setting {key}": str(value)
        for key, value in manifest["settings"].items()
        if value not in (None, [])
    }
    facts = {
        "kind": manifest["kind"], "pairs": len(store), "shards": len(store.shards),
        "recordings": len(set(store.recordings)) if len(store) else 0,
        "bytes": sum(shard["bytes"] for shard in store.shards),
        "fingerprint": store.fingerprint, "version": manifest["version"],
        **manifest["counts"],
    }  # fmt: skip
    rows = (*facts.items(), *settings.items())
    return Report("info", str(folder), ("fact", "value"), rows, tuple(notes), facts)
