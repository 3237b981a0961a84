"""What a run of `probe` or `finetune` leaves: the task model's description and the result table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.benchmarks.baselines import Baseline
from scaleevent.benchmarks.draws import TrainingLabels
from scaleevent.benchmarks.evaluation import EvalResult, Evaluation
from scaleevent.benchmarks.intervals import beside
from scaleevent.benchmarks.meaning import facts_of
from scaleevent.benchmarks.own import benchmark_of
from scaleevent.benchmarks.published import FRACTIONS
from scaleevent.benchmarks.report import (
    class_tables,
    counting_notes,
    draw_rows,
    list_notes,
    result_table,
    stamp_notes,
)
from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.benchmarks.selection import Selection
from scaleevent.benchmarks.task_model import Start
from scaleevent.checkpoint import save_task
from scaleevent.config.downstream import FinetuneConfig
from scaleevent.decoders import decoder_name
from scaleevent.system.files import Json
from scaleevent.tasks.task import Task
from scaleevent.training.best import Best


@dataclass(frozen=True, kw_only=True)
class TaskResult(EvalResult):
    """What `probe` and `finetune` have made: a task model, scored on the benchmark's test set.

    Attributes:
        out: The run folder: settings, log, report, picture.
        training_samples: Number of labels that were trained on.
        best: The model of the best step; None where no labels are held out to choose it.
    """

    out: Path
    training_samples: int = 0
    best: Path | None = None

    @classmethod
    def of(cls, cfg: FinetuneConfig, command: str, task: Task) -> TaskResult:
        """One without numbers, for ranks that have none."""
        checkpoint = cfg.out / "task.safetensors"
        return cls(
            command, "", (), (), out=cfg.out, benchmark=cfg.benchmark, checkpoint=checkpoint,
            headline=task.headline,
        )  # fmt: skip


@dataclass(frozen=True)
class TrainedTask:
    """A task model in training, and what it leaves."""

    cfg: FinetuneConfig
    command: str  # `probe` or `finetune`
    start: Start  # the model, and what it started from
    samples: LabelledSamples  # of the benchmark
    labels: TrainingLabels  # those that were trained on
    selection: Selection  # those that chose the best step
    test: np.ndarray  # indices of the samples that are scored

    @property
    def protocol(self) -> str:
        """The supervision, in the words of published tables."""
        cfg, probe = self.cfg, self.command == "probe"
        if probe and cfg.fraction == 1:
            return "probe"
        kind = "probe, " if probe else ""
        fewer = ", its own steps" if cfg.fraction < 1 and cfg.steps == "subset" else ""
        if cfg.fraction in FRACTIONS and cfg.subset == "interval":
            return kind + FRACTIONS[cfg.fraction] + fewer
        return f"{kind}{cfg.fraction:g} by {cfg.subset}{fewer}"

    def keeper(self) -> Best | None:
        """Keeps the model at its best on what is held out; None where nothing is."""

        def save(path: Path, kept: Json) -> None:
            save_task(path, self.start.decoder, self.description() | kept)

        return self.selection.keeper(self.samples, self.cfg.out, save)

    def description(self, scored: Evaluation | None = None) -> dict[str, Any]:
        """What the checkpoint says of itself, with its score if it has one; JSON-able."""
        pretraining = self.start.pretraining
        description = {
            "benchmark": self.cfg.benchmark,
            "protocol": self.protocol,
            "config": self.cfg.recorded(),
            "pretraining": pretraining.get("data") or self.start.decoder.encoder.history,
            "encoder": {
                "source": self.cfg.checkpoint,
                "sha256": pretraining.get("sha256"),
                "student_init": (pretraining.get("config") or {}).get("student_init"),
            },
            "teacher": pretraining.get("teacher"),
            "data": {
                "stores": [store.fingerprint for store in self.samples.pairs.stores],
                "recordings": sorted(self.samples.recordings(self.labels.kept)),
                "training_samples": len(self.labels.kept),
                "samples_per_epoch": self.labels.per_epoch,
                **({"test_samples": scored.samples} if scored else {}),
                **({"selecting_samples": held} if (held := len(self.selection.held_out)) else {}),
            },
            "window": self.samples.pairs.window,
            "labels": facts_of(self.samples.task).to_json(),
        }
        if scored is None:
            return description
        return description | {"metrics": scored.result, "stamp": scored.stamp.to_json()}

    def plan(self, machine: str) -> list[str]:
        """What is about to be trained and how, for people; `machine` is what computes."""
        cfg, labels, decoder = self.cfg, self.labels, self.start.decoder
        of_task = {"task", "classes", "max_depth"}
        own = ", ".join(f"{k} {v}" for k, v in decoder.settings.items() if k not in of_task)
        rate = "frozen" if cfg.freeze == "encoder" else f"lr {cfg.encoder_lr or cfg.lr:g}"
        return [
            f"{cfg.benchmark}: {len(labels.kept):,} of {len(labels.available):,} training samples, "
            f"{len(self.test):,} test samples; {labels.describe()}; "
            f"encoder {cfg.checkpoint}, decoder {decoder_name(decoder)}{own and f' ({own})'}",
            f"preset {cfg.preset}, input {self.start.settings.height}x{self.start.settings.width}, "
            f"batch {cfg.batch}, {cfg.epochs} epochs, lr {cfg.lr:g}, "
            f"encoder {rate}, {cfg.schedule}, on {machine}",
            *self.start.describe(),
            self.selection.describe(),
        ]

    def write(
        self,
        out: Path,
        evaluation: Evaluation,
        baselines: Sequence[Baseline],
        best: Best | None,
        notes: list[str],
    ) -> TaskResult:
        """Write task.safetensors and panel.png; give the table beside published numbers."""
        cfg, scored = self.cfg, evaluation.samples
        benchmark = benchmark_of(cfg.benchmark, cfg.data)
        description = self.description(evaluation)
        save_task(out / "task.safetensors", self.start.decoder, description)
        notes = [*notes, f"task model: {out / 'task.safetensors'}"]
        notes.append(best.describe() if best else self.selection.describe())
        if cfg.pictures and scored:
            draw_rows(self.start.decoder, self.samples, self.test, cfg.pictures, out / "panel.png")
            notes.append(f"picture: {out / 'panel.png'}")
        others = beside(baselines, self.samples, self.test, evaluation)
        columns, rows = result_table(
            cfg.benchmark, benchmark.task, self.protocol, evaluation, others.results
        )
        if cfg.fraction < 1:
            notes.append(
                f"labels of {100 * cfg.fraction:g}% of the training samples, by {cfg.subset}"
            )
        notes.append(self.labels.describe())
        labels = len(self.labels.available) + len(self.test) + len(self.selection.held_out)
        notes += list_notes(cfg.lists, labels)
        counts = f"{len(self.labels.kept):,} training and {scored:,} test samples"
        title = f"{self.command} {cfg.benchmark}: {counts}"
        notes += others.notes
        notes += stamp_notes(cfg.benchmark, self.protocol, evaluation.stamp)
        notes += [*counting_notes(benchmark.task, evaluation), *benchmark.notes]
        tables = class_tables(self.samples.task, evaluation)
        facts = description | {"input": asdict(self.samples.settings)} | others.facts
        facts["best"] = best.fact() if best else None
        return replace(
            TaskResult.of(cfg, self.command, benchmark.task),
            title=title, columns=columns, rows=rows, notes=tuple(notes), record=facts, more=tables,
            metrics=evaluation.result, samples=scored, baselines=others.results,
            stamp=evaluation.stamp, training_samples=len(self.labels.kept),
            best=best.path if best and best.kept else None,
        )  # fmt: skip
