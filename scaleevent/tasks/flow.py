"""Optical flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scaleevent.errors import DataError
from scaleevent.grids.geometry import Fit
from scaleevent.legends import Legend, amount_legend, flow_legend
from scaleevent.metrics import flow as flow_metrics
from scaleevent.pictures import draw_amount, draw_flow
from scaleevent.tasks.task import GroundTruth, Result, State, Task, nearest

TABLE = ("epe", "1pe", "2pe", "3pe", "fl_all", "ae")


@dataclass(frozen=True)
class Flow(Task):
    """Pixels right and down; NaN where unknown."""

    recordings: tuple[str, ...] = ()  # those whose end-point error is also reported on its own
    name = "flow"
    label = "flow"
    frames = 2
    headline = "sparse_epe"
    empty = "dense_empty"
    higher_is_better = False

    @property
    def forms(self) -> tuple[str, ...]:
        """On pixels with events, and on all."""
        return ("sparse", "dense")

    @property
    def legend(self) -> str:
        """Columns, and the two variants."""
        return (
            "epe: mean error in pixels; 1pe, 2pe, 3pe: % of pixels with an error above 1, 2, 3; "
            "fl_all: % above 3 pixels and 5 % of the true flow; ae: angle in degrees; "
            "sparse: pixels with events, dense: all; rows that see no events: sparse"
        )

    def target(self, label: np.ndarray, fit: Fit, where: str) -> np.ndarray:
        """(2, H, W) float32 pixels of the input, NaN where unknown."""
        down, across = fit.scale
        known = np.isfinite(label).all(0)
        scaled = np.where(known, label * np.array([across, down])[:, None, None], np.nan)
        return nearest(scaled.astype(np.float32), fit)

    def update(self, prediction: np.ndarray, truth: GroundTruth) -> State:
        """All published variants."""
        return flow_metrics.update(prediction, truth.values, truth.events, where=truth.where)

    def compute(self, states: Sequence[State], groups: Sequence[str]) -> Result:
        """See `scaleevent.metrics.flow.compute`; and `epe NAME` of each of `recordings`."""
        result: Result = flow_metrics.compute(states, groups)
        for name in self.recordings:
            own = [state for state, group in zip(states, groups, strict=True) if group == name]
            values = [state["sparse_epe"] for state in own if "sparse_epe" in state]
            if values:
                result[f"epe {name}"] = float(np.mean(values))
        return result

    def rows(self, result: Result) -> dict[str, dict[str, float]]:
        """On pixels with events, and on all; per recording as the paper."""
        by_recording = {name: value for name, value in result.items() if name.startswith("epe ")}
        return {
            variant: {name: result[f"{variant}_{name}"] for name in TABLE} | extra
            for variant, extra in (("sparse", by_recording), ("dense", {}))
            if f"{variant}_epe" in result
        }

    def constant_baseline(self, labels: Iterable[np.ndarray]) -> tuple[str, np.generic]:
        """No motion."""
        return "zero flow", np.float32(0)

    def place_prior(
        self, targets: Callable[[], Iterable[np.ndarray]], grid: tuple[int, int]
    ) -> np.ndarray:
        """The mean at each place, in one pass; without a label there, the mean of the others."""
        sums, counts = np.zeros((2, *grid)), np.zeros(grid, np.int64)
        for target in targets():
            known = np.isfinite(target).all(0)
            sums[:, known] += target[:, known]
            counts += known
        known = counts > 0
        if not known.any():
            raise DataError("no training label has a pixel with known flow")
        means = sums / np.maximum(counts, 1)
        means[:, ~known] = means[:, known].mean(1, keepdims=True)
        return means.astype(np.float16)

    def draw(
        self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]
    ) -> dict[str, list[np.ndarray]]:
        """Direction as hue, length as saturation; one scale, up to the largest true length."""
        largest = _full_colour(truths)
        errors = [np.hypot(*(p - t)) for p, t in zip(predictions, truths, strict=True)]
        return {
            f"prediction, full colour at {largest:.3g} px": [
                draw_flow(one, largest) for one in predictions
            ],
            "ground truth, same scale": [draw_flow(one, largest) for one in truths],
            f"error, brightest at {largest:.3g} px": [
                draw_amount(error / largest) for error in errors
            ],
        }

    def colour_keys(self, truths: Sequence[np.ndarray]) -> list[Legend]:
        """A wheel of directions, and a scale of the error in pixels."""
        largest = _full_colour(truths)
        error = amount_legend(
            "Error: length of the difference from the true motion",
            "0", f"{largest:.3g} px or more", f"{largest / 2:.3g}",
        )  # fmt: skip
        return [flow_legend(largest), error]


def _full_colour(truths: Sequence[np.ndarray]) -> float:
    """The length in pixels that is drawn in full colour: nearly the largest true one."""
    lengths = [np.hypot(*truth) for truth in truths]
    known = np.concatenate([np.empty(0), *(length[np.isfinite(length)] for length in lengths)])
    return max(float(np.quantile(known, 0.99)), 1.0) if len(known) else 1.0
