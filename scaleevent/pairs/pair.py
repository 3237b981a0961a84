"""`Pair`: an image with the events around it and its labels; and coding of images."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.grids.windows import Window
from scaleevent.images import open_image

JPEG_QUALITY = 95


@dataclass(frozen=True)
class Label:
    """Ground truth of one task, on its own grid, for the time span it describes.

    Args:
        values: Class ids (H, W) uint8, depth (H, W) float32 in metres, NaN where unknown, flow
            (2, H, W) float32 in pixels, or any other array.
        start_us: Start of the span; equals `end_us` for a label of one instant.
        end_us: End of the span.
    """

    values: np.ndarray
    start_us: int
    end_us: int


@dataclass(frozen=True)
class EventPicture:
    """What a release may hold in place of events: they cannot be had back from it.

    Args:
        voxel: Encoded picture of 8 bits: three time bins as its colours, scaled to 0 .. 255.
        shown: Encoded picture of the events, white where there is none.
    """

    voxel: bytes
    shown: bytes


@dataclass(frozen=True)
class Pair:
    """One image with the events around it, on the event camera's pixels.

    Args:
        recording: Name of the recording; splits into train and validation keep recordings whole.
        image_us: Image time on the event clock: the middle of the exposure, if that is known.
        image: Encoded JPEG or PNG bytes.
        events: Events of `window`, which ends at the image time.
        window: Half-open time span of `events`.
        after: Window that starts at the image time, and its events, for two-frame tasks.
        labels: Ground truth by task name.
        valid: (H, W) bool, False where the image does not show the events' scene.
        provenance: Where the pair came from; small and JSON-serialisable.
        picture: In place of `events`, which are then none; the window has no meaning.
        tags: What its source knows of this recording beyond its data set, see `config.tags`.
    """

    recording: str
    image_us: int
    image: bytes
    events: Events
    window: Window
    after: tuple[Window, Events] | None = None
    labels: dict[str, Label] = field(default_factory=dict)
    valid: np.ndarray | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    picture: EventPicture | None = None
    tags: str = ""


def encode_image(image: np.ndarray, lossless: bool = False) -> bytes:
    """Encode (H, W) or (H, W, 3) uint8 as JPEG (quality 95) or, if lossless, PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG" if lossless else "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def decode_image(data: bytes, where: object = None) -> np.ndarray:
    """Decode JPEG or PNG bytes to (H, W, 3) uint8; grey becomes three equal channels.

    Raises:
        DataError: Not an image of these formats, not 8-bit, truncated, or too large.
    """
    with open_image(data, where) as image:
        if image.mode[0] in "IF":  # Pillow would clip such values to 255
            raise DataError(
                "image is not 8-bit", where=where, found=f"mode {image.mode}",
                hint="convert the frames to 8 bits",
            )  # fmt: skip
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
