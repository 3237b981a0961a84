"""`scaleevent pretrain`: pretrain an event encoder for an objective."""

from __future__ import annotations

from functools import partial

import torch

from scaleevent.benchmarks.leaks import seen_with
from scaleevent.benchmarks.pretrain_report import Pretrained
from scaleevent.commands.pretrain_data import pretraining_data, pretraining_origin
from scaleevent.config.catalog import OBJECTIVES
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.encoders.encoder import Encoder
from scaleevent.grids.inputs import InputSettings
from scaleevent.objectives.objective import Objective, PretrainResult
from scaleevent.pairs.draws import draw_epoch
from scaleevent.pairs.loading import Pool
from scaleevent.system.files import read_json_lines
from scaleevent.system.random_state import kept_random_state
from scaleevent.training.log import LOG, log_once
from scaleevent.training.optimizer import build_optimizer
from scaleevent.training.run import Drawn, Run

VALIDATION_SAMPLES = 256


@kept_random_state()
def run(cfg: PretrainConfig, quiet: bool = True) -> PretrainResult:
    """Pretrain an event encoder on the machine's devices.

    The run folder holds config.yaml, the log, encoder.safetensors, best.safetensors, pictures,
    report.json, state/.

    Args:
        cfg: All settings; `PretrainConfig.with_preset` gives those of the command line.
        quiet: No progress on stderr.

    Returns:
        Held-out numbers before and after; with several ranks, on the first of them.

    Raises:
        ConfigError: Settings and data that do not fit each other.
        DataError: Data or weights that are damaged, or of another kind.
        DivergedError: A loss that is not finite.
        StoppedError: A stop signal came; the state is saved.
    """
    origin = pretraining_origin(cfg, quiet)
    path = cfg.out / "encoder.safetensors"
    result = PretrainResult("pretrain", "", (), (), out=cfg.out, checkpoint=path)
    with Run.open(cfg, "pretrain", quiet) as this:
        this.say(cfg.describe())
        objective: Objective = OBJECTIVES[cfg.objective].load().build(cfg, this)
        encoder = objective.encoder
        encoder.grid(*cfg.size)
        mean, std = encoder.colours.mean, encoder.colours.std
        encoder.input = settings = InputSettings(
            *cfg.size, encoder.patch, normaliser=cfg.normaliser, mean=mean, std=std, pad=cfg.pad
        )
        batch = cfg.global_batch(encoder.width)
        local = this.local_batch(batch)
        samples, split, mix = pretraining_data(cfg, settings, objective.sample_inputs(), this)
        seen, held_out = split.train, Pool(samples, split.validation, local)
        origin |= seen_with(encoder.history, samples.recordings(seen))
        origin |= {"mix": mix.facts} if this.ranks.main else {}
        objective.calibrate(Pool(samples, seen, local))
        this.say(
            f"{cfg.describe_preset()}, {objective.source}, "
            f"input {cfg.size[0]}x{cfg.size[1]}, global batch {batch}, {cfg.epochs} epochs x "
            f"{cfg.draws:,} samples on {this.machine}"
        )
        before = Encoder(encoder.spec)
        before.load(encoder.vit.state_dict())
        optimizer = build_optimizer(  # freezes before the ranks agree on gradients
            objective.model, lr=cfg.lr, lr_patch=cfg.lr_patch, weight_decay=cfg.weight_decay,
            freeze=cfg.freeze,
        )  # fmt: skip

        @torch.no_grad()
        def validate() -> dict[str, float]:
            scored = len(held_out) and this.ranks.main
            return objective.validate(held_out.spread(VALIDATION_SAMPLES)) if scored else {}

        fingerprint = cfg.with_effect() | objective.fingerprint()
        fingerprint["data"] = samples.fingerprint(seen, tagged=bool(cfg.only))
        order = partial(draw_epoch, samples, seen, cfg.draws, cfg.seed_of("draws"),
                        sampling=cfg.sampling, shares=mix.given)  # fmt: skip
        drawn = Drawn(samples, samples.numbered(order, cfg.draws), cfg.draws, batch)
        trained = Pretrained(cfg, objective, samples, origin)
        best = trained.keeper() if len(held_out) else None
        with this.started(objective.model, optimizer, fingerprint, best) as first:
            this.foretell(objective, drawn, first, min(len(held_out), VALIDATION_SAMPLES))
            if first == 0 and this.ranks.main:
                log_once(cfg, 0, {"epoch": 0} | validate())
            this.train(objective, optimizer, drawn, first, fingerprint, validate, best)
            if not this.ranks.main:
                return result
            if not any(line.get("epoch") == cfg.epochs for line in read_json_lines(cfg.out / LOG)):
                last = cfg.epochs * (cfg.draws // batch)
                log_once(cfg, last, {"epoch": cfg.epochs} | validate())
            before.to(this.ranks.device).eval()
            compared = objective.compare(samples, split, before, local, cfg.out)
            return this.finish(trained.report(result, compared, best))
