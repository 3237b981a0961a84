"""`scaleevent eval`: a task model on the test set of a benchmark."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from scaleevent.benchmarks.baselines import baselines_for
from scaleevent.benchmarks.draws import REDRAWS
from scaleevent.benchmarks.evaluation import EvalResult, check_fits, evaluate, refuse_leaks, seen_by
from scaleevent.benchmarks.foreign import foreign_notes, model_to_score
from scaleevent.benchmarks.intervals import beside
from scaleevent.benchmarks.leaks import provenance_notes, task_history
from scaleevent.benchmarks.own import benchmark_of
from scaleevent.benchmarks.report import (
    Submission,
    class_tables,
    counting_notes,
    draw_rows,
    list_notes,
    protocol_notes,
    result_table,
    stamp_notes,
)
from scaleevent.benchmarks.samples import benchmark_split
from scaleevent.commands.benchmark_data import benchmark_samples
from scaleevent.config.downstream import EvalConfig
from scaleevent.live.evaluating import in_time
from scaleevent.system.files import write_json
from scaleevent.system.random_state import kept_random_state
from scaleevent.system.ranks import Ranks, ranks
from scaleevent.system.reports import progress


@kept_random_state()
def run(cfg: EvalConfig, quiet: bool = True) -> EvalResult:
    """Score a task checkpoint, beside predictions without events and published results.

    Args:
        cfg: All settings; the network's input and everything else comes from the checkpoint.
        quiet: No progress on stderr.

    Returns:
        The scores; with several ranks, on the first of them.

    Raises:
        CheckpointError: Not a task checkpoint.
        ConfigError: It is of another task or other classes.
    """
    with ranks(cfg.device) as group:
        return _evaluate(cfg, group, quiet or not group.main)


def _evaluate(cfg: EvalConfig, ranks: Ranks, quiet: bool) -> EvalResult:
    benchmark = benchmark_of(cfg.benchmark, cfg.data)
    aligned = cfg.alignment != "none"
    task = benchmark.task.aligned(cfg.alignment) if aligned else benchmark.task
    result = EvalResult(
        "eval", "", (), (), benchmark=cfg.benchmark, checkpoint=cfg.checkpoint,
        headline=task.headline,
    )  # fmt: skip
    decoder, description = model_to_score(cfg)
    settings = check_fits(decoder, task, cfg.checkpoint, description)
    if cfg.windows is not None:
        decoder.encoder.grid(cfg.windows, cfg.windows)
    decoder.to(ranks.device)
    samples = benchmark_samples(cfg.benchmark, task, cfg.data, settings, ranks, quiet=quiet)
    scored = "test" if cfg.submission else benchmark.eval_split
    split = benchmark_split(samples, scored, cfg.lists)
    notes = foreign_notes(description) + refuse_leaks(
        seen_by(description), samples, split.test, cfg.transductive, cfg.checkpoint
    )
    notes += provenance_notes(task_history(description), samples.recordings(split.test))
    claim = cfg.claimed() if ranks.main else nullcontext()
    submission = Submission(cfg.submission, samples) if cfg.submission else None
    with claim, progress("eval", len(split.test), "samples", not quiet) as ticker:
        evaluation = evaluate(
            decoder, samples, split.test.tolist(), ranks,
            batch=cfg.batch, workers=ranks.loader_workers(cfg.workers), keep=submission,
            at_input_size=cfg.at_input_size, windows=cfg.windows,
            redraws=REDRAWS if cfg.draw == "released" else 0,
            advance=lambda count: ticker.advance(count * ranks.world),
        )  # fmt: skip
        files = int(ranks.sum([submission.files if submission else 0])[0])
        if not ranks.main:
            return result
        prior, any_label = decoder.place_prior, evaluation.samples > 0
        found = baselines_for(samples, split.train, prior, quiet) if any_label else []
        others = beside(found, samples, split.test, evaluation, cfg.at_input_size)
        notes += others.notes
        protocol = description.get("protocol", "full")
        columns, rows = result_table(cfg.benchmark, task, protocol, evaluation, others.results)
        notes += stamp_notes(cfg.benchmark, protocol, evaluation.stamp)
        notes += protocol_notes(benchmark, cfg) + counting_notes(task, evaluation)
        notes += list_notes(cfg.lists, len(split.train) + len(split.test))
        notes += [f"{files:,} files to hand in: {cfg.submission}"] if files else []
        if cfg.pictures and cfg.out is not None and any_label:
            draw_rows(decoder, samples, split.test, cfg.pictures, cfg.out / "panel.png")
            notes.append(f"picture: {cfg.out / 'panel.png'}")
        record = {
            "checkpoint": {"path": str(cfg.checkpoint), "sha256": description["sha256"]},
            "foreign": description.get("foreign"),
            "trained": {key: description.get(key) for key in ("benchmark", "protocol", "config")},
            "data": [store.fingerprint for store in samples.pairs.stores],
            **cfg.with_origins(),
            "input": description["input"],
            **others.facts,
            **evaluation.draw_facts,
        }
        result = replace(
            result, title=f"{cfg.benchmark}, {evaluation.samples:,} test samples",
            columns=columns, rows=rows, notes=tuple(notes), record=record,
            more=class_tables(task, evaluation), metrics=evaluation.result,
            samples=evaluation.samples, baselines=others.results, stamp=evaluation.stamp,
        )  # fmt: skip
        if cfg.pace == "real":
            result = in_time(result, decoder, task, samples, split.test, cfg.rate)
        if cfg.out is not None:
            write_json(cfg.out / "report.json", result.to_json())
    return result
