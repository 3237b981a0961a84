"""`scaleevent info`: what a recording, pair store or checkpoint is."""

from __future__ import annotations

from pathlib import Path

from scaleevent.config.data import InfoConfig
from scaleevent.datasets.custom_files import found_beside
from scaleevent.datasets.folders import folder_facts
from scaleevent.formats import is_bag_folder, open_recording, recording_facts
from scaleevent.pairs.classes import describe_labels
from scaleevent.pairs.describing import (
    InfoResult,
    describe_shard,
    describe_store,
    fact_rows,
    is_shard,
    verified_rows,
)
from scaleevent.pairs.drawing import draw_pairs
from scaleevent.pairs.mix_report import SETTINGS_FILES, describe_mix
from scaleevent.pairs.mixing import Mix, lines, open_sources, section
from scaleevent.pairs.store import PairStore, verify_shards
from scaleevent.panels import save_picture
from scaleevent.pictures import draw_recording
from scaleevent.system.hub_folders import is_hub_folder, named_folder, names_hub, weights_of_folder
from scaleevent.system.locations import MANIFEST, address_of, embedded_file
from scaleevent.system.random_state import kept_random_state
from scaleevent.system.refusals import check_there
from scaleevent.system.weight_facts import weight_facts, weight_rows


@kept_random_state()
def run(cfg: InfoConfig, quiet: bool = True) -> InfoResult:
    """Facts about a path, or about weights on the hub.

    Args:
        cfg: The path, and options for recordings.
        quiet: Unused, since there is no progress to show.

    Returns:
        The facts: plain numbers and text by name, times in microseconds.

    Raises:
        DataError: Nothing is there, or nothing that is known; or it is damaged.
        ConfigError: Stores that cannot be mixed.
        EnvironmentProblem: It cannot be read, or fetched.
    """
    path = cfg.path
    if cfg.more or path.suffix in SETTINGS_FILES:
        return describe_mix(path, cfg.more, cfg.verify)
    if address_of(path) is not None:
        return _store(path, cfg)
    if names_hub(str(path)) or named_folder(str(path)) is not None:
        return _weights(str(path), _file_of(str(path)))
    path = embedded_file(str(path), task=True) or path
    check_there(path)
    folder = path.parent if path.name == MANIFEST else path
    if (folder / MANIFEST).is_file():
        return _store(folder, cfg)
    if is_hub_folder(path):
        return _weights(str(path), weights_of_folder(path, task=True))
    if path.is_dir() and not is_bag_folder(path):
        facts, remarks = folder_facts(path)
        return InfoResult.of(str(path), facts, remarks)
    if is_shard(path):
        return InfoResult.of(str(path), describe_shard(path))
    if path.suffix == ".safetensors":
        return _weights(str(cfg.path), path)
    # reads what can be read of a damaged recording, and reports the damage
    recording = open_recording(path, size=cfg.size, **cfg.reading, max_bad=1.0)
    facts = recording_facts(recording, cfg.full) | {"beside": found_beside(path)}
    notes = list(recording.choices)
    if len(facts.get("segments", ())) > 1:
        notes.append("the clock was reset: prepare custom takes one segment, --segment 1, 2, ..")
    if cfg.picture:
        save_picture(cfg.picture, draw_recording(recording, facts))
        notes.append(f"picture: {cfg.picture}")
    return InfoResult.of(str(path), facts, notes)


def _weights(name: str, file: Path) -> InfoResult:
    facts, remarks = weight_facts(file)
    return InfoResult.of(name, facts, remarks, fact_rows(weight_rows(facts)))


def _file_of(name: str) -> Path:
    """The file of weights by a name of the hub's, or of a folder in its layout."""
    from scaleevent.encoders.hub import weight_file  # it imports torch

    return weight_file(name, task=True)


def _store(folder: Path, cfg: InfoConfig) -> InfoResult:
    store = PairStore(folder)
    notes: list[str] = []
    if cfg.picture and len(store):
        picture, notes = draw_pairs(store)
        save_picture(cfg.picture, picture)
        notes.append(f"picture: {cfg.picture}")
    verified = verify_shards(store) if cfg.verify else None
    told, tables, warnings = describe_labels(store)
    facts, notes = describe_store(store) | told, notes + warnings
    rows = fact_rows({key: value for key, value in facts.items() if key != "class counts"})
    if verified is not None:
        facts["verified"], rows = verified, rows + verified_rows(verified)
    if not len(store) or not store.is_here:  # tags and activity are in the shards
        return InfoResult.of(store.where, facts, notes, rows, tables)
    mixed = Mix(open_sources([folder]), {}).facts
    facts, notes = facts | {"composition": mixed}, [*notes, *lines(mixed)]
    return InfoResult.of(store.where, facts, notes, rows, (*tables, section(mixed)))
