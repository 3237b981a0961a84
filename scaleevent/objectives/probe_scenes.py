"""Labelled pairs that pretraining does not train on: which fit a probe, and which score it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scaleevent.config.benchmarks import DDD17_CLASSES, DSEC_CLASSES, IGNORE
from scaleevent.pairs.draws import evenly_spaced
from scaleevent.pairs.samples import PairSamples
from scaleevent.street.objects import CLASSES

FITTED, SCORED = 200, 300  # pairs at most
FEW = 50  # pairs below which a probe's numbers are said to be rough
TOKENS = 80_000  # of the pairs that are fitted, at most, but for `FEW` pairs; time and memory
LEAST_SIDE = 0.25  # of the pairs, on each side of a store's split that is taken over
LOOKED_AT = 4000  # held-out pairs at most that are searched for labels
NAMES: Mapping[str, tuple[str, ...]] = {  # of the classes, by data set
    "street": CLASSES,
    "dsec-semantic": tuple(DSEC_CLASSES),
    "ddd17-seg": tuple(DDD17_CLASSES),
}


@dataclass(frozen=True)
class ProbeScenes:
    """Sample indices for the probes."""

    fitted: np.ndarray  # ascending, to fit on
    scored: np.ndarray  # ascending, of other recordings where there are several
    how: str  # where the line between them comes from
    labelled: int = 0  # pairs in all that could have been taken

    @classmethod
    def of(cls, samples: PairSamples, pool: np.ndarray, seed: int, places: int = 1) -> ProbeScenes:
        """Of the pairs in `pool` that have semantics or depth; none where there are too few.

        At most `FITTED` and `SCORED`, and fewer of many tokens (`places` each), see `TOKENS`.

        The split that `prepare` wrote beside the pairs holds where each of its sides has a quarter
        of them at least, unless every pair is a recording of its own, as rendered scenes are, which
        were drawn alike. Else half of the recordings, drawn by the seed, are for fitting; of a
        single recording the first half in time, less what overlaps the other half.
        """
        found = np.array(
            [index for index in evenly_spaced(pool, LOOKED_AT) if _has_label(samples, int(index))],
            np.int64,
        )
        if len(found) < 2:
            return cls(found[:0], found[:0], "", len(found))
        names = recordings_of(samples, found)
        given = np.array([_split_of(samples, int(index)) for index in found])
        testing = np.isin(given, ("test", "val", "validation"))
        training = given == "train"
        even = min(training.sum(), testing.sum()) >= LEAST_SIDE * len(found)
        if even and len(set(names)) < len(names):
            fitted, scored, how = training, testing, "by the split of the store"
        elif len(set(names)) > 1:
            own = _half(names, seed)
            fitted, scored, how = own, ~own, f"by recording, split seed {seed}"
        else:
            spans = np.array([_span(samples, int(index)) for index in found])
            late = np.argsort(np.argsort(spans[:, 1], kind="stable")) >= len(found) // 2
            scored, how = late, "the later half of one recording is scored"
            fitted = ~late & (spans[:, 1] <= spans[late, 0].min())
        share = min(1.0, max(FEW, TOKENS // places) / FITTED)
        return cls(
            evenly_spaced(found[fitted], round(share * FITTED)),
            evenly_spaced(found[scored], round(share * SCORED)),
            how,
            len(found),
        )

    def refusal(self) -> list[str]:
        """Why there is no probe, for people; nothing where no pair has a label."""
        if self.usable or not self.labelled:
            return []
        return [f"no probe: of the pairs that do not train, {self.labelled} have labels, too few"]

    @property
    def usable(self) -> bool:
        """Whether there is something to fit on, and something to score."""
        return bool(len(self.fitted) and len(self.scored))


@dataclass(frozen=True)
class Labelled:
    """The labels of one task among the pairs of a `ProbeScenes`, cropped to the input's view."""

    fitted: np.ndarray  # places in `ProbeScenes.fitted` of those that have one
    fitted_labels: list[Tensor]
    scored: np.ndarray
    scored_labels: list[Tensor]
    recordings: np.ndarray  # of the scored ones

    @classmethod
    def of(cls, samples: PairSamples, scenes: ProbeScenes, task: str) -> Labelled | None:
        """Labels of `semantics` or `depth`; None unless both sides have some that count."""
        sides = []
        for indices in (scenes.fitted, scenes.scored):
            found = [_label(samples, int(index), task) for index in indices]
            there = [k for k, label in enumerate(found) if label is not None]
            sides.append((np.array(there, np.int64), [one for one in found if one is not None]))
        if not all(any(_counts(one, task) for one in labels) for _, labels in sides):
            return None
        names = recordings_of(samples, scenes.scored[sides[1][0]])
        return cls(*sides[0], *sides[1], names)


def class_names(samples: PairSamples, labels: list[Tensor]) -> tuple[str, ...]:
    """Names of the classes by id: those of the data set, else numbers."""
    highest = max(int(one[one < IGNORE].max()) for one in labels if (one < IGNORE).any())
    sets = {store.manifest["settings"].get("name", "") for store in samples.stores}
    known = NAMES.get(sets.pop(), ()) if len(sets) == 1 else ()
    return known if highest < len(known) else tuple(str(k) for k in range(highest + 1))


def recordings_of(samples: PairSamples, indices: np.ndarray) -> np.ndarray:
    """(n,) str: the recording of each sample, told apart by its store too."""
    found = [samples.locate(int(index)) for index in indices]
    return np.array([f"{store}/{samples.stores[store].recordings[row]}" for store, row in found])


def _half(names: np.ndarray, seed: int) -> np.ndarray:
    """Whether each sample is of the recordings drawn for fitting: about half, never all or none."""
    recordings, member, sizes = np.unique(names, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, len(recordings)]).permutation(len(recordings))
    before = np.cumsum(sizes[order]) - sizes[order]
    drawn = order[(before + sizes[order] / 2 <= len(names) / 2)]
    if not len(drawn):
        drawn = order[:1]
    return np.isin(member, drawn)


def _has_label(samples: PairSamples, index: int) -> bool:
    shard, row = samples.shard(index)
    tasks = {"semantics", "depth"} & shard.labelled().keys()
    return any(row in shard.rows(f"labels/{task}/pair") for task in tasks)


def _split_of(samples: PairSamples, index: int) -> str:
    shard, row = samples.shard(index)
    return str(shard.provenance(row).get("split", ""))


def _span(samples: PairSamples, index: int) -> tuple[int, int]:
    store, row = samples.locate(index)
    start, end = samples.stores[store].windows_us[row].tolist()
    return start, end


def _label(samples: PairSamples, index: int, task: str) -> Tensor | None:
    shard, row = samples.shard(index)
    label = shard.label(task, row)
    if label is None:
        return None
    values = samples.settings.fit(*label.values.shape).crop_label(label.values)
    return torch.from_numpy(values.copy())


def _counts(label: Tensor, task: str) -> bool:
    """Whether a label has a pixel that counts."""
    return bool((label < IGNORE).any() if task == "semantics" else (label > 0).any())
