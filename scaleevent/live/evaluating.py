"""The latency-aware score of a task model: what it would have said in time, at every label.

A store holds its labels, but no more events than the windows that end at them. What a network sees
between them is read from the recordings that the store was prepared from, by the same sources, so
that the events are on the labels' pixels here too. See `scoring` for what is scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.config.catalog import DATASETS
from scaleevent.decoders.decoder import Decoder
from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.grids.geometry import Fit
from scaleevent.grids.windows import Window
from scaleevent.live.lag import Lags
from scaleevent.live.scoring import Course, Newest, newest_at
from scaleevent.pairs.source import Replayable
from scaleevent.pairs.store import PairStore
from scaleevent.prediction.cutting import Cut, cut_windows
from scaleevent.prediction.schedules import AtRate
from scaleevent.prediction.streaming import inputs_of
from scaleevent.predictor import Predictor
from scaleevent.system.reports import Report, Section
from scaleevent.tasks.task import Result, State, Task

Evaluated = TypeVar("Evaluated", bound=Report)
Predict = Callable[[Cut, Fit], tuple[np.ndarray, float]]


@dataclass
class InTime:
    """Scores of the same labels twice, and how the network kept up.

    Args:
        usual: Result of predictions that end at each label, as if they took no time.
        aware: Result of the newest predictions that were finished at each label.
        labels: Labels that were scored.
        early: Labels that were not, since no prediction was finished by then.
        ages: From the end of a prediction's window to the label.
        course: What the network did.
    """

    usual: Result = field(default_factory=dict)
    aware: Result = field(default_factory=dict)
    labels: int = 0
    early: int = 0
    ages: Lags = field(default_factory=Lags)
    course: Course = field(default_factory=Course)


@dataclass(frozen=True)
class Replay:
    """A recording of a store, and the store's labels that are scored along it.

    Args:
        source: What reads its events.
        labels_us: Time of each label, ascending.
        indices: The sample of each.
    """

    source: Replayable
    labels_us: Sequence[int]
    indices: Sequence[int]


def replays(samples: LabelledSamples, indices: Sequence[int]) -> list[Replay]:
    """The recordings of some samples, opened as `prepare` did.

    Raises:
        DataError: Those that a store was prepared from are not there any more, or others.
    """
    labels: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for index in indices:
        number, inside = samples.pairs.locate(index)
        shard, row = samples.pairs.shard(index)
        name = str(samples.pairs.stores[number].recordings[inside])
        labels.setdefault((number, name), []).append((int(shard.row("image_us", row)), index))
    stores = {number: samples.pairs.stores[number] for number, _ in labels}
    scenes = {number: _scenes(store) for number, store in stores.items()}
    found = []
    for (number, name), own in labels.items():
        if name not in scenes[number]:
            raise _gone(stores[number], name)
        times, chosen = zip(*sorted(own), strict=True)
        found.append(Replay(scenes[number][name], times, chosen))
    return found


def _scenes(store: PairStore) -> dict[str, Replayable]:
    """The sources that a store was prepared from, by the recording name of their pairs."""
    settings = store.manifest["settings"]
    if missing := [path for path in settings.get("roots", []) if not Path(path).exists()]:
        raise _gone(store, ", ".join(missing[:5]))
    module = DATASETS[settings["name"]].load()
    sources = module.sources(module.Settings(**settings))
    return {one.scene: one for one in sources if isinstance(one, Replayable)}


def _gone(store: PairStore, found: str) -> DataError:
    return DataError(
        "the recordings that a store was prepared from are not there", where=store.where,
        found=found, expected="the same recordings, and paths as when it was prepared",
    )  # fmt: skip


def score_in_time(
    decoder: Decoder,
    task: Task,
    samples: LabelledSamples,
    recordings: Sequence[Replay],
    rate: float,
    predict: Predict | None = None,
) -> InTime:
    """Score a task model of one frame at every label of some recordings.

    Args:
        decoder: On its device.
        task: What the labels mean.
        samples: The labels.
        recordings: Of `samples`.
        rate: Windows a second that come to the network.
        predict: Makes a prediction of a window and says how many seconds that took; by default
            the decoder does, and it is measured.

    Raises:
        DataError: Damage in a recording or a label.
    """
    predict = predict or _measured(Predictor(decoder))
    found = InTime()
    states: dict[str, list[State]] = {"usual": [], "aware": []}
    names: list[str] = []
    for one in recordings:
        size = samples.sensor(one.indices[0])
        fit = samples.settings.fit(*size)
        predict(_nothing(*size), fit)  # what is set up for the first one takes no time later
        along = _along(one, rate, predict, fit, found.course)
        for index, newest in zip(one.indices, along, strict=True):
            sample = samples.eval_sample(index)
            if sample.truth is None:
                continue
            if newest.prediction is None:
                found.early += 1
                continue
            shard, row = samples.pairs.shard(index)
            events, window = shard.events(row)
            usual, _ = predict(Cut(0, 0, 0, window, events), fit)
            states["usual"].append(task.update(usual, sample.truth))
            states["aware"].append(task.update(newest.prediction, sample.truth))
            names.append(sample.recording)
            found.ages.add(newest.age_us / 1e6)
    found.labels = len(names)
    if names:
        found.usual, found.aware = (task.compute(own, names) for own in states.values())
    return found


def _along(
    one: Replay, rate: float, predict: Predict, fit: Fit, course: Course
) -> Iterator[Newest[np.ndarray]]:
    """What there is at every label of a recording."""
    rule = one.source.rule
    assert rule is not None  # flow has none
    cuts = cut_windows(one.source.opened().blocks(), AtRate(rate), rule)
    windows = ((cut.window.end_us, cut) for cut in cuts)
    return newest_at(one.labels_us, windows, lambda cut: predict(cut, fit), course)


def _measured(predictor: Predictor) -> Predict:
    def predict(cut: Cut, fit: Fit) -> tuple[np.ndarray, float]:
        began = time.perf_counter()
        found = predictor.map_of(inputs_of(predictor, cut), fit).cpu().numpy()
        return found, time.perf_counter() - began

    return predict


def _nothing(height: int, width: int) -> Cut:
    """A window with two events."""
    events = Events.from_columns([0, 5], [0, 0], [0, 0], [0, 1], height, width)
    return Cut(0, 0, 0, Window(0, 10), events)


def in_time(
    report: Evaluated,
    decoder: Decoder,
    task: Task,
    samples: LabelledSamples,
    indices: np.ndarray,
    rate: float,
) -> Evaluated:
    """A report, and in it both scores of some samples: a table, notes, the numbers.

    Raises:
        DataError: As `replays` and `score_in_time`.
    """
    recordings = replays(samples, indices.tolist())
    found = score_in_time(decoder, task, samples, recordings, rate)
    rows = []
    for name, result in (
        ("predictions at the labels, as if they took no time", found.usual),
        ("newest predictions that were finished at the labels", found.aware),
    ):
        numbers = next(iter(task.rows(result).values())) if result else {}
        rows.append((name, numbers))
    keys = list(dict.fromkeys(key for _, numbers in rows for key in numbers))
    table = tuple((name, *(numbers.get(key) for key in keys)) for name, numbers in rows)
    course, ages = found.course, found.ages
    per = course.seconds / max(course.used, 1)
    notes = [
        f"in time: {rate:g} windows a second; the network took {1000 * per:.1f} ms for one, and "
        f"made predictions of {course.used:,} of {course.windows:,}, each time of the newest",
        f"in time: predictions were {1000 * ages.percentile(50):.1f} ms old at a label (median), "
        f"p99 {1000 * ages.percentile(99):.1f} ms; this depends on the computer",
    ]
    if found.early:
        notes.append(f"in time: {found.early:,} labels not scored: no prediction was finished")
    facts = {
        "rate": rate, "labels": found.labels, "labels before the first prediction": found.early,
        "usual": found.usual, "in time": found.aware, "age": ages.to_json(),
        "windows": course.windows, "predictions": course.used, "seconds a prediction": per,
    }  # fmt: skip
    title = f"in time, {found.labels:,} labels of recordings"
    return replace(
        report,
        notes=(*report.notes, *notes),
        record=report.record | {"in time": facts},
        more=(*report.more, Section(title, ("", *keys), table)),
    )
