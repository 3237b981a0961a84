"""Which labels a run trains on, in what order, and the released draw of a score.

The released loaders are zhiwen-xdu/ScaleEvent:scale_event/dataset/{dsec,ddd17}_seg_eomt_train.py
and _test.py at 0fd5605. They draw with replacement, a sequence uniformly and then one of its
labels uniformly: twice as many as there are labels in an epoch of training, as many as there are
in a score. What they draw from the test set changes from epoch to epoch, and nothing says which
epoch the published numbers are of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaleevent.benchmarks.samples import BenchmarkSplit, LabelledSamples
from scaleevent.config.downstream import FinetuneConfig
from scaleevent.errors import ConfigError, DataError
from scaleevent.pairs.draws import choose_evenly, draw_passes
from scaleevent.tasks.task import Result, State, Task

REDRAWS = 20  # scores that the spread of the released draw is taken from


@dataclass(frozen=True)
class TrainingLabels:
    """The labels that a run trains on, and how its epochs draw them.

    Args:
        available: Sample indices of all training labels, ascending.
        sequences: The sequence of each.
        kept: The labels to train on, ascending, of `available`.
        cfg: Fraction, seed, and how an epoch is drawn.
    """

    available: np.ndarray
    sequences: np.ndarray
    kept: np.ndarray
    cfg: FinetuneConfig

    @classmethod
    def of(
        cls, samples: LabelledSamples, split: BenchmarkSplit, cfg: FinetuneConfig
    ) -> TrainingLabels:
        """Those of a benchmark, see `few_shot`.

        Raises:
            ConfigError: As `few_shot`.
            DataError: Nothing to train on, or nothing to be scored on.
        """
        if not len(split.train) or not len(split.test):
            raise DataError(
                "the benchmark needs training and test recordings",
                where=", ".join(str(store.folder) for store in samples.pairs.stores),
                found=f"{len(split.train)} training, {len(split.test)} test samples",
            )
        sequences = sequences_of(samples)[split.train]
        kept = few_shot(split.train, sequences, cfg.fraction, cfg.subset, cfg.seed)
        return cls(split.train, sequences, kept, cfg)

    @property
    def per_epoch(self) -> int:
        """Samples of an epoch, at least one batch.

        By default as many as with all labels: a fraction changes the labels, not the steps.
        """
        count = len(self.available if self.cfg.steps == "full" else self.kept)
        return max(count * (2 if self.cfg.sampling == "released" else 1), self.cfg.batch)

    def draw(self, epoch: int) -> np.ndarray:
        """(per_epoch,) indices of `kept` in the order of an epoch, from the seed and the epoch.

        `uniform`: random passes over the labels. `released`: the released loaders' draw, where an
        `interval` of every k-th label draws one of all labels and takes the one kept before it.
        """
        rng = np.random.default_rng([self.cfg.seed, epoch])
        if self.cfg.sampling == "uniform":
            return draw_passes(self.kept, self.per_epoch, rng)
        if self.cfg.subset != "interval":
            sequences = self.sequences[np.isin(self.available, self.kept)]
            return np.asarray(self.kept[draw_evenly(sequences, self.per_epoch, rng)])
        drawn = draw_evenly(self.sequences, self.per_epoch, rng)
        by_sequence = np.argsort(self.sequences, kind="stable")
        behind = _places(self.sequences)[drawn] % _every(self.cfg.fraction)
        kept_before = by_sequence[np.argsort(by_sequence)[drawn] - behind]
        return np.asarray(self.available[kept_before])

    def describe(self) -> str:
        """What an epoch draws, for people."""
        cfg, count = self.cfg, f"an epoch draws {self.per_epoch:,} samples"
        how = "in random passes"
        if cfg.sampling == "released":
            how = "sequence, then label uniformly, with replacement, twice as many as labels"
        if cfg.fraction == 1:
            return f"{count}, {how}"
        kept = "all labels" if cfg.steps == "full" else "the subset"
        return f"{count} of {len(self.kept):,}, as many steps as of {kept}, {how}"


def sequences_of(samples: LabelledSamples) -> np.ndarray:
    """(N,) int64: the sequence of every sample.

    A sequence is a recording. Recordings of one pair each, such as rendered scenes, have no order
    of their own to take every k-th of: together they count as one.
    """
    names = np.concatenate([store.recordings.astype(str) for store in samples.pairs.stores])
    _, member, size = np.unique(names, return_inverse=True, return_counts=True)
    return np.asarray(np.where(size[member] == 1, -1, member), np.int64)


def few_shot(
    indices: np.ndarray, sequences: np.ndarray, fraction: float, strategy: str, seed: int
) -> np.ndarray:
    """A subset of training samples.

    Args:
        indices: All of them, in order.
        sequences: The sequence of each.
        fraction: How much to keep, above 0 and at most 1.
        strategy: `interval`: every k-th of each sequence, from its first, k = 1 / fraction
            (paper section 4.2; zhiwen-xdu/ScaleEvent:scale_event/dataset/ddd17_seg_eomt_train.py
            at 0fd5605). `prefix`: the first n // k + 1 of each sequence
            (ldkong1205/OpenESS:DSEC/dataset/sequence_ov.py). `random`: drawn from the seed, of all.
        seed: Of `random`.

    Returns:
        Ascending sample indices, at least one of each sequence unless `random`.

    Raises:
        ConfigError: A fraction that `interval` or `prefix` cannot take.
    """
    every = _every(fraction)
    if strategy == "random":
        count = max(1, round(fraction * len(indices)))
        chosen = np.random.default_rng([seed, len(indices)]).permutation(len(indices))[:count]
        return np.asarray(indices[np.sort(chosen)])
    if abs(every * fraction - 1) > 0.01:
        raise ConfigError(
            f"a subset by {strategy} takes every k-th sample",
            where="--fraction",
            found=fraction,
            expected="1/k, such as 0.5, 0.2, 0.1, 0.05, 0.01",
            hint="--subset random takes any fraction",
        )
    places = _places(sequences)
    if strategy == "interval":
        return np.asarray(indices[places % every == 0])
    _, member, size = np.unique(sequences, return_inverse=True, return_counts=True)
    return np.asarray(indices[places < size[member] // every + 1])


def draw_evenly(groups: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Places drawn with replacement: group uniformly, then place uniformly, see `choose_evenly`."""
    return choose_evenly(groups, rng.random(draws), rng.random(draws))


def redraw(
    task: Task, states: Sequence[State], recordings: Sequence[str], times: int
) -> tuple[Result, ...]:
    """Scores of a test set as the released loaders draw it, each of as many labels as there are.

    Every label has been scored once; a draw adds up the states of what it drew.

    Args:
        task: Whose metric it is.
        states: What each label adds to it.
        recordings: The sequence of each label.
        times: Number of draws; draw n depends on n alone.

    Raises:
        DataError: As the task's metric.
    """
    results = []
    for number in range(times):
        rng = np.random.default_rng([number])
        drawn = draw_evenly(np.asarray(recordings), len(states), rng).tolist()
        chosen = [states[place] for place in drawn], [recordings[place] for place in drawn]
        results.append(task.compute(*chosen))
    return tuple(results)


def mean_and_spread(results: Sequence[Result]) -> tuple[Result, Result]:
    """Mean and standard deviation (n - 1) of every number of at least two results."""
    numbers = {key: [float(one[key]) for one in results] for key in results[0]}
    mean = {key: float(np.mean(values)) for key, values in numbers.items()}
    return mean, {key: float(np.std(values, ddof=1)) for key, values in numbers.items()}


def _every(fraction: float) -> int:
    return max(1, round(1 / fraction))


def _places(groups: np.ndarray) -> np.ndarray:
    """(N,) int64: how many members of its group stand before each."""
    order = np.argsort(groups, kind="stable")
    _, first, size = np.unique(groups[order], return_index=True, return_counts=True)
    places = np.empty(len(groups), np.int64)
    places[order] = np.arange(len(groups)) - np.repeat(first, size)
    return places
