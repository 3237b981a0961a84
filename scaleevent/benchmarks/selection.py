"""Labels that choose the best step of a run: they neither train it nor are its score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaleevent.benchmarks.evaluation import evaluate
from scaleevent.benchmarks.registry import Benchmark
from scaleevent.benchmarks.samples import BenchmarkSplit, LabelledSamples, benchmark_split
from scaleevent.config.downstream import FinetuneConfig
from scaleevent.decoders.decoder import Decoder
from scaleevent.errors import ConfigError
from scaleevent.pairs.splits import split_samples
from scaleevent.system.files import Json
from scaleevent.training.best import Best
from scaleevent.training.log import HELD_OUT
from scaleevent.training.run import Run

OWN = "validation"  # the part of a split that is for this, where it is not what is scored


@dataclass(frozen=True)
class Selection:
    """What is held out of training for it.

    Args:
        held_out: Sample indices; none where a run keeps its last step alone.
        origin: Where they are from, for people.
    """

    held_out: np.ndarray
    origin: str

    @classmethod
    def of(
        cls, samples: LabelledSamples, benchmark: Benchmark, split: BenchmarkSplit,
        cfg: FinetuneConfig,
    ) -> tuple[Selection, BenchmarkSplit]:  # fmt: skip
        """The selection, and the split without it.

        It is the validation part of the data where they have one beside what is scored; else the
        last training recordings, where the settings ask for a fraction of them.

        Raises:
            ConfigError: A fraction of training labels where the data have a part of their own, or
                scores between epochs where nothing is held out.
        """
        own = split.train[:0]
        if benchmark.eval_split != OWN:
            own = benchmark_split(samples, OWN, cfg.lists).test
        if len(own) and cfg.validation:
            raise ConfigError(
                "the data have a validation part of their own",
                where="--validation", found=cfg.validation, hint="leave out --validation",
            )  # fmt: skip
        if len(own):
            return cls(own, "the data's own validation part"), split
        if not cfg.validation and cfg.validate_every is not None:
            raise ConfigError(
                "nothing is held out that could be scored", where="--validate-every",
                hint="--validation 0.1 holds out a tenth of the training labels",
            )  # fmt: skip
        parted = split_samples(samples.pairs, cfg.validation, 0, split.train)
        dropped = f", {parted.dropped:,} overlapping dropped" if parted.dropped else ""
        shared = ", though their windows overlap those trained on" if parted.shared else ""
        origin = f"the last {100 * cfg.validation:g}% of the training recordings{dropped}{shared}"
        return cls(parted.validation, origin), split._replace(train=parted.train)

    def describe(self) -> str:
        """What is held out, for people."""
        if not len(self.held_out):
            return "no labels are held out, so the last step is kept, and no best one"
        return f"{len(self.held_out):,} labels choose the best step: {self.origin}"

    def scorer(
        self, decoder: Decoder, samples: LabelledSamples, run: Run, batch: int
    ) -> Callable[[], dict[str, float]]:
        """Gives the task's headline on what is held out, of the model as it is, on all ranks."""

        def validate() -> dict[str, float]:
            if not len(self.held_out):
                return {}
            modes = {module: module.training for module in decoder.modules()}
            found = evaluate(
                decoder.eval(), samples, self.held_out.tolist(), run.ranks, batch=batch,
                workers=run.ranks.loader_workers(run.cfg.workers),
            )  # fmt: skip
            for module, training in modes.items():
                module.training = training
            name = samples.task.headline
            value = found.result.get(name)
            return {} if value is None else {f"{HELD_OUT}{name}": float(value)}

        return validate

    def keeper(
        self, samples: LabelledSamples, folder: Path, save: Callable[[Path, Json], None]
    ) -> Best | None:
        """Keeps the model at its best headline; None where nothing is held out."""
        task = samples.task
        if not len(self.held_out):
            return None
        return Best(folder, f"{HELD_OUT}{task.headline}", task.higher_is_better, save)
