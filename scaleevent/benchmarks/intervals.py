"""How far a benchmark's headline would move with other test recordings, beside its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scaleevent.benchmarks.baselines import PLACE_ONLY, SCENE_AND_PLACE, Baseline, baseline_states
from scaleevent.benchmarks.evaluation import Evaluation
from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.objectives.probe_scores import COVERED, LEAST_RECORDINGS, RESAMPLES, Resamples
from scaleevent.system.files import Json
from scaleevent.system.reports import cell
from scaleevent.tasks.task import Result, State, Task

OURS = "ours"


class Beside(NamedTuple):
    """What stands beside the number of a model."""

    results: dict[str, Result]  # of the baselines by name; empty of one that predicts nothing
    notes: list[str]  # its interval and theirs
    facts: Json  # the same in full


def beside(
    baselines: Sequence[Baseline],
    samples: LabelledSamples,
    test: Sequence[int] | np.ndarray,
    evaluation: Evaluation,
    at_input_size: bool = False,
) -> Beside:
    """Baselines on the labels that a model was scored on, and intervals of both.

    Args:
        baselines: In the order of the table.
        samples: Of the benchmark.
        test: Indices of the test samples.
        evaluation: Of the model, on the same.
        at_input_size: As there.
    """
    task = samples.task
    if not evaluation.samples:
        return Beside({}, [], {})
    states, recordings = baseline_states(baselines, samples, test, at_input_size)
    results = {n: task.compute(own, recordings) if own else {} for n, own in states.items()}
    rows = {OURS: evaluation.states, **states}
    return Beside(results, *headline_intervals(task, rows, evaluation.recordings))


def headline_intervals(
    task: Task, states: Mapping[str, Sequence[State]], recordings: Sequence[str]
) -> tuple[list[str], Json]:
    """A note and facts: intervals of every row's headline, and of ours less what knows no events.

    Args:
        task: Of the benchmark.
        states: What each scored sample adds to the metric, by row; `OURS` is the model's.
        recordings: Of the samples; resampled whole, the same for all rows.
    """
    sums = {
        name: np.stack([task.headline_parts(state) for state in own])
        for name, own in states.items() if own
    }  # fmt: skip
    if not sums:
        return [], {}
    resamples = Resamples.of(recordings)
    if resamples.recordings < LEAST_RECORDINGS:
        return [f"no interval of {task.headline}: {resamples.recordings} test recordings"], {}
    covers = (
        f"{COVERED:.0%} over {resamples.recordings:,} test recordings ({RESAMPLES:,} resamples), "
        "for one training and one choice of labels"
    )
    found = {name: resamples.interval(task.headline_of, own) for name, own in sums.items()}
    controls = [name for name in sums if name.startswith((PLACE_ONLY, SCENE_AND_PLACE))]
    apart = {
        f"{OURS} - {name}": resamples.interval(task.headline_of, sums[OURS], sums[name])
        for name in controls if OURS in sums
    }  # fmt: skip
    shown = [f"{name} {cell(s[0])} to {cell(s[1])}" for name, s in found.items() if s]
    shown += [f"{name} {s[0]:+.3g} to {s[1]:+.3g}" for name, s in apart.items() if s]
    note = f"{task.headline}, {covers}: {'; '.join(shown)}"
    return [note], {"intervals": {"of": task.headline, "covers": covers, **found, **apart}}
