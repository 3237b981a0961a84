"""Losses of depth: scale-invariant logarithmic, and invariant to scale and shift."""

from __future__ import annotations

import torch
from torch import Tensor

from scaleevent.training.terms import Terms

MIN_DEPTH = 0.001  # metres; DepthAnything/Depth-Anything-V2:metric_depth/train.py

# Metres; below this a prediction counts as this in logarithms, where the original loss becomes
# infinite at 0. It is nine orders of magnitude below the nearest valid target, so no prediction
# that a network would keep is touched, and 1 / FLOOR is far from float32's overflow.
FLOOR = 1e-12
GRADIENT_SCALES = 4  # Ranftl et al., TPAMI 2022, section 5
SPREAD_EPS = 1e-12  # fraction of a float32 map's power below which its variance is rounding error


def measured(target: Tensor, max_depth: float) -> Tensor:
    """Where a target in metres counts, NaN being unknown: from `MIN_DEPTH` to `max_depth`."""
    return (target >= MIN_DEPTH) & (target <= max_depth)


def silog(prediction: Tensor, target: Tensor, valid: Tensor, balance: float = 0.5) -> Tensor:
    """Scale-invariant logarithmic loss over all valid pixels of the batch.

    sqrt(mean(g^2) - balance mean(g)^2), g = log target - log prediction (Eigen et al., NeurIPS
    2014, eq. 4, as in DepthAnything/Depth-Anything-V2:metric_depth/util/loss.py). It differs only
    where that one is not finite: predictions below `FLOOR` count as `FLOOR`, and the gradient of an
    exact prediction is 0.

    Args:
        prediction: (N, H, W) float metres, >= 0.
        target: (N, H, W) float metres; its precision is the loss's.
        valid: (N, H, W) bool.
        balance: 0 counts a common scale in full, 1 not at all.

    Returns:
        Scalar; 0 without valid pixels.
    """
    near = prediction[valid].to(target.dtype)
    if near.numel() == 0:
        return near.sum()
    gap = target[valid].log() - near.clamp_min(FLOOR).log()
    variance = gap.square().mean() - balance * gap.mean().square()
    return variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()


def scale_shift_terms(prediction: Tensor, target: Tensor, valid: Tensor) -> Terms:
    """How far a map is from the target after the best scale and shift of each image.

    MiDaS (Ranftl et al., "Towards Robust Monocular Depth Estimation", TPAMI 2022, section 5):
    `scale_shift` is half the mean squared residual after least-squares alignment; `gradient` is the
    mean absolute difference of neighbouring residuals, summed over `GRADIENT_SCALES` scales.
    Means are over all valid pixels of the batch, so that an image with few counts little.

    Args:
        prediction: (N, H, W) float inverse depth, any scale and shift.
        target: (N, H, W) float inverse depth.
        valid: (N, H, W) bool.

    Returns:
        `scale_shift` and `gradient`, scalars; 0 without valid pixels.
    """
    prediction = torch.where(valid, prediction.to(target.dtype), 0.0)
    target = torch.where(valid, target, 0.0)
    residual = valid * (_aligned(prediction, target, valid) - target)
    gradient = residual.new_zeros(())
    for scale in range(GRADIENT_SCALES):
        step = 2**scale
        gradient = gradient + _roughness(residual[:, ::step, ::step], valid[:, ::step, ::step])
    fit = residual.square().sum() / (2 * valid.sum().clamp_min(1))
    return {"scale_shift": fit, "gradient": gradient}


def _aligned(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The scale * prediction + shift with the least squared error over an image's valid pixels.

    Elsewhere both maps are zero.
    """
    count = valid.sum((1, 2), keepdim=True).clamp_min(1)
    mean = prediction.sum((1, 2), keepdim=True) / count
    target_mean = target.sum((1, 2), keepdim=True) / count
    centred = valid * (prediction - mean)
    spread = centred.square().sum((1, 2), keepdim=True)
    # A constant map has no best scale: then the target's mean alone is the fit.
    flat = spread <= SPREAD_EPS * prediction.square().sum((1, 2), keepdim=True)
    covariance = (centred * target).sum((1, 2), keepdim=True)
    scale = torch.where(flat, 0.0, covariance / torch.where(flat, 1.0, spread))
    return scale * (prediction - mean) + target_mean


def _roughness(residual: Tensor, valid: Tensor) -> Tensor:
    """Absolute differences of valid neighbours, per valid pixel."""
    right = (residual[:, :, 1:] - residual[:, :, :-1]).abs() * (valid[:, :, 1:] & valid[:, :, :-1])
    down = (residual[:, 1:] - residual[:, :-1]).abs() * (valid[:, 1:] & valid[:, :-1])
    return (right.sum() + down.sum()) / valid.sum().clamp_min(1)
