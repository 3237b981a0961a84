"""`scaleevent eval`: a task model on the test set of a benchmark."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.benchmarks import BENCHMARKS, Benchmark
from scaleevent.checkpoint import load_task
from scaleevent.commands.benchmark_data import benchmark_samples
from scaleevent.decoders.decoder import Decoder
from scaleevent.decoders.eomt import EoMT
from scaleevent.distributed import Ranks, ranks
from scaleevent.durable import check_folder, claimed_folder, write_bytes, write_json
from scaleevent.errors import ConfigError
from scaleevent.evaluation import comparison, draw_rows, evaluate, trivial_summary
from scaleevent.flow_png import encode_flow
from scaleevent.labelled import BenchmarkSplit, Item, LabelledSamples, benchmark_split
from scaleevent.reports import Report, progress, say
from scaleevent.task_config import EvalConfig
from scaleevent.tasks.depth import Depth

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
    decoder, description = load_task(cfg.checkpoint)
    _check_fits(decoder, description, cfg, benchmark)
    decoder.to(peers.device)
    samples = benchmark_samples(cfg.benchmark, cfg.data, decoder.encoder.input, peers, quiet=quiet)
    samples.task = benchmark.task
    split = benchmark_split(samples, "test" if cfg.submission else benchmark.scored)
    _check_leakage(cfg, description, samples, split)
    if peers.main and cfg.out is not None:
        check_folder(cfg.out, "evaluation", overwrite=cfg.overwrite, resume=False)
    claim = (
        claimed_folder(cfg.out, "evaluation", overwrite=cfg.overwrite, resume=False)
        if peers.main and cfg.out is not None
        else nullcontext()
    )
    handed_in: list[Path] = []

    def keep(index: int, item: Item, prediction: np.ndarray) -> None:
        if cfg.submission is not None and item.file_index is not None:
            if prediction.shape[-2:] != samples.sensor(index):
                raise ConfigError(
                    "a submission needs every pixel, but the network's input is cropped",
                    where=item.where,
                    found=f"{prediction.shape[-2]}x{prediction.shape[-1]}",
                    expected="{}x{}".format(*samples.sensor(index)),
                    hint="train it with an input --size of the sensor's aspect ratio",
                )
            path = cfg.submission / item.recording / f"{item.file_index:06d}.png"
            write_bytes(path, encode_flow(prediction))
            handed_in.append(path)

    with claim, progress("eval", len(split.test), "samples", not quiet) as ticker:
        result = evaluate(
            decoder, samples, split.test.tolist(), peers,
            batch=cfg.batch, at_input_size=cfg.at_input_size, windows=cfg.windows, keep=keep,
            advance=lambda count: ticker.advance(count * peers.world),
        )  # fmt: skip
        files = int(peers.sum([len(handed_in)])[0])
        if not peers.main:
            return Report("eval", "", (), ())
        trivial = None
        if result.samples and len(split.train):
            trivial = trivial_summary(
                benchmark.task, samples, split.train.tolist(), split.test.tolist()
            )
        setting = description.get("protocol", "full")
        columns, rows = comparison(cfg.benchmark, benchmark.task, setting, result, trivial)
        notes = list(benchmark.notes)
        if result.unlabelled:
            notes.append(f"{result.unlabelled:,} test samples without a public label")
        if files:
            notes.append(f"{files:,} files to hand in: {cfg.submission}")
        if cfg.pictures and cfg.out is not None and result.samples:
            every = max(1, len(split.test) // cfg.pictures)
            chosen = split.test[::every][: cfg.pictures]
            draw_rows(decoder, samples, chosen.tolist(), cfg.out / "panel.png")
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


def _check_leakage(
    cfg: EvalConfig, description: dict[str, Any], samples: LabelledSamples, split: BenchmarkSplit
) -> None:
    """Refuse test recordings that the encoder has seen in pretraining, unless allowed."""
    seen = set(description.get("pretraining", {}).get("recordings", ()))
    leaked = sorted(samples.recordings(split.test) & seen)
    if leaked and not cfg.transductive:
        raise ConfigError(
            "the encoder was pretrained on test recordings of this benchmark",
            where=cfg.checkpoint,
            found=", ".join(leaked[:20]),
            hint="allow it with --transductive, which is recorded",
        )
    if leaked:
        say(f"transductive: the encoder has seen {len(leaked)} test recordings without labels")


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
