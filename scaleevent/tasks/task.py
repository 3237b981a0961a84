"""What a task is: its target, its metric, its constant baseline and its pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaleevent.errors import ConfigError
from scaleevent.grids.geometry import Fit
from scaleevent.legends import Legend

State = Any  # what one sample adds to a metric; JSON-able parts, made and read by the task alone
Result = dict[str, float]  # metric names to numbers


@dataclass(frozen=True)
class GroundTruth:
    """A label on its own pixels, within the input's field of view."""

    values: np.ndarray  # as in the store
    events: np.ndarray  # (h, w) bool, pixels with at least one event
    where: str  # for messages


class Task(ABC):
    """A kind of dense prediction.

    A metric is computed from one state a sample, in the order of the samples: results do not depend
    on batches or processes.

    Attributes:
        name: `segmentation`, `depth` or `flow`.
        label: Name of its label in a pair store.
        frames: Number of event windows that its decoders take.
        headline: The one number of a result that stands for all.
        empty: The number of a result that counts samples without a pixel that counts.
        higher_is_better: How the headline is read.
    """

    name: str
    label: str
    frames: int = 1
    headline: str
    empty: str
    higher_is_better: bool

    @property
    @abstractmethod
    def forms(self) -> tuple[str, ...]:
        """The published forms of its metric that are computed, by name."""

    @property
    def legend(self) -> str:
        """What the columns and rows of its result table mean, with units; empty: they say it."""
        return ""

    @property
    def decoder_settings(self) -> dict[str, Any]:
        """Keyword arguments of a decoder that follow from the task."""
        return {}

    def aligned(self, alignment: Any) -> Task:
        """The same task, where each prediction is first fitted to its ground truth.

        Raises:
            ConfigError: A task whose predictions cannot be fitted.
        """
        raise ConfigError(f"{self.name} cannot be aligned, only depth", where="--alignment")

    def scored(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Rows and columns that are compared of a label with `size` rows and columns."""
        return size

    @abstractmethod
    def target(self, label: np.ndarray, fit: Fit, where: str) -> np.ndarray:
        """The label on the input's grid, as `Decoder.loss` takes it."""

    @abstractmethod
    def update(self, prediction: np.ndarray, truth: GroundTruth) -> State:
        """What one prediction, on the truth's pixels, adds to the metric."""

    @abstractmethod
    def compute(self, states: Sequence[State], groups: Sequence[str]) -> Result:
        """The metric of all samples; `groups` are their recordings."""

    def headline_parts(self, state: State) -> np.ndarray:
        """What a sample adds to the headline, float64 of any shape; see `headline_of`."""
        value = state.get(self.headline)
        return np.array([0.0, 0.0] if value is None else [1.0, value])

    def headline_of(self, sums: np.ndarray) -> np.ndarray:
        """(...) the headline of (..., *shape) sums of `headline_parts`, as `compute` has it.

        By default the mean over the samples that have it.
        """
        mean: np.ndarray = sums[..., 1] / np.maximum(sums[..., 0], 1)
        return mean

    @abstractmethod
    def rows(self, result: Result) -> dict[str, dict[str, float]]:
        """The numbers of a result table, named as published, by variant of the metric."""

    @abstractmethod
    def constant_baseline(self, labels: Iterable[np.ndarray]) -> tuple[str, np.generic]:
        """The best constant prediction for these labels: its name, and the value of every pixel."""

    @abstractmethod
    def place_prior(
        self, targets: Callable[[], Iterable[np.ndarray]], grid: tuple[int, int]
    ) -> np.ndarray:
        """The best prediction that knows only where in the picture a pixel lies.

        Args:
            targets: Goes through training labels, as `target` gives them, one at a time; called
                once a pass. Memory does not grow with their number.
            grid: Their rows and columns (h, w).

        Returns:
            Segmentation: (h, w) uint8 classes. Depth: (h, w) float16 metres. Flow: (2, h, w)
            float16 pixels of the grid. No place is without a value.

        Raises:
            DataError: No label has a pixel that counts.
        """

    @abstractmethod
    def draw(
        self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]
    ) -> dict[str, list[np.ndarray]]:
        """Pictures (h, w, 3) uint8 of predictions, truths, errors; all on one scale; by title."""

    @abstractmethod
    def colour_keys(self, truths: Sequence[np.ndarray]) -> list[Legend]:
        """What the colours of `draw` mean; see `scaleevent.legends`."""


def nearest(values: np.ndarray, fit: Fit) -> np.ndarray:
    """Crop and scale (..., H, W) labels to the input, each pixel taking its nearest label.

    Beyond the sensor they are unknown, see `Fit.crop_label`.
    """
    cropped = fit.crop_label(values)
    rows, columns = cropped.shape[-2:]
    y = ((np.arange(fit.target_height) + 0.5) * rows / fit.target_height).astype(np.int64)
    x = ((np.arange(fit.target_width) + 0.5) * columns / fit.target_width).astype(np.int64)
    return cropped[..., y[:, None], x]
