"""The contract of every pretraining objective.

An objective is one module and one line in `config.catalog.OBJECTIVES`. The module holds `Settings`,
a subclass of `PretrainConfig` with the options that only this objective has, and
``build(settings, run) -> Objective``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

from torch import nn

from scaleevent.encoders.encoder import Encoder
from scaleevent.objectives.probe_comparison import ProbeScores
from scaleevent.pairs.loading import Pool
from scaleevent.pairs.sample_inputs import INPUTS, Input
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.splits import Split
from scaleevent.system.files import Json
from scaleevent.system.reports import Report, Section
from scaleevent.training.loop import Batch, Trainable, to_device
from scaleevent.training.terms import Metrics, Terms, total


@dataclass(frozen=True)
class Compared:
    """An encoder before and after pretraining, for the report."""

    rows: list[tuple[str, float, float]] = field(default_factory=list)  # name, before, after
    notes: list[str] = field(default_factory=list)
    tables: tuple[Section, ...] = ()
    facts: Json = field(default_factory=dict)
    probes: Mapping[str, ProbeScores] = field(default_factory=dict)  # by what was probed


class Change(NamedTuple):
    """A number on held-out pairs before and after pretraining; None: it was not measured."""

    before: float | None
    after: float


@dataclass(frozen=True, kw_only=True)
class PretrainResult(Report):
    """What `pretrain` has made.

    Attributes:
        out: The run folder: settings, log, report, pictures, state.
        checkpoint: The encoder.
        best: The encoder of the step with the lowest held-out loss; None where nothing is held out.
        steps: Number of steps in all.
        metrics: Numbers on held-out pairs by name, such as "held-out loss".
        probes: What linear probes make of the tokens of each of: constant, place only, scene +
            place, random weights, student before, student after, teacher on images. Empty where no
            labelled pair is held out.
    """

    out: Path
    checkpoint: Path
    best: Path | None = None
    steps: int = 0
    metrics: Mapping[str, Change] = field(default_factory=dict)
    probes: Mapping[str, ProbeScores] = field(default_factory=dict)


class Objective(Trainable):
    """What an event encoder is pretrained for.

    Args:
        encoder: The event encoder that is trained, on the run's device.
    """

    # what a sample holds: functions by name, those of `pairs.sample_inputs.INPUTS` or others;
    # batches have the same keys
    inputs: ClassVar[Mapping[str, Input]] = {"voxel": INPUTS["voxel"]}
    # names in the final table for numbers of `validate`
    titles: ClassVar[Mapping[str, str]] = {"val_loss": "held-out loss"}

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @property
    def model(self) -> nn.Module:
        """What is trained, saved and resumed: the encoder, or a module that holds it."""
        return self.encoder

    def sample_inputs(self) -> Mapping[str, Input]:
        """`inputs`, or those that depend on how this objective was built."""
        return self.inputs

    @property
    def source(self) -> str:
        """What the encoder learns from, for people; a teacher's name, for example."""
        return "events alone"

    @abstractmethod
    def step(self, model: nn.Module, batch: Batch) -> tuple[Terms, Metrics]:
        """Loss terms of a batch, and metrics that are computed only where they are logged.

        Args:
            model: `self.model`, perhaps wrapped for several ranks; gradients need this one.
            batch: Tensors by name on the run's device, samples stacked.
        """

    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Numbers over held-out samples, named `val_*`; called without gradients.

        By default the mean of the total loss and of each term.

        Args:
            batches: Held-out samples, on the CPU.
        """

        def measure(batch: Batch) -> dict[str, float]:
            terms, _ = self.step(self.model, batch)
            values = {"loss": total(terms, self.weights), **terms}
            return {name: float(value) for name, value in values.items()}

        return self.sample_means(batches, measure)

    def sample_means(
        self, batches: Iterable[Batch], measure: Callable[[Batch], dict[str, float]]
    ) -> dict[str, float]:
        """Means over samples of a batch's numbers, named `val_*`; batches come on the CPU."""
        sums: dict[str, float] = {}
        count = 0
        device = next(self.encoder.parameters()).device
        for batch in batches:
            size = len(next(iter(batch.values())))
            for name, value in measure(to_device(batch, device)).items():
                sums[name] = sums.get(name, 0.0) + size * value
            count += size
        return {f"val_{name}": value / count for name, value in sums.items()}

    def calibrate(self, training: Pool) -> None:
        """Adapt to training samples before the first step; batches come on the CPU."""

    def fingerprint(self) -> Json:
        """What, beside the settings, a resumed run must agree with.

        But for `training.state.CALIBRATED`: what `calibrate` has found, which a resumed run takes
        from its state.
        """
        return {}

    def description(self) -> Json:
        """What the checkpoint says of the objective; JSON-able."""
        return {}

    def compare(
        self, samples: PairSamples, split: Split, before: Encoder, batch: int, out: Path
    ) -> Compared:
        """Further rows of the final table, tables and notes; pictures go to `out`.

        Args:
            samples: All pairs.
            split: Those that were trained on and those held out.
            before: The encoder as it was before the first step.
            batch: Samples to encode together.
            out: The run folder.
        """
        return Compared()
