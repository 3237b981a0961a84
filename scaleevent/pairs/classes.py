"""How often each class is labelled: shares of pixels, and labels that show it at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scaleevent.config.benchmarks import IGNORE
from scaleevent.config.labels import LabelFacts
from scaleevent.pairs.alignment import spread
from scaleevent.pairs.store import PairStore
from scaleevent.system.files import Json
from scaleevent.system.reports import Section

MOST_LABELS = 2_000  # of a part that are looked at; of more, so many evenly spaced


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """What some labels hold.

    Args:
        names: Of the classes.
        pixels: (K,) int64 by class.
        labels: (K,) int64, labels with at least one pixel of it.
        ignored: Pixels that do not count.
        seen: Number of labels that were looked at.
        of: Number of labels there are.
    """

    names: tuple[str, ...]
    pixels: np.ndarray
    labels: np.ndarray
    ignored: int
    seen: int
    of: int

    @property
    def shares(self) -> np.ndarray:
        """(K,) percent of the pixels that count."""
        share: np.ndarray = 100 * self.pixels / max(self.pixels.sum(), 1)
        return share

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a pixel."""
        return tuple(n for n, count in zip(self.names, self.pixels, strict=True) if not count)

    @property
    def looked_at(self) -> str:
        """How many labels these counts are of, for people."""
        return f"{self.of:,} labels" if self.seen == self.of else f"{self.seen:,} of {self.of:,}"

    def describe(self) -> str:
        """The classes with their shares, most frequent first, for people."""
        order = np.argsort(-self.pixels, kind="stable")
        told = (f"{self.names[k]} {self.shares[k]:.2g} % ({self.labels[k]:,})" for k in order)
        return f"pixels by class (labels with it), {self.looked_at}: {', '.join(told)}"

    def warning(self) -> str | None:
        """A warning of classes that cannot be learned; None where every class is there."""
        if not self.absent:
            return None
        more = "" if self.seen == self.of else f" in the {self.seen:,} labels that were looked at"
        return (
            f"warning: no training label shows {', '.join(self.absent)}{more}: predictions of "
            "what was never shown are chance, and each such class counts 0 in miou"
        )


def count_classes(labels: Iterable[np.ndarray], names: Sequence[str], of: int) -> ClassCounts:
    """Count classes in (H, W) uint8 labels, `of` so many that there are."""
    pixels, shown = np.zeros(IGNORE + 1, np.int64), np.zeros(IGNORE + 1, np.int64)
    seen = 0
    for label in labels:
        counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
        pixels, shown, seen = pixels + counts, shown + (counts > 0), seen + 1
    k = len(names)
    return ClassCounts(tuple(names), pixels[:k], shown[:k], int(pixels[IGNORE]), seen, of)


def class_counts(store: PairStore, facts: LabelFacts) -> dict[str, ClassCounts]:
    """The classes of a store's labels, by part of its split."""
    parts = np.array([facts.split.get(name, "all") for name in store.recordings.tolist()], str)
    names = [one.name for one in facts.classes]
    found = {}
    for part in sorted(set(parts.tolist()), key=["train", "validation", "test", "all"].index):
        indices = np.flatnonzero(parts == part)
        chosen = indices[spread(len(indices), MOST_LABELS)]
        places = (store.locate(int(index)) for index in chosen)
        labels = (shard.label("semantics", row) for shard, row in places)
        values = (one.values for one in labels if one is not None)
        found[part] = count_classes(values, names, len(indices))
    return found


def describe_labels(store: PairStore) -> tuple[Json, tuple[Section, ...], list[str]]:
    """Facts of a store's own labels, a table of its classes, and warnings; nothing without any."""
    given = store.manifest.get("labels")
    if given is None or not len(store):
        return {}, (), []
    facts = LabelFacts.model_validate(given)
    told: Json = {"task": facts.task}
    if facts.max_depth is not None:
        told["max depth"] = facts.max_depth
    by_part: dict[str, list[str]] = {}
    for name, part in facts.split.items():
        by_part.setdefault(part, []).append(name)
    told |= {f"recordings that {_VERBS[part]}": names for part, names in by_part.items()}
    if facts.task != "segmentation" or not store.is_here:
        return told, (), []
    found = class_counts(store, facts)
    warning = found["train"].warning() if "train" in found else None
    numbers: Json = {
        part: {"pixels": one.pixels.tolist(), "labels": one.labels.tolist(), "of": one.of}
        for part, one in found.items()
    }
    told |= {"classes": [one.name for one in facts.classes], "class counts": numbers}
    return told, (class_table(found),), [warning] if warning else []


_VERBS = {"train": "train", "validation": "validate", "test": "test"}


def class_table(found: dict[str, ClassCounts]) -> Section:
    """A row a class, two columns a part."""
    parts = list(found.values())
    columns = [f"{what}, {part}" for part in found for what in ("% of pixels", "labels with it")]
    rows = [
        (name, *(v for one in parts for v in (round(float(one.shares[k]), 3), int(one.labels[k]))))
        for k, name in enumerate(parts[0].names)
    ]
    title = "; ".join(f"{part}: {one.looked_at}" for part, one in found.items())
    return Section(f"classes, {title}", ("class", *columns), tuple(rows))
