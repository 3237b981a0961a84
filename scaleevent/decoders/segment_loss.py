"""Cross entropy and dice of class maps, on labels finer than the logits.

Logits of a pixel-wise head lie on the token grid, labels on pixels, 256 times as many, and what
happens there is nearly all that a linear probe costs. Both losses are made of a few sums over the
pixels, so one softmax serves them, for one image at a time: on a CPU three times as fast as
interpolation, cross entropy and dice one after the other, in a fifth of the memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from scaleevent.config.benchmarks import IGNORE
from scaleevent.training.terms import Terms


def segment_terms(logits_NChw: Tensor, target_NHW: Tensor) -> Terms:
    """Cross entropy, and dice of the classes that are present, over all labelled pixels.

    Logits are enlarged to the target's size, bilinear without aligned corners. `ce` is the mean
    over pixels. `dice` is the mean over classes of 1 - 2 |P T| / (|P| + |T|), with probabilities P
    and labels T summed over the batch (Milletari et al., "V-Net", 3DV 2016, with the plain sums of
    facebookresearch/Mask2Former:mask2former/modeling/criterion.py).

    Args:
        logits_NChw: (N, C, h, w) float.
        target_NHW: (N, H, W) int64 class ids below C; `IGNORE` does not count.

    Returns:
        `ce` and `dice`, scalars; 0 without labelled pixels.
    """
    surprise, overlap, mass = _PixelSums.apply(logits_NChw, target_NHW)
    classes = logits_NChw.shape[1]
    area = target_NHW.flatten().bincount(minlength=IGNORE + 1)[:classes].to(mass.dtype)
    present = area > 0
    dice = 1 - 2 * overlap / torch.where(present, mass + area, 1.0)
    return {
        "ce": surprise / area.sum().clamp_min(1),
        "dice": torch.where(present, dice, 0.0).sum() / present.sum().clamp_min(1),
    }


class _PixelSums(Function):
    """What both losses are made of, summed over the labelled pixels.

    Of the enlarged logits' softmax p: -log p of the labelled class (a scalar), p of the labelled
    class by class (C,), and p of every class (C,).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        coarse = logits if logits.dtype == torch.float64 else logits.float()
        images, classes = coarse.shape[:2]
        rows, columns = (
            _interpolation(size, fine, coarse)
            for size, fine in zip(coarse.shape[2:], target.shape[1:], strict=True)
        )
        surprise = coarse.new_zeros((), dtype=torch.float64)
        overlap, mass = coarse.new_zeros(2, classes, dtype=torch.float64)
        probabilities = coarse.new_empty(images, classes, *target.shape[1:])
        with torch.autocast(coarse.device.type, enabled=False):
            lines = rows @ coarse
            for image, p in enumerate(probabilities.flatten(2)):
                torch.matmul(lines[image], columns.T, out=p.view_as(probabilities[image]))
                label, known = _labels(target[image], p.dtype)
                p -= p.amax(0)
                surprise -= p.gather(0, label)[0] @ known
                partition = p.exp_().sum(0)
                surprise += partition.log() @ known
                p *= known / partition
                overlap.index_add_(0, label[0], p.gather(0, label)[0].double())
                mass += p.sum(1)
        ctx.save_for_backward(probabilities, target, rows, columns)
        ctx.dtype = logits.dtype
        dtype = coarse.dtype
        return surprise.to(dtype), overlap.to(dtype), mass.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_surprise: Tensor, d_overlap: Tensor, d_mass: Tensor
    ) -> tuple[Tensor, None]:
        probabilities, target, rows, columns = ctx.saved_tensors
        lines = rows.new_empty(*probabilities.shape[:3], columns.shape[1])
        with torch.autocast(rows.device.type, enabled=False):
            for image, p in enumerate(probabilities.flatten(2)):
                # d/dz_c of a sum of softmax values s is p_c (ds/dp_c - sum_k p_k ds/dp_k), and of
                # -log p_label it is p_c - 1[c = label]. Unlabelled pixels have p = 0.
                label, known = _labels(target[image], p.dtype)
                through_label = p.gather(0, label)[0] * d_overlap.index_select(0, label[0])
                slope = (d_mass[:, None] + (d_surprise - d_mass @ p - through_label)).mul_(p)
                slope.scatter_add_(0, label, (through_label - d_surprise * known)[None])
                torch.matmul(slope.view_as(probabilities[image]), columns, out=lines[image])
            return (rows.T @ lines).to(ctx.dtype), None


def _interpolation(size: int, fine: int, like: Tensor) -> Tensor:
    """(fine, size) matrix of linear interpolation along one axis."""
    unit = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.interpolate(unit[None], fine, mode="linear", align_corners=False)[0].T.contiguous()


def _labels(target: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Labels as an index (1, pixels), and whether there is one (pixels,), as 0 or 1."""
    flat = target.flatten()
    known = flat != IGNORE
    return torch.where(known, flat, 0)[None], known.to(dtype)
