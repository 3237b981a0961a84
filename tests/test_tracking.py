"""`prepare visevent` and `prepare coesot`: frames and events of AEDAT4 recordings."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from davis_files import sources
from fakes import HEIGHT, IMAGES_US, WIDTH, fake_events, write_videos
from test_datasets import prepare
from test_davis_benchmarks import rows, stored_rows
from test_end_to_end import call

from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import PrepareConfig
from scaleevent.datasets import tracking
from scaleevent.errors import ConfigError, DataError
from scaleevent.formats import open_recording
from scaleevent.pairs import planning
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.store import PairStore
from tests.event_files import write_aedat4

pytest.importorskip("aedat")
NAME = "dvSave-2021_09_01_06_59_10"
WINDOW = {"window": "time", "window_ms": 15}


@pytest.mark.parametrize("name", ["visevent", "coesot"])
def test_frames_come_from_the_recording_with_the_middle_of_their_exposure(tmp_path, name):
    pairs, counts = prepare(name, write_videos(tmp_path), lossless=True, **WINDOW)
    assert [pair.image_us for pair in pairs] == [us + 2000 for us in IMAGES_US]
    events = fake_events()
    for pair, grey in zip(pairs, (40, 80, 120), strict=True):
        assert decode_image(pair.image)[3, 5].tolist() == [grey + 2, grey + 1, grey]
        window = pair.image_us - 15_000, pair.image_us
        assert stored_rows(pair.events) == rows(events, *window)
        assert pair.recording == NAME and pair.valid is None
    assert pairs[1].provenance == {"sequence": NAME, "folder": "train", "frame": 1}
    assert counts["images"] == 3 and counts["events kept"] == len(events)


def test_videos_of_both_subsets_and_those_without_a_recording(tmp_path, capsys):
    write_videos(tmp_path / "data", "train", "video_a", "video_b", "video_c", "video_d")
    (tmp_path / "data/test").mkdir()
    (tmp_path / "data/train/video_d").rename(tmp_path / "data/test/video_d")
    for lost in ("video_b", "video_c"):
        (tmp_path / f"data/train/{lost}/{lost}.aedat4").unlink()
    call(f"prepare visevent {tmp_path / 'data'} -o {tmp_path / 'pairs'} --dry-run --json")
    plan = json.loads(capsys.readouterr().out)
    assert [row["shard"] for row in plan["rows"]] == ["video_a", "video_d"]
    assert [row["images"] for row in plan["rows"]] == [3, 3]  # counted without being decoded
    assert "2 other videos without a recording left out: video_b, video_c" in str(plan["choices"])
    call(f"prepare visevent {tmp_path / 'data'} -o {tmp_path / 'pairs'} --jobs 2")
    assert "left out: video_b, video_c" in capsys.readouterr().err
    assert set(PairStore(tmp_path / "pairs").recordings) == {"video_a", "video_d"}
    call(f"prepare visevent {tmp_path / 'data'} -o {tmp_path / 'one'} --sequences video_d")
    assert set(PairStore(tmp_path / "one").recordings) == {"video_d"}
    with pytest.raises(ConfigError, match="no such sequence"):
        prepare("visevent", tmp_path / "data", sequences=["video_b"])


def test_a_check_tells_the_clocks_of_frames_inside(tmp_path, capsys, monkeypatch):
    line = f"prepare visevent {write_videos(tmp_path / 'data')} -o {tmp_path / 'pairs'} --dry-run"
    call(line)
    told = capsys.readouterr().out
    assert "images from 1.082 to 1.182 s, events from 1.000 to 1.200 s, 100% covered" in told
    monkeypatch.setattr(planning, "SECONDS", 0.0)
    call(line)
    told = capsys.readouterr().out
    assert "images from 1.082 to at least 1.082 s, events from 1.000 to at least" in told


def test_videos_that_were_given_one_recording_are_taken_once(tmp_path):
    """Copies and links under other names, in any subset; one byte more or less is another file."""
    write_videos(tmp_path, "train", "a", "b", "c", "d")
    whole = (tmp_path / "train/a/a.aedat4").read_bytes()
    (tmp_path / "train/c/c.aedat4").write_bytes(whole)
    for folder in ("e", "f"):
        (tmp_path / "test" / folder).mkdir(parents=True)
    (tmp_path / "test/e/e.aedat4").hardlink_to(tmp_path / "train/d/d.aedat4")
    (tmp_path / "test/f/f.aedat4").symlink_to(tmp_path / "train/a/a.aedat4")
    videos = sources("visevent", tmp_path)
    assert [video.name for video in videos] == ["a", "b", "d"]
    said = "3 other videos with the recording of another left out: c (as a), e (as d), f (as a)"
    assert said in str(videos[0].choices) and not any(video.choices for video in videos[1:])
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1  # of the same length
    (tmp_path / "train/c/c.aedat4").write_bytes(changed)
    assert tracking.copies({n: tmp_path / f"train/{n}/{n}.aedat4" for n in "abc"}) == {}


def test_a_choice_of_streams_names_no_flag_that_is_not_there(tmp_path):
    path = write_videos(tmp_path) / "train" / NAME / f"{NAME}.aedat4"
    frames = [(us, us, np.zeros((HEIGHT, WIDTH), np.uint8)) for us in IMAGES_US]
    more = [("EVTS", "two", [fake_events()])]
    write_aedat4(path, [fake_events()], frames, size=(HEIGHT, WIDTH), more=more)
    assert "(--topic)" in str(open_recording(path).choices)
    (video,) = sources("visevent", tmp_path)
    (line,) = video.choices
    assert line.startswith("events of stream 0 events") and "not of 2 events" in line
    assert "--" not in line


def test_start_and_end_of_boxes_change_no_pair_and_that_is_told(tmp_path, capsys):
    """Nobody says what start_end_index.txt means; all frames of the recording are taken."""
    told, _ = prepare("coesot", write_videos(tmp_path / "with"), **WINDOW)
    root = write_videos(tmp_path / "without")
    (root / "train" / NAME / "start_end_index.txt").unlink()
    plain, _ = prepare("coesot", root, **WINDOW)
    assert [pair.image_us for pair in told] == [pair.image_us for pair in plain]
    assert len(told) == len(IMAGES_US)
    call("prepare --list coesot --json")
    rows = {row["of"]: row["told"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert "start_end_index.txt" in rows["doubts"] and "not read" in rows["doubts"]


def test_what_is_wrong_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no video with its recording") as caught:
        prepare("coesot", tmp_path / "empty")
    assert "VIDEO/VIDEO.aedat4" in caught.value.expected
    path = write_videos(tmp_path) / "train" / NAME / f"{NAME}.aedat4"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        prepare("coesot", tmp_path)
    assert path.name in str(caught.value.where)
    write_aedat4(path, [fake_events()], [], size=(HEIGHT, WIDTH))
    with pytest.raises(DataError, match="no image has events before it") as caught:
        prepare("coesot", tmp_path)
    assert caught.value.found == "no images"
    far = [(us + 10**9, us + 10**9, np.zeros((HEIGHT, WIDTH), np.uint8)) for us in IMAGES_US]
    write_aedat4(path, [fake_events()], far, size=(HEIGHT, WIDTH))
    with pytest.raises(DataError, match="no image has events before it") as caught:
        prepare("coesot", tmp_path)
    assert "images from 1001080000 to 1001180000 us" in caught.value.found
    small = [(us, us, np.zeros((HEIGHT, WIDTH - 2), np.uint8)) for us in IMAGES_US]
    write_aedat4(path, [fake_events()], small, size=(HEIGHT, WIDTH))
    with pytest.raises(DataError, match="not on the event camera's pixels") as caught:
        prepare("coesot", tmp_path)
    assert caught.value.hint is None and "frame 0" in str(caught.value.where)


def test_real_recordings_of_a_davis346(tmp_path):
    """Thirteen and four frames, 40 ms apart; exposures of 20 ms and 0.5 ms (the files' facts)."""
    data = os.environ.get("SCALEEVENT_TEST_DATA")
    if not data:
        pytest.skip("SCALEEVENT_TEST_DATA is not set: no real recordings")
    for name, source in (("cradle", "cuke-emlb/demo-01"), ("road", "event-vision-library/sample")):
        folder = tmp_path / "videos" / "train" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.aedat4").symlink_to(Path(data).resolve() / f"davis/{source}.aedat4")
    expected = {
        "cradle": (13, 1_643_243_628_757_800 + 10_000, 319_512),
        "road": (4, 1_589_163_147_364_965 + 250, 6_676),
    }
    config = PrepareConfig(name="visevent", roots=[tmp_path / "videos"])
    for source in DATASETS["visevent"].load().sources(config):
        frames, first_us, events = expected[source.name]
        counts: Counter[str] = Counter()
        pairs = list(source.pairs(counts))
        assert source.expected == counts["images"] == frames
        assert counts["events decoded"] == events
        recording = open_recording(source.recording)
        times = [(one.start_us + one.end_us) // 2 for one in recording.frames()]
        assert times[0] == first_us
        assert {pair.image_us for pair in pairs} <= set(times)
        assert all(decode_image(pair.image).shape == (260, 346, 3) for pair in pairs)
