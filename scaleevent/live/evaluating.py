"""The latency-aware score of a task model: what it would have said in time, at every label.

Labels come with their recordings, which the settings of a `custom` store name; a store holds no
more than the windows of its labels. See `scoring` for what is scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import tee
from pathlib import Path
from typing import TypeVar

import numpy as np

from scaleevent.datasets.custom import Settings, sources
from scaleevent.datasets.custom_labels_pairs import LabelledRecording
from scaleevent.decoders.decoder import Decoder
from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.formats import open_recording
from scaleevent.grids.geometry import Fit
from scaleevent.grids.windows import Window
from scaleevent.live.lag import Lags
from scaleevent.live.scoring import Course, newest_at
from scaleevent.pairs.store import PairStore
from scaleevent.prediction.cutting import Cut, cut_windows
from scaleevent.prediction.schedules import AtRate, AtTimes
from scaleevent.prediction.streaming import inputs_of
from scaleevent.predictor import Predictor
from scaleevent.system.reports import Report, Section
from scaleevent.tasks.task import GroundTruth, Result, State, Task

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


def labelled_recordings(stores: Sequence[PairStore], part: str) -> list[LabelledRecording]:
    """The recordings of a part of `custom` stores, with their labels.

    Raises:
        DataError: A store of something else, or whose recordings are not there any more.
    """
    found = []
    for store in stores:
        settings = store.manifest["settings"]
        missing = [path for path in settings.get("roots", []) if not Path(path).exists()]
        if settings.get("name") != "custom" or not settings.get("labels") or missing:
            raise DataError(
                "the recordings that a store was prepared from are not there",
                where=store.where, found=", ".join(missing[:5]) or settings.get("name"),
                expected="recordings with labels of your own, and paths as when it was prepared",
            )  # fmt: skip
        own = sources(Settings(**settings))
        found += [one for one in own if isinstance(one, LabelledRecording) and one.part == part]
    return found


def score_in_time(
    decoder: Decoder,
    task: Task,
    recordings: Sequence[LabelledRecording],
    rate: float,
    predict: Predict | None = None,
) -> InTime:
    """Score a task model of one frame at every label of some recordings.

    Args:
        decoder: On its device.
        task: What the labels mean.
        recordings: With their labels.
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
    settings = decoder.encoder.input
    assert settings is not None
    for one in recordings:
        fit = settings.fit(*one.size)
        predict(_nothing(*one.size), fit)  # what is set up for the first one takes no time later
        for cut, newest, age_us, values in _at_labels(one, rate, predict, fit, found.course):
            if newest is None:
                found.early += 1
                continue
            truth = GroundTruth(
                fit.crop_label(values), fit.crop_label(_seen(cut.events)), one.scene
            )
            states["usual"].append(task.update(predict(cut, fit)[0], truth))
            states["aware"].append(task.update(newest, truth))
            names.append(one.scene)
            found.ages.add(age_us / 1e6)
    found.labels = len(names)
    if names:
        found.usual, found.aware = (task.compute(own, names) for own in states.values())
    return found


def _at_labels(
    one: LabelledRecording, rate: float, predict: Predict, fit: Fit, course: Course
) -> Iterator[tuple[Cut, np.ndarray | None, int, np.ndarray]]:
    """The window of every label, the newest prediction then, its age, and the label."""
    rule = one.rule
    assert rule is not None  # flow has none
    files = dict(zip(one.labels.end_us, one.labels.files, strict=True))
    view = one.framed.view() if one.framed else None

    def cuts(schedule: AtRate | AtTimes) -> Iterator[Cut]:
        recording = open_recording(one.recording, size=one.size, **one.options)
        return cut_windows(recording.blocks(), schedule, rule)

    at, again = tee(cuts(AtTimes(np.array(sorted(files), np.int64))))
    newest = newest_at(
        (cut.window.end_us for cut in again),
        ((cut.window.end_us, cut) for cut in cuts(AtRate(rate))),
        lambda cut: predict(cut, fit),
        course,
    )
    for cut, there in zip(at, newest, strict=True):
        values = one.load(files[cut.window.end_us], view)
        yield cut, there.prediction, there.age_us, values


def _measured(predictor: Predictor) -> Predict:
    def predict(cut: Cut, fit: Fit) -> tuple[np.ndarray, float]:
        began = time.perf_counter()
        found = predictor.map_of(inputs_of(predictor, cut), fit).cpu().numpy()
        return found, time.perf_counter() - began

    return predict


def _seen(events: Events) -> np.ndarray:
    """(H, W) bool: pixels with an event."""
    seen = np.zeros((events.height, events.width), bool)
    seen[events.y, events.x] = True
    return seen


def _nothing(height: int, width: int) -> Cut:
    """A window with two events."""
    events = Events.from_columns([0, 5], [0, 0], [0, 0], [0, 1], height, width)
    return Cut(0, 0, 0, Window(0, 10), events)


def in_time(
    report: Evaluated,
    decoder: Decoder,
    task: Task,
    stores: Sequence[PairStore],
    part: str,
    rate: float,
) -> Evaluated:
    """A report, and in it both scores of a part of `custom` stores: a table, notes, the numbers.

    Raises:
        DataError: As `labelled_recordings` and `score_in_time`.
    """
    found = score_in_time(decoder, task, labelled_recordings(stores, part), rate)
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
