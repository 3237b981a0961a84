"""`prepare mvsec`: what was planted comes out, and what is missing is said."""

import h5py
import numpy as np
import pytest
from davis_files import IMAGES_US, RIGHT_US, START_US, davis_events, grey_images, write_scene
from test_datasets import prepare
from test_davis_benchmarks import stored_rows
from test_end_to_end import call

from scaleevent.errors import ConfigError, DataError
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.store import PairStore

WINDOW = {"window": "time", "window_ms": 30}


def expected_rows(image_us: int, step: int) -> list[tuple]:
    """Events of the 30 ms before an image, one by one; of every `step`-th event."""
    events = davis_events()
    every = list(zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True))
    return [row for row in every[::step] if image_us - 30_000 <= row[0] < image_us]


def test_both_cameras_give_their_own_images_and_events(tmp_path):
    pairs, counts = prepare("mvsec", write_scene(tmp_path), lossless=True, **WINDOW)
    left = [pair for pair in pairs if pair.provenance["camera"] == "left"]
    right = [pair for pair in pairs if pair.provenance["camera"] == "right"]
    assert [pair.image_us for pair in left] == IMAGES_US.tolist()
    assert [pair.image_us for pair in right] == RIGHT_US.tolist()
    assert {pair.recording for pair in pairs} == {"outdoor_day2"}
    for number, pair in enumerate(left, 1):  # image 0 is before the events
        assert np.array_equal(decode_image(pair.image)[..., 1], grey_images(6)[number])
        assert stored_rows(pair.events) == expected_rows(pair.image_us, 1)
        assert pair.valid is None and pair.provenance["frame"] == number
    for number, pair in enumerate(right):
        assert np.array_equal(decode_image(pair.image)[..., 1], 255 - grey_images(3)[number])
        assert stored_rows(pair.events) == expected_rows(pair.image_us, 2)
    assert counts["images dropped: before the first event"] == 1
    assert counts["images"] == len(pairs) + 1


def test_one_camera_and_a_scene_without_right_images(tmp_path):
    root = write_scene(tmp_path / "both")
    pairs, _ = prepare("mvsec", root, camera="right", **WINDOW)
    assert [pair.image_us for pair in pairs] == RIGHT_US.tolist()
    day = write_scene(tmp_path / "day", right=False)
    pairs, _ = prepare("mvsec", day, **WINDOW)
    assert {pair.provenance["camera"] for pair in pairs} == {"left"}
    with pytest.raises(DataError, match="no images in this file") as caught:
        prepare("mvsec", day, camera="right")
    assert caught.value.expected == "/davis/right/image_raw"


def test_scenes_that_test_benchmarks_stay_out(tmp_path, capsys):
    for scene in ("outdoor_day1", "outdoor_day2", "indoor_flying4"):
        write_scene(tmp_path / "mvsec", scene)
    out = tmp_path / "pairs"
    call(f"prepare mvsec {tmp_path / 'mvsec'} -o {out}")
    told = capsys.readouterr().err
    assert "left out, 1 test recordings of benchmarks: outdoor_day1 (mvsec-depth, mvsec-fl" in told
    store = PairStore(out)
    assert set(store.recordings) == {"outdoor_day2", "indoor_flying4"}
    assert [entry["file"] for entry in store.shards] == [
        "00000-indoor_flying4_left.h5", "00001-indoor_flying4_right.h5",
        "00002-outdoor_day2_left.h5", "00003-outdoor_day2_right.h5",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="test recordings"):
        prepare("mvsec", tmp_path / "mvsec", sequences=["outdoor_day1"])
    pairs, _ = prepare("mvsec", tmp_path / "mvsec", sequences=["outdoor_day1"], transductive=True)
    assert {pair.recording for pair in pairs} == {"outdoor_day1"}


def test_the_plan_counts_a_file_once(tmp_path, capsys):
    root = write_scene(tmp_path / "mvsec", right=False)
    call(f"prepare mvsec {root} -o {tmp_path / 'pairs'} --dry-run")
    told = capsys.readouterr().out
    size = (root / "hdf5" / "outdoor_day2_data.hdf5").stat().st_size / 1e6
    assert f"{size:.4g}" in told and "the right camera has no images" in told


def in_file(change):
    """What spoils a scene: a change of its open HDF5 file."""

    def spoil(root):
        with h5py.File(root / "hdf5" / "outdoor_day2_data.hdf5", "a") as file:
            change(file["davis/left"])

    return spoil


def replace(name, values):
    def change(left):
        del left[name]
        if values is not None:
            left[name] = values

    return in_file(change)


def cut_short(root):
    path = root / "hdf5" / "outdoor_day2_data.hdf5"
    path.write_bytes(path.read_bytes()[:-20_000])


SPOILT = {
    "no such dataset": replace("image_raw_ts", None),
    "frames and time stamps differ in number": replace("image_raw_ts", np.ones(4)),
    "not image times": replace("image_raw_ts", np.ones((6, 2))),
    "images of another sensor": replace("image_raw", np.zeros((6, 180, 240), np.uint8)),
    "not pictures of 8 bits": replace("image_raw", np.zeros((6, 260, 346), np.uint16)),
    "no image has events before it": replace("image_raw_ts", np.arange(6) + START_US / 1e6 - 99),
    "damaged HDF5 file": cut_short,
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_wrong_is_said(tmp_path, what):
    root = write_scene(tmp_path, right=False)
    SPOILT[what](root)
    with pytest.raises(DataError) as caught:
        prepare("mvsec", root, **WINDOW)
    assert caught.value.what == what and "outdoor_day2_data.hdf5" in str(caught.value.where)
    assert "--" not in str(caught.value.hint)  # no flag that this data set lacks


def test_a_corrupt_image_is_named(tmp_path):
    root = write_scene(tmp_path, right=False)
    path = root / "hdf5" / "outdoor_day2_data.hdf5"
    with h5py.File(path, "a") as file:
        images = file["davis/left/image_raw"][()]
        del file["davis/left/image_raw"]
        stored = file["davis/left"].create_dataset(
            "image_raw", data=images, chunks=(1, 260, 346), compression="gzip"
        )
        places = [stored.id.get_chunk_info(k).byte_offset for k in range(6)]
    data = bytearray(path.read_bytes())
    data[places[3] + 20] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        prepare("mvsec", root, **WINDOW)
    assert str(caught.value.where) == f"{path}, dataset /davis/left/image_raw, frames 0 to 5"


def test_a_wrong_root(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="files of the benchmark are missing") as caught:
        prepare("mvsec", tmp_path / "empty")
    assert "*_data.hdf5" in caught.value.expected
