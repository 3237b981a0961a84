"""A checkpoint as it is deployed: network input to output, and the metadata that describes both."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.checkpoint import load_model
from scaleevent.decoders.decoder import Decoder
from scaleevent.encoders.encoder import Encoder
from scaleevent.grids.inputs import IMAGENET_MEAN, IMAGENET_STD, InputSettings
from scaleevent.predictor import Predictor, input_names
from scaleevent.system.files import sha256_file
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
        inputs: Names of the inputs.
        output: Name of the output.
    """

    def __init__(self, model: Encoder | Decoder, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.inputs = input_names(model)
        self.output = OUTPUTS[_name(model)]

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


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint to export.

    Attributes:
        path: Its file.
        predictor: Its model, with the input size to export.
        description: The metadata of the checkpoint.
    """

    path: Path
    predictor: Predictor
    description: dict[str, Any]

    @property
    def model(self) -> Encoder | Decoder:
        """An encoder, or a decoder with its encoder."""
        return self.predictor.model

    @property
    def name(self) -> str:
        """The task, or "encoder"."""
        return _name(self.model)

    @property
    def encoder(self) -> Encoder:
        """The encoder, of a task model too."""
        return self.predictor.encoder

    @property
    def settings(self) -> InputSettings:
        """How the input is made."""
        return self.predictor.settings

    @cached_property
    def deployed(self) -> Deployed:
        """The whole model."""
        return Deployed(self.model, (self.settings.height, self.settings.width))

    @cached_property
    def deployed_encoder(self) -> Deployed:
        """The encoder alone."""
        if isinstance(self.model, Encoder):
            return self.deployed
        return Deployed(self.encoder, self.deployed.size)


def load_checkpoint(path: Path, size: tuple[int, int] | None = None) -> LoadedCheckpoint:
    """Load an encoder or task checkpoint for export.

    Args:
        path: A .safetensors file written by ScaleEvent.
        size: Rows and columns of the input; None uses the checkpoint's.

    Raises:
        CheckpointError: Not a checkpoint of ScaleEvent, or damaged.
        ConfigError: The checkpoint does not store how its input is made, or the size does not
            divide into patches.
    """
    model, description = load_model(path, size)
    return LoadedCheckpoint(path, Predictor(model), description)


def describe(checkpoint: LoadedCheckpoint) -> dict[str, Any]:
    """The metadata stored in every exported file: input preparation, outputs, source; JSON-able."""
    height, width = checkpoint.deployed.size
    known = checkpoint.description
    described = {
        "kind": known["kind"],
        "arch": dict(checkpoint.encoder.spec),
        "input": asdict(checkpoint.settings) | {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        "preparation": checkpoint.predictor.preparation,
        "inputs": {name: ["N", 3, height, width] for name in checkpoint.deployed.inputs},
        "outputs": {checkpoint.deployed.output: _output(checkpoint)},
        "source": {"sha256": known["sha256"], "file_sha256": sha256_file(checkpoint.path)},
    }
    if isinstance(checkpoint.model, Encoder):
        return described
    benchmark = known.get("benchmark")
    task = BENCHMARKS[benchmark].task if benchmark in BENCHMARKS else None
    if isinstance(task, Segmentation):
        described["classes"] = list(task.classes)
    return described | {
        "task": checkpoint.name,
        "benchmark": benchmark,
        "decoder": known["decoder"],
    }


def _output(checkpoint: LoadedCheckpoint) -> dict[str, Any]:
    """Shape and meaning of the output."""
    height, width = checkpoint.deployed.size
    model = checkpoint.model
    if isinstance(model, Encoder):
        rows, columns = checkpoint.predictor.grid
        return {
            "shape": ["N", rows * columns, model.width],
            "meaning": f"patch tokens, {rows} rows of {columns}",
        }
    relative = model.settings.get("kind") == "relative"
    outputs: dict[str, tuple[list[Any], str]] = {
        "segmentation": (
            [model.settings.get("classes")],
            "scores of the classes, argmax over axis 1",
        ),
        "depth": ([], "inverse depth up to scale and shift" if relative else "depth in metres"),
        "flow": ([2], "motion in input pixels right and down"),
    }
    shape, meaning = outputs[checkpoint.name]
    return {"shape": ["N", *shape, height, width], "meaning": meaning}


def _name(model: Encoder | Decoder) -> str:
    return "encoder" if isinstance(model, Encoder) else model.task
