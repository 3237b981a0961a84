"""`prepare scaleevent-release`: pictures in place of events, marked so, from file to tensors."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_datasets import prepare
from test_end_to_end import call

from scaleevent.datasets import released
from scaleevent.errors import ConfigError, DataError
from scaleevent.grids.geometry import Fit
from scaleevent.grids.inputs import IMAGENET_MEAN, IMAGENET_STD, InputSettings, drawn_activity
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.store import PairStore

SIZE = (48, 64)


def write_sequence(root: Path, name: str, number: int = 3, size: tuple[int, int] = SIZE) -> Path:
    """`image`, `voxel` and `evimg`, JPEGs numbered from 00001; events in the left upper quarter."""
    rng = np.random.default_rng(len(name))
    for index in range(1, number + 1):
        smooth = rng.integers(0, 256, (6, 8, 3), np.uint8)
        voxel = np.kron(rng.integers(100, 140, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        shown = np.full((*size, 3), 255, np.uint8)
        shown[: size[0] // 2 : 3, : size[1] // 2 : 3] = (220, 30, 30)
        picture = np.kron(smooth, np.ones((8, 8, 1), np.uint8))
        for kind, values in (("image", picture), ("voxel", voxel), ("evimg", shown)):
            (root / name / kind).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(values).resize(size[::-1])
            image.save(root / name / kind / f"{index:05d}.jpg", quality=95)
    return root / name


@pytest.fixture
def root(tmp_path):
    for name, number in (("aachen_000000_left", 2), ("back1", 3)):
        write_sequence(tmp_path / "release", name, number)
    return tmp_path / "release"


def test_pictures_are_kept_as_they_are_and_marked(root):
    pairs, counts = prepare("scaleevent-release", root)
    assert [(pair.recording, pair.image_us) for pair in pairs] == [
        ("aachen_000000_left", 1), ("aachen_000000_left", 2), ("back1", 1), ("back1", 2),
        ("back1", 3),
    ]  # fmt: skip
    for pair in pairs:
        folder, file = root / pair.recording, f"{pair.image_us:05d}.jpg"
        assert pair.image == (folder / "image" / file).read_bytes()
        assert pair.picture.voxel == (folder / "voxel" / file).read_bytes()
        assert pair.picture.shown == (folder / "evimg" / file).read_bytes()
        assert not len(pair.events) and pair.provenance["events"] == "picture, 8 bits"
    assert counts["pairs with a picture in place of events"] == counts["images"] == 5


def test_a_store_of_them_is_told_drawn_and_verified(root, tmp_path, capsys):
    out = tmp_path / "pairs"
    call(f"prepare scaleevent-release {root} -o {out}")
    told = capsys.readouterr()
    assert "events cannot be had back from 8-bit pictures" in told.err
    call(f"info {out} --json --picture {tmp_path / 'sheet.png'} --verify")
    facts = json.loads(capsys.readouterr().out)
    said = json.dumps(facts)
    assert "5 pairs have a picture of 8 bits in their place" in said and "not known" in said
    assert "pictures in place of events: no shift to measure" in said
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * SIZE[1]
    store = PairStore(out)
    shard, row = store.locate(3)
    events, window = shard.events(row)
    assert len(events) == 0 and window.end_us == 2
    assert shard.picture(row).voxel == (root / "back1/voxel/00002.jpg").read_bytes()
    with pytest.raises(DataError, match="another bin count"):
        shard.voxel(row, bins=5)


def slow_mask(picture: np.ndarray, patch: int) -> list[list[bool]]:
    """The authors' mask, pixel by pixel: bilinear at half-pixel centres, twice, in 8 bits."""

    def smaller(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
        height, width, _ = values.shape
        out = np.zeros((rows, columns, 3), np.uint8)
        for i in range(rows):
            for j in range(columns):
                y, x = (i + 0.5) * height / rows - 0.5, (j + 0.5) * width / columns - 0.5
                top, left = int(np.floor(y)), int(np.floor(x))
                for c in range(3):
                    total = 0.0
                    for v in (top, top + 1):
                        for u in (left, left + 1):
                            weight = (1 - abs(y - v)) * (1 - abs(x - u))
                            total += weight * float(
                                values[min(v, height - 1), min(u, width - 1), c]
                            )
                    out[i, j, c] = int(np.floor(total + 0.5))
        return out

    height, width, _ = picture.shape
    quarter = smaller(picture, height // 4, width // 4)
    tokens = smaller(quarter, height // patch, width // patch)
    return [[int(token.sum()) < 765 for token in row] for row in tokens.astype(int)]


@pytest.mark.parametrize("patch", [16, 8])
def test_the_mask_is_the_authors(patch):
    rng = np.random.default_rng(2)
    picture = np.full((64, 96, 3), 255, np.uint8)
    y, x = rng.integers(0, 64, 25), rng.integers(0, 96, 25)
    picture[y, x] = rng.integers(0, 255, (25, 3))
    picture[5, 70] = 254  # nearly white: rounded away
    found = drawn_activity(picture, Fit(64, 96, 64, 96), patch)
    assert found.tolist() == slow_mask(picture, patch)
    assert 0 < found.sum() < found.size


def test_tensors_of_a_picture(root, tmp_path):
    call(f"prepare scaleevent-release {root} -o {tmp_path / 'pairs'}")
    store = PairStore(tmp_path / "pairs")
    samples = [
        PairSamples([store], InputSettings(*SIZE, 16, normaliser=name))[2]
        for name in ("minmax", "symmetric", "std_pop")
    ]
    voxel = decode_image((root / "back1/voxel/00001.jpg").read_bytes()) / 255
    expected = (voxel - IMAGENET_MEAN) / IMAGENET_STD
    for sample in samples:  # no normaliser is applied
        assert np.allclose(sample["voxel"].permute(1, 2, 0), expected, atol=1e-5)
    shown = decode_image((root / "back1/evimg/00001.jpg").read_bytes())
    assert (samples[0]["density"].numpy() > 0).tolist() == slow_mask(shown, 16)
    assert samples[0]["density"].unique().tolist() == [0.0, 1.0]
    assert (samples[0]["valid"] == 1).all()


def test_a_padded_picture_has_around_it_what_it_has_where_nothing_happens(root, tmp_path):
    for path in (root / "back1/voxel").iterdir():
        voxel = np.full((*SIZE, 3), 120, np.uint8)
        voxel[:16, :16] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
        Image.fromarray(voxel).save(path, quality=95)
    call(f"prepare scaleevent-release {root} -o {tmp_path / 'pairs'}")
    sample = PairSamples(
        [PairStore(tmp_path / "pairs")], InputSettings(64, 64, 16, normaliser="minmax", pad=True)
    )[2]
    levels = sample["voxel"].permute(1, 2, 0).numpy() * IMAGENET_STD + IMAGENET_MEAN
    expected = decode_image((root / "back1/voxel/00001.jpg").read_bytes()) / 255
    np.testing.assert_allclose(levels[8:56], expected, atol=1e-5)
    np.testing.assert_allclose(levels[[*range(8), *range(56, 64)]], 120 / 255, atol=1e-5)
    assert not sample["density"][2:, 2:].any()


@pytest.mark.slow
def test_pretraining_takes_them(root, tmp_path):
    call(f"prepare scaleevent-release {root} -o {tmp_path / 'pairs'}")
    call(f"pretrain {tmp_path / 'pairs'} -o {tmp_path / 'run'} --preset demo --size 48x64 "
         "--epochs 1 --draws 4 --batch 2 --no-probe --device cpu")  # fmt: skip
    steps = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(step["loss"]) for step in steps if "loss" in step)


def test_sequences_are_joined_to_shards(root, monkeypatch):
    monkeypatch.setattr(released, "PAIRS_OF_A_SHARD", 3)
    for name in ("highway1", "parking1", "street1"):
        write_sequence(root, name, 2)
    write_sequence(root, "sun1", 1, size=(96, 128))
    config = released.Settings(name="scaleevent-release", roots=[root])
    found = {source.name: source.expected for source in released.sources(config)}
    assert found == {
        "aachen_000000_left-and-1-more": 5, "highway1-and-1-more": 4, "street1": 2, "sun1": 1,
    }  # fmt: skip


def test_test_recordings_of_any_benchmark_stay_out(root):
    for name in ("dir1", "outdoor_day1_data", "outdoor_day2_data", "zurich_city_13_a"):
        write_sequence(root, name, 1)
    pairs, _ = prepare("scaleevent-release", root)
    assert {pair.recording for pair in pairs} == {"aachen_000000_left", "back1", "outdoor_day2"}
    with pytest.raises(ConfigError, match="test recordings"):
        prepare("scaleevent-release", root, sequences=["dir1"])
    pairs, _ = prepare("scaleevent-release", root, sequences=["dir1"], transductive=True)
    assert {pair.recording for pair in pairs} == {"dir1"}


def test_what_is_wrong_is_said(root, tmp_path):
    folder = root / "back1"
    lost = (folder / "evimg/00002.jpg").read_bytes()
    (folder / "evimg/00002.jpg").unlink()
    with pytest.raises(DataError, match="pictures without their partners") as caught:
        prepare("scaleevent-release", root)
    assert caught.value.found == "1 of 3, such as 00002.jpg, which is not in evimg"
    (folder / "evimg/00002.jpg").write_bytes(lost[:-200])
    with pytest.raises(DataError) as caught:
        prepare("scaleevent-release", root)
    assert "back1/evimg/00002.jpg" in str(caught.value.where)
    Image.new("L", SIZE[::-1]).save(folder / "evimg/00002.jpg")
    with pytest.raises(DataError, match="another shape or without colours") as caught:
        prepare("scaleevent-release", root)
    assert caught.value.found == "64x48 L" and caught.value.expected == "64x48 RGB"
    Image.new("RGB", (64, 40)).save(folder / "evimg/00002.jpg")
    with pytest.raises(DataError, match="another shape"):
        prepare("scaleevent-release", root)
    for kind in released.KINDS:
        (folder / kind / "00003.jpg").rename(folder / kind / "last.jpg")
    with pytest.raises(DataError, match="file name without a number"):
        prepare("scaleevent-release", root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no sequence in the layout"):
        prepare("scaleevent-release", tmp_path / "empty")


def test_images_may_be_grey_but_pictures_of_events_not(root):
    path = root / "back1/image/00002.jpg"
    with Image.open(path) as opened:
        opened.convert("L").save(path, quality=95)
    pairs, _ = prepare("scaleevent-release", root)
    assert pairs[3].image == path.read_bytes() and pairs[3].image_us == 2
    assert decode_image(pairs[3].image).shape == (*SIZE, 3)
    Image.new("L", SIZE[::-1]).save(root / "back1/voxel/00002.jpg")
    with pytest.raises(DataError, match="without colours") as caught:
        prepare("scaleevent-release", root)
    assert caught.value.found == "64x48 L" and caught.value.expected == "64x48 RGB"


def test_events_beside_a_picture_are_refused(root, tmp_path):
    from dataclasses import replace

    from fakes import fake_events

    from scaleevent.pairs.shard import ShardWriter

    pairs, _ = prepare("scaleevent-release", root)
    wrong = replace(pairs[0], events=fake_events())
    with pytest.raises(DataError, match="events beside a picture"):
        with ShardWriter(tmp_path / "a.h5") as writer:
            writer.add(wrong)


def test_pictures_of_another_size_are_resized_and_counted(root):
    for kind in ("image", "evimg"):
        path = root / "back1" / kind / "00002.jpg"
        with Image.open(path) as opened:
            opened.resize((128, 96), Image.Resampling.NEAREST).save(path, quality=95)
    pairs, counts = prepare("scaleevent-release", root)
    assert counts["pictures resized to that of the events"] == 2 and counts["pairs"] == 5
    (pair,) = [p for p in pairs if p.recording == "back1" and p.image_us == 2]
    before = decode_image(pairs[pairs.index(pair) - 1].image)
    assert decode_image(pair.image).shape == before.shape == (*SIZE, 3)
    large = decode_image((root / "back1/image/00002.jpg").read_bytes()).astype(float)
    means = large.reshape(48, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(decode_image(pair.image) - means).mean() < 6  # bilinear, somewhat wider
