"""Depth errors in the two variants that published tables mix, always side by side.

`dae` is the metric of E2Depth and DepthAnyEvent (Tesla-SHT/depthanyevent:evaluation.py, the same as
uzh-rpg/rpg_e2depth), with cut-offs `dae_10m`, `dae_20m` and `dae_30m`; `dav2` that of
Depth-Anything-V2 (DepthAnything/Depth-Anything-V2:metric_depth/util/metric.py). They differ in
which pixels count, in their comparisons and in the formulas of `sq_rel` and `silog`, and `dae`
rescales the ground truth and leaves out predictions beyond its maximum: read it together with its
share of excluded pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from scaleevent.errors import ConfigError, DataError

Alignment = Literal["none", "median", "least-squares"]
Errors = Callable[[np.ndarray, np.ndarray], dict[str, float]]

MAX_DEPTH_M = 80.0  # clip distance of both references
CUTOFFS_M = (10, 20, 30)
MIN_DEPTH_M = 1e-3  # of dav2: its training mask, and the floor of predictions
EPSILON = 1e-5  # of dae
LOG_DEPTH_RANGE = 3.70378  # E2Depth's networks span exp(-3.70378) Z to Z
DELTA = 1.25

VARIANTS = ("dae", *(f"dae_{cutoff}m" for cutoff in CUTOFFS_M), "dav2")


def decode_log_depth(prediction: np.ndarray, max_depth: float = MAX_DEPTH_M) -> np.ndarray:
    """Metres of E2Depth's normalised log depth: Z exp(3.70378 (p - 1)), p in 0..1."""
    return max_depth * np.exp(LOG_DEPTH_RANGE * (np.asarray(prediction, np.float64) - 1))


def measure(
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
        target: (H, W) metres; NaN or values up to 0 where unknown.
        max_depth: Z in metres; ground truth beyond it does not count.
        alignment: How the prediction is first fitted to the frame's ground truth: not at all, by
            the ratio of medians, or by scale and shift.
        where: What the frame is called in errors.

    Returns:
        For every variant `{variant}_pixels` and, where that is not 0, `{variant}_{metric}`; for
        `dae` and `dav2` also `_excluded`, the share of pixels with ground truth in (0, Z] that the
        variant leaves out.

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
    _check_finite(prediction, where)
    prediction = align(prediction, target, alignment, where=where)
    known = (target > 0) & (target <= max_depth)
    record: dict[str, float] = {}

    truth, valid = _prepare_dae(prediction, target, max_depth)
    record |= _excluded("dae", known, valid)
    record |= _named("dae", dae_errors, prediction[valid], truth[valid])
    for cutoff in CUTOFFS_M:
        near = valid & (truth < cutoff)
        record |= _named(f"dae_{cutoff}m", dae_errors, prediction[near], truth[near])

    valid = known & (target >= MIN_DEPTH_M)
    floored = np.maximum(prediction[valid], MIN_DEPTH_M)
    record |= _excluded("dav2", known, valid)
    record |= _named("dav2", dav2_errors, floored, target[valid])
    return record


def summarise(
    records: Sequence[Mapping[str, float]], groups: Sequence[str] | None = None
) -> dict[str, float | list[float]]:
    """Mean over frames of `dav2`; mean over sequences of the mean over frames of `dae`.

    A frame counts in the metrics it has; sequences without any are left out.

    Args:
        records: What `measure` gave for each frame.
        groups: The sequence of each frame. None: all of one sequence.

    Returns:
        `{variant}_{metric}` as in the records, `{variant}_pixels` summed and `{variant}_empty`, the
        frames without a pixel that counts, of `frames` in all.

    Raises:
        DataError: No frame has ground truth.
    """
    if not any("dae_excluded" in record for record in records):
        raise DataError(
            "no frame has a pixel with ground truth in range", found=f"{len(records)} frames"
        )
    pooled = [""] * len(records)
    sequences = pooled if groups is None else groups
    summary: dict[str, float | list[float]] = {"frames": len(records)}
    for variant in VARIANTS:
        pixels = [record[f"{variant}_pixels"] for record in records]
        summary[f"{variant}_pixels"] = sum(pixels)
        summary[f"{variant}_empty"] = pixels.count(0)
    for name in dict.fromkeys(name for record in records for name in record):
        if name not in summary:
            by = sequences if name.startswith("dae") else pooled
            summary[name] = _mean_of_sequences(records, by, name)
    return summary


def align(
    prediction: np.ndarray, target: np.ndarray, alignment: Alignment, *, where: object = None
) -> np.ndarray:
    """Fit a prediction to the pixels with ground truth, however far: those finite and above 0.

    Least squares as Tesla-SHT/depthanyevent does it: s, h that minimise |s P + h - T|.

    Returns:
        (H, W) float64; the prediction itself where no pixel has ground truth.
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
        return prediction * (np.median(t) / middle)
    scale, shift = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), t, rcond=None)[0]
    return scale * prediction + shift


def dae_errors(p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Metrics of E2Depth and DepthAnyEvent on the pixels that count.

    Args:
        p: (n,) predicted metres.
        t: (n,) rescaled ground truth.
    """
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
        "median_diff": np.abs(np.median(t) - np.median(p)),
    }


def dav2_errors(p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Metrics of Depth-Anything-V2 on the pixels that count.

    Args:
        p: (n,) predicted metres, above 0.
        t: (n,) ground truth.
    """
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
    """Ground truth rescaled so that its maximum is Z, and where both lie strictly within (0, Z).

    A prediction clipped to [0, Z] does not count where the clip took hold, so that it suffices to
    leave these out.
    """
    truth = np.clip(target, 0, max_depth)
    peak = np.nanmax(truth, initial=0)
    if peak > 0:
        truth = truth / peak * max_depth
    within = (truth > 0) & (truth < max_depth)
    return truth, within & (prediction > 0) & (prediction < max_depth)


def _named(variant: str, errors: Errors, p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Errors under the variant's name; only the count where there is nothing to average."""
    record = {f"{variant}_pixels": p.size}
    if p.size:
        record |= {f"{variant}_{name}": float(value) for name, value in errors(p, t).items()}
    return record


def _excluded(variant: str, known: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """The share of known pixels that a variant leaves out."""
    return {f"{variant}_excluded": float(1 - valid[known].mean())} if known.any() else {}


def _mean_of_sequences(
    records: Sequence[Mapping[str, float]], sequences: Sequence[str], name: str
) -> float:
    """Mean over sequences of the mean over those of their frames that have the metric."""
    values: dict[str, list[float]] = {}
    for record, sequence in zip(records, sequences, strict=True):
        if name in record:
            values.setdefault(sequence, []).append(record[name])
    means = [math.fsum(frames) / len(frames) for frames in values.values()]
    return math.fsum(means) / len(means)


def _check_finite(prediction: np.ndarray, where: object) -> None:
    wrong = np.argwhere(~np.isfinite(prediction))
    if len(wrong):
        raise DataError(
            "the predicted depth is not finite",
            where=where,
            found=f"{prediction[tuple(wrong[0])]} at row {wrong[0][0]}, column {wrong[0][1]}; "
            f"{len(wrong)} pixels in all",
        )
