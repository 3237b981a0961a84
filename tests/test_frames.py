import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaleevent.datasets.frame_times import read_frame_times
from scaleevent.datasets.frames import list_pictures
from scaleevent.datasets.timed_labels import read_id_picture
from scaleevent.errors import DataError
from scaleevent.images import open_image
from scaleevent.pairs.pair import decode_image
from tests import fakes


def written(folder: Path, text: str) -> Path:
    path = folder / "times.txt"
    path.write_text(text)
    return path


LAYOUTS = {
    "one time a line": ("# us\n\n1000000\n1050000 # late\n1100000\n", None, None),
    "seconds": ("1.000000\n1.05\n1.1\n", None, None),
    "nanoseconds by hand": ("1000000999\n1050000000\n1100000001\n", "ns", None),
    "milliseconds by hand": ("1000\n1050\n1100\n", "ms", None),
    "time and file": ("1.0 a.png\n1.05 b.png\n1.1 c.png\n", None, ("a.png", "b.png", "c.png")),
    "file, time": ("a.png, 1000000\nb.png,1050000\nc,1100000\n", None, ("a.png", "b.png", "c")),
    "index and time": ("7 1.0\n8 1.05\n9 1.1\n", None, None),
    "begin and end": ("#begin,end\n995000,1005000\n1045000,1055000\n1095000,1105001\n", None, None),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_frame_times(tmp_path, layout):
    text, unit, names = LAYOUTS[layout]
    times = read_frame_times(written(tmp_path, text), unit, "middle")
    assert times.us.dtype == np.int64
    assert times.us.tolist() == [1_000_000, 1_050_000, 1_100_000]
    assert times.names == names


@pytest.mark.parametrize(("point", "us"), [("start", 995), ("middle", 1000), ("end", 1005)])
def test_exposure_point(tmp_path, point, us):
    path = written(tmp_path, "0.000995 0.001005\n")
    assert read_frame_times(path, "s", point).us.tolist() == [us]


def test_dates_in_nanoseconds_are_distinguished_from_microseconds(tmp_path):
    first = 1_643_243_628_757_800_123
    path = written(tmp_path, f"{first}\n{first + 40_000_000}\n")
    us = read_frame_times(path, None, "middle").us.tolist()
    assert us == [first // 1000, first // 1000 + 40_000]


WRONG = {
    "0\n33\n67\n100\n": "--frame-time-unit",  # milliseconds: 33 us would be 30,000 frames a second
    "0.0\n33.3\n": "ambiguous|--frame-time-unit",
    "0\n100000000\n200000000\n": "--frame-time-unit",  # nanoseconds: a frame every 100 s
    "1000000\nlate\n": "line 2",
    "1000000\nnan\n": "line 2",
    "1000000 1\n1050000\n": "line 2",
    "# nothing\n\n": "no frame times",
    "a.png b.png\n": "cannot tell",
    "20 10\n40 30\n": "cannot tell",
    "1000000 1200000\n1050000 1250000\n": "cannot tell",  # exposures longer than the interval
    "1 2 3\n": "cannot tell",
    "99999999999999999999\n": "out of range",
}


@pytest.mark.parametrize("text", WRONG)
def test_frame_times_that_cannot_be_used(tmp_path, text):
    with pytest.raises(DataError, match=WRONG[text]) as caught:
        read_frame_times(written(tmp_path, text), None, "middle")
    assert "times.txt" in str(caught.value.where)


def test_binary_frame_times(tmp_path):
    path = tmp_path / "times.txt"
    path.write_bytes(b"\xff\x00\x80")
    with pytest.raises(DataError, match="cannot read"):
        read_frame_times(path, None, "middle")


def test_pictures_are_listed_by_number_without_hidden_files(tmp_path):
    pictures = fakes.sensor_pictures(3)
    for name in ("b{}.png", ".{}.png", "a{}.jpg"):
        fakes.write_pictures(tmp_path, pictures, name)
    (tmp_path / "b10.png").write_bytes((tmp_path / "b2.png").read_bytes())
    (tmp_path / "notes.txt").touch()
    names = [path.name for path in list_pictures(tmp_path)]
    assert names == ["a0.jpg", "a1.jpg", "a2.jpg", "b0.png", "b1.png", "b2.png", "b10.png"]


# --- damaged pictures


def small_png() -> tuple[np.ndarray, bytes]:
    """Class ids, and their file, whose pixels are all in one part."""
    ids = np.kron(np.random.default_rng(2).integers(0, 11, (9, 12)), np.ones((16, 16)))
    file = io.BytesIO()
    Image.fromarray(ids.astype(np.uint8)).save(file, "PNG")
    return ids, file.getvalue()


def test_no_changed_bit_of_a_png_goes_unnoticed(tmp_path):
    """Pillow compares no checksum of the last part of the pixels."""
    ids, data = small_png()
    path = tmp_path / "ids.png"
    rng = np.random.default_rng(0)
    for at in rng.integers(33, len(data) - 12, 150):  # after the head, before the end mark
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.integers(8)]) + data[at + 1 :])
        with pytest.raises(DataError, match="image cannot be read"):
            read_id_picture(path, ids.shape)
        with pytest.raises(DataError, match="image cannot be read"):
            decode_image(path.read_bytes(), path)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("zeros", [True, False])
def test_a_png_that_ends_early_or_in_zeros_is_refused(share, zeros):
    """As downloads and copies leave a file whose space was set aside first."""
    _, data = small_png()
    kept = data[: int(share * len(data))]
    with pytest.raises(DataError, match="image cannot be read") as caught:
        decode_image(kept + bytes(len(data) - len(kept)) * zeros, "a.png")
    assert "again" in caught.value.hint


def test_what_follows_the_end_mark_of_a_png_is_no_damage():
    ids, data = small_png()
    assert (decode_image(data + b"more")[..., 0] == ids).all()


def test_a_file_larger_than_any_picture_is_refused_unread(tmp_path):
    path = tmp_path / "a.png"
    with open(path, "wb") as file:
        file.truncate(1 << 36)  # 64 GB of hole
    with pytest.raises(DataError, match="file too large") as told, open_image(path, path):
        pass
    assert "68,719,476,736 bytes" in str(told.value)
