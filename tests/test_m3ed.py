"""`prepare m3ed`: two event cameras, images warped by calibration or by the authors."""

import h5py
import numpy as np
import pytest
from fakes import camera_rays, painted, pixels_off
from m3ed_files import (
    IMAGES_US,
    RIGHT_TO_LEFT,
    SEQUENCE,
    classes,
    events_of,
    warped,
    write_m3ed,
    write_semantics,
)
from test_datasets import prepare
from test_end_to_end import call

from scaleevent.errors import ConfigError, DataError
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.store import PairStore

WINDOW = {"window": "time", "window_ms": 25}


def data_file(root):
    return root / SEQUENCE / f"{SEQUENCE}_data.h5"


def test_each_event_camera_sees_the_images_on_its_own_pixels(tmp_path):
    pairs, counts = prepare("m3ed", write_m3ed(tmp_path), lossless=True, **WINDOW)
    assert {pair.recording for pair in pairs} == {SEQUENCE}
    for camera, turn in (("left", np.eye(3)), ("right", RIGHT_TO_LEFT)):
        own = [pair for pair in pairs if pair.provenance["camera"] == camera]
        assert [pair.image_us for pair in own] == list(IMAGES_US[1:])  # no event before the first
        events = events_of(camera)
        for number, pair in enumerate(own, 1):
            inside = (events.t >= pair.image_us - 25_000) & (events.t < pair.image_us)
            for name in "txyp":
                assert np.array_equal(getattr(pair.events, name), getattr(events, name)[inside])
            assert pair.provenance["frame"] == number and 0.5 < pair.valid.mean() <= 1
            picture = decode_image(pair.image)
            if camera == "left":
                assert pixels_off(picture, pair.valid) < 0.6
            expected = painted(camera_rays(True) @ turn.T).astype(int)
            expected[..., 2] = 10 * number
            off = np.abs(picture.astype(int) - expected)[pair.valid]
            assert off.max() <= 2, camera  # in red and green: less than 0.6 pixels
            assert not picture[~pair.valid].any()
    assert counts["images dropped: before the first event"] == 2


def test_grey_images_and_one_camera(tmp_path):
    pairs, _ = prepare(
        "m3ed", write_m3ed(tmp_path, folder=False), camera="right", images="left", lossless=True
    )
    assert {pair.provenance["images"] for pair in pairs} == {"left"}
    assert {pair.provenance["camera"] for pair in pairs} == {"right"}
    greys = [np.unique(decode_image(pair.image)[pair.valid]).tolist() for pair in pairs]
    assert greys == [[10], [20], [30], [40]]  # the first channel as it is stored


def test_images_and_classes_of_the_authors_warp(tmp_path):
    root = write_semantics(write_m3ed(tmp_path))
    pairs, _ = prepare("m3ed", root, semantics=True, lossless=True, **WINDOW)
    assert len(pairs) == 4
    for number, pair in enumerate(pairs, 1):
        assert np.array_equal(decode_image(pair.image), warped()[number][..., ::-1])
        ids = classes()[number, ..., 0]
        label = pair.labels["semantics"]
        assert np.array_equal(label.values, ids) and label.start_us == pair.image_us
        assert np.array_equal(pair.valid, ids != 255)


def test_the_mask_reaches_the_loss(tmp_path):
    root = write_semantics(write_m3ed(tmp_path / "m3ed"))
    call(f"prepare m3ed {root} --semantics -o {tmp_path / 'pairs'}")
    samples = PairSamples([PairStore(tmp_path / "pairs")], InputSettings(48, 64, 16))
    valid = samples[0]["valid"].numpy()
    assert valid.tolist() == [[1.0] * 4, [1.0] * 4, [0.5] * 4]  # rows 40 to 47 show nothing


def change(key, values):
    """What spoils a file: other values, or none, under a key."""

    def spoil(root):
        with h5py.File(data_file(root), "a") as file:
            if key in file:
                del file[key]
            if values is not None:
                file[key] = values

    return spoil


SPOILT = {
    "lens model not supported": change("prophesee/left/calib/distortion_model", "equidistant"),
    "not a rotation": change("ovc/rgb/calib/T_to_prophesee_left", 2 * np.eye(4)),
    "not a pose": change("ovc/rgb/calib/T_to_prophesee_left", np.eye(3)),
    "no such dataset": change("ovc/rgb/calib/intrinsics", None),
    "invalid calibration value": change("prophesee/left/calib/intrinsics", np.ones(3)),
    "images do not have the size in the calibration": change(
        "ovc/rgb/calib/resolution", np.array([1280, 800])
    ),
    "frames and time stamps differ in number": change("ovc/ts", np.arange(3)),
    "not image times": change("ovc/ts", np.ones(5)),
    "times step back": change("ovc/ts", np.array([0, 40_000, 30_000, 80_000, 120_000])),
    "no image has events before it": change("ovc/ts", np.arange(5) - 99),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_wrong_is_said(tmp_path, what):
    root = write_m3ed(tmp_path)
    SPOILT[what](root)
    with pytest.raises(DataError) as caught:
        prepare("m3ed", root, camera="left")
    assert caught.value.what == what and f"{SEQUENCE}_data.h5" in str(caught.value.where)


def test_missing_files_and_names(tmp_path):
    root = write_m3ed(tmp_path)
    with pytest.raises(DataError, match="files of 1 of 1 sequences are missing") as caught:
        prepare("m3ed", root, semantics=True)
    assert f"{SEQUENCE} has no {SEQUENCE}_semantics.h5" in caught.value.found
    with pytest.raises(ConfigError, match="no such sequence"):
        prepare("m3ed", root, sequences=["falcon"])
    with pytest.raises(DataError, match="no such dataset") as caught:
        prepare("m3ed", root, images="right")
    assert "/ovc/right/calib" in caught.value.where
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no M3ED sequence"):
        prepare("m3ed", tmp_path / "empty")
    data_file(root).write_bytes(data_file(root).read_bytes()[:-9000])
    with pytest.raises(DataError, match="damaged HDF5 file"):
        prepare("m3ed", root)


def test_a_class_that_does_not_exist(tmp_path):
    root = write_semantics(write_m3ed(tmp_path))
    with h5py.File(root / SEQUENCE / f"{SEQUENCE}_semantics.h5", "a") as file:
        file["predictions"][2, 5, 6] = 19
    with pytest.raises(DataError, match="class that is not of the data set") as caught:
        prepare("m3ed", root, semantics=True)
    assert caught.value.found == 19 and "predictions, 2" in caught.value.where


def test_the_text_of_a_file_is_read_in_bounds(tmp_path):
    from scaleevent.system.hdf5_process import Hdf5File

    path = tmp_path / "texts.h5"
    with h5py.File(path, "w") as file:
        file["model"], file["long"], file["numbers"] = "radtan", "x" * 5000, np.arange(3)
        file["fixed"] = np.bytes_("pinhole")
    file = Hdf5File(path)
    assert file.text("/model") == "radtan" and file.text("/fixed") == "pinhole"
    assert len(file.text("/long")) == 1000
    for name in ("/numbers", "/nothing"):
        with pytest.raises(DataError, match="not a text|no such dataset"):
            file.text(name)
