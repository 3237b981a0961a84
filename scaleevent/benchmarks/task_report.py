"""What a run of `probe` or `finetune` leaves: the task model's description and the result table."""

from __future__ import annotations

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
from scaleevent.benchmarks.task_model import Start
from scaleevent.checkpoint import save_task
from scaleevent.config.downstream import FinetuneConfig
from scaleevent.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class TaskResult(EvalResult):
    """What `probe` and `finetune` have made: a task model, scored on the benchmark's test set.

    Attributes:
        out: The run folder: settings, log, report, picture.
        training_samples: Number of labels that were trained on.
    """

    out: Path
    training_samples: int = 0

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
    """A trained and scored task model."""

    cfg: FinetuneConfig
    command: str  # `probe` or `finetune`
    start: Start  # the model, and what it started from
    samples: LabelledSamples  # of the benchmark
    labels: TrainingLabels  # those that were trained on
    test: np.ndarray  # indices of the samples that were scored
    baselines: tuple[Baseline, ...]  # from the training labels
    evaluation: Evaluation

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

    def description(self) -> dict[str, Any]:
        """What the checkpoint says of itself; JSON-able."""
        pretraining = self.start.pretraining
        return {
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
                "test_samples": self.evaluation.samples,
            },
            "window": self.samples.pairs.window,
            "labels": facts_of(self.samples.task).to_json(),
            "metrics": self.evaluation.result,
            "stamp": self.evaluation.stamp.to_json(),
        }

    def write(self, out: Path, notes: list[str]) -> TaskResult:
        """Write task.safetensors and panel.png; give the table beside published numbers."""
        cfg, scored = self.cfg, self.evaluation.samples
        benchmark = benchmark_of(cfg.benchmark, cfg.data)
        description = self.description()
        save_task(out / "task.safetensors", self.start.decoder, description)
        notes = [*notes, f"task model: {out / 'task.safetensors'}"]
        if cfg.pictures and scored:
            draw_rows(self.start.decoder, self.samples, self.test, cfg.pictures, out / "panel.png")
            notes.append(f"picture: {out / 'panel.png'}")
        others = beside(self.baselines, self.samples, self.test, self.evaluation)
        columns, rows = result_table(
            cfg.benchmark, benchmark.task, self.protocol, self.evaluation, others.results
        )
        if cfg.fraction < 1:
            notes.append(f"labels of {cfg.fraction:.0%} of the training samples, by {cfg.subset}")
        notes.append(self.labels.describe())
        notes += list_notes(cfg.lists, len(self.labels.available) + len(self.test))
        counts = f"{len(self.labels.kept):,} training and {scored:,} test samples"
        title = f"{self.command} {cfg.benchmark}: {counts}"
        notes += others.notes
        notes += stamp_notes(cfg.benchmark, self.protocol, self.evaluation.stamp)
        notes += [*counting_notes(benchmark.task, self.evaluation), *benchmark.notes]
        tables = class_tables(self.samples.task, self.evaluation)
        facts = description | {"input": asdict(self.samples.settings)} | others.facts
        return replace(
            TaskResult.of(cfg, self.command, benchmark.task),
            title=title, columns=columns, rows=rows, notes=tuple(notes), record=facts, more=tables,
            metrics=self.evaluation.result, samples=scored, baselines=others.results,
            stamp=self.evaluation.stamp, training_samples=len(self.labels.kept),
        )  # fmt: skip
