import json
import pickle
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaleevent.commands import prepare as prepare_command
from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import PrepareConfig
from scaleevent.datasets import dsec
from scaleevent.errors import ConfigError, DataError, MissingPackageError
from scaleevent.pairs.pair import Pair, decode_image
from scaleevent.pairs.shard import CONTENT
from scaleevent.pairs.source import choices, unused
from tests import fakes
from tests.event_files import write_aedat4


def prepare(name: str, *roots: Path, **settings: object) -> tuple[list[Pair], Counter]:
    """All pairs of a data set and the tally."""
    counts: Counter[str] = Counter()
    sources = DATASETS[name].load().sources(PrepareConfig(name=name, roots=list(roots), **settings))
    return [pair for source in sources for pair in source.pairs(counts)], counts


def content(pair: Pair) -> tuple:
    """Everything a pair holds, comparable."""
    events = [getattr(pair.events, name).tobytes() for name in "txyp"]
    valid = None if pair.valid is None else pair.valid.tobytes()
    return pair.recording, pair.image_us, pair.image, pair.window, *events, valid


# --- the contract

RECORDED = Path(__file__).parent / "data/pairs.json"


def facts(pairs: list[Pair]) -> dict[str, float]:
    """What tells pairs of one kind from those of another, but not one processor from another."""
    images = [decode_image(pair.image) for pair in pairs if pair.image]
    found = {
        "pairs": len(pairs),
        "images": len(images),
        "brightness": float(np.mean([image.mean() for image in images])) if images else 0.0,
        "events": sum(len(pair.events) for pair in pairs),
        "window ms": sum(pair.window.end_us - pair.window.start_us for pair in pairs) / 1000,
        "with a mask": sum(pair.valid is not None for pair in pairs),
        "shown": float(np.mean([p.valid.mean() if p.valid is not None else 1.0 for p in pairs])),
        "with events after": sum(pair.after is not None for pair in pairs),
    }
    for pair in pairs:
        for task, label in pair.labels.items():
            known = np.isfinite(label.values)
            found[f"{task} labels"] = found.get(f"{task} labels", 0) + 1
            size = float(np.abs(label.values[known]).sum())
            found[f"{task} sum"] = found.get(f"{task} sum", 0) + size
    return found


DISTORTED = "dsec, distorted pictures"


def cases(folder: Path) -> dict[str, PrepareConfig]:
    """All data sets, and DSEC-Det's pictures, which are black at the border."""
    root = fakes.write_dsec_root(folder / "distorted")
    sequence = root / "train" / fakes.SEQUENCE
    pictures = fakes.sensor_pictures()
    for picture in pictures:
        picture[40:] = 0
    fakes.write_pictures(sequence / "images/left/distorted", pictures)
    (sequence / "calibration/cam_to_cam.yaml").unlink()
    return fakes.fake_configs(folder) | {DISTORTED: PrepareConfig(name="dsec", roots=[root])}


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> dict[str, PrepareConfig]:
    return cases(tmp_path_factory.mktemp("data"))


def facts_of(config: PrepareConfig) -> dict[str, float]:
    sources = DATASETS[config.name].load().sources(config)
    return facts([pair for source in sources for pair in source.pairs(Counter())])


@pytest.mark.parametrize("name", [*DATASETS, DISTORTED])
def test_pairs_are_those_recorded_unless_their_number_was_raised(configs, name):
    """A store that was begun earlier is resumed, and must be of one kind.

    Where a change is meant: raise `CONTENT`, then `python -m tests.test_datasets`.
    """
    recorded = json.loads(RECORDED.read_text())
    assert recorded["content"] == CONTENT, "record the pairs anew"
    assert facts_of(configs[name]) == pytest.approx(recorded["facts"][name], rel=0.01)


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_keeps_the_contract(configs, name):
    sources = DATASETS[name].load().sources(configs[name])
    assert sources and len({source.name for source in sources}) == len(sources)
    for source in sources:
        assert re.fullmatch(r"[A-Za-z0-9._-]+", source.name)
        assert all(path.is_file() for path in source.inputs)
        counts: Counter[str] = Counter()
        pairs = list(pickle.loads(pickle.dumps(source)).pairs(counts))
        assert pairs and counts["pairs"] == len(pairs)
        looked_at = "labels" if "labels" in counts else "images"
        assert counts[looked_at] == source.expected
        for kind, kept in ((looked_at, "pairs"), ("events decoded", "events kept")):
            dropped = f"{kind.split()[0]} dropped: "
            lost = sum(number for key, number in counts.items() if key.startswith(dropped))
            assert counts[kind] == counts[kept] + lost
        by_recording: dict[str, list[int]] = {}
        for pair in pairs:
            by_recording.setdefault(pair.recording, []).append(pair.image_us)
            assert pair.window.end_us == pair.image_us
            if pair.picture is None:
                assert pair.window.start_us <= pair.events.t[0]
                assert pair.events.t[-1] < pair.image_us
            size = pair.events.height, pair.events.width
            assert pair.labels or decode_image(pair.image).shape == (*size, 3)
            assert all(label.values.shape[-2:] == size for label in pair.labels.values())
            assert pair.valid is None or pair.valid.shape == (pair.events.height, pair.events.width)
        assert all(times == sorted(times) for times in by_recording.values())
        again = list(source.pairs(Counter()))
        assert list(map(content, again)) == list(map(content, pairs))


def write_beside(root: Path) -> None:
    """What systems put beside data: macOS its `._NAME` and `__MACOSX`, others their own folders."""
    below = sorted(root.rglob("*"))
    copied = [path.relative_to(root) for path in below]
    for path in below:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(60))
        if path.is_dir():
            for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
                (path / name).write_bytes(b"\xd0\xcf\x11\xe0")
    for folder in (".snapshot/daily", "__MACOSX"):
        for part in copied:
            place = root / folder / part
            place.parent.mkdir(parents=True, exist_ok=True)
            if folder == "__MACOSX":
                place = place.with_name(f"._{place.name}")
            if (root / part).is_file():
                shutil.copy(root / part, place)
    for path in below:
        if path.is_file():
            place = path.parent / ".ipynb_checkpoints" / path.name
            place.parent.mkdir(exist_ok=True)
            shutil.copy(path, place)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "street"])
def test_what_systems_put_beside_data_is_passed_over(configs, name, tmp_path):
    config = configs[name]
    (root,) = config.roots
    shutil.copytree(root, tmp_path / root.name)
    config = config.model_copy(update={"roots": [tmp_path / root.name]})

    def told() -> list[tuple]:
        found = DATASETS[name].load().sources(config)
        return [(s.name, s.expected, s.found, s.inputs, choices([s])) for s in found]

    before = told()
    write_beside(tmp_path / root.name)
    assert told() == before


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "street"])
@pytest.mark.parametrize("which", [0, 0.5, -1])
def test_a_link_to_nothing_is_told_before_any_work(configs, name, which, tmp_path):
    """As of a disk that is not mounted, or of git-annex; never passed over without a word."""
    (root,) = configs[name].roots
    shutil.copytree(root, tmp_path / root.name)
    changes = {"roots": [tmp_path / root.name], "out": tmp_path / "pairs"}
    config = configs[name].model_copy(update=changes)
    files = [path for one in DATASETS[name].load().sources(config) for path in one.inputs]
    files = [path for path in files if path.name != "timestamps.txt"]  # EventScape has it twice
    path = files[int(len(files) * which) if which > 0 else which]
    path.unlink()
    path.symlink_to("/nowhere/else")
    for settings in ({}, {"dry_run": True}):
        with pytest.raises(DataError):
            prepare_command.run(config.model_copy(update=settings))
    assert not (tmp_path / "pairs").exists()


NAMED = [name for name in DATASETS if name not in ("street", "custom", "video")]


@pytest.mark.parametrize("name", NAMED)
def test_a_wrong_root_is_told_with_what_is_there(configs, name, tmp_path):
    def refused(*roots: Path) -> DataError:
        with pytest.raises(DataError) as caught:
            DATASETS[name].load().sources(configs[name].model_copy(update={"roots": [*roots]}))
        assert caught.value.expected
        return caught.value

    assert refused(tmp_path).found == "nothing"
    assert "empty folder" in str(refused(*configs[name].roots, tmp_path))  # a disk not mounted
    (tmp_path / "Documents").mkdir()
    (tmp_path / "notes.txt").write_text("by hand")
    assert refused(tmp_path).found == "Documents/, notes.txt"
    archive = tmp_path / "train_events.zip"
    archive.write_bytes(b"PK\3\4")
    for roots in ([tmp_path], [archive], [tmp_path, archive]):
        error = refused(*roots)
        assert "train_events.zip" in error.found and "unpack" in error.hint
    archive.with_name("train_images.tar.gz.part").write_bytes(b"")
    assert "train_images.tar.gz.part" in refused(tmp_path).found
    assert "has not ended" in refused(tmp_path).hint


# --- custom


def test_pairs_of_a_folder(tmp_path):
    root = fakes.write_custom(tmp_path / "my rig")
    pairs, counts = prepare("custom", root, window="time", window_ms=20)
    events = fakes.fake_events()
    assert [pair.image_us for pair in pairs] == list(fakes.IMAGES_US)
    for pair, path in zip(pairs, sorted((root / "images").iterdir()), strict=True):
        assert pair.image == path.read_bytes()  # fits as it is: not encoded again
        assert pair.recording == "my-rig"
        assert pair.provenance == {"frame": path.name}
        inside = (events.t >= pair.image_us - 20_000) & (events.t < pair.image_us)
        assert np.array_equal(pair.events.t, events.t[inside])
        assert np.array_equal(pair.events.x, events.x[inside])
    assert counts["events decoded"] == len(events)


def test_numbers_in_names_decide_the_order(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    for old, new in (("000000", "frame2"), ("000001", "frame10"), ("000002", "frame100")):
        (root / "images" / f"{old}.png").rename(root / "images" / f"{new}.png")
    pairs, _ = prepare("custom", root)
    assert [decode_image(pair.image)[0, 0, 0] for pair in pairs] == [40, 80, 120]


def test_times_decide_the_order_where_they_name_the_picture(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    (root / "timestamps.txt").unlink()
    order = (2, 0, 1)  # picture of the first, second and third time
    lines = [
        f"{time / 1e6:.6f} images/{k:06d}.png"
        for time, k in zip(fakes.IMAGES_US, order, strict=True)
    ]
    fakes.write_times(root / "images.txt", ["# time file", *reversed(lines)])
    pairs, _ = prepare("custom", root)
    assert [pair.image_us for pair in pairs] == list(fakes.IMAGES_US)
    assert [decode_image(pair.image)[0, 0, 0] for pair in pairs] == [120, 40, 80]


def test_offset_moves_the_frames_clock(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    fakes.write_times(root / "timestamps.txt", [time - 900_000 for time in fakes.IMAGES_US])
    moved, _ = prepare("custom", root, offset_us=900_000)
    assert [pair.image_us for pair in moved] == list(fakes.IMAGES_US)
    with pytest.raises(DataError, match="--offset-us.*--frame-time-unit") as caught:
        prepare("custom", root)
    assert "180000 to 280000 us" in caught.value.found
    assert "1000" in caught.value.expected and "us" in caught.value.expected


def test_recording_without_events(tmp_path):
    root = fakes.write_custom(tmp_path / "rig", fakes.Events.empty(48, 64))
    with pytest.raises(DataError, match="holds none"):
        prepare("custom", root, size=(48, 64))


def test_count_mismatch_tells_both_numbers(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    (root / "images" / "000001.png").unlink()
    with pytest.raises(DataError, match="2 pictures, 3 time stamps"):
        prepare("custom", root)


def test_wrong_size_tells_both_sizes_and_the_ways_out(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    fakes.write_pictures(root / "images", [np.zeros((96, 128), np.uint8)] * 3)
    with pytest.raises(DataError) as caught:
        prepare("custom", root)
    assert "128x96" in caught.value.found and "64x48" in caught.value.expected
    for way in ("--calibration", "--size", "--homography"):
        assert way in caught.value.hint
    (root / "h.txt").write_text(caught.value.hint.split("--homography with ")[1])
    blocks = np.kron(fakes.sensor_pictures()[0] + np.eye(48, 64, dtype=np.uint8), np.ones((2, 2)))
    fakes.write_pictures(root / "images", [blocks.astype(np.uint8)] * 3)
    pairs, _ = prepare("custom", root, homography=root / "h.txt", lossless=True)
    assert np.array_equal(decode_image(pairs[0].image)[..., 0], blocks[::2, ::2])


def test_one_frame_of_another_size_is_named(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    Image.new("L", (32, 24)).save(root / "images" / "000002.png")
    with pytest.raises(DataError, match="000002.png"):
        prepare("custom", root)


def test_picture_cut_short_is_refused_though_its_bytes_would_be_kept(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    picture = root / "images" / "000001.png"
    noise = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
    Image.fromarray(noise).save(picture)
    picture.write_bytes(picture.read_bytes()[:-300])
    with pytest.raises(DataError, match="000001.png"):
        prepare("custom", root)


def test_homography_brings_frames_onto_the_event_pixels(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    wide = np.random.default_rng(0).integers(0, 256, (60, 70), np.uint8)
    fakes.write_pictures(root / "images", [wide] * 3)
    (root / "h.txt").write_text("1 0 10\n0 1 -2\n0 0 1\n")
    pairs, _ = prepare("custom", root, homography=root / "h.txt", lossless=True)
    expected = np.zeros((48, 64), np.uint8)
    expected[2:, :60] = wide[:46, 10:]
    assert np.array_equal(decode_image(pairs[0].image)[..., 0], expected)
    assert np.array_equal(pairs[0].valid, np.pad(np.ones((46, 60), bool), ((2, 0), (0, 4))))


def test_calibration_brings_frames_onto_the_event_pixels(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    fakes.write_pictures(root / "images", [fakes.frame_picture()] * 3)
    path = fakes.write_calibration(tmp_path / "cam_to_cam.yaml")
    pairs, _ = prepare("custom", root, calibration=path, lossless=True)
    assert fakes.pixels_off(decode_image(pairs[0].image), pairs[0].valid) < 0.5
    fakes.write_pictures(root / "images", [fakes.frame_picture()[:-1]] * 3)
    with pytest.raises(DataError, match="size in the calibration"):
        prepare("custom", root, calibration=path)


def test_calibration_of_another_event_camera(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    path = fakes.write_calibration(tmp_path / "cam_to_cam.yaml")
    with pytest.raises(DataError, match=r"cam0\.resolution"):
        prepare("custom", root, calibration=path, size=(60, 80))


def test_several_roots_get_names_of_their_own(tmp_path):
    roots = [fakes.write_custom(tmp_path / day / "rig") for day in ("monday", "tuesday")]
    pairs, _ = prepare("custom", *roots)
    assert list(dict.fromkeys(pair.recording for pair in pairs)) == ["rig", "rig-2"]
    with pytest.raises(ConfigError, match="twice"):
        prepare("custom", roots[0], roots[0])


def test_frames_named_once_are_not_lent_to_two_recordings(tmp_path):
    roots = [fakes.write_custom(tmp_path / day) for day in ("monday", "tuesday")]
    with pytest.raises(ConfigError, match="2 recordings"):
        prepare("custom", *roots, frames=roots[0] / "images")
    pairs, _ = prepare("custom", *roots, frames=Path("images"))  # below each root
    assert len(pairs) == 6


def lose_frames(root: Path) -> None:
    for path in (root / "images").iterdir():
        path.unlink()
    (root / "images").rmdir()


SPOILT = {
    "no such": lambda root: root.rename(root.with_name("gone")),
    "no frames": lose_frames,
    "no time stamps": lambda root: (root / "timestamps.txt").unlink(),
    "no event recording": lambda root: (root / "events.npz").unlink(),
    "several recordings": lambda root: (root / "more.npz").write_bytes(
        (root / "events.npz").read_bytes()
    ),
    "damaged": lambda root: (root / "events.npz").write_bytes(
        (root / "events.npz").read_bytes()[:-500]
    ),
    "empty file": lambda root: (root / "events.npz").write_bytes(b""),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_missing_is_said(tmp_path, what):
    root = fakes.write_custom(tmp_path / "rig")
    SPOILT[what](root)
    with pytest.raises(DataError) as caught:
        prepare("custom", root)
    assert what in caught.value.what and str(root) in str(caught.value.where)


def test_listed_picture_outside_the_folder_is_not_read(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    fakes.write_pictures(tmp_path / "secret", fakes.sensor_pictures())
    lines = [f"{time} ../../secret/{k:06d}.png" for k, time in enumerate(fakes.IMAGES_US)]
    fakes.write_times(root / "timestamps.txt", lines)
    with pytest.raises(DataError, match="missing"):
        prepare("custom", root)


def test_frames_inside_aedat4_and_the_exposure_point(tmp_path):
    pytest.importorskip("aedat")
    path = tmp_path / "day one.aedat4"
    frames = [(us, us + 4001, picture) for us, picture in zip(
        fakes.IMAGES_US, fakes.sensor_pictures(), strict=True)]  # fmt: skip
    write_aedat4(path, [fakes.fake_events()], frames, size=(48, 64))
    for point, shift in (("start", 0), ("middle", 2000), ("end", 4001)):
        pairs, counts = prepare("custom", path, exposure_point=point, lossless=True)
        assert [pair.image_us for pair in pairs] == [us + shift for us in fakes.IMAGES_US]
        assert [decode_image(pair.image)[0, 0, 0] for pair in pairs] == [40, 80, 120]
    assert pairs[0].recording == "day-one" and counts["images"] == 3
    (tmp_path / "day two.aedat4").write_bytes(path.read_bytes())
    both, _ = prepare("custom", tmp_path)
    assert {pair.recording for pair in both} == {"day-one", "day-two"}


def write_video(path: Path, pictures: list[np.ndarray]) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.repeat(picture[..., None], 3, 2), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_frames_of_a_video(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    lose_frames(root)
    write_video(root / "video.mkv", fakes.sensor_pictures())
    pairs, _ = prepare("custom", root, lossless=True)
    assert [decode_image(pair.image)[0, 0].tolist() for pair in pairs] == [
        [grey] * 3 for grey in (40, 80, 120)
    ]
    fakes.write_times(root / "timestamps.txt", fakes.IMAGES_US[:2])
    with pytest.raises(DataError, match="3 frames, 2 time stamps"):
        prepare("custom", root)


def test_video_without_its_package(tmp_path, monkeypatch):
    root = fakes.write_custom(tmp_path / "rig")
    lose_frames(root)
    (root / "video.mkv").write_bytes(b"not a video")
    with pytest.raises(DataError, match="video.mkv"):
        prepare("custom", root)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingPackageError, match=r"scaleevent\[video\]"):
        prepare("custom", root)


# --- dsec


def test_every_layout_gives_the_same_pairs(tmp_path):
    results = {}
    for layout in fakes.DSEC_PARTS:
        root = fakes.write_dsec_root(tmp_path / layout, layout)
        (source,) = dsec.sources(PrepareConfig(name="dsec", roots=[root]))
        assert source.found.startswith(f"layout {layout}")
        results[layout] = list(source.pairs(Counter()))
    contents = {layout: list(map(content, pairs)) for layout, pairs in results.items()}
    assert all(len(pairs) == 3 for pairs in contents.values())
    assert all(pairs == contents["A"] for pairs in contents.values())
    assert results["A"][0].provenance == {
        "sequence": fakes.SEQUENCE,
        "official_split": "train",
        "frame": "000000.png",
    }


def test_rectified_pictures_are_warped_into_the_event_view(tmp_path):
    root = fakes.write_dsec_root(tmp_path)
    pairs, _ = prepare("dsec", root, lossless=True)
    assert 0.8 < pairs[0].valid.mean() < 1
    assert fakes.pixels_off(decode_image(pairs[0].image), pairs[0].valid) < 0.5


def test_distorted_pictures_are_taken_as_they_are(tmp_path):
    root = fakes.write_dsec_root(tmp_path)
    warped, _ = prepare("dsec", root)
    sequence = root / "train" / fakes.SEQUENCE
    paths = fakes.write_pictures(sequence / "images/left/distorted", fakes.sensor_pictures())
    pairs, _ = prepare("dsec", root)
    assert [pair.image for pair in pairs] == [path.read_bytes() for path in paths]
    assert np.array_equal(pairs[0].valid, warped[0].valid)  # the frame camera reaches no farther
    (sequence / "calibration/cam_to_cam.yaml").unlink()
    pairs, _ = prepare("dsec", root)
    assert pairs[0].valid is None


def test_what_is_black_in_all_distorted_pictures_is_masked(tmp_path):
    """As DSEC-Det's warp leaves it; a dark car that is not at the border stays."""
    root = fakes.write_dsec_root(tmp_path)
    sequence = root / "train" / fakes.SEQUENCE
    blank = np.zeros((48, 64), bool)
    blank[40:], blank[:, :3] = True, True
    blank[38:40, 20:30] = True
    pictures = []
    for picture in fakes.sensor_pictures():
        warped = np.where(blank, 0, picture.reshape(48, 64, -1)[..., 0].clip(1)).astype(np.uint8)
        warped[10:15, 10:20] = 0
        pictures.append(warped)
    pictures[0][36:] = 0  # dark in one alone
    fakes.write_pictures(sequence / "images/left/distorted", pictures)
    (sequence / "calibration/cam_to_cam.yaml").unlink()
    pairs, _ = prepare("dsec", root)
    assert len(pairs) > 1 and all(np.array_equal(pair.valid, ~blank) for pair in pairs)


def test_a_mask_of_your_own(tmp_path):
    root = fakes.write_custom(tmp_path / "rig")
    mask = np.full((48, 64), 255, np.uint8)
    mask[44:] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    pairs, _ = prepare("custom", root, valid=tmp_path / "mask.png")
    assert all(np.array_equal(pair.valid, mask > 0) for pair in pairs)
    (root / "h.txt").write_text("1 0 10\n0 1 -2\n0 0 1\n")
    both, _ = prepare(
        "custom", root, valid=tmp_path / "mask.png", homography=root / "h.txt", lossless=True
    )
    reached = np.pad(np.ones((46, 54), bool), ((2, 0), (0, 10)))
    assert np.array_equal(both[0].valid, reached & (mask > 0))
    for wrong in (mask[1:], mask * 0):
        Image.fromarray(wrong).save(tmp_path / "wrong.png")
        with pytest.raises(DataError, match="not a mask") as caught:
            prepare("custom", root, valid=tmp_path / "wrong.png")
        assert str(root) in caught.value.expected  # one of several recordings, which may differ


@pytest.mark.parametrize("part", ["events/left/rectify_map.h5", "images/timestamps.txt",
                                  "calibration/cam_to_cam.yaml"])  # fmt: skip
def test_missing_dsec_file_is_named(tmp_path, part):
    root = fakes.write_dsec_root(tmp_path)
    (root / "train" / fakes.SEQUENCE / part).unlink()
    with pytest.raises(DataError, match=f"{fakes.SEQUENCE} .layout A. has no {part}"):
        prepare("dsec", root)


def test_sequences_are_chosen_by_name(tmp_path):
    for sequence in ("interlaken_00_c", "zurich_city_00_a"):
        fakes.write_dsec_root(tmp_path / sequence, "E", sequence)
    roots = sorted(tmp_path.iterdir())
    pairs, _ = prepare("dsec", *roots, sequences=["interlaken_00_c"])
    assert {pair.recording for pair in pairs} == {"interlaken_00_c"}
    assert pairs[0].provenance["official_split"] == "train"
    with pytest.raises(ConfigError, match="interlaken_00_c, zurich_city_00_a"):
        prepare("dsec", *roots, sequences=["thun_00_b"])


def test_sequence_in_two_places(tmp_path):
    for layout in ("A", "E"):
        fakes.write_dsec_root(tmp_path, layout)
    with pytest.raises(DataError, match="found twice"):
        prepare("dsec", tmp_path)


def test_times_of_dsec_that_step_back_are_of_other_pictures(tmp_path):
    root = fakes.write_dsec_root(tmp_path)
    times = root / "train" / fakes.SEQUENCE / "images/timestamps.txt"
    fakes.write_times(times, [fakes.IMAGES_US[k] for k in (0, 2, 1)])
    with pytest.raises(DataError, match="times step back") as caught:
        prepare("dsec", root)
    assert str(times) in caught.value.where


def test_folder_without_sequences(tmp_path):
    with pytest.raises(DataError, match=r"events_left/events\.h5"):
        prepare("dsec", tmp_path)


def test_rectify_map_that_cannot_be_used(tmp_path):
    import h5py

    root = fakes.write_dsec_root(tmp_path)
    path = root / "train" / fakes.SEQUENCE / "events/left/rectify_map.h5"
    bad = np.full((48, 64, 2), np.nan, np.float32)
    for data, what in ((bad, "6144 not finite"), (bad[..., 0], "shape")):
        with h5py.File(path, "w") as file:
            file["rectify_map"] = data
        with pytest.raises(DataError, match=what):
            prepare("dsec", root)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="rectify_map.h5"):
        prepare("dsec", root)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as work:
        told = {name: facts_of(config) for name, config in cases(Path(work)).items()}
    RECORDED.write_text(json.dumps({"content": CONTENT, "facts": told}, indent=1) + "\n")


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "street"])
def test_a_root_of_which_nothing_is_used_is_told(configs, name, tmp_path):
    (root,) = configs[name].roots
    other, link = tmp_path / "other", tmp_path / "link"
    other.mkdir()
    (other / "notes.md").write_text("by hand")
    link.symlink_to(root, target_is_directory=True)
    for own in (root, link):
        config = configs[name].model_copy(update={"roots": [own, other]})
        try:
            sources = DATASETS[name].load().sources(config)
        except DataError as refused:  # some say no to it themselves
            assert str(other) in str(refused)
            continue
        assert unused(config.roots, sources) == [f"nothing in {other} is used"]
        assert unused([own], sources) == unused([own, root], sources) == []
