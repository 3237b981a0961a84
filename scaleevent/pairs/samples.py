"""Pairs on disk to training samples: inputs, splits, draws, batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from scaleevent.errors import DataError, ScaleEventError
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.sample_inputs import INPUTS, Input, StoredPair
from scaleevent.pairs.shard import Shard
from scaleevent.pairs.store import PairStore
from scaleevent.system.allocator import keep_freed_memory


class PairSamples(Dataset):
    """Samples of one or more stores under a running index.

    Args:
        stores: Pair stores, in order.
        settings: The network's input.
        inputs: What a sample holds, by name; each is made of a `StoredPair`.

    Raises:
        DataError: A store of voxels in another representation than the default.
    """

    def __init__(
        self,
        stores: Sequence[PairStore],
        settings: InputSettings,
        inputs: Mapping[str, Input] = INPUTS,
    ) -> None:
        self.stores, self.settings, self.inputs = list(stores), settings, inputs
        for store in self.stores:
            if store.representation != "zhu":
                raise DataError(
                    "stored in a representation that an encoder is not trained on",
                    where=store.folder,
                    found=store.representation,
                    expected="zhu, which `encode` makes of events too",
                    hint="voxelize again without --representation, or prepare pairs",
                )
        self._ends = np.cumsum([len(store) for store in self.stores])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """The store of a sample and its number in there."""
        number = int(np.searchsorted(self._ends, index, "right"))
        return number, int(index - self._ends[number] + len(self.stores[number]))

    def shard(self, index: int) -> tuple[Shard, int]:
        """The shard of a sample and its row in there."""
        number, inside = self.locate(index)
        return self.stores[number].locate(inside)

    def check_images(self) -> None:
        """Distillation needs an image in every pair.

        Raises:
            DataError: Pairs without one, as `voxelize` makes them of recordings without frames.
        """
        for store in self.stores:
            missing = int((store.image_bytes == 0).sum())
            if missing:
                raise DataError(
                    f"{missing} of {len(store)} pairs have no image, which distillation needs",
                    where=store.folder,
                    hint="leave out recordings without frames, or use `scaleevent prepare`",
                )

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        pair = StoredPair(*self.shard(index), self.settings)
        return {name: make(pair) for name, make in self.inputs.items()}


@dataclass(frozen=True)
class Split:
    """Sample numbers for training and validation.

    Args:
        train: To draw from.
        validation: Held out.
        dropped: How many neither may use.
        shared: Whether events are on both sides, because every window overlaps.
    """

    train: np.ndarray
    validation: np.ndarray
    dropped: int = 0
    shared: bool = False


def split_samples(samples: PairSamples, share: float) -> Split:
    """Hold out whole recordings, or the end of the only one.

    The last recordings (in the store's order) are held out until they make up `share` of the
    pairs. In a single recording the last pairs in time are, and training pairs whose image lies
    inside a held-out window are dropped, so that no event is on both sides; where that would
    leave none, all stay and the split says so.

    Args:
        samples: All samples.
        share: Share of pairs to hold out, 0 to 1.
    """
    everything = np.arange(len(samples))
    held = int(np.ceil(share * len(samples)))
    if held == 0:
        return Split(everything, everything[:0])
    names = np.concatenate(
        [np.char.add(f"{i}/", s.recordings.astype(str)) for i, s in enumerate(samples.stores)]
    )
    recordings, member = np.unique(names, return_inverse=True)
    if len(recordings) > 1:
        order = np.argsort([np.flatnonzero(member == r)[0] for r in range(len(recordings))])
        sizes = np.bincount(member)[order][::-1]
        enough = int(np.searchsorted(np.cumsum(sizes), held)) + 1
        chosen = order[::-1][: min(enough, len(recordings) - 1)]
        outside = np.isin(member, chosen)
        return Split(everything[~outside], everything[outside])
    windows = np.concatenate([store.windows_us for store in samples.stores])
    in_time = np.argsort(windows[:, 1], kind="stable")
    validation = np.sort(in_time[-held:])
    first_us = windows[validation, 0].min()
    train = np.sort(in_time[:-held])
    kept = train[windows[train, 1] <= first_us]
    if not len(kept):  # every window reaches into the held-out ones
        return Split(train, validation, shared=True)
    return Split(kept, validation, dropped=len(train) - len(kept))


def draw_epoch(
    samples: PairSamples, numbers: np.ndarray, draws: int, seed: int, epoch: int, law: str
) -> np.ndarray:
    """The samples of one epoch, in order; depends on its arguments alone.

    Args:
        samples: All samples.
        numbers: Those to draw from.
        draws: How many.
        seed: Of the run.
        epoch: From 0.
        law: `uniform`: repeated random passes over all pairs. `released`: with replacement, store
            in proportion to its pairs, then recording uniformly, then pair uniformly, as
            zhiwen-xdu/ScaleEvent:scale_event/dataset/distill_dataset.py.

    Returns:
        (draws,) int64.
    """
    rng = np.random.default_rng([seed, epoch])
    if law == "uniform":
        passes = -(-draws // len(numbers))
        return np.concatenate([rng.permutation(numbers) for _ in range(passes)])[:draws]
    located = [samples.locate(int(number)) for number in numbers]
    stores = np.array([store for store, _ in located])
    recordings = np.array(
        [f"{store}/{samples.stores[store].recordings[inside]}" for store, inside in located]
    )
    chosen_stores = stores[rng.integers(0, len(stores), draws)]
    picks, within = rng.random(draws), rng.random(draws)
    out = np.empty(draws, np.int64)
    for store in np.unique(chosen_stores):
        at = np.flatnonzero(chosen_stores == store)
        own = numbers[stores == store]
        order = np.argsort(recordings[stores == store], kind="stable")
        _, first, size = np.unique(
            recordings[stores == store][order], return_index=True, return_counts=True
        )
        recording = (picks[at] * len(first)).astype(np.int64)
        out[at] = own[order[first[recording] + (within[at] * size[recording]).astype(np.int64)]]
    return out


def spread(numbers: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly over all."""
    if len(numbers) <= most:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, most).round().astype(np.int64)]


@dataclass(frozen=True)
class StepBatches:
    """Sample numbers of every step of one rank, from any step on: the loader's batch sampler.

    Args:
        draw: Epoch number to the samples of that epoch, in order, over all ranks.
        epochs: Number of epochs.
        steps_per_epoch: Steps in each; what is left of an epoch's draws is not used.
        batch: Samples of a step over all ranks.
        first_step: Steps already done.
        rank: Number of this rank.
        world: Number of ranks.
    """

    draw: Callable[[int], np.ndarray]
    epochs: int
    steps_per_epoch: int
    batch: int
    first_step: int = 0
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        local = self.batch // self.world
        skipped = self.first_step % self.steps_per_epoch
        for epoch in range(self.first_step // self.steps_per_epoch, self.epochs):
            numbers = self.draw(epoch)
            for step in range(skipped, self.steps_per_epoch):
                first = step * self.batch + self.rank * local
                yield numbers[first : first + local].tolist()
            skipped = 0


def load_batches(
    samples: Dataset,
    batches: Sequence[list[int]] | StepBatches,
    workers: int,
    collate: Callable[[list[Any]], Any] = default_collate,
    pin: bool = False,
) -> Iterator[Any]:
    """Given batches of samples; the worker count changes nothing but speed.

    Args:
        samples: By number.
        batches: Numbers of the samples of each.
        workers: Processes that make them ahead of time; 0 makes them here.
        collate: Makes a batch of a list of samples.
        pin: Put tensors into pinned memory, from which a GPU copies without being waited for.

    Raises:
        ScaleEventError: What a sample raised, in a worker too.
    """
    workers = min(workers, len(batches))
    if not workers:
        keep_freed_memory()
    loader = DataLoader(
        _Told(samples),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(_collate, collate),
        worker_init_fn=keep_freed_memory,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=pin,
        persistent_workers=False,
    )
    for batch in loader:
        if isinstance(batch, ScaleEventError):
            raise batch
        yield batch


def in_order(samples: PairSamples, indices: np.ndarray, batch: int) -> Iterator[dict[str, Tensor]]:
    """Batches in the order given, for everything that is not training."""
    groups = [indices[i : i + batch].tolist() for i in range(0, len(indices), batch)]
    return load_batches(samples, groups, workers=0)


@dataclass(frozen=True)
class _Told(Dataset):
    """Samples, or why there is none: a loader hands on a worker's traceback, not its error."""

    samples: Dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self.samples[index]
        except ScaleEventError as error:
            return error


def _collate(collate: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    errors = (sample for sample in samples if isinstance(sample, ScaleEventError))
    return next(errors, None) or collate(samples)
