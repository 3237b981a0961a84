"""Semantic segmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaleevent.config.benchmarks import IGNORE
from scaleevent.errors import DataError
from scaleevent.grids.geometry import Fit
from scaleevent.legends import Legend, class_legend
from scaleevent.metrics import segmentation as segmentation_metrics
from scaleevent.pictures import draw_classes
from scaleevent.tasks.task import GroundTruth, Result, State, Task, nearest

WRONG, RIGHT = (215, 38, 30), (235, 235, 235)


@dataclass(frozen=True, eq=False)
class Segmentation(Task):
    """One of some classes a pixel; `IGNORE` does not count."""

    classes: tuple[str, ...]  # names by id
    palette: np.ndarray  # their colours, (K, 3) uint8
    name = "segmentation"
    label = "semantics"
    headline = "miou"
    empty = "empty"
    higher_is_better = True

    @property
    def forms(self) -> tuple[str, ...]:
        """Overlap as every published code has it."""
        return ("mIoU of all classes over the whole set",)

    @property
    def legend(self) -> str:
        """Columns."""
        return (
            "miou: mean IoU of all classes, %; acc: % of pixels that are right; miou_present: mean "
            "IoU of the classes that occur in labels or predictions"
        )

    @classmethod
    def of(cls, colours: Mapping[str, tuple[int, int, int]]) -> Segmentation:
        """The task of classes with their colours, in the order of their ids."""
        return cls(tuple(colours), np.array(list(colours.values()), np.uint8))

    @property
    def decoder_settings(self) -> dict[str, Any]:
        """`classes`, their number."""
        return {"classes": len(self.classes)}

    def target(self, label: np.ndarray, fit: Fit, where: str) -> np.ndarray:
        """(H, W) int64.

        Raises:
            DataError: An id outside the classes.
        """
        wrong = label[(label >= len(self.classes)) & (label != IGNORE)]
        if len(wrong):
            raise DataError(
                "label ids outside the classes",
                where=where,
                found=np.unique(wrong).tolist(),
                expected=f"0 to {len(self.classes) - 1}, or {IGNORE}",
            )
        return nearest(label, fit).astype(np.int64)

    def update(self, prediction: np.ndarray, truth: GroundTruth) -> State:
        """Confusion counts."""
        return segmentation_metrics.update(
            prediction, truth.values, len(self.classes), where=truth.where
        )

    def compute(self, states: Sequence[State], groups: Sequence[str]) -> Result:
        """See `scaleevent.metrics.segmentation.compute`; the overlaps by class name."""
        found = segmentation_metrics.compute(states, groups)
        result: Result = {k: one for k, one in found.items() if not isinstance(one, list)}
        (by_class,) = (one for one in found.values() if isinstance(one, list))
        names = (f"iou {name}" for name in self.classes)
        return result | dict(zip(names, by_class, strict=True))

    def headline_parts(self, state: State) -> np.ndarray:
        """The confusion counts."""
        return np.asarray(state["confusion"], np.float64)

    def headline_of(self, sums: np.ndarray) -> np.ndarray:
        """The mean over all classes, of which an absent one counts 0."""
        hits = np.diagonal(sums, axis1=-2, axis2=-1)
        union = sums.sum(-1) + sums.sum(-2) - hits
        mean: np.ndarray = 100 * (hits / np.maximum(union, 1)).mean(-1)
        return mean

    def rows(self, result: Result) -> dict[str, dict[str, float]]:
        """Overlap and accuracy in percent."""
        return {"all classes": {name: result[name] for name in ("miou", "acc", "miou_present")}}

    def constant_baseline(self, labels: Iterable[np.ndarray]) -> tuple[str, np.generic]:
        """The class of most pixels."""
        counts = np.zeros(IGNORE + 1, np.int64)
        for label in labels:
            counts += np.bincount(label[label != IGNORE].ravel(), minlength=IGNORE + 1)
        if not counts.any():
            raise DataError("no training label has a class")
        best = np.argmax(counts[: len(self.classes)])
        return f"{self.classes[best]} everywhere", best

    def place_prior(
        self, targets: Callable[[], Iterable[np.ndarray]], grid: tuple[int, int]
    ) -> np.ndarray:
        """The class of most labels at each place, in one pass.

        Ties, and places without a label, go to the class of more pixels in all, then to the
        lower id.
        """
        counts = np.zeros((grid[0] * grid[1], len(self.classes)), np.uint32)
        for target in targets():
            (places,) = np.nonzero(target.ravel() != IGNORE)
            counts[places, target.ravel()[places]] += 1
        if not counts.any():
            raise DataError("no training label has a class")
        order = np.argsort(-counts.sum(0, dtype=np.int64), kind="stable")
        best: np.ndarray = order[counts[:, order].argmax(1)]
        return best.astype(np.uint8).reshape(grid)

    def draw(
        self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]
    ) -> dict[str, list[np.ndarray]]:
        """Class colours; errors in red, ignored pixels black."""
        wrong = []
        for prediction, truth in zip(predictions, truths, strict=True):
            at = np.where((prediction != truth)[..., None], WRONG, RIGHT).astype(np.uint8)
            at[truth == IGNORE] = 0
            wrong.append(at)
        return {
            "prediction": [draw_classes(one, self.palette) for one in predictions],
            "ground truth, black does not count": [draw_classes(t, self.palette) for t in truths],
            "errors in red": wrong,
        }

    def colour_keys(self, truths: Sequence[np.ndarray]) -> list[Legend]:
        """The classes, and what is right and wrong."""
        classes = class_legend(self.classes, self.palette, "does not count")
        return [classes, Legend("Errors", [("right", RIGHT), ("wrong", WRONG)])]
