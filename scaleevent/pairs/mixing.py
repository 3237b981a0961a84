"""What a training set is mixed of: sources, their shares of the draws, tags, activity.

A source is a pair store. Shares follow the law by which `pairs.draws.draw_epoch` draws. Nothing
here imports torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np

from scaleevent.config.mix import store_names
from scaleevent.config.tags import KINDS, SIZE, UNKNOWN, Tags, admits
from scaleevent.errors import DataError
from scaleevent.grids.density import TAU, active_mask, patch_density
from scaleevent.grids.geometry import Fit
from scaleevent.grids.inputs import drawn_activity
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.shard import Shard
from scaleevent.pairs.store import PairStore
from scaleevent.system.files import Json
from scaleevent.system.reports import Section

SAMPLED = 32  # pairs of a source, evenly spaced, whose activity is measured
SIMULATED = 8  # the same, where pairs are simulated as they are drawn
PATCH = 16  # side of the patches whose activity is told, sensor pixels, as the paper's
COLUMNS = (
    *("source", "tags", "rows x columns", "recordings", "pairs", "share of draws"),
    *("active patches", "events a pixel", "window, ms"),
)


def tags_of(store: PairStore) -> dict[str, Tags]:
    """The tags of every recording of a store, by name; all unknown in stores of earlier versions.

    Those of the manifest that match its name, later ones over earlier ones, and over these what
    the recording's source told.
    """
    told = {name: text for entry in store.shards for name, text in entry["tags"].items()}
    found = {}
    for name in set(store.recordings.tolist()) if len(store) else ():
        tags = Tags()
        for pattern, text in store.manifest["tags"].items():
            tags = tags.told(text) if fnmatchcase(name, pattern) else tags
        found[name] = tags.told(told.get(name, ""))
    return found


@dataclass(frozen=True)
class Activity:
    """What events do in some pairs of a source: means over the pairs measured."""

    pairs: int  # that were measured
    active: float  # share of patches with D >= tau (paper eq. 2)
    events: float | None  # a pixel; None where events are not stored
    window_ms: float | None  # None where windows are not known


@dataclass(frozen=True, eq=False)
class Source:
    """One store of a mix, or those of its pairs that are taken.

    Args:
        name: What it is called in the mix.
        store: The store.
        rows: (n,) indices of the pairs that are taken, ascending, within the store.
    """

    name: str
    store: PairStore
    rows: np.ndarray

    @classmethod
    def whole(cls, name: str, store: PairStore) -> Source:
        """All pairs of a store."""
        return cls(name, store, np.arange(len(store)))

    @cached_property
    def recordings(self) -> np.ndarray:
        """(n,) str: the recording of every pair taken."""
        names: np.ndarray = self.store.recordings[self.rows]
        return names

    def keep(self, only: Sequence[str]) -> Source:
        """The pairs that a choice of tags takes, see `config.tags.admits`."""
        if not only or not len(self.rows):
            return self
        tags = tags_of(self.store)
        sizes = [tuple(size) for size in self.store.sizes[self.rows].tolist()]
        verdicts = {
            key: admits(only, tags[key[0]], key[1])
            for key in set(zip(self.recordings.tolist(), sizes, strict=True))
        }
        kept = [verdicts[key] for key in zip(self.recordings.tolist(), sizes, strict=True)]
        return Source(self.name, self.store, self.rows[np.array(kept, bool)])

    def chances(self, sampling: str) -> np.ndarray:
        """(n,) probability of each pair, where this source is drawn."""
        if sampling == "uniform":
            return np.full(len(self.rows), 1 / max(1, len(self.rows)))
        _, member, size = np.unique(self.recordings, return_inverse=True, return_counts=True)
        return np.asarray(1 / (len(size) * size[member]))

    def tagged(self, chances: np.ndarray) -> dict[str, Counter[str]]:
        """How much of the chances of its pairs has which tag, by kind."""
        tags = tags_of(self.store)
        names, member = np.unique(self.recordings, return_inverse=True)
        parts = np.bincount(member, chances, len(names))
        found: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        for name, part in zip(names.tolist(), parts.tolist(), strict=True):
            for kind, value in vars(tags[name]).items():
                found[kind][value] += part
        return found

    def measure(self, most: int = SAMPLED, tau: float = TAU) -> Activity | None:
        """The activity of some of its pairs, evenly spaced.

        None where there is no pair, a sensor is smaller than a patch, or grids are of another kind.
        """
        if not len(self.rows) or self.store.representation != "zhu":
            return None
        if int(self.store.sizes[self.rows].min()) < PATCH:
            return None
        most = min(SIMULATED if self.store.simulated else most, len(self.rows))
        at = np.linspace(0, len(self.rows) - 1, most).round().astype(int)
        measured = [_measure(*self.store.locate(int(row)), tau) for row in self.rows[at]]
        active, events, spans = zip(*measured, strict=True)
        return Activity(len(at), float(np.mean(active)), _mean(events), _mean(spans))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _measure(shard: Shard, row: int, tau: float) -> tuple[float, float | None, float | None]:
    """Share of active patches, events a pixel and length of the window, ms, of a pair."""
    height, width = shard.sensor(row)
    rows, columns = height // PATCH * PATCH, width // PATCH * PATCH
    if (picture := shard.picture(row)) is not None:
        shown = decode_image(picture.shown, f"{shard.path}, pair {row}")[:rows, :columns]
        active = drawn_activity(shown, Fit(rows, columns, rows, columns), PATCH)
        return float(active.mean()), None, None
    sizes = shard.events_of_pairs()
    voxel = shard.voxel(row, 3) if len(sizes) else shard.stored_voxel(row)
    active = active_mask(patch_density(voxel[:, :rows, :columns], PATCH), tau)
    events = float(sizes[row]) / (height * width) if len(sizes) else None
    start, end = shard.row("before/window_us", row).tolist()
    return float(active.mean()), events, (end - start) / 1000


@dataclass(frozen=True, eq=False)
class Mix:
    """The sources of a training set and how often each is drawn.

    Args:
        sources: The sources.
        weights: By name, one for every source; empty: pairs count, as in the paper.
        sampling: How pairs are drawn within a source: `released` or `uniform`.
    """

    sources: list[Source]
    weights: dict[str, float]
    sampling: str = "released"

    @cached_property
    def shares(self) -> np.ndarray:
        """(sources,) probability of each source; 0 of one without a pair.

        Raises:
            DataError: A source has a weight but no pair.
        """
        filled = {source.name for source in self.sources if len(source.rows)}
        if empty := [name for name in self.weights if name not in filled]:
            raise DataError(
                "no pair to draw from a store that has a weight", where=", ".join(empty),
                hint="it is empty, or none has the tags asked for: leave out the store and its "
                "weight",
            )  # fmt: skip
        weights = [float(self.weights.get(s.name, len(s.rows))) for s in self.sources]
        return np.array(weights) / max(sum(weights), 1e-300)

    @property
    def given(self) -> np.ndarray | None:
        """The shares, where weights were given."""
        return self.shares if self.weights else None

    def balance(self) -> dict[str, dict[str, float]]:
        """How much of the draws has which tag, by kind; each sums to 1."""
        total: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        for source, share in zip(self.sources, self.shares.tolist(), strict=True):
            if len(source.rows):
                for kind, parts in source.tagged(source.chances(self.sampling) * share).items():
                    total[kind].update(parts)
        return {kind: dict(parts.most_common()) for kind, parts in total.items()}

    @cached_property
    def facts(self) -> Json:
        """The composition: what `section` and `lines` show, in full precision."""
        rows = []
        for source, share in zip(self.sources, self.shares.tolist(), strict=True):
            sizes = np.unique(source.store.sizes[source.rows], axis=0) if len(source.rows) else ()
            tags = source.tagged(source.chances(self.sampling)) if len(source.rows) else {}
            activity = source.measure()
            rows.append({
                "source": source.name,
                "tags": {kind: dict(parts.most_common()) for kind, parts in tags.items()},
                "sizes": [f"{height}x{width}" for height, width in sizes],
                "recordings": len(np.unique(source.recordings)) if len(source.rows) else 0,
                "pairs": len(source.rows),
                "share": share,
                "activity": None if activity is None else vars(activity),
            })  # fmt: skip
        return {"sources": rows, "balance": self.balance(), "weights": self.weights, "tau": TAU,
                "sampling": self.sampling}  # fmt: skip


def section(facts: Json) -> Section:
    """A composition as a table, a row a source, as Tables 7 and 8 of the paper."""
    rows = []
    for one in facts["sources"]:
        known = one["activity"] or {}
        rows.append((
            one["source"], _told(one["tags"]), ", ".join(one["sizes"]) or "-",
            one["recordings"], one["pairs"], f"{one['share']:.1%}",
            f"{known['active']:.1%}" if known else "-",
            *(known.get(key) if known.get(key) is not None else "-"
              for key in ("events", "window_ms")),
        ))  # fmt: skip
    if len(rows) > 1:
        total = [sum(one[key] for one in facts["sources"]) for key in ("recordings", "pairs")]
        active = [(one["share"], one["activity"]["active"]) for one in facts["sources"]
                  if one["activity"]]  # fmt: skip
        weight = sum(share for share, _ in active)
        mean = f"{sum(s * a for s, a in active) / weight:.1%}" if weight else "-"
        rows.append(("all", "", "", *total, "100.0%" if total[1] else "-", mean, "", ""))
    return Section("composition", COLUMNS, tuple(rows))


def _told(tags: dict[str, dict[str, float]]) -> str:
    """The tags of a source, those of some of its recordings with their part."""
    told = []
    for kind, parts in tags.items():
        if set(parts) == {UNKNOWN}:
            continue
        whole = len(parts) == 1
        told += [
            value if whole else f"{value if value != UNKNOWN else f'{kind} {value}'} {part:.0%}"
            for value, part in parts.items()
        ]
    return ", ".join(told) or UNKNOWN


def lines(facts: Json) -> list[str]:
    """What stands under the table: the balance of the draws, and how activity was measured."""
    parts = [
        ", ".join(
            f"{value if value != UNKNOWN else f'{kind} {value}'} {part:.1%}"
            for value, part in parts.items()
        )
        for kind, parts in facts["balance"].items()
    ]
    law = "given weights" if facts["weights"] else "their pairs"
    within = {"released": "recording and then pair evenly", "uniform": "pairs evenly"}
    numbers = {one["activity"]["pairs"] for one in facts["sources"] if one["activity"]}
    measured = f"up to {max(numbers)}" if len(numbers) > 1 else f"{max(numbers, default=0)}"
    return [
        f"of the draws: {'; '.join(part for part in parts if part)}",
        f"stores are drawn by {law}, within a store {within[facts['sampling']]}",
        f"active patches ({PATCH}x{PATCH} sensor pixels, D >= {facts['tau']:g}), events and window:"
        f" means over {measured} pairs of a source, evenly spaced",
    ]


def open_sources(
    folders: Sequence[Path],
    others: Mapping[str, PairStore] = MappingProxyType({}),
    warn: Callable[[str], None] = lambda line: None,
) -> list[Source]:
    """The stores in these folders, and others that are open.

    Args:
        folders: Pair stores.
        others: By name, which follow.
        warn: Takes a line for the user about stores without a pair, which are left out.

    Raises:
        ConfigError: A store is named twice.
        DataError: A store that cannot be read, or no pair in any.
    """
    names = store_names(folders, others)
    stores = {**dict(zip(names, map(PairStore, folders), strict=True)), **others}
    sources = [Source.whole(name, store) for name, store in stores.items()]
    if empty := [source.store.where for source in sources if not len(source.store)]:
        warn(f"without a pair, left out: {', '.join(empty)}")
    filled = [source for source in sources if len(source.store)]
    if not filled:
        raise DataError(
            "the pair stores hold no pair", where=", ".join(s.store.where for s in sources)
        )
    return filled


def joined(sources: Sequence[Source]) -> np.ndarray:
    """(n,) the pairs taken, ascending under one running index over all stores."""
    starts = np.cumsum([0, *(len(source.store) for source in sources)])
    return np.concatenate([start + s.rows for start, s in zip(starts, sources, strict=False)])


def among(sources: Sequence[Source], indices: np.ndarray) -> list[Source]:
    """The sources with those pairs alone that have these indices (`joined`)."""
    starts = np.cumsum([0, *(len(source.store) for source in sources)])
    indices = np.sort(indices)
    edges = np.searchsorted(indices, starts)
    return [
        Source(s.name, s.store, indices[edges[k] : edges[k + 1]] - starts[k])
        for k, s in enumerate(sources)
    ]


def keep_tagged(sources: list[Source], only: Sequence[str]) -> tuple[list[Source], str]:
    """The pairs with the tags asked for, and a few words about what was left out.

    Raises:
        DataError: None is left.
    """
    kept = [source.keep(only) for source in sources]
    before, after = (sum(len(s.rows) for s in some) for some in (sources, kept))
    if not after:
        whole = Mix(sources, {}, "uniform").balance()
        there = [f"{kind}: {', '.join(f'{v} {p:.0%}' for v, p in parts.items())}"
                 for kind, parts in whole.items()]  # fmt: skip
        sizes = {tuple(size) for s in sources if len(s.rows) for size in s.store.sizes.tolist()}
        there.append(f"{SIZE}: {', '.join(f'{h}x{w}' for h, w in sorted(sizes))}")
        raise DataError(
            "no pair has all of these tags", where="--only", found=", ".join(only),
            expected=f"tags of these pairs: {'; '.join(there)}",
            hint="tags that are not known can be added where the data set was prepared: "
            "`scaleevent prepare custom FOLDER -o STORE --resume --tag outdoor`",
        )  # fmt: skip
    if not only:
        return kept, ""
    gone = [s.name for s, k in zip(sources, kept, strict=True) if len(s.rows) and not len(k.rows)]
    nothing = f", nothing of {', '.join(gone)}" if gone else ""
    return kept, f" ({', '.join(only)}, of {before:,} in all{nothing})"
