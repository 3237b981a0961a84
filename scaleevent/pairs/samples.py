"""Pairs on disk to training samples: inputs, splits, draws, batches."""

from __future__ import annotations

import time
import traceback
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from multiprocessing import active_children, connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from scaleevent.config.data import window_in
from scaleevent.errors import DataError, EnvironmentProblem, ScaleEventError, starved
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.sample_inputs import INPUTS, Input, StoredPair
from scaleevent.pairs.shard import Shard
from scaleevent.pairs.store import PairStore
from scaleevent.system.allocator import keep_freed_memory
from scaleevent.system.files import Json
from scaleevent.system.platform import loader_start
from scaleevent.system.workers import describe, end_with_parent, kill

PRELOAD = (__name__, "scipy.linalg")  # the latter is imported by the first call of a numba kernel
SERVER = "scaleevent.system.loader_server"
LATE = object()
POLL_SECONDS = 1
DEATH_SECONDS = 1  # until a worker's death is known here
LOAD_SECONDS = 180  # that a batch may take to load


class PairSamples(Dataset[dict[str, Tensor]]):
    """Samples of one or more stores under a running index.

    Args:
        stores: Pair stores, in order; one may be there several times, to be drawn more often.
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
        self.settings, self.inputs = settings, inputs
        known: dict[tuple[Path, bool], PairStore] = {}  # a store that is named twice is opened once
        self.stores = [
            known.setdefault((store.folder.resolve(), store.simulated), store) for store in stores
        ]
        for store in self.stores:
            if store.representation != "zhu":
                raise DataError(
                    "stored in a representation that an encoder is not trained on",
                    where=store.where,
                    found=store.representation,
                    expected="zhu, which `encode` makes of events too",
                    hint="voxelize again without --representation, or prepare pairs",
                )
        self._ends = np.cumsum([len(store) for store in self.stores])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Index of the store that holds a sample, and the sample's index in that store."""
        store = int(np.searchsorted(self._ends, index, "right"))
        return store, int(index - self._ends[store] + len(self.stores[store]))

    def shard(self, index: int) -> tuple[Shard, int]:
        """The shard that holds a sample, and the sample's row in it; see `numbered`."""
        draw, index = divmod(int(index), len(self))
        store, inside = self.locate(index)
        return self.stores[store].drawn(inside, draw)

    @property
    def simulated(self) -> bool:
        """Whether some samples are others each time they are drawn."""
        return any(store.simulated for store in self.stores)

    def numbered(
        self, order: Callable[[int], np.ndarray], draws: int
    ) -> Callable[[int], np.ndarray]:
        """The same order, where samples are simulated each with the number of its draw, from 1 on.

        Sample i in draw n has the index n len(self) + i, so that what a worker makes of it follows
        from the index alone: whichever worker, rank or resumed run it is.

        Args:
            order: From an epoch to its (draws,) indices, over all ranks.
            draws: Samples of an epoch.
        """
        if not self.simulated:
            return order

        def with_numbers(epoch: int) -> np.ndarray:
            indices = order(epoch)
            return indices + len(self) * (1 + epoch * draws + np.arange(len(indices)))

        return with_numbers

    @property
    def patience(self) -> int:
        """Seconds that a batch may take to load: more where pairs are simulated."""
        return LOAD_SECONDS * (10 if self.simulated else 1)

    def recordings(self, indices: np.ndarray) -> set[str]:
        """The recordings that samples are from."""
        names = np.concatenate([store.recordings.astype(str) for store in self.stores])
        return set(names[indices].tolist())

    def fingerprint(self, indices: np.ndarray, tagged: bool) -> list[str]:
        """What a resumed run must find again: hashes of the stores and of which pairs are taken.

        The latter only where stores and settings do not decide on it: pairs chosen by tags, which
        can be told anew; and several stores, of which earlier versions held out others.

        Args:
            indices: Of the samples that are trained on.
            tagged: Whether they were chosen by tags.
        """
        which = [f"{zlib.crc32(indices.tobytes()):08x}"] if tagged or len(self.stores) > 1 else []
        return [*(store.fingerprint for store in self.stores), *which]

    @property
    def window(self) -> Json | None:
        """The settings of the rule that all windows were chosen by; None of several, or of none."""
        rules = [window_in(store.manifest.get("settings", {})) for store in self.stores]
        return rules[0] if all(rule == rules[0] for rule in rules) else None

    def check_images(self) -> None:
        """Check that every pair has an image, which distillation needs.

        Raises:
            DataError: Some have none, as when `voxelize` read recordings without frames.
        """
        for store in self.stores:
            missing = int((store.image_bytes == 0).sum())
            if missing:
                raise DataError(
                    f"{missing} of {len(store)} pairs have no image, which distillation needs",
                    where=store.where,
                    hint="leave out recordings without frames, or make pairs: "
                    "`scaleevent prepare custom FOLDER -o PAIRS`",
                )

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        pair = StoredPair(*self.shard(index), self.settings, int(index) % len(self))
        return {name: make(pair) for name, make in self.inputs.items()}


@dataclass(frozen=True)
class Split:
    """Sample indices for training and validation."""

    train: np.ndarray  # indices to train on
    validation: np.ndarray  # indices held out
    dropped: int = 0  # how many samples belong to neither
    shared: bool = False  # whether some events are on both sides, because every window overlaps
    seed: int = 0  # that it was drawn with; what is drawn among the held-out ones follows it


def split_samples(
    samples: PairSamples, fraction: float, seed: int = 0, among: np.ndarray | None = None
) -> Split:
    """Hold out whole recordings, of every store as far as recordings go in the same proportion.

    Recordings are held out until they make up `fraction` of the pairs: with seed 0 those of a store
    from its last one on, else drawn by the seed. Among stores that one is next of which the least
    part would be held out, counted to the middle of its recording. Of a store that is a single
    recording a stretch of pairs in time is, the last one with seed 0, and training pairs with a
    window that meets it are dropped, so that no event is on both sides; where that would leave
    none, all stay and the split says so. A pair of every store is left for training.

    Args:
        samples: The pairs.
        fraction: Of the pairs, which is held out.
        seed: Decides which they are.
        among: Ascending indices of the samples that there are; default: all.
    """
    everything = np.arange(len(samples)) if among is None else among
    if not fraction:
        return Split(everything, everything[:0], seed=seed)
    numbers = _recording_numbers(samples.stores)[everything]
    stores = _store_numbers(samples.stores)[everything]
    stretches, parts, sizes, recordings = [], [], [], []
    pooled = 0
    for store in np.unique(stores):
        own = stores == store
        rng = np.random.default_rng([seed, int(own.sum())]) if seed else None
        names, begins, counts = np.unique(numbers[own], return_index=True, return_counts=True)
        if len(names) == 1:
            stretches.append(_hold_out_stretch(samples, everything[own], fraction, rng))
            continue
        order = np.argsort(begins)
        order = (order if rng is None else rng.permutation(order))[::-1]
        ends = np.cumsum(counts[order])
        parts.append(((ends - counts[order] / 2) / ends[-1])[:-1])  # one is left for training
        sizes.append(counts[order][:-1])
        recordings.append(names[order][:-1])
        pooled += int(ends[-1])
    outside = np.zeros(len(everything), bool)
    if recordings:
        order = np.argsort(np.concatenate(parts), kind="stable")
        taken = np.cumsum(np.concatenate(sizes)[order])
        enough = int(np.searchsorted(taken, int(np.ceil(fraction * pooled)))) + 1
        outside = np.isin(numbers, np.concatenate(recordings)[order[:enough]])
    gone = [index for one in stretches for index in (one.validation, one.overlapping)]
    inside = ~outside & ~np.isin(everything, np.concatenate([*gone, everything[:0]]))
    validation = np.concatenate([everything[outside], *(one.validation for one in stretches)])
    return Split(
        everything[inside],
        np.sort(validation),
        dropped=sum(len(one.overlapping) for one in stretches),
        shared=any(one.shared for one in stretches),
        seed=seed,
    )


class _Stretch(NamedTuple):
    """What is held out of a recording, and what has events in common with it."""

    validation: np.ndarray
    overlapping: np.ndarray  # which are not trained on
    shared: bool  # whether all others would be, so that none is dropped


def _hold_out_stretch(
    samples: PairSamples, indices: np.ndarray, fraction: float, rng: np.random.Generator | None
) -> _Stretch:
    """Hold out a stretch in time of the samples of one recording: the last one without `rng`."""
    held = min(int(np.ceil(fraction * len(indices))), len(indices) - 1)
    if not held:
        return _Stretch(indices[:0], indices[:0], False)
    windows = np.concatenate([store.windows_us for store in samples.stores])
    in_time = indices[np.argsort(windows[indices, 1], kind="stable")]
    free = len(indices) - held
    first = free if rng is None else int(rng.integers(free + 1))
    validation = np.sort(in_time[first : first + held])
    train = np.delete(in_time, slice(first, first + held))
    first_us, last_us = windows[validation, 0].min(), windows[validation, 1].max()
    meets = (windows[train, 1] > first_us) & (windows[train, 0] < last_us)
    if meets.all():  # every window reaches into the held-out ones
        return _Stretch(validation, indices[:0], True)
    return _Stretch(validation, train[meets], False)


def _store_numbers(stores: Sequence[PairStore]) -> np.ndarray:
    """(samples,) int64: a number for every store, the same wherever it is named again."""
    numbers = {id(store): number for number, store in enumerate(stores)}
    return np.repeat([numbers[id(s)] for s in stores], [len(s.recordings) for s in stores])


def _recording_numbers(stores: Sequence[PairStore]) -> np.ndarray:
    """(samples,) int64: a number for every recording, the same wherever a store is named again."""
    numbers: dict[int, np.ndarray] = {}
    total = 0
    for store in stores:
        if id(store) not in numbers:
            names, member = np.unique(store.recordings, return_inverse=True)
            numbers[id(store)] = member + total
            total += len(names)
    return np.concatenate([numbers[id(store)] for store in stores])


def draw_epoch(
    samples: PairSamples,
    indices: np.ndarray,
    draws: int,
    seed: int,
    epoch: int,
    sampling: str,
    shares: np.ndarray | None = None,
) -> np.ndarray:
    """The samples of one epoch, in order: (draws,) int64 of `indices`.

    They depend on the arguments alone; `seed` is the run's, `epoch` counts from 0. With `uniform`
    sampling they are `draw_passes` over all pairs. With `released` they are drawn with replacement:
    store in proportion to its pairs, then as `choose_evenly` among its recordings, as
    zhiwen-xdu/ScaleEvent:scale_event/dataset/distill_dataset.py. With `shares`, (stores,) that sum
    to 1, the store of a sample is drawn by them, and only what follows by `sampling`.
    """
    rng = np.random.default_rng([seed, epoch])
    if sampling == "uniform" and shares is None:
        return draw_passes(indices, draws, rng)
    sizes = [len(store.recordings) for store in samples.stores]
    stores = np.repeat(np.arange(len(sizes)), sizes)[indices]
    recordings = _recording_numbers(samples.stores)[indices]
    if shares is None:
        drawn_stores = stores[rng.integers(0, len(stores), draws)]
    else:
        drawn_stores = rng.choice(len(shares), draws, p=shares)
    recording_draws, pair_draws = rng.random(draws), rng.random(draws)
    drawn = np.empty(draws, np.int64)
    for store in np.unique(drawn_stores):
        here, own = drawn_stores == store, stores == store
        if sampling == "uniform":
            drawn[here] = draw_passes(indices[own], int(here.sum()), rng)
            continue
        chosen = choose_evenly(recordings[own], recording_draws[here], pair_draws[here])
        drawn[here] = indices[own][chosen]
    return drawn


def draw_passes(indices: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Repeated random passes over samples, as many as needed: (draws,) of `indices`."""
    passes = -(-draws // len(indices))
    return np.concatenate([rng.permutation(indices) for _ in range(passes)])[:draws]


def choose_evenly(groups: np.ndarray, which: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Places chosen with replacement: a group uniformly, then one of its places uniformly.

    Args:
        groups: (N,) group of each place.
        which: (draws,) random numbers in [0, 1) that choose the group.
        member: (draws,) others that choose within it.

    Returns:
        (draws,) int64 below N.
    """
    order = np.argsort(groups, kind="stable")  # a group's places are neighbours
    _, first, size = np.unique(groups[order], return_index=True, return_counts=True)
    group = (which * len(first)).astype(np.int64)
    return order[first[group] + (member * size[group]).astype(np.int64)]


def evenly_spaced(indices: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the indices, evenly spaced."""
    if len(indices) <= most:
        return indices
    return indices[np.linspace(0, len(indices) - 1, most).round().astype(np.int64)]


@dataclass(frozen=True)
class StepBatches:
    """Sample indices of every step of one rank, from any step on: the loader's batch sampler."""

    draw: Callable[[int], np.ndarray]  # maps an epoch to its samples, in order, over all ranks
    epochs: int
    steps_per_epoch: int  # steps in each; what is left of an epoch's samples is not used
    batch: int  # samples per step over all ranks
    first_step: int = 0  # steps already done
    rank: int = 0
    world: int = 1  # number of ranks

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        local = self.batch // self.world
        skipped = self.first_step % self.steps_per_epoch
        for epoch in range(self.first_step // self.steps_per_epoch, self.epochs):
            indices = self.draw(epoch)
            for step in range(skipped, self.steps_per_epoch):
                first = step * self.batch + self.rank * local
                yield indices[first : first + local].tolist()
            skipped = 0


def load_batches(
    samples: Dataset[object],
    batches: Collection[list[int]] | StepBatches,
    workers: int,
    collate: Callable[[list[Any]], Any] = default_collate,
    pin: bool = False,
) -> Iterator[Any]:
    """Load given batches of samples; the worker count changes nothing but speed.

    Worker processes are forked from a server that has imported torch once. They never receive stop
    signals, and they end with this process.

    Args:
        samples: Samples by index.
        batches: Sample indices of each batch.
        workers: Processes that load batches ahead of time; 0 loads them in this process.
        collate: Makes a batch of a list of samples.
        pin: Put tensors into pinned memory, from which a GPU copies asynchronously.

    Raises:
        Exception: What a sample raised, in a worker too.
        EnvironmentProblem: A worker died, or a batch does not come.
    """
    workers = min(workers, len(batches))
    start = None
    if workers:
        # the kernel ends the server with the thread that starts it: right for the main one only
        ending = [SERVER] if current_thread() is main_thread() else []
        start = loader_start([*ending, *PRELOAD, type(samples).__module__])
    else:
        keep_freed_memory()
    loader = DataLoader(
        _ErrorsReturned(samples),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(_collate, collate),
        worker_init_fn=_start_worker,
        multiprocessing_context=start,
        pin_memory=pin,
        timeout=POLL_SECONDS if workers else 0,
    )
    others, patience = active_children(), getattr(samples, "patience", LOAD_SECONDS)
    try:
        loaded = iter(loader)
    except (EOFError, OSError) as error:  # the server died, or the system refuses another process
        kill([process for process in active_children() if process not in others])
        raise EnvironmentProblem(
            "the processes that load samples could not start",
            found=str(error) or type(error).__name__,
            hint="usually memory; use fewer --workers (a training run goes on with --resume)",
        ) from None
    processes = [process for process in active_children() if process not in others]
    Finalize(loaded, kill, (processes,), exitpriority=0)  # they do not hear torch's SIGTERM
    for number in count():
        began = time.monotonic()
        while (batch := _next_batch(loaded, processes)) is LATE:
            if time.monotonic() - began > patience:
                samples_of = next(islice(batches, number, None))
                raise EnvironmentProblem(
                    f"loading a batch takes more than {patience} s",
                    where=f"samples {', '.join(map(str, samples_of))}",
                    hint="a stalled disk, or a process that was stopped "
                    "(a training run goes on with --resume)",
                )
        if batch is None:
            return
        if isinstance(batch, Exception):
            raise starved(batch) or batch
        yield batch


def in_order(samples: PairSamples, indices: np.ndarray, batch: int) -> Iterator[dict[str, Tensor]]:
    """Batches in the order given, for everything that is not training."""
    groups = [indices[i : i + batch].tolist() for i in range(0, len(indices), batch)]
    return load_batches(samples, groups, workers=0)


@dataclass(frozen=True)
class Pool:
    """Samples that may be looked at, some or all, in batches."""

    samples: PairSamples
    indices: np.ndarray  # of those in it
    batch: int

    def __len__(self) -> int:
        return len(self.indices)

    def spread(self, most: int) -> Iterator[dict[str, Tensor]]:
        """Batches of at most so many samples, evenly spaced over all."""
        return in_order(self.samples, evenly_spaced(self.indices, most), self.batch)


def _start_worker(number: int) -> None:
    from scaleevent.system.loader_server import end_with_server  # it is imported in workers only

    keep_freed_memory()
    end_with_parent()
    end_with_server()


def _next_batch(loaded: Iterator[Any], processes: list[BaseProcess]) -> Any:
    """The next batch, None after the last one, or `LATE` where it is not there yet."""
    try:
        return next(loaded, None)
    except (RuntimeError, OSError, EOFError) as error:  # torch's, by where a worker died
        late = bool(processes) and "timed out" in str(error)
        connection.wait([process.sentinel for process in processes], 0 if late else DEATH_SECONDS)
        dead = [process for process in processes if not process.is_alive()]
        if late and not dead:
            return LATE
        if not dead:
            raise
        raise EnvironmentProblem(
            f"{len(dead)} of {len(processes)} worker processes died while loading samples",
            found="; ".join(describe(process.pid, process.exitcode) for process in dead),
            hint="usually memory; use fewer --workers or a smaller --batch "
            "(a training run goes on with --resume)",
        ) from None


@dataclass(frozen=True)
class _ErrorsReturned(Dataset[object]):
    """Returns a sample's exception instead of raising it: a loader would wrap its traceback."""

    samples: Dataset[object]

    def __getitem__(self, index: int) -> object:
        try:
            return self.samples[index]
        except ScaleEventError as error:
            error.where = f"{error.where} (sample {index})" if error.where else f"sample {index}"
            return error
        except Exception as error:
            error.add_note(f"while sample {index} was loaded:\n{traceback.format_exc()}")
            return error


def _collate(collate: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    errors = (sample for sample in samples if isinstance(sample, Exception))
    return next(errors, None) or collate(samples)
