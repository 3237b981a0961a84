"""What the optical-flow decoders share: heads, padding, convex upsampling, warping and loss.

SEA-RAFT (princeton-vl/SEA-RAFT) introduced the mixture-of-Laplace likelihood; WAFT
(princeton-vl/WAFT) took it over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleevent.decoders.decoder import Decoder
from scaleevent.errors import DataError
from scaleevent.training.terms import Terms

GAMMA = 0.85  # weight of an estimate relative to the next one, princeton-vl/SEA-RAFT:config/train
MAX_FLOW = 400.0  # pixels; longer targets are left out, princeton-vl/SEA-RAFT:core/loss.py
MAX_LOG_SCALE = 10.0  # of the wide Laplace component, `var_max` in princeton-vl/SEA-RAFT:config

FLOW, INFO = 2, 4  # channels of an estimate
NEIGHBOURS = 9  # coarse cells that a fine pixel is combined from

Padding = tuple[int, int, int, int]  # left, right, top, bottom, as torch.nn.functional.pad takes it


class Estimate(NamedTuple):
    """One estimate of the flow."""

    flow: Tensor  # (N, 2, H, W) pixels right and down
    # (N, 4, H, W) what the likelihood needs: the logits of a wide and a narrow Laplace component,
    # the log scale of the wide one before clamping, and a channel that is unused because the scale
    # of the narrow one is fixed
    info: Tensor


class FlowDecoder(Decoder):
    """A decoder whose raw output is a list of estimates, the last one final.

    Attributes:
        flow_head: From the recurrent state (N, dim, h, w) to an estimate on the same grid.
        upsample_weight: From the same to the logits of `upsample_convex`.
    """

    task = "flow"
    weights: ClassVar[Mapping[str, float]] = {"flow": 1.0}
    flow_head: nn.Module
    upsample_weight: nn.Module

    def heads(self, net: Tensor) -> tuple[Tensor, Tensor]:
        """Change of flow and likelihood; float32, since positions add up in cells and fractions."""
        flow, info = self.flow_head(net).float().split([FLOW, INFO], 1)
        return flow, info

    def estimate(
        self, net: Tensor, flow: Tensor, info: Tensor, factor: int, padding: Padding
    ) -> Estimate:
        """The estimate on a grid `factor` times as fine, less the padding."""
        # a quarter balances the gradients of the logits, as in RAFT
        logits = 0.25 * self.upsample_weight(net)
        fine = upsample_estimate(flow, info, logits, factor)
        return Estimate(*(crop(part, padding) for part in fine))

    def loss(self, raw: list[Estimate], target: Tensor) -> Terms:
        """The likelihood of the true flow, over all estimates; see `sequence_loss`."""
        return {"flow": sequence_loss(raw, target)}

    def predict(self, raw: list[Estimate], size: tuple[int, int]) -> Tensor:
        """The last estimate as (N, 2, h, w) float32, in pixels of a grid of `size`."""
        return resize_flow(raw[-1].flow.float(), size)


def two_convolutions(dim: int, outputs: int, kernel: int) -> nn.Sequential:
    """A head on (N, dim, h, w): 3x3 to twice the channels, ReLU, `kernel` to the outputs."""
    return nn.Sequential(
        nn.Conv2d(dim, 2 * dim, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(2 * dim, outputs, kernel, padding=kernel // 2),
    )


def second_window(after: Tensor | None) -> Tensor:
    """The input of the window after; a `DataError` where there is none."""
    if after is None:
        raise DataError(
            "optical flow needs two event windows",
            found="only the one before",
            hint="prepare the recording with windows on both sides of each label",
        )
    return after


def centred_padding(size: tuple[int, int], target: tuple[int, int]) -> Padding:
    """Padding that centres `size` (rows, columns) in `target`; an odd pixel goes right, bottom."""
    (height, width), (rows, columns) = size, target
    left, top = (columns - width) // 2, (rows - height) // 2
    return left, columns - width - left, top, rows - height - top


def crop(x: Tensor, padding: Padding) -> Tensor:
    """What `pad` added, taken off the last two dimensions again."""
    left, right, top, bottom = padding
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def pixel_grid(x: Tensor) -> Tensor:
    """Pixel coordinates of the grid of `x`: (2, H, W) float32, columns first."""
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device, dtype=torch.float32)
    columns = torch.arange(width, device=x.device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"))


def upsample_convex(x: Tensor, logits: Tensor, factor: int) -> Tensor:
    """Upsample; every fine pixel is a convex combination of the 3 x 3 coarse ones around it.

    Teed and Deng, RAFT, ECCV 2020, section 3.3. Beyond the border stand zeros.

    Args:
        x: (N, C, H, W) coarse values.
        logits: (N, 9 * factor * factor, H, W): neighbour, then row and column in the coarse pixel.
        factor: Fine pixels to a side of a coarse one.

    Returns:
        (N, C, factor * H, factor * W).
    """
    height, width = x.shape[-2:]
    weights = logits.unflatten(1, (9, 1, factor * factor)).softmax(1)
    padded = F.pad(x, (1, 1, 1, 1))
    neighbours = (
        padded[:, :, None, row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    )
    # summing nine products one by one never holds the nine neighbours of all fine pixels at once
    fine = sum(weight * x for weight, x in zip(weights.unbind(1), neighbours, strict=True))
    return F.pixel_shuffle(fine.flatten(1, 2), factor)


def upsample_estimate(flow: Tensor, info: Tensor, logits: Tensor, factor: int) -> Estimate:
    """Bring a coarse estimate, flow in coarse pixels, to full resolution; see `upsample_convex`."""
    fine = upsample_convex(torch.cat([factor * flow, info], 1), logits, factor)
    return Estimate(fine[:, :2], fine[:, 2:])


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """What `x` (N, C, H, W) holds where `flow` (N, 2, H, W) points, in pixels right and down.

    Bilinear, zero outside; float32.
    """
    height, width = x.shape[-2:]
    size = flow.new_tensor([width - 1, height - 1])[:, None, None]
    places = (2 * (pixel_grid(x) + flow) / size - 1).permute(0, 2, 3, 1)
    return F.grid_sample(x.float(), places, align_corners=True)


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Flow on a grid of `size` rows and columns over the same view, in pixels of that grid."""
    height, width = flow.shape[-2:]
    if (height, width) == size:
        return flow
    resized = F.interpolate(flow, size, mode="bilinear", align_corners=False)
    return resized * resized.new_tensor([size[1] / width, size[0] / height])[:, None, None]


def mixture_nll(estimate: Estimate, target: Tensor) -> Tensor:
    """Negative log likelihood of the true flow under the estimate's mixture of two Laplaces.

    Wang, Lipson and Deng, SEA-RAFT, ECCV 2024, section 3.2, with the clamps of
    princeton-vl/SEA-RAFT:core/raft.py: the narrow component has scale 1 and counts as the plain L1
    loss, the wide one takes up what cannot be matched. The true flow is finite; the result is
    (N, 2, H, W) nats, one value a flow component.
    """
    error = (target - estimate.flow).abs()
    wide, narrow, log_scale, _ = estimate.info.split(1, 1)
    log_scale = log_scale.clamp(0, MAX_LOG_SCALE)
    evidence = torch.logaddexp(wide - log_scale - error * torch.exp(-log_scale), narrow - error)
    return torch.logaddexp(wide, narrow) + math.log(2) - evidence


def sequence_loss(estimates: Sequence[Estimate], target: Tensor, gamma: float = GAMMA) -> Tensor:
    """Sum of the mean `mixture_nll` of all estimates, later ones weighing more.

    princeton-vl/SEA-RAFT:core/loss.py. An estimate that is not finite makes the loss so: it must
    be seen.

    Args:
        estimates: From the first to the final one.
        target: (N, 2, H, W) float; pixels that are not finite, or longer than `MAX_FLOW`, are left
            out.
        gamma: Weight of an estimate relative to the next one.

    Returns:
        Scalar; 0, with a gradient of 0, where no pixel has a target.
    """
    length = target.norm(dim=1, keepdim=True)
    valid = (length < MAX_FLOW).expand_as(target)  # false for NaN
    target = torch.where(valid, target, 0)
    count = valid.sum().clamp(min=1)
    means = [
        torch.where(valid, mixture_nll(estimate, target), 0).sum() / count for estimate in estimates
    ]
    loss: Tensor = sum(gamma**age * mean for age, mean in enumerate(reversed(means)))
    return loss
