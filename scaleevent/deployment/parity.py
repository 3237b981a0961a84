"""Does an exported file compute what its checkpoint does? Test inputs and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scaleevent.deployment.program import Deployed
from scaleevent.errors import CheckpointError
from scaleevent.events import Events
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.windows import Window
from scaleevent.predictor import network_input

TOLERANCE = 1e-4  # largest difference, as a fraction of the reference's largest value
INPUTS = 8  # samples that are compared; the last one has no events

SPAN_US = 50_000  # length of a window
DISCS = 6  # moving discs in the scene
NOISE = 0.1  # fraction of events at random pixels
EVENTS_PER_PIXEL = 0.5

Run = Callable[..., Tensor]  # `voxel`, and for flow `after`, to the output


@dataclass(frozen=True)
class Loss:
    """How far outputs are from the checkpoint's, on the test inputs.

    Attributes:
        largest: The largest difference, as a fraction of the checkpoint's largest value.
        rms: The root mean square of the differences, as a fraction of that of its values.
        means: The same in the task's own terms, for people.
    """

    largest: float
    rms: float
    means: str


@dataclass(frozen=True)
class Limits:
    """Largest `Loss.rms` of a file of reduced precision."""

    warn: float  # above it the loss is pointed out
    refuse: float  # above it the file is not kept


class Parity:
    """Compares programs with the models that they were made from, on the same inputs.

    Args:
        settings: How the inputs are made.
    """

    def __init__(self, settings: InputSettings) -> None:
        single = parity_inputs(settings)
        # a batch of two, for files that take any number of samples
        before, after = (torch.cat(both) for both in zip(single[0], single[-1], strict=True))
        self.batches = [*single, (before, after)]
        self._references: dict[Deployed, list[Tensor]] = {}

    def difference(self, model: Deployed, run: Run, *, any_batch: bool) -> float:
        """`Loss.largest` of a program that must compute the same.

        Args:
            model: The reference.
            run: The program to compare with it.
            any_batch: Also compare a batch of two samples.

        Raises:
            CheckpointError: It is beyond `TOLERANCE`; or as `compare`.
        """
        loss = self.compare(model, run, any_batch=any_batch)
        if not loss.largest <= TOLERANCE:  # NaN is refused too
            raise CheckpointError(
                "the exported file does not compute what the checkpoint does",
                found=f"a difference of {loss.largest:.3g} of the largest value",
                expected=f"at most {TOLERANCE:g} of it",
            )
        return loss.largest

    def reduced(self, model: Deployed, run: Run, limits: Limits, *, any_batch: bool) -> Loss:
        """The loss of a program of reduced precision; arguments as for `difference`.

        Raises:
            CheckpointError: It is beyond `limits.refuse`; or as `compare`.
        """
        loss = self.compare(model, run, any_batch=any_batch)
        if not loss.rms <= limits.refuse:
            raise CheckpointError(
                "reduced precision loses too much of this model",
                found=f"differences of {loss.rms:.3g} of the outputs (root mean square), "
                f"{loss.means}",
                expected=f"at most {limits.refuse:g}",
                hint="leave this format out: --format onnx keeps float32",
            )
        return loss

    def compare(self, model: Deployed, run: Run, *, any_batch: bool) -> Loss:
        """How far a program is from the model; arguments as for `difference`.

        Raises:
            CheckpointError: The shapes differ, or the checkpoint itself gives values that are not
                finite.
        """
        if model not in self._references:
            self._references[model] = self._outputs(model, len(model.inputs), self.batches)
        batches = self.batches if any_batch else self.batches[:INPUTS]
        expected = self._references[model][: len(batches)]
        found = self._outputs(run, len(model.inputs), batches)
        if any(ours.shape != theirs.shape for ours, theirs in zip(expected, found, strict=True)):
            raise CheckpointError(
                "the exported file gives another shape",
                found=tuple(found[0].shape),
                expected=tuple(expected[0].shape),
            )
        largest = max(float(each.abs().max()) for each in expected)
        if not np.isfinite(largest):
            raise CheckpointError("the checkpoint gives values that are not finite", found=largest)
        pairs = zip(found, expected, strict=True)
        off = torch.cat([(a - b).flatten() for a, b in pairs]).double()
        own = torch.cat([each.flatten() for each in expected]).double()
        size, rms = (float(each.square().mean()) ** 0.5 for each in (own, off))
        means = _in_words(model.task, expected, found)
        return Loss(float(off.abs().max()) / (largest or 1), rms / (size or 1), means)

    @torch.no_grad()
    def _outputs(self, run: Run, inputs: int, batches: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        return [run(*batch[:inputs]) for batch in batches]


def _in_words(task: str, expected: list[Tensor], found: list[Tensor]) -> str:
    """The difference of outputs in the terms of a task."""
    pairs = list(zip(expected, found, strict=True))
    match task:
        case "encoder":
            parts = [F.cosine_similarity(a, b, dim=-1).flatten() for a, b in pairs]
            return f"mean cosine of the tokens {float(torch.cat(parts).mean()):.5f}"
        case "segmentation":
            parts = [(a.argmax(1) == b.argmax(1)).float().flatten() for a, b in pairs]
            return f"the same class on {float(torch.cat(parts).mean()):.2%} of the pixels"
        case "flow":
            parts = [torch.linalg.vector_norm(a - b, dim=1).flatten() for a, b in pairs]
            return f"vectors {float(torch.cat(parts).mean()):.4g} pixels apart on average"
    parts = [((a - b).abs() / a.abs().clamp(min=1e-6)).flatten() for a, b in pairs]
    return f"depth {float(torch.cat(parts).mean()):.2%} apart on average"


def parity_inputs(settings: InputSettings) -> list[tuple[Tensor, Tensor]]:
    """Network inputs of `INPUTS` seeded event streams, each (1, 3, H, W), before and after.

    They are prepared as for any recording; the last stream is empty.
    """
    height, width = settings.height, settings.width
    streams = [drifting_discs(seed, height, width) for seed in range(INPUTS - 1)]
    streams.append(Events.from_columns([], [], [], [], height, width))
    before, after = Window(0, SPAN_US), Window(SPAN_US, 2 * SPAN_US)
    return [
        (
            network_input(events, before, settings)[None],
            network_input(events, after, settings)[None],
        )
        for events in streams
    ]


def drifting_discs(seed: int, height: int, width: int) -> Events:
    """Events of two windows in which bright discs move over the sensor.

    Brighter events at the front of a disc, darker ones at its back, and noise everywhere.
    """
    rng = np.random.default_rng(seed)
    count = round(EVENTS_PER_PIXEL * 2 * height * width)
    t = np.sort(rng.integers(0, 2 * SPAN_US, count))
    centre = rng.uniform(0, 1, (DISCS, 2)) * (width, height)
    velocity = rng.normal(0, 0.1 * min(height, width), (DISCS, 2))  # pixels a window
    radius = rng.uniform(0.05, 0.3, DISCS) * min(height, width)
    disc = rng.integers(0, DISCS, count)
    angle = rng.uniform(0, 2 * np.pi, count)
    outward = np.stack([np.cos(angle), np.sin(angle)], 1)
    place = centre[disc] + velocity[disc] * (t[:, None] / SPAN_US) + radius[disc, None] * outward
    brighter = (outward * velocity[disc]).sum(1) > 0
    noise = rng.random(count) < NOISE
    place[noise] = rng.uniform(0, 1, (noise.sum(), 2)) * (width, height)
    x, y = np.floor(place).astype(np.int64).T
    seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return Events.from_columns(t[seen], x[seen], y[seen], brighter[seen], height, width)
