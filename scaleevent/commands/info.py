"""`scaleevent info`: what a recording, pair store or checkpoint is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaleevent.config.data import InfoConfig
from scaleevent.datasets.custom_files import found_beside
from scaleevent.datasets.folders import folder_facts
from scaleevent.formats import is_bag_folder, open_recording, recording_facts
from scaleevent.pairs.classes import describe_labels
from scaleevent.pairs.describing import describe_shard, describe_store, is_shard, verified_rows
from scaleevent.pairs.drawing import draw_pairs
from scaleevent.pairs.mix_report import SETTINGS_FILES, describe_mix
from scaleevent.pairs.mixing import Mix, lines, open_sources, section
from scaleevent.pairs.store import PairStore, verify_shards
from scaleevent.panels import save_picture
from scaleevent.pictures import draw_recording
from scaleevent.system.locations import MANIFEST, address_of, embedded_file
from scaleevent.system.refusals import check_there
from scaleevent.system.reports import Report, cell
from scaleevent.system.weight_facts import weight_facts, weight_rows

SEGMENTS = 20  # listed one by one


def run(cfg: InfoConfig, quiet: bool = False) -> Report:
    """Facts about a path.

    Args:
        cfg: The path, and options for recordings.
        quiet: Unused, since there is no progress to show.
    """
    path = cfg.path
    if cfg.more or path.suffix in SETTINGS_FILES:
        return describe_mix(path, cfg.more, cfg.verify)
    if address_of(path) is not None:
        return _store(path, cfg)
    path = embedded_file(str(path), task=True) or path
    check_there(path)
    folder = path.parent if path.name == MANIFEST else path
    if (folder / MANIFEST).is_file():
        return _store(folder, cfg)
    if path.is_dir() and not is_bag_folder(path):
        facts, remarks = folder_facts(path)
        return Report("info", str(path), ("fact", "value"), _rows(facts), remarks, facts)
    if is_shard(path):
        facts = describe_shard(path)
        return Report("info", str(path), ("fact", "value"), _rows(facts), (), facts)
    if path.suffix == ".safetensors":
        facts, remarks = weight_facts(path)
        return Report(
            "info", str(cfg.path), ("fact", "value"), _rows(weight_rows(facts)), remarks, facts
        )
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
            rows += [(f"{key}: {name}", _plain(part)) for name, part in value.items()]
        elif key == "segments":
            lines = [f"{s['first_us']} .. {s['last_us']} us, {s['events']:,} events" for s in value]
            if len(lines) > 1:
                rows += [(f"segment {k}", line) for k, line in enumerate(lines[:SEGMENTS], 1)]
            if len(lines) > SEGMENTS:
                rows.append(("more segments", f"{len(lines) - SEGMENTS} (--json lists all)"))
        else:
            rows.append((key.replace("_", " "), _plain(value)))
    return tuple(rows)


def _plain(value: object) -> object:
    """A list as text; anything else as it is."""
    return ", ".join(map(cell, value)) if isinstance(value, list) else value


def _store(folder: Path, cfg: InfoConfig) -> Report:
    store = PairStore(folder)
    notes: list[str] = []
    if cfg.picture and len(store):
        picture, notes = draw_pairs(store)
        save_picture(cfg.picture, picture)
        notes.append(f"picture: {cfg.picture}")
    verified = verify_shards(store) if cfg.verify else None
    told, tables, warnings = describe_labels(store)
    facts, notes = describe_store(store) | told, notes + warnings
    rows = _rows({key: value for key, value in facts.items() if key != "class counts"})
    if verified is not None:
        facts["verified"], rows = verified, rows + verified_rows(verified)
    if not len(store) or not store.is_here:  # tags and activity are in the shards
        return Report("info", store.where, ("fact", "value"), rows, tuple(notes), facts, tables)
    mixed = Mix(open_sources([folder]), {}).facts
    return Report(
        "info", store.where, ("fact", "value"), rows, (*notes, *lines(mixed)),
        facts | {"composition": mixed}, (*tables, section(mixed)),
    )  # fmt: skip
