"""Ridge probe: how much of a labelling can be read linearly from frozen tokens, in closed form."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1.0  # on standardised tokens, per training token


def ridge_probe(
    train_tokens: Tensor,
    train_labels: Tensor,
    tokens: Tensor,
    labels: Tensor,
    grid: tuple[int, int],
    classes: int,
) -> np.ndarray:
    """Fit class fractions of each token's cell by ridge regression; score pixels on other samples.

    Args:
        train_tokens: (N, L, D) float.
        train_labels: (N, H, W) uint8 class ids.
        tokens: (M, L, D) float, of samples the fit does not see.
        labels: (M, H, W) uint8 class ids; ids from `classes` on are ignored.
        grid: (h, w) of the tokens.
        classes: Number of classes.

    Returns:
        (classes,) intersection over union; NaN for classes absent from prediction and labels.
    """
    h, w = grid
    targets = F.one_hot(train_labels.long().clamp_max(classes), classes + 1)[..., :classes]
    fractions = F.adaptive_avg_pool2d(targets.permute(0, 3, 1, 2).double(), (h, w))
    y = fractions.flatten(2).transpose(1, 2).reshape(-1, classes)
    x = train_tokens.flatten(0, 1).double()
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    x = F.pad((x - mean) / std, (0, 1), value=1.0)
    gram = x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, x.T @ y)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    for sample, truth in zip(tokens, labels.long(), strict=True):
        scores = F.pad((sample.double() - mean) / std, (0, 1), value=1.0) @ weight
        image = scores.T.reshape(1, classes, h, w)
        pixels = F.interpolate(image, truth.shape, mode="bilinear").argmax(1)[0]
        known = truth < classes
        pairs = truth[known] * classes + pixels[known]
        confusion += torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    hit = confusion.diag().double()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diag()
    return torch.where(union > 0, hit / union, torch.nan).numpy()
