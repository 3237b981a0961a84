"""The training loop: step, schedule, clip, finite check, log, save, resume, ranks, stop."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from scaleevent.config.run import ScheduledSettings
from scaleevent.errors import DivergedError, StoppedError
from scaleevent.system.files import Json
from scaleevent.system.ranks import Ranks
from scaleevent.system.signals import Stop, StopSignal, stop_requested
from scaleevent.training.log import RunLog, open_log
from scaleevent.training.schedules import Stage, one_cycle_linear, poly, two_stage_poly
from scaleevent.training.state import save_state
from scaleevent.training.terms import Metrics, Terms, total

SEED_STRIDE = 1_000_003  # between the seeds of neighbouring runs, so that their steps do not meet
Batch = dict[str, Tensor]


class Trainable(Protocol):
    """A model with what is minimised: the loop's objective."""

    weights: Mapping[str, float]  # factor of each loss term in the total
    shown: ClassVar[tuple[str, ...]] = ()  # metrics that the progress line shows

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """What is trained, saved and resumed."""

    @abstractmethod
    def step(self, model: nn.Module, batch: Batch) -> tuple[Terms, Metrics]:
        """Loss terms and metrics of a batch; `model` may be wrapped for several ranks."""

    def begin_step(self, step: int, steps: int) -> None:
        """Called before every step, counted from 0, with the number of all steps."""
        return

    def training_mode(self) -> None:
        """Put the model, or the part of it that is trained, into training mode."""
        self.model.train()


@dataclass(frozen=True)
class TrainSettings:
    """How long a run takes, and at which rates."""

    # the run's settings; the schedules beside the simple ones are in `training.schedules`
    cfg: ScheduledSettings
    steps_per_epoch: int  # optimiser steps in each epoch

    @property
    def steps(self) -> int:
        """Total number of optimiser steps."""
        return self.cfg.epochs * self.steps_per_epoch

    def validates_after(self, step: int) -> bool:
        """Whether held-out samples are scored after so many steps: at least after every epoch."""
        every = self.cfg.validate_every
        return step % self.steps_per_epoch == 0 or every is not None and step % every == 0

    def validations(self, first: int) -> int:
        """How often that happens after step `first`."""
        every = self.steps_per_epoch, self.cfg.validate_every or self.steps_per_epoch
        by_epoch, by_step, by_both = (
            self.steps // count - first // count for count in (*every, math.lcm(*every))
        )
        return by_epoch + by_step - by_both

    def lr_factor(self, step: int, stage: Stage = "head") -> float:
        """Factor on the peak learning rates at a step, counted from 0."""
        cfg = self.cfg
        if cfg.schedule == "two-stage-poly":
            warmup = cfg.warmup_steps, cfg.encoder_warmup_steps
            return two_stage_poly(step, self.steps, warmup, stage)
        if cfg.schedule == "one-cycle":  # princeton-vl/SEA-RAFT:train.py
            return one_cycle_linear(step, self.steps + 100, pct_start=0.05)
        warm = min(1.0, (step + 1) / cfg.warmup_steps) if cfg.warmup_steps else 1.0
        if cfg.schedule == "exponential":
            return warm * cfg.decay ** (step // self.steps_per_epoch // cfg.decay_every)
        if cfg.schedule == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        if cfg.schedule == "poly":
            return warm * poly(step, self.steps)
        return warm


def train(
    objective: Trainable,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    settings: TrainSettings,
    ranks: Ranks,
    first_step: int = 0,
    fingerprint: Json | None = None,
    on_step: Callable[[dict[str, float]], None] = lambda record: None,
    validate: Callable[[int], dict[str, float]] = lambda step: {},
    time_is_up: Callable[[], bool] = lambda: False,
) -> None:
    """Run the steps from `first_step` to the end of the settings; writes the log and state/.

    All that is random in a step depends on seed and step alone: a resumed run draws the same.

    Args:
        objective: Its model's parameters are saved; those that require gradients are trained.
        optimizer: Over these parameters; its rates at entry are the peaks.
        batches: One item a step, from `first_step` on.
        settings: Length and rates; the run's settings.
        ranks: This process among the others.
        first_step: Steps already done.
        fingerprint: What a later resume must agree with.
        on_step: Called after every step with the log record, empty unless logged.
        validate: Called with the number of steps done, after every epoch and every so many steps
            as the settings have it; what it returns goes into the log.
        time_is_up: Whether to stop as at a stop signal; asked on every rank, one is enough.

    Raises:
        DivergedError: A loss or gradient is not finite; raised before the update.
        StoppedError: A stop signal came, or the time is up; the state is saved.
    """
    cfg, folder = settings.cfg, settings.cfg.out
    bf16 = cfg.computes_in_bf16(ranks.on_gpu)
    model = _parallel(objective.model, ranks)
    objective.training_mode()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    peaks = [group["lr"] for group in optimizer.param_groups]
    source = iter(batches)
    pace = _Pace(first_step)

    def saved(done: int, late: bool) -> StoppedError:
        if ranks.main:
            save_state(folder, done, objective.model, optimizer, fingerprint)
        ranks.wait()
        return _stopped(cfg, done, settings.steps, late)

    with _log_of(cfg, first_step, ranks) as log, stop_requested() as stop:
        for step in range(first_step, settings.steps):
            batch = _next(source, stop, ranks, pace)
            if batch is None:
                raise saved(step, False)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * settings.lr_factor(step, group.get("stage", "head"))
            torch.manual_seed(cfg.seed_of("draws") * SEED_STRIDE + step)
            objective.begin_step(step, settings.steps)
            with torch.autocast(ranks.device.type, torch.bfloat16, enabled=bf16):
                terms, metrics = objective.step(model, to_device(batch, ranks.device))
            loss = total(terms, objective.weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = clip_grad_norm_(parameters, cfg.clip or math.inf)
            finite = torch.isfinite(loss) and torch.isfinite(norm)
            broken, stopping, late = ranks.any(not finite, stop(), time_is_up())
            if broken:
                raise _diverged(norm, terms, step, folder)
            optimizer.step()
            record: dict[str, float] = {}
            if (step + 1) % cfg.log_every == 0 or step == 0:
                means = ranks.mean([loss, *terms.values(), *(m() for m in metrics.values())])
                record = dict(zip(["loss", *terms, *metrics], means, strict=True))
                rate = optimizer.param_groups[-1]["lr"]
                record |= {"lr": rate, "grad_norm": float(norm.detach())}
                record |= pace.lap(step + 1, ranks.world * len(next(iter(batch.values()))))
                _log(log, step + 1, record)
            on_step(record)
            epoch, rest = divmod(step + 1, settings.steps_per_epoch)
            if settings.validates_after(step + 1):
                _log(log, step + 1, ({} if rest else {"epoch": epoch}) | validate(step + 1))
            if stopping or late or not rest or (step + 1) % cfg.save_every == 0:
                error = saved(step + 1, late and not stopping)
                if stopping or late:
                    raise error


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


@dataclass
class _Pace:
    """How fast steps went since the last log line."""

    step: int  # of that line
    began: float = field(default_factory=time.perf_counter)
    waited: float = 0.0  # seconds, for data

    def lap(self, step: int, samples: int) -> dict[str, float]:
        """The rates until a step of so many samples, and a new lap."""
        seconds = time.perf_counter() - self.began
        rates = {
            "samples_per_s": samples * (step - self.step) / seconds,
            "data_wait_percent": 100 * self.waited / seconds,
        }
        self.step, self.began, self.waited = step, time.perf_counter(), 0.0
        return rates


def _next(source: Iterator[Batch], stop: Stop, ranks: Ranks, pace: _Pace) -> Batch | None:
    """The next batch; None where a stop came first. Several ranks stop after the same step."""
    began = time.perf_counter()
    try:
        with stop.while_waiting(ranks.world == 1):
            return next(source)
    except StopSignal:
        return None
    finally:
        pace.waited += time.perf_counter() - began


def _stopped(cfg: ScheduledSettings, done: int, steps: int, late: bool) -> StoppedError:
    return StoppedError(
        f"{cfg.max_hours} h are over, state saved" if late else "stopped on request, state saved",
        where=cfg.out,
        found=f"step {done} of {steps}",
        hint="the same command with --resume goes on",
    )


def _parallel(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The model with gradients averaged over the ranks."""
    if ranks.world == 1:
        return model
    return DistributedDataParallel(model, [ranks.device.index] if ranks.on_gpu else None)


def _log_of(
    cfg: ScheduledSettings, first: int, ranks: Ranks
) -> AbstractContextManager[RunLog | None]:
    """The log on the rank that writes it."""
    return open_log(cfg.out, cfg.tensorboard, first) if ranks.main else nullcontext()


def _log(log: RunLog | None, step: int, record: dict[str, float]) -> None:
    if log is not None:
        log.append(step, record)


def _diverged(norm: Tensor, terms: Terms, step: int, folder: Path) -> DivergedError:
    values = ", ".join(f"{name} {float(term.detach()):.4g}" for name, term in terms.items())
    return DivergedError(
        "loss or gradient is not finite; the weights were not updated",
        where=f"step {step + 1}",
        found=f"{values}, gradient norm {float(norm.detach()):.4g}",
        hint="try a lower --lr with --overwrite, which starts anew; the last good state is in "
        f"{Path(folder) / 'state'}",
    )
