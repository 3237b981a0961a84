"""Depth errors in the two variants that published tables mix, always side by side.

`dae` is the metric of E2Depth and DepthAnyEvent (Tesla-SHT/depthanyevent:evaluation.py, the same as
uzh-rpg/rpg_e2depth), with cut-offs `dae_10m`, `dae_20m` and `dae_30m`. `dav2` is the metric of
Depth-Anything-V2 (DepthAnything/Depth-Anything-V2:metric_depth/util/metric.py). They differ in
the pixels that count, in their comparisons and in the formulas of `sq_rel` and `silog`. In
addition, `dae` rescales the ground truth and leaves out predictions beyond its maximum, so read it
together with its fraction of excluded pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from scaleevent.errors import ConfigError, DataError
from scaleevent.metrics import check_finite

Alignment = Literal["none", "median", "least-squares"]
Errors = Callable[[np.ndarray, np.ndarray], dict[str, float]]

MAX_DEPTH_M = 80.0  # clip distance of both references
CUTOFFS_M = (10, 20, 30)
MIN_DEPTH_M = 1e-3  # dav2: least ground truth that counts, and lower limit of predictions
EPSILON = 1e-5  # dae: added in divisions and logarithms
LOG_DEPTH_RANGE = 3.70378  # E2Depth's networks cover exp(-3.70378) Z to Z
DELTA = 1.25

VARIANTS = ("dae", *(f"dae_{cutoff}m" for cutoff in CUTOFFS_M), "dav2")


def decode_log_depth(prediction: np.ndarray, max_depth: float = MAX_DEPTH_M) -> np.ndarray:
    """Convert E2Depth's normalised log depth p in 0..1 to metres: Z exp(3.70378 (p - 1))."""
    return max_depth * np.exp(LOG_DEPTH_RANGE * (np.asarray(prediction, np.float64) - 1))


def update(
    prediction: np.ndarray,
    target: np.ndarray,
    *,
    max_depth: float = MAX_DEPTH_M,
    alignment: Alignment = "none",
    where: object = None,
) -> dict[str, float]:
    """Errors of one frame.

    Args:
        prediction: (H, W) metres, finite.
        target: (H, W) metres; NaN or not above 0 where unknown.
        max_depth: Z in metres; ground truth beyond it does not count.
        alignment: How the prediction is first fitted to the frame's ground truth: not at all, by
            the ratio of medians, or by scale and shift.
        where: Name of the frame in error messages.

    Returns:
        The frame's state: for every variant `{variant}_pixels` and, if that is not 0,
        `{variant}_{metric}`; for `dae` and `dav2` also `{variant}_excluded`, the fraction of pixels
        with ground truth in (0, Z] that the variant leaves out.

    Raises:
        DataError: Sizes differ, the prediction is not finite, or its median cannot be scaled.
    """
    prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    if prediction.shape != target.shape:
        raise DataError(
            "prediction and ground truth differ in size",
            where=where,
            found=f"prediction {prediction.shape}, ground truth {target.shape}",
        )
    check_finite(prediction, "depth", where)
    prediction = align(prediction, target, alignment, where=where)
    known = (target > 0) & (target <= max_depth)
    state: dict[str, float] = {}

    truth, valid = _prepare_dae(prediction, target, max_depth)
    state |= _excluded("dae", known, valid)
    state |= _named("dae", dae_errors, prediction[valid], truth[valid])
    for cutoff in CUTOFFS_M:
        near = valid & (truth < cutoff)
        state |= _named(f"dae_{cutoff}m", dae_errors, prediction[near], truth[near])

    valid = known & (target >= MIN_DEPTH_M)
    floored = np.maximum(prediction[valid], MIN_DEPTH_M)
    state |= _excluded("dav2", known, valid)
    state |= _named("dav2", dav2_errors, floored, target[valid])
    return state


def compute(
    states: Sequence[Mapping[str, float]], groups: Sequence[str] | None = None
) -> dict[str, float]:
    """For `dav2` the mean over frames; for `dae` the mean over sequences of their frames' mean.

    A frame counts in the metrics it has; sequences without any such frame are left out.

    Args:
        states: What `update` returned for each frame.
        groups: The sequence of each frame. None: all frames are one sequence.

    Returns:
        `{variant}_{metric}` as in the states, the sum `{variant}_pixels`, the number of frames
        `{variant}_empty` without a pixel that counts, and the number of all `frames`.

    Raises:
        DataError: No frame has ground truth.
    """
    if not any("dae_excluded" in state for state in states):
        raise DataError(
            "no frame has a pixel with ground truth in range", found=f"{len(states)} frames"
        )
    pooled = [""] * len(states)
    sequences = pooled if groups is None else groups
    result: dict[str, float] = {"frames": len(states)}
    for variant in VARIANTS:
        pixels = [state[f"{variant}_pixels"] for state in states]
        result[f"{variant}_pixels"] = sum(pixels)
        result[f"{variant}_empty"] = pixels.count(0)
    for name in dict.fromkeys(name for state in states for name in state):
        if name not in result:
            by = sequences if name.startswith("dae") else pooled
            result[name] = _mean_of_sequences(states, by, name)
    return result


def align(
    prediction: np.ndarray, target: np.ndarray, alignment: Alignment, *, where: object = None
) -> np.ndarray:
    """Fit a prediction to all pixels with ground truth (finite and above 0, without upper limit).

    Least squares as in Tesla-SHT/depthanyevent: the s, h that minimise |s P + h - T|.

    Returns:
        (H, W) float64; the prediction itself if no pixel has ground truth.

    Raises:
        ConfigError: No such alignment.
        DataError: The median of the prediction is not above 0.
    """
    if alignment not in ("none", "median", "least-squares"):
        raise ConfigError("no such alignment", where="alignment", found=alignment)
    known = np.isfinite(target) & (target > 0)
    if alignment == "none" or not known.any():
        return prediction
    p, t = prediction[known], target[known]
    if alignment == "median":
        middle = np.median(p)
        if middle <= 0:
            raise DataError(
                "the median of the prediction cannot be scaled to the ground truth's",
                where=where,
                found=middle,
                expected="above 0",
            )
        scale, shift = np.median(t) / middle, 0.0
    else:
        scale, shift = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), t, rcond=None)[0]
    aligned: np.ndarray = scale * prediction + shift
    return aligned


def dae_errors(p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Metrics of E2Depth and DepthAnyEvent: (n,) predicted metres and rescaled ground truth.

    The difference of medians is one of float32 metres, as there.
    """
    medians = np.array([np.median(t), np.median(p)], np.float32)
    difference = t - p
    logarithm = np.log(t + EPSILON) - np.log(p + EPSILON)
    ratio = np.maximum(t / (p + EPSILON), p / (t + EPSILON))
    return {
        **{f"d{k}": np.mean(ratio <= DELTA**k) for k in (1, 2, 3)},
        "abs_rel": np.mean(np.abs(difference) / (t + EPSILON)),
        "sq_rel": np.mean(difference**2 / (t**2 + EPSILON)),
        "rmse": np.sqrt(np.mean(difference**2)),
        "rmse_log": np.sqrt(np.mean(logarithm**2)),
        "silog": np.mean(logarithm**2) - np.mean(logarithm) ** 2,
        "mean_error": np.mean(np.abs(difference)),
        "median_diff": np.abs(medians[0] - medians[1]),
    }


def dav2_errors(p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Metrics of Depth-Anything-V2: (n,) predicted metres, above 0, and ground truth."""
    difference, logarithm = p - t, np.log(p) - np.log(t)
    ratio = np.maximum(t / p, p / t)
    return {
        **{f"d{k}": np.mean(ratio < DELTA**k) for k in (1, 2, 3)},
        "abs_rel": np.mean(np.abs(difference) / t),
        "sq_rel": np.mean(difference**2 / t),
        "rmse": np.sqrt(np.mean(difference**2)),
        "rmse_log": np.sqrt(np.mean(logarithm**2)),
        "log10": np.mean(np.abs(np.log10(p) - np.log10(t))),
        "silog": np.sqrt(np.mean(logarithm**2) - 0.5 * np.mean(logarithm) ** 2),
    }


def _prepare_dae(
    prediction: np.ndarray, target: np.ndarray, max_depth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ground truth rescaled to a maximum of Z, and a mask of pixels with both within (0, Z).

    The reference clips predictions to [0, Z] and then leaves out the clipped ones; leaving out
    those outside (0, Z) is the same.
    """
    truth = np.clip(target, 0, max_depth)
    peak = np.nanmax(truth, initial=0)
    if peak > 0:
        truth = truth / peak * max_depth
    within = (truth > 0) & (truth < max_depth)
    return truth, within & (prediction > 0) & (prediction < max_depth)


def _named(variant: str, errors: Errors, p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Errors under the variant's name; without pixels only their number, 0."""
    state: dict[str, float] = {f"{variant}_pixels": p.size}
    if p.size:
        state |= {f"{variant}_{name}": float(value) for name, value in errors(p, t).items()}
    return state


def _excluded(variant: str, known: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """The fraction of known pixels that a variant leaves out."""
    return {f"{variant}_excluded": float(1 - valid[known].mean())} if known.any() else {}


def _mean_of_sequences(
    states: Sequence[Mapping[str, float]], sequences: Sequence[str], name: str
) -> float:
    """Mean over sequences of the mean over their frames that have the metric."""
    values: dict[str, list[float]] = {}
    for state, sequence in zip(states, sequences, strict=True):
        if name in state:
            values.setdefault(sequence, []).append(state[name])
    means = [math.fsum(frames) / len(frames) for frames in values.values()]
    return math.fsum(means) / len(means)
