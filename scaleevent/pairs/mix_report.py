"""What `info` tells of a mix: its composition, and which of its stores are not on this disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scaleevent.config.mix import MixSettings, check_weights, is_ready, way_to
from scaleevent.pairs.describing import verified_rows
from scaleevent.pairs.mixing import COLUMNS, Mix, keep_tagged, lines, open_sources, section
from scaleevent.pairs.store import verify_shards
from scaleevent.system.files import Json
from scaleevent.system.locations import check_store, store_path
from scaleevent.system.reports import Report, Section, counted

SETTINGS_FILES = (".yaml", ".yml")


def describe_mix(path: Path, more: Sequence[Path], verify: bool = False) -> Report:
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
    check_weights(mix.weights, [store_path(name) for name in mix.data])
    if not alone:
        for name in mix.data:
            check_store(store_path(name))
    ready = [name for name in mix.data if is_ready(name)]
    missing = [name for name in mix.data if name not in ready]
    notes: list[str] = []
    composition: Json = {}
    verified: Json = {}
    if ready:
        folders = [store_path(name) for name in ready]
        sources, kept = keep_tagged(open_sources(folders, warn=notes.append), mix.only)
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
    if alone:
        notes.append(f"{len(ready)} of {counted(len(mix.data), 'store')} on this disk")
    return Report(
        "info", title, COLUMNS, section(composition).rows if composition else (), tuple(notes),
        {
            "kind": "mix", "composition": composition,
            "missing": {str(name): way_to(name) for name in missing},
            **({"verified": verified} if verify else {}),
        },
        (_missing(missing, mix.weights),) if missing else (),
    )  # fmt: skip


def _missing(names: Sequence[Path], weights: dict[str, float]) -> Section:
    """Stores that are not there: their part of the whole mix, and how each is made."""
    total = sum(weights.values())
    rows = []
    for name in names:
        weight = weights.get(name.name) or weights.get(str(name))
        rows.append((str(name), f"{weight / total:.1%}" if weight else "-", way_to(name)))
    return Section("not on this disk", ("store", "share of the mix", "made by"), tuple(rows))
