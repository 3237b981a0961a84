"""What a training sample can hold: tensors made of one pair, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from scaleevent.errors import DataError
from scaleevent.grids.density import cell_mean, patch_density
from scaleevent.grids.geometry import Fit
from scaleevent.grids.inputs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Channels,
    InputSettings,
    drawn_activity,
    image_input,
)
from scaleevent.pairs.jpeg import decode_quickly
from scaleevent.pairs.pair import EventPicture
from scaleevent.pairs.shard import Shard, unpack_mask


@dataclass(frozen=True)
class Mask:
    """What a validity mask hides."""

    # flat indices of their values in an (H, W, 3) picture, int32; none of a picture hidden whole
    hidden: np.ndarray
    share: np.ndarray  # (h, w) float64, of the sensor's pixels of each token that the image shows


@lru_cache(maxsize=16)  # most recordings have one mask for all their pairs
def _mask(packed: bytes, fit: Fit, patch: int) -> Mask:
    shown = unpack_mask(packed, fit.height, fit.width)
    share = cell_mean(shown[None].astype(np.float32), *fit.cells(patch))
    values = 3 * np.flatnonzero(~shown & shown.any())[:, None] + np.arange(3)
    return Mask(values.ravel().astype(np.int32), share)


@dataclass(frozen=True)
class StoredPair:
    """One pair of a store, as inputs are made of it."""

    shard: Shard  # the file it is in
    row: int  # its row in there
    settings: InputSettings  # the network's input
    index: int = 0  # of the sample among all of the run

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.shard.path}, pair {self.row}"

    @cached_property
    def picture(self) -> EventPicture | None:
        """What it has in place of events, if anything."""
        return self.shard.picture(self.row)

    @cached_property
    def voxel(self) -> np.ndarray:
        """(B, H, W) float32 on the sensor's pixels."""
        return self.shard.voxel(self.row, self.settings.bins)

    def take_voxel(self) -> np.ndarray:
        """`voxel` to be overwritten; whoever asks for it afterwards gets another one."""
        taken = self.voxel
        del self.__dict__["voxel"]
        return taken

    @cached_property
    def fit(self) -> Fit:
        """From the sensor to the network's input."""
        return self.settings.fit(*self.voxel.shape[1:])

    @cached_property
    def mask(self) -> Mask | None:
        """What the image does not show; None if it shows everything."""
        packed = self.shard.packed_valid(self.row)
        return None if packed is None else _mask(packed, self.fit, self.settings.patch)


Input = Callable[[StoredPair], Tensor]


def voxel(pair: StoredPair) -> Tensor:
    """(3, H, W) float32, the event encoder's input.

    A picture in place of events is in the range 0 to 1 already: no normaliser is applied to it. Its
    most frequent level is that of pixels without events, and what a padded input has around it.
    """
    fit, settings, values = pair.fit, pair.settings, pair.take_voxel()
    if pair.picture is not None:
        settings = replace(settings, normaliser="none")
        if fit.pads:
            level = np.bincount(np.rint(255 * values).astype(np.int64).ravel()).argmax() / 255
            red, green, blue = (mean - level for mean in settings.mean)
            settings = replace(settings, mean=(red, green, blue))
            values -= np.float32(level)
    return torch.from_numpy(settings.prepare(values, fit))


def image(pair: StoredPair, mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD) -> Tensor:
    """(3, H, W) float32, the input of an image teacher with this mean and std.

    Pixels that the validity mask hides are black, whatever the picture holds there. A picture that
    it hides whole stays as it is: nothing of it counts, and other draws of the pair may show it.

    Raises:
        DataError: No image, or one on another grid than the events.
    """
    pixels = decode_quickly(pair.shard.image(pair.row), pair.where)
    if pixels.shape[:2] != (pair.fit.height, pair.fit.width):
        raise DataError(
            "image and events are on different grids",
            where=pair.where,
            found=f"image {pixels.shape[0]}x{pixels.shape[1]}",
            expected=f"{pair.fit.height}x{pair.fit.width}",
        )
    if pair.mask is not None:
        pixels = pixels.copy()
        pixels.reshape(-1)[pair.mask.hidden] = 0
    return torch.from_numpy(image_input(pixels, pair.fit, mean, std))


def density(pair: StoredPair) -> Tensor:
    """(h, w) float64, events per native pixel of each token.

    Of a picture in place of events 1 where it shows any, else 0: its mask is that of any threshold
    up to 256 a patch.
    """
    if pair.picture is not None:
        shown = decode_quickly(pair.picture.shown, pair.where)
        active = drawn_activity(shown, pair.fit, pair.settings.patch)
        return torch.from_numpy(active.astype(np.float64))
    return torch.from_numpy(patch_density(pair.voxel, pair.settings.patch, pair.fit))


def valid(pair: StoredPair) -> Tensor:
    """(h, w) float64, fraction of each token where the image shows the events' scene.

    A token that reaches beyond the sensor has only its part on it.
    """
    patch, fit = pair.settings.patch, pair.fit
    grid = fit.target_height // patch, fit.target_width // patch
    share = torch.ones(grid, dtype=torch.float64)
    if pair.mask is not None:
        share *= torch.from_numpy(pair.mask.share)
    return share * torch.from_numpy(fit.shown(patch)) if fit.pads else share


def index(pair: StoredPair) -> Tensor:
    """() int64, which sample of the run this is."""
    return torch.tensor(pair.index)


# the voxel comes last, because it is overwritten
INPUTS: dict[str, Input] = {"image": image, "density": density, "valid": valid, "voxel": voxel}
