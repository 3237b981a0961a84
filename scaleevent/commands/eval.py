"""`scaleevent eval`: a task model on the test set of a benchmark."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.benchmarks.evaluation import (
    Example,
    Trivial,
    comparison,
    counting_notes,
    draw_rows,
    evaluate,
    refuse_leaks,
)
from scaleevent.benchmarks.registry import BENCHMARKS, NATIVE, Benchmark
from scaleevent.benchmarks.samples import LabelledSamples, benchmark_split
from scaleevent.checkpoint import load_task
from scaleevent.commands.benchmark_data import benchmark_samples
from scaleevent.config.downstream import EvalConfig
from scaleevent.datasets.flow_png import encode_flow
from scaleevent.decoders.decoder import Decoder
from scaleevent.decoders.eomt import EoMT
from scaleevent.errors import ConfigError
from scaleevent.system.files import claimed_folder, write_bytes, write_json
from scaleevent.system.ranks import Ranks, ranks
from scaleevent.system.reports import Report, progress
from scaleevent.tasks.depth import Depth
from scaleevent.training.tensors import HINTS, read_description

SUBMITTED = "dsec-flow"  # the benchmark whose test labels are not public


def run(cfg: EvalConfig, quiet: bool = False) -> Report:
    """Score a task checkpoint.

    Args:
        cfg: All settings; the network's input and everything else comes from the checkpoint.
        quiet: No progress on stderr.

    Returns:
        The result beside trivial and published ones.

    Raises:
        CheckpointError: Not a task checkpoint.
        ConfigError: It is of another task or other classes.
    """
    if cfg.submission is not None and cfg.benchmark != SUBMITTED:
        raise ConfigError(f"only {SUBMITTED} takes submissions", where="--submission")
    if cfg.pictures and cfg.out is None:
        raise ConfigError("pictures need a folder", where="--pictures", hint="add --out FOLDER")
    with ranks(cfg.device) as peers:
        return _evaluate(cfg, peers, quiet or not peers.main)


def _evaluate(cfg: EvalConfig, peers: Ranks, quiet: bool) -> Report:
    benchmark = BENCHMARKS[cfg.benchmark]
    if isinstance(benchmark.task, Depth):
        benchmark = replace(benchmark, task=replace(benchmark.task, alignment=cfg.alignment))
    kind = (read_description(cfg.checkpoint) or {}).get("kind", "task")
    if kind != "task":
        raise ConfigError(
            "this checkpoint is not a task model",
            where=cfg.checkpoint,
            found=kind,
            hint=HINTS.get((kind, "task")),
        )
    decoder, description = load_task(cfg.checkpoint)
    _check_fits(decoder, description, cfg, benchmark)
    decoder.to(peers.device)
    samples = benchmark_samples(cfg.benchmark, cfg.data, decoder.encoder.input, peers, quiet=quiet)
    samples.task = benchmark.task
    split = benchmark_split(samples, "test" if cfg.submission else benchmark.scored)
    seen = {
        "pretrained on": description.get("pretraining", {}).get("recordings", ()),
        "trained on": description.get("data", {}).get("recordings", ()),
    }
    notes = refuse_leaks(seen, samples, split.test, cfg.transductive, cfg.checkpoint)
    claim = (
        claimed_folder(cfg.out, "evaluation", overwrite=cfg.overwrite, resume=False)
        if peers.main and cfg.out is not None
        else nullcontext()
    )
    handed_in: list[Path] = []

    def keep(example: Example, prediction: np.ndarray) -> None:
        item = example.item
        if cfg.submission is not None and item.file_index is not None:
            if prediction.shape[-2:] != samples.sensor(example.index):
                raise ConfigError(
                    "a submission needs every pixel, but the network's input is cropped",
                    where=item.where,
                    found=f"{prediction.shape[-2]}x{prediction.shape[-1]}",
                    expected="{}x{}".format(*samples.sensor(example.index)),
                    hint="train it with an input --size of the sensor's aspect ratio",
                )
            path = cfg.submission / item.recording / f"{item.file_index:06d}.png"
            write_bytes(path, encode_flow(prediction))
            handed_in.append(path)

    with claim, progress("eval", len(split.test), "samples", not quiet) as ticker:
        result = evaluate(
            decoder, samples, split.test.tolist(), peers,
            batch=cfg.batch, workers=peers.loader_workers(cfg.workers), keep=keep,
            at_input_size=cfg.at_input_size, windows=cfg.windows,
            advance=lambda count: ticker.advance(count * peers.world),
        )  # fmt: skip
        files = int(peers.sum([len(handed_in)])[0])
        if not peers.main:
            return Report("eval", "", (), ())
        summaries = {}
        if result.samples and len(split.train):
            trivial = Trivial.of(samples, split.train.tolist())
            summaries = {trivial.name: trivial.score(samples, split.test.tolist())}
        setting = description.get("protocol", "full")
        columns, rows = comparison(cfg.benchmark, benchmark.task, setting, result, summaries)
        notes += _protocol_notes(cfg, benchmark) + counting_notes(benchmark.task, result)
        if files:
            notes.append(f"{files:,} files to hand in: {cfg.submission}")
        if cfg.pictures and cfg.out is not None and result.samples:
            draw_rows(decoder, samples, split.test, cfg.pictures, cfg.out / "panel.png")
            notes.append(f"picture: {cfg.out / 'panel.png'}")
        report = Report(
            "eval",
            f"{cfg.benchmark}, {result.samples:,} test samples",
            columns,
            rows,
            tuple(notes),
            _facts(cfg, description, samples, result.summary),
        )
        if cfg.out is not None:
            write_json(cfg.out / "report.json", report.to_json())
    return report


def _check_fits(
    decoder: Decoder, description: dict[str, Any], cfg: EvalConfig, benchmark: Benchmark
) -> None:
    task = benchmark.task
    trained = description.get("benchmark")
    if decoder.task != task.name:
        raise ConfigError(
            "the checkpoint is for another task",
            where=cfg.checkpoint,
            found=f"{decoder.task}, trained on {trained}",
            expected=task.name,
        )
    for flag, task_name in (("alignment", "depth"), ("at_input_size", "segmentation")):
        if getattr(cfg, flag) != EvalConfig.model_fields[flag].default and task.name != task_name:
            raise ConfigError(f"only for {task_name}", where=f"--{flag.replace('_', '-')}")
    if cfg.windows is not None and not isinstance(decoder, EoMT):
        raise ConfigError("only EoMT predicts in windows", where="--windows")
    if cfg.windows is not None:
        decoder.encoder.grid(cfg.windows, cfg.windows)
    classes = decoder.settings.get("classes")
    if task.name == "segmentation" and classes != len(task.classes):
        raise ConfigError(
            "the checkpoint has other classes",
            where=cfg.checkpoint,
            found=f"{classes} classes of {trained}",
            expected=f"{len(task.classes)} of {cfg.benchmark}",
        )


def _protocol_notes(cfg: EvalConfig, benchmark: Benchmark) -> list[str]:
    """The benchmark's own, and what this evaluation changes of it."""
    notes = [note for note in benchmark.notes if note != NATIVE or not cfg.at_input_size]
    if cfg.at_input_size:
        notes.append(
            "scored at the input's size against labels resized to it, as the released code"
        )
    if cfg.alignment != "none":
        notes.append(f"every prediction was first fitted to its ground truth: {cfg.alignment}")
    if cfg.windows is not None:
        notes.append(f"predicted in square crops of {cfg.windows} pixels")
    return notes


def _facts(
    cfg: EvalConfig, description: dict[str, Any], samples: LabelledSamples, summary: dict[str, Any]
) -> dict[str, Any]:
    """What a reader of the numbers needs."""
    return {
        "benchmark": cfg.benchmark,
        "checkpoint": {"path": str(cfg.checkpoint), "sha256": description["sha256"]},
        "trained": {key: description.get(key) for key in ("benchmark", "protocol", "config")},
        "data": [store.fingerprint for store in samples.pairs.stores],
        "settings": cfg.model_dump(mode="json"),
        "input": description["input"],
        "metrics": summary,
    }
