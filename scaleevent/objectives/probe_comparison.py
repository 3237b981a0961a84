"""Probes of several encoders on the same labelled scenes, beside what knows no events at all.

A gain of an encoder counts from the controls, which stand under every probe: a constant; the place
of a token in the picture; and the mean token of the teacher's image, spread over all places, with
the place, so that knowing the kind of scene is no merit either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from scaleevent.encoders.encoder import Encoder, encode_all
from scaleevent.objectives.probe_scenes import FEW, Labelled, ProbeScenes, class_names
from scaleevent.objectives.probe_scores import (
    COVERED,
    LEAST_RECORDINGS,
    RESAMPLES,
    Resamples,
    abs_rel,
    confusions,
    depth_errors,
    mean_overlap,
    overlap,
    rmse,
)
from scaleevent.objectives.probing import (
    Features,
    Linear,
    class_shares,
    fit_log_depth,
    fit_ridge,
    log_depths,
)
from scaleevent.objectives.softmax_probe import fit_softmax
from scaleevent.pairs.loading import in_order
from scaleevent.pairs.samples import PairSamples
from scaleevent.system.files import Json
from scaleevent.system.reports import Section, cell

FAR_M = 80.0  # depth that still counts, as in the benchmarks' metrics
CONSTANT, PLACE, SCENE = "constant", "place only", "scene + place"
RIDGE, BALANCED, DEPTH = "mIoU, ridge", "mIoU, balanced", "depth RMSE, m"
_FIELDS = {RIDGE: "ridge", BALANCED: "balanced", DEPTH: "depth"}  # of `ProbeScores`

Metric = Callable[[np.ndarray], np.ndarray]  # of (..., *S) sums over scenes


@dataclass(frozen=True)
class ClassProbe:
    """Semantics by `fit_ridge` or `fit_softmax`; a scene adds a (K, K) confusion matrix."""

    labelled: Labelled
    shares: Tensor  # (N, L, K) of the fitted scenes
    grid: tuple[int, int]
    names: tuple[str, ...]
    balanced: bool
    seed: int
    metrics: Mapping[str, Metric] = field(default_factory=lambda: {"miou": mean_overlap})

    def sums(self, fitted: Features, scored: Features) -> tuple[np.ndarray, float | None]:
        """What each scored scene adds, and the strength of the penalty where it was chosen."""
        if self.balanced:
            linear, strength = fit_softmax(fitted, self.shares, self.seed)
        else:
            linear, strength = fit_ridge(fitted, self.shares), None
        scores = linear.scores(scored)
        return confusions(scores, self.labelled.scored_labels, self.grid), strength

    @property
    def value(self) -> int:
        """The most frequent class; the same under either weighting, which keeps their order."""
        return int(self.shares.sum((0, 1)).argmax())

    def constant(self) -> tuple[str, np.ndarray]:
        """The name of the constant prediction, and what each scored scene adds."""
        chosen = torch.zeros(1, len(self.names))
        chosen[0, self.value] = 1
        scores = _constant(chosen, len(self.labelled.scored), self.grid)
        counts = confusions(scores, self.labelled.scored_labels, self.grid)
        return f"{self.names[self.value]} everywhere", counts

    def by_class(self, sums: np.ndarray) -> dict[str, float | None]:
        """Overlap of each class in percent; None where it is in neither labels nor prediction."""
        iou = 100 * overlap(sums.sum(0))
        return {
            name: None if np.isnan(one) else float(one)
            for name, one in zip(self.names, iou, strict=True)
        }


@dataclass(frozen=True)
class DepthProbe:
    """Log depth by `fit_log_depth`; a scene adds the sums of `depth_errors`."""

    labelled: Labelled
    grid: tuple[int, int]
    seed: int
    metrics: Mapping[str, Metric] = field(
        default_factory=lambda: {"rmse": rmse, "abs_rel": abs_rel}
    )

    @cached_property
    def targets(self) -> tuple[Tensor, Tensor]:
        """Log depth of the cells of the fitted scenes, and their known parts."""
        return log_depths(self.labelled.fitted_labels, self.grid, FAR_M)

    @cached_property
    def pixels(self) -> Tensor:
        """(n,) all depths of the fitted scenes that count, metres."""
        found = [one[(one > 0) & (one <= FAR_M)] for one in self.labelled.fitted_labels]
        return torch.cat(found)

    def sums(self, fitted: Features, scored: Features) -> tuple[np.ndarray, float | None]:
        """What each scored scene adds, and the strength of the penalty."""
        linear, strength = fit_log_depth(fitted, *self.targets, self.seed)
        return self._errors(linear.scores(scored)), strength

    def constant(self) -> tuple[str, np.ndarray]:
        """The median depth of the fitted scenes, and what each scored scene adds."""
        median = float(self.pixels.median())
        scores = _constant(torch.tensor([[np.log(median)]]), len(self.labelled.scored), self.grid)
        return f"{median:.1f} m everywhere", self._errors(scores)

    def _errors(self, scores: Tensor) -> np.ndarray:
        limits = float(self.pixels.min()), FAR_M
        return depth_errors(scores, self.labelled.scored_labels, self.grid, limits)


def probe_encoders(
    samples: PairSamples,
    scenes: ProbeScenes,
    encoders: Mapping[str, tuple[Encoder, str]],
    grid: tuple[int, int],
    batch: int,
    seed: int,
) -> Probed | None:
    """Controls and encoders under every probe for which there are labels; None where there is none.

    Args:
        samples: All pairs.
        scenes: Those that the probes are fitted and scored on.
        encoders: Each with the name of its input in a sample, by the name of its row. The last one
            sees images: the controls take the kind of scene from it.
        grid: Rows and columns of tokens.
        batch: Samples to encode together.
        seed: Of inner splits and resamples.
    """
    if not scenes.usable or not (probes := build_probes(samples, scenes, grid, seed)):
        return None
    tokens: dict[str, list[Tensor]] = {name: [] for name in encoders}
    both = np.concatenate([scenes.fitted, scenes.scored])
    for loaded in in_order(samples, both, batch):
        for name, (encoder, key) in encoders.items():
            tokens[name].append(encode_all(encoder, [loaded[key]]))
    split = {
        name: torch.cat(found).split([len(scenes.fitted), len(scenes.scored)])
        for name, found in tokens.items()
    }
    probed = Probed(scenes, probes, seed)
    probed.add_controls(*split[list(encoders)[-1]])
    for name, sides in split.items():
        probed.add(name, *map(Features.tokens, sides))
    return probed


def build_probes(
    samples: PairSamples, scenes: ProbeScenes, grid: tuple[int, int], seed: int
) -> dict[str, ClassProbe | DepthProbe]:
    """The probes for which there are labels, by name."""
    found: dict[str, ClassProbe | DepthProbe] = {}
    semantics = Labelled.of(samples, scenes, "semantics")
    if semantics is not None:
        names = class_names(samples, semantics.fitted_labels + semantics.scored_labels)
        shares = class_shares(semantics.fitted_labels, grid, len(names))
        for name, balanced in ((RIDGE, False), (BALANCED, True)):
            found[name] = ClassProbe(semantics, shares, grid, names, balanced, seed)
    depth = Labelled.of(samples, scenes, "depth")
    if depth is not None and bool((_within(depth.fitted_labels)) and _within(depth.scored_labels)):
        found[DEPTH] = DepthProbe(depth, grid, seed)
    return found


@dataclass(frozen=True)
class Score:
    """A number of a probe.

    Args:
        value: The number.
        interval: What holds 95 % of it over resampled recordings; None of too few recordings.
    """

    value: float
    interval: tuple[float, float] | None = None

    def to_json(self) -> Json:
        """For reports."""
        return {"value": self.value, "interval": self.interval and list(self.interval)}


@dataclass(frozen=True)
class ProbeScore:
    """What one probe makes of one set of tokens, or of its difference to another.

    Args:
        metrics: Classes: `miou`, percent. Depth: `rmse`, metres, and `abs_rel`.
        classes: Overlap by class, percent; None where it is in neither labels nor prediction. Of
            depth and of differences: None.
        strength: Of the penalty, where it was chosen.
    """

    metrics: Mapping[str, Score]
    classes: Mapping[str, float | None] | None = None
    strength: float | None = None

    def to_json(self, less: str | None = None) -> Json:
        """For reports; `less`: what it is the difference to."""
        found: Json = {name: score.to_json() for name, score in self.metrics.items()}
        if less is None:
            found["strength"] = self.strength
        return found if self.classes is None else found | {"iou": dict(self.classes)}


@dataclass(frozen=True)
class ProbeScores:
    """What linear probes make of one set of tokens; None where there are no such labels.

    Args:
        ridge: Of classes.
        balanced: Of classes, by softmax regression that weighs rare ones more.
        depth: Of log depth.
    """

    ridge: ProbeScore | None = None
    balanced: ProbeScore | None = None
    depth: ProbeScore | None = None

    @property
    def miou(self) -> float:
        """Mean overlap of the ridge, percent; NaN without labels of classes."""
        return self.ridge.metrics["miou"].value if self.ridge else math.nan

    @property
    def rmse(self) -> float:
        """Error of depth, metres; NaN without labels of depth."""
        return self.depth.metrics["rmse"].value if self.depth else math.nan


@dataclass
class Probed:
    """The results of all probes by what was probed; scored on the same scenes throughout.

    Args:
        scenes: Those that the probes are fitted and scored on.
        probes: By name.
        seed: Of the resamples.
    """

    scenes: ProbeScenes
    probes: Mapping[str, ClassProbe | DepthProbe]
    seed: int
    sums: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # by row and probe
    strengths: dict[tuple[str, str], float | None] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)  # names in order
    constants: list[str] = field(default_factory=list)  # what they are

    def add(self, name: str, fitted: Features, scored: Features) -> None:
        """Fit and score every probe on the features of `scenes.fitted` and `scenes.scored`."""
        self.rows.append(name)
        for probe, one in self.probes.items():
            own = one.labelled
            found = one.sums(fitted.take(own.fitted), scored.take(own.scored))
            self.sums[name, probe], self.strengths[name, probe] = found

    def add_constant(self) -> None:
        """The row of the best constant."""
        self.rows.append(CONSTANT)
        for probe, one in self.probes.items():
            what, self.sums[CONSTANT, probe] = one.constant()
            if what not in self.constants:
                self.constants.append(what)

    def add_controls(self, fitted: Tensor, scored: Tensor) -> None:
        """The rows that see no event, with the (N, L, D) tokens of the teacher's images."""
        self.add_constant()
        places = fitted.shape[1]
        self.add(PLACE, *(Features.place(len(one), places) for one in (fitted, scored)))
        self.add(SCENE, *(Features.scene_and_place(one) for one in (fitted, scored)))

    @cached_property
    def resamples(self) -> dict[str, Resamples]:
        """Of the recordings of each probe's scored scenes."""
        return {
            probe: Resamples.of(one.labelled.recordings, self.seed)
            for probe, one in self.probes.items()
        }

    def number(self, row: str, probe: str, metric: str | None = None) -> float:
        """A metric of a row, by default the probe's first."""
        metrics = self.probes[probe].metrics
        measure = metrics[metric or next(iter(metrics))]
        return float(measure(self.sums[row, probe].sum(0)))

    def entry(self, row: str, probe: str, metric: str, less: str | None = None) -> Score:
        """A number with its interval, or that of a row's difference to another's."""
        measure = self.probes[probe].metrics[metric]
        other = None if less is None else self.sums[less, probe]
        value = self.number(row, probe, metric)
        if less is not None:
            value -= self.number(less, probe, metric)
        return Score(value, self.resamples[probe].interval(measure, self.sums[row, probe], other))

    def score(self, row: str, probe: str, less: str | None = None) -> ProbeScore:
        """What a probe makes of a row, or of its difference to another's."""
        one = self.probes[probe]
        metrics = {name: self.entry(row, probe, name, less) for name in one.metrics}
        if less is not None:
            return ProbeScore(metrics)
        classes = one.by_class(self.sums[row, probe]) if isinstance(one, ClassProbe) else None
        return ProbeScore(metrics, classes, self.strengths.get((row, probe)))

    def scores(self) -> dict[str, ProbeScores]:
        """What all probes make of each row."""
        return {
            row: ProbeScores(**{_FIELDS[probe]: self.score(row, probe) for probe in self.probes})
            for row in self.rows
        }

    def facts(self, differences: tuple[tuple[str, str], ...]) -> Json:
        """Everything in full precision; JSON-able."""

        def entries(row: str, less: str | None = None) -> Json:
            return {probe: self.score(row, probe, less).to_json(less) for probe in self.probes}

        return {
            "fitted": len(self.scenes.fitted),
            "scored": len(self.scenes.scored),
            "recordings": {probe: own.recordings for probe, own in self.resamples.items()},
            "scenes": self.scenes.how,
            "constants": self.constants,
            "interval": self.coverage,
            "rows": {row: entries(row) for row in self.rows},
            "differences": {f"{row} - {less}": entries(row, less) for row, less in differences},
        }

    @property
    def coverage(self) -> str:
        """What an interval covers, for people."""
        count = max((own.recordings for own in self.resamples.values()), default=0)
        if count < LEAST_RECORDINGS:
            return f"none, of {count} scored recordings"
        return (
            f"{COVERED:.0%} over {count} scored recordings ({RESAMPLES:,} resamples), for one seed "
            "of world, split, draws and start, and one fit of each probe"
        )

    def sections(self, differences: tuple[tuple[str, str], ...]) -> tuple[Section, ...]:
        """The tables to show: all probes by row, and the classes under the balanced probe."""
        measured = [(probe, name) for probe, one in self.probes.items() for name in one.metrics]
        titles = [probe if name != "abs_rel" else "AbsRel" for probe, name in measured]
        pairs: list[tuple[str, str | None]] = [(row, None) for row in self.rows]
        pairs += differences
        rows = tuple(
            (
                row if less is None else f"{row} - {less}",
                *(_text(self.entry(row, *one, less), less is not None) for one in measured),
            )
            for row, less in pairs
        )
        title = "Linear probes on frozen tokens"
        found = [Section(title, ("tokens", *titles), rows)]
        if isinstance(probe := self.probes.get(BALANCED), ClassProbe):
            lines = tuple(
                (row, *probe.by_class(self.sums[row, BALANCED]).values()) for row in self.rows
            )
            found.append(Section("IoU of each class, balanced probe", ("", *probe.names), lines))
        return tuple(found)

    def notes(self) -> list[str]:
        """What the tables mean, a line each."""
        fitted, scored = len(self.scenes.fitted), len(self.scenes.scored)
        found = [
            f"probes: fitted on {fitted} labelled pairs and scored on {scored}, {self.scenes.how}; "
            "pretraining trained on none of them",
            f"controls: constant, most frequent class or median ({', '.join(self.constants)}); the "
            "place of a token; the mean token of the teacher's image with the place: a gain counts "
            "from there",
            f"intervals: {self.coverage}",
        ]
        if min(fitted, scored) < FEW:
            found.append(f"fewer than {FEW} pairs on a side of the probes: rough numbers")
        return found


def _constant(scores: Tensor, samples: int, grid: tuple[int, int]) -> Tensor:
    """(N, L, K) of the same (1, K) scores."""
    none = torch.empty(0)
    linear = Linear(none, none, torch.empty(0, scores.shape[1]), scores)
    return linear.scores(Features.place(samples, grid[0] * grid[1]))


def _within(depths: list[Tensor]) -> bool:
    return any(bool(((one > 0) & (one <= FAR_M)).any()) for one in depths)


def _text(score: Score, signed: bool) -> str:
    """A number with its interval; a difference shows its sign."""
    form = (lambda value: f"{value:+.3g}") if signed else cell
    span, shown = score.interval, form(score.value)
    return shown if span is None else f"{shown} ({form(span[0])} to {form(span[1])})"
