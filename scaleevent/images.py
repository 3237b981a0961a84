"""The one door to picture files: their size is judged before a pixel is decoded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from scaleevent.errors import DataError, ScaleEventError
from scaleevent.system.refusals import refusal

MAX_PIXELS = 25_000_000
"""Larger pictures are refused: a few hundred bytes can declare gigabytes of pixels."""

# Pillow warns of what this module refuses
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def open_image(
    source: Path | bytes, where: object, formats: tuple[str, ...] = ("PNG", "JPEG")
) -> Iterator[Image.Image]:
    """A picture, its header read and its pixels not yet decoded.

    Args:
        source: A file, or the bytes of one.
        where: Named in errors.
        formats: Names of the formats that Pillow may try.

    Raises:
        DataError: Not a picture of these formats, damaged, or of more than `MAX_PIXELS`, here or
            when the block decodes it.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=formats) as image:
            check_pixels(image.height, image.width, where)
            yield image
    except ScaleEventError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(str(error).partition(" exceeds")[0], where) from None
    except UnidentifiedImageError:
        raise DataError(
            "image cannot be read", where=where, found=f"no {' or '.join(formats)} file"
        ) from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        damage = DataError(
            "image cannot be read", where=where, found=str(error) or type(error).__name__
        )
        raise refusal(error, where) or damage from None


def check_pixels(height: int, width: int, where: object) -> None:
    """Refuse a picture or video that is too large to decode.

    Raises:
        DataError: It has more than `MAX_PIXELS`.
    """
    if height * width > MAX_PIXELS:
        raise _too_large(f"{width}x{height}", where)


def _too_large(found: str, where: object) -> DataError:
    expected = f"at most {MAX_PIXELS:,} pixels"
    return DataError("image too large", where=where, found=found, expected=expected)
