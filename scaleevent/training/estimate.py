"""How long a run will take, measured before its first step and without any trace in the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import astuple, dataclass
from statistics import median

import torch

from scaleevent.system.ranks import Ranks
from scaleevent.system.reports import counted
from scaleevent.training.loop import Batch, Trainable, TrainSettings, to_device
from scaleevent.training.terms import total

FEW_STEPS = 3  # or fewer are not worth a measurement
PATIENCE = 5.0  # seconds for what is measured, if one sample takes no longer
REPEATS = 3  # their median: other programs compute here too


@dataclass(frozen=True)
class Cost:
    """Seconds a sample on this rank."""

    train: float  # forward and backward
    forward: float
    load: float


@dataclass(frozen=True)
class Estimate:
    """How long the steps of a run will take, with what is evaluated between them."""

    steps: int  # that are left
    seconds: float
    step: float  # seconds of one step

    def __str__(self) -> str:
        return (
            f"{counted(self.steps, 'step')} will take about {lasting(self.seconds)} here "
            f"({lasting(self.step)} a step, measured)"
        )


def lasting(seconds: float) -> str:
    """A length of time for people: `0.4 s`, `12 min`, `3.5 h`, `56 days`."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{int(seconds < 10 * size)}f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def estimate(
    objective: Trainable,
    load: Callable[[int], Batch],
    settings: TrainSettings,
    ranks: Ranks,
    *,
    batch: int,
    first: int,
    workers: int,
    evaluated: int = 0,
) -> Estimate | None:
    """Try steps on copies, on every rank; None where too few are left to be worth it.

    The time of the optimiser is not measured, nor how well loading overlaps with computing: it is
    taken to do so where there are workers.

    Args:
        objective: Left as it is.
        load: A batch of so many samples, on the CPU.
        settings: Of the run.
        ranks: This process among the others.
        batch: Samples of a step on this rank.
        first: Steps already done.
        workers: Loader processes.
        evaluated: Samples that are evaluated at every validation.
    """
    left = settings.steps - first
    if left <= FEW_STEPS:
        return None
    devices = [ranks.device] if ranks.on_gpu else []
    with torch.random.fork_rng(devices=devices):
        cost = _measured(deepcopy(objective), load, settings, ranks, first, batch)
    train, forward, loading = ranks.mean([cost.train, cost.forward, cost.load])
    step = batch * (max(train, loading / workers) if workers else train + loading)
    times = settings.validations(first) + (first == 0)
    return Estimate(left, left * step + times * evaluated * (forward + loading), step)


def _measured(
    objective: Trainable,
    load: Callable[[int], Batch],
    settings: TrainSettings,
    ranks: Ranks,
    first: int,
    batch: int,
) -> Cost:
    """One sample tells how many fit into a measured step; half a batch at most, for memory."""
    bf16 = settings.cfg.computes_in_bf16(ranks.on_gpu)
    objective.training_mode()
    objective.begin_step(first, settings.steps)

    def timed(count: int) -> Cost:
        began = time.perf_counter()
        loaded = load(count)
        ready = time.perf_counter()
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=bf16):
            terms, _ = objective.step(objective.model, to_device(loaded, ranks.device))
        if ranks.on_gpu:
            torch.cuda.synchronize(ranks.device)
        halfway = time.perf_counter()
        total(terms, objective.weights).backward()
        if ranks.on_gpu:
            torch.cuda.synchronize(ranks.device)
        end = time.perf_counter()
        times = end - ready, halfway - ready, ready - began
        return Cost(*(seconds / count for seconds in times))

    cost = timed(1)
    if cost.train > PATIENCE:
        return cost
    cost = timed(1)  # the first one also allocates, compiles and opens files
    count = max(1, min(int(PATIENCE / REPEATS / max(cost.train, 1e-6)), batch // 2))
    costs = [timed(count) for _ in range(REPEATS)]
    return Cost(*(median(values) for values in zip(*map(astuple, costs), strict=True)))
