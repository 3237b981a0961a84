"""SEA-RAFT: optical flow between the event windows before and after a moment.

Wang, Lipson and Deng, ECCV 2024; princeton-vl/SEA-RAFT. The network is the published one, under its
own parameter names: a context branch that sees both frames gives a first estimate, a matching
branch gives a correlation pyramid, and a recurrent block refines the estimate at 1/8 resolution.

How the event encoder takes part is our decision, since ScaleEvent's code does not connect the two.
It is not the paper's: that has 40.95, 135.62 and 485.27 M parameters with ViT-S, B and L (table
19), this one, counted the same way, 25.35, 73.66 and 236.94 M in size S, and 10.78 M more in M.
SEA-RAFT has exactly two places where features of a frame enter: the matching features and the
context. The encoder's final tokens of each window are projected (1x1), resized to the 1/8 grid and
added in both (`fuse_match` to both frames, `fuse_context` of the first frame). Adding, rather than
replacing the convolutional branches, keeps their detail, which tokens of 16 x 16 pixels lack, keeps
all published weights usable, and lets the projections start at zero beside them: training then sets
out from the published network and blends the encoder in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
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
)
from scaleevent.decoders.sea_raft_backbone import STRIDE, ResNetFPN
from scaleevent.decoders.sea_raft_correlation import CorrelationPyramid
from scaleevent.encoders.colours import Colours
from scaleevent.encoders.encoder import Encoder
from scaleevent.encoders.weights import check_keys
from scaleevent.errors import CheckpointError, ConfigError

RADIUS = 4  # of a correlation window, cells
REFINEMENTS = 2  # ConvNeXt blocks of the update


@dataclass(frozen=True)
class Size:
    """Channels and depths of the network."""

    dim: int  # channels of the recurrent state; matching features have twice as many
    stem: int  # channels after the first convolution of a branch
    stages: tuple[int, int, int]  # channels of a branch's stages
    blocks: tuple[int, int, int]  # blocks of a branch's stages
    levels: int = 4  # scales of the correlation pyramid
    # whether matching features have mean 0 and deviation 1 over each frame. The published networks
    # do without. In a fresh network the mean, alike everywhere, drowns the differences that make a
    # correlation: some 300 steps teach it nothing otherwise
    normalised: bool = False


BY_WIDTH = ((768, "M"), (384, "S"), (0, "tiny"))  # from this encoder width on

# S and M: princeton-vl/SEA-RAFT:config/eval (L is M with 12 iterations). "tiny" is ours, for inputs
# of about 100 pixels on a CPU: two levels already cover motions of 64 pixels.
SIZES: dict[str, Size] = {
    "tiny": Size(dim=32, stem=16, stages=(16, 24, 32), blocks=(1, 1, 1), levels=2, normalised=True),
    "S": Size(dim=128, stem=64, stages=(64, 128, 256), blocks=(2, 2, 2)),
    "M": Size(dim=128, stem=64, stages=(64, 128, 256), blocks=(3, 4, 6)),
}


class MotionEncoder(nn.Module):
    """Features of the correlation windows and the flow they were read at."""

    def __init__(self, correlations: int, dim: int) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(correlations, 2 * dim, 1)
        self.convc2 = nn.Conv2d(2 * dim, dim + dim // 2, 3, padding=1)
        self.convf1 = nn.Conv2d(FLOW, dim, 7, padding=3)
        self.convf2 = nn.Conv2d(dim, dim // 2, 3, padding=1)
        self.conv = nn.Conv2d(2 * dim, dim - FLOW, 3, padding=1)

    def forward(self, windows: Tensor, flow: Tensor) -> Tensor:
        """(N, correlations, h, w) and (N, 2, h, w) to (N, dim, h, w)."""
        matching = self.convc2(self.convc1(windows).relu_()).relu_()
        motion = self.convf2(self.convf1(flow).relu_()).relu_()
        return torch.cat([self.conv(torch.cat([matching, motion], 1)).relu_(), flow], 1)


class ConvNextBlock(nn.Module):
    """A ConvNeXt block followed by a 1x1 convolution to fewer channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(inputs, inputs, 7, padding=3, groups=inputs)
        self.norm = nn.LayerNorm(inputs, eps=1e-6)
        self.pwconv1 = nn.Linear(inputs, 4 * outputs)
        self.pwconv2 = nn.Linear(4 * outputs, inputs)
        self.gamma = nn.Parameter(torch.full((inputs,), 1e-6))
        self.final = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, outputs, h, w)."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        fewer: Tensor = self.final(x + y.permute(0, 3, 1, 2))
        return fewer


class UpdateBlock(nn.Module):
    """One step of the recurrence."""

    def __init__(self, correlations: int, dim: int) -> None:
        super().__init__()
        self.encoder = MotionEncoder(correlations, dim)
        self.refine = nn.ModuleList(ConvNextBlock(3 * dim, dim) for _ in range(REFINEMENTS))

    def forward(self, net: Tensor, context: Tensor, windows: Tensor, flow: Tensor) -> Tensor:
        """The next state (N, dim, h, w) from the last, of the same shape."""
        fixed = [context, self.encoder(windows, flow)]
        for block in self.refine:
            net = block(torch.cat([net, *fixed], 1))
        return net


class SeaRaft(FlowDecoder):
    """SEA-RAFT with the event encoder's tokens added to its matching and context features.

    Args:
        encoder: Event encoder.
        size: Key of `SIZES`; None chooses by the width of the encoder.
        iters: Refinements, at least 1; the published models use 4, and 12 for "L".
        fuse: Whether the encoder takes part; without it this is the published network, for a
            comparison.

    Raises:
        ConfigError: Unknown size, or no iterations.
    """

    class Options(FlowDecoder.Options):
        """See `Decoder.Options`."""

        size: Annotated[
            Literal["tiny", "S", "M"] | None,
            Field(description="tiny, S or M; default: by the width of the encoder"),
        ] = None

    def __init__(
        self, encoder: Encoder, size: str | None = "S", iters: int = 4, fuse: bool = True
    ) -> None:
        size = size or next(size for least, size in BY_WIDTH if encoder.width >= least)
        super().__init__(encoder, {"size": size, "iters": iters, "fuse": fuse})
        if size not in SIZES:
            raise ConfigError("unknown size of SEA-RAFT", found=size, expected=", ".join(SIZES))
        if iters < 1:
            raise ConfigError("SEA-RAFT refines at least once", where="iters", found=iters)
        shape = SIZES[size]
        dim = shape.dim
        self.iters = iters
        self.levels = shape.levels
        self.normalised = shape.normalised
        branch = (2 * dim, shape.stem, shape.stages, shape.blocks)
        self.cnet = ResNetFPN(6, *branch)
        self.fnet = ResNetFPN(3, *branch)
        self.init_conv = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1)
        self.update_block = UpdateBlock(shape.levels * (2 * RADIUS + 1) ** 2, dim)
        self.flow_head = two_convolutions(dim, FLOW + INFO, 3)
        self.upsample_weight = two_convolutions(dim, NEIGHBOURS * STRIDE**2, 1)
        self.fuse_match = nn.Conv2d(encoder.width, 2 * dim, 1) if fuse else None
        self.fuse_context = nn.Conv2d(encoder.width, 2 * dim, 1) if fuse else None

    def forward(self, voxel: Tensor, after: Tensor | None = None) -> list[Estimate]:
        """On the input's grid: in training the first estimate and one an iteration, else the last.

        Raises:
            DataError: No second window.
        """
        after = second_window(after)
        frames = torch.cat([voxel, after])
        tokens = self.encoder.maps(frames, [-1])[0] if self.fuse_match is not None else None
        return self.estimates(
            _to_symmetric(frames, self.encoder.colours), tokens, every=self.training
        )

    def estimates(
        self, frames: Tensor, tokens: Tensor | None = None, every: bool = True
    ) -> list[Estimate]:
        """The network itself.

        Args:
            frames: (2N, 3, H, W), first frames before second ones, -1 to 1. Of any size: borders
                are repeated up to a multiple of 8 pixels that the pyramid can halve.
            tokens: (2N, D, h, w) encoder features of the same; None leaves the encoder out.
            every: Give all estimates; upsampling costs as much as an iteration, so leave it off
                where only the last one is wanted.

        Returns:
            `iters + 1` estimates, or the last only.
        """
        height, width = frames.shape[-2:]
        rows, columns = -(-height // STRIDE), -(-width // STRIDE)
        least = 2**self.levels  # cells; the coarsest level has two then
        cells = centred_padding((rows, columns), (max(rows, least), max(columns, least)))
        pixels = centred_padding((height, width), (STRIDE * rows, STRIDE * columns))
        left, right, top, bottom = (p + STRIDE * c for p, c in zip(pixels, cells, strict=True))
        padding = left, right, top, bottom
        frames = F.pad(frames, padding, mode="replicate")
        first, second = frames.unflatten(0, (2, -1))
        # one by one: in training each frame has its own batch statistics, as published
        matching = torch.cat([self.fnet(first), self.fnet(second)])
        context = self.cnet(torch.cat([first, second], 1))
        if tokens is not None and self.fuse_match and self.fuse_context:
            grid = (rows, columns), cells
            matching = matching + _on_grid(self.fuse_match(tokens), *grid)
            context = context + _on_grid(self.fuse_context(tokens.unflatten(0, (2, -1))[0]), *grid)
        if self.normalised:
            matching = F.instance_norm(matching)
        first, second = matching.unflatten(0, (2, -1))
        pyramid = CorrelationPyramid(first, second, self.levels)
        net, context = self.init_conv(context).chunk(2, 1)

        found = []
        flow, info = self.heads(net)
        for step in range(self.iters + 1):
            if step:
                flow = flow.detach()
                net = self.update_block(net, context, pyramid.windows(flow, RADIUS), flow)
                change, info = self.heads(net)
                flow = flow + change
            if every or step == self.iters:
                found.append(self.estimate(net, flow, info, STRIDE, padding))
        return found

    def load_published(self, tensors: Mapping[str, Tensor], where: object = None) -> Loaded:
        """Load a file of princeton-vl/SEA-RAFT, or its Hugging Face copy (MemorySlices/*).

        The projections of the encoder's tokens become zero, so that the published network is where
        training starts.

        Raises:
            CheckpointError: Missing, unexpected or misshapen keys, all named.
        """
        state = _single_names(tensors, where)
        own = self.own_state()
        fresh = tuple(name for name in own if name.startswith("fuse_"))
        shapes = {name: tuple(value.shape) for name, value in own.items() if name not in fresh}
        check_keys(state, shapes, where)
        self.load_own(state | {name: torch.zeros_like(own[name]) for name in fresh}, where)
        notes = ("the projections of the encoder's tokens start at zero",) if fresh else ()
        return Loaded("princeton-vl/SEA-RAFT", tuple(sorted(state)), fresh, notes=notes)

    def dead_parameters(self) -> tuple[str, ...]:
        """The encoder's, where it takes no part."""
        if self.fuse_match is not None:
            return ()
        return tuple(f"encoder.{name}" for name, _ in self.encoder.named_parameters())


def _to_symmetric(x: Tensor, colours: Colours) -> Tensor:
    """Encoder input to the values of SEA-RAFT's: an image of 0 to 1 becomes -1 to 1."""
    mean, std = (x.new_tensor(v)[:, None, None] for v in (colours.mean, colours.std))
    return 2 * (x * std + mean) - 1


def _on_grid(features: Tensor, size: tuple[int, int], padding: tuple[int, ...]) -> Tensor:
    """Token features on `size` cells of the unpadded frame, and repeated beyond it."""
    if features.shape[-2:] != size:
        features = F.interpolate(features, size, mode="bilinear", align_corners=False)
    return F.pad(features, padding, mode="replicate")


def _single_names(tensors: Mapping[str, Tensor], where: object) -> dict[str, Tensor]:
    """One name for each tensor.

    The norm of a shortcut has two, `bn3` and `downsample.1`; a .pth holds both, and a safetensors
    file only the one that its writer kept.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        single = re.sub(r"\.downsample\.1\.", ".bn3.", name)
        if not torch.equal(state.setdefault(single, tensor), tensor):
            raise CheckpointError(
                "two names of one tensor hold different values",
                where=where,
                found=f"{name} and {single}",
            )
    return state
