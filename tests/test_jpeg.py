"""The loader's decoder of JPEG: Pillow's pixels and errors, whichever decoder made them."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from scaleevent.errors import DataError
from scaleevent.pairs import jpeg
from scaleevent.pairs.jpeg import decode_quickly
from scaleevent.pairs.pair import decode_image, encode_image

SAMPLINGS = (0, 1, 2, "4:1:1")


def pictures():
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (8, 9), (17, 31), (63, 120)):
        yield rng.integers(0, 256, (height, width, 3), np.uint8)
        rows, columns = np.mgrid[:height, :width]
        yield np.stack([3 * rows, 2 * columns, rows + columns], 2).astype(np.uint8)
        yield rng.integers(0, 256, (height, width), np.uint8)


def encoded(image, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return file.getvalue()


def test_every_kind_of_jpeg_has_pillows_pixels(monkeypatch):
    used = []
    fast = jpeg.by_torchvision
    monkeypatch.setattr(jpeg, "by_torchvision", lambda data: used.append(1) or fast(data))
    kinds = itertools.product(pictures(), SAMPLINGS, (False, True), (30, 95))
    for image, sampling, progressive, quality in kinds:
        sampling = sampling if image.ndim == 3 else -1
        data = encoded(image, subsampling=sampling, progressive=progressive, quality=quality)
        found, expected = decode_quickly(data), decode_image(data)
        assert found.dtype == np.uint8 and found.flags.c_contiguous
        np.testing.assert_array_equal(found, expected)
    assert len(used) > 190  # the other decoder made them


@pytest.mark.parametrize("mode", ["CMYK", "PNG"])
def test_what_only_pillow_decodes(mode, monkeypatch):
    assert jpeg.agrees_with_pillow()
    monkeypatch.setattr(jpeg, "by_torchvision", None)
    image = next(pictures())
    data = encode_image(image, lossless=True)
    if mode == "CMYK":
        file = io.BytesIO()
        Image.fromarray(image).convert("CMYK").save(file, "JPEG")
        data = file.getvalue()
    np.testing.assert_array_equal(decode_quickly(data), decode_image(data))


def test_damage_gives_pillows_pixels_or_error():
    rng = np.random.default_rng(1)
    whole = encoded(list(pictures())[-2], quality=95)
    refused = 0
    for number in range(300):
        data = bytearray(whole)
        if number % 2:
            del data[rng.integers(2, len(data)) :]
        else:
            data[rng.integers(2, len(data))] ^= 1 << rng.integers(8)
        try:
            expected = decode_image(bytes(data), "pair 7")
        except DataError as error:
            refused += 1
            with pytest.raises(DataError) as told:
                decode_quickly(bytes(data), "pair 7")
            assert str(told.value) == str(error)
        else:
            np.testing.assert_array_equal(decode_quickly(bytes(data), "pair 7"), expected)
    assert 100 < refused < 290


@pytest.mark.parametrize("broken", ["other pixels", "not built", "gone"])
def test_another_decoder_is_not_taken(broken, monkeypatch):
    def other(data):
        assert broken != "gone"
        if broken == "not built":
            raise RuntimeError("not compiled with libjpeg support")
        return fast(data) ^ 1

    fast = jpeg.by_torchvision
    monkeypatch.setattr(jpeg, "by_torchvision", other)
    if broken == "gone":
        monkeypatch.setattr(jpeg.torch.ops, "image", object())
    jpeg.agrees_with_pillow.cache_clear()
    try:
        data = encoded(next(pictures()))
        np.testing.assert_array_equal(decode_quickly(data), decode_image(data))
        assert not jpeg.agrees_with_pillow()
    finally:
        monkeypatch.undo()
        jpeg.agrees_with_pillow.cache_clear()
        assert jpeg.agrees_with_pillow()
