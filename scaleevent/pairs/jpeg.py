"""The pixels of `decode_image` in two thirds of the time, for the loader."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import torch
import torchvision  # noqa: F401 - loads the operator
from PIL import Image

from scaleevent.images import open_image
from scaleevent.pairs.pair import decode_image

RGB = 3  # torchvision.io.ImageReadMode.RGB
PLAIN = ("L", "RGB")  # modes that both decoders turn into the same three channels


def decode_quickly(data: bytes, where: object = None) -> np.ndarray:
    """`decode_image`, by torchvision where its decoder gives the same pixels as Pillow's.

    Pillow reads the header and judges it, and decodes what torchvision does not: PNG, JPEG in other
    colours, damaged files. So neither results nor errors depend on which decoder there is.

    Raises:
        DataError: As `decode_image`.
    """
    with open_image(data, where) as image:
        plain = image.format == "JPEG" and image.mode in PLAIN
    if plain and agrees_with_pillow():
        try:
            return by_torchvision(data)
        except RuntimeError:
            pass  # Pillow says what is wrong with it
    return decode_image(data, where)


def by_torchvision(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8.

    Raises:
        RuntimeError: The file is damaged, or torchvision was built without a decoder.
    """
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels: np.ndarray = torch.ops.image.decode_jpeg(encoded, RGB).permute(1, 2, 0).numpy()
    return pixels


@cache
def agrees_with_pillow() -> bool:
    """Whether torchvision has a decoder of JPEG, and one that equals Pillow's.

    Both wheels have libjpeg-turbo, whose output does not depend on the processor; a build with
    another libjpeg scales colours up differently.
    """
    if not hasattr(torch.ops.image, "decode_jpeg"):  # torchvision is about to give it up
        return False
    rows, columns = np.mgrid[:37, :53]
    colours = np.stack([rows * 7 % 256, columns * 5 % 256, (rows * columns) % 256], 2)
    pictures = [(colours.astype(np.uint8), sampling) for sampling in (0, 1, 2)]
    try:
        return all(_same(*picture) for picture in (*pictures, (pictures[0][0][..., 0], -1)))
    except RuntimeError:
        return False


def _same(picture: np.ndarray, sampling: int) -> bool:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90, subsampling=sampling)
    return np.array_equal(by_torchvision(file.getvalue()), decode_image(file.getvalue()))
