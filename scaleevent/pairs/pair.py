"""`Pair`: an image, the events around it and what is known of both; and image coding."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.grids.windows import Window

MAX_PIXELS = 50_000_000
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Label:
    """Ground truth of one task on its own grid, for the time span it describes.

    Args:
        values: Any array: ids (H, W) uint8, depth (H, W) float32 metres with NaN where unknown,
            flow (2, H, W) float32 pixels.
        start_us: Begin of the span; equals `end_us` for a label of one instant.
        end_us: End of the span.
    """

    values: np.ndarray
    start_us: int
    end_us: int


@dataclass(frozen=True)
class Pair:
    """One image with the events around it, on the event camera's pixels.

    Args:
        recording: Name of the recording, the unit of train / validation splits.
        image_us: Image time (middle of the exposure where it is known), event clock.
        image: Encoded JPEG or PNG bytes.
        events: Events of `window`, which ends at the image.
        window: Half-open span of `events`.
        after: Window and events that start at the image, for two-frame tasks.
        labels: Ground truth by task name.
        valid: (H, W) bool, False where the image shows nothing of the events' scene.
        provenance: Where it came from; small and JSON-able.
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


def encode_image(image: np.ndarray, lossless: bool = False) -> bytes:
    """(H, W) or (H, W, 3) uint8 to JPEG (quality 95) or PNG bytes."""
    buffer = io.BytesIO()
    if lossless:
        Image.fromarray(image).save(buffer, "PNG")
    else:
        Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def decode_image(data: bytes, where: object = None) -> np.ndarray:
    """JPEG or PNG bytes to (H, W, 3) uint8; grey becomes three equal channels.

    Raises:
        DataError: Not an image of these formats, truncated, or too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    "image too large", where=where, found=f"{image.width}x{image.height}",
                    expected=f"at most {MAX_PIXELS} pixels",
                )  # fmt: skip
            if image.mode[0] in "IF":  # Pillow would clip these to 255
                raise DataError(
                    "image is not 8-bit", where=where, found=f"mode {image.mode}",
                    hint="convert the frames to 8 bits",
                )  # fmt: skip
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError("image cannot be read", where=where, found=str(error)) from None
