"""`prepare ddd17`: both packagings, with the traps of each."""

import pickle
import shutil
import struct
from collections import Counter
from dataclasses import replace

import h5py
import numpy as np
import pytest
from clip_files import moving, write_h264
from davis_files import (
    DDD17_FRAMES_US,
    DRIVE_US,
    EXPOSURE_US,
    drive_events,
    grey_images,
    sources,
    write_drive,
    write_raw_drive,
)
from test_datasets import prepare, write_video
from test_davis_benchmarks import rows, stored_rows

from scaleevent.datasets.ddd17_raw import RESET_GAP_US
from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.pairs.pair import decode_image

WINDOW = {"window": "time", "window_ms": 40}
MIDDLES_US = DDD17_FRAMES_US + EXPOSURE_US // 2


# --- packed for ESS


def test_images_by_number_with_the_hood(tmp_path):
    root = write_drive(tmp_path).parent
    (root / "dir0/imgs/img_00000003.png").unlink()  # numbers count, not the order
    pairs, counts = prepare("ddd17", root, lossless=True, **WINDOW)
    assert [pair.provenance["frame"] for pair in pairs] == [
        f"img_0000000{number}.png" for number in (2, 4, 5)
    ]
    assert [pair.image_us for pair in pairs] == DRIVE_US[[1, 3, 4]].tolist()
    for pair in pairs:
        number = int(pair.provenance["frame"][-5])
        picture = decode_image(pair.image)[..., 0]
        assert np.array_equal(picture[:200], grey_images(6)[number - 1, :200])
        assert (picture[200:] == 255).all()  # the hood, whose events stay too
        window = pair.image_us - 40_000, pair.image_us
        assert stored_rows(pair.events) == rows(drive_events(), *window)
    assert counts["images"] == 5 and counts["images dropped: before the first event"] == 1
    assert counts["images dropped: after the last event"] == 1


def test_frames_of_the_video_count_as_the_index(tmp_path):
    root = write_drive(tmp_path).parent
    for path in (root / "dir0/imgs").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="files of 1 of 1 sequences") as caught:
        prepare("ddd17", root)
    assert "dir0 has no imgs/*.png or video.mp4" in caught.value.found
    write_video(root / "dir0/video.mkv", list(grey_images(6)))
    (root / "dir0/video.mkv").rename(root / "dir0/video.mp4")  # the content decides
    pairs, _ = prepare("ddd17", root, lossless=True, **WINDOW)
    assert [decode_image(pair.image)[0, 0, 0] for pair in pairs] == [20, 30, 40, 50]
    write_video(root / "dir0/short.mkv", list(grey_images(4)))
    (root / "dir0/short.mkv").rename(root / "dir0/video.mp4")
    with pytest.raises(DataError, match="4 frames, 6 time stamps"):
        prepare("ddd17", root)


def test_damage_that_a_video_decoder_conceals_is_refused(tmp_path):
    """It would show the frames before, and its blocks, in place of those that are lost."""
    folder = write_drive(tmp_path)
    shutil.rmtree(folder / "imgs")
    wide = [np.vstack([one, one[:60]]) for one in moving(6, 200, 346)]
    path = write_h264(folder / "video.mp4", wide)
    assert len(prepare("ddd17", tmp_path, **WINDOW)[0]) == 4
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(range(40))
    path.write_bytes(data)
    with pytest.raises(DataError, match="a frame of the video is damaged") as caught:
        prepare("ddd17", tmp_path, **WINDOW)
    assert "near frame" in caught.value.found and "again" in caught.value.hint


# --- as recorded


def test_packets_give_events_and_frames_the_right_way_up(tmp_path):
    root = write_raw_drive(tmp_path / "run1")
    pairs, counts = prepare("ddd17", tmp_path, lossless=True, **WINDOW)
    assert [pair.image_us for pair in pairs] == MIDDLES_US.tolist()
    for number, pair in enumerate(pairs):
        assert np.array_equal(decode_image(pair.image)[..., 2], grey_images(4)[number])
        window = pair.image_us - 40_000, pair.image_us
        assert stored_rows(pair.events) == rows(drive_events(), *window)
        assert pair.provenance == {"sequence": "rec1487339175", "frame": number}
    marked = counts["events dropped: marked invalid by the camera"]
    assert counts["events kept"] == len(drive_events()) and marked > 0
    assert counts["events decoded"] == len(drive_events()) + marked
    turned, _ = prepare("ddd17", root, upright=False, lossless=True, **WINDOW)
    x, y = 345 - turned[2].events.x.astype(int), 259 - turned[2].events.y.astype(int)
    assert np.array_equal(x, pairs[2].events.x) and np.array_equal(y, pairs[2].events.y)


def test_a_gradient_is_turned(tmp_path):
    """So that rows and columns are not turned one without the other."""
    root = write_raw_drive(tmp_path)
    path = root / "rec1487339175.hdf5"
    y, x = np.mgrid[:260, :346]
    image = ((y + x) % 256 * 256).astype("<u2")
    with h5py.File(path, "a") as file:
        data = file["dvs/data"]
        (row,) = [k for k in range(256) if len(data[k, 2]) > 100_000][1:2]
        item = data[row, 2].copy()
        item[36:] = np.frombuffer(image.tobytes(), np.uint8)
        data[row, 2] = item
    (source,) = sources("ddd17", root, lossless=True, **WINDOW)
    pair = list(source.pairs(Counter()))[1]
    expected = (image >> 8).astype(np.uint8)[::-1, ::-1]
    assert np.array_equal(decode_image(pair.image)[..., 0], expected)


def test_times_that_overflow_31_bits_go_on(tmp_path):
    events = drive_events()
    base = (1 << 31) - 150_000 - int(events.t[0])  # the wrap comes after 150 ms
    late = Events(events.t + base, events.x, events.y, events.p, 260, 346)
    # a packet's header tells the overflow of its first event: split where it changes
    first = int(np.searchsorted(late.t, 1 << 31)) // 250 * 250
    t = late.t.copy()
    t[first : first + 250] = np.maximum(t[first : first + 250], 1 << 31)
    late = Events(t, events.x, events.y, events.p, 260, 346)
    write_raw_drive(tmp_path, events=late)
    pairs, _ = prepare("ddd17", tmp_path, **WINDOW)
    assert [pair.image_us for pair in pairs] == (MIDDLES_US + base).tolist()
    for pair in pairs:
        window = pair.image_us - 40_000, pair.image_us
        assert stored_rows(pair.events) == rows(late, *window)


def test_a_reset_of_the_clock_is_no_window(tmp_path):
    write_raw_drive(tmp_path, reset=True)
    pairs, counts = prepare("ddd17", tmp_path, **WINDOW)
    shift = pairs[-1].image_us - MIDDLES_US[-1]
    assert [pair.image_us for pair in pairs[:-1]] == MIDDLES_US[:-1].tolist()
    assert RESET_GAP_US < shift < RESET_GAP_US + 400_000
    assert counts["events kept"] == len(drive_events())
    moved = replace(pairs[-1].events, t=pairs[-1].events.t - shift)
    end = int(MIDDLES_US[-1])
    expected = rows(drive_events(), end - 40_000, end)
    assert stored_rows(moved) == [row for row in expected if row in set(stored_rows(moved))]
    assert len(moved) > 100 and len(expected) - len(moved) < 250


def test_a_window_of_many_events_does_not_reach_over_a_reset(tmp_path):
    write_raw_drive(tmp_path, reset=True)
    (*_, last), _ = prepare("ddd17", tmp_path, window="time", window_ms=2000)
    after = len(last.events)  # from the reset to the last image
    for events, left in ((after - 10, 4), (after + 10, 3)):
        density = events / (260 * 346)
        pairs, counts = prepare("ddd17", tmp_path, window="count", window_events=density)
        assert len(pairs) == counts["pairs"] == left
        assert counts["images dropped: window longer than 20 s"] == 4 - left
        assert counts["images"] == 4


def test_a_reset_at_the_start_moves_nothing(tmp_path):
    path = write_raw_drive(tmp_path) / "rec1487339175.hdf5"
    with h5py.File(path, "a") as file:
        data = file["dvs/data"]
        data[1:101] = data[:100]
        packet = struct.pack("<hhiiiiii", 0, 1, 8, 4, 0, 1, 1, 1), struct.pack("<Ii", 1 << 1 | 1, 0)
        for column, part in enumerate(packet, 1):
            data[0, column] = np.frombuffer(part, np.uint8)
    pairs, counts = prepare("ddd17", tmp_path, **WINDOW)
    assert [pair.image_us for pair in pairs] == MIDDLES_US.tolist()
    assert counts["events kept"] == len(drive_events())


def test_exports_of_ddd20_are_passed_over_beside_their_recording_and_refused_alone(tmp_path):
    folder = write_raw_drive(tmp_path)
    export = folder / "rec1487339175.hdf5.exported.hdf5"
    with h5py.File(export, "w") as file:
        file["event"] = np.zeros((3, 4), np.uint32)
    (source,) = sources("ddd17", tmp_path)
    assert source.name == "rec1487339175"
    (folder / "rec1487339175.hdf5").unlink()
    with pytest.raises(DataError) as caught:
        sources("ddd17", tmp_path)
    assert caught.value.found == "1 export of DDD20, without exact times"


def test_the_test_recording_of_the_benchmark_is_left_out_under_both_names(tmp_path):
    write_drive(tmp_path, "dir0")
    write_drive(tmp_path, "dir1")
    write_raw_drive(tmp_path / "run2", "rec1487417411")
    write_raw_drive(tmp_path / "run2", "rec1487842276")
    names = [source.name for source in sources("ddd17", tmp_path)]
    assert names == ["dir0", "rec1487842276"]
    for name in ("dir1", "rec1487417411"):
        with pytest.raises(ConfigError, match="test recordings"):
            sources("ddd17", tmp_path, sequences=[name])
    all_of_them = sources("ddd17", tmp_path, transductive=True)
    assert len(pickle.loads(pickle.dumps(all_of_them))) == 4


# --- what is wrong


def in_row(change):
    """What spoils a recording: a change of the first row that holds a frame."""

    def spoil(path):
        with h5py.File(path, "a") as file:
            data = file["dvs/data"]
            (row,) = [k for k in range(256) if len(data[k, 2]) > 100_000][:1]
            items = [data[row, k].copy() for k in range(3)]
            change(items)
            for k, item in enumerate(items):
                data[row, k] = item

    return spoil


def words(items, at, value):
    items[2][4 * at : 4 * at + 4] = np.frombuffer(np.int32(value).tobytes(), np.uint8)


SPOILT = {
    "packet headers of other sizes in this row or later": in_row(
        lambda items: items.__setitem__(1, items[1][:27])
    ),
    "179900 bytes where 179956 are declared": in_row(
        lambda items: items.__setitem__(2, items[2][:179_900])
    ),
    "a frame of 240x260 pixels": in_row(lambda items: words(items, 5, 240)),
    "an exposure from": in_row(lambda items: words(items, 4, 0)),
}


@pytest.mark.parametrize("found", SPOILT)
def test_damaged_packets_are_named(tmp_path, found):
    path = write_raw_drive(tmp_path) / "rec1487339175.hdf5"
    SPOILT[found](path)
    with pytest.raises(DataError, match="damaged packet") as caught:
        prepare("ddd17", tmp_path)
    assert found in caught.value.found
    assert f"{path}, dataset /dvs/data, row " in str(caught.value.where)


def test_other_files_and_folders(tmp_path):
    with pytest.raises(DataError, match="no DDD17 recording in this folder"):
        prepare("ddd17", tmp_path)
    with h5py.File(tmp_path / "rec1.hdf5", "w") as file:
        file["vehicle_speed/data"] = np.ones((3, 2))
    with pytest.raises(DataError, match="no packets of a DAVIS") as caught:
        prepare("ddd17", tmp_path)
    assert caught.value.found == "/vehicle_speed/data"
    with h5py.File(tmp_path / "rec1.hdf5", "w") as file:
        file["dvs/data"] = np.ones((3, 3))
    with pytest.raises(DataError, match="not items of bytes"):
        prepare("ddd17", tmp_path)


def test_a_corrupt_image_and_a_cut_file(tmp_path):
    root = write_drive(tmp_path).parent
    picture = root / "dir0/imgs/img_00000004.png"
    picture.write_bytes(picture.read_bytes()[:-100])
    with pytest.raises(DataError) as caught:
        prepare("ddd17", root)
    assert "img_00000004.png" in str(caught.value.where)
    pixels = root / "dir0/events.dat.xyp"
    pixels.write_bytes(pixels.read_bytes()[:-6])
    with pytest.raises(DataError, match="do not fit each other"):
        prepare("ddd17", root)


def test_clocks_that_do_not_overlap(tmp_path):
    root = write_drive(tmp_path).parent
    index = root / "dir0/index/index_50ms.npy"
    values = np.load(index)
    values[:, 0] += 10**12
    np.save(index, values)
    with pytest.raises(DataError, match="no image has events before it") as caught:
        prepare("ddd17", root)
    assert "images from 1000001000 to" in caught.value.found and "1076 to" in caught.value.expected
