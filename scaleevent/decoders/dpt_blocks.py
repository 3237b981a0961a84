"""The convolution blocks of dense prediction transformers, under their published names.

Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021, in the form of
DepthAnything/Depth-Anything-V2:depth_anything_v2/util/blocks.py, without batch norm. WAFT's heads
are made of the same blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualConvUnit(nn.Module):
    """ReLU and a 3x3 convolution, twice, added to the input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, features, H, W) to the same; the input stays as it is."""
        # The convolutions' outputs are needed by no gradient, so they may be overwritten.
        hidden = F.relu(self.conv1(F.relu(x_NCHW)), inplace=True)
        change: Tensor = self.conv2(hidden)
        return change.add_(x_NCHW)


class FusionBlock(nn.Module):
    """Add a refined second map, refine the sum, enlarge it and mix its channels."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)

    def forward(
        self, x_NCHW: Tensor, skip_NCHW: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Fuse one or two maps of the same size.

        Args:
            x_NCHW: (N, features, H, W) main input.
            skip_NCHW: (N, features, H, W), passed through `resConfUnit1` first; without it that
                unit has no part in the output.
            size: Rows and columns of the output; by default twice those of the input.

        Returns:
            (N, features, *size).
        """
        if skip_NCHW is not None:
            x_NCHW = self.resConfUnit1(skip_NCHW).add_(x_NCHW)
        size = size or (2 * x_NCHW.shape[-2], 2 * x_NCHW.shape[-1])
        refined = self.resConfUnit2(x_NCHW)
        fine = F.interpolate(refined, size, mode="bilinear", align_corners=True)
        mixed: Tensor = self.out_conv(fine)
        return mixed


def resize_layers(channels: Sequence[int]) -> nn.ModuleList:
    """What brings four maps of one size to 4, 2, 1 and 1/2 times the side."""
    return nn.ModuleList(
        [
            nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
            nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
            nn.Identity(),
            nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
        ]
    )


def fuse_levels(scratch: nn.ModuleDict, levels: Sequence[Tensor]) -> Tensor:
    """Fuse four levels, fine to coarse, beginning with the coarsest.

    `scratch` holds `layer1_rn` .. `layer4_rn`, `refinenet1` .. `refinenet4` and `output_conv1`.
    """
    lateral = [scratch[f"layer{i}_rn"](level) for i, level in enumerate(levels, start=1)]
    path = scratch["refinenet4"](lateral[3], size=lateral[2].shape[-2:])
    path = scratch["refinenet3"](path, lateral[2], size=lateral[1].shape[-2:])
    path = scratch["refinenet2"](path, lateral[1], size=lateral[0].shape[-2:])
    fused: Tensor = scratch["output_conv1"](scratch["refinenet1"](path, lateral[0]))
    return fused
