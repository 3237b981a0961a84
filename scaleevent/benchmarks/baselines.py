"""Predictions that do not look at the events: what the numbers of a model are read against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.grids.geometry import Fit
from scaleevent.pairs.draws import evenly_spaced
from scaleevent.system.reports import progress
from scaleevent.tasks.task import Result, State, Task

CONSTANT_LABELS = 200  # training labels that the constant baseline is taken from
PLACE_ONLY = "place only"
SCENE_AND_PLACE = "own scene + place"


@dataclass(frozen=True)
class Baseline:
    """A prediction without a look at what is where: by default the same for all samples."""

    name: str  # its row in a result table
    # one number, for all pixels; or a map over the input's field of view, on its training labels'
    # grid: (h, w), of flow (2, h, w); None where there was nothing to take it from
    values: np.ndarray | np.generic | None

    @property
    def known(self) -> bool:
        """Whether it predicts anything."""
        return self.values is not None

    def predict(self, task: Task, shape: tuple[int, ...], index: int) -> np.ndarray:
        """Of a sample, on the pixels of a ground truth of this shape; flow in pixels of it."""
        values, (*_, height, width) = np.asarray(self.values), shape
        if values.ndim:
            return on_grid(task, values, (height, width))
        return np.full(shape, values)


def constant_baseline(samples: LabelledSamples, train: Sequence[int] | np.ndarray) -> Baseline:
    """The best constant prediction for training labels, or for some of them.

    Raises:
        DataError: No label has a pixel that counts.
    """
    chosen = evenly_spaced(np.asarray(train), CONSTANT_LABELS)
    labels = (samples.label(int(index)) for index in chosen)
    name, value = samples.task.constant_baseline(one for one in labels if one is not None)
    return Baseline(name, value)


def place_baseline(
    samples: LabelledSamples, train: Sequence[int] | np.ndarray, quiet: bool = True
) -> Baseline:
    """What training labels say of each place in the picture, see `Task.place_prior`.

    Labels are read one at a time, and more than once where the task wants that. The grid is that of
    the first one; others are brought to it over the input's field of view, which they share.

    Args:
        samples: Of the benchmark.
        train: Indices of the training samples, at least one.
        quiet: No progress on stderr.

    Raises:
        DataError: No label has a pixel that counts.
    """
    task, grid = samples.task, samples.size(int(train[0]))

    def labels() -> Iterator[np.ndarray]:
        with progress(PLACE_ONLY, len(train), "labels", not quiet) as ticker:
            for index in train:
                label = samples.label(int(index))
                if label is not None:
                    yield on_grid(task, label, grid, f"training sample {index}")
                ticker.advance()

    return Baseline(PLACE_ONLY, task.place_prior(labels, grid))


def baselines_for(
    samples: LabelledSamples, train: np.ndarray, prior: np.ndarray | None, quiet: bool
) -> list[Baseline]:
    """What an evaluation is read against: the best constant, and what is known of each place.

    Args:
        samples: Of the benchmark.
        train: Indices of the training samples that are there, perhaps none.
        prior: That of the checkpoint, which goes first; None where it holds none.
        quiet: No progress on stderr.

    Raises:
        DataError: As `constant_baseline`.
    """
    found = [constant_baseline(samples, train)] if len(train) else []
    if prior is not None:
        return [*found, Baseline(PLACE_ONLY, prior)]
    if not len(train):
        return [Baseline(f"{PLACE_ONLY}: no training labels here", None)]
    place = place_baseline(samples, train, quiet)
    return [*found, Baseline(f"{PLACE_ONLY}, from the training labels here", place.values)]


def baseline_states(
    baselines: Sequence[Baseline],
    samples: LabelledSamples,
    test: Sequence[int] | np.ndarray,
    at_input_size: bool = False,
) -> tuple[dict[str, list[State]], list[str]]:
    """What each sample that a model is scored on adds to each baseline's metric, by name.

    Returns:
        The states, in the order of the samples, none of a baseline that predicts nothing; and the
        recordings of the samples.
    """
    task, recordings = samples.task, []
    states: dict[str, list[State]] = {one.name: [] for one in baselines}
    for index in test if any(one.known for one in baselines) else ():
        sample = samples.eval_sample(int(index), at_input_size)
        if sample.truth is None:
            continue
        recordings.append(sample.recording)
        for one in baselines:
            if one.known:
                prediction = one.predict(task, sample.truth.values.shape, int(index))
                states[one.name].append(task.update(prediction, sample.truth))
    return states, recordings


def baseline_scores(
    baselines: Sequence[Baseline],
    samples: LabelledSamples,
    test: Sequence[int] | np.ndarray,
    at_input_size: bool = False,
) -> dict[str, Result]:
    """The metric of each by name, on the labels that a model is scored on; empty without values."""
    states, recordings = baseline_states(baselines, samples, test, at_input_size)
    return {n: samples.task.compute(own, recordings) if own else {} for n, own in states.items()}


def on_grid(
    task: Task, values: np.ndarray, grid: tuple[int, int], where: str = PLACE_ONLY
) -> np.ndarray:
    """A label or a prior on other pixels of the same view, as `Task.target` gives it."""
    height, width = values.shape[-2:]
    whole = Fit(height, width, *grid, stretch=math.inf)
    return task.target(values, whole, where)
