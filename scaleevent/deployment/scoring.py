"""What reduced precision costs on a benchmark: the same samples, scored with every file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from scaleevent.benchmarks.evaluation import check_fits, evaluate
from scaleevent.benchmarks.own import benchmark_of
from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.decoders.decoder import Decoder, Loaded
from scaleevent.deployment.parity import Run
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.errors import ConfigError
from scaleevent.system.ranks import Ranks
from scaleevent.training.terms import Terms


class ByProgram(Decoder):
    """A decoder whose output a program computes: what an exported file predicts.

    Its output has the input's size; a prediction of another size is resized from it.

    Args:
        decoder: What the program was made from.
        run: The program.
    """

    def __init__(self, decoder: Decoder, run: Run) -> None:
        super().__init__(decoder.encoder, decoder.settings)
        self.task, self.run = decoder.task, run

    def forward(self, voxel: Tensor, after: Tensor | None = None) -> Tensor:
        """The program's output."""
        return self.run(voxel) if after is None else self.run(voxel, after)

    def predict(self, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """See `Decoder.predict`."""
        planes = raw[:, None] if self.task == "depth" else raw
        resized = F.interpolate(planes, size, mode="bilinear", align_corners=False)
        if self.task == "segmentation":
            return resized.argmax(1)
        if self.task == "depth":
            return resized[:, 0]
        rows, columns = planes.shape[-2:]
        scale = torch.tensor([size[1] / columns, size[0] / rows])
        return resized * scale[:, None, None]

    def loss(self, raw: Tensor, target: Tensor) -> Terms:
        """Programs are not trained.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("an exported file cannot be trained")

    def load_published(self, tensors: Mapping[str, Tensor], where: object = None) -> Loaded:
        """Programs have no weights of their own.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("an exported file takes no weights", where=where)


def task_of(checkpoint: LoadedCheckpoint, data: Sequence[Path]) -> tuple[str, Decoder]:
    """The benchmark that a checkpoint was trained for, and its task model.

    Raises:
        ConfigError: It is an encoder, which has no metric; or the data have other classes.
        DataError: Data without labels.
    """
    model, benchmark = checkpoint.predictor.model, checkpoint.description.get("benchmark")
    if isinstance(model, Decoder) and benchmark:
        check_fits(
            model, benchmark_of(benchmark, data).task, checkpoint.name, checkpoint.description
        )
        return benchmark, model
    raise ConfigError(
        "only task models of a benchmark can be scored", where="--data",
        found=f"{checkpoint.name}, {checkpoint.description['kind']}",
        hint="the same without --data: the loss on the outputs is measured in any case",
    )  # fmt: skip


def score_programs(
    decoder: Decoder,
    runs: Mapping[str, Run],
    samples: LabelledSamples,
    indices: Sequence[int],
    ranks: Ranks,
    advance: Callable[[int], None],
) -> dict[str, float]:
    """The headline number of the task by program, all on the same samples one at a time.

    Args:
        decoder: What the programs were made from.
        runs: Programs by name.
        samples: Of the benchmark.
        indices: Of those that are scored.
        ranks: This process.
        advance: Called with the number of samples that were just scored.
    """
    found = {}
    for name, run in runs.items():
        scored = evaluate(
            ByProgram(decoder, run).eval(), samples, indices, ranks, batch=1, advance=advance
        )
        found[name] = float(scored.result[samples.task.headline])
    return found
