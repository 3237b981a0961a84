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
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleevent.decoders.decoder import Decoder, Loaded
from scaleevent.decoders.flow_parts import (
    Estimate,
    centred_padding,
    crop,
    resize_flow,
    second_window,
    sequence_loss,
    upsample_estimate,
    warp,
)
from scaleevent.decoders.waft_backbone import ResNet18Deconv, TokenPyramid
from scaleevent.decoders.waft_refine import Refiner, RefinerSize
from scaleevent.encoders.encoder import Encoder
from scaleevent.encoders.weights import check_keys
from scaleevent.errors import ConfigError
from scaleevent.training.terms import Terms

STRIDE = 2  # input pixels to a side of a cell
FACTOR = 16  # sides of a padded input are multiples of it
FLOW, INFO = 2, 4  # channels of an estimate


@dataclass(frozen=True)
class Size:
    """Channels and depths of the network.

    Attributes:
        layers: Encoder blocks that the pyramid takes, from 0.
        features: Channels of the pyramid.
        channels: Channels of its levels before fusion.
        stages: Channels of the convolutional branch.
        refiner: The recurrent step.
    """

    layers: tuple[int, int, int, int]
    features: int
    channels: tuple[int, int, int, int]
    stages: tuple[int, int, int, int]
    refiner: RefinerSize


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


class Waft(Decoder):
    """WAFT on the event encoder.

    Args:
        encoder: Event encoder of a width and depth in `SIZES`.
        iters: Refinements, at least 1.

    Raises:
        ConfigError: An encoder of another size, or no iterations.
    """

    task = "flow"
    weights: ClassVar[Mapping[str, float]] = {"flow": 1.0}

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
        self.flow_head = nn.Sequential(
            nn.Conv2d(dim, 2 * dim, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * dim, FLOW + INFO, 1),
        )
        self.upsample_weight = nn.Sequential(
            nn.Conv2d(dim, 2 * dim, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * dim, 9 * STRIDE**2, 1),
        )
        for name in self.dead_parameters():
            self.get_parameter(name).requires_grad_(False)

    def forward(self, voxel: Tensor, after: Tensor | None = None) -> list[Estimate]:
        """Estimates of the flow, on the input's grid.

        Args:
            voxel: (N, 3, H, W) network input of the window before.
            after: (N, 3, H, W) network input of the window after.

        Returns:
            In training one estimate an iteration; otherwise the last one only.

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
            # float32, since positions add up in cells and fractions
            change, info = self.flow_head(net).float().split([FLOW, INFO], 1)
            flow = flow + change
            if self.training or step == self.iters - 1:
                # a quarter balances the gradients of the logits, as in RAFT
                logits = 0.25 * self.upsample_weight(net)
                found.append(upsample_estimate(flow, info, logits, STRIDE))
        return [Estimate(crop(flow, padding), crop(info, padding)) for flow, info in found]

    def _features(self, frame: Tensor) -> Tensor:
        """Features (N, dim, H / 2, W / 2) of a padded frame (N, 3, H, W)."""
        fine = self.fnet(frame)
        tokens = self.dpt_head(self.encoder.maps(frame, self.layers))
        tokens = F.interpolate(tokens, fine.shape[-2:], mode="bilinear", align_corners=True)
        features: Tensor = self.fmap_conv(torch.cat([tokens, fine], 1))
        return features

    def loss(self, raw: list[Estimate], target: Tensor) -> Terms:
        """The likelihood of the true flow, over all estimates; see `sequence_loss`."""
        return {"flow": sequence_loss(raw, target)}

    def predict(self, raw: list[Estimate], size: tuple[int, int]) -> Tensor:
        """The last estimate as (N, 2, h, w) float32, in pixels of a grid of `size`."""
        return resize_flow(raw[-1].flow.float(), size)

    def load_published(self, tensors: Mapping[str, Tensor], where: object = None) -> Loaded:
        """Load a file of WAFT on DINOv3; its image encoder is left out.

        Raises:
            CheckpointError: Missing, unexpected or misshapen keys, all named.
        """
        image_encoder = tuple(name for name in tensors if name.startswith("encoder.encoder."))
        state = {
            name.removeprefix("encoder."): tensor
            for name, tensor in tensors.items()
            if name not in image_encoder
        }
        shapes = {name: tuple(value.shape) for name, value in self.own_state().items()}
        check_keys(state, shapes, where)
        self.load_own(state, where)
        notes = ("its image encoder is left out for the event encoder",) if image_encoder else ()
        return Loaded("princeton-vl/WAFT", tuple(sorted(state)), unused=image_encoder, notes=notes)

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
