"""DINOv2 encoders as Depth Anything V2 publishes them: absolute positions, no registers.

Positions are resampled once, to the grid of one input size, by the rule of
DepthAnything/Depth-Anything-V2:depth_anything_v2/dinov2.py; timm's rule for DINOv2 differs from it
in antialiasing and in the offset.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import CheckpointError

MODEL = "vit_small_patch14_dinov2"  # of timm; sizes are given beside it
HEAD_WIDTH = 64
OFFSET = 0.1  # tokens, added to the grid before the scale of positions is computed


def dinov2_encoder(
    tensors: Mapping[str, Tensor], size: tuple[int, int], where: object = None
) -> Encoder:
    """The encoder of a file, for inputs of one size.

    Args:
        tensors: Under Meta's names, without prefix.
        size: Rows and columns of the input, multiples of the patch.
        where: Named in errors.

    Raises:
        CheckpointError: Not the complete weights of such an encoder.
        ConfigError: The size is not a multiple of the patch.
    """
    state = {name: value.float() for name, value in tensors.items() if name != "mask_token"}
    positions, patches = state.get("pos_embed"), state.get("patch_embed.proj.weight")
    depth = len({found[1] for found in map(re.compile(r"blocks\.(\d+)\.").match, state) if found})
    if positions is None or patches is None or positions.ndim != 3 or patches.ndim != 4:
        raise CheckpointError(
            "no DINOv2 encoder in the file", where=where,
            found=", ".join(sorted(tensors)[:8]), expected="pos_embed, patch_embed.proj, blocks.*",
        )  # fmt: skip
    width, patch = patches.shape[0], patches.shape[-1]
    sizes = {"embed_dim": width, "depth": depth, "num_heads": max(1, width // HEAD_WIDTH)}
    encoder = Encoder({"name": MODEL, "kwargs": {"patch_size": patch, "img_size": size, **sizes}})
    state["pos_embed"] = _resampled(positions.float(), encoder.grid(*size))
    encoder.load(state, where)
    return encoder


def _resampled(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1, 1 + rows * columns, D): of the class token, then of every patch."""
    side = math.isqrt(positions.shape[1] - 1)
    if side * side != positions.shape[1] - 1 or grid == (side, side):
        return positions  # of no square grid: refused with the other shapes
    of_class, of_patches = positions[:, :1], positions[:, 1:].mT.unflatten(2, (side, side))
    scale = [(cells + OFFSET) / side for cells in grid]
    fine = F.interpolate(of_patches, scale_factor=scale, mode="bicubic")
    return torch.cat([of_class, fine.flatten(2).mT], 1)
