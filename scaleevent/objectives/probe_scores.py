"""Scores of probes at pixels, a sample at a time, and their intervals over recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RESAMPLES = 2000
COVERED = 0.95  # of the resamples lie within an interval
LEAST_RECORDINGS = 8  # below which no interval is given


def confusions(
    scores: Tensor, labels: Tensor | Sequence[Tensor], grid: tuple[int, int]
) -> np.ndarray:
    """Pixel counts of each sample, with labels as rows and predictions as columns.

    Scores are upsampled to the pixels bilinearly, then the highest one wins.

    Args:
        scores: (M, L, K), of the tokens.
        labels: (H, W) class ids each; those from K on are ignored.
        grid: (h, w) of the tokens.

    Returns:
        (M, K, K) int64.
    """
    classes = scores.shape[-1]
    found = []
    for maps, label in zip(_upsampled(scores, labels, grid), labels, strict=True):
        truth = label.long()
        pairs = torch.where(truth < classes, truth * classes + maps.max(0).indices, classes**2)
        counts = np.bincount(pairs.flatten().numpy(), minlength=classes**2 + 1)
        found.append(counts[:-1].reshape(classes, classes))
    return np.array(found, np.int64).reshape(-1, classes, classes)


def overlap(confusion: np.ndarray) -> np.ndarray:
    """(..., K) intersection over union of (..., K, K) counts; NaN for classes absent from both."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(-1) + confusion.sum(-2) - hits
    iou: np.ndarray = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)
    return iou


def mean_overlap(confusion: np.ndarray) -> np.ndarray:
    """(...) mean overlap in percent of (..., K, K) counts, of the classes that are there."""
    iou = overlap(confusion)
    there = ~np.isnan(iou)
    mean: np.ndarray = 100 * np.where(there, iou, 0).sum(-1) / np.maximum(there.sum(-1), 1)
    return mean


def depth_errors(
    scores: Tensor, depths: Tensor | Sequence[Tensor], grid: tuple[int, int],
    limits: tuple[float, float],
) -> np.ndarray:  # fmt: skip
    """Sums over the known pixels of each sample: (M, 3) float64.

    Their columns are the number of pixels, the squared errors in square metres, and the errors
    relative to the depth. Log depths are upsampled to the pixels bilinearly; predictions are kept
    within the limits.

    Args:
        scores: (M, L, 1) log metres, of the tokens.
        depths: (H, W) metres each; NaN, or not above 0, where unknown.
        grid: (h, w) of the tokens.
        limits: Least prediction, and largest prediction and depth that counts, in metres.
    """
    found = []
    for maps, depth in zip(_upsampled(scores, depths, grid), depths, strict=True):
        known = (depth > 0) & (depth <= limits[1])
        truth = depth[known].double()
        error = maps[0][known].exp().clamp(*limits) - truth
        sums = error.square().sum(), (error.abs() / truth).sum()
        found.append([float(known.sum()), *map(float, sums)])
    return np.array(found).reshape(-1, 3)


def rmse(sums: np.ndarray) -> np.ndarray:
    """(...) root mean squared error in metres of (..., 3) sums of `depth_errors`."""
    root: np.ndarray = np.sqrt(sums[..., 1] / np.maximum(sums[..., 0], 1))
    return root


def abs_rel(sums: np.ndarray) -> np.ndarray:
    """(...) mean error relative to the depth, of (..., 3) sums of `depth_errors`."""
    relative: np.ndarray = sums[..., 2] / np.maximum(sums[..., 0], 1)
    return relative


@dataclass(frozen=True)
class Resamples:
    """The same resamples of recordings for everything that is compared.

    Args:
        member: (M,) the recording of each sample, counted from 0.
        counts: (R, recordings) how often each resample has each recording.
    """

    member: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, recordings: Sequence[str] | np.ndarray, seed: int = 0) -> Resamples:
        """As many recordings as there are, with replacement, `RESAMPLES` times."""
        names, member = np.unique(np.asarray(recordings), return_inverse=True)
        rng = np.random.default_rng([seed, len(names)])
        share = np.full(len(names), 1 / max(len(names), 1))
        return cls(member, rng.multinomial(len(names), share, RESAMPLES))

    @property
    def recordings(self) -> int:
        """Their number."""
        return int(self.counts.shape[1])

    def interval(
        self, metric: Callable[[np.ndarray], np.ndarray], sums: np.ndarray,
        less: np.ndarray | None = None,
    ) -> tuple[float, float] | None:  # fmt: skip
        """Bounds of the middle `COVERED` of a metric, or of its difference, over the resamples.

        Args:
            metric: Of (..., *S) sums over samples.
            sums: (M, *S), what each sample adds.
            less: The same of what is subtracted, on the same samples.

        Returns:
            None where there are fewer than `LEAST_RECORDINGS`.
        """
        if self.recordings < LEAST_RECORDINGS:
            return None
        found = metric(self._summed(sums))
        if less is not None:
            found = found - metric(self._summed(less))
        tail = (1 - COVERED) / 2
        low, high = np.quantile(found, (tail, 1 - tail))
        return float(low), float(high)

    def _summed(self, sums: np.ndarray) -> np.ndarray:
        """(R, *S) float64: of each resample."""
        own = np.zeros((self.recordings, *sums.shape[1:]))
        np.add.at(own, self.member, sums)
        whole: np.ndarray = self.counts @ own.reshape(self.recordings, -1)
        return whole.reshape(len(self.counts), *sums.shape[1:])


def _upsampled(
    scores: Tensor, pictures: Tensor | Sequence[Tensor], grid: tuple[int, int]
) -> Iterator[Tensor]:
    """(K, H, W) float32 of each sample's (L, K) scores, on the pixels of its picture."""
    for own, picture in zip(scores.float(), pictures, strict=True):
        image = own.T.reshape(1, -1, *grid).contiguous()
        yield F.interpolate(image, picture.shape[-2:], mode="bilinear")[0]
