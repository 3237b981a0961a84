"""What predictions are made with: the one place where a name becomes a model with its input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from scaleevent.benchmarks.meaning import described_task
from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.checkpoint import load_described
from scaleevent.config.catalog import DEFAULT_NORMALISER
from scaleevent.decoders.decoder import Decoder
from scaleevent.encoders.encoder import Encoder, build_encoder, taught_by
from scaleevent.encoders.hub import weight_file
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.windows import WindowRule
from scaleevent.predictor import Predictor
from scaleevent.system.files import Json
from scaleevent.system.locations import embedded_file, embedded_name, is_weight_file
from scaleevent.system.sealed import read_description
from scaleevent.tasks.task import Task

WIDEST = 40  # patches across an input whose size no checkpoint states, as the paper's
STRETCH = 0.1  # of such an input, so that whole patches show the whole sensor


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A model with its input settings, and what is known of it.

    Attributes:
        name: As the user named it.
        predictor: The model, on its device.
        description: What the checkpoint says of itself; empty for weights of other origins.
        notes: Lines for people: what was chosen because the checkpoint does not say it.
    """

    name: str
    predictor: Predictor
    description: Json
    notes: tuple[str, ...]

    @property
    def task(self) -> str | None:
        """`segmentation`, `depth` or `flow`; None for an encoder."""
        model = self.predictor.model
        return None if isinstance(model, Encoder) else model.task

    @property
    def decoder_settings(self) -> Json:
        """The decoder's own settings, such as `classes`; empty for an encoder."""
        model = self.predictor.model
        return {} if isinstance(model, Encoder) else model.settings

    @property
    def benchmark_task(self) -> Task | None:
        """The task that it was trained for, which knows its classes; None where no file tells."""
        told = described_task(self.description, self.name)
        if told is not None:
            return told
        known = BENCHMARKS.get(str(self.description.get("benchmark")))
        return known.task if known is not None and known.task.name == self.task else None


def open_model(
    name: str,
    sensor: tuple[int, int],
    *,
    size: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
    offline: bool = False,
) -> OpenedModel:
    """Load a task model or an encoder by any of its names.

    Args:
        name: A file of ours, another weight file of an encoder, a name of embedded weights,
            ``timm:NAME``, ``local-dir:FOLDER`` or ``hf-hub:ORG/NAME[@REVISION]``.
        sensor: (height, width) of the events, which decides on the input's size where neither
            `size` nor the checkpoint does.
        size: Rows and columns of the network input.
        device: Where it computes.
        offline: Use only weights that are already on this machine.

    Raises:
        CheckpointError: Not a model, or damaged.
        ConfigError: No such name; or a size that does not divide into patches.
        EnvironmentProblem: Weights cannot be fetched.
    """
    packaged = embedded_file(name)
    path = weight_file(name, task=True, offline=offline)
    notes: list[str] = []
    model: Encoder | Decoder
    ours = path != Path(name) or is_weight_file(name)
    description = read_description(path, "encoder", "task") if ours else None
    if description is not None and (packaged is None or description.get("input")):
        model, description = load_described(path, size)
        notes += taught_by(description, embedded_name(name) or name)
    else:
        description = {}
        model = build_encoder(None, name, offline=offline).eval()
        notes += model.remarks
    encoder = model if isinstance(model, Encoder) else model.encoder
    if encoder.input is None:
        rows, columns = size or _size_for(sensor, encoder.patch)
        mean, std = encoder.colours.mean, encoder.colours.std
        encoder.input = InputSettings(
            rows, columns, encoder.patch, 3, DEFAULT_NORMALISER, STRETCH, mean, std
        )
        of_sensor = "as asked" if size else "by the sensor"
        notes.append(
            f"the weights do not store how their input is made: {rows}x{columns} {of_sensor} "
            f"(--input-size), normaliser {DEFAULT_NORMALISER}"
        )
    return OpenedModel(name, Predictor(model.to(device)), description, tuple(notes))


def rule_text(rule: WindowRule) -> str:
    """A rule in words."""
    if rule.kind == "time":
        return f"the last {rule.duration_us / 1000:g} ms"
    if rule.kind == "count":
        return f"the last {rule.events_per_pixel:g} events a pixel"
    return (
        f"adaptive, quantile {rule.quantile:g}, cell {rule.cell}, at most "
        f"{rule.duration_us / 1000:g} ms"
    )


def _size_for(sensor: tuple[int, int], patch: int) -> tuple[int, int]:
    """The sensor's shape in whole patches, at most `WIDEST` across."""
    scale = min(1.0, WIDEST * patch / sensor[1])
    rows, columns = (max(patch, round(side * scale / patch) * patch) for side in sensor)
    return rows, columns
