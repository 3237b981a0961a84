"""Errors of optical flow over sparse and dense masks, and as four public code bases count them.

With f the prediction, g = (u, v) the ground truth and e = |f - g| in pixels:

| variant | pixels that count | from |
|---|---|---|
| `dense` | ground truth known | KITTI's Fl-all is `dense_fl_all` |
| `sparse` | and at least one event | ScaleEvent section 4.2; its %Out is `sparse_fl_all` |
| `bflow` | as `dense` | uzh-rpg/bflow:utils/metrics.py |
| `evflownet` | as `sparse`, g not 0 | daniilidis-group/EV-FlowNet:src/eval_utils.py |
| `tub_rip` | as `sparse`, u, v not 0 | tub-rip/event_based_optical_flow:src/utils/flow_utils.py |
| `tudelft` | as `sparse`, g not 0 | tudelft/event_flow:loss/flow.py |

Shares of `dense`, `sparse` and `bflow` are percent and angles degrees; the others keep their
origins' fractions and radians. Every code base means something else by an outlier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scaleevent.errors import DataError

OUTLIER_PX, OUTLIER_SHARE = 3, 0.05  # KITTI 2015: beyond both
EPSILON = 1e-5  # in the references' divisions by the number of pixels


@dataclass(frozen=True)
class Pixels:
    """What the formulas read of n pixels, each (n,) float64.

    Attributes:
        error: |f - g| in pixels.
        length: |f|.
        true_length: |g|.
        angle: Radians between (f, 1) and (g, 1), the angular error of Barron et al. 1994.
    """

    error: np.ndarray
    length: np.ndarray
    true_length: np.ndarray
    angle: np.ndarray

    @classmethod
    def between(cls, f: np.ndarray, g: np.ndarray) -> Pixels:
        """Of a prediction and ground truth, both (2, n)."""
        length, true_length = np.hypot(*f), np.hypot(*g)
        cosine = (1 + (f * g).sum(0)) / np.sqrt((1 + length**2) * (1 + true_length**2))
        angle = np.arccos(np.clip(cosine, -1, 1))
        return cls(np.hypot(*(f - g)), length, true_length, angle)

    def where(self, mask: np.ndarray) -> Pixels:
        """Those pixels of n that a (n,) bool mask has."""
        return Pixels(self.error[mask], self.length[mask], self.true_length[mask], self.angle[mask])


Errors = Callable[[Pixels], dict[str, float]]


def measure(
    prediction: np.ndarray,
    target: np.ndarray,
    events: np.ndarray | None = None,
    *,
    where: object = None,
) -> dict[str, float]:
    """Errors of one sample.

    Args:
        prediction: (2, H, W) pixels right and down, finite.
        target: (2, H, W); not finite where unknown, such as on the hood of a car.
        events: (H, W) bool or counts, where the window has events. None: only the variants that do
            without are measured.
        where: What the sample is called in errors.

    Returns:
        For every variant `{variant}_pixels` and, where that is not 0, `{variant}_{metric}`.

    Raises:
        DataError: Sizes differ or the prediction is not finite.
    """
    f, g = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    _check(f, g, events, where)
    known = np.isfinite(g).all(0)
    g = g[:, known]
    pixels = Pixels.between(f[:, known], g)
    masks = dict.fromkeys(("dense", "bflow"), np.ones(g.shape[1], bool))
    if events is not None:
        sparse = np.asarray(events)[known] > 0
        moving = sparse & (g != 0).any(0)
        masks |= {
            "sparse": sparse,
            "evflownet": moving,
            "tub_rip": sparse & (g != 0).all(0),
            "tudelft": moving,
        }
    record: dict[str, float] = {}
    for variant, mask in masks.items():
        record[f"{variant}_pixels"] = int(np.count_nonzero(mask))
        if mask.any():
            errors = VARIANTS[variant](pixels.where(mask))
            record |= {f"{variant}_{name}": float(value) for name, value in errors.items()}
    return record


def summarise(
    records: Sequence[Mapping[str, float]], groups: Sequence[str] | None = None
) -> dict[str, float | list[float]]:
    """Mean over the samples that have the metric.

    Args:
        records: What `measure` gave for each sample.
        groups: The samples' sequences, as other metrics want them; samples of all weigh the same.

    Returns:
        `{variant}_{metric}` as in the records, `{variant}_pixels` summed and `{variant}_empty`, the
        samples without a pixel that counts, of `samples` in all.

    Raises:
        DataError: No sample has ground truth.
    """
    if not any(record["dense_pixels"] for record in records):
        raise DataError("no sample has a pixel with known flow", found=f"{len(records)} samples")
    summary: dict[str, float | list[float]] = {"samples": len(records)}
    for name in dict.fromkeys(name for record in records for name in record):
        values = [record[name] for record in records if name in record]
        if name.endswith("_pixels"):
            summary[name] = sum(values)
            summary[name.removesuffix("pixels") + "empty"] = values.count(0)
        else:
            summary[name] = math.fsum(values) / len(values)
    return summary


def plain_errors(at: Pixels) -> dict[str, float]:
    """End-point error in pixels, shares beyond 1, 2 and 3 px and KITTI's outliers in percent."""
    return {
        "epe": at.error.mean(),
        **{f"{n}pe": 100 * np.mean(at.error > n) for n in (1, 2, 3)},
        "fl_all": 100
        * np.mean((at.error > OUTLIER_PX) & (at.error > OUTLIER_SHARE * at.true_length)),
        "ae": np.degrees(at.angle.mean()),
    }


def bflow_errors(at: Pixels) -> dict[str, float]:
    """As `plain_errors`, but beyond n px counts only from 5% of the magnitude on."""
    large = at.error >= OUTLIER_SHARE * at.true_length
    return {
        "epe": at.error.mean(),
        **{f"{n}pe": 100 * np.mean((at.error > n) & large) for n in (1, 2, 3)},
        "ae": np.degrees(at.angle.mean()),
    }


def evflownet_errors(at: Pixels) -> dict[str, float]:
    """Average end-point error, and the share *below* 3 px."""
    below = np.count_nonzero(at.error < OUTLIER_PX)
    return {"aee": at.error.mean(), "below_3px": below / (at.error.size + EPSILON)}


def tub_rip_errors(at: Pixels) -> dict[str, float]:
    """Shares beyond n px without a rule of 5%; the angle in radians."""
    count = at.error.size + EPSILON
    return {
        "epe": at.error.sum() / count,
        **{f"{n}pe": np.count_nonzero(at.error > n) / count for n in (1, 2, 3, 5, 10, 20)},
        "ae": at.angle.sum() / count,
    }


def tudelft_errors(at: Pixels) -> dict[str, float]:
    """The outliers' 5% are those of the *predicted* magnitude."""
    outliers = (at.error > OUTLIER_PX) & (at.error > OUTLIER_SHARE * at.length)
    return {"aee": at.error.mean(), "outlier": outliers.mean()}


VARIANTS: dict[str, Errors] = {
    "dense": plain_errors,
    "sparse": plain_errors,
    "bflow": bflow_errors,
    "evflownet": evflownet_errors,
    "tub_rip": tub_rip_errors,
    "tudelft": tudelft_errors,
}


def _check(f: np.ndarray, g: np.ndarray, events: np.ndarray | None, where: object) -> None:
    shapes = {"prediction": f.shape, "ground truth": g.shape}
    if events is not None:
        shapes["events"] = (2, *np.shape(events))
    if len(set(shapes.values())) > 1 or f.ndim != 3 or f.shape[0] != 2:
        found = ", ".join(f"{name} {shape[-2:]}" for name, shape in shapes.items())
        raise DataError("flow maps differ in size", where=where, found=found, expected="2 x H x W")
    wrong = np.argwhere(~np.isfinite(f))
    if len(wrong):
        raise DataError(
            "the predicted flow is not finite",
            where=where,
            found=f"{f[tuple(wrong[0])]} at row {wrong[0][1]}, column {wrong[0][2]}; "
            f"{len(wrong)} values in all",
        )
