"""A training run: its folder, record, ranks, batches and report, whatever is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import numpy as np
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from scaleevent.config.run import RunSettings, ScheduledSettings
from scaleevent.config.settings import keep_settings
from scaleevent.errors import ConfigError
from scaleevent.pairs.draws import StepBatches
from scaleevent.pairs.loading import load_batches
from scaleevent.system.files import Json, write_json
from scaleevent.system.launchers import find_place
from scaleevent.system.platform import has_bfloat16
from scaleevent.system.ranks import Ranks, ranks
from scaleevent.system.reports import Report, Section, progress, remark, say, say_table
from scaleevent.training.best import Best
from scaleevent.training.estimate import estimate
from scaleevent.training.log import LOG, TABLE, check_tensorboard, write_table
from scaleevent.training.loop import Batch, Trainable, TrainSettings, train
from scaleevent.training.state import load_state, mend_log, saved_calibration

Finished = TypeVar("Finished", bound=Report)


@dataclass(frozen=True)
class Drawn:
    """Training samples and the order in which they are drawn."""

    samples: Dataset[Any]
    order: Callable[[int], np.ndarray]  # epoch, from 0, to the indices of its samples, in order
    per_epoch: int  # samples of an epoch
    batch: int  # global batch; what is left of an epoch is not used


@dataclass(frozen=True)
class Run:
    """One training run of a command, on this rank."""

    cfg: ScheduledSettings  # everything that decides on the result
    command: str  # for messages and the report
    ranks: Ranks
    quiet: bool  # nothing on stderr
    record: RunSettings  # the command's own settings, for config.yaml
    began: float = field(default_factory=lambda: monotonic())  # seconds, of a clock of its own

    @classmethod
    @contextmanager
    def open(
        cls,
        cfg: ScheduledSettings,
        command: str,
        quiet: bool = False,
        record: RunSettings | None = None,
    ) -> Iterator[Run]:
        """Join the ranks and look whether the folder may be used.

        Raises:
            ConfigError: More processes than this one are asked for.
            EnvironmentProblem: The folder holds something else, or a run without consent.
        """
        place = find_place()
        if cfg.gpus > 1 and place.world == 1:
            raise ConfigError(
                "one Python process is one rank",
                where="gpus",
                found=cfg.gpus,
                hint="use the command line, or run your script under torchrun",
            )
        if cfg.gpus > 1 and cfg.gpus not in (place.world, place.here):
            raise ConfigError(
                "processes are started already, and not as many",
                where="--gpus", found=cfg.gpus, expected=place.world, hint="leave out --gpus",
            )  # fmt: skip
        with ranks(cfg.device) as joined:
            run = cls(cfg, command, joined, quiet or not joined.main, record or cfg)
            cfg.check()
            if cfg.tensorboard:
                check_tensorboard()
            yield run

    def say(self, line: str) -> None:
        """A line for the person watching."""
        if not self.quiet:
            say(line)

    def tell(self, table: Section, below: Sequence[str]) -> None:
        """A table and lines below it, for the person watching."""
        if not self.quiet:
            say_table(table)
            for line in below:
                say(line)

    def local_batch(self, batch: int) -> int:
        """Samples of a global batch on this rank.

        Raises:
            ConfigError: The batch does not divide over the ranks.
        """
        if batch % self.ranks.world:
            raise ConfigError(
                "the global batch does not divide over the processes",
                where="--batch", found=batch, expected=f"a multiple of {self.ranks.world}",
            )  # fmt: skip
        return batch // self.ranks.world

    def time_is_up(self) -> bool:
        """Whether this start of the run has had its hours."""
        hours = self.cfg.max_hours
        return hours is not None and monotonic() - self.began >= 3600 * hours

    @property
    def machine(self) -> str:
        """What computes, and whether in mixed precision."""
        mixed = ""
        if self.cfg.computes_in_bf16(self.ranks.on_gpu):
            emulated = not self.ranks.on_gpu and has_bfloat16() is False
            mixed = ", bf16" + (" (emulated: fp32 is faster on this processor)" if emulated else "")
        return f"{self.ranks.world} x {self.ranks.device}{mixed}"

    @property
    def calibrated(self) -> Json:
        """What an earlier part of this run found before its first step; empty if there is none."""
        return saved_calibration(self.cfg.out) if self.cfg.resume else {}

    @contextmanager
    def started(
        self, model: nn.Module, optimizer: Optimizer, fingerprint: Json, best: Best | None = None
    ) -> Iterator[int]:
        """Hold the folder for a block that trains; gives the steps that are already done.

        A resumed run gets its weights and moments back, and keeps its best; a new one writes
        config.yaml.
        """
        cfg = self.cfg
        with cfg.claimed() if self.ranks.main else nullcontext():
            self.ranks.wait()
            warn = remark if self.ranks.main else lambda line: None
            first = load_state(cfg.out, model, optimizer, fingerprint, warn) if cfg.resume else 0
            if cfg.resume and not first:
                warn(f"nothing to resume in {cfg.out}: no state was saved, so it begins at step 0")
            if first and self.ranks.main:
                mend_log(cfg.out / LOG, first, warn)
                write_table(cfg.out)
            if first == 0 and self.ranks.main:  # also after a stop before the first saved state
                keep_settings(self.record, cfg.out, set(self.record.OF_A_START))
                for name in (LOG, TABLE):
                    (cfg.out / name).unlink(missing_ok=True)
            if best is not None and self.ranks.main:
                best.begin(first)
            self.ranks.wait()
            yield first

    def foretell(self, objective: Trainable, drawn: Drawn, first: int, evaluated: int = 0) -> None:
        """Say how long the run will take, with so many samples `evaluated` at every validation.

        Not in the log, which is the same for every way to the end of a run.
        """
        settings = TrainSettings(self.cfg, drawn.per_epoch // drawn.batch)
        mine = next(iter(self._steps(drawn, first)), [])

        def load(count: int) -> Batch:
            batch: Batch = next(load_batches(drawn.samples, [mine[:count]], workers=0))
            return batch

        expected = estimate(
            objective, load, settings, self.ranks,
            batch=len(mine), first=first, workers=self.ranks.loader_workers(self.cfg.workers),
            evaluated=evaluated,
        )  # fmt: skip
        if expected is not None and self.ranks.main:
            self.say(str(expected))

    def _steps(self, drawn: Drawn, first: int) -> StepBatches:
        """The samples of this rank's steps, from step `first` on."""
        return StepBatches(
            drawn.order, self.cfg.epochs, drawn.per_epoch // drawn.batch, drawn.batch, first,
            self.ranks.rank, self.ranks.world,
        )  # fmt: skip

    def train(
        self,
        objective: Trainable,
        optimizer: Optimizer,
        drawn: Drawn,
        first: int,
        fingerprint: Json,
        validate: Callable[[], dict[str, float]] = dict,
        best: Best | None = None,
    ) -> None:
        """Train from step `first` to the end, on all ranks; leaves the model in evaluation mode.

        Args:
            objective: With the model.
            optimizer: Over its parameters.
            drawn: What is trained on.
            first: Steps already done.
            fingerprint: What a later resume must agree with.
            validate: Gives numbers on held-out samples, of the model as it is, called on all ranks.
            best: Keeps the model at the best of them.
        """
        cfg, ranks = self.cfg, self.ranks
        settings = TrainSettings(cfg, drawn.per_epoch // drawn.batch)
        workers = ranks.loader_workers(cfg.workers)
        batches = load_batches(drawn.samples, self._steps(drawn, first), workers, pin=ranks.on_gpu)
        with progress(self.command, settings.steps, "steps", not self.quiet) as ticker:
            ticker.start_at(first)

            def on_step(record: dict[str, float]) -> None:
                ticker.advance(1, _detail(objective, record))

            def validated(step: int) -> dict[str, float]:
                numbers = validate()
                if best is not None and ranks.main:
                    best.offer(step, numbers)
                return numbers

            train(
                objective,
                optimizer,
                batches,
                settings,
                ranks,
                first,
                fingerprint,
                on_step,
                validated,
                self.time_is_up,
            )
        ranks.broadcast(objective.model.buffers())  # statistics of the last step differ by rank
        objective.model.eval()

    def finish(self, report: Finished) -> Finished:
        """Keep the report in the folder."""
        write_json(Path(self.cfg.out) / "report.json", report.to_json())
        return report


def _detail(objective: Trainable, record: dict[str, float]) -> str:
    """The loss and its terms for the progress line; nothing where a step is not logged."""
    if not record:
        return ""
    terms = " ".join(f"{name} {record[name]:.4f}" for name in objective.weights if name in record)
    shown = "".join(f" {name} {record[name]:.3g}" for name in objective.shown)
    return f"loss {record['loss']:.4f} ({terms}){shown}"
