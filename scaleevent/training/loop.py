"""The one training loop: step, schedule, clip, finite check, log, save, resume, ranks, stop."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from scaleevent.errors import CheckpointError, ConfigError, DivergedError, StoppedError
from scaleevent.system.files import (
    append_json_line,
    read_json,
    read_json_lines,
    write_bytes,
    write_json,
)
from scaleevent.system.ranks import Ranks
from scaleevent.system.signals import stop_requested
from scaleevent.training.schedules import Stage, one_cycle_linear, poly, two_stage_poly
from scaleevent.training.tensors import load_tensors, save_tensors, under
from scaleevent.training.terms import Terms, total

LAST = "last.json"


@dataclass(frozen=True)
class Plan:
    """Length, rate and rhythm of a run.

    Args:
        epochs: Number of epochs.
        steps_per_epoch: Optimiser steps in each.
        schedule: `exponential` multiplies the rate by `decay` after every `decay_every` epochs,
            `cosine` falls to zero, `constant` stays; the others are in `training.schedules`.
        decay: Factor of `exponential`.
        decay_every: Epochs between its steps.
        warmup_steps: Steps over which the rate rises linearly from zero.
        encoder_warmup_steps: Of `two-stage-poly`, for the encoder, after the others'.
        clip: Largest gradient norm; None leaves gradients alone.
        autocast: dtype of mixed precision, None computes in float32.
        log_every: Steps between log lines.
        save_every: Steps between saved states; the end of an epoch always saves.
        keep: Saved states that stay.
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
        """Optimiser steps in all."""
        return self.epochs * self.steps_per_epoch

    def rate(self, step: int, stage: Stage = "head") -> float:
        """Factor on the learning rates at a step, from 0."""
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
    objective: Callable[[Any], tuple[Terms, dict[str, Callable[[], float]]]],
    batches: Iterable[Any],
    plan: Plan,
    ranks: Ranks,
    folder: Path,
    *,
    weights: dict[str, float],
    first_step: int = 0,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, record: None,
    on_epoch: Callable[[int], dict[str, float]] = lambda epoch: {},
    identity: dict[str, Any] | None = None,
) -> None:
    """Run the steps from `first_step` to the end of the plan.

    Args:
        model: Its parameters are saved; those that require gradients are trained.
        optimizer: Over these parameters; its rates at entry are the peaks.
        objective: Batch to loss terms, and further numbers that only log lines compute.
        batches: One item a step, from `first_step` on.
        plan: Length, rate and rhythm.
        ranks: This process and its peers.
        folder: Run folder for log.jsonl and state/.
        weights: Of the loss terms.
        first_step: Steps already done.
        on_step: Told every step's number and, where logged, its record.
        on_epoch: Called at the end of an epoch; its numbers go into the log.
        identity: What a later resume must agree with.

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
        for step in range(first_step, plan.steps):
            before = time.perf_counter()
            batch = next(source)
            waited += time.perf_counter() - before
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * plan.rate(step, group.get("stage", "head"))
            with torch.autocast(
                ranks.device.type, plan.autocast, enabled=plan.autocast is not None
            ):
                terms, extra = objective(batch)
            loss = total(terms, weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = clip_grad_norm_(parameters, plan.clip if plan.clip else math.inf)
            _check_finite(loss, norm, terms, step, ranks, folder)
            optimizer.step()
            record: dict[str, float] = {}
            if (step + 1) % plan.log_every == 0 or step == first_step:
                count = len(next(iter(batch.values()))) * ranks.world
                seconds = time.perf_counter() - began
                record = _record(terms, loss, extra, norm, optimizer, ranks) | {
                    "samples_per_s": count * (step + 1 - since) / seconds,
                    "data_wait_percent": 100 * waited / seconds,
                }
                began, since, waited = time.perf_counter(), step + 1, 0.0
                _log(folder, step + 1, record, ranks)
            on_step(step + 1, record)
            stopping = ranks.any(stop()) if (step + 1) % 10 == 0 or ranks.world == 1 else False
            end_of_epoch = (step + 1) % plan.steps_per_epoch == 0
            if end_of_epoch:
                epoch = (step + 1) // plan.steps_per_epoch
                _log(folder, step + 1, {"epoch": epoch} | on_epoch(epoch), ranks)
            if stopping or end_of_epoch or (step + 1) % plan.save_every == 0:
                if ranks.main:
                    save_state(folder, step + 1, model, optimizer, identity, plan.keep)
                ranks.wait()
            if stopping and step + 1 < plan.steps:
                raise StoppedError(
                    "stopped on request, state saved",
                    where=folder,
                    found=f"step {step + 1} of {plan.steps}",
                    hint="the same command with --resume goes on",
                )


def save_state(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any] | None,
    keep: int,
) -> None:
    """Save what a resume needs: weights and moments. Draws depend on the step alone."""
    states = Path(folder) / "state"
    name = f"step-{step:08d}.safetensors"
    moments = optimizer.state_dict()["state"]
    tensors = {f"model/{key}": value for key, value in model.state_dict().items()}
    for number, state in moments.items():
        tensors |= {f"optimizer/{number}/{key}": torch.as_tensor(v) for key, v in state.items()}
    save_tensors(states / name, tensors, {"kind": "state", "step": step, "identity": identity})
    write_json(states / LAST, {"file": name, "step": step})
    for old in sorted(states.glob("step-*.safetensors"))[:-keep]:
        old.unlink(missing_ok=True)


def load_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any] | None,
) -> int:
    """Restore the newest whole state; 0 steps where there is none.

    Raises:
        ConfigError: The state is of a run with other settings, which are listed.
        CheckpointError: It is of a run on other data, or all states are damaged.
    """
    states = Path(folder) / "state"
    if not (states / LAST).exists():
        return 0
    newest = read_json(states / LAST)["file"]
    older = sorted((p.name for p in states.glob("step-*.safetensors")), reverse=True)
    problem: CheckpointError | None = None
    for name in [newest, *(name for name in older if name != newest)]:
        try:
            tensors, description = load_tensors(states / name, "state")
        except CheckpointError as error:
            problem = problem or error
            continue
        _check_identity(description["identity"] or {}, identity or {}, states / name)
        model.load_state_dict(under(tensors, "model/"))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in under(tensors, "optimizer/").items():
            number, _, part = key.partition("/")
            moments.setdefault(int(number), {})[part] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        _cut_log(Path(folder) / "log.jsonl", description["step"])
        return int(description["step"])
    assert problem is not None
    raise problem


def _check_identity(saved: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    differing = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    if not differing:
        return
    if "data" in differing or "teacher weights" in differing:
        raise CheckpointError(
            "the saved state is of a run on other data or with another teacher",
            where=where,
            found=", ".join(differing),
            hint="give the same data, or start anew with --overwrite",
        )
    raise ConfigError(
        "the saved state is of a run with other settings",
        where=", ".join(f"--{key.replace('_', '-')}" for key in differing),
        found=", ".join(f"{key} {now.get(key)}" for key in differing),
        expected=", ".join(f"{key} {saved.get(key)}" for key in differing),
        hint="resume with the settings in config.yaml, or start anew with --overwrite",
    )


def _cut_log(path: Path, step: int) -> None:
    """Drop log lines beyond a step, so that a resumed run logs each step once."""
    kept = [line for line in read_json_lines(path) if line["step"] <= step]
    write_bytes(path, "".join(f"{json.dumps(line)}\n" for line in kept).encode())


def _record(
    terms: Terms,
    loss: Tensor,
    extra: dict[str, Callable[[], float]],
    norm: Tensor,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
) -> dict[str, float]:
    names = ["loss", *terms, *extra]
    values = ranks.mean([loss, *terms.values(), *(number() for number in extra.values())])
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
