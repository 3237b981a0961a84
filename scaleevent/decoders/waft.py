"""WAFT: optical flow by warping features and refining with a small ViT, without correlations.

Wang and Deng, "WAFT: Warping-Alone Field Transforms for Optical Flow"; princeton-vl/WAFT. This is
the version on DINOv3 features that ScaleEvent's code builds for flow
(zhiwen-xdu/ScaleEvent:scale_event/models/build_flower_waft.py), with the event encoder where the
image encoder stood. Everything happens at half of the input's resolution.

Published names are kept but one: the pyramid on the encoder's layers is `encoder.dpt_head.*` in a
file and `dpt_head.*` here, since `encoder` is the event encoder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleevent.decoders.decoder import Loaded
from scaleevent.decoders.flow_parts import (
    FLOW,
    INFO,
    NEIGHBOURS,
    Estimate,
    FlowDecoder,
    centred_padding,
    second_window,
    two_convolutions,
    warp,
)
from scaleevent.decoders.waft_backbone import ResNet18Deconv, TokenPyramid
from scaleevent.decoders.waft_refine import Refiner, RefinerSize
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import ConfigError

STRIDE = 2  # input pixels to a side of a cell
FACTOR = 16  # sides of a padded input are multiples of it


@dataclass(frozen=True)
class Size:
    """Channels and depths of the network."""

    layers: tuple[int, int, int, int]  # encoder blocks that the pyramid takes, from 0
    features: int  # channels of the pyramid
    channels: tuple[int, int, int, int]  # of its levels before fusion
    stages: tuple[int, int, int, int]  # channels of the convolutional branch
    refiner: RefinerSize  # the recurrent step


_STAGES = (64, 128, 256, 512)
_REFINER = RefinerSize(384, 6, (2, 5, 8, 11), 64, (48, 96, 192, 384))

# By width and depth of the encoder. ViT-S is published; B and L take their pyramids from the same
# file and the rest from S; the first, for "tiny", is ours.
SIZES: dict[tuple[int, int], Size] = {
    (96, 4): Size(
        (0, 1, 2, 3),
        16,
        (16, 16, 32, 32),
        (16, 32, 48, 64),
        RefinerSize(96, 3, (0, 1, 2, 3), 16, (16, 16, 32, 32)),
    ),
    (384, 12): Size((2, 5, 8, 11), 64, (48, 96, 192, 384), _STAGES, _REFINER),
    (768, 12): Size((2, 5, 8, 11), 128, (96, 192, 384, 768), _STAGES, _REFINER),
    (1024, 24): Size((4, 11, 17, 23), 256, (256, 512, 1024, 1024), _STAGES, _REFINER),
}


class Waft(FlowDecoder):
    """WAFT on the event encoder.

    Args:
        encoder: Event encoder of a width and depth in `SIZES`.
        iters: Refinements, at least 1.

    Raises:
        ConfigError: An encoder of another size, or no iterations.
    """

    def __init__(self, encoder: Encoder, iters: int = 5) -> None:
        super().__init__(encoder, {"iters": iters})
        size = SIZES.get((encoder.width, encoder.depth))
        if size is None:
            raise ConfigError(
                "WAFT has no size for this encoder",
                found=f"width {encoder.width}, depth {encoder.depth}",
                expected=", ".join(f"width {width}, depth {depth}" for width, depth in SIZES),
            )
        if iters < 1:
            raise ConfigError("WAFT refines at least once", where="iters", found=iters)
        self.iters = iters
        self.layers = size.layers
        self.factor = math.lcm(FACTOR, encoder.patch)
        dim = size.refiner.features
        finest = round(math.log2(encoder.patch / STRIDE))  # brings tokens to the grid of cells
        self.dpt_head = TokenPyramid(encoder.width, size.features, size.channels, finest)
        self.fnet = ResNet18Deconv(size.features, size.stages)
        self.fmap_conv = nn.Conv2d(2 * size.features, dim, 1)
        self.hidden_conv = nn.Conv2d(2 * dim, dim, 1)
        self.warp_linear = nn.Conv2d(3 * dim + FLOW, dim, 1)
        self.refine_net = Refiner(size.refiner)
        self.refine_transform = nn.Conv2d(dim // 2 + dim, dim, 1)
        self.flow_head = two_convolutions(dim, FLOW + INFO, 1)
        self.upsample_weight = two_convolutions(dim, NEIGHBOURS * STRIDE**2, 1)
        for name in self.dead_parameters():
            self.get_parameter(name).requires_grad_(False)

    def forward(self, voxel: Tensor, after: Tensor | None = None) -> list[Estimate]:
        """On the input's grid: in training one estimate an iteration, otherwise the last only.

        Raises:
            DataError: No second window.
        """
        after = second_window(after)
        height, width = voxel.shape[-2:]
        target = padded_side(height, self.factor), padded_side(width, self.factor)
        padding = centred_padding((height, width), target)
        # one by one: together they would need the memory of both at once
        first, second = (self._features(F.pad(window, padding)) for window in (voxel, after))
        net = self.hidden_conv(torch.cat([first, second], 1))
        flow = first.new_zeros(first.shape[0], FLOW, *first.shape[-2:], dtype=torch.float32)
        found = []
        for step in range(self.iters):
            flow = flow.detach()
            warped = warp(second, flow)
            refined = self.refine_net(self.warp_linear(torch.cat([first, warped, net, flow], 1)))
            net = self.refine_transform(torch.cat([refined, net], 1))
            change, info = self.heads(net)
            flow = flow + change
            if self.training or step == self.iters - 1:
                found.append(self.estimate(net, flow, info, STRIDE, padding))
        return found

    def _features(self, frame: Tensor) -> Tensor:
        """Features (N, dim, H / 2, W / 2) of a padded frame (N, 3, H, W)."""
        fine = self.fnet(frame)
        tokens = self.dpt_head(self.encoder.maps(frame, self.layers))
        tokens = F.interpolate(tokens, fine.shape[-2:], mode="bilinear", align_corners=True)
        features: Tensor = self.fmap_conv(torch.cat([tokens, fine], 1))
        return features

    def load_published(self, tensors: Mapping[str, Tensor], where: object = None) -> Loaded:
        """Load a file of WAFT on DINOv3; its image encoder is left out.

        Raises:
            CheckpointError: Missing, unexpected or misshapen keys, all named.
        """
        unused = tuple(name for name in tensors if name.startswith("encoder.encoder."))
        state = {name.removeprefix("encoder."): tensors[name] for name in tensors.keys() - unused}
        self.load_own(state, where)
        notes = ("its image encoder is left out for the event encoder",) if unused else ()
        return Loaded("princeton-vl/WAFT", tuple(sorted(state)), unused=unused, notes=notes)

    def dead_parameters(self) -> tuple[str, ...]:
        """Units with nothing to fuse at the coarsest levels, and the end of the refiner's head."""
        dead = (
            "dpt_head.refine.3.resConfUnit1.",
            "refine_net.dpt_head.scratch.refinenet4.resConfUnit1.",
            "refine_net.dpt_head.scratch.output_conv2.",
        )
        return tuple(name for name, _ in self.named_parameters() if name.startswith(dead))


def padded_side(side: int, factor: int = FACTOR) -> int:
    """Rows or columns after padding with zeros: a multiple of `factor` that leaves a margin.

    zhiwen-xdu/ScaleEvent:scale_event/models/utils.py.
    """
    return ((side + 8) // factor + 1) * factor
