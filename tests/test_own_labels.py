"""Labels of users' own: formats read back exactly, times by rule, splits, and what is wrong."""

import re
from collections import Counter
from pathlib import Path

import fakes
import label_files
import numpy as np
import pytest
from fakes import HEIGHT, IMAGES_US, SPAN_US, START_US, WIDTH, fake_events, write_pictures
from PIL import Image

from scaleevent import PairStore, PrepareConfig, prepare
from scaleevent.config.labels import LabelFacts, read_classes, read_split
from scaleevent.datasets import custom
from scaleevent.datasets.custom_labels_files import LabelReader, check_scale
from scaleevent.datasets.custom_labels_pairs import seen_on
from scaleevent.datasets.custom_labels_split import cut_in_time, split_recordings
from scaleevent.errors import ConfigError, DataError
from scaleevent.formats import open_recording

SIZE = (HEIGHT, WIDTH)
RNG = np.random.default_rng(0)
END_US = START_US + SPAN_US


def ids(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Random ids of three classes, some pixels ignored."""
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([0, 1, 2, 255], np.uint8), size)


def write_recording(path: Path, seed: int = 0) -> Path:
    """Random events from `START_US` for `SPAN_US`."""
    events = fake_events(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: getattr(events, name) for name in "txyp"})
    return path


def write_labelled(root: Path, names=("a", "b"), times=(1_060_000, 1_120_000)) -> Path:
    """Recordings in a folder, labels named by their times, and a classes.yaml."""
    for seed, name in enumerate(names):
        write_recording(root / f"{name}.npz", seed)
        for number, time in enumerate(times):
            where = root / "labels" / name / f"{time:09d}.png"
            label_files.write_ids(where, ids(10 * seed + number))
    label_files.write_classes(root / "classes.yaml")
    return root


def settings(root: Path, **more) -> PrepareConfig:
    given = {"labels": Path("labels"), "size": SIZE} | more
    return PrepareConfig(name="custom", roots=[root], **given)


def stored(root: Path, out: Path, **more) -> PairStore:
    prepare(settings(root, out=out, **more), quiet=True)
    return PairStore(out)


def labels_of(store: PairStore, task: str = "semantics") -> list:
    return [shard.label(task, row) for shard, row in map(store.locate, range(len(store)))]


# Formats


@pytest.mark.parametrize("palette", [False, True])
def test_ids_are_those_of_the_file(tmp_path, palette):
    planted = ids()
    path = label_files.write_ids(tmp_path / "1.png", planted, palette)
    known = read_classes(label_files.write_classes(tmp_path / "classes.yaml"))
    reader = LabelReader("segmentation", known, tmp_path / "classes.yaml")
    assert np.array_equal(reader.read(path, SIZE), planted)


def test_ids_are_mapped_one_by_one(tmp_path):
    text = "classes: [road, car]\nmapping: {7: road, 26: car, 27: car, 3: ignore}\nignore: [255, 0]"
    known = read_classes(label_files.write_classes(tmp_path / "classes.yaml", text))
    raw = np.random.default_rng(0).choice(np.array([0, 3, 7, 26, 27, 255], np.uint8), SIZE)
    path = label_files.write_ids(tmp_path / "1.png", raw)
    meant = {7: 0, 26: 1, 27: 1, 3: 255, 0: 255, 255: 255}
    found = LabelReader("segmentation", known, Path("c")).read(path, SIZE)
    assert found.dtype == np.uint8
    for row in range(HEIGHT):
        for column in range(WIDTH):
            assert found[row, column] == meant[int(raw[row, column])]


def test_unknown_ids_are_named_with_the_file_and_what_to_do(tmp_path):
    planted = ids()
    planted[0, :5], planted[1, 0] = 37, 9
    path = label_files.write_ids(tmp_path / "1.png", planted)
    known = read_classes(label_files.write_classes(tmp_path / "classes.yaml"))
    with pytest.raises(DataError) as refused:
        LabelReader("segmentation", known, tmp_path / "classes.yaml").read(path, SIZE)
    error = refused.value
    assert "classes.yaml does not know" in error.what and error.where == path
    assert error.found == "9 (1 pixels), 37 (5 pixels)" and error.expected == "ids 0 to 2, 255"
    assert "ignore: [255, 9, 37]" in error.hint and "mapping: {9: NAME}" in error.hint


@pytest.mark.parametrize("scale", [256.0, 1000.0, 100.0])
def test_depth_of_16_bits_is_words_by_the_scale(tmp_path, scale):
    words = np.random.default_rng(1).integers(0, 2**16, SIZE).astype(np.uint16)
    words[0, :9] = 0
    path = label_files.write_depth16(tmp_path / "1.png", words)
    found = LabelReader("depth", depth_scale=scale).read(path, SIZE)
    assert found.dtype == np.float32 and np.isnan(found[0, :9]).all()
    assert np.array_equal(np.isnan(found), words == 0)
    expected = words[words > 0].astype(np.float64) / scale
    assert np.allclose(found[words > 0], expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_depth_of_npy_is_metres(tmp_path, dtype):
    metres = np.random.default_rng(2).uniform(1, 50, SIZE).astype(dtype)
    unknown = [0, -1] if np.dtype(dtype).kind == "i" else [0, -1, np.nan, np.inf]
    metres[0, : len(unknown)] = unknown
    path = label_files.write_npy(tmp_path / "1.npy", metres)
    found = LabelReader("depth").read(path, SIZE)
    assert np.isnan(found[0, : len(unknown)]).all()
    assert np.array_equal(found.ravel()[4:], metres.astype(np.float32).ravel()[4:])


@pytest.mark.parametrize("scale", [64.0, 128.0])
def test_flow_of_16_bits(tmp_path, scale):
    words = np.random.default_rng(3).integers(0, 2**16, (*SIZE, 3)).astype(np.uint16)
    words[..., 2] %= 2
    path = label_files.write_flow16(tmp_path / "1.png", words)
    found = LabelReader("flow", flow_scale=scale).read(path, SIZE)
    known = words[..., 2] == 1
    assert np.isnan(found[:, ~known]).all()
    for axis in (0, 1):
        assert np.array_equal(found[axis][known], (words[..., axis][known] - 2.0**15) / scale)


def test_flow_of_middlebury(tmp_path):
    flow = np.random.default_rng(4).normal(0, 9, (2, *SIZE)).astype(np.float32)
    flow[0, 0, 0], flow[1, 0, 1], flow[:, 0, 2] = 1.7e9, -2e9, np.nan
    found = LabelReader("flow").read(label_files.write_flo(tmp_path / "1.flo", flow), SIZE)
    assert np.isnan(found[:, 0, :3]).all()
    assert np.array_equal(found.reshape(2, -1)[:, 3:], flow.reshape(2, -1)[:, 3:])


@pytest.mark.parametrize("cut", [3, 11, 100])
def test_a_flo_file_cut_short_is_refused(tmp_path, cut):
    path = label_files.write_flo(tmp_path / "1.flo", np.zeros((2, *SIZE), np.float32))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError):
        LabelReader("flow").read(path, SIZE)


@pytest.mark.parametrize(
    "values", [np.zeros((2, 3, 4)), np.array([[None]]), np.zeros((4, 4), complex), np.zeros((0, 4))]
)
def test_an_array_that_is_no_depth_is_refused(tmp_path, values):
    """Also objects, which would run code when they are unpickled."""
    path = label_files.write_npy(tmp_path / "1.npy", values)
    with pytest.raises(DataError):
        LabelReader("depth").read(path, None)


def test_ids_of_fewer_bits_are_refused_not_stretched(tmp_path):
    """Pillow reads 4 bits of grey as 0, 17 .. 255: id 15 would silently be no class."""
    path = label_files.write_ids4(tmp_path / "1.png", np.full(SIZE, 15, np.uint8))
    known = read_classes(label_files.write_classes(tmp_path / "classes.yaml"))
    with pytest.raises(DataError, match="no picture of class ids") as refused:
        LabelReader("segmentation", known, path).read(path, SIZE)
    assert "4 bits" in refused.value.found


COLOURED = (
    "classes:\n  - {name: road, colour: [128, 64, 128]}\n  - {name: car, colour: '#00008e'}\n"
    "  - {name: wall, colour: [70, 70, 70]}\n  - tree\nignore_colours: ['#000000']\n"
)
GIVEN = {(128, 64, 128): 0, (0, 0, 0x8E): 1, (70, 70, 70): 2, (0, 0, 0): 255}


def coloured(tmp_path, picture: Image.Image, text: str = COLOURED) -> np.ndarray:
    """What is read of a picture."""
    known = read_classes(label_files.write_classes(tmp_path / "classes.yaml", text))
    picture.save(tmp_path / "1.png")
    return LabelReader("segmentation", known, tmp_path / "classes.yaml").read(
        tmp_path / "1.png", SIZE
    )


@pytest.mark.parametrize("form", ["RGB", "RGBA", "palette", "palette of its own"])
def test_pictures_in_the_colours_of_classes_are_read_exactly(tmp_path, form):
    colours = np.array(list(GIVEN), np.uint8)
    places = np.random.default_rng(3).integers(0, 4, SIZE)
    picture = Image.fromarray(colours[places])
    if form == "RGBA":
        picture = picture.convert("RGBA")
    if form == "palette":  # indices that are ids of other classes: the colours tell
        picture = Image.fromarray(places.astype(np.uint8)[::1], "P")
        picture.putpalette(colours[[2, 0, 1, 3]].tobytes())
        colours = colours[[2, 0, 1, 3]]
    if form == "palette of its own":  # as Pillow orders it
        picture = picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    found = coloured(tmp_path, picture)
    assert found.dtype == np.uint8
    for row, column in np.ndindex(*SIZE):
        assert found[row, column] == GIVEN[tuple(colours[places[row, column]].tolist())]


def test_a_colour_of_no_class_is_named_with_its_pixels(tmp_path):
    """One that is nearly a class's is none."""
    pixels = np.full((*SIZE, 3), (128, 64, 128), np.uint8)
    pixels[0, :7] = (129, 64, 128)
    with pytest.raises(DataError, match="colours that no class of") as refused:
        coloured(tmp_path, Image.fromarray(pixels))
    error = refused.value
    assert error.found == "#814080 (7 pixels)" and error.where == tmp_path / "1.png"
    assert "#804080" in error.expected and "ignore_colours: ['#814080']" in error.hint
    with pytest.raises(DataError, match="transparent"):
        coloured(tmp_path, Image.fromarray(np.dstack([pixels, pixels[..., 0]])))
    found = coloured(tmp_path, Image.fromarray(pixels), COLOURED.replace("000000", "814080"))
    assert (found == 255).sum() == 7 and (found == 0).sum() == found.size - 7


def test_a_colour_of_two_classes_tells_neither(tmp_path):
    text = "classes: [{name: a, colour: [9, 1, 1]}, {name: b, colour: [9, 1, 1]}]"
    with pytest.raises(DataError, match="colours that no class of"):
        coloured(tmp_path, Image.fromarray(np.full((*SIZE, 3), (9, 1, 1), np.uint8)), text)


def test_indices_of_other_colours_are_ids_unless_a_colour_contradicts(tmp_path):
    indices = ids() % 3
    picture = Image.fromarray(indices, "P")
    picture.putpalette([128, 64, 128, 1, 2, 3, 4, 5, 6])  # road is 0, as its colour says
    assert np.array_equal(coloured(tmp_path, picture), indices)
    picture.putpalette([1, 2, 3, 128, 64, 128, 4, 5, 6])  # here road would be 1
    with pytest.raises(DataError, match="contradict") as refused:
        coloured(tmp_path, picture)
    assert "id 1 in the colour #804080" in refused.value.found


def test_ids_in_shades_of_grey_of_three_channels_stay_ids(tmp_path):
    grey = ids() % 4
    picture, white = Image.fromarray(np.dstack([grey] * 3)), COLOURED.replace("000000", "ffffff")
    assert np.array_equal(coloured(tmp_path, picture, white), grey)
    with pytest.raises(DataError, match="contradict"):  # is black 0, or does it not count?
        coloured(tmp_path, picture)
    wall = Image.fromarray(np.full((*SIZE, 3), 70, np.uint8))  # the colour of a class, no id
    assert (coloured(tmp_path, wall) == 2).all()


# 16 bits: depth, or ids


def test_ids_of_16_bits_are_ids_where_a_file_of_classes_says_so(tmp_path):
    root = write_labelled(tmp_path / "root")
    expected = []
    for number, path in enumerate(sorted(root.glob("labels/*/*.png"))):
        expected.append(ids(number))
        label_files.write_depth16(path, expected[-1].astype(np.uint16))
    store = stored(root, tmp_path / "out")
    found = [label.values for label in labels_of(store)]
    assert sorted(one.tobytes() for one in found) == sorted(one.tobytes() for one in expected)
    (root / "classes.yaml").rename(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="needs its scale") as refused:
        custom.sources(settings(root))
    assert "if these are ids" in refused.value.expected
    assert custom.sources(settings(root, classes=tmp_path / "c.yaml"))[0].reader.classes


def test_a_scale_that_was_stated_goes_before_classes_that_lie_there(tmp_path):
    root = write_labelled(tmp_path / "root")
    for path in root.glob("labels/*/*.png"):
        label_files.write_depth16(path, np.full(SIZE, 6000, np.uint16))
    store = stored(root, tmp_path / "out", depth_scale=1000.0)
    assert {float(label.values[0, 0]) for label in labels_of(store, "depth")} == {6.0}
    with pytest.raises(ConfigError, match="no effect on labels of segmentation"):
        custom.sources(settings(root, depth_scale=1000.0, classes=root / "classes.yaml"))
    with pytest.raises(DataError, match="does not know") as refused:  # depths, unsaid
        custom.sources(settings(root))
    assert "6000" in refused.value.found and "--depth-scale" in refused.value.hint


# The scale of depth


def test_a_missing_scale_shows_what_the_usual_ones_would_mean(tmp_path):
    path = label_files.write_depth16(tmp_path / "1.png", np.full(SIZE, 2560, np.uint16))
    with pytest.raises(ConfigError) as refused:
        check_scale([path], None, 80.0)
    assert refused.value.found == "256 (KITTI's): median 10 m; 1000 (millimetres): median 2.56 m"


@pytest.mark.parametrize(("scale", "fits"), [(256, True), (1000, True), (0.001, False)])
def test_a_scale_must_give_plausible_depths(tmp_path, scale, fits):
    path = label_files.write_depth16(tmp_path / "1.png", np.full(SIZE, 2560, np.uint16))
    if fits:
        assert f"{2560 / scale:.4g} m" in check_scale([path], scale, 1000.0)
        return
    with pytest.raises(ConfigError, match="no scene has"):
        check_scale([path], scale, 1000.0)


def test_millimetres_in_an_npy_are_found_out(tmp_path):
    path = label_files.write_npy(tmp_path / "1.npy", np.full(SIZE, 8000.0))
    with pytest.raises(ConfigError, match="no scene has"):
        check_scale([path], None, 80.0)


# classes.yaml


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("classes: [road]", "classes"),
        ("classes: [road, road]", "same name: road"),
        ("classes: [road, {name: car, colour: [1, 2]}]", "colour"),
        ("classes: [road, {name: car, colour: '#12'}]", "rrggbb"),
        ("classes: [road, {name: car, colour: [1, 2, 256]}]", "256"),
        ("classes: [road, car]\nmapping: {7: cat}", "did you mean car?"),
        ("classes: [road, car]\nmapping: {300: car}", "255"),
        ("classes: [road, car]\nignore: 1", "both|class and ignored: 1"),
        ("classes: [road, car]\ncolours: 1", "colours"),
        ("clases: [road, car]", "classes is not given"),
        ("[road, car]", "instance|dictionary"),
        ("classes: [road, car", "YAML"),
    ],
)
def test_a_wrong_file_of_classes_is_told(tmp_path, text, told):
    path = label_files.write_classes(tmp_path / "classes.yaml", text)
    with pytest.raises(ConfigError) as refused:
        read_classes(path)
    assert re.search(told, str(refused.value)) and str(path) in str(refused.value)


def test_classes_without_a_colour_get_one_of_their_own(tmp_path):
    text = f"classes: [{', '.join(f'c{k}' for k in range(40))}]"
    named = read_classes(label_files.write_classes(tmp_path / "c.yaml", text)).named
    assert len({tuple(one.colour) for one in named}) == 40


# Times


def timed(root: Path, **more) -> list[int]:
    found = [source.labels.start_us for source in custom.sources(settings(root, **more))]
    return sorted(time for times in found for time in times)


def one_recording(root: Path, names: list[str]) -> Path:
    write_recording(root / "events.npz")
    label_files.write_classes(root / "classes.yaml")
    for number, name in enumerate(names):
        label_files.write_ids(root / "labels" / name, ids(number))
    return root


TIMES = (1_020_000, 1_060_000, 1_100_000, 1_140_000, 1_190_000)


def test_times_in_names(tmp_path):
    names = [f"left_{time:010d}.png" for time in TIMES]
    root = one_recording(tmp_path / "rig", names)
    assert timed(root, window="time", window_ms=5.0) == [*TIMES]
    assert timed(root, window="time", window_ms=60.0) == [*TIMES[:2], *TIMES[3:]]  # a gap


@pytest.mark.parametrize("named", [False, True])
def test_a_file_of_times(tmp_path, named):
    names = [f"{k}.png" for k in range(5)]
    root = one_recording(tmp_path / "rig", names)
    lines = [f"{t} {n}" if named else t for t, n in zip(TIMES, names, strict=True)]
    fakes.write_times(root / "labels/timestamps.txt", reversed(lines) if named else lines)
    assert timed(root, window="time", window_ms=5.0) == [*TIMES]
    sources = custom.sources(settings(root, window="time", window_ms=5.0, offset_us=-7))
    assert sources[0].labels.start_us[0] == TIMES[0] - 7
    assert sources[0].labels.files[0].name == "0.png"


def test_a_file_of_times_that_names_not_every_label(tmp_path):
    root = one_recording(tmp_path / "rig", ["0.png", "1.png"])
    fakes.write_times(root / "labels/timestamps.txt", [f"{TIMES[0]} 0.png"])
    with pytest.raises(DataError, match="does not name"):
        timed(root)


def test_more_labels_than_times(tmp_path):
    root = one_recording(tmp_path / "rig", ["0.png", "1.png"])
    fakes.write_times(root / "labels/timestamps.txt", TIMES)
    with pytest.raises(DataError, match="differ in number"):
        timed(root)


def framed(root: Path, names: list[str], pictures: int = len(IMAGES_US)) -> Path:
    one_recording(root, names)
    write_pictures(root / "images", fakes.sensor_pictures(pictures))
    fakes.write_times(root / "timestamps.txt", IMAGES_US[:pictures])
    return root


def test_frames_of_the_same_names_give_the_times(tmp_path):
    root = framed(tmp_path / "rig", ["000002.png", "000000.png"])
    assert timed(root, window="time", window_ms=5.0) == [IMAGES_US[0], IMAGES_US[2]]


def test_as_many_labels_as_frames_go_by_number(tmp_path):
    root = framed(tmp_path / "rig", ["x7.png", "x8.png", "x10.png"])
    found = timed(root, window="time", window_ms=5.0)
    assert found == [IMAGES_US[0], IMAGES_US[1], IMAGES_US[2]]


def test_labels_without_times_are_refused(tmp_path):
    root = framed(tmp_path / "rig", ["x7.png", "x8.png"])
    with pytest.raises(DataError) as refused:
        timed(root)
    assert "nothing tells when" in refused.value.what and "3 frames" in refused.value.found


def test_two_labels_at_one_time(tmp_path):
    root = one_recording(tmp_path / "rig", ["0.png", "1.png"])
    fakes.write_times(root / "labels/timestamps.txt", [TIMES[0], TIMES[0]])
    with pytest.raises(DataError, match="two labels at one time"):
        timed(root)


# Splits


def test_a_split_depends_on_seed_and_names_alone():
    names = [f"r{k}" for k in range(10)]
    first = split_recordings(dict.fromkeys(names, ""), None, 0.3, 0)
    assert first.parts == split_recordings(dict.fromkeys(names[::-1], ""), None, 0.3, 0).parts
    assert Counter(first.parts.values()) == {"train": 7, "test": 3}
    assert any(
        split_recordings(dict.fromkeys(names, ""), None, 0.3, k).parts != first.parts
        for k in range(1, 4)
    )
    assert (
        Counter(split_recordings({"a": "a", "b": "b"}, None, 0.9, 0).parts.values())["train"] == 1
    )


def test_a_list_is_followed(tmp_path):
    path = tmp_path / "split.yaml"
    path.write_text("train: [a, c]\ntest: [b]\nvalidation: []\n")
    split = split_recordings({name: name for name in "abcd"}, path, 0.3, 0)
    assert split.parts == {"a": "train", "c": "train", "b": "test"}
    assert "left out: d" in split.told and split.read == (path,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: [a]\ntest: [b, x]", "not here"),
        ("train: []", "not a split"),
        ("train: [a]\ntests: [b]", "did you mean test?"),
        ("train: [a]\ntest: [a]", "two places"),
        ("train: a", "not a split"),
        ("- a", "not a split"),
    ],
)
def test_a_wrong_list_is_told(tmp_path, text, told):
    path = tmp_path / "split.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(told)):
        split_recordings({"a": "a", "b": "b"}, path, 0.3, 0)


def test_numbers_are_names_too(tmp_path):
    path = tmp_path / "split.yaml"
    path.write_text("train: [1, 2]\ntest: [3]")
    assert read_split(path) == {"1": "train", "2": "train", "3": "test"}


def test_one_recording_is_cut_with_a_gap():
    times = list(range(0, 1001, 10))
    train, test = cut_in_time(times, 0.3, 200, Path("r"))
    assert times[train] == list(range(0, 501, 10)) and times[test] == list(range(700, 1001, 10))
    with pytest.raises(DataError, match="too short"):
        cut_in_time(times, 0.3, 800, Path("r"))


# Stores


def test_labels_of_a_store_are_those_of_the_files(tmp_path):
    root = write_labelled(tmp_path / "root")
    store = stored(root, tmp_path / "out")
    facts = LabelFacts.model_validate(store.manifest["labels"])
    assert [one.name for one in facts.classes] == ["road", "car", "tree"]
    assert facts.classes[0].colour == [128, 64, 128] and facts.classes[1].colour == [0, 0, 0x8E]
    assert sorted(facts.split.values()) == ["test", "train"] and set(facts.split) == {"a", "b"}
    found = labels_of(store)
    for number, label in enumerate(found):
        seed, time = divmod(number, 2)
        assert np.array_equal(label.values, ids(10 * seed + time))
        assert label.start_us == label.end_us == (1_060_000, 1_120_000)[time]
    shard, row = store.locate(0)
    events, window = shard.events(row)
    assert window.end_us == 1_060_000
    own = fake_events(0)
    inside = (own.t >= window.start_us) & (own.t < 1_060_000)
    assert len(events) == inside.sum() and np.array_equal(events.x, own.x[inside])
    assert shard.provenance(row)["split"] == facts.split["a"]


def test_workers_change_no_byte(tmp_path):
    root = write_labelled(tmp_path / "root")
    one, two = stored(root, tmp_path / "1"), stored(root, tmp_path / "2", jobs=2)
    assert one.fingerprint == two.fingerprint and one.manifest["labels"] == two.manifest["labels"]


def test_a_recording_that_joins_later_may_change_the_part_of_others(tmp_path):
    """Parts are drawn from all names: a resumed store says the same in its manifest and shards."""
    root = write_labelled(tmp_path / "root")
    before = stored(root, tmp_path / "out").manifest["labels"]["split"]
    changed = False
    for seed, name in enumerate("cde", 2):  # the files of the others stay as they are
        write_recording(root / f"{name}.npz", seed)
        label_files.write_ids(root / f"labels/{name}/1060000.png", ids(seed))
        store = stored(root, tmp_path / "out", resume=True)
        split = store.manifest["labels"]["split"]
        changed |= any(split[name] != part for name, part in before.items())
        for shard, row in map(store.locate, range(len(store))):
            assert shard.provenance(row)["split"] == split[shard.recording_of_pairs()[row]]
    assert changed


def test_folders_of_recordings_are_found(tmp_path):
    for name in ("first", "second"):
        folder = tmp_path / "root" / name
        write_recording(folder / "events.npz")
        label_files.write_ids(folder / "labels/1060000.png", ids())
    label_files.write_classes(tmp_path / "root/classes.yaml")
    found = custom.sources(settings(tmp_path / "root"))
    assert [source.name for source in found] == ["first", "second"]


def test_a_recording_without_labels_is_named(tmp_path):
    root = write_labelled(tmp_path / "root")
    write_recording(root / "c.npz")
    with pytest.raises(DataError, match="no labels for this recording") as refused:
        custom.sources(settings(root))
    assert refused.value.where == root / "c.npz"


def test_labels_without_classes_are_refused(tmp_path):
    root = write_labelled(tmp_path / "root")
    (root / "classes.yaml").unlink()
    with pytest.raises(ConfigError, match="nothing says what the ids"):
        custom.sources(settings(root))


def test_labels_of_another_size_are_refused_before_anything_is_written(tmp_path):
    root = write_labelled(tmp_path / "root")
    label_files.write_ids(root / "labels/a/001060000.png", ids(0, (HEIGHT * 2, WIDTH * 2)))
    with pytest.raises(DataError, match="differ in size") as refused:
        custom.sources(settings(root))
    assert f"{2 * WIDTH}x{2 * HEIGHT}" in refused.value.found and "resized" in refused.value.hint


def test_labels_beyond_the_recording_are_dropped_and_counted(tmp_path):
    times = (START_US - 5_000, 1_060_000, 1_120_000, END_US + 30_000)
    root = write_labelled(tmp_path / "root", times=times)
    counts = stored(root, tmp_path / "out").manifest["counts"]
    assert counts["labels"] == 8 and counts["pairs"] == 4
    assert counts["labels dropped: before the first event"] == 2
    assert counts["labels dropped: after the last event"] == 2


def test_labels_without_a_class_are_dropped_and_counted(tmp_path):
    root = write_labelled(tmp_path / "root")
    label_files.write_ids(root / "labels/b/001060000.png", np.full(SIZE, 255, np.uint8))
    counts = stored(root, tmp_path / "out").manifest["counts"]
    assert counts["labels dropped: no pixel with a class"] == 1 and counts["pairs"] == 3


def test_several_tasks_are_refused(tmp_path):
    root = write_labelled(tmp_path / "root")
    for path in list((root / "labels/b").iterdir()):
        path.unlink()
        label_files.write_npy(path.with_suffix(".npy"), np.full(SIZE, 2.5))
    with pytest.raises(DataError, match="several tasks"):
        custom.sources(settings(root))


def test_the_image_nearest_in_time_goes_with_a_label(tmp_path):
    root = framed(tmp_path / "rig", ["x1080900.png", "x1110000.png", "x1180000.png"])
    store = stored(root, tmp_path / "out", window="time", window_ms=5.0)
    found = [
        (shard.label("semantics", row).start_us, shard.image(row))
        for shard, row in map(store.locate, range(len(store)))
    ]  # fmt: skip
    by_time = dict(found)
    pictures = [path.read_bytes() for path in sorted((root / "images").iterdir())]
    assert by_time[1_080_900] == pictures[0] and by_time[1_180_000] == pictures[2]
    assert by_time.get(1_110_000, b"") == b""


def test_labels_on_the_frames_pixels_follow_the_homography(tmp_path):
    root = framed(tmp_path / "rig", ["000000.png", "000001.png", "000002.png"])
    larger = [np.kron(ids(k), np.ones((2, 2), np.uint8)) for k in range(3)]
    for number, values in enumerate(larger):
        label_files.write_ids(root / f"labels/{number:06d}.png", values)
    write_pictures(root / "images", larger)
    (root / "h.txt").write_text("2 0 0.5\n0 2 0.5\n0 0 1\n")
    more = {"window": "time", "window_ms": 5.0, "homography": root / "h.txt"}
    store = stored(root, tmp_path / "out", **more)
    times = dict(zip(IMAGES_US, range(3), strict=True))
    for label in labels_of(store):
        assert np.array_equal(label.values, ids(times[label.start_us]))


def test_beyond_the_frame_nothing_is_known():
    source = np.stack(np.meshgrid(np.arange(4.0) - 1, np.arange(3.0)), -1)
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = seen_on(values, source)
    assert np.isnan(found[:, 0]).all() and np.isnan(found[2]).all()
    assert np.array_equal(found[:2, 1:], values)


def test_depth_and_its_range(tmp_path):
    root = tmp_path / "root"
    for seed, name in enumerate("ab"):
        write_recording(root / f"{name}.npz", seed)
        label_files.write_npy(root / f"labels/{name}/1060000.npy", np.full(SIZE, 5.0 + seed))
    store = stored(root, tmp_path / "out", max_depth=20.0)
    assert store.manifest["labels"]["max_depth"] == 20.0
    assert [float(label.values[0, 0]) for label in labels_of(store, "depth")] == [5.0, 6.0]


def write_flows(root: Path, times=(1_060_000, 1_110_000, 1_150_000)) -> Path:
    for seed, name in enumerate("ab"):
        write_recording(root / f"{name}.npz", seed)
        for number, time in enumerate(times):
            flow = np.full((2, *SIZE), float(number), np.float32)
            label_files.write_flo(root / f"labels/{name}/{time}.flo", flow)
    return root


def test_flow_reaches_to_the_next_label_or_so_far_as_is_said(tmp_path):
    root = write_flows(tmp_path / "root")
    store = stored(root, tmp_path / "to next")
    spans = [(one.start_us, one.end_us) for one in labels_of(store, "flow")]
    assert spans == [(1_060_000, 1_110_000), (1_110_000, 1_150_000)] * 2
    counts = store.manifest["counts"]
    assert counts["labels"] == 6 and counts["pairs"] == 4
    assert counts["labels dropped: nothing says where its flow ends"] == 2
    stated = stored(root, tmp_path / "stated", flow_ms=20.0)
    spans = [(one.start_us, one.end_us) for one in labels_of(stated, "flow")]
    assert spans[:3] == [(t, t + 20_000) for t in (1_060_000, 1_110_000, 1_150_000)]
    shard, row = stated.locate(0)
    events, window = shard.after(row)
    assert (window.start_us, window.end_us) == (1_060_000, 1_080_000) and len(events)


def test_flow_between_times_that_a_file_states(tmp_path):
    root = write_flows(tmp_path / "root")
    for name in "ab":
        lines = ["1060000 1080000", "1110000 1130000", "1150000 1170000"]
        fakes.write_times(root / f"labels/{name}/timestamps.txt", lines)
    spans = [(one.start_us, one.end_us) for one in labels_of(stored(root, tmp_path / "o"), "flow")]
    assert spans[:3] == [tuple(map(int, line.split())) for line in lines]


def test_settings_of_labels_need_labels(tmp_path):
    with pytest.raises(Exception, match="no effect without --labels"):
        PrepareConfig(name="custom", roots=[tmp_path], split_seed=3)


def test_a_recording_reads_as_before(tmp_path):
    """The file of events is the ground truth of this file's helpers."""
    events = fake_events(0)
    recording = open_recording(write_recording(tmp_path / "a.npz"), size=SIZE)
    assert sum(map(len, recording.blocks())) == len(events)


# What would be silently wrong


def test_neighbouring_flows_of_one_recording_share_no_event(tmp_path):
    """The window before a flow that tests ends where it begins, and is as long as the flow."""
    root = tmp_path / "rig"
    write_recording(root / "events.npz")
    for number in range(17):
        flow = np.full((2, *SIZE), float(number), np.float32)
        label_files.write_flo(root / f"labels/{1_010_000 + 10_000 * number}.flo", flow)
    train, test = custom.sources(settings(root, flow_ms=20.0))
    latest = max(train.labels.end_us)
    begin = test.labels.start_us[0]
    assert latest <= begin - 20_000


def test_labels_have_the_size_of_the_frames_that_a_homography_maps(tmp_path):
    root = framed(tmp_path / "rig", ["000000.png", "000001.png", "000002.png"])
    larger = [np.kron(ids(k), np.ones((2, 2), np.uint8)) for k in range(3)]
    write_pictures(root / "images", larger)  # labels stay half as large
    (root / "h.txt").write_text("2 0 0.5\n0 2 0.5\n0 0 1\n")
    with pytest.raises(DataError, match="differ in size") as refused:
        custom.sources(settings(root, window="time", window_ms=5.0, homography=root / "h.txt"))
    assert f"{2 * WIDTH}x{2 * HEIGHT}" in refused.value.expected


def test_depths_in_two_kinds_of_files_need_the_scale_too(tmp_path):
    root = tmp_path / "root"
    for seed, name in enumerate("ab"):
        write_recording(root / f"{name}.npz", seed)
    label_files.write_npy(root / "labels/a/1060000.npy", np.full(SIZE, 5.0))
    label_files.write_depth16(root / "labels/b/1060000.png", np.full(SIZE, 6000, np.uint16))
    with pytest.raises(ConfigError, match="needs its scale"):
        custom.sources(settings(root))
    store = stored(root, tmp_path / "out", depth_scale=1000.0)
    assert [float(label.values[0, 0]) for label in labels_of(store, "depth")] == [5.0, 6.0]


def test_depths_beyond_the_farthest_that_counts_are_refused(tmp_path):
    """Such as millimetres of a small room, which would pass for metres."""
    root = tmp_path / "root"
    for seed, name in enumerate("ab"):
        write_recording(root / f"{name}.npz", seed)
        label_files.write_npy(root / f"labels/{name}/1060000.npy", np.full(SIZE, 1500, np.uint16))
    with pytest.raises(ConfigError, match="most depths are beyond the farthest"):
        custom.sources(settings(root))
    assert custom.sources(settings(root, max_depth=2000.0))


@pytest.mark.parametrize(
    "more", [{"depth_scale": 256.0}, {"max_depth": 20.0}, {"flow_scale": 128.0}, {"flow_ms": 5.0}]
)
def test_settings_of_another_task_are_refused(tmp_path, more):
    with pytest.raises(ConfigError, match="no effect on labels of segmentation") as refused:
        custom.sources(settings(write_labelled(tmp_path / "root"), **more))
    assert str(refused.value.where) == f"--{next(iter(more)).replace('_', '-')}"


def test_a_scale_is_for_files_that_have_one(tmp_path):
    root = tmp_path / "root"
    for seed, name in enumerate("ab"):
        write_recording(root / f"{name}.npz", seed)
        label_files.write_npy(root / f"labels/{name}/1060000.npy", np.full(SIZE, 5.0))
    with pytest.raises(ConfigError, match="no effect"):
        custom.sources(settings(root, depth_scale=1000.0))
    with pytest.raises(ConfigError, match="no effect"):
        custom.sources(settings(write_flows(tmp_path / "flows"), flow_scale=128.0))


def test_a_drawn_split_and_a_list_exclude_each_other(tmp_path):
    (tmp_path / "split.yaml").write_text("train: [a]\ntest: [b]")
    for more in ({"split_seed": 1}, {"test_share": 0.5}):
        with pytest.raises(Exception, match="no effect where a list"):
            settings(tmp_path, split=tmp_path / "split.yaml", **more)


def test_nanoseconds_since_1970_in_names(tmp_path):
    began = 1_700_000_000_000_000
    events = fake_events(0)
    root = tmp_path / "root"
    for name in "ab":
        (root / "labels" / name).mkdir(parents=True)
        columns = {key: getattr(events, key) for key in "xyp"}
        np.savez(root / f"{name}.npz", t=events.t + began, **columns)
        label_files.write_ids(root / f"labels/{name}/{1000 * (began + 1_060_000)}.png", ids())
    label_files.write_classes(root / "classes.yaml")
    assert timed(root) == [began + 1_060_000] * 2


def test_numbers_of_frames_are_no_times_whatever_the_unit_of_the_frames(tmp_path):
    """Also where events begin at 0, where such numbers lie in the time of the events."""
    events = fake_events(0)
    root = framed(tmp_path / "rig", ["x7.png", "x8.png", "x10.png"])
    np.savez(root / "events.npz", t=events.t - START_US, x=events.x, y=events.y, p=events.p)
    fakes.write_times(root / "timestamps.txt", [t - START_US for t in IMAGES_US])
    found = timed(root, window="time", window_ms=5.0, frame_time_unit="us")
    assert found == [t - START_US for t in IMAGES_US]


def test_the_time_of_an_exposure_is_its_middle(tmp_path):
    root = one_recording(tmp_path / "rig", [f"{k}.png" for k in range(5)])
    lines = [f"{t} {t + 4_000}" for t in TIMES]
    fakes.write_times(root / "labels/timestamps.txt", lines)
    assert timed(root, window="time", window_ms=5.0) == [t + 2_000 for t in TIMES]
    found = timed(root, window="time", window_ms=5.0, exposure_point="end")
    assert found == [t + 4_000 for t in TIMES]


def test_a_recording_that_a_split_leaves_out_needs_no_labels(tmp_path):
    root = write_labelled(tmp_path / "root")
    write_recording(root / "c.npz")
    (tmp_path / "split.yaml").write_text("train: [a]\ntest: [b]")
    found = custom.sources(settings(root, split=tmp_path / "split.yaml"))
    assert [(one.name, one.part) for one in found] == [("a", "train"), ("b", "test")]


def test_a_split_may_call_recordings_as_their_files_are_called(tmp_path):
    root = write_labelled(tmp_path / "root", names=("Fahrt Süd", "b"))
    (tmp_path / "split.yaml").write_text("train: [Fahrt Süd]\ntest: [b]", encoding="utf-8")
    found = custom.sources(settings(root, split=tmp_path / "split.yaml"))
    assert [(one.name, one.part) for one in found] == [("Fahrt-S-d", "train"), ("b", "test")]


def test_pictures_in_colours_are_told_what_they_are(tmp_path):
    root = write_labelled(tmp_path / "root")
    label_files.Image.fromarray(label_files.COLOURS[ids() % 4]).save(
        root / "labels/a/001060000.png"
    )
    with pytest.raises(DataError, match="colours that no class") as refused:
        custom.sources(settings(root))
    assert "#0a141e" in refused.value.found and "ignore_colours" in refused.value.hint


def test_windows_of_so_many_events_do_not_reach_into_what_trains(tmp_path):
    """They may be longer than any gap: labels whose window is too long are left out."""
    events = fake_events(0)
    root = tmp_path / "rig"
    times = START_US + 5 * SPAN_US * np.arange(4, 40) // 40
    for number, time in enumerate(times.tolist()):
        label_files.write_ids(root / f"labels/{time}.png", ids(number))
    slow = START_US + 5 * (events.t - START_US)
    np.savez(root / "events.npz", t=slow, x=events.x, y=events.y, p=events.p)
    label_files.write_classes(root / "classes.yaml")
    store = stored(root, tmp_path / "out", window="count", window_events=2.5)
    pairs = [(store.recordings[k], *store.locate(k)) for k in range(len(store))]
    windows = [
        (name.partition("@")[2].partition("-")[0], shard.events(row)[1])
        for name, shard, row in pairs
    ]
    trained = max(window.end_us for one, window in windows if one == "train")
    tested = [window for one, window in windows if one == "test"]
    assert tested and min(window.start_us for window in tested) >= trained
    counts = store.manifest["counts"]
    assert (
        counts["labels"]
        == len(times)
        == counts["pairs"]
        + sum(number for name, number in counts.items() if name.startswith("labels dropped"))
    )
