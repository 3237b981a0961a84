"""The one door to picture files: their size is judged before a pixel is decoded."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from scaleevent.errors import DataError, ScaleEventError
from scaleevent.system.refusals import refusal

MAX_PIXELS = 25_000_000
"""Larger pictures are refused: a few hundred bytes can declare gigabytes of pixels."""

MAX_BYTES = 8 * MAX_PIXELS
"""Larger files are refused unread: so many pixels in four channels of 16 bits, uncompressed."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COPY_AGAIN = "copy the file again; a download or copy cut short looks like this"

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
    try:
        data = source if isinstance(source, bytes) else _read(source, where)
        with Image.open(io.BytesIO(data), formats=formats) as image:
            check_pixels(image.height, image.width, where)
            if image.format == "PNG":  # of whose last pixels Pillow compares no checksum
                for _ in png_chunks(data, where):
                    pass
            yield image
    except ScaleEventError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(str(error).partition(" exceeds")[0], where) from None
    except UnidentifiedImageError:
        if not data.strip(b"\0"):  # as a full disk leaves it
            raise unreadable(where, f"{len(data):,} bytes of zero" if data else "0 bytes") from None
        raise DataError(
            "image cannot be read", where=where, found=f"no {' or '.join(formats)} file"
        ) from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        found = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise refusal(error, where) or unreadable(where, found) from None


def _read(path: Path, where: object) -> bytes:
    if (size := path.stat().st_size) > MAX_BYTES:
        expected = f"at most {MAX_BYTES:,} bytes"
        raise DataError("file too large", where=where, found=f"{size:,} bytes", expected=expected)
    return path.read_bytes()


def unreadable(where: object, found: object) -> DataError:
    """The error for a picture that is damaged."""
    return DataError("image cannot be read", where=where, found=found, hint=_COPY_AGAIN)


def png_chunks(data: bytes, where: object) -> Iterator[tuple[bytes, memoryview]]:
    """Name and content of every chunk of a PNG file up to its end mark, checksums compared.

    Raises:
        DataError: Not such a file, one that ends early, or a checksum that differs.
    """
    if not data.startswith(PNG_SIGNATURE):
        raise DataError("not a PNG file", where=where, found=data[:8])
    view, at, kind = memoryview(data), len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 12 + length
        if end > len(data):
            raise unreadable(where, f"a PNG file that ends early, after {len(data)} bytes")
        if int.from_bytes(view[end - 4 : end], "big") != zlib.crc32(view[at + 4 : end - 4]):
            raise unreadable(where, f"a checksum differs: chunk {kind!r} at byte {at}")
        yield kind, view[at + 8 : end - 4]
        at = end


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
