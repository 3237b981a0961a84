"""A checkpoint as it is deployed: network input to output, and the description that goes along."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.checkpoint import load_encoder, load_task
from scaleevent.decoders.decoder import Decoder
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import ConfigError
from scaleevent.grids.inputs import IMAGENET_MEAN, IMAGENET_STD, InputSettings
from scaleevent.system.files import sha256_file
from scaleevent.training.tensors import read_description

OUTPUTS = {"encoder": "tokens", "segmentation": "scores", "depth": "depth", "flow": "flow"}
PREPARATION = (
    "events of the half-open window that ends at the moment asked about (`after`: of the window "
    "that starts there); signed voxel with `bins` time bins, bilinear in time over the window, on "
    "the sensor's pixels; crop to the input's shape and bilinear resize to height x width; "
    "`normaliser` over the whole tensor; then (x - mean) / std, one value a bin"
)


class Deployed(nn.Module):
    """What runs in an exported file, from network input to tokens or the task's prediction.

    Segmentation gives scores rather than classes: unlike classes they can be compared within a
    tolerance and thresholded, and the argmax over axis 1 is all that is missing.

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
        name = _name(model)
        self.inputs = ("voxel", "after") if name == "flow" else ("voxel",)
        self.output = OUTPUTS[name]

    def forward(self, voxel: Tensor, after: Tensor | None = None) -> Tensor:
        """Output at the input's size.

        Args:
            voxel: (N, 3, H, W) float32 network input.
            after: The same of the window that follows; flow only.

        Returns:
            Float32. Encoder: (N, L, D) patch tokens, row-major. Segmentation: (N, C, H, W) scores.
            Depth: (N, H, W) metres. Flow: (N, 2, H, W) input pixels right and down.
        """
        if isinstance(self.model, Encoder):
            return self.model.tokens(voxel)
        raw = self.model(voxel, after)
        if self.model.task == "segmentation":
            return self.model.scores(raw, self.size)
        return self.model.predict(raw, self.size)


@dataclass(frozen=True)
class Source:
    """A checkpoint to export.

    Attributes:
        path: Its file.
        model: An encoder, or a decoder with its encoder; the encoder's `input` has the size to
            export.
        description: What the checkpoint says about itself.
    """

    path: Path
    model: Encoder | Decoder
    description: dict[str, Any]

    @property
    def name(self) -> str:
        """The task, or "encoder"."""
        return _name(self.model)

    @property
    def encoder(self) -> Encoder:
        """The encoder, of a task model too."""
        return self.model if isinstance(self.model, Encoder) else self.model.encoder

    @property
    def settings(self) -> InputSettings:
        """How the input is made."""
        return self.encoder.input

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


def load_source(path: Path, size: tuple[int, int] | None = None) -> Source:
    """Load an encoder or task checkpoint.

    Args:
        path: A .safetensors file of ours.
        size: Rows and columns of the input; None takes the checkpoint's.

    Raises:
        CheckpointError: Not a checkpoint of ours, or damaged.
        ConfigError: The checkpoint does not say how its input is made, or the size does not divide
            into patches.
    """
    description = read_description(path) or {}
    model = load_task(path)[0] if description.get("kind") == "task" else load_encoder(path)
    source = Source(path, model, description)
    encoder = source.encoder
    if encoder.input is None:
        raise ConfigError(
            "the checkpoint does not say how its input is made",
            where=path,
            hint="export what pretrain, probe or finetune has written",
        )
    if size is not None:
        encoder.input = replace(encoder.input, height=size[0], width=size[1])
    encoder.grid(encoder.input.height, encoder.input.width)
    return source


def describe(source: Source) -> dict[str, Any]:
    """What travels in every file: how to make the input, what comes out, whence; JSON-able."""
    height, width = source.deployed.size
    described = {
        "kind": source.description["kind"],
        "arch": dict(source.encoder.spec),
        "input": asdict(source.settings) | {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        "preparation": PREPARATION,
        "inputs": {name: ["N", 3, height, width] for name in source.deployed.inputs},
        "outputs": {source.deployed.output: _output(source)},
        "source": {
            "sha256": source.description["sha256"],
            "file_sha256": sha256_file(source.path),
        },
    }
    if isinstance(source.model, Encoder):
        return described
    named = BENCHMARKS.get(source.description.get("benchmark"))
    if source.name == "segmentation" and named is not None:
        described["classes"] = list(named.task.classes)
    return described | {
        "task": source.name,
        "benchmark": source.description.get("benchmark"),
        "decoder": source.description["decoder"],
    }


def _output(source: Source) -> dict[str, Any]:
    """Shape and meaning of the output."""
    height, width = source.deployed.size
    if isinstance(source.model, Encoder):
        rows, columns = source.encoder.grid(height, width)
        return {
            "shape": ["N", rows * columns, source.encoder.width],
            "meaning": f"patch tokens, {rows} rows of {columns}",
        }
    settings = source.model.settings
    relative = settings.get("kind") == "relative"
    shape, meaning = {
        "segmentation": ([settings.get("classes")], "scores of the classes, argmax over axis 1"),
        "depth": ([], "inverse depth up to scale and shift" if relative else "depth in metres"),
        "flow": ([2], "motion in input pixels right and down"),
    }[source.name]
    return {"shape": ["N", *shape, height, width], "meaning": meaning}


def _name(model: Encoder | Decoder) -> str:
    return "encoder" if isinstance(model, Encoder) else model.task
