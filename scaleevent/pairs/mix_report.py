"""What `info` tells of a mix: its composition, and which of its stores are not on this disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scaleevent.config.mix import VIDEOS, MixSettings, check_weights, is_ready, store_names, way_to
from scaleevent.pairs.describing import InfoResult, verified_rows
from scaleevent.pairs.mixing import COLUMNS, Mix, keep_tagged, lines, open_sources, section
from scaleevent.pairs.store import PairStore, verify_shards
from scaleevent.system.files import Json
from scaleevent.system.locations import check_store, shown, store_path
from scaleevent.system.reports import Section, counted

SETTINGS_FILES = (".yaml", ".yml")


def describe_mix(path: Path, more: Sequence[Path], verify: bool = False) -> InfoResult:
    """The composition of some stores, or of those that a file of settings names.

    Of the file's, those that are not there are listed, with the command that makes each.

    Args:
        path: A store or, alone, a YAML file of `pretrain`.
        more: Further stores.
        verify: Re-hash every shard.

    Raises:
        ConfigError: No mix in the file, or weights that do not belong to its stores.
        DataError: A store that cannot be read, or no pair with the tags asked for.
    """
    alone = path.suffix in SETTINGS_FILES and not more
    mix = MixSettings.of_file(path) if alone else MixSettings(data=[path, *more])
    others = [VIDEOS] if mix.videos else []
    folders = [store_path(path) for path in mix.data]
    check_weights(mix.weights, folders, others)
    if not alone:
        for folder in folders:
            check_store(folder)
    names = dict(zip(mix.data, store_names(folders, others), strict=True))
    opened = {names[path]: PairStore(store_path(path)) for path in mix.data if is_ready(path)}
    ready = {name: store for name, store in opened.items() if verify or store.is_here}
    missing = {path: name for path, name in names.items() if name not in ready}
    notes: list[str] = []
    composition: Json = {}
    verified: Json = {}
    if ready:
        sources, kept = keep_tagged(open_sources((), ready, notes.append), mix.only)
        verified = {s.name: verify_shards(s.store) for s in sources} if verify else {}
        notes += [
            f"{name}, {title}: {text}"
            for name, found in verified.items()
            for title, text in verified_rows(found)
        ]
        weights = {s.name: mix.weights[s.name] for s in sources if s.name in mix.weights}
        composition = Mix(sources, weights, mix.sampling).facts
        notes += [f"pairs taken{kept}"] * bool(kept) + lines(composition)
    title = str(path) if alone else counted(len(mix.data), "store")
    if mix.videos:
        notes.append(
            f"videos, simulated while training, are not in the table: share of the mix "
            f"{_part(mix.weights, VIDEOS)}"
        )
    if alone:
        notes.append(f"{len(ready)} of {counted(len(mix.data), 'store')} on this disk")
    return InfoResult(
        "info", title, COLUMNS, section(composition).rows if composition else (), tuple(notes),
        {
            "kind": "mix", "composition": composition,
            "missing": {shown(path): way_to(path) for path in missing},
            **({"verified": verified} if verify else {}),
        },
        (_missing(missing, mix.weights),) if missing else (), kind="mix",
    )  # fmt: skip


def _missing(paths: Mapping[Path, str], weights: dict[str, float]) -> Section:
    """Stores that are not there, with their names: their part of the mix, and how each is made."""
    rows = [(shown(path), _part(weights, name), way_to(path)) for path, name in paths.items()]
    return Section("not on this disk", ("store", "share of the mix", "made by"), tuple(rows))


def _part(weights: dict[str, float], name: str) -> str:
    """Which part of the whole mix a source is, as far as its weight tells."""
    return f"{weights[name] / sum(weights.values()):.1%}" if weights else "-"
