"""From images and voxels to network input: crop and scale, normaliser, mean and deviation.

The student starts from image weights, so its voxels get the same range as the teacher's images:
0..1, then standardised with the mean and standard deviation that the image network was trained
with; those of DINOv3 are ImageNet's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numba as nb
import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from scaleevent.config.catalog import NORMALISERS
from scaleevent.config.settings import OneOf
from scaleevent.errors import CheckpointError, ConfigError
from scaleevent.grids.geometry import STRETCH, Fit
from scaleevent.system.files import Json

_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0, le=1e6)]
_Count = Annotated[int, Field(gt=0, le=65_536)]
Channels = tuple[float, float, float]
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
ROBUST_PERCENTILE = 99.0  # percentile of |value| that `robust8` scales by
LANES = 64  # partial sums of a mean
CONTRAST = 0.225  # deviation of ImageNet's colours, the mean over the channels


@dataclass(frozen=True)
class InputSettings:
    """How a pair becomes network input; stored in the checkpoint.

    Args:
        height: Rows of the input.
        width: Columns of the input.
        patch: Side of a token, pixels.
        bins: Time bins of the voxel; 3, one for each colour channel.
        normaliser: One of `NORMALISERS`; the default is what files without the key were made with,
            not that of `pretrain`.
        stretch: `Fit.stretch`, which decides what sensors are scaled without a crop.
        mean: Of each channel in the encoder's own training, for values of 0 to 1.
        std: The standard deviation of each.
        pad: `Fit.pad`, whether other sensors are shown whole, without events and black around them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    height: _Count
    width: _Count
    patch: _Count
    bins: _Count = 3
    normaliser: Annotated[str, OneOf(NORMALISERS)] = "minmax"
    stretch: _Share = STRETCH
    mean: tuple[_Share, _Share, _Share] = IMAGENET_MEAN
    std: tuple[_Positive, _Positive, _Positive] = IMAGENET_STD
    pad: bool = False

    @classmethod
    def of(cls, described: Json, where: object) -> InputSettings:
        """Settings from a checkpoint's description; keys that it lacks have their defaults.

        Raises:
            CheckpointError: A key is missing or unknown, or its value cannot be used.
        """
        try:
            return TypeAdapter(cls).validate_json(json.dumps(described))
        except ValidationError as error:
            problem = error.errors()[0]
            raise CheckpointError(
                "input settings that cannot be used",
                where=f"{where}, input, {'.'.join(map(str, problem['loc']))}",
                found=str(problem["input"])[:200],
                expected=problem["msg"],
            ) from None

    def fit(self, height: int, width: int) -> Fit:
        """Crop and scale from a sensor of this size to the input."""
        return Fit(height, width, self.height, self.width, self.stretch, self.pad)

    def prepare(self, voxel: np.ndarray, fit: Fit) -> np.ndarray:
        """`voxel_input` with these settings; `voxel` may be overwritten."""
        return voxel_input(voxel, fit, self.normaliser, self.mean, self.std)


def image_input(
    image: np.ndarray, fit: Fit, mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD
) -> np.ndarray:
    """Turn an image into the teacher's input.

    Args:
        image: (H, W, 3) uint8 on the sensor's pixels.
        fit: Crop and scale from the sensor to the network's input.
        mean: The teacher's, for colours of 0 to 1.
        std: The teacher's.

    Returns:
        (3, H', W') float32, standardised by mean and std.
    """
    if not fit.identity:
        image = _resized(image, fit)
    out = np.empty((3, *image.shape[:2]), np.float32)
    scale, shift = _standardised(1 / 255, 0, mean, std)
    _to_planes(image.reshape(len(image), -1), scale, shift, out)
    return out


def voxel_input(
    voxel: np.ndarray,
    fit: Fit,
    normaliser: str = "minmax",
    mean: Channels = IMAGENET_MEAN,
    std: Channels = IMAGENET_STD,
) -> np.ndarray:
    """Turn a voxel into the student's input.

    Args:
        voxel: (3, H, W) float32, one bin for each colour channel; may be overwritten.
        fit: Crop and scale from the sensor to the network's input.
        normaliser: One of `NORMALISERS`, applied after the resize.
        mean: The encoder's, for values of 0 to 1.
        std: The encoder's.

    Returns:
        (3, H', W') float32.

    Raises:
        ConfigError: Not three bins; an image encoder has three input channels. Or an unknown
            normaliser.
    """
    if normaliser not in NORMALISERS:
        raise ConfigError("unknown normaliser", found=normaliser, expected=", ".join(NORMALISERS))
    if len(voxel) != 3:
        raise ConfigError("a voxel needs three bins to stand for an image", found=len(voxel))
    if not fit.identity:
        voxel = resize_planes(voxel, fit)
    voxel, scale, shift = NORMALISERS[normaliser].load()(voxel)
    channel_scale, channel_shift = _standardised(scale, shift, mean, std)
    _affine(voxel, channel_scale, channel_shift)
    return voxel


def _standardised(
    scale: float, shift: float, mean: Channels, std: Channels
) -> tuple[np.ndarray, np.ndarray]:
    """(3,) float32 scale and shift per channel: first to 0..1 as given, then by mean and std."""
    centre, spread = np.array(mean), np.array(std)
    return (scale / spread).astype(np.float32), ((shift - centre) / spread).astype(np.float32)


def resize_planes(planes: np.ndarray, fit: Fit) -> np.ndarray:
    """Fit (B, H, W) float32 planes to the input, bilinear; shrinking averages over the area."""
    return np.stack([_resized(plane, fit) for plane in planes])


def drawn_activity(picture: np.ndarray, fit: Fit, patch: int) -> np.ndarray:
    """Tokens for which a picture of events on white shows any.

    As the loader of ScaleEvent's authors has it: in 8 bits, bilinear, to a quarter of the size and
    then to a pixel a token, which is active unless it is white (zhiwen-xdu/ScaleEvent:
    scale_event/dataset/event_utils.py). Each step takes the mean of the pixels that are nearest to
    the middle, as OpenCV does; exact where the input has the size of the picture.

    Args:
        picture: (H, W, 3) uint8 on the sensor's pixels.
        fit: Crop and scale from the sensor to the network's input.
        patch: Side of a token, pixels of the input.

    Returns:
        (h, w) bool.
    """
    if not fit.identity:
        picture = _resized(picture, fit, fill=255)
    for step in (4, patch // 4) if patch % 4 == 0 else (patch,):
        middle = picture.astype(np.uint16)
        low, high = (step - 1) // 2, step // 2
        rows = middle[low::step] + middle[high::step]
        picture = (rows[:, low::step] + rows[:, high::step] + 2) // 4
    return np.asarray(picture.sum(2) < 3 * 255)


def _resized(picture: np.ndarray, fit: Fit, fill: int = 0) -> np.ndarray:
    top, left, rows, columns = fit.crop
    if fit.pads:
        boxed = fit.crop_array if picture.ndim == 2 else fit.crop_picture
        picture, top, left = np.ascontiguousarray(boxed(picture, fill)), 0, 0
    size, box = (fit.target_width, fit.target_height), (left, top, left + columns, top + rows)
    scaled = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, box=box)
    return np.asarray(scaled)


Normalised = tuple[np.ndarray, float, float]
"""A grid, possibly changed, and the scale and shift that still bring it to the range 0..1."""


def minmax(voxel: np.ndarray) -> Normalised:
    """Minimum to 0 and maximum to 1, over the whole sample: the authors' images, but in float."""
    low, high = float(voxel.min()), float(voxel.max())
    if high <= low:
        return voxel, 0.0, 0.5
    return voxel, 1 / (high - low), -low / (high - low)


def symmetric(voxel: np.ndarray) -> Normalised:
    """Scale by the largest |value|, so that pixels without events stay mid-grey (0.5)."""
    largest = float(max(voxel.max(), -voxel.min()))
    return voxel, (0.5 / largest if largest else 0.0), 0.5


def contrast(voxel: np.ndarray) -> Normalised:
    """Pixels without events mid-grey (0.5), and the others as far from it as an image's colours.

    `minmax` lets the strongest pixel of a sample decide: most of its input's variance is then each
    sample's own grey level, and what the events show is a tenth of an image's contrast
    (examples/calibrate_windows.py). Here the root mean square of the non-zero values is `CONTRAST`;
    single values may leave the range 0..1.
    """
    size = _root_mean_square(voxel.reshape(-1))
    return voxel, (CONTRAST / size if size else 0.0), 0.5


def none(voxel: np.ndarray) -> Normalised:
    """Values as they are."""
    return voxel, 1.0, 0.0


def _in_bytes(voxel: np.ndarray, scale: float, shift: float) -> Normalised:
    """Round to whole numbers 0..255, halves to even, as a picture file would store them."""
    levels = np.rint(np.clip(voxel * np.float32(255 * scale) + np.float32(255 * shift), 0, 255))
    return levels.astype(np.float32), 1 / 255, 0.0


def minmax8(voxel: np.ndarray) -> Normalised:
    """`minmax` in 8 bits, as the author describes the pictures (zhiwen-xdu/EventSAM, issue 20)."""
    return _in_bytes(*minmax(voxel))


def symmetric8(voxel: np.ndarray) -> Normalised:
    """`symmetric` in 8 bits; pixels without events are 128."""
    return _in_bytes(*symmetric(voxel))


def robust8(voxel: np.ndarray) -> Normalised:
    """`symmetric8` scaled by a percentile of the non-zero |values|, robust to hot pixels."""
    size = np.abs(voxel[voxel != 0])
    largest = float(np.percentile(size, ROBUST_PERCENTILE)) if len(size) else 0.0
    return _in_bytes(voxel, 0.5 / largest if largest else 0.0, 0.5)


def _std_of(voxel: np.ndarray, degrees: int) -> Normalised:
    """(value - mean) / deviation over the non-zero values; zeros stay 0, nothing is scaled to 0..1.

    A single value, or equal values, become 0, where the references give NaN or 0
    (`representations.population_norm`, `representations.unbiased_norm`).
    """
    mask = voxel != 0
    values = voxel[mask].astype(np.float64)
    if len(values):
        deviation = values.std(ddof=degrees) if len(values) > degrees else 0.0
        tiny = deviation <= 1e-6 * np.abs(values).max()  # equal values, up to rounding
        voxel[mask] = 0 if tiny else (values - values.mean()) / deviation
    return voxel, 1.0, 0.0


def std_pop(voxel: np.ndarray) -> Normalised:
    """Mean and population deviation of the non-zero values, as E2VID."""
    return _std_of(voxel, 0)


def std_unbiased(voxel: np.ndarray) -> Normalised:
    """Mean and unbiased deviation of the non-zero values, as DSEC."""
    return _std_of(voxel, 1)


@nb.njit(nogil=True, cache=True)
def _root_mean_square(values: np.ndarray) -> float:
    """Of the values that are not zero; 0 if there are none.

    Summed in `LANES` partial sums side by side, which vectorises, in the same order everywhere.
    """
    sums = np.zeros(LANES)
    count = 0
    for i in range(0, values.size, LANES):
        part = values[i : i + LANES]
        for k in range(part.size):
            sums[k] += np.float64(part[k]) * np.float64(part[k])
        for k in range(part.size):
            count += part[k] != 0
    return np.sqrt(sums.sum() / count) if count else 0.0


@nb.njit(nogil=True, cache=True)
def _to_planes(rows: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
    """Interleaved uint8 to planar float32 * scale + shift; one channel at a time vectorises."""
    for y in range(out.shape[1]):
        for c in range(3):
            row, a, b, line = rows[y], scale[c], shift[c], out[c, y]
            for x in range(line.size):
                line[x] = np.float32(np.int32(row[3 * x + c])) * a + b


@nb.njit(nogil=True, cache=True)
def _affine(planes: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> None:
    """Compute planes = planes * scale + shift per channel, in place."""
    bins, rows, columns = planes.shape
    for c in range(bins):
        a, b = scale[c], shift[c]
        for y in range(rows):
            for x in range(columns):
                planes[c, y, x] = planes[c, y, x] * a + b
