"""Labelled pairs of a task: input and target, the split of a benchmark, the authors' lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scaleevent.errors import DataError
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
        return None if values is None else fit.crop_label(values)

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
            truth = GroundTruth(fit.crop_label(values), fit.crop_label(seen), where)
        return EvalSample(truth, *named)

    def size(self, index: int) -> tuple[int, int]:
        """Rows and columns, in a pair's native pixels, of what the input shows."""
        return self.settings.fit(*self.sensor(index)).crop[2:]

    def recordings(self, indices: np.ndarray) -> set[str]:
        """The recordings that samples are from."""
        return self.pairs.recordings(indices)

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

    def listed(self, indices: np.ndarray, lists: Mapping[str, int] | None) -> np.ndarray:
        """Samples whose label is among the listed first ones of its sequence.

        Raises:
            DataError: A label whose number in its sequence was not stored.
        """
        if lists is None:
            return indices
        kept = np.zeros(len(indices), bool)
        for place, index in enumerate(indices.tolist()):
            shard, row = self.pairs.shard(index)
            origin = shard.provenance(row)
            if "number" not in origin:
                raise DataError(
                    "it is not stored which of its sequence's labels this is",
                    where=f"{shard.path}, pair {row}",
                    hint="prepare the benchmark again, or take every label with --labels all",
                )
            kept[place] = origin["number"] < lists.get(origin["sequence"], 0)
        return indices[kept]

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


def benchmark_split(
    samples: LabelledSamples, scored: str = "test", lists: Mapping[str, int] | None = None
) -> BenchmarkSplit:
    """The published split, which `prepare` wrote beside every recording.

    Older stores of rendered scenes, which are numbered and each a recording, have none: there the
    first 70 % train and the rest test, as in the newer ones.

    Args:
        samples: Of the benchmark.
        scored: Name of the part to be scored.
        lists: How many of its first labels each sequence has; None takes every label of every one.

    Raises:
        DataError: Recordings without a split, or labels whose number in a list is not known.
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
    parts_of = (np.flatnonzero(part == name) for name in ("train", scored))
    return BenchmarkSplit(*(samples.listed(one, lists) for one in parts_of))
