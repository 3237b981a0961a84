"""Optical flow errors on dense and sparse masks, and as four public code bases compute them.

With f the prediction, g = (u, v) the ground truth and e = |f - g| in pixels:

| variant | pixels that count | source |
|---|---|---|
| `dense` | known ground truth | KITTI's Fl-all is `dense_fl_all` |
| `sparse` | `dense`, at least one event | ScaleEvent section 4.2; its %Out is `sparse_fl_all` |
| `bflow` | `dense` | uzh-rpg/bflow:utils/metrics.py |
| `evflownet` | `sparse`, g not 0 | daniilidis-group/EV-FlowNet:src/eval_utils.py |
| `tub_rip` | `sparse`, u and v not 0 | tub-rip/event_based_optical_flow:src/utils/flow_utils.py |
| `tudelft` | `sparse`, g not 0 | tudelft/event_flow:loss/flow.py |

`dense`, `sparse` and `bflow` give percent and degrees; the others give fractions and radians, as
their sources do. Each code base defines an outlier differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scaleevent.errors import DataError
from scaleevent.metrics import check_finite

OUTLIER_PX, OUTLIER_FRACTION = 3, 0.05  # KITTI 2015: an error above 3 px and above 5% of |g|
EPSILON = 1e-5  # added by the references in divisions by the number of pixels


@dataclass(frozen=True)
class Pixels:
    """What the formulas need of n pixels, each (n,) float64."""

    error: np.ndarray  # |f - g| in pixels
    length: np.ndarray  # |f|
    true_length: np.ndarray  # |g|
    angle: np.ndarray  # radians between (f, 1) and (g, 1), the angular error of Barron et al. 1994

    @classmethod
    def between(cls, f: np.ndarray, g: np.ndarray) -> Pixels:
        """Compare a prediction with ground truth, both (2, n)."""
        length, true_length = np.hypot(*f), np.hypot(*g)
        cosine = (1 + (f * g).sum(0)) / np.sqrt((1 + length**2) * (1 + true_length**2))
        angle = np.arccos(np.clip(cosine, -1, 1))
        return cls(np.hypot(*(f - g)), length, true_length, angle)

    def where(self, mask: np.ndarray) -> Pixels:
        """The pixels selected by a (n,) bool mask."""
        return Pixels(self.error[mask], self.length[mask], self.true_length[mask], self.angle[mask])


Errors = Callable[[Pixels], dict[str, float]]


def update(
    prediction: np.ndarray,
    target: np.ndarray,
    events: np.ndarray | None = None,
    *,
    where: object = None,
) -> dict[str, float]:
    """Errors of one sample.

    Args:
        prediction: (2, H, W) pixels right and down, finite.
        target: (2, H, W) pixels; not finite where unknown, such as on the hood of a car.
        events: (H, W) bool or counts, which pixels have events in the window. None: only the
            variants that need no events.
        where: Name of the sample in error messages.

    Returns:
        The sample's state: for every variant `{variant}_pixels` and, if that is not 0,
        `{variant}_{metric}`.

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
    state: dict[str, float] = {}
    for variant, mask in masks.items():
        state[f"{variant}_pixels"] = int(np.count_nonzero(mask))
        if mask.any():
            errors = VARIANTS[variant](pixels.where(mask))
            state |= {f"{variant}_{name}": float(value) for name, value in errors.items()}
    return state


def compute(
    states: Sequence[Mapping[str, float]], groups: Sequence[str] | None = None
) -> dict[str, float]:
    """Mean over the samples that have the metric.

    Args:
        states: What `update` returned for each sample.
        groups: The sequence of each sample, which other metrics need; all samples count equally.

    Returns:
        `{variant}_{metric}` as in the states, the sum `{variant}_pixels`, the number of samples
        `{variant}_empty` without a pixel that counts, and the number of all `samples`.

    Raises:
        DataError: No sample has ground truth.
    """
    if not any(state["dense_pixels"] for state in states):
        raise DataError("no sample has a pixel with known flow", found=f"{len(states)} samples")
    result: dict[str, float] = {"samples": len(states)}
    for name in dict.fromkeys(name for state in states for name in state):
        values = [state[name] for state in states if name in state]
        if name.endswith("_pixels"):
            result[name] = sum(values)
            result[name.removesuffix("pixels") + "empty"] = values.count(0)
        else:
            result[name] = math.fsum(values) / len(values)
    return result


def plain_errors(at: Pixels) -> dict[str, float]:
    """End-point error in pixels; percentage above 1, 2 and 3 px, and of KITTI's outliers."""
    return {
        "epe": at.error.mean(),
        **{f"{n}pe": 100 * np.mean(at.error > n) for n in (1, 2, 3)},
        "fl_all": 100
        * np.mean((at.error > OUTLIER_PX) & (at.error > OUTLIER_FRACTION * at.true_length)),
        "ae": np.degrees(at.angle.mean()),
    }


def bflow_errors(at: Pixels) -> dict[str, float]:
    """Like `plain_errors`, but errors above n px count only from 5% of the true length on."""
    large = at.error >= OUTLIER_FRACTION * at.true_length
    return {
        "epe": at.error.mean(),
        **{f"{n}pe": 100 * np.mean((at.error > n) & large) for n in (1, 2, 3)},
        "ae": np.degrees(at.angle.mean()),
    }


def evflownet_errors(at: Pixels) -> dict[str, float]:
    """Average end-point error, and the fraction of errors *below* 3 px."""
    below = np.count_nonzero(at.error < OUTLIER_PX)
    return {"aee": at.error.mean(), "below_3px": below / (at.error.size + EPSILON)}


def tub_rip_errors(at: Pixels) -> dict[str, float]:
    """Fractions of errors above n px, without the rule of 5%; the angle in radians."""
    count = at.error.size + EPSILON
    return {
        "epe": at.error.sum() / count,
        **{f"{n}pe": np.count_nonzero(at.error > n) / count for n in (1, 2, 3, 5, 10, 20)},
        "ae": at.angle.sum() / count,
    }


def tudelft_errors(at: Pixels) -> dict[str, float]:
    """Outliers whose 5% refer to the *predicted* length."""
    outliers = (at.error > OUTLIER_PX) & (at.error > OUTLIER_FRACTION * at.length)
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
    check_finite(f, "flow", where)
