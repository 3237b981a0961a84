"""Depth Anything V2's decoder on the event encoder: metric or relative depth from four layers.

Yang et al., "Depth Anything V2", NeurIPS 2024; DepthAnything/Depth-Anything-V2:
depth_anything_v2/dpt.py (relative) and metric_depth/depth_anything_v2/dpt.py (metric).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleevent.decoders.decoder import Decoder, Loaded
from scaleevent.decoders.depth_loss import measured, scale_shift_terms, silog
from scaleevent.decoders.dpt_blocks import FusionBlock, fuse_levels, resize_layers
from scaleevent.decoders.dpt_weights import convert_head, origin_notes
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import ConfigError
from scaleevent.training.terms import Terms

LEVELS = 4
LAST_CHANNELS = 32  # before the final 1x1 convolution, for every size


class Size(NamedTuple):
    """Channels of the fused maps, channels of the four levels, and the blocks they come from."""

    features: int
    out_channels: tuple[int, ...]
    layers: tuple[int, ...]


# By width and depth of the encoder: `model_configs` of DepthAnything/Depth-Anything-V2:run.py and
# `intermediate_layer_idx` of its dpt.py for ViT-S, B and L; the first, for "tiny", is ours.
SIZES: dict[tuple[int, int], Size] = {
    (96, 4): Size(32, (24, 48, 96, 96), (0, 1, 2, 3)),
    (384, 12): Size(64, (48, 96, 192, 384), (2, 5, 8, 11)),
    (768, 12): Size(128, (96, 192, 384, 768), (2, 5, 8, 11)),
    (1024, 24): Size(256, (256, 512, 1024, 1024), (4, 11, 17, 23)),
}


class DPT(Decoder):
    """Depth from a pyramid that is made of four encoder layers and fused from coarse to fine.

    A metric decoder predicts metres up to `max_depth`. A relative one predicts inverse depth up to
    an unknown scale and shift, as the relative checkpoints do; align it before computing a metric.

    Args:
        encoder: Event encoder.
        max_depth: Depth in metres where the sigmoid of a metric decoder ends, and beyond which
            ground truth does not count.
        kind: "metric" or "relative".
        features: Channels of the fused maps. This and the next two are by default the published
            ones for the encoder's size.
        out_channels: Channels of the four levels, fine to coarse.
        layers: Encoder blocks behind the four levels, from 0.

    Raises:
        ConfigError: Unusable values, or an encoder of another size without the last three.
    """

    task = "depth"
    # "scale_shift" and "gradient" as in MiDaS (Ranftl et al., TPAMI 2022, section 5)
    weights: ClassVar[Mapping[str, float]] = {"silog": 1.0, "scale_shift": 1.0, "gradient": 0.5}

    def __init__(
        self,
        encoder: Encoder,
        max_depth: float = 80.0,
        kind: Literal["metric", "relative"] = "metric",
        features: int | None = None,
        out_channels: Sequence[int] | None = None,
        layers: Sequence[int] | None = None,
    ) -> None:
        if kind not in ("metric", "relative"):
            raise ConfigError("unknown kind of depth", found=kind, expected="metric or relative")
        if not max_depth > 0:
            raise ConfigError("max_depth must be positive", found=max_depth, expected="metres > 0")
        size = _size(encoder, features, out_channels, layers)
        channels = size.out_channels
        own = {"max_depth": max_depth, "kind": kind, "features": size.features}
        lists = {"out_channels": list(channels), "layers": list(size.layers)}
        super().__init__(encoder, own | lists)
        self.max_depth, self.kind, self.layers = max_depth, kind, size.layers
        self.projects = nn.ModuleList(nn.Conv2d(encoder.width, each, 1) for each in channels)
        self.resize_layers = resize_layers(channels)
        self.scratch = _scratch(size.features, channels)
        for name in self.dead_parameters():
            self.get_parameter(name).requires_grad_(False)

    def forward(self, voxel: Tensor, after: Tensor | None = None) -> Tensor:
        """(N, H, W) metres, or inverse depth of unknown scale and shift."""
        return self.from_maps(self.encoder.maps(voxel, self.layers))

    def from_maps(self, maps_NDhw: Sequence[Tensor]) -> Tensor:
        """`forward` from the encoder's four maps on, `Encoder.maps` of `layers`."""
        layers = zip(self.projects, self.resize_layers, maps_NDhw, strict=True)
        levels = [resize(project(features)) for project, resize, features in layers]
        if levels[0].is_cpu and not torch.is_grad_enabled():
            # oneDNN convolves channels-last maps 1.3 times as fast, in a third less memory; its
            # gradients are slower, so training keeps the given order.
            levels = [level.contiguous(memory_format=torch.channels_last) for level in levels]
        fused = fuse_levels(self.scratch, levels)
        h, w = (self.encoder.patch * side for side in maps_NDhw[0].shape[-2:])
        fine = F.interpolate(fused, (h, w), mode="bilinear", align_corners=True)
        out: Tensor = self.scratch["output_conv2"](fine).squeeze(1)
        return out.float().sigmoid() * self.max_depth if self.kind == "metric" else out.relu()

    def loss(self, raw: Tensor, target: Tensor) -> Terms:
        """`silog` of metric depth; `scale_shift` and `gradient` of relative inverse depth."""
        valid = measured(target, self.max_depth)
        if self.kind == "metric":
            return {"silog": silog(raw, target, valid)}
        return scale_shift_terms(raw, target.reciprocal(), valid)

    def predict(self, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, h, w) float32, resized as Depth-Anything-V2:metric_depth/train.py does to measure."""
        resized = F.interpolate(raw[:, None].float(), size, mode="bilinear", align_corners=True)
        return resized.squeeze(1)

    def load_published(self, tensors: Mapping[str, Tensor], where: object = None) -> Loaded:
        """Take the head of a Depth Anything V2 file; its image encoder (`pretrained`) stays out.

        Original files, training checkpoints (`module.`), heads alone and Hugging Face's
        `DepthAnythingForDepthEstimation` are known.

        Raises:
            CheckpointError: No such head, or not of this size; names every wrong key.
        """
        layout, state, unused = convert_head(tensors, where)
        self.load_own(state, where)
        notes = origin_notes(where, self.kind, self.max_depth, self.encoder.patch)
        return Loaded(layout, loaded=tuple(state), unused=unused, notes=notes)

    def dead_parameters(self) -> tuple[str, ...]:
        """The deepest fusion block has nothing to fuse: its first unit never runs."""
        unit = "scratch.refinenet4.resConfUnit1"
        return tuple(f"{unit}.{name}" for name in self.get_submodule(unit).state_dict())


def _scratch(features: int, out_channels: Sequence[int]) -> nn.ModuleDict:
    """The layers that Depth Anything V2 names `scratch`."""
    layers: dict[str, nn.Module] = {}
    for level, channels in enumerate(out_channels, start=1):
        layers[f"layer{level}_rn"] = nn.Conv2d(channels, features, 3, padding=1, bias=False)
        layers[f"refinenet{level}"] = FusionBlock(features)
    layers["output_conv1"] = nn.Conv2d(features, features // 2, 3, padding=1)
    layers["output_conv2"] = nn.Sequential(
        nn.Conv2d(features // 2, LAST_CHANNELS, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(LAST_CHANNELS, 1, 1),
    )
    return nn.ModuleDict(layers)


def _size(
    encoder: Encoder,
    features: int | None,
    out_channels: Sequence[int] | None,
    layers: Sequence[int] | None,
) -> Size:
    """The given size, completed by the published one for the encoder, and checked."""
    if (known := SIZES.get((encoder.width, encoder.depth))) is not None:
        features = known.features if features is None else features
        out_channels = known.out_channels if out_channels is None else out_channels
        layers = known.layers if layers is None else layers
    if features is None or out_channels is None or layers is None:
        raise ConfigError(
            "no published depth decoder for an encoder of this size",
            found=f"width {encoder.width}, depth {encoder.depth}",
            expected=", ".join(f"width {width}, depth {depth}" for width, depth in SIZES),
            hint="give features, out_channels and layers",
        )
    size = Size(features, tuple(out_channels), tuple(layers))
    lengths = {len(size.out_channels), len(size.layers)}
    in_encoder = all(0 <= each < encoder.depth for each in size.layers)
    if features < 2 or lengths != {LEVELS} or min(size.out_channels) < 1 or not in_encoder:
        raise ConfigError(
            "not the size of a depth decoder",
            found=f"features {features}, out_channels {size.out_channels}, layers {size.layers}",
            expected=f"features >= 2, {LEVELS} channel counts, "
            f"{LEVELS} block numbers from 0 to {encoder.depth - 1}",
        )
    return size
