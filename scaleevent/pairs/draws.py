"""What is drawn when: the samples of an epoch, and of every step and rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from scaleevent.pairs.samples import PairSamples, recording_numbers


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
    recordings = recording_numbers(samples.stores)[indices]
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
