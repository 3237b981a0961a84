"""What a task is: its target, its metric, its trivial prediction and its pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaleevent.grids.geometry import Fit

Record = Any  # what one sample adds to a metric; JSON-able parts, made and read by the task alone
Summary = dict[str, Any]  # metric names to numbers or lists of them


@dataclass(frozen=True)
class Truth:
    """A label on its own pixels, within the input's field of view.

    Args:
        values: As in the store.
        events: (h, w) bool, pixels with at least one event.
        where: For messages.
    """

    values: np.ndarray
    events: np.ndarray
    where: str


class Task(ABC):
    """A kind of dense prediction.

    Metrics are made of one record a sample, summarised in the order of the samples: results do not
    depend on batches or processes.

    Attributes:
        name: `segmentation`, `depth` or `flow`.
        label: Name of its label in a pair store.
        frames: Windows of events its default decoder looks at.
        headline: The number of `summarise` that stands for all.
        higher_is_better: How the headline is read.
    """

    name: str
    label: str
    frames: int = 1
    headline: str
    higher_is_better: bool

    @abstractmethod
    def target(self, label: np.ndarray, fit: Fit, where: str) -> np.ndarray:
        """The label on the input's grid, as `Decoder.loss` takes it."""

    @abstractmethod
    def measure(self, prediction: np.ndarray, truth: Truth) -> Record:
        """What one prediction, on the truth's pixels, adds to the metric."""

    @abstractmethod
    def summarise(self, records: Sequence[Record], groups: Sequence[str]) -> Summary:
        """The metric of all samples; `groups` are their recordings."""

    @abstractmethod
    def rows(self, summary: Summary) -> dict[str, dict[str, float]]:
        """The numbers of a result table, named as published, by variant of the metric."""

    @abstractmethod
    def empty(self, summary: Summary) -> int:
        """Samples without a pixel that counts."""

    @abstractmethod
    def trivial(self, labels: Iterable[np.ndarray]) -> tuple[str, Any]:
        """The best prediction without looking: its name, and the constant for `fill`."""

    @abstractmethod
    def fill(self, constant: Any, size: tuple[int, int]) -> np.ndarray:
        """The trivial prediction on a grid."""

    @abstractmethod
    def draw(self, prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, ...]:
        """Pictures (h, w, 3) uint8 of the prediction, the truth and the error, on one scale."""


def nearest(values: np.ndarray, fit: Fit) -> np.ndarray:
    """Crop and scale (..., H, W) labels to the input, each pixel taking its nearest label."""
    cropped = fit.crop_array(values)
    rows, columns = cropped.shape[-2:]
    y = ((np.arange(fit.target_height) + 0.5) * rows / fit.target_height).astype(np.int64)
    x = ((np.arange(fit.target_width) + 0.5) * columns / fit.target_width).astype(np.int64)
    return cropped[..., y[:, None], x]
