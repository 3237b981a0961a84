"""The training loop: step, schedule, clip, finite check, log, save, resume, ranks, stop."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from scaleevent.errors import DivergedError, StoppedError
from scaleevent.system.files import Json, append_json_line
from scaleevent.system.ranks import Ranks
from scaleevent.system.signals import stop_requested
from scaleevent.training.schedules import Stage, one_cycle_linear, poly, two_stage_poly
from scaleevent.training.state import save_state
from scaleevent.training.terms import Metrics, Terms, total


class Trainable(Protocol):
    """A model with what is minimised: the loop's objective.

    Attributes:
        weights: Factor of each loss term in the total.
        shown: Metrics that the progress line shows.
    """

    weights: Mapping[str, float]
    shown: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """What is trained, saved and resumed."""

    @abstractmethod
    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Terms, Metrics]:
        """Loss terms and metrics of a batch; `model` may be wrapped for several ranks."""

    def begin_step(self, step: int, steps: int) -> None:
        """Called before every step, counted from 0, with the number of all steps."""

    def training_mode(self) -> None:
        """Put the model, or the part of it that is trained, into training mode."""
        self.model.train()


@dataclass(frozen=True)
class TrainSettings:
    """How long a run takes, at which rates, and how often it logs and saves.

    Args:
        epochs: Number of epochs.
        steps_per_epoch: Optimiser steps in each.
        schedule: `exponential` multiplies the rate by `decay` after every `decay_every` epochs,
            `cosine` falls to zero, `constant` stays; the others are in `training.schedules`.
        decay: Factor of `exponential`.
        decay_every: Epochs between its steps.
        warmup_steps: Steps over which the rate rises linearly from zero.
        encoder_warmup_steps: The same for the encoder, after the others' (`two-stage-poly` only).
        clip: Largest gradient norm; None leaves gradients alone.
        autocast: dtype of mixed precision, None computes in float32.
        log_every: Steps between log lines.
        save_every: Steps between saved states; the end of an epoch always saves.
        keep: How many saved states are kept.
    """

    epochs: int
    steps_per_epoch: int
    schedule: Literal[
        "exponential", "cosine", "constant", "poly", "two-stage-poly", "one-cycle"
    ] = "exponential"
    decay: float = 0.9
    decay_every: int = 1
    warmup_steps: int = 0
    encoder_warmup_steps: int = 0
    clip: float | None = 0.1
    autocast: torch.dtype | None = None
    log_every: int = 10
    save_every: int = 1000
    keep: int = 2

    @property
    def steps(self) -> int:
        """Total number of optimiser steps."""
        return self.epochs * self.steps_per_epoch

    def lr_factor(self, step: int, stage: Stage = "head") -> float:
        """Factor on the peak learning rates at a step, counted from 0."""
        if self.schedule == "two-stage-poly":
            warmup = self.warmup_steps, self.encoder_warmup_steps
            return two_stage_poly(step, self.steps, warmup, stage)
        if self.schedule == "one-cycle":  # princeton-vl/SEA-RAFT:train.py
            return one_cycle_linear(step, self.steps + 100, pct_start=0.05)
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "exponential":
            return warm * self.decay ** (step // self.steps_per_epoch // self.decay_every)
        if self.schedule == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        if self.schedule == "poly":
            return warm * poly(step, self.steps)
        return warm


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Callable[[Any, int], tuple[Terms, Metrics]],
    batches: Iterable[Any],
    settings: TrainSettings,
    ranks: Ranks,
    folder: Path,
    *,
    weights: Mapping[str, float],
    first_step: int = 0,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, record: None,
    on_epoch: Callable[[int], dict[str, float]] = lambda epoch: {},
    fingerprint: Json | None = None,
) -> None:
    """Run the steps from `first_step` to the end of the settings.

    Args:
        model: Its parameters are saved; those that require gradients are trained.
        optimizer: Over these parameters; its rates at entry are the peaks.
        objective: Batch and number of its step to loss terms, and metrics for log lines.
        batches: One item a step, from `first_step` on.
        settings: Length, rates, logging and saving.
        ranks: This process among the others.
        folder: Run folder for log.jsonl and state/.
        weights: Factors of the loss terms.
        first_step: Steps already done.
        on_step: Called with the number of steps done and the log record, empty unless logged.
        on_epoch: Called with the number of epochs done; what it returns goes into the log.
        fingerprint: What a later resume must agree with.

    Raises:
        DivergedError: A loss or gradient is not finite; raised before the update.
        StoppedError: A stop signal came; the state is saved.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    peaks = [group.get("peak", group["lr"]) for group in optimizer.param_groups]
    source = iter(batches)
    began, since = time.perf_counter(), first_step
    waited = 0.0
    with stop_requested() as stop:
        for step in range(first_step, settings.steps):
            before = time.perf_counter()
            batch = next(source)
            waited += time.perf_counter() - before
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * settings.lr_factor(step, group.get("stage", "head"))
            with torch.autocast(
                ranks.device.type, settings.autocast, enabled=settings.autocast is not None
            ):
                terms, metrics = objective(batch, step)
            loss = total(terms, weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = clip_grad_norm_(parameters, settings.clip if settings.clip else math.inf)
            _check_finite(loss, norm, terms, step, ranks, folder)
            optimizer.step()
            record: dict[str, float] = {}
            if (step + 1) % settings.log_every == 0 or step == first_step:
                count = len(next(iter(batch.values()))) * ranks.world
                seconds = time.perf_counter() - began
                record = _record(terms, loss, metrics, norm, optimizer, ranks) | {
                    "samples_per_s": count * (step + 1 - since) / seconds,
                    "data_wait_percent": 100 * waited / seconds,
                }
                began, since, waited = time.perf_counter(), step + 1, 0.0
                _log(folder, step + 1, record, ranks)
            on_step(step + 1, record)
            stopping = ranks.any(stop()) if (step + 1) % 10 == 0 or ranks.world == 1 else False
            end_of_epoch = (step + 1) % settings.steps_per_epoch == 0
            if end_of_epoch:
                epoch = (step + 1) // settings.steps_per_epoch
                _log(folder, step + 1, {"epoch": epoch} | on_epoch(epoch), ranks)
            if stopping or end_of_epoch or (step + 1) % settings.save_every == 0:
                if ranks.main:
                    save_state(folder, step + 1, model, optimizer, fingerprint, settings.keep)
                ranks.wait()
            if stopping and step + 1 < settings.steps:
                raise StoppedError(
                    "stopped on request, state saved",
                    where=folder,
                    found=f"step {step + 1} of {settings.steps}",
                    hint="the same command with --resume goes on",
                )


def _record(
    terms: Terms,
    loss: Tensor,
    metrics: Metrics,
    norm: Tensor,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
) -> dict[str, float]:
    names = ["loss", *terms, *metrics]
    values = ranks.mean([loss, *terms.values(), *(metric() for metric in metrics.values())])
    rates = {"lr": optimizer.param_groups[-1]["lr"], "grad_norm": float(norm.detach())}
    return dict(zip(names, values, strict=True)) | rates


def _log(folder: Path, step: int, record: dict[str, float], ranks: Ranks) -> None:
    if ranks.main:
        append_json_line(Path(folder) / "log.jsonl", {"step": step} | record)


def _check_finite(
    loss: Tensor, norm: Tensor, terms: Terms, step: int, ranks: Ranks, folder: Path
) -> None:
    if not ranks.any(not (torch.isfinite(loss) and torch.isfinite(norm))):
        return
    values = ", ".join(f"{name} {float(term.detach()):.4g}" for name, term in terms.items())
    raise DivergedError(
        "loss or gradient is not finite; the weights were not updated",
        where=f"step {step + 1}",
        found=f"{values}, gradient norm {float(norm.detach()):.4g}",
        hint=f"the last good state is in {Path(folder) / 'state'}; try a lower --lr",
    )
