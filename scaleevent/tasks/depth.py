"""Metric depth along the optical axis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scaleevent.errors import DataError
from scaleevent.grids.geometry import Fit
from scaleevent.legends import Legend, amount_legend, depth_legend
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
    def forms(self) -> tuple[str, ...]:
        """Both variants, and how predictions are fitted."""
        fitted = "" if self.alignment == "none" else f", fitted by {self.alignment}"
        return (f"dav2{fitted}", f"dae{fitted}")

    @property
    def legend(self) -> str:
        """Columns, and the two variants."""
        return (
            "d1, d2, d3: share of pixels within a factor of 1.25, of its square, of its cube; "
            "abs_rel: error / true depth; rmse: metres; rmse_log: of logarithms; dav2: as Depth "
            "Anything V2 computes them, dae: as E2Depth and DepthAnyEvent; rows that see no "
            "events: dav2"
        )

    @property
    def decoder_settings(self) -> dict[str, Any]:
        """`max_depth`."""
        return {"max_depth": self.max_depth}

    def aligned(self, alignment: depth_metrics.Alignment) -> Depth:
        """The same task with another `alignment`."""
        return replace(self, alignment=alignment)

    def scored(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The crop, where the label is larger."""
        if self.crop is None:
            return size
        return tuple(min(c, s) for c, s in zip(self.crop, size, strict=True))

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

    def place_prior(
        self, targets: Callable[[], Iterable[np.ndarray]], grid: tuple[int, int]
    ) -> np.ndarray:
        """The median at each place; of an even number of depths the lower middle one.

        Depths are rounded to half precision, 2^-11 of them, where positive numbers sort as their 15
        bits do. So three passes that count 5 bits each find the median of the rounded depths
        exactly, with 32 counts a place. Places without a label take the median of the others.
        """
        size = grid[0] * grid[1]
        found, rank, total = np.zeros(size, np.int32), np.zeros(size, np.int32), np.zeros(size)
        for shift in (10, 5, 0):
            counts = np.zeros((size, 32), np.int32)
            for target in targets():
                (places,) = np.nonzero(np.isfinite(target.ravel()))
                bits = target.ravel()[places].astype(np.float16).view(np.uint16).astype(np.int32)
                near = bits >> (shift + 5) == found[places]
                counts[places[near], bits[near] >> shift & 31] += 1
            if shift == 10:
                total = counts.sum(1)
                rank = (total - 1).clip(0) // 2
            below = counts.cumsum(1, dtype=np.int32)
            digit = (below > rank[:, None]).argmax(1)
            rank -= np.where(digit > 0, below[np.arange(size), digit - 1], 0)
            found = found << 5 | digit
        known = total > 0
        if not known.any():
            raise DataError("no training label has a depth in range")
        medians = found.astype(np.uint16).view(np.float16)
        medians[~known] = np.quantile(medians[known], 0.5, method="inverted_cdf")
        most = np.float16(self.max_depth)
        if most > self.max_depth:  # rounded up, and out of range
            most = np.nextafter(most, np.float16(0))
        return medians.clip(np.finfo(np.float16).smallest_subnormal, most).reshape(grid)

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

    def colour_keys(self, truths: Sequence[np.ndarray]) -> list[Legend]:
        """A scale in metres up to the farthest known depth, and one of the error."""
        known = [t[(t > 0) & (t <= self.max_depth)] for t in truths]
        farthest = max((float(t.max()) for t in known if t.size), default=self.max_depth)
        error = amount_legend(
            "Relative error: distance from the true depth as a share of it",
            "0 %", f"{WORST_ERROR:.0%} or more", f"{WORST_ERROR / 2:.0%}",
        )  # fmt: skip
        return [depth_legend(farthest), error]

    def _middle(self, values: np.ndarray) -> np.ndarray:
        if self.crop is None:
            return values
        rows, columns = self.scored(values.shape)
        top, left = (values.shape[0] - rows) // 2, (values.shape[1] - columns) // 2
        return values[top : top + rows, left : left + columns]
