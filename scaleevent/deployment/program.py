"""A checkpoint as it is deployed: network input to output, and the metadata that describes both."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from scaleevent.benchmarks.meaning import described_task
from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.checkpoint import load_described
from scaleevent.decoders.decoder import Decoder
from scaleevent.encoders.encoder import Encoder, taught_by
from scaleevent.encoders.hub import weight_file
from scaleevent.errors import ConfigError
from scaleevent.pairs.window_words import stored_rule
from scaleevent.predictor import Predictor, input_names
from scaleevent.system.files import sha256_file
from scaleevent.system.locations import names_only
from scaleevent.tasks.segmentation import Segmentation

OUTPUTS = {"encoder": "tokens", "segmentation": "scores", "depth": "depth", "flow": "flow"}


class Deployed(nn.Module):
    """What runs in an exported file, from network input to tokens or the task's prediction.

    Segmentation gives scores rather than classes: scores can be compared within a tolerance and
    thresholded, and the classes are their argmax over axis 1.

    Args:
        model: In evaluation mode.
        size: Rows and columns of input and prediction.

    Attributes:
        task: The task, or "encoder".
        inputs: Names of the inputs.
        output: Name of the output.
    """

    def __init__(self, model: Encoder | Decoder, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.task = "encoder" if isinstance(model, Encoder) else model.task
        self.inputs = input_names(model)
        self.output = OUTPUTS[self.task]

    def forward(self, voxel: Tensor, after: Tensor | None = None) -> Tensor:
        """Output at the input's size.

        Args:
            voxel: (N, 3, H, W) float32 network input.
            after: The same of the window that follows; flow only.

        Returns:
            Float32. Encoder: (N, L, D) patch tokens, row-major. Segmentation: (N, K, H, W) scores.
            Depth: (N, H, W) metres. Flow: (N, 2, H, W) input pixels right and down.
        """
        model: Any = self.model
        if isinstance(model, Encoder):
            return model.tokens(voxel)
        predict = model.scores if model.task == "segmentation" else model.predict
        output: Tensor = predict(model(voxel, after), self.size)
        return output


class LoadedCheckpoint:
    """An encoder or task checkpoint to export.

    Args:
        path: A .safetensors file written by ScaleEvent, or another name that `load_model` takes.
        size: Rows and columns of the input; None uses the checkpoint's.
        offline: Never use the network.
        for_others: The description has no paths of this machine.

    Attributes:
        name: What the user calls it.
        path: The file.
        predictor: Its model, with the input size to export.
        description: The metadata of the checkpoint.
        deployed: The whole model.
        deployed_encoder: The encoder alone.

    Raises:
        CheckpointError: Not a checkpoint of ScaleEvent, or damaged.
        ConfigError: The checkpoint does not store how its input is made, or the size does not
            divide into patches.
        EnvironmentProblem: A checkpoint on the hub cannot be fetched.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int] | None = None,
        offline: bool = False,
        for_others: bool = False,
    ) -> None:
        self.name = str(path)
        self.path = weight_file(path, task=True, offline=offline)
        model, description = load_described(self.path, size)
        if (model if isinstance(model, Encoder) else model.encoder).input is None:
            raise ConfigError(
                "the weights do not store how their input is made from events", where=self.name,
                found="; ".join(taught_by(description, self.name)) or None,
                hint=f"`scaleevent pretrain PAIRS --teacher {self.name} -o RUN` makes an event "
                "encoder, and `scaleevent export RUN` takes that",
            )  # fmt: skip
        self.description = names_only(description) if for_others else description
        stored = stored_rule(self.description)
        self.predictor = Predictor(model, stored[0] if stored else None)
        settings, encoder = self.predictor.settings, self.predictor.encoder
        self.deployed = Deployed(model, (settings.height, settings.width))
        same = model is encoder
        self.deployed_encoder = self.deployed if same else Deployed(encoder, self.deployed.size)

    @cached_property
    def about(self) -> dict[str, Any]:
        """The metadata in every exported file: input preparation, outputs, source; JSON-able."""
        height, width = self.deployed.size
        predictor, known = self.predictor, self.description
        described = {
            "kind": known["kind"],
            "arch": dict(predictor.encoder.spec),
            "input": asdict(predictor.settings),
            "preparation": predictor.preparation,
            "window": asdict(predictor.rule),
            "inputs": {name: ["N", 3, height, width] for name in self.deployed.inputs},
            "outputs": {self.deployed.output: _output(predictor)},
            "source": {"sha256": known["sha256"], "file_sha256": sha256_file(self.path)},
        }
        if isinstance(predictor.model, Encoder):
            return described
        benchmark = known.get("benchmark")
        task = described_task(known, self.path)
        if task is None and benchmark in BENCHMARKS:  # of an earlier version
            task = BENCHMARKS[benchmark].task
        if isinstance(task, Segmentation):
            described["classes"] = list(task.classes)
            described["colours"] = task.palette.tolist()
        own = {"task": self.deployed.task, "benchmark": benchmark, "decoder": known["decoder"]}
        return described | own


def _output(predictor: Predictor) -> dict[str, Any]:
    """Shape and meaning of the output."""
    model, settings = predictor.model, predictor.settings
    if isinstance(model, Encoder):
        rows, columns = predictor.grid
        meaning = f"patch tokens, {rows} rows of {columns}"
        return {"shape": ["N", rows * columns, model.width], "meaning": meaning}
    relative = model.settings.get("kind") == "relative"
    classes = [model.settings.get("classes")]
    outputs: dict[str, tuple[list[Any], str]] = {
        "segmentation": (classes, "scores of the classes, argmax over axis 1"),
        "depth": ([], "inverse depth up to scale and shift" if relative else "depth in metres"),
        "flow": ([2], "motion in input pixels right and down"),
    }
    shape, meaning = outputs[model.task]
    return {"shape": ["N", *shape, settings.height, settings.width], "meaning": meaning}
