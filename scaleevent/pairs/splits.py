"""Which samples are held out: whole recordings, or a stretch of a single one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scaleevent.pairs.samples import PairSamples, recording_numbers, store_numbers


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
    numbers = recording_numbers(samples.stores)[everything]
    stores = store_numbers(samples.stores)[everything]
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
