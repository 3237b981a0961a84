"""The latency-aware score: planted answers and latencies, and `eval --pace real`."""

import json
from pathlib import Path

import label_files
import numpy as np
import pytest
from fakes import HEIGHT, START_US, WIDTH, fake_events
from test_benchmarks_end_to_end import BENCHMARKS
from test_end_to_end import call

from scaleevent import Events, PairStore, choose_window
from scaleevent.benchmarks.own import benchmark_of
from scaleevent.benchmarks.samples import LabelledSamples, benchmark_split
from scaleevent.checkpoint import save_task
from scaleevent.config.downstream import EvalConfig
from scaleevent.config.settings import load_config
from scaleevent.decoders.linear import Linear
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import ConfigError, DataError
from scaleevent.grids.inputs import InputSettings
from scaleevent.live.evaluating import replays, score_in_time

STEP = 30_000
TIMES = tuple(range(START_US + 40_000, START_US + 190_000, STEP))


def class_at(time_us: int) -> int:
    """What is everywhere in the scene at a time."""
    return time_us // 10_000 % 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Four recordings of a scene that changes every 10 ms, labelled every 30 ms."""
    folder = tmp_path_factory.mktemp("intime")
    root = folder / "user"
    root.mkdir()
    for seed, name in enumerate("abcd"):
        events = fake_events(seed)
        np.savez(root / f"{name}.npz", **{column: getattr(events, column) for column in "txyp"})
        for time in TIMES:
            ids = np.full((HEIGHT, WIDTH), class_at(time), np.uint8)
            label_files.write_ids(root / f"labels/{name}/{time}.png", ids)
    label_files.write_classes(root / "classes.yaml")
    call(f"prepare custom {root} --labels labels --size {HEIGHT}x{WIDTH} -o {folder}/store")
    save_task(folder / "task.safetensors", new_model("segmentation", 3), {})
    return folder


def new_model(task: str, classes: int | None = None) -> Linear:
    encoder = Encoder(ARCHS["tiny"])
    encoder.input = InputSettings(48, 64, 8)
    return Linear(encoder, task, classes=classes)


def scored_samples(name: str, store: Path) -> tuple[LabelledSamples, list[int]]:
    """The samples of a store, and those that are scored."""
    benchmark = benchmark_of(name, [store])
    samples = LabelledSamples([PairStore(store)], benchmark.task, InputSettings(48, 64, 8))
    return samples, benchmark_split(samples, benchmark.eval_split).test.tolist()


def newest_end(label_us: int, first_us: int, rate: float, seconds: float) -> int | None:
    """The end of the newest window whose prediction is finished at a label; a plain simulation."""
    ends = [first_us + round(k * 1e6 / rate) for k in range(1, 10_000)]
    free, there = 0, None
    while True:
        come = [end for end in ends if end <= free]
        end = come[-1] if come and come[-1] > (there or 0) else next(e for e in ends if e > free)
        done = max(free, end) + round(seconds * 1e6)
        if done > label_us:
            return there
        free, there = done, end
        ends = [other for other in ends if other > end]


@pytest.mark.parametrize(
    ("rate", "seconds"), [(1000, 0.0), (100, 0.004), (100, 0.013), (50, 0.03), (200, 0.001)]
)
def test_planted_latencies_have_the_scores_they_must(place, rate, seconds):
    """The model knows what is there at the end of its window, and takes its time to say it."""
    samples, indices = scored_samples("custom", place / "store")
    recordings = replays(samples, indices)
    assert recordings

    def predict(cut, fit):
        return np.full(fit.crop[2:], class_at(cut.window.end_us), np.int64), seconds

    model = new_model("segmentation", 3)
    found = score_in_time(model, samples.task, samples, recordings, rate, predict)
    right, scored, early, ages = 0, 0, 0, []
    for one in recordings:
        with np.load(one.source.recording) as file:
            first = int(file["t"][0])
        for label in one.labels_us:
            end = newest_end(label, first, rate, seconds)
            if end is None:
                early += 1
                continue
            scored += 1
            right += class_at(end) == class_at(label)
            ages.append(label - end)
    assert (found.labels, found.early) == (scored, early) and scored
    assert found.usual["acc"] == pytest.approx(100)
    assert found.aware["acc"] == pytest.approx(100 * right / scored)
    assert found.ages.percentile(50) == pytest.approx(
        np.percentile(ages, 50, method="inverted_cdf") / 1e6, rel=0.01
    )


def test_eval_scores_in_time_beside_the_usual_score(place, capsys):
    line = f"eval custom {place}/task.safetensors --data {place}/store --pace real --rate 200"
    call(f"{line} -o {place}/scored")
    report = json.loads((place / "scored/report.json").read_text())
    found = report["in time"]
    assert found["rate"] == 200 and found["labels"] + found["labels before the first prediction"]
    usual = next(row for row in report["rows"] if row[""].startswith("ours, all"))
    if not found["labels before the first prediction"]:
        assert found["usual"]["acc"] == pytest.approx(usual["acc"])
    printed = capsys.readouterr().out
    assert "newest predictions that were finished at the labels" in printed


def test_recordings_that_are_gone_are_told(place):
    samples, indices = scored_samples("custom", place / "store")
    (place / "user").rename(place / "moved")
    try:
        with pytest.raises(DataError, match="are not there"):
            replays(samples, indices)
    finally:
        (place / "moved").rename(place / "user")


@pytest.mark.parametrize(
    ("benchmark", "options", "message"),
    [
        ("street-depth", {"pace": "real"}, "needs recordings"),
        ("mvsec-flow", {"pace": "real"}, "not for flow"),
        ("custom", {"rate": 50}, "rate has no effect"),
        ("custom", {"pace": "real", "windows": 64}, "whole predictions"),
    ],
)
def test_settings_that_do_not_fit(place, benchmark, options, message):
    given = {"benchmark": benchmark, "checkpoint": place / "task.safetensors",
             "data": [place / "store"], **options}  # fmt: skip
    with pytest.raises(ConfigError) as told:
        load_config(EvalConfig, given)
    assert message in str(told.value)


def test_a_store_is_replayed_from_the_paths_it_names(place):
    samples, indices = scored_samples("custom", place / "store")
    train = [index for index in range(len(samples)) if index not in indices]
    for one in replays(samples, train):
        assert one.source.recording.exists() and one.labels_us == TIMES


@pytest.mark.parametrize(
    ("name", "classes"),
    [("dsec-semantic", 11), ("dsec-depth", None), ("mvsec-depth", None), ("ddd17-seg", 6)],
)
def test_benchmarks_are_replayed_from_their_own_layout(tmp_path, name, classes):
    """The events are those of the store, so on the labels' pixels, and the scores as planted."""
    write, *_ = BENCHMARKS[name]
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw")
    call(f"prepare {name} {tmp_path}/raw -o {tmp_path}/store --window time --window-ms 30")
    samples, indices = scored_samples(name, tmp_path / "store")
    recordings = replays(samples, indices)
    assert sorted(index for one in recordings for index in one.indices) == indices

    def answer(end_us, fit):
        value = end_us // 10_000 % 5
        return np.full(fit.crop[2:], value + (classes is None), np.int64 if classes else np.float32)

    states, names, early, rate, seconds = {"usual": [], "aware": []}, [], 0, 100, 0.013
    for one in recordings:
        size = samples.sensor(one.indices[0])
        events, fit = (
            Events.concatenate(one.source.opened().blocks(), *size),
            samples.settings.fit(*size),
        )
        for label_us, index in zip(one.labels_us, one.indices, strict=True):
            shard, row = samples.pairs.shard(index)
            stored, window = shard.events(row)
            assert choose_window(events, label_us, one.source.rule) == window and len(stored)
            again = events.between(window.start_us, window.end_us)
            for column in "txyp":
                assert (getattr(again, column) == getattr(stored, column)).all()
            end = newest_end(label_us, int(events.t[0]), rate, seconds)
            early += end is None
            if end is not None:
                truth = samples.eval_sample(index).truth
                states["usual"].append(samples.task.update(answer(label_us, fit), truth))
                states["aware"].append(samples.task.update(answer(end, fit), truth))
                names.append(one.source.scene)

    model = new_model(samples.task.name, classes)
    predict = lambda cut, fit: (answer(cut.window.end_us, fit), seconds)  # noqa: E731
    found = score_in_time(model, samples.task, samples, recordings, rate, predict)
    assert (found.labels, found.early) == (len(names), early) and names
    assert found.usual == samples.task.compute(states["usual"], names)
    assert found.aware == samples.task.compute(states["aware"], names)

    save_task(tmp_path / "task.safetensors", model, {})
    line = f"eval {name} {tmp_path}/task.safetensors --data {tmp_path}/store -o {tmp_path}/scored"
    call(f"{line} --pace real --rate 100")
    report = json.loads((tmp_path / "scored/report.json").read_text())["in time"]
    assert report["labels"] + report["labels before the first prediction"] == len(indices)
