"""One training run of a task model, for `probe` and `finetune`."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from scaleevent.benchmarks.baselines import constant_baseline, place_baseline
from scaleevent.benchmarks.draws import TrainingLabels
from scaleevent.benchmarks.evaluation import evaluate, refuse_leaks
from scaleevent.benchmarks.features import CachedFeatures
from scaleevent.benchmarks.leaks import provenance_notes
from scaleevent.benchmarks.own import benchmark_of
from scaleevent.benchmarks.report import training_classes
from scaleevent.benchmarks.samples import benchmark_split
from scaleevent.benchmarks.scene_baseline import scene_baselines
from scaleevent.benchmarks.selection import Selection
from scaleevent.benchmarks.task_model import task_model
from scaleevent.benchmarks.task_objective import TaskObjective
from scaleevent.benchmarks.task_report import TaskResult, TrainedTask
from scaleevent.commands.benchmark_data import benchmark_samples
from scaleevent.config.downstream import FinetuneConfig
from scaleevent.config.run import RunSettings
from scaleevent.system.files import write_json
from scaleevent.system.reports import progress
from scaleevent.training.optimizer import build_optimizer
from scaleevent.training.run import Drawn, Run
from scaleevent.training.tensors import content_hash


def run_task(
    cfg: FinetuneConfig, command: str, quiet: bool = True, record: RunSettings | None = None
) -> TaskResult:
    """Train a decoder, and the encoder unless it is frozen; score it on the test set.

    The report has the result beside baselines and published ones. The run folder holds config.yaml,
    log.jsonl, log.csv, subset.json, task.safetensors, best.safetensors where labels are held out,
    panel.png, report.json and state/. `record` are the command's own settings, for config.yaml,
    where they are not `cfg`.
    """
    with Run.open(cfg, command, quiet, record) as run:
        run.local_batch(cfg.batch)
        benchmark = benchmark_of(cfg.benchmark, cfg.data)
        start = task_model(cfg)
        decoder, encoder = start.decoder, start.decoder.encoder
        samples = benchmark_samples(
            cfg.benchmark, benchmark.task, cfg.data, start.settings, run.ranks, quiet=run.quiet
        )
        split = benchmark_split(samples, benchmark.eval_split, cfg.lists)
        selection, split = Selection.of(samples, benchmark, split, cfg)
        labels = TrainingLabels.of(samples, split, cfg)
        train, test = labels.kept, split.test
        seen = {"pretrained on": start.pretraining.get("data", {}).get("recordings", ())}
        notes = refuse_leaks(seen, samples, test, cfg.transductive, cfg.checkpoint)
        constant, classes = constant_baseline(samples, train), training_classes(samples, train)
        notes += provenance_notes(encoder.history, samples.recordings(test)) + classes[1:]
        fingerprint = cfg.with_effect() | {
            "data": [store.fingerprint for store in samples.pairs.stores],
            "encoder weights": content_hash(encoder.vit.state_dict()),
        }
        decoder.to(run.ranks.device)
        optimizer = build_optimizer(
            decoder, lr=cfg.lr, encoder_lr=cfg.encoder_lr, lr_patch=cfg.lr_patch,
            layer_decay=cfg.layer_decay, weight_decay=cfg.weight_decay, freeze=cfg.freeze,
            never=decoder.dead_parameters(),
        )  # fmt: skip
        trained = TrainedTask(cfg, command, start, samples, labels, selection, test)
        for line in (*trained.plan(run.machine), *classes):
            run.say(line)
        best = trained.keeper()
        with (
            run.started(decoder, optimizer, fingerprint, best) as first,
            ExitStack() as after_training,
        ):
            if first == 0 and run.ranks.main:
                chosen = [samples.identity(int(index)) for index in train]
                write_json(cfg.out / "subset.json", chosen)
            cached = None
            if cfg.freeze == "encoder" and cfg.cache and decoder.head_only and run.ranks.world == 1:
                with progress("features", len(train), "samples", not run.quiet) as ticker:
                    cached = CachedFeatures(
                        samples, train.tolist(), encoder.eval(), cfg.out / "features.npy",
                        ticker.advance,
                    )  # fmt: skip
                after_training.callback(cached.close)
            drawn = Drawn(cached or samples, labels.draw, labels.per_epoch, cfg.batch)
            grid = cached.grid if cached else None
            objective = TaskObjective(decoder, cfg.freeze == "encoder", grid)
            local = run.local_batch(cfg.batch)
            run.foretell(objective, drawn, first, len(selection.held_out))
            validate = selection.scorer(decoder, samples, run, local)
            run.train(objective, optimizer, drawn, first, fingerprint, validate, best)
            after_training.close()
            with progress("test", len(test), "samples", not run.quiet) as ticker:
                evaluation = evaluate(
                    decoder, samples, test.tolist(), run.ranks, batch=local,
                    workers=run.ranks.loader_workers(cfg.workers),
                    advance=lambda count: ticker.advance(count * run.ranks.world),
                )  # fmt: skip
            if not run.ranks.main:
                return TaskResult.of(cfg, command, benchmark.task)
            place = place_baseline(samples, train, run.quiet)
            decoder.place_prior = np.asarray(place.values)
            scene = scene_baselines(samples, train, encoder) if command == "probe" else []
            baselines = (constant, place, *scene)
            return run.finish(trained.write(cfg.out, evaluation, baselines, best, notes))
