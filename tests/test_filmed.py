"""`prepare` of data sets of pictures, which are filmed: each in the layout it is published in."""

import json
import pickle
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from filmed_files import (
    HEIGHT,
    TREES,
    WIDTH,
    checksum,
    frame_message,
    pictures,
    write_davis,
    write_drive,
    write_gopro,
    write_pair,
    write_records,
    write_segment,
    write_snippet,
    write_tracking,
)
from PIL import Image
from test_end_to_end import call

from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import PrepareConfig
from scaleevent.datasets import filmed
from scaleevent.datasets.filmed import numbered
from scaleevent.datasets.tfrecord import fields, masked_checksum, records
from scaleevent.errors import ConfigError, DataError
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.store import PairStore

FILMED = ("cityscapes", "kitti", "waymo", "gopro", "sdsd", "davis-2017")


def sources(name, *roots, **settings):
    config = PrepareConfig(name=name, roots=list(roots), **settings)
    return DATASETS[name].load().sources(config)


def clips(name, *roots, **settings):
    """All clips by name."""
    return {clip.name: clip for one in sources(name, *roots, **settings) for clip in one.clips}


def times(clip):
    return list(clip.clip.times_us)


def told(name, *roots, **settings):
    return " ".join(line for one in sources(name, *roots, **settings) for line in one.choices)


def refused(name, *roots, error=DataError, **settings):
    with pytest.raises(error) as caught:
        sources(name, *roots, **settings)
    return caught.value


# Cityscapes


def test_cityscapes_snippets_of_many_short_and_of_one_long_sequence(tmp_path):
    write_snippet(tmp_path, "train", "aachen", 0, 0)
    write_snippet(tmp_path, "train", "aachen", 1, 0)
    write_snippet(tmp_path, "val", "frankfurt", 0, 275)  # one drive: numbers go on
    write_snippet(tmp_path, "val", "frankfurt", 0, 557)
    write_snippet(tmp_path, "val", "frankfurt", 0, 587)  # right after the one before
    write_snippet(tmp_path, "test", "bonn", 0, 0)
    found = clips("cityscapes", tmp_path)
    assert [*found] == [
        "aachen_000000_000000_left", "aachen_000001_000000_left", "frankfurt_000000_000275_left",
        "frankfurt_000000_000557_left", "frankfurt_000000_000587_left",
    ]  # fmt: skip
    assert all(clip.clip.frames == 30 for clip in found.values())
    scenes = [clip.scene for clip in found.values()]
    assert scenes == ["aachen_000000", "aachen_000001", *["frankfurt_000000"] * 3]
    late = times(found["frankfurt_000000_000557_left"])
    assert late[0] == round(557e6 / 17) and late[29] - late[0] == round(29e6 / 17)
    assert late[-1] < times(found["frankfurt_000000_000587_left"])[0]  # times of a recording ascend
    said = told("cityscapes", tmp_path)
    assert "17 a second" in said and "left out: 1 sequence of test" in said
    assert [*clips("cityscapes", tmp_path, splits=["test"])] == ["bonn_000000_000000_left"]
    assert len(clips("cityscapes", tmp_path, splits=["val"])) == 3


def test_cityscapes_recorded_times_and_both_cameras(tmp_path):
    ns = [58_823_000 * k + (7_000_000 if k == 5 else 0) for k in range(30)]
    for side in ("left", "right"):
        write_snippet(tmp_path / "data", "train", "ulm", 4, 60, side, ns)
    found = clips("cityscapes", tmp_path / "data", camera="both")
    assert [*found] == ["ulm_000004_000060_left", "ulm_000004_000060_right"]
    start = round(60e6 / 17)
    for clip in found.values():
        assert times(clip)[5] - start == 5 * 58_823 + 7000 and clip.scene == "ulm_000004"
        assert len(clip.inputs) == 60 and "recorded times" in clip.found
    assert "17 a second" not in told("cityscapes", tmp_path / "data")
    lost = tmp_path / "data/timestamp_sequence/train/ulm/ulm_000004_000063_timestamp.txt"
    text = lost.read_bytes()
    lost.write_text("soon")
    assert refused("cityscapes", tmp_path / "data").where == lost
    lost.unlink()
    assert refused("cityscapes", tmp_path / "data").what == "file not found"
    lost.write_bytes(text)
    assert clips("cityscapes", tmp_path / "data")


def test_cityscapes_that_is_not_whole(tmp_path):
    write_snippet(tmp_path, "train", "aachen", 0, 0)
    broken = write_snippet(tmp_path, "train", "aachen", 1, 0)
    broken[12].unlink()
    error = refused("cityscapes", tmp_path)
    assert error.what == "a snippet that is not whole" and "12 pictures" in error.found
    counts = Counter()
    (joined,) = sources("cityscapes", tmp_path, on_error="skip")
    assert joined.expected == 30 and "2 left out" in joined.found
    assert len(list(joined.clips[1].pairs(counts))) == 0
    assert counts["damage: unreadable clip"] == 1
    single = tmp_path / "single" / "leftImg8bit" / "train" / "aachen"
    single.mkdir(parents=True)
    assert "annotated pictures alone" in refused("cityscapes", tmp_path / "single").found


# KITTI


def test_kitti_raw_times_are_read_to_the_nanosecond_across_midnight(tmp_path):
    write_drive(tmp_path)
    write_drive(tmp_path, "2011_09_26_drive_0002")  # tests depth in the Eigen split
    write_drive(tmp_path, "2011_09_26_drive_0001", camera="image_03")
    found = clips("kitti", tmp_path, camera="both")
    assert [*found] == ["2011_09_26_drive_0001_left", "2011_09_26_drive_0001_right"]
    assert {clip.scene for clip in found.values()} == {"2011_09_26_drive_0001"}
    assert times(found["2011_09_26_drive_0001_left"]) == [
        round(k * 103_000_456 / 1000) for k in range(4)
    ]
    assert "left out: 1 sequence of test" in told("kitti", tmp_path)
    both = clips("kitti", tmp_path, splits=["train", "test"])
    assert "2011_09_26_drive_0002_left" in both


def test_kitti_raw_missing_pictures_and_times(tmp_path):
    folder = write_drive(tmp_path, count=6)
    (folder / "data" / "0000000002.png").unlink()
    error = refused("kitti", tmp_path)
    assert "no number 2" in error.found and "--on-error skip" in error.hint
    (clip,) = clips("kitti", tmp_path, on_error="skip").values()
    every = [round(k * 103_000_456 / 1000) for k in (0, 1, 3, 4, 5)]
    assert times(clip) == every and "1 missing" in clip.found  # by number, not by position
    text = (folder / "timestamps.txt").read_text()
    (folder / "timestamps.txt").write_text("".join(text.splitlines(True)[:5]))
    error = refused("kitti", tmp_path, on_error="strict", sequences=["2011_09_26_drive_0001_left"])
    assert error.what == "no time for a picture" and "line 6" in error.expected
    (folder / "timestamps.txt").write_text(text.replace("2011-09-26", "2011-13-26"))
    (joined,) = sources("kitti", tmp_path, on_error="skip")
    assert "left out: not a time of a picture" in joined.found


def test_kitti_raw_half_a_download_and_times_that_are_not_in_their_lines(tmp_path):
    folder = write_drive(tmp_path, count=6)
    text = (folder / "timestamps.txt").read_text()
    lines = text.splitlines(True)
    for number in (4, 5):
        (folder / "data" / f"{number:010d}.png").unlink()
    error = refused("kitti", tmp_path)
    assert "no number 4 and 1 more" in error.found and error.expected == "all numbers from 0 to 5"
    (clip,) = clips("kitti", tmp_path, on_error="skip").values()
    assert clip.clip.frames == 4 and "2 missing" in clip.found
    # a line that holds nothing is that of a picture all the same
    (folder / "timestamps.txt").write_text("".join([*lines[:4], "\n", lines[5]]))
    (clip,) = clips("kitti", tmp_path, on_error="skip").values()
    assert times(clip) == [round(k * 103_000_456 / 1000) for k in range(4)]
    (folder / "timestamps.txt").write_text("".join([*lines[:2], "\n", *lines[3:]]))
    error = refused("kitti", tmp_path)
    assert error.what == "no time for a picture" and "line 3" in error.expected
    (folder / "timestamps.txt").write_text("".join([*lines[:2], lines[3], lines[2], *lines[4:]]))
    error = refused("kitti", tmp_path)
    assert error.what == "pictures of a sequence are missing"
    for k, picture in enumerate(pictures(6)):
        Image.fromarray(picture).save(folder / "data" / f"{k:010d}.png")
    error = refused("kitti", tmp_path)  # before anything is filmed, and a drive may be left out
    assert error.what == "image times are not ascending" and "0000000003.png" in error.found
    write_drive(tmp_path, "2011_09_26_drive_0003")
    (joined,) = sources("kitti", tmp_path, on_error="skip")
    assert "1 left out" in joined.found
    (folder / "timestamps.txt").write_text("")
    assert refused("kitti", tmp_path).what == "no time for a picture"


@pytest.mark.parametrize("number", [0, 2, 5])
def test_a_picture_of_kitti_whose_time_is_there_is_missing(tmp_path, number):
    path = write_drive(tmp_path, count=6) / "data" / f"{number:010d}.png"
    path.unlink()
    error = refused("kitti", tmp_path)
    assert error.what == "pictures of a sequence are missing"
    assert f"no number {number}" in error.found and error.expected == "all numbers from 0 to 5"
    (clip,) = clips("kitti", tmp_path, on_error="skip").values()
    assert ", 1 missing" in clip.found


def test_a_picture_of_another_size_is_damage(tmp_path):
    folder = write_drive(tmp_path, count=6)
    Image.fromarray(pictures(6)[3][:, :40]).save(folder / "data" / f"{3:010d}.png")
    (joined,) = sources("kitti", tmp_path)
    with pytest.raises(DataError, match="differ in size") as caught:
        list(joined.pairs(Counter()))
    assert "--on-error skip" in caught.value.hint
    counts = Counter()
    (joined,) = sources("kitti", tmp_path, on_error="skip")
    assert len(list(joined.pairs(counts))) == 4 and counts["images"] == 6
    assert counts["damage: frames differ in size"] == counts["images dropped: damaged"] == 1


def test_kitti_tracking_by_its_rate_and_never_with_the_drives_it_was_cut_from(tmp_path):
    write_tracking(tmp_path / "t", "training", 3, range(3))
    write_tracking(tmp_path / "t", "testing", 3, range(3))
    (clip,) = clips("kitti", tmp_path / "t").values()
    assert clip.name == "train_0003_left" and times(clip) == [0, 100_000, 200_000]
    assert "Tracking has none recorded" in told("kitti", tmp_path / "t")
    assert [*clips("kitti", tmp_path / "t", splits=["test"])] == ["test_0003_left"]
    write_drive(tmp_path / "raw")
    error = refused("kitti", tmp_path / "raw", tmp_path / "t")
    assert "which was cut from them" in error.what
    (tmp_path / "empty").mkdir()
    assert "image_02" in refused("kitti", tmp_path / "empty").expected


# GoPro, DAVIS 2017, SDSD


def test_gopro_at_240_frames_a_second_from_any_first_number(tmp_path):
    write_gopro(tmp_path, "train", "GOPR0372_07_00", first=47)
    write_gopro(tmp_path, "test", "GOPR0384_11_00")
    (clip,) = clips("gopro", tmp_path).values()
    assert times(clip)[:3] == [0, 4167, 8333] and times(clip)[16] == round(16e6 / 240)
    assert clip.expected == 3  # a pair for every eighth frame
    (tmp_path / "train/GOPR0372_07_00/000050.png").unlink()
    assert "no number 50" in refused("gopro", tmp_path).found
    (tmp_path / "large/train/GOPR0372_07_00/blur").mkdir(parents=True)
    error = refused("gopro", tmp_path / "large")
    assert "GOPRO_Large" in error.what and "GOPRO_Large_all.zip" in error.hint


def test_davis_2017_by_its_lists(tmp_path):
    write_davis(tmp_path / "DAVIS", {"train": ["bear", "bmx-bumps"], "val": ["bike-packing"]})
    write_davis(tmp_path / "test-dev" / "DAVIS", {"test-dev": ["aerobatics"]})
    write_davis(tmp_path / "DAVIS", {"2016": ["unlisted"]})
    found = clips("davis-2017", tmp_path)
    assert [*found] == ["bear", "bike-packing", "bmx-bumps"]
    assert times(found["bear"]) == [0, 41_667, 83_333]
    assert "24 a second, assumed" in told("davis-2017", tmp_path)
    assert "30 a second, as asked" in told("davis-2017", tmp_path, fps=30)
    assert [*clips("davis-2017", tmp_path, splits=["test"])] == ["aerobatics"]
    bear = tmp_path / "DAVIS/JPEGImages/480p/bear"
    bear.rename(bear.with_name("gone"))
    error = refused("davis-2017", tmp_path)
    assert "JPEGImages/480p/bear" in error.found and error.where.name == "train.txt"
    assert [*clips("davis-2017", tmp_path, splits=["val"])] == ["bike-packing"]
    assert "1 listed" in told("davis-2017", tmp_path, on_error="skip")
    for given in ("strict", "skip"):  # nothing is there
        error = refused("davis-2017", tmp_path, resolution="Full-Resolution", on_error=given)
        assert "Full-Resolution" in error.found and "--on-error" not in error.hint
    (tmp_path / "test-dev/DAVIS/JPEGImages").rename(tmp_path / "test-dev/DAVIS/gone")
    error = refused("davis-2017", tmp_path / "test-dev")
    assert error.what == "no sequence of the wanted splits" and error.hint is None


def test_sdsd_by_light_and_with_a_rate_that_the_user_states(tmp_path):
    for folder in ("GT", "LQ"):
        write_pair(tmp_path, "indoor_png", folder, 1)
        write_pair(tmp_path, "indoor_png", folder, 13)  # tests
    write_pair(tmp_path, "outdoor", "input", 13)  # does not test there
    assert refused("sdsd", tmp_path, error=ConfigError).where == "--fps"
    (clip,) = clips("sdsd", tmp_path, fps=25).values()
    assert clip.name == "indoor_pair1_normal" and times(clip) == [0, 40_000, 80_000]
    assert [path.stem for path in clip.inputs] == ["9", "10", "11"]
    both = clips("sdsd", tmp_path, fps=25, light="both")
    assert [*both] == ["indoor_pair1_low", "indoor_pair1_normal", "outdoor_pair13_low"]
    assert {clip.scene for clip in both.values()} == {"indoor_pair1", "outdoor_pair13"}
    assert [*clips("sdsd", tmp_path, fps=25, splits=["test"])] == ["indoor_pair13_normal"]
    (tmp_path / "arrays" / "indoor_np").mkdir(parents=True)
    assert "arrays in place of pictures" in refused("sdsd", tmp_path / "arrays", fps=25).found


def test_sdsd_tells_of_numbers_that_are_not_there(tmp_path):
    write_pair(tmp_path, "indoor_png", "GT", 1, count=7)
    (clip,) = clips("sdsd", tmp_path, fps=25).values()
    assert "missing" not in clip.found
    for number in (11, 13):
        (tmp_path / f"indoor_png/GT/pair1/{number}.png").unlink()
    (clip,) = clips("sdsd", tmp_path, fps=25).values()
    assert "2 missing by their numbers" in clip.found


# Waymo


def test_waymo_segments_without_tensorflow(tmp_path):
    path = write_segment(tmp_path / "training" / "segment-1_with_camera_labels.tfrecord")
    write_segment(tmp_path / "testing" / "segment-2.tfrecord")
    write_segment(tmp_path / "segment-3.tfrecord")
    found = clips("waymo", tmp_path)
    assert [*found] == ["segment-1_with_camera_labels_front", "segment-3_front"]
    (clip, _) = found.values()
    assert (clip.clip.frames, clip.clip.height, clip.clip.width) == (4, HEIGHT, WIDTH)
    read = list(clip.clip.read(lambda error: pytest.fail(str(error))))
    assert [(index, time) for index, time, _ in read] == [(k, 100_000 * k) for k in range(4)]
    for (_, _, image), picture in zip(read, pictures(4), strict=True):
        assert np.abs(image.astype(int) - picture).mean() < 6  # JPEG
    both = clips("waymo", path.parent, camera="front-right")
    assert [*both] == ["segment-1_with_camera_labels_front-right"]
    error = refused("waymo", path.parent, camera="front-left")
    assert error.what == "a frame without an image of the camera" and error.found == "camera 2"


def test_waymo_knows_the_part_of_the_folder_that_it_is_called_in(tmp_path, monkeypatch):
    path = write_segment(tmp_path / "testing" / "segment-2.tfrecord")
    write_segment(tmp_path / "training" / "segment-1.tfrecord")
    monkeypatch.chdir(path.parent)
    assert refused("waymo", Path()).what == "no sequence of the wanted splits"
    assert [*clips("waymo", Path("../testing/../training"))] == ["segment-1_front"]
    (tmp_path / "files").mkdir()
    path.rename(tmp_path / "files" / "a")
    path.symlink_to(tmp_path / "files" / "a")  # the part is that of the link
    assert [*clips("waymo", Path(), splits=["test"])] == ["segment-2_front"]


def test_waymo_time_is_the_middle_of_the_readout(tmp_path):
    from scaleevent.datasets.waymo import camera_image

    frame = frame_message("s", 1_550_000_000.5, {1: pictures(1)[0], 2: pictures(1)[0] // 2})
    time, data = camera_image(frame, 2, "here")
    assert time == 1_550_000_000_515_000 and decode_image(data, "here").mean() < 80
    with pytest.raises(DataError, match="without an image of the camera"):
        camera_image(frame, 4, "here")


def test_waymo_damage_is_found_by_checksums(tmp_path):
    path = write_segment(tmp_path / "segment-1.tfrecord")
    whole = path.read_bytes()
    size = len(whole) // 4
    for at, said in ((3, "not a TFRecord file"), (size + 400, "checksum does not fit")):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(DataError, match=said):
            list(records(path))
    damages = []
    (clip,) = clips("waymo", tmp_path).values()  # the first record is whole
    assert len(list(clip.clip.read(damages.append))) == 1 and len(damages) == 1
    path.write_bytes(whole[:-9])
    assert "ends within a record" in refused("waymo", tmp_path).what
    (clip,) = clips("waymo", tmp_path, on_error="skip").values()  # three of four are whole
    damages.clear()
    assert clip.clip.frames == len(list(clip.clip.read(damages.append))) == 3
    assert "ends within a record" in damages[0].what
    with pytest.raises(DataError, match="ends within a record"):
        list(records(path))


def test_waymo_bad_picture_or_message_costs_one_frame(tmp_path):
    first, second, third = (frame_message("s", 1e9 + k / 10, {1: p})
                            for k, p in enumerate(pictures(3)))  # fmt: skip
    second = second.replace(b"\xff\xd8\xff", b"\xff\xd8\x00", 1)
    write_records(tmp_path / "segment-1.tfrecord", [first, second, b"\xff" * 30, third])
    (clip,) = clips("waymo", tmp_path).values()
    damages = []
    assert [index for index, *_ in clip.clip.read(damages.append)] == [0, 3]
    assert len(damages) == 2


def test_the_ev_waymo_folders_are_filmed_anew(tmp_path):
    folder = tmp_path / "segment-9_with_camera_labels" / "image_0"
    for k, picture in enumerate(pictures(3)):
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{k:04d}.png")
    (clip,) = clips("waymo", tmp_path).values()
    assert clip.name == "segment-9_with_camera_labels_front"
    assert times(clip) == [0, 100_000, 200_000]
    (tmp_path / "v2" / "camera_image").mkdir(parents=True)
    (tmp_path / "v2" / "camera_image" / "10.parquet").touch()
    assert "Parquet" in refused("waymo", tmp_path / "v2").found


def test_messages_are_read_as_protobuf_writes_them():
    """A message of every kind of field, written by protobuf itself."""
    protobuf = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    kinds = {"a": 3, "b": 1, "c": 12, "d": 2, "e": 5}  # int64, double, bytes, float, int32
    file = protobuf.FileDescriptorProto(name="t.proto", package="t", syntax="proto2")
    message = file.message_type.add(name="M")
    for number, (name, kind) in enumerate(kinds.items(), 1):
        message.field.add(name=name, number=number * 7, type=kind, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.M"))
    written = kind(a=2**60 + 3, b=1.5, c=b"\x00\xff" * 200, d=0.25, e=-1).SerializeToString()
    read = dict(fields(written, "here"))
    assert read[7] == 2**60 + 3 and read[21] == b"\x00\xff" * 200
    assert read[14] == struct.pack("<d", 1.5) and read[28] == struct.pack("<f", 0.25)
    assert read[35] == 2**64 - 1  # two's complement
    rng = np.random.default_rng(0)
    for _ in range(300):  # cut or changed: fields, or an error of ours
        data = bytearray(written[: rng.integers(len(written)) + 1])
        data[rng.integers(len(data))] = rng.integers(256)
        try:
            list(fields(bytes(data), "here"))
        except DataError as error:
            assert error.where == "here"


def test_the_checksum_is_crc_32c():
    assert masked_checksum(b"") == 0xA282EAD8
    for data in (b"123456789", bytes(range(256)), b"\x00" * 32):
        assert masked_checksum(data) == checksum(data)
    known = 0xE3069283  # CRC-32C of 123456789, the check value of RFC 3720's polynomial
    assert masked_checksum(b"123456789") == (((known >> 15) | (known << 17)) + 0xA282EAD8) % 2**32


# What they share


def test_views_lie_side_by_side_and_are_one_scene(tmp_path):
    write_tracking(tmp_path, "training", 0, range(3))
    whole, middle, three = (
        clips("kitti", tmp_path, views=views, sensor="ideal") for views in (0, 1, 3)
    )
    framings = {n: c.framing() for d in (whole, middle, three) for n, c in d.items()}
    assert (framings["train_0000_left"].height, framings["train_0000_left"].width) == (24, 32)
    assert whole["train_0000_left"].framing().width == WIDTH
    boxes = [clip.framing().box for clip in three.values()]
    assert [box[0] for box in boxes] == [0, 12, 24] and all(b[2] - b[0] == 32 for b in boxes)
    assert {clip.scene for clip in three.values()} == {"train_0000"}
    (joined,) = sources("kitti", tmp_path, views=3, lossless=True, size=(24, 32), sensor="ideal")
    counts = Counter()
    pairs = list(joined.pairs(counts))
    assert len(pairs) == 6 == counts["pairs"] and {p.recording for p in pairs} == {"train_0000"}
    image = decode_image(pairs[0].image)
    np.testing.assert_array_equal(image, pictures(3)[1][:, :32])
    assert pairs[0].events.width == 32


def test_short_sequences_share_a_shard(tmp_path, monkeypatch):
    for number in range(5):
        write_tracking(tmp_path, "training", number, range(3))
    assert len(sources("kitti", tmp_path)) == 1
    monkeypatch.setattr(filmed, "FRAMES_OF_A_SHARD", 5)
    shards = sources("kitti", tmp_path)
    assert [one.expected for one in shards] == [6, 6, 3]
    assert shards[0].name == "train_0000_left-and-1-more"


@pytest.mark.parametrize("name", FILMED)
def test_a_dry_run_tells_what_comes_out(name, tmp_path, capsys):
    TREES[name](tmp_path / "data")
    fps = {"fps": 25.0} if name == "sdsd" else {}
    line = f"prepare {name} {tmp_path / 'data'} -o {tmp_path / 'pairs'} --every 2 --dry-run --json"
    call(line + (" --fps 25" if fps else ""))
    plan = json.loads(capsys.readouterr().out)
    said = str(plan["choices"])
    assert "not verified on real files" in said and "camera model vid2e" in said
    assert not (tmp_path / "pairs").exists()
    counts = Counter()
    (source,) = pickle.loads(pickle.dumps(sources(name, tmp_path / "data", every=2, **fps)))
    pairs = list(source.pairs(counts))
    assert abs(plan["estimate"]["pairs"] - len(pairs)) <= 1 and pairs
    assert counts["images"] == source.expected == plan["images"]
    for pair in pairs:
        assert pair.provenance["simulated"] == "vid2e" and len(pair.events)
        assert (pair.events.height, pair.events.width) == (HEIGHT, 32)
        assert decode_image(pair.image).shape == (HEIGHT, 32, 3)


def test_a_store_of_segments(tmp_path):
    write_segment(tmp_path / "training" / "segment-1.tfrecord")
    call(f"prepare waymo {tmp_path / 'training'} -o {tmp_path / 'pairs'}")
    assert [*PairStore(tmp_path / "pairs").recordings] == ["segment-1"] * 3


@pytest.mark.parametrize("name", FILMED)
def test_what_is_not_there_is_named(name, tmp_path):
    fps = {"fps": 25} if name == "sdsd" else {}
    (tmp_path / "empty").mkdir()
    assert refused(name, tmp_path / "empty", **fps).expected
    assert refused(name, tmp_path / "none", **fps).what == "no such file or folder"
    refused(name, error=ConfigError, **fps)
    TREES[name](tmp_path / "data")
    error = refused(name, tmp_path / "data", error=ConfigError, sequences=["x"], **fps)
    assert error.what == "no such sequence in this data set"
    with pytest.raises(ValueError, match="no split nowhere"):
        sources(name, tmp_path / "data", splits=["nowhere"], **fps)
    error = refused(name, tmp_path / "data", splits=["test"], **fps)
    assert error.what == "no sequence of the wanted splits" and "1 sequence of" in error.found


@pytest.mark.parametrize("other", ["NNNNNN.png", "00001.png", "000001.PNG", "a00001.png", "²0.png"])
def test_pictures_of_another_name_are_told_what_is_expected(tmp_path, other):
    for name in ("000001.png", "000002.png", "notes.txt", "._000003.png"):
        (tmp_path / name).write_bytes(b"")
    assert list(numbered(tmp_path, "NNNNNN.png")) == [1, 2]
    (tmp_path / other).write_bytes(b"")
    with pytest.raises(DataError, match="without a number") as told:
        numbered(tmp_path, "NNNNNN.png", "NNNNNNNN.png")
    assert told.value.expected == "NNNNNN.png or NNNNNNNN.png"
    assert Path(told.value.where).name == other
