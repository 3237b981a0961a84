"""The image branches of SEA-RAFT: a ResNet cut off at an eighth of the resolution.

princeton-vl/SEA-RAFT:core/extractor.py and core/layer.py, whose parameter names are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

STRIDE = 8  # input pixels to a side of an output cell


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, each convolution with bias, batch norm and ReLU.

    The first convolution and the shortcut have the stride.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride))
            self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()  # ReLU before the sum too, unlike a plain ResNet
        shortcut: Tensor = x if self.downsample is None else self.bn3(self.downsample(x))
        return (shortcut + y).relu_()


class ResNetFPN(nn.Module):
    """The first three stages of a ResNet-18 or 34 and a 1x1 convolution.

    Batch norm is plain; across GPUs `torch.nn.SyncBatchNorm.convert_sync_batchnorm` makes it what
    the published weights were trained with.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stem: Channels after the first convolution.
        stages: Channels of the three stages, at 1/2, 1/4 and 1/8 of the input.
        blocks: Blocks of each stage.
    """

    def __init__(
        self, inputs: int, outputs: int, stem: int, stages: Sequence[int], blocks: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, stem, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(stem)
        widths = [stem, *stages]
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                BasicBlock(widths[i], widths[i + 1], stride),
                *(BasicBlock(widths[i + 1], widths[i + 1], 1) for _ in range(blocks[i] - 1)),
            )
            for i, stride in enumerate((1, 2, 2))
        )
        self.final_conv = nn.Conv2d(widths[-1], outputs, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W), sides multiples of 8, to (N, outputs, H / 8, W / 8)."""
        x = self.bn1(self.conv1(x)).relu_()
        features: Tensor = self.final_conv(self.layer3(self.layer2(self.layer1(x))))
        return features
