"""Metric depth along the optical axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scaleevent.errors import DataError
from scaleevent.grids.geometry import Fit
from scaleevent.metrics import depth as depth_metrics
from scaleevent.pictures import draw_amount, draw_depth
from scaleevent.tasks.task import GroundTruth, Result, State, Task, nearest

TABLE = ("d1", "d2", "d3", "abs_rel", "rmse", "rmse_log")
WORST_ERROR = 0.5  # relative error that is drawn brightest


@dataclass(frozen=True)
class Depth(Task):
    """Metres; NaN where unknown."""

    max_depth: float = depth_metrics.MAX_DEPTH_M  # farthest depth that counts, metres
    # rows and columns of the middle of the label that is scored; None scores all of it
    crop: tuple[int, int] | None = None
    # how a prediction is fitted to its frame's ground truth before it is scored
    alignment: depth_metrics.Alignment = "none"
    name = "depth"
    label = "depth"
    headline = "dav2_rmse"
    empty = "dav2_empty"
    higher_is_better = False

    @property
    def decoder_settings(self) -> dict[str, Any]:
        """`max_depth`."""
        return {"max_depth": self.max_depth}

    def aligned(self, alignment: depth_metrics.Alignment) -> Depth:
        """The same task with another `alignment`."""
        return replace(self, alignment=alignment)

    def target(self, label: np.ndarray, fit: Fit, where: str) -> np.ndarray:
        """(H, W) float32, NaN where unknown or beyond `max_depth`."""
        known = (label > 0) & (label <= self.max_depth)
        return nearest(np.where(known, label, np.nan).astype(np.float32), fit)

    def update(self, prediction: np.ndarray, truth: GroundTruth) -> State:
        """Both published variants."""
        return depth_metrics.update(
            self._middle(prediction),
            self._middle(truth.values),
            max_depth=self.max_depth,
            alignment=self.alignment,
            where=truth.where,
        )

    def compute(self, states: Sequence[State], groups: Sequence[str]) -> Result:
        """See `scaleevent.metrics.depth.compute`."""
        return depth_metrics.compute(states, groups)

    def rows(self, result: Result) -> dict[str, dict[str, float]]:
        """Both variants."""
        return {
            variant: {name: result[f"{variant}_{name}"] for name in TABLE}
            for variant in ("dav2", "dae")
            if f"{variant}_rmse" in result
        }

    def constant_baseline(self, labels: Iterable[np.ndarray]) -> tuple[str, np.generic]:
        """The median depth."""
        known = [v[(v > 0) & (v <= self.max_depth)] for v in labels]
        pixels = np.concatenate([np.empty(0), *known])
        if not len(pixels):
            raise DataError("no training label has a depth in range", found=f"{len(known)} labels")
        median = np.median(pixels)
        return f"{median:.1f} m everywhere", np.float32(median)

    def draw(
        self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]
    ) -> dict[str, list[np.ndarray]]:
        """By inverse depth, and the relative error."""
        known = [np.where((t > 0) & (t <= self.max_depth), t, np.nan) for t in truths]
        errors = [np.abs(p - t) / t for p, t in zip(predictions, known, strict=True)]
        return {
            "prediction, near is bright": [draw_depth(one) for one in predictions],
            "ground truth, same scale": [draw_depth(one) for one in known],
            f"relative error, brightest at {WORST_ERROR:.0%}": [
                draw_amount(error / WORST_ERROR) for error in errors
            ],
        }

    def _middle(self, values: np.ndarray) -> np.ndarray:
        if self.crop is None:
            return values
        rows, columns = (min(c, s) for c, s in zip(self.crop, values.shape, strict=True))
        top, left = (values.shape[0] - rows) // 2, (values.shape[1] - columns) // 2
        return values[top : top + rows, left : left + columns]
