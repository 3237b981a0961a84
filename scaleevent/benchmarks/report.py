"""What is shown of an evaluation: the result table, notes, pictures, and files to hand in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np

from scaleevent.benchmarks.draws import mean_and_spread
from scaleevent.benchmarks.evaluation import EvalInput, EvalInputs, Evaluation, predict
from scaleevent.benchmarks.published import comparable
from scaleevent.benchmarks.registry import NATIVE, Benchmark
from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.benchmarks.stamp import Stamp, counts_text
from scaleevent.config.downstream import EvalConfig
from scaleevent.datasets.flow_png import encode_flow
from scaleevent.decoders.decoder import Decoder
from scaleevent.errors import ConfigError
from scaleevent.legends import drawn_keys, event_legend
from scaleevent.pairs.classes import MOST_LABELS, count_classes
from scaleevent.pairs.drawing import frame_of, pair_name
from scaleevent.pairs.draws import evenly_spaced
from scaleevent.panels import Row, panel, save_picture
from scaleevent.pictures import draw_voxel
from scaleevent.system.files import write_bytes
from scaleevent.system.reports import Section
from scaleevent.tasks.segmentation import Segmentation
from scaleevent.tasks.task import Result, Task


def draw_rows(
    decoder: Decoder, samples: LabelledSamples, indices: np.ndarray, most: int, path: Path
) -> None:
    """PNG of at most `most` samples, evenly spaced: image, events, prediction, truth, error."""
    names, inputs, predictions, truths = [], [], [], []
    for index in evenly_spaced(indices, most):
        one, prediction = next(predict(decoder, [EvalInputs(samples)[int(index)]]))
        if one.sample.truth is None:
            continue
        shard, row = samples.pairs.shard(one.index)
        voxel = shard.voxel(row, samples.settings.bins)
        fit = samples.settings.fit(*voxel.shape[1:])
        image, lifted = frame_of(shard, row)
        names.append(pair_name(shard, row) + lifted)
        cropped = None if image is None else fit.crop_picture(image)
        inputs.append((cropped, draw_voxel(fit.crop_array(voxel))))
        predictions.append(prediction)
        truths.append(one.sample.truth.values)
    if not names:
        return
    drawn = samples.task.draw(predictions, truths)
    outputs = zip(*drawn.values(), strict=True)
    rows = [
        Row(name, (*given, *made))
        for name, given, made in zip(names, inputs, outputs, strict=True)
    ]  # fmt: skip
    title = f"{samples.task.name}: {len(rows)} of {len(indices):,} samples"
    keys = drawn_keys(event_legend(), *samples.task.colour_keys(truths))
    save_picture(path, panel(title, ("image", "events", *drawn), rows, keys=keys))


def result_table(
    benchmark: str, task: Task, setting: str, evaluation: Evaluation, baselines: dict[str, Result]
) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
    """Columns and rows of a result table: ours by variant, baselines, and published ones.

    Args:
        benchmark: Name.
        task: Of the benchmark.
        setting: Protocol, see `scaleevent.benchmarks.published`.
        evaluation: Ours.
        baselines: Results of predictions without events, by name; empty where there are none.
    """
    rows: list[tuple[str, dict[str, float]]] = []
    marks = {note: mark for mark, note in _protocols(benchmark, setting, evaluation.stamp).items()}
    if evaluation.samples:
        rows += [(f"ours, {name}", own) for name, own in task.rows(evaluation.result).items()]
    if evaluation.redrawn:
        for what, result in zip(("mean", "SD"), mean_and_spread(evaluation.redrawn), strict=True):
            drawn = f"ours, {what} of {len(evaluation.redrawn)} released draws"
            rows += [(f"{drawn}, {name}", own) for name, own in task.rows(result).items()]
    for subset, result in evaluation.subsets.items():
        rows += [(f"ours, {subset}, {name}", own) for name, own in task.rows(result).items()]
    for name, result in baselines.items():
        rows.append((name, next(iter(task.rows(result).values())) if result else {}))
    for row in comparable(benchmark, setting):
        mark = marks.get(evaluation.stamp.against(row.stamp))
        note = "".join(f" ({one})" for one in (row.note, mark) if one)
        rows.append((f"{row.method}, as published{note}", row.numbers))
    keys = list(dict.fromkeys(key for _, numbers in rows for key in numbers))
    table = tuple((name, *(numbers.get(key) for key in keys)) for name, numbers in rows)
    return ("", *keys), table


def _protocols(benchmark: str, setting: str, stamp: Stamp) -> dict[str, str]:
    """How the published rows of a table were made otherwise, by the letter that marks them."""
    found = dict.fromkeys(stamp.against(row.stamp) for row in comparable(benchmark, setting))
    return dict(zip(ascii_lowercase, filter(None, found), strict=False))


def class_tables(task: Task, evaluation: Evaluation) -> tuple[Section, ...]:
    """A row a class: its overlap and its share of the scored pixels; nothing for other tasks."""
    if not isinstance(task, Segmentation) or not evaluation.samples:
        return ()
    confusion = np.sum([task.headline_parts(state) for state in evaluation.states], axis=0)
    shares = 100 * confusion.sum(1) / max(confusion.sum(), 1)
    shown = np.sum([task.headline_parts(state).any(1) for state in evaluation.states], axis=0)
    rows = tuple(
        (name, round(evaluation.result[f"iou {name}"], 2), round(float(share), 3), int(count))
        for name, share, count in zip(task.classes, shares, shown, strict=True)
    )
    return (Section("by class", ("class", "iou", "% of scored pixels", "labels with it"), rows),)


def training_classes(samples: LabelledSamples, train: np.ndarray) -> list[str]:
    """What training labels hold of each class, then a warning where one is absent; else nothing."""
    task = samples.task
    if not isinstance(task, Segmentation):
        return []
    labels = (samples.label(int(index)) for index in evenly_spaced(train, MOST_LABELS))
    counts = count_classes((one for one in labels if one is not None), task.classes, len(train))
    return [line for line in (counts.describe(), counts.warning()) if line]


def stamp_notes(benchmark: str, setting: str, stamp: Stamp) -> list[str]:
    """What was scored, and in what published numbers beside it differ, for the report.

    Args:
        benchmark: Name.
        setting: Supervision, see `scaleevent.benchmarks.published`.
        stamp: Of our number.
    """
    notes = []
    if stamp.labels:
        assert not isinstance(stamp.labels, int)  # of an evaluation of ours
        notes.append(f"scored: {counts_text(stamp.labels)} ({stamp.choice}), {stamp.draw}")
    for mark, difference in _protocols(benchmark, setting, stamp).items():
        notes.append(f"({mark}) under another protocol, as far as it is public: {difference}")
    return notes


def counting_notes(task: Task, evaluation: Evaluation) -> list[str]:
    """What the columns of a result table mean, and what did not count, for the report."""
    empty = evaluation.result[task.empty] if evaluation.samples else 0
    found = {"without a public label": evaluation.unlabelled, "without a pixel that counts": empty}
    meaning = [task.legend] if evaluation.samples and task.legend else []
    return meaning + [f"{n:,} test samples {what}" for what, n in found.items() if n]


def list_notes(lists: Mapping[str, int] | None, here: int) -> list[str]:
    """What of the authors' lists is `here`, training and test labels, where they are taken."""
    if lists is None:
        return []
    return [
        f"{here:,} of the {sum(lists.values()):,} training and test labels of the authors' lists; "
        "only the lists' lengths are known: of each sequence the first labels"
    ]


def protocol_notes(benchmark: Benchmark, cfg: EvalConfig) -> list[str]:
    """The benchmark's own notes, and what the settings of an evaluation change of its protocol."""
    notes = [note for note in benchmark.notes if note != NATIVE or not cfg.at_input_size]
    if cfg.at_input_size:
        notes.append(
            "scored at the input's size against labels resized to it: the released code's size"
        )
    if cfg.draw == "released":
        notes.append(
            "a released draw takes as many labels as are scored, with replacement: sequence, then "
            "label uniformly; which draw and which epoch were published is not known"
        )
    if cfg.alignment != "none":
        notes.append(f"every prediction was first fitted to its ground truth: {cfg.alignment}")
    if cfg.windows is not None:
        notes.append(f"predicted in square crops of {cfg.windows} pixels")
    return notes


@dataclass
class Submission:
    """Writes flow predictions as the files that DSEC's server takes; `keep` of `evaluate`."""

    folder: Path  # for the files, a folder for each recording
    samples: LabelledSamples  # of the benchmark
    files: int = 0  # number of those written

    def __call__(self, one: EvalInput, prediction: np.ndarray) -> None:
        """Write a prediction where the benchmark asks for it; refuse one that leaves out pixels."""
        sample, sensor = one.sample, self.samples.sensor(one.index)
        if sample.file_index is None:
            return
        rows, columns = self.samples.settings.fit(*sensor).on_sensor
        prediction = prediction[..., rows, columns]
        if prediction.shape[-2:] != sensor:
            raise ConfigError(
                "a submission needs every pixel, but the network's input is cropped",
                where=sample.where,
                found=f"{prediction.shape[-2]}x{prediction.shape[-1]}",
                expected=f"{sensor[0]}x{sensor[1]}",
                hint="train it with an input --size of the sensor's aspect ratio",
            )
        path = self.folder / sample.recording / f"{sample.file_index:06d}.png"
        write_bytes(path, encode_flow(prediction))
        self.files += 1
