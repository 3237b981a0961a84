"""A task model on a benchmark: predictions, records, summary, pictures, files to hand in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scaleevent.benchmarks.published import comparable
from scaleevent.benchmarks.samples import Item, LabelledSamples
from scaleevent.decoders.decoder import Decoder
from scaleevent.errors import ConfigError
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.samples import evenly_spaced, load_batches
from scaleevent.pictures import draw_voxel, panel, save_picture
from scaleevent.system.ranks import Ranks
from scaleevent.tasks.task import Record, Summary, Task

COLUMNS = ("image", "events", "prediction", "ground truth", "error")
TRIVIAL_LABELS = 200  # training labels that the trivial prediction is taken from


@dataclass(frozen=True)
class Evaluation:
    """The metric of a model, and what did not count.

    Args:
        summary: From the task.
        samples: How many were scored.
        unlabelled: How many have no label here.
        subsets: The same of parts of the test set, such as day and night.
    """

    summary: Summary
    samples: int
    unlabelled: int
    subsets: dict[str, Summary]


class Example(NamedTuple):
    """A sample to be predicted and scored.

    Attributes:
        index: Its number.
        inputs: Of the decoder by name, each (3, H, W) float32.
        item: Its truth, and where it is from.
        size: Rows and columns of the prediction.
    """

    index: int
    inputs: dict[str, Tensor]
    item: Item
    size: tuple[int, int]


@dataclass(frozen=True)
class Examples(Dataset):
    """Samples by number, as `predict` takes them.

    Args:
        samples: Where they come from.
        at_input_size: Predict on the input's grid instead of the label's own pixels.
    """

    samples: LabelledSamples
    at_input_size: bool = False

    def __getitem__(self, index: int) -> Example:
        settings = self.samples.settings
        own = self.samples.size(index)
        size = (settings.height, settings.width) if self.at_input_size else own
        item = self.samples.item(index, self.at_input_size)
        return Example(index, self.samples.inputs(index), item, size)


@torch.no_grad()
def evaluate(
    decoder: Decoder,
    samples: LabelledSamples,
    numbers: Sequence[int],
    peers: Ranks,
    *,
    batch: int = 4,
    workers: int = 0,
    at_input_size: bool = False,
    windows: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
    keep: Callable[[Example, np.ndarray], None] = lambda example, prediction: None,
) -> Evaluation:
    """Predict and score samples; every rank takes its share of the batches.

    Args:
        decoder: On its device, in evaluation mode.
        samples: Where the samples come from.
        numbers: Which of them.
        peers: This process and the others.
        batch: Samples predicted at once.
        workers: Processes that read samples ahead of time.
        at_input_size: Score on the input's grid instead of the label's own pixels.
        windows: Side of the square crops that EoMT predicts in; None predicts the input as it is.
        advance: Told how many samples are done.
        keep: Given every prediction.

    Raises:
        DataError: As the task's metric; no sample has a label.
    """
    groups = [list(numbers[i : i + batch]) for i in range(0, len(numbers), batch)]
    scored: list[tuple[int, Record, str, str]] = []
    unlabelled = 0
    examples = Examples(samples, at_input_size)
    own = groups[peers.rank :: peers.world]
    for group in load_batches(examples, own, workers, collate=list):
        for example, prediction in predict(decoder, group, windows):
            keep(example, prediction)
            item = example.item
            if item.truth is None:
                unlabelled += 1
                continue
            record = samples.task.measure(prediction, item.truth)
            scored.append((example.index, record, item.recording, item.subset))
        advance(len(group))
    position = {index: place for place, index in enumerate(numbers)}
    everything = sorted(peers.gather(scored), key=lambda one: position[one[0]])
    unlabelled = int(peers.sum([unlabelled])[0])
    if not everything:
        return Evaluation({}, 0, unlabelled, {})

    def summary(subset: str | None = None) -> Summary:
        own = [one for one in everything if subset in (None, one[3])]
        return samples.task.summarise([one[1] for one in own], [one[2] for one in own])

    subsets = sorted({one[3] for one in everything} - {""})
    told = {subset: summary(subset) for subset in subsets}
    return Evaluation(summary(), len(everything), unlabelled, told)


@torch.no_grad()
def predict(
    decoder: Decoder, group: Sequence[Example], windows: int | None = None
) -> Iterator[tuple[Example, np.ndarray]]:
    """Predictions of samples, each on the pixels of its truth; see `evaluate`."""
    device = next(decoder.parameters()).device
    inputs = [example.inputs for example in group]
    stacked = {name: torch.stack([one[name] for one in inputs]).to(device) for name in inputs[0]}
    raw = decoder(**stacked) if windows is None else None
    by_size: dict[tuple[int, int], np.ndarray] = {}
    for place, example in enumerate(group):
        if example.size not in by_size:
            if windows is None:
                prediction = decoder.predict(raw, example.size)
            else:
                prediction = decoder.predict_windows(stacked["voxel"], example.size, windows)
            by_size[example.size] = prediction.cpu().numpy()
        yield example, by_size[example.size][place]


@dataclass(frozen=True)
class Trivial:
    """The best prediction without looking at the events.

    Args:
        name: What it says.
        constant: What it predicts everywhere, see `Task.fill`.
    """

    name: str
    constant: Any

    @classmethod
    def of(cls, samples: LabelledSamples, train: Sequence[int]) -> Trivial:
        """From training labels.

        Raises:
            DataError: None of them says anything.
        """
        numbers = evenly_spaced(np.asarray(train), TRIVIAL_LABELS)
        items = (samples.item(int(index)) for index in numbers)
        labels = (item.truth.values for item in items if item.truth is not None)
        return cls(*samples.task.trivial(labels))

    def score(self, samples: LabelledSamples, test: Sequence[int]) -> Summary:
        """Its metric."""
        task, records, recordings = samples.task, [], []
        for index in test:
            item = samples.item(int(index))
            if item.truth is not None:
                filled = task.fill(self.constant, item.truth.values.shape[-2:])
                records.append(task.measure(filled, item.truth))
                recordings.append(item.recording)
        return task.summarise(records, recordings)


def refuse_leaks(
    seen: dict[str, Sequence[str]],
    samples: LabelledSamples,
    test: np.ndarray,
    allowed: bool,
    where: object,
) -> list[str]:
    """Look for test recordings in what a model has seen.

    Args:
        seen: Recordings by how they were seen, such as "pretrained on".
        samples: Of the benchmark.
        test: Numbers of the test samples.
        allowed: Tell it instead of refusing.
        where: The checkpoint.

    Returns:
        Notes for the report.

    Raises:
        ConfigError: There are some, and they are not allowed.
    """
    tested, notes = samples.recordings(test), []
    for how, names in seen.items():
        leaked = sorted(tested & set(names))
        if leaked and not allowed:
            raise ConfigError(
                f"the model was {how} test recordings of this benchmark",
                where=where,
                found=", ".join(leaked[:20]),
                hint="train without them, or allow it with --transductive, which is recorded",
            )
        if leaked:
            notes.append(f"transductive: {how} {len(leaked)} of {len(tested)} test recordings")
    return notes


def draw_rows(
    decoder: Decoder, samples: LabelledSamples, numbers: np.ndarray, most: int, path: Path
) -> None:
    """PNG with rows of samples spread over all: image, events, prediction, truth, error."""
    rows = []
    for number in evenly_spaced(numbers, most):
        example, prediction = next(predict(decoder, [Examples(samples)[int(number)]]))
        if example.item.truth is None:
            continue
        shard, row = samples.pairs.shard(example.index)
        voxel = shard.voxel(row, samples.settings.bins)
        fit = samples.settings.fit(*voxel.shape[1:])
        events = draw_voxel(fit.crop_array(voxel))
        encoded = shard.image(row)
        image = np.full_like(events, 255)
        if encoded:
            decoded = decode_image(encoded).transpose(2, 0, 1)
            image = fit.crop_array(decoded).transpose(1, 2, 0)
        rows.append([image, events, *samples.task.draw(prediction, example.item.truth.values)])
    if rows:
        save_picture(path, panel(COLUMNS, rows))


def comparison(
    benchmark: str,
    task: Task,
    setting: str,
    evaluation: Evaluation,
    trivial: dict[str, Summary],
) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
    """Columns and rows of a result table: ours by variant, without looking, and as published.

    Args:
        benchmark: Name.
        task: Of the benchmark.
        setting: Protocol, see `scaleevent.benchmarks.published`.
        evaluation: Ours.
        trivial: Summaries of predictions that do not look, by name.
    """
    rows: list[tuple[str, dict[str, float]]] = []
    if evaluation.samples:
        rows += [(f"ours, {name}", own) for name, own in task.rows(evaluation.summary).items()]
    for subset, summary in evaluation.subsets.items():
        rows += [(f"ours, {subset}, {name}", own) for name, own in task.rows(summary).items()]
    for name, summary in trivial.items():
        rows.append((name, next(iter(task.rows(summary).values()))))
    for row in comparable(benchmark, setting):
        note = f" ({row.note})" if row.note else ""
        rows.append((f"{row.method}, as published{note}", row.numbers))
    keys = list(dict.fromkeys(key for _, numbers in rows for key in numbers))
    table = tuple((name, *(numbers.get(key) for key in keys)) for name, numbers in rows)
    return ("", *keys), table


def counting_notes(task: Task, evaluation: Evaluation) -> list[str]:
    """What did not count, for the report."""
    empty = task.empty(evaluation.summary) if evaluation.samples else 0
    found = {
        "without a public label": evaluation.unlabelled,
        "without a pixel that counts": empty,
    }
    return [f"{number:,} test samples {what}" for what, number in found.items() if number]
