"""`scaleevent info`: what a recording, pair store or checkpoint is."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from scaleevent.config.data import InfoConfig
from scaleevent.datasets.custom_files import found_beside
from scaleevent.errors import CheckpointError, DataError
from scaleevent.events import Events
from scaleevent.formats import Recording, open_recording, recording_facts
from scaleevent.pairs.store import MANIFEST, PairStore, verify_shards
from scaleevent.pictures import draw_events, save_picture
from scaleevent.system.reports import Report

PICTURE_EVENTS = 0.5  # per pixel: enough to see edges, few enough to tell them apart
HEADER_BYTES = 100_000_000
SEGMENTS = 20  # told one by one
FACTS = (  # of a checkpoint's description
    "version", "step", "task", "benchmark", "protocol", "decoder", "arch", "input", "token_scale",
    "metrics", "sha256",
)  # fmt: skip


def run(cfg: InfoConfig, quiet: bool = False) -> Report:
    """Facts about a path.

    Args:
        cfg: The path, and options for recordings.
        quiet: Unused: there is no progress.
    """
    path = cfg.path
    if not path.exists():
        raise DataError("no such file or folder", where=path)
    if path.is_dir() or path.name == MANIFEST:
        return _store(path if path.is_dir() else path.parent, cfg.verify)
    if path.suffix == ".safetensors":
        return _weights(path)
    # whatever can be read is told, and damage with it
    recording = open_recording(
        path, size=cfg.size, time_unit=cfg.time_unit, columns=cfg.columns, max_bad=1.0
    )
    facts = recording_facts(recording, cfg.full) | {"beside": found_beside(path)}
    notes = []
    if len(facts.get("segments", ())) > 1:
        notes.append("the clock was reset: prepare custom takes one segment, --segment 1, 2, ..")
    if cfg.picture:
        save_picture(cfg.picture, draw_events(_middle(recording, facts)))
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


def _middle(recording: Recording, facts: dict[str, Any]) -> Events:
    """Events from the middle of the recording, enough for a picture."""
    if not facts["events"]:
        return Events.empty(recording.height, recording.width)
    segments = facts.get("segments", [facts])
    number = max(range(len(segments)), key=lambda k: segments[k]["events"])
    longest = segments[number]
    start = (longest["first_us"] + longest["last_us"]) // 2
    one_stretch = replace(recording, segment=number)
    if len(segments) > 1 or facts.get("damage"):
        return _from(one_stretch, start)
    try:
        return _from(replace(recording, max_bad=None), start)  # strict reading seeks
    except DataError:  # damage that a sample did not meet
        return _from(one_stretch, start)


def _from(recording: Recording, start: int) -> Events:
    """Events from a time on, enough for a picture."""
    wanted = round(PICTURE_EVENTS * recording.height * recording.width)
    parts, count = [], 0
    for block in recording.blocks(start):
        parts.append(block[: wanted - count])
        count += len(parts[-1])
        if count >= wanted:
            break
    return Events.concatenate(parts, recording.height, recording.width)


def _store(folder: Path, verify: bool) -> Report:
    store = PairStore(folder)
    if verify:
        verify_shards(store)
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
    return Report("info", str(folder), ("fact", "value"), rows, (), facts)


def _weights(path: Path) -> Report:
    """The description in a safetensors header, read without loading a tensor."""
    with open(path, "rb") as file:
        head = file.read(8)
        size = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 0 < size <= min(HEADER_BYTES, path.stat().st_size - 8):
            raise CheckpointError("not a whole safetensors file", where=path)
        text = file.read(size)
    try:
        header = json.loads(text)
        described = json.loads(header.pop("__metadata__", {}).get("scaleevent", "{}"))
        tensors = list(header.values())
        facts = {
            "kind": described.get("kind", "weights of another origin"),
            "tensors": len(tensors),
            "parameters": sum(prod(tensor["shape"]) for tensor in tensors),
            "dtypes": ", ".join(sorted({tensor["dtype"] for tensor in tensors})),
            **{key: described[key] for key in FACTS if key in described},
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            "not a whole safetensors file", where=path, found=f"a header that cannot be: {error}"
        ) from None
    return Report("info", str(path), ("fact", "value"), _rows(facts), (), facts)
