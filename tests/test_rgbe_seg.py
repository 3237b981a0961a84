"""`prepare rgbe-seg`: a picture and all events of its file."""

import numpy as np
import pytest
from davis_files import sources
from fakes import IMAGES_US, fake_events, in_seconds, write_rgbe_seg
from test_datasets import prepare
from test_davis_benchmarks import rows, stored_rows

from scaleevent.errors import ConfigError, DataError
from scaleevent.pairs.pair import decode_image

NAME = "dvSave-2021_09_01_06_59_10"


def test_a_pair_has_the_events_of_its_file(tmp_path):
    root = write_rgbe_seg(tmp_path)
    pairs, counts = prepare("rgbe-seg", root, time_unit="us")
    assert [pair.provenance["frame"] for pair in pairs] == ["000300.png", "000302.png"]
    for pair, end, grey in zip(pairs, (IMAGES_US[0], IMAGES_US[2]), (40, 120), strict=True):
        expected = rows(fake_events(), end - 30_000, end)
        assert stored_rows(pair.events) == expected
        assert pair.image_us == pair.window.end_us == expected[-1][0] + 1
        assert pair.window.start_us == expected[0][0]
        assert decode_image(pair.image)[0, 0, 0] == grey and pair.recording == NAME
    assert counts["images"] == 3 and counts["images dropped: empty window"] == 1
    assert counts["events decoded"] == counts["events kept"] == sum(len(p.events) for p in pairs)


def test_the_unit_is_judged_and_can_be_given(tmp_path):
    root = write_rgbe_seg(tmp_path)
    pairs, _ = prepare("rgbe-seg", root)
    assert pairs[0].events.t[-1] < IMAGES_US[0]  # microseconds
    milliseconds, _ = prepare("rgbe-seg", root, time_unit="ms")
    assert milliseconds[0].events.t[0] == 1000 * pairs[0].events.t[0]


def test_all_sequences_have_one_unit_which_is_said_once(tmp_path):
    for name in ("a", "b", "c"):
        write_rgbe_seg(tmp_path, name)
    for path in (tmp_path / "train/b/event").iterdir():  # no events: no unit
        np.savez(path, np.empty((0, 4), np.int64))
    told = sources("rgbe-seg", tmp_path)
    assert [len(clip.choices) for clip in told] == [1, 0, 0]
    in_seconds(tmp_path / "train/c")
    with pytest.raises(DataError, match="times are in different units") as caught:
        sources("rgbe-seg", tmp_path)
    assert caught.value.where == "a, c" and "unit us" in caught.value.found
    (clip,) = sources("rgbe-seg", tmp_path, sequences=["c"])
    assert clip.unit == "s" and len(clip.choices) == 1


def test_sequences_that_test_benchmarks_stay_out(tmp_path):
    """DSEC-SEG and MVSEC-SEG of the same authors come in the same layout."""
    for name in ("zurich_city_13_a", "outdoor_day1_data", "video_0078"):
        write_rgbe_seg(tmp_path, name)
    assert [clip.name for clip in sources("rgbe-seg", tmp_path)] == ["video_0078"]
    with pytest.raises(ConfigError, match="test recordings"):
        sources("rgbe-seg", tmp_path, sequences=["zurich_city_13_a"])
    every = sources("rgbe-seg", tmp_path, transductive=True)
    assert [clip.name for clip in every] == ["outdoor_day1", "video_0078", "zurich_city_13_a"]


def test_what_is_wrong_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no RGBE-SEG sequence"):
        prepare("rgbe-seg", tmp_path / "empty")
    folder = write_rgbe_seg(tmp_path / "data") / "train" / NAME
    with pytest.raises(ConfigError, match="no such sequence"):
        prepare("rgbe-seg", tmp_path / "data", sequences=["other"])
    lost = (folder / "event/000302.npz").read_bytes()
    (folder / "event/000302.npz").unlink()
    with pytest.raises(DataError, match="without their partners") as caught:
        prepare("rgbe-seg", tmp_path / "data")
    assert "1 names in one folder alone: 000302" in caught.value.found
    (folder / "event/000302.npz").write_bytes(lost[:-100])
    with pytest.raises(DataError, match="damaged NumPy file") as caught:
        prepare("rgbe-seg", tmp_path / "data")
    assert "000302.npz" in str(caught.value.where)
    np.savez(folder / "event/000302.npz", np.array([[64, 3, 10, 1], [1, 1, 20, 0]]))
    with pytest.raises(DataError, match="events off the sensor"):
        prepare("rgbe-seg", tmp_path / "data", time_unit="us")
    (folder / "event/000302.npz").write_bytes(lost)
    picture = folder / "rgb_image/000302.png"
    picture.write_bytes(picture.read_bytes()[:-40])
    with pytest.raises(DataError) as caught:
        prepare("rgbe-seg", tmp_path / "data")
    assert "000302.png" in str(caught.value.where)
