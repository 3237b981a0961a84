"""All-pairs correlation of two feature maps, and the windows of it that SEA-RAFT looks at."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scaleevent.decoders.flow_parts import pixel_grid


class CorrelationPyramid:
    """Inner products of every cell of one map with every cell of another, at several scales.

    Formulas of princeton-vl/SEA-RAFT:core/corr.py. All samples of a window share one fractional
    offset, so a window is read as whole cells and blended once along each axis, in place of four
    taps a sample; this takes half the time of `grid_sample`, and a third of its backward pass.

    Args:
        first: (N, C, h, w) features of the first frame.
        second: (N, C, h, w) features of the second; halved bilinearly from level to level.
        levels: Number of scales; h and w must be at least 2 ** (levels - 1).
    """

    def __init__(self, first: Tensor, second: Tensor, levels: int) -> None:
        channels = first.shape[1]
        cells = first.flatten(2).transpose(1, 2) / channels**0.5
        self.grid = pixel_grid(first)
        self.volumes: list[Tensor] = []  # each (N * h * w, rows, columns)
        for level in range(levels):
            if level:
                second = F.interpolate(second, scale_factor=0.5, mode="bilinear")
            volume = cells @ second.flatten(2)
            self.volumes.append(volume.reshape(-1, *second.shape[-2:]))

    def windows(self, flow: Tensor, radius: int) -> Tensor:
        """Correlations around where each cell of the first frame went.

        Args:
            flow: (N, 2, h, w) in cells of the finest level.
            radius: Half a window's side, in cells of each level.

        Returns:
            (N, levels * (2 radius + 1) ** 2, h, w); channel i * (2 radius + 1) + j of a level lies
            i - radius columns and j - radius rows from the centre, columns outermost: published
            weights expect this. Zero outside of the second frame.
        """
        x, y = (self.grid + flow).transpose(0, 1).flatten(1)
        look = _window
        if torch.is_grad_enabled():  # the places of a window, computed again, are a tenth of a step
            look = partial(checkpoint, _window, use_reentrant=False, preserve_rng_state=False)
        found = [
            look(volume, x / 2**level, y / 2**level, radius)
            for level, volume in enumerate(self.volumes)
        ]
        n, _, h, w = flow.shape
        return torch.cat(found, 1).view(n, h, w, -1).permute(0, 3, 1, 2).contiguous()


def _window(volume: Tensor, x: Tensor, y: Tensor, radius: int) -> Tensor:
    """Bilinear samples (M, (2 radius + 1) ** 2), columns outermost, of one level.

    `volume` is (M, rows, columns); `x` and `y`, each (M,), are the windows' centres.
    """
    rows, columns = volume.shape[1:]
    offsets = torch.arange(-radius, radius + 2, device=volume.device)
    left, top = x.floor(), y.floor()
    u, v = left.long()[:, None] + offsets, top.long()[:, None] + offsets
    index = v.clamp(0, rows - 1)[:, None, :] * columns + u.clamp(0, columns - 1)[:, :, None]
    inside = ((v >= 0) & (v < rows))[:, None, :] & ((u >= 0) & (u < columns))[:, :, None]
    cells = volume.flatten(1).gather(1, index.flatten(1)).view_as(index) * inside
    cells = cells.float()  # mixed precision multiplies in half, positions stay exact
    cells = torch.lerp(cells[:, :-1], cells[:, 1:], (x - left)[:, None, None])
    return torch.lerp(cells[:, :, :-1], cells[:, :, 1:], (y - top)[:, None, None]).flatten(1)
