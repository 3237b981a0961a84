"""Segmenting an image of any shape through square crops along its longer side.

Source: tue-mps/eomt:training/lightning_module.py, window_imgs_semantic and
revert_window_logits_semantic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Crops:
    """Where the crops lie on a resized image whose shorter side is one crop."""

    height: int  # rows of the resized image
    width: int  # columns of the same
    side: int  # of a crop, pixels
    starts: tuple[int, ...]  # first row, or column, of each crop along the longer side

    @classmethod
    def over(cls, height: int, width: int, side: int) -> Crops:
        """As few crops as cover an image of this size, their overlap spread evenly."""
        factor = max(side / height, side / width)
        height, width = round(height * factor), round(width * factor)
        count = math.ceil(max(height, width) / side)
        overlap = (count * side - max(height, width)) / (count - 1) if count > 1 else 0
        return cls(height, width, side, tuple(int(i * (side - overlap)) for i in range(count)))

    def cut(self, image_CHW: Tensor) -> Tensor:
        """The crops (n, C, side, side) of an image that has the resized size."""
        axis = 1 if self.height > self.width else 2
        return torch.stack([image_CHW.narrow(axis, start, self.side) for start in self.starts])

    def merge(self, scores_nKSS: Tensor) -> Tensor:
        """Scores of the crops on the resized image, (K, height, width), averaged in overlaps."""
        axis = 1 if self.height > self.width else 2
        merged = scores_nKSS.new_zeros(scores_nKSS.shape[1], self.height, self.width)
        times = scores_nKSS.new_zeros(1, self.height, self.width)
        for start, scores in zip(self.starts, scores_nKSS, strict=True):
            merged.narrow(axis, start, self.side).add_(scores)
            times.narrow(axis, start, self.side).add_(1)
        return merged / times


def windowed_scores(score: Callable[[Tensor], Tensor], image_CHW: Tensor, side: int) -> Tensor:
    """Scores (K, H, W) of an image, computed on square crops.

    Args:
        score: (n, C, side, side) network inputs to (n, K, side, side) scores.
        image_CHW: (C, H, W) float network input; resized bilinearly with antialiasing, which on
            8-bit images is within one grey level of the reference's Pillow.
        side: Side of a crop, pixels.
    """
    height, width = image_CHW.shape[-2:]
    crops = Crops.over(height, width, side)
    resized = F.interpolate(
        image_CHW[None], (crops.height, crops.width), mode="bilinear", antialias=True
    )[0]
    merged = crops.merge(score(crops.cut(resized)))
    return F.interpolate(merged[None], (height, width), mode="bilinear")[0]
