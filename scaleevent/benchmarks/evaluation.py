"""A task model on a benchmark: predictions, and the metric computed from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scaleevent.benchmarks.draws import mean_and_spread, redraw
from scaleevent.benchmarks.meaning import facts_of
from scaleevent.benchmarks.samples import EvalSample, LabelledSamples
from scaleevent.benchmarks.stamp import EVERY_LABEL_ONCE, UNKNOWN, Stamp, choice_text, size_text
from scaleevent.config.labels import checked_facts
from scaleevent.datasets.custom_labels_split import overlap
from scaleevent.decoders.decoder import Decoder
from scaleevent.errors import ConfigError
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.loading import load_batches
from scaleevent.pairs.window_words import window_text
from scaleevent.system.files import Json
from scaleevent.system.ranks import Ranks
from scaleevent.system.reports import Report
from scaleevent.tasks.task import Result, State, Task

MOST = 5  # recordings that are listed


@dataclass(frozen=True)
class Evaluation:
    """The metric of a model, and what did not count."""

    result: Result  # from the task
    samples: int  # number that were scored
    unlabelled: int  # number without a label here
    subsets: dict[str, Result]  # results of parts of the test set, such as day and night
    stamp: Stamp  # the protocol it was made under
    redrawn: tuple[Result, ...] = ()  # results of released draws, where they were asked for
    states: tuple[State, ...] = ()  # what each scored sample adds to the metric
    recordings: tuple[str, ...] = ()  # of the scored samples

    @property
    def draw_facts(self) -> Json:
        """The results of released draws, for reports; empty where none were asked for."""
        if not self.redrawn:
            return {}
        mean, spread = mean_and_spread(self.redrawn)
        return {"released draws": {"number": len(self.redrawn), "mean": mean, "sd": spread}}


@dataclass(frozen=True, kw_only=True)
class EvalResult(Report):
    """A task model's result on the test set of a benchmark.

    Attributes:
        benchmark: Its name.
        checkpoint: The task model.
        headline: Name of the number that stands for all.
        metrics: All numbers by name. Segmentation: `miou`, `miou_present`, `acc`, `iou CLASS`, in
            percent. Depth: `dav2_*` and `dae_*`, such as `dav2_rmse` in metres. Flow: `sparse_*` on
            pixels with events and `dense_*`, such as `sparse_epe` in pixels. Of no label: empty.
        samples: Number of labels that were scored.
        baselines: Numbers of predictions that see no event, by their names.
        stamp: The protocol: which labels, sizes, forms of the metric, window.
    """

    benchmark: str
    checkpoint: Path
    headline: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: int = 0
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stamp: Stamp = UNKNOWN

    @property
    def score(self) -> float:
        """The number that stands for all."""
        return self._metric(self.headline)

    @property
    def miou(self) -> float:
        """Mean overlap of all classes, percent; of segmentation alone."""
        return self._metric("miou")

    @property
    def rmse(self) -> float:
        """Root mean square error in metres, as Depth-Anything-V2 computes it; of depth alone."""
        return self._metric("dav2_rmse")

    @property
    def epe(self) -> float:
        """End-point error on pixels with events, pixels; of flow alone."""
        return self._metric("sparse_epe")

    def own(self) -> Json:
        """See `Report`."""
        stamp = self.stamp.to_json()
        return {"benchmark": self.benchmark, "metrics": dict(self.metrics), "stamp": stamp}

    def _metric(self, name: str) -> float:
        if name not in self.metrics:
            there = ", ".join(self.metrics) or "no label was scored here"
            raise AttributeError(f"no {name} of {self.benchmark}: {there}")
        return self.metrics[name]


@dataclass(frozen=True)
class EvalInput:
    """A sample to be predicted and scored."""

    index: int
    inputs: dict[str, Tensor]  # of the decoder by name, each (3, H, W) float32
    sample: EvalSample  # its ground truth, and where it is from
    size: tuple[int, int]  # rows and columns of the prediction


@dataclass(frozen=True)
class EvalInputs(Dataset[EvalInput]):
    """Samples by index, as `predict` takes them."""

    samples: LabelledSamples
    at_input_size: bool = False  # predict on the input's grid instead of the label's own pixels

    def __getitem__(self, index: int) -> EvalInput:
        settings = self.samples.settings
        own = self.samples.size(index)
        size = (settings.height, settings.width) if self.at_input_size else own
        sample = self.samples.eval_sample(index, self.at_input_size)
        return EvalInput(index, self.samples.inputs(index), sample, size)


@torch.no_grad()
def evaluate(
    decoder: Decoder,
    samples: LabelledSamples,
    indices: Sequence[int],
    ranks: Ranks,
    *,
    batch: int = 4,
    workers: int = 0,
    at_input_size: bool = False,
    windows: int | None = None,
    redraws: int = 0,
    advance: Callable[[int], None] = lambda count: None,
    keep: Callable[[EvalInput, np.ndarray], None] | None = None,
) -> Evaluation:
    """Predict and score samples; every rank takes its part of the batches.

    Args:
        decoder: On its device, in evaluation mode.
        samples: Where the samples come from.
        indices: Which of them.
        ranks: This process and the others.
        batch: Samples predicted at once.
        workers: Processes that read samples ahead of time.
        at_input_size: Score on the input's grid instead of the label's own pixels.
        windows: Side of the square crops to predict in; None predicts the input as it is.
        redraws: Number of released draws to score too, see `redraw`.
        advance: Called with the number of samples that were just scored.
        keep: Called with every prediction.

    Raises:
        DataError: As the task's metric; no sample has a label.
    """
    groups = [list(indices[i : i + batch]) for i in range(0, len(indices), batch)]
    own = groups[ranks.rank :: ranks.world]
    scored: list[tuple[int, State, str, str, str]] = []
    unlabelled = 0
    for group in load_batches(EvalInputs(samples, at_input_size), own, workers, collate=list):
        for one, prediction in predict(decoder, group, windows):
            if keep is not None:
                keep(one, prediction)
            sample = one.sample
            if sample.truth is None:
                unlabelled += 1
                continue
            state = samples.task.update(prediction, sample.truth)
            on = size_text(samples.task.scored(sample.truth.values.shape[-2:]))
            scored.append((one.index, state, sample.recording, sample.subset, on))
        advance(len(group))
    position = {index: place for place, index in enumerate(indices)}
    everything = sorted(ranks.gather(scored), key=lambda one: position[one[0]])
    unlabelled = int(ranks.sum([unlabelled])[0])
    counts, sizes = Counter(one[2] for one in everything), {one[4] for one in everything}
    stamp = protocol_stamp(samples, counts, sizes, windows)
    if not everything:
        return Evaluation({}, 0, unlabelled, {}, stamp)

    def compute(subset: str | None = None) -> Result:
        own = [one for one in everything if subset in (None, one[3])]
        return samples.task.compute([one[1] for one in own], [one[2] for one in own])

    subsets = {name: compute(name) for name in sorted({one[3] for one in everything} - {""})}
    states, recordings = tuple(one[1] for one in everything), tuple(one[2] for one in everything)
    redrawn = redraw(samples.task, states, recordings, redraws)
    count = len(everything)
    return Evaluation(compute(), count, unlabelled, subsets, stamp, redrawn, states, recordings)


def protocol_stamp(
    samples: LabelledSamples, counts: Mapping[str, int], sizes: set[str], windows: int | None
) -> Stamp:
    """The protocol of an evaluation.

    Args:
        samples: Of the benchmark.
        counts: Number of labels that were scored, by recording.
        sizes: Rows x columns on which they were.
        windows: Side of the square crops that were predicted, if they were.
    """
    stores = [store.manifest["settings"] for store in samples.pairs.stores]
    crops = f" in square crops of {windows}" if windows is not None else ""
    return Stamp(
        labels=dict(sorted(counts.items())),
        choice=" and ".join(sorted({choice_text(store) for store in stores})),
        draw=EVERY_LABEL_ONCE,
        input=size_text((samples.settings.height, samples.settings.width)) + crops,
        scored=" and ".join(sorted(sizes)),
        metric=samples.task.forms,
        window=" and ".join(sorted({window_text(store) for store in stores})),
    )


@torch.no_grad()
def predict(
    decoder: Decoder, group: Sequence[EvalInput], windows: int | None = None
) -> Iterator[tuple[EvalInput, np.ndarray]]:
    """Predictions of samples, each on the pixels of its ground truth; see `evaluate`."""
    device = next(decoder.parameters()).device
    names = group[0].inputs
    stacked = {name: torch.stack([one.inputs[name] for one in group]).to(device) for name in names}
    raw = decoder(**stacked) if windows is None else None
    by_size: dict[tuple[int, int], np.ndarray] = {}
    for place, one in enumerate(group):
        if one.size not in by_size:
            if windows is None:
                prediction = decoder.predict(raw, one.size)
            else:
                prediction = decoder.predict_windows(stacked["voxel"], one.size, windows)
            by_size[one.size] = prediction.cpu().numpy()
        yield one, by_size[one.size][place]


def check_fits(
    decoder: Decoder, task: Task, where: object, description: Json | None = None
) -> InputSettings:
    """The input of a decoder that was trained for a task; `where` names its checkpoint.

    Where the checkpoint's `description` names its classes, they must be the task's, in its order.

    Raises:
        ConfigError: It is for another task or other classes, or its input is not known.
    """
    if decoder.task != task.name:
        raise ConfigError(
            "the checkpoint is for another task",
            where=where, found=decoder.task, expected=task.name,
        )  # fmt: skip
    found, expected = (one.get("classes") for one in (decoder.settings, task.decoder_settings))
    if named := (description or {}).get("labels"):
        here = [one.name for one in facts_of(task).classes]
        there = [one.name for one in checked_facts(named, where).classes]
        if here != there:
            found, expected = ", ".join(there), ", ".join(here)
    if found != expected:
        raise ConfigError(
            "the checkpoint has other classes", where=where, found=found, expected=expected
        )
    if decoder.encoder.input is None:
        raise ConfigError("the checkpoint does not say how its input is made", where=where)
    return decoder.encoder.input


def seen_by(description: Json) -> dict[str, Sequence[str]]:
    """The recordings that a task model has seen, as it says, for `refuse_leaks`."""
    return {
        "pretrained on": (description.get("pretraining") or {}).get("recordings", ()),
        "trained on": (description.get("data") or {}).get("recordings", ()),
    }


def refuse_leaks(
    seen: dict[str, Sequence[str]],
    samples: LabelledSamples,
    test: np.ndarray,
    allowed: bool,
    where: object,
) -> list[str]:
    """Refuse a model that has seen test recordings, or give notes of them for the report.

    Args:
        seen: Recordings by how they were seen, such as "pretrained on".
        samples: Of the benchmark.
        test: Indices of the test samples.
        allowed: Note it instead of refusing.
        where: The checkpoint.

    Raises:
        ConfigError: There are some, and they are not allowed.
    """
    tested, notes = samples.recordings(test), []
    for how, names in seen.items():
        leaked = sorted(t for t in tested if any(overlap(name, t) for name in names))
        if leaked and not allowed:
            raise ConfigError(
                f"the model was {how} test recordings of this benchmark",
                where=where,
                found=f"{len(leaked)} of {len(tested)}: {', '.join(leaked[:MOST])}"
                + (", .." if len(leaked) > MOST else ""),
                hint="name data that it has not seen with --data, or train it without them; "
                "--transductive scores it all the same, which is recorded",
            )
        if leaked:
            notes.append(f"transductive: {how} {len(leaked)} of {len(tested)} test recordings")
    return notes
