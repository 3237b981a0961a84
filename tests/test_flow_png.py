"""The 16-bit PNG codec against recorded files, another reader, and a scalar writer."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from scaleevent.datasets import flow_png
from scaleevent.datasets.flow_png import (
    KITTI_SCALE,
    decode_flow,
    decode_grey,
    encode_flow,
    read_png16,
    write_png16,
)
from scaleevent.errors import DataError
from scaleevent.images import PNG_SIGNATURE

WITH = np.load(DATA / "dsec_png.npz")


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width, height, lines: bytes, *, depth=16, colour=2, methods=(0, 0, 0), extra=b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, *methods)
    pixels = chunk(b"IDAT", zlib.compress(lines))
    return PNG_SIGNATURE + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND", b"")


def filtered(image: np.ndarray, kinds: list[int]) -> bytes:
    """Lines of the file, each byte after the text of the PNG specification, one at a time."""
    raw = image.astype(">u2").reshape(image.shape[0], -1).view(np.uint8).astype(int)
    step, out = 2 * image.shape[2], bytearray()

    def byte(y, x):
        return raw[y, x] if x >= 0 and y >= 0 else 0

    for y, kind in enumerate(kinds):
        out.append(kind)
        for x in range(raw.shape[1]):
            a, b, c = byte(y, x - step), byte(y - 1, x), byte(y - 1, x - step)
            nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            out.append((raw[y, x] - (0, a, b, (a + b) // 2, nearest)[kind]) % 256)
    return bytes(out)


# Recorded files


def test_equals_the_recorded_ground_truth_file():
    data = WITH["gt__png"].tobytes()
    np.testing.assert_array_equal(read_png16(data), WITH["gt__rgb16"])
    flow, valid = decode_flow(data)
    assert flow.dtype == np.float32
    np.testing.assert_array_equal(valid, WITH["gt__valid"])
    np.testing.assert_array_equal(flow.transpose(1, 2, 0), WITH["gt__decoded"])
    assert np.abs(flow - WITH["flow"])[:, valid].max() <= 1 / 256


def test_equals_the_recorded_submission():
    data = WITH["submission__png"].tobytes()
    np.testing.assert_array_equal(read_png16(data), WITH["submission__rgb16"])
    ours = encode_flow(WITH["flow"])
    np.testing.assert_array_equal(read_png16(ours), WITH["submission__rgb16"])
    ours = encode_flow(WITH["flow"], WITH["valid"])
    np.testing.assert_array_equal(read_png16(ours), WITH["gt__rgb16"])


def test_equals_the_recorded_disparity():
    disparity = decode_grey(WITH["disparity__png"].tobytes())
    assert disparity.dtype == np.float32
    np.testing.assert_array_equal(np.nan_to_num(disparity), WITH["disparity"])
    np.testing.assert_array_equal(np.isnan(disparity), WITH["disparity"] == 0)


# Other readers and writers


def test_another_reader_agrees():
    """Pillow reads all of grey words and the upper half of coloured ones."""
    image = np.random.default_rng(0).integers(0, 2**16, (13, 17, 3)).astype(np.uint16)
    np.testing.assert_array_equal(read_with_pillow(write_png16(image)), image >> 8)
    grey = image[..., :1]
    np.testing.assert_array_equal(read_with_pillow(write_png16(grey)), grey[..., 0])


def read_with_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4])
def test_every_filter_is_undone(kind, channels):
    rng = np.random.default_rng(kind)
    image = rng.integers(0, 2**16, (30, 9, channels)).astype(np.uint16)
    image[5:] //= 2**13  # bytes of 0 to 7: ties in the last filter
    data = png(9, 30, filtered(image, [kind] * 30), colour={1: 0, 3: 2}[channels])
    np.testing.assert_array_equal(read_png16(data), image)


@given(
    arrays(np.uint16, (6, 4, 3), elements=st.integers(0, 2**16 - 1)),
    st.lists(st.integers(0, 4), min_size=6, max_size=6),
)
@settings(deadline=None)
def test_filters_mix(image, kinds):
    np.testing.assert_array_equal(read_png16(png(4, 6, filtered(image, kinds))), image)


@given(arrays(np.float32, (2, 3, 4), elements=st.floats(-256, 255.9921875, width=32)))
@settings(deadline=None)
def test_rounding_is_at_most_half_a_step(flow):
    decoded, valid = decode_flow(encode_flow(flow, np.ones((3, 4), bool)))
    assert valid.all()
    assert np.abs(decoded - flow).max() <= 1 / 256
    again, _ = decode_flow(encode_flow(decoded, valid))
    np.testing.assert_array_equal(again, decoded)


def test_kitti_has_steps_of_a_64th():
    flow = np.array([-512, 511.984375]).reshape(2, 1, 1)
    valid = np.ones((1, 1), bool)
    decoded, _ = decode_flow(encode_flow(flow, valid, KITTI_SCALE), KITTI_SCALE)
    np.testing.assert_array_equal(decoded, flow)


def test_unknown_flow_is_zero_in_all_channels():
    flow = np.full((2, 2, 2), np.nan)
    flow[:, 0, 0] = 1, 2
    valid = np.isfinite(flow).all(0)
    words = read_png16(encode_flow(flow, valid))
    assert words[0, 0].tolist() == [2**15 + 128, 2**15 + 256, 1]
    assert words.reshape(-1, 3)[1:].sum() == 0


def test_several_data_chunks_and_comments_are_read():
    image = np.arange(24, dtype=np.uint16).reshape(2, 4, 3) * 999
    packed = zlib.compress(filtered(image, [0, 1]))
    header = struct.pack(">IIBBBBB", 4, 2, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tEXt", b"by\0hand"), (b"IDAT", packed[:9]), (b"IDAT", b"")]
    parts += [(b"IDAT", packed[9:]), (b"IEND", b"")]
    data = PNG_SIGNATURE + b"".join(chunk(*part) for part in parts)
    np.testing.assert_array_equal(read_png16(data), image)


# Refusals


@pytest.mark.parametrize("bad", [256.0, -256.01, 1e9, np.nan, np.inf])
def test_flow_out_of_range_is_refused_with_its_value(bad):
    flow = np.zeros((2, 3, 4))
    flow[1, 2, 3] = bad
    with pytest.raises(DataError) as caught:
        encode_flow(flow, where="000012.png")
    assert caught.value.where == "000012.png"
    assert caught.value.found.startswith(f"{bad} px at row 2, column 3; 1 values")
    assert caught.value.expected == "-256.0 to 255.9921875"


def test_flow_of_another_shape_is_refused():
    with pytest.raises(DataError, match="not a flow map"):
        encode_flow(np.zeros((3, 4, 2)))
    with pytest.raises(DataError, match="not a flow map"):
        encode_flow(np.zeros((2, 3, 4)), np.ones((4, 3), bool))


LINE = bytes(1 + 6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a PNG file"),
        (b"\xff\xd8\xff\xe0" + bytes(20), "not a PNG file"),
        (PNG_SIGNATURE, "ends early"),
        (PNG_SIGNATURE + chunk(b"IEND", b""), "without its header"),
        (PNG_SIGNATURE + chunk(b"IHDR", b"short"), "without its header"),
        (png(1, 1, bytes(4), depth=8), "bit depth 8, colour type 2"),
        (png(1, 1, LINE, colour=6), "colour type 6"),
        (png(1, 1, LINE, colour=3), "colour type 3"),
        (png(1, 1, LINE, methods=(0, 0, 1)), "interlace 1"),
        (png(0, 1, b"", methods=(0, 0, 0)), "implausible size"),
        (png(2**31, 2**31, LINE), "implausible size"),
        (png(1, 1, LINE, extra=chunk(b"NEED", b"")), "chunk we cannot read"),
        (png(1, 1, LINE[:-1]), "6 bytes"),
        (png(1, 1, LINE + b"x"), "more"),
        (png(1, 1, b"\5" + LINE[1:]), "unknown filter"),
        (png(1, 1, bytes(10**7)), "more"),
    ],
)
def test_other_files_are_refused(data, message):
    with pytest.raises(DataError, match=message) as caught:
        read_png16(data, where="a.png")
    assert caught.value.where == "a.png"


def test_every_flipped_byte_and_every_cut_is_noticed():
    data = encode_flow(np.random.default_rng(0).normal(0, 9, (2, 3, 4)))
    for i in range(len(data)):
        damaged = bytearray(data)
        damaged[i] ^= 0x10
        with pytest.raises(DataError):
            read_png16(bytes(damaged))
        with pytest.raises(DataError):
            read_png16(data[:i])


def test_damaged_compression_is_refused():
    packed = bytearray(zlib.compress(LINE))
    packed[-1] ^= 1
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", bytes(packed)), (b"IEND", b"")]
    with pytest.raises(DataError, match="damaged pixels"):
        read_png16(PNG_SIGNATURE + b"".join(chunk(*part) for part in parts))


def test_a_stream_that_swells_is_stopped(monkeypatch):
    """What unpacks stays within a byte of what the header promises."""
    asked = []

    class Watched:
        def __init__(self):
            self._stream = decompressobj()

        def decompress(self, data, most):
            asked.append(most)
            return self._stream.decompress(data, most)

    decompressobj = zlib.decompressobj
    monkeypatch.setattr(flow_png.zlib, "decompressobj", Watched)
    with pytest.raises(DataError, match="more"):
        read_png16(png(1, 1, bytes(10**6)))
    assert asked == [8]


def test_other_images_are_no_flow():
    grey = write_png16(np.ones((2, 3, 1), np.uint16))
    with pytest.raises(DataError, match="1 channels"):
        decode_flow(grey)
    with pytest.raises(DataError, match="the last up to 7"):
        decode_flow(write_png16(np.full((2, 3, 3), 7, np.uint16)))
    with pytest.raises(DataError, match="3 channels"):
        decode_grey(encode_flow(np.zeros((2, 3, 4))))


# A published file


def test_kitti_flow_reads_as_another_reader_has_it():
    root = os.environ.get("SCALEEVENT_TEST_DATA")
    if not root:
        pytest.skip("SCALEEVENT_TEST_DATA is unset: no published flow map to read")
    data = (Path(root) / "labels/OpticalFlowToolkit/KITTI/flow_gt.png").read_bytes()
    words = read_png16(data)
    np.testing.assert_array_equal(words >> 8, read_with_pillow(data))
    flow, valid = decode_flow(data, KITTI_SCALE)
    np.testing.assert_array_equal(flow[0, valid], (words[valid, 0] - 2.0**15) / 64)
    assert 0.1 < valid.mean() < 1
    again = read_png16(encode_flow(flow, valid, KITTI_SCALE))
    np.testing.assert_array_equal(again[valid], words[valid])
