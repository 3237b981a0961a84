"""`custom` as a benchmark: planted labels through prepare, probe, finetune and eval."""

import json
from pathlib import Path

import label_files
import numpy as np
import pytest
from fakes import HEIGHT, WIDTH, fake_events
from PIL import Image
from test_end_to_end import call

from scaleevent import PairStore
from scaleevent.benchmarks.meaning import described_task, facts_of, task_of
from scaleevent.benchmarks.own import STRETCH, benchmark_of, default_size, size_near
from scaleevent.checkpoint import load_task, save_encoder
from scaleevent.config.downstream import EvalConfig, FinetuneConfig, finetune_config
from scaleevent.config.labels import LabelFacts
from scaleevent.datasets.custom_labels_split import overlap
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import ConfigError, DataError
from scaleevent.grids.geometry import Fit
from scaleevent.pairs.classes import class_counts, count_classes
from scaleevent.prediction.models import open_model
from scaleevent.prediction.views import choose_view
from scaleevent.tasks.depth import Depth
from scaleevent.tasks.flow import Flow
from scaleevent.tasks.segmentation import Segmentation

RECORDINGS = ("a", "b", "c", "d")
TIMES = tuple(range(1_040_000, 1_190_000, 30_000))
SHORT = "--epochs 1 --batch 4 --size 48x64 --pictures 0"


def write_user(root: Path, planted: np.ndarray, suffix: str = ".png", classes: str = "") -> Path:
    """Four recordings, each label of them the planted one."""
    write = {".png": label_files.write_ids, ".npy": label_files.write_npy,
             ".flo": label_files.write_flo}[suffix]  # fmt: skip
    for seed, name in enumerate(RECORDINGS):
        events = fake_events(seed)
        root.mkdir(parents=True, exist_ok=True)
        np.savez(root / f"{name}.npz", **{column: getattr(events, column) for column in "txyp"})
        for time in TIMES:
            write(root / f"labels/{name}/{time}{suffix}", planted)
    if suffix == ".png":
        label_files.write_classes(root / "classes.yaml", classes)
    return root


def planted_classes() -> np.ndarray:
    """(H, W): three quarters road, one quarter car, none of the third class."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[: HEIGHT // 4] = 1
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    write_user(folder / "user", planted_classes())
    call(f"prepare custom {folder / 'user'} --labels labels --size 48x64 -o {folder / 'store'}")
    encoder = Encoder(ARCHS["tiny"])
    save_encoder(folder / "encoder.safetensors", encoder, {})
    return folder


@pytest.fixture(scope="module")
def trained(place):
    line = f"finetune custom {place / 'encoder.safetensors'} --data {place / 'store'}"
    call(f"{line} -o {place / 'run'} --decoder linear {SHORT}")
    return place / "run"


def rows(folder: Path) -> dict:
    report = json.loads((folder / "report.json").read_text())
    return {row[""]: row for row in report["rows"]}


def test_planted_labels_have_the_scores_they_must(trained):
    """All road: right on 3/4, and (75 + 0 + 0) / 3. Labels alike everywhere: place is perfect."""
    found = rows(trained)
    assert found["road everywhere"]["acc"] == pytest.approx(75)
    assert found["road everywhere"]["miou"] == pytest.approx(25)
    assert found["place only"]["acc"] == 100 and found["place only"]["miou_present"] == 100
    assert found["place only"]["miou"] == pytest.approx(200 / 3)


def test_the_task_file_names_its_classes_and_colours(trained, place):
    decoder, description = load_task(trained / "task.safetensors")
    task = described_task(description, trained)
    assert task.classes == ("road", "car", "tree") and decoder.settings["classes"] == 3
    assert task.palette[:2].tolist() == [[128, 64, 128], [0, 0, 0x8E]]
    assert "split" not in description["labels"]
    parts = PairStore(place / "store").manifest["labels"]["split"]
    learned = [name for name, part in parts.items() if part == "train"]
    assert description["data"]["recordings"] == sorted(learned) and len(learned) == 3


def test_a_class_that_is_never_shown_is_warned_of(place, capsys):
    line = f"finetune custom {place / 'encoder.safetensors'} --data {place / 'store'}"
    call(f"{line} -o {place / 'warned'} --decoder linear {SHORT}")
    printed = capsys.readouterr()
    assert "road 75 % (15)" in printed.err and "car 25 % (15)" in printed.err
    assert "no training label shows tree" in printed.err
    assert any("shows tree" in note for note in json.loads(
        (place / "warned/report.json").read_text())["notes"])  # fmt: skip


def test_eval_gives_the_same_numbers(trained, place, capsys):
    call(f"eval custom {trained} --data {place / 'store'} -o {place / 'scored'}")
    own, again = rows(trained), rows(place / "scored")
    assert own["ours, all classes"] == again["ours, all classes"]
    printed = capsys.readouterr().out
    assert "by class" in printed and "tree" in printed


def test_predict_draws_the_own_classes(trained, place, tmp_path):
    """Named and coloured as in the user's file, in the picture as in the map."""
    out = tmp_path / "seen"
    recording = place / "user/a.npz"
    size = f"--size {HEIGHT}x{WIDTH}"
    call(f"predict {trained} {recording} {size} -o {out} --write png,npy --layout overlay")
    opened = open_model(str(trained / "task.safetensors"), (HEIGHT, WIDTH))
    view = choose_view(opened)
    assert opened.benchmark_task.classes == ("road", "car", "tree")
    swatches = dict(view.legend().swatches)
    assert list(swatches) == ["road", "car", "tree"]
    assert swatches["road"] == (128, 64, 128) and swatches["car"] == (0, 0, 0x8E)
    found = np.load(out / "maps/000001.npy")
    assert found.shape == (HEIGHT, WIDTH) and set(np.unique(found)) <= {0, 1, 2}
    for number, colour in enumerate(swatches.values()):
        np.testing.assert_array_equal(view.colours(found)[found == number] - colour, 0)
    picture = Image.open(out / "pictures/000001.png")
    counts = {colour: count for count, colour in picture.getcolors(1 << 20)}
    assert set(swatches.values()) <= set(counts)  # in the legend at least
    shown = max(range(3), key=lambda number: (found == number).sum())
    assert counts[list(swatches.values())[shown]] > 0.1 * picture.width * picture.height


def test_probe_and_few_labels(place):
    line = f"probe custom {place / 'encoder.safetensors'} --data {place / 'store'}"
    call(f"{line} -o {place / 'probe'} {SHORT} --fraction 0.2")
    report = json.loads((place / "probe/report.json").read_text())
    assert report["data"]["training_samples"] == 3  # one of five, of three recordings
    call(f"{line} -o {place / 'random'} {SHORT} --fraction 0.4 --subset random")
    report = json.loads((place / "random/report.json").read_text())
    assert report["data"]["training_samples"] == 6


def test_info_shows_the_classes_by_part(place, capsys):
    call(f"info {place / 'store'} --json")
    facts = json.loads(capsys.readouterr().out)
    pixels = HEIGHT * WIDTH
    assert facts["task"] == "segmentation" and facts["classes"] == ["road", "car", "tree"]
    train, test = (facts["class counts"][part] for part in ("train", "test"))
    assert train["pixels"] == [pixels * 15 * 3 // 4, pixels * 15 // 4, 0]
    assert train["labels"] == [15, 15, 0] and test["labels"] == [5, 5, 0] and test["of"] == 5
    call(f"info {place / 'store'}")
    assert "% of pixels, train" in capsys.readouterr().out


def test_counts_against_a_slow_loop():
    rng = np.random.default_rng(0)
    labels = [rng.choice(np.array([0, 1, 3, 255], np.uint8), (5, 7)) for _ in range(4)]
    found = count_classes(iter(labels), ("x", "y", "z", "w"), 9)
    for k in range(4):
        assert found.pixels[k] == sum(int(v) == k for one in labels for v in one.ravel())
        assert found.labels[k] == sum(k in one for one in labels)
    assert found.absent == ("z",) and found.seen == 4 and "4 of 9" in found.describe()


# Leaks


def test_what_was_seen_in_pretraining_is_refused(place, capsys):
    store = place / "store"
    parts = PairStore(store).manifest["labels"]["split"]
    test = next(name for name, part in parts.items() if part == "test")
    encoder = place / "seen.safetensors"
    save_encoder(encoder, Encoder(ARCHS["tiny"]), {"data": {"recordings": [test]}})
    call(
        f"finetune custom {encoder} --data {store} -o {place / 'leak'} --decoder linear {SHORT}", 2
    )
    assert test in capsys.readouterr().err


def test_a_model_is_not_scored_on_what_it_was_trained_on(trained, place, capsys):
    other = place / "split.yaml"
    other.write_text("train: [d]\ntest: [a, b, c]\n")
    line = f"prepare custom {place / 'user'} --labels labels --size 48x64"
    call(f"{line} --split {other} -o {place / 'other'}")
    capsys.readouterr()
    call(f"eval custom {trained} --data {place / 'other'}", 2)
    assert "trained on" in capsys.readouterr().err


def test_pretraining_refuses_recordings_that_the_split_holds_out(place, capsys):
    call(f"pretrain {place / 'store'} --preset demo --no-probe -o {place / 'pre'}", 2)
    assert "test recordings" in capsys.readouterr().err


def test_one_recording_trains_and_tests_apart(place, capsys):
    user = place / "user"
    line = f"prepare custom {user / 'a.npz'} --labels {user / 'labels/a'} --size 48x64"
    classes = f"--classes {user / 'classes.yaml'}"
    call(f"{line} {classes} --window time --window-ms 40 -o {place / 'one'}")
    store = PairStore(place / "one")
    assert store.manifest["labels"]["split"] == {
        f"a@train-until-{TIMES[1]}us": "train",
        f"a@test-from-{TIMES[3]}us": "test",
    }
    ends = [store.locate(k)[0].row("image_us", store.locate(k)[1]) for k in range(len(store))]
    assert [int(one) for one in ends] == [*TIMES[:2], *TIMES[3:]]
    counts = store.manifest["counts"]
    assert counts["labels"] == 5 and counts["pairs"] == 4
    assert counts["labels dropped: between those that train and those that test"] == 1
    encoder = place / "whole.safetensors"
    save_encoder(encoder, Encoder(ARCHS["tiny"]), {"data": {"recordings": ["a"]}})
    capsys.readouterr()
    call(f"finetune custom {encoder} --data {place / 'one'} -o {place / 'x'} {SHORT}", 2)
    assert "a@test" in capsys.readouterr().err


def test_another_cut_of_the_same_recording_is_a_leak(place, capsys):
    """A model that trained on more of it has seen what a larger share tests."""
    user, encoder = place / "user", place / "encoder.safetensors"
    line = f"prepare custom {user / 'a.npz'} --labels {user / 'labels/a'} --size 48x64"
    line += f" --classes {user / 'classes.yaml'} --window time --window-ms 20"
    stores = {share: place / f"cut{share}" for share in (0.2, 0.6)}
    for share, store in stores.items():
        call(f"{line} --test-share {share} -o {store}")
    for share in (0.2, 0.6):
        run = f"finetune custom {encoder} --data {stores[share]} -o {place / f'cut-run{share}'}"
        call(f"{run} --decoder linear {SHORT}")
    capsys.readouterr()
    call(f"eval custom {place / 'cut-run0.2'} --data {stores[0.6]}", 2)
    assert "trained on test recordings" in capsys.readouterr().err
    for trained, tested in ((0.2, 0.2), (0.6, 0.6), (0.6, 0.2)):  # what comes later is not seen
        call(f"eval custom {place / f'cut-run{trained}'} --data {stores[tested]}")


@pytest.mark.parametrize("seen, tested, together", [
    ("a", "a", True), ("a", "b", False), ("a", "a@test-from-5us", True),
    ("a@train-until-4us", "a", True), ("a@train-until-4us", "b@test-from-5us", False),
    ("a@train-until-4us", "a@test-from-5us", False), ("a@train-until-4us", "a@test-from-4us", True),
    ("a@train-until-9us", "a@test-from-5us", True),
    ("a@train-until--9us", "a@test-from--5us", False),
    ("a@test-from-5us", "a@test-from-9us", True), ("a@train", "a@test", False),
    ("a@train", "a@test-from-5us", True), ("a@train-until-4us", "a@test", True),
])  # fmt: skip
def test_parts_of_a_recording_are_told_apart_by_their_names(seen, tested, together):
    assert overlap(seen, tested) == together


# What does not fit


def test_other_classes_are_refused_even_where_there_are_as_many(trained, place, capsys):
    classes = "classes: [tarmac, car, tree]\n"
    write_user(place / "others", planted_classes(), classes=classes)
    call(f"prepare custom {place / 'others'} --labels labels --size 48x64 -o {place / 'o'}")
    capsys.readouterr()
    call(f"eval custom {trained} --data {place / 'o'}", 2)
    told = capsys.readouterr().err
    assert "other classes" in told and "tarmac" in told and "road" in told
    with pytest.raises(ConfigError, match="different meanings"):
        benchmark_of("custom", [place / "store", place / "o"])
    # nor are exports scored on them
    fp16 = f"export {trained} --format onnx-fp16 -o {place / 'deploy'}"
    call(f"{fp16} --data {place / 'o'}", 2)
    assert "other classes" in capsys.readouterr().err and not (place / "deploy").exists()


def test_a_store_without_labels_is_told_how_to_get_some(trained, place, capsys):
    call(f"prepare street --scenes 2 --size 48x64 -o {place / 'street'}")
    capsys.readouterr()
    call(f"eval custom {trained} --data {place / 'street'}", 3)
    assert "--labels" in capsys.readouterr().err
    with pytest.raises(DataError, match="without labels"):
        finetune_config({"benchmark": "custom", "checkpoint": "random", "data": [place / "street"]})


def test_no_data_names_the_command_that_makes_some(monkeypatch):
    monkeypatch.delenv("SCALEEVENT_DATA", raising=False)
    with pytest.raises(ConfigError) as refused:
        finetune_config({"benchmark": "custom", "checkpoint": "random"})
    assert "prepare custom FOLDER --labels LABELS" in refused.value.hint


def test_settings_follow_the_task_of_the_store(place):
    given = {"benchmark": "custom", "checkpoint": "random", "data": [place / "store"]}
    assert finetune_config(given).preset == "own"
    assert finetune_config(given | {"preset": "demo"}).options["mode"] == "upstream"
    with pytest.raises(ConfigError, match="no such preset"):
        finetune_config(given | {"preset": "paper"})
    with pytest.raises(Exception, match="only for depth"):
        EvalConfig(**given, alignment="median")
    assert FinetuneConfig(**given).task == "segmentation"


# Other tasks


@pytest.mark.parametrize(
    ("suffix", "decoder"),
    [(".npy", "dpt"), (".npy", "linear"), (".flo", "linear"), (".flo", "waft")],
)
def test_depth_and_flow_go_the_same_way(tmp_path, suffix, decoder):
    depth = np.full((HEIGHT, WIDTH), 10.0)
    depth[:, ::2] = 20.0
    flow = np.zeros((2, HEIGHT, WIDTH), np.float32)
    flow[0] = 3.0
    write_user(tmp_path / "user", depth if suffix == ".npy" else flow, suffix)
    more = "--max-depth 30" if suffix == ".npy" else "--flow-ms 10"
    store = tmp_path / "store"
    call(f"prepare custom {tmp_path / 'user'} --labels labels --size 48x64 {more} -o {store}")
    save_encoder(tmp_path / "encoder.safetensors", Encoder(ARCHS["tiny"]), {})
    line = f"finetune custom {tmp_path / 'encoder.safetensors'} --data {store}"
    call(f"{line} -o {tmp_path / 'run'} --decoder {decoder} {SHORT}")
    found = rows(tmp_path / "run")
    model, description = load_task(tmp_path / "run/task.safetensors")
    if suffix == ".flo":
        assert found["zero flow"]["epe"] == pytest.approx(3.0)
        assert isinstance(described_task(description, None), Flow)
        return
    assert model.settings["max_depth"] == 30
    assert described_task(description, None) == Depth(30.0)
    place = next(row for name, row in found.items() if name.startswith("place only"))
    assert place["rmse"] == pytest.approx(0, abs=0.02)  # depths are rounded to half precision


def test_meanings_go_to_files_and_back():
    for task in (Depth(12.5), Flow(), Segmentation(("a", "b"), np.eye(2, 3, dtype=np.uint8))):
        facts = LabelFacts.model_validate(json.loads(json.dumps(facts_of(task).to_json())))
        again = task_of(facts)
        assert again.name == task.name and facts_of(again) == facts
    assert described_task({}, None) is None
    with pytest.raises(DataError):
        described_task({"labels": {"task": "segmentation", "classes": "many"}}, "file")


@pytest.mark.parametrize(
    ("sensor", "size"),
    [((48, 64), (48, 64)), ((120, 160), (128, 176)), ((260, 346), (256, 352)),
     ((480, 640), (480, 640)), ((720, 1280), (368, 640)), ((180, 240), (176, 240))],
)  # fmt: skip
def test_the_input_shows_the_whole_sensor(sensor, size):
    assert size_near(*sensor) == size
    assert Fit(*sensor, *size, STRETCH).crop == (0, 0, *sensor)


def test_the_input_is_that_of_the_stores_sensor(place):
    assert default_size(PairStore(place / "store")) == (48, 64)


def test_counts_of_a_store_are_those_of_its_parts(place):
    store = PairStore(place / "store")
    found = class_counts(store, LabelFacts.model_validate(store.manifest["labels"]))
    assert list(found) == ["train", "test"] and found["train"].of == 15
