"""Labelled pairs of a task: input and target, the split of a benchmark, few-shot subsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.grids.geometry import Fit
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.voxels import voxelize
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.shard import Shard
from scaleevent.pairs.store import PairStore
from scaleevent.tasks.task import GroundTruth, Task, nearest

SCENES_FOR_TRAINING = 0.7  # the first ones, in stores of rendered scenes older than their split


@dataclass(frozen=True)
class EvalSample:
    """The ground truth of one pair, and where it is from."""

    truth: GroundTruth | None  # label on its own pixels, or None where it is not public
    recording: str
    subset: str  # part of the test set that is also reported on its own, such as day and night
    file_index: int | None  # name of its prediction in a submission, where the benchmark wants one
    where: str  # for messages


class LabelledSamples(Dataset[dict[str, Tensor]]):
    """Input and target of a task for every pair of some stores, under a running index.

    Args:
        stores: Pair stores that hold the task's label.
        task: What the label means.
        settings: The network's input.

    Raises:
        DataError: No pairs.
    """

    def __init__(self, stores: Sequence[PairStore], task: Task, settings: InputSettings) -> None:
        self.pairs = PairSamples(stores, settings)
        if not len(self.pairs):
            raise DataError("the pair stores hold no pair", where=[s.folder for s in stores])
        self.task, self.settings = task, settings

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`voxel` and, for two frames, `after`: (3, H, W) float32; `target` as the task has it."""
        return self.inputs(index) | {"target": self.target(index)}

    def target(self, index: int) -> Tensor:
        """The label on the input's grid, see `scaleevent.decoders.decoder.Decoder.loss`.

        Raises:
            DataError: There is none, or it is on other pixels than the events.
        """
        values, fit, where = self._label(*self.pairs.shard(index))
        if values is None:
            raise DataError(f"a pair without {self.task.label}", where=where)
        return torch.from_numpy(self.task.target(values, fit, where))

    def label(self, index: int) -> np.ndarray | None:
        """A pair's label on its own pixels, within the input's view; None if it has none."""
        values, fit, _ = self._label(*self.pairs.shard(index))
        return None if values is None else fit.crop_array(values)

    def inputs(self, index: int) -> dict[str, Tensor]:
        """As `__getitem__`, without the target."""
        shard, row = self.pairs.shard(index)
        found = {"voxel": shard.voxel(row, self.settings.bins)}
        if self.task.frames == 2:
            events, window = self._after(shard, row)
            found["after"] = voxelize(events, window, self.settings.bins)
        fit = self.settings.fit(*shard.sensor(row))
        return {n: torch.from_numpy(self.settings.prepare(v, fit)) for n, v in found.items()}

    def eval_sample(self, index: int, at_input_size: bool = False) -> EvalSample:
        """Everything about a pair that an evaluation needs except the network's input.

        Args:
            index: Running index.
            at_input_size: Give the truth on the input's grid, as in training.
        """
        shard, row = self.pairs.shard(index)
        values, fit, where = self._label(shard, row)
        store, inside = self.pairs.locate(index)
        recording = str(self.pairs.stores[store].recordings[inside])
        origin = shard.provenance(row)
        named = recording, origin.get("subset", ""), origin.get("file_index"), where
        if values is None:
            return EvalSample(None, *named)
        seen = self._event_pixels(shard, row)
        if at_input_size:
            truth = GroundTruth(self.task.target(values, fit, where), nearest(seen, fit), where)
        else:
            truth = GroundTruth(fit.crop_array(values), fit.crop_array(seen), where)
        return EvalSample(truth, *named)

    def size(self, index: int) -> tuple[int, int]:
        """Rows and columns of a pair's native pixels that the input shows."""
        return self.settings.fit(*self.sensor(index)).crop[2:]

    def recordings(self, indices: np.ndarray) -> set[str]:
        """The recordings that samples are from."""
        names = np.concatenate([store.recordings.astype(str) for store in self.pairs.stores])
        return set(names[indices].tolist())

    def identity(self, index: int) -> dict[str, Any]:
        """Which pair this is, for the list of a subset."""
        shard, row = self.pairs.shard(index)
        number, inside = self.pairs.locate(index)
        store = self.pairs.stores[number]
        return {
            "store": store.fingerprint,
            "recording": str(store.recordings[inside]),
            "image_us": int(shard.row("image_us", row)),
        }

    def sensor(self, index: int) -> tuple[int, int]:
        """Rows and columns of a pair's native pixels."""
        shard, row = self.pairs.shard(index)
        return shard.sensor(row)

    def _label(self, shard: Shard, row: int) -> tuple[np.ndarray | None, Fit, str]:
        """The label on the events' pixels, how it fits the input, and where it is, for messages."""
        sensor, label = shard.sensor(row), shard.label(self.task.label, row)
        values, where = None if label is None else label.values, f"{shard.path}, pair {row}"
        if values is not None and values.shape[-2:] != sensor:
            raise DataError(
                "label and events differ in size",
                where=where,
                found=f"label {values.shape[-2]}x{values.shape[-1]}",
                expected=f"{sensor[0]}x{sensor[1]}",
            )
        return values, self.settings.fit(*sensor), where

    def _after(self, shard: Shard, row: int) -> tuple[Events, Any]:
        found = shard.after(row)
        if found is None:
            raise DataError(
                "a pair without the window after it, which two-frame flow needs",
                where=f"{shard.path}, pair {row}",
                hint="prepare a flow data set, or street with --after",
            )
        return found

    def _event_pixels(self, shard: Shard, row: int) -> np.ndarray:
        """(H, W) bool: pixels with an event in the span that the label describes."""
        events, _ = self._after(shard, row) if self.task.frames == 2 else shard.events(row)
        seen = np.zeros((events.height, events.width), bool)
        seen[events.y, events.x] = True
        return seen


class BenchmarkSplit(NamedTuple):
    """Sample indices of a benchmark, in the stores' order: to train on, and to be scored."""

    train: np.ndarray
    test: np.ndarray


def benchmark_split(samples: LabelledSamples, scored: str = "test") -> BenchmarkSplit:
    """The published split, which `prepare` wrote beside every recording.

    Older stores of rendered scenes, which are numbered and each a recording, have none: there the
    first 70 % train and the rest test, as in the newer ones. `scored` names the part to be scored.

    Raises:
        DataError: Recordings without a split.
    """
    labels: list[np.ndarray] = []
    for store in samples.pairs.stores:
        names, first, member = np.unique(store.recordings, return_index=True, return_inverse=True)
        places = [store.locate(int(index)) for index in first]
        origins = [shard.provenance(row) for shard, row in places]
        if all("scene" in origin and "split" not in origin for origin in origins):
            train = np.arange(len(store)) < SCENES_FOR_TRAINING * len(store)
            labels.append(np.where(train, "train", "test"))
            continue
        parts = [origin.get("split", "") for origin in origins]
        unknown = [name for name, part in zip(names, parts, strict=True) if not part]
        if unknown:
            raise DataError(
                "recordings that belong to no part of the benchmark",
                where=store.folder,
                found=", ".join(unknown[:20]),
                hint="prepare the benchmark's own data set",
            )
        labels.append(np.array(parts)[member])
    part = np.concatenate(labels)
    return BenchmarkSplit(np.flatnonzero(part == "train"), np.flatnonzero(part == scored))


def few_shot(indices: np.ndarray, fraction: float, strategy: str, seed: int) -> np.ndarray:
    """A subset of training samples.

    Args:
        indices: All of them, in order.
        fraction: How much to keep, above 0 and at most 1.
        strategy: `interval`: every k-th, k = 1 / fraction (paper section 4.2). `random`: drawn
            from the seed. `prefix`: the first n // k + 1 (ldkong1205/OpenESS), of the whole list.
        seed: Of `random`.

    Returns:
        Ascending sample indices, at least one.

    Raises:
        ConfigError: A fraction that `interval` or `prefix` cannot take.
    """
    every = max(1, round(1 / fraction))
    if strategy != "random" and abs(every * fraction - 1) > 0.01:
        raise ConfigError(
            f"a subset by {strategy} takes every k-th sample",
            where="--fraction",
            found=fraction,
            expected="1/k, such as 0.5, 0.2, 0.1, 0.05, 0.01",
            hint="--subset random takes any fraction",
        )
    if strategy == "interval":
        return indices[::every]
    if strategy == "prefix":
        return indices[: len(indices) // every + 1]
    count = max(1, round(fraction * len(indices)))
    chosen = np.random.default_rng([seed, len(indices)]).permutation(len(indices))[:count]
    return indices[np.sort(chosen)]


def training_subset(
    samples: LabelledSamples, split: BenchmarkSplit, fraction: float, strategy: str, seed: int
) -> np.ndarray:
    """Indices of the samples to train on, see `few_shot`.

    Raises:
        DataError: Nothing to train on, or nothing to be scored on.
    """
    if not len(split.train) or not len(split.test):
        raise DataError(
            "the benchmark needs training and test recordings",
            where=", ".join(str(store.folder) for store in samples.pairs.stores),
            found=f"{len(split.train)} training, {len(split.test)} test samples",
        )
    return few_shot(split.train, fraction, strategy, seed)
