"""The features that WAFT matches: a pyramid of encoder layers, and a convolutional branch.

zhiwen-xdu/ScaleEvent:scale_event/models/build_flower_waft.py (WAFT of princeton-vl/WAFT on DINOv3),
whose parameter names are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from scaleevent.decoders.dpt_blocks import FusionBlock


class TokenPyramid(nn.Module):
    """Encoder layers brought to a pyramid and fused from the coarsest level to the finest.

    Args:
        width: Channels of the encoder's tokens.
        features: Channels of the fused maps.
        channels: Channels of each level before that, finest first.
        finest: The first level has 2 ** finest cells to the side of a token, and each further one
            half as many.
    """

    def __init__(self, width: int, features: int, channels: Sequence[int], finest: int) -> None:
        super().__init__()
        self.projects = nn.ModuleList(nn.Conv2d(width, each, 1) for each in channels)
        self.resize_layers = nn.ModuleList(
            _resize(each, finest - level) for level, each in enumerate(channels)
        )
        self.scratch = nn.ModuleList(
            nn.Conv2d(each, features, 3, padding=1, bias=False) for each in channels
        )
        self.refine = nn.ModuleList(FusionBlock(features) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One (N, width, h, w) map a level, shallow first, to (N, features, h', w')."""
        fused: Tensor | None = None
        for level in reversed(range(len(maps))):
            lateral = self.projects[level](maps[level])
            lateral = self.scratch[level](self.resize_layers[level](lateral))
            if fused is not None:
                fused = F.interpolate(fused, scale_factor=2, mode="bilinear", align_corners=True)
            fused = self.refine[level](lateral, fused, size=lateral.shape[-2:])
        assert fused is not None  # there is at least one level
        return fused


def _resize(channels: int, exponent: int) -> nn.Module:
    """Scale a map by 2 ** exponent."""
    if exponent > 0:
        return nn.ConvTranspose2d(channels, channels, 2**exponent, stride=2**exponent)
    return nn.Conv2d(channels, channels, 2**-exponent, stride=2**-exponent)


class ResidualConv(nn.Module):
    """GELU and convolution, twice, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2),
            nn.GELU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        same = inputs == outputs and stride == 1
        self.skip_conv = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        changed: Tensor = self.conv(x) + self.skip_conv(x)
        return changed


class ResNet18Deconv(nn.Module):
    """A small U-Net down to 1/16 of the input and back; `stages`: channels at 1/2 to 1/16."""

    def __init__(self, outputs: int, stages: Sequence[int]) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = stages
        self.ds1 = ResidualConv(3, half, kernel=7, stride=2)
        self.conv1 = ResidualConv(half, half)
        self.conv2 = ResidualConv(half, quarter, stride=2)
        self.conv3 = ResidualConv(quarter, eighth, stride=2)
        self.conv4 = ResidualConv(eighth, sixteenth, stride=2)
        self.up_4 = nn.ConvTranspose2d(sixteenth, eighth, 2, stride=2)
        self.proj_3 = ResidualConv(eighth, eighth)
        self.up_3 = nn.ConvTranspose2d(eighth, quarter, 2, stride=2)
        self.proj_2 = ResidualConv(quarter, quarter)
        self.up_2 = nn.ConvTranspose2d(quarter, half, 2, stride=2)
        self.proj_1 = ResidualConv(half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W), sides multiples of 16, to (N, outputs, H / 2, W / 2)."""
        half = self.conv1(self.ds1(x))
        quarter = self.conv2(half)
        eighth = self.conv3(quarter)
        eighth = self.proj_3(eighth + self.up_4(self.conv4(eighth)))
        quarter = self.proj_2(quarter + self.up_3(eighth))
        features: Tensor = self.proj_1(half + self.up_2(quarter))
        return features
