"""WAFT's recurrent step: a small ViT with a DPT head, in place of a correlation volume and a GRU.

zhiwen-xdu/ScaleEvent:scale_event/models/vit.py (from princeton-vl/WAFT), whose parameter names are
kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from scaleevent.decoders.dpt_blocks import FusionBlock, fuse_levels, resize_layers

PATCH = 8  # cells to a side of a token
GRID = 8  # rows and columns that the position embedding is stored on


@dataclass(frozen=True)
class RefinerSize:
    """Channels and depths of the refiner."""

    width: int  # channels of a token
    heads: int  # attention heads of a block
    # the blocks whose tokens the head takes, from 0; the last is the depth
    layers: tuple[int, int, int, int]
    features: int  # channels of the head's fused maps, and of the recurrent state
    channels: tuple[int, int, int, int]  # channels of the head's four levels, finest first


class RefinerHead(nn.Module):
    """A DPT head on tokens of 8 x 8 cells.

    Depth-Anything-V2's, cut off before its last two convolutions, which the published weights
    nevertheless hold (`scratch.output_conv2`).
    """

    def __init__(self, size: RefinerSize) -> None:
        super().__init__()
        channels, features = size.channels, size.features
        self.projects = nn.ModuleList(nn.Conv2d(size.width, each, 1) for each in channels)
        self.resize_layers = resize_layers(channels)
        self.scratch = nn.ModuleDict(
            {
                f"layer{level}_rn": nn.Conv2d(each, features, 3, padding=1, bias=False)
                for level, each in enumerate(channels, 1)
            }
            | {f"refinenet{level}": FusionBlock(features) for level in range(1, 5)}
        )
        self.scratch["output_conv1"] = nn.Conv2d(features, features // 2, 3, padding=1)
        self.scratch["output_conv2"] = nn.Sequential(
            nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four (N, width, h, w) maps to (N, features / 2, 14 h, 14 w)."""
        layers = zip(self.projects, self.resize_layers, maps, strict=True)
        fused = fuse_levels(self.scratch, [resize(project(x)) for project, resize, x in layers])
        h, w = maps[0].shape[-2:]
        # 14 is the patch of the head's origin, DINOv2; trained weights expect the detour
        return F.interpolate(fused, (14 * h, 14 * w), mode="bilinear", align_corners=True)


class Refiner(nn.Module):
    """ViT blocks and a DPT head that turn a map into another of the same size."""

    def __init__(self, size: RefinerSize) -> None:
        super().__init__()
        self.layers = size.layers
        norm = cast(type[nn.Module], partial(nn.LayerNorm, eps=1e-6))
        # the blocks of timm's vit_small_patch16_224, which the published weights started from
        self.blks = nn.ModuleList(
            Block(size.width, size.heads, qkv_bias=True, norm_layer=norm)
            for _ in range(size.layers[-1] + 1)
        )
        self.pos_embed = nn.Parameter(torch.zeros(1, GRID * GRID, size.width))
        projection = nn.Conv2d(size.features, size.width, PATCH, stride=PATCH)
        self.patch_embed = nn.ModuleDict({"proj": projection})
        self.dpt_head = RefinerHead(size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features, H, W), sides multiples of 8, to (N, features / 2, H, W)."""
        tokens = self.patch_embed["proj"](x)
        grid = tokens.shape[-2:]
        tokens = (tokens + self._positions(grid)).flatten(2).transpose(1, 2)
        maps = []
        for number, block in enumerate(self.blks):
            tokens = block(tokens)
            if number in self.layers:
                maps.append(tokens.transpose(1, 2).unflatten(2, grid))
        refined = self.dpt_head(maps)
        return F.interpolate(refined, x.shape[-2:], mode="bilinear", align_corners=True)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """The position embedding (1, width, h, w) of a grid of tokens."""
        stored: Tensor = self.pos_embed.transpose(1, 2).unflatten(2, (GRID, GRID))
        if tuple(grid) == (GRID, GRID):
            return stored
        return F.interpolate(stored, grid, mode="bicubic", align_corners=False)
