"""The two convolution blocks of dense prediction transformers, under their published names.

Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021, in the form of
DepthAnything/Depth-Anything-V2:depth_anything_v2/util/blocks.py, without batch norm. WAFT's heads
are made of the same blocks.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualConvUnit(nn.Module):
    """ReLU and a 3x3 convolution, twice, added to the input.

    Args:
        features: Channels in and out.
    """

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
    """Add a refined second map, refine the sum, enlarge it and mix its channels.

    Args:
        features: Channels of all maps.
    """

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
        height, width = x_NCHW.shape[-2:]
        fine = F.interpolate(
            self.resConfUnit2(x_NCHW),
            size or (2 * height, 2 * width),
            mode="bilinear",
            align_corners=True,
        )
        mixed: Tensor = self.out_conv(fine)
        return mixed
