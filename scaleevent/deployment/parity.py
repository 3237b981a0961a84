"""Does an exported file compute what its checkpoint does? Test inputs and the comparison."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
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
        """Largest difference of the outputs, as a fraction of the reference's largest value.

        Args:
            model: The reference.
            run: The program to compare with it.
            any_batch: Also compare a batch of two samples.

        Raises:
            CheckpointError: The difference is beyond `TOLERANCE` or not a number, the shapes
                differ, or the checkpoint itself gives values that are not finite.
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
        off = float(torch.cat([(a - b).abs().flatten() for a, b in pairs]).max())
        relative = off / largest if largest else off
        if not relative <= TOLERANCE:  # NaN is refused too
            raise CheckpointError(
                "the exported file does not compute what the checkpoint does",
                found=f"difference {off:.3g}, which is {relative:.3g} of the largest value",
                expected=f"at most {TOLERANCE:g} of it, {largest:.3g}",
            )
        return relative

    @torch.no_grad()
    def _outputs(self, run: Run, inputs: int, batches: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        return [run(*batch[:inputs]) for batch in batches]


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
