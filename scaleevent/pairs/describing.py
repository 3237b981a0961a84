"""What a pair store or one of its shards holds, for people."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scaleevent.config.data import PrepareConfig, VoxelizeConfig
from scaleevent.config.settings import Settings
from scaleevent.errors import DataError
from scaleevent.pairs.alignment import Alignment
from scaleevent.pairs.classes import describe_labels
from scaleevent.pairs.manifest import Entry, read_document
from scaleevent.pairs.preparing import lost, unfinished
from scaleevent.pairs.shard import Shard
from scaleevent.pairs.store import PairStore
from scaleevent.system.files import Json
from scaleevent.system.remote import RemoteStore
from scaleevent.system.reports import Report, Section, cell, counted

Rows = tuple[tuple[str, object], ...]

SHOWN = 5  # recordings listed by name
SEGMENTS = 20  # listed one by one


@dataclass(frozen=True, kw_only=True)
class StoreResult(Report):
    """What `prepare` and `voxelize` have made.

    Attributes:
        out: Folder of the store.
        choices: What was chosen, a line each, for people.
        counts: Images, labels, events and what became of them, by kind; of the shards that are
            there.
        bytes: Size of these shards.
        alignment: At which shift events lie best on their images; None where it was not measured.
        active_share: Fraction of the patches that are active; `voxelize` alone.
        empty_share: Fraction of the windows without an active patch; `voxelize` alone.
    """

    out: Path
    choices: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    alignment: Alignment | None = None
    active_share: float | None = None
    empty_share: float | None = None

    @property
    def pairs(self) -> int:
        """Number of pairs, or of windows without an image."""
        return self.counts.get("pairs", 0)

    @property
    def is_whole(self) -> bool:
        """Whether the store is finished: of a share of the work others may be missing."""
        return "missing" not in self.record

    def own(self) -> Json:
        """See `Report`."""
        shares = {"active_share": self.active_share, "empty_share": self.empty_share}
        return (
            {"out": str(self.out), "choices": list(self.choices), "counts": dict(self.counts)}
            | {"bytes": self.bytes}
            | ({"alignment": self.alignment.facts()} if self.alignment else {})
            | {key: share for key, share in shares.items() if share is not None}
        )


@dataclass(frozen=True, kw_only=True)
class InfoResult(Report):
    """What `info` tells; `facts` has all of it, by name.

    Attributes:
        kind: Of what it is about: recording, folder of recordings, pairs, voxels, shard, mix, run,
            evaluation, export, predictions, encoder, task, or weights of another origin.
    """

    kind: str

    @classmethod
    def of(
        cls,
        name: str,
        facts: Json,
        notes: Sequence[str] = (),
        rows: Rows | None = None,
        tables: tuple[Section, ...] = (),
    ) -> InfoResult:
        """Facts, for people as rows: by default all of them; those of a recording name no kind."""
        shown, kind = fact_rows(facts) if rows is None else rows, facts.get("kind", "recording")
        columns = ("fact", "value")
        return cls("info", name, columns, shown, tuple(notes), facts, tables, kind=str(kind))


def fact_rows(facts: Json) -> Rows:
    """Facts as the rows of a table."""
    rows: list[tuple[str, object]] = []
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


def is_shard(path: Path) -> bool:
    """Whether a file is a shard with its entry beside it."""
    if path.suffix != ".h5":
        return False
    try:
        return read_document(path.with_suffix(".json"), Entry).file == path.name
    except DataError:
        return False


def describe_shard(path: Path) -> Json:
    """The facts of one shard.

    Raises:
        DataError: It is damaged.
    """
    entry = read_document(path.with_suffix(".json"), Entry)
    return {"kind": "shard", "pairs": entry.pairs, **_contents([Shard(path)]), **entry.counts}


def describe_store(store: PairStore) -> Json:
    """The facts of a store; of its settings those that are not the data set's defaults.

    Of a store elsewhere those that its manifest tells, without fetching a shard.

    Raises:
        DataError: A shard is damaged.
    """
    manifest = store.manifest
    if store.remote:
        needed = "" if store.is_here else "; the composition needs all"
        held: Json = {"in the cache": _cached(store.shards, store.remote) + needed}
    else:
        held = {"recordings": len(set(store.recordings)) if len(store) else 0}
        held |= _contents([store.locate(first)[0] for first in store.firsts])
    return {
        "kind": manifest["kind"],
        "data set": manifest["settings"].get("name", "recordings"),
        "pairs": len(store),
        "shards": len(store.shards),
        **held,
        "bytes": sum(shard["bytes"] for shard in store.shards),
        "fingerprint": store.fingerprint,
        "version": manifest["version"],
        **manifest["counts"],
        "settings": _chosen(manifest["kind"], manifest["settings"]),
    }


def verified_rows(verified: Json) -> tuple[tuple[str, str], ...]:
    """What `verify_shards` returns, for people."""
    shards, pairs = len(verified["shards"]), verified["pairs"]
    told = f"{counted(shards, 'shard')} whole, {counted(pairs, 'pair')}"
    return (
        ("verified", f"{told}, {verified['bytes']:,} bytes: {verified['hash']}"),
        *(("not verified", line) for line in verified["not_checked"]),
    )


def _cached(shards: list[Json], remote: RemoteStore) -> str:
    """How much of a store elsewhere is on this machine."""
    here = [entry for entry in shards if remote.cached(entry["sha256"]).exists()]
    share, size = f"{len(here)} of {len(shards)}", sum(entry["bytes"] for entry in here)
    return f"{share} shards, {size:,} bytes, in {remote.shards}"


def _contents(shards: list[Shard]) -> Json:
    """Sizes, windows, events, images and labels of all pairs; nothing where there is none."""
    if not shards:
        return {}

    def rows(name: str) -> np.ndarray:
        return np.concatenate([shard.rows(name) for shard in shards])

    names = sorted({name for shard in shards for name in shard.recordings})
    sizes = sorted({(int(height), int(width)) for height, width in rows("sensor")})
    spans = np.diff(rows("before/window_us"), axis=1)[:, 0] / 1000
    sizes_of = [shard.events_of_pairs() for shard in shards]
    images = sum(int((np.diff(shard.rows("image/offset")) > 0).sum()) for shard in shards)
    labels: Counter[str] = Counter()
    for shard in shards:
        labels.update(shard.labelled())
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    facts: Json = {
        "of": f"{', '.join(names[:SHOWN])}{more}",
        "sensor, rows x columns": ", ".join(f"{height}x{width}" for height, width in sizes),
        "with an image": images,
        "window": f"{np.median(spans):.4g} ms in the median, "
        f"{spans.min():.4g} to {spans.max():.4g}",
    }
    if drawn := sum(shard.pairs for shard in shards if shard.holds_pictures):
        facts["events"] = f"{drawn:,} pairs have a picture of 8 bits in their place"
        if drawn == len(spans):
            facts["window"] = "not known"
    if events := np.concatenate(sizes_of).tolist():
        facts["events of a window"] = f"{np.median(events):,.0f} in the median"
    facts["labels"] = ", ".join(f"{task} {count:,}" for task, count in labels.items()) or "none"
    return facts


def _chosen(kind: str, settings: Json) -> Json:
    """The settings that were given, or decide on what the windows are."""
    model: type[Settings] = VoxelizeConfig
    if kind == "pairs":
        try:
            model = PrepareConfig.of_part({"name": settings.get("name")})
        except Exception:  # of a version with another data set
            return settings
    given: Json = {}
    for key, value in settings.items():
        field = model.model_fields.get(key)
        default = None if field is None else field.get_default(call_default_factory=False)
        plain = list(default) if isinstance(default, tuple) else default
        if value not in (None, [], plain) or key == "window":
            given[key] = value
    return {key: value for key, value in given.items() if key not in ("name", "root", "roots")}


def store_report(command: str, out: Path, manifest: Json, chosen: list[str]) -> StoreResult:
    """The counts of a written store; of one with labels of its own also its classes."""
    whole = "missing" not in manifest and manifest.get("labels") is not None
    told, tables, warnings = describe_labels(PairStore(out)) if whole else ({}, (), [])
    name = shlex.quote(str(out))
    size = sum(shard.get("bytes", 0) for shard in manifest["shards"])
    return StoreResult(
        command,
        f"{manifest['kind']} in {out}",
        ("what", "count"),
        tuple(manifest["counts"].items()),
        (
            *lost(manifest["counts"]),
            f"{counted(len(manifest['shards']), 'shard')}, {size / 1e6:,.1f} MB: {out}",
            *unfinished(manifest),
            *warnings,
            *(
                [f"`scaleevent finetune custom ENCODER --data {name}` trains on it"]
                if whole
                else ()
            ),
        ),
        {key: manifest[key] for key in ("missing",) if key in manifest} | told,
        tables,
        out=out,
        choices=tuple(chosen),
        counts=manifest["counts"],
        bytes=size,
    )
