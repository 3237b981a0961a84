"""The latency-aware score: planted answers and latencies, and `eval custom --pace real`."""

import json
from pathlib import Path

import label_files
import numpy as np
import pytest
from fakes import HEIGHT, START_US, WIDTH, fake_events
from test_end_to_end import call

from scaleevent import PairStore
from scaleevent.benchmarks.own import benchmark_of
from scaleevent.checkpoint import save_task
from scaleevent.config.downstream import EvalConfig
from scaleevent.config.settings import load_config
from scaleevent.decoders.linear import Linear
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import ConfigError, DataError
from scaleevent.grids.inputs import InputSettings
from scaleevent.live.evaluating import labelled_recordings, score_in_time

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
    encoder = Encoder(ARCHS["tiny"])
    encoder.input = InputSettings(48, 64, 8)
    save_task(folder / "task.safetensors", Linear(encoder, "segmentation", classes=3), {})
    return folder


@pytest.fixture
def model(place):
    encoder = Encoder(ARCHS["tiny"])
    encoder.input = InputSettings(48, 64, 8)
    return Linear(encoder, "segmentation", classes=3)


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
def test_planted_latencies_have_the_scores_they_must(place, model, rate, seconds):
    """The model knows what is there at the end of its window, and takes its time to say it."""
    store = PairStore(place / "store")
    benchmark = benchmark_of("custom", [place / "store"])
    recordings = labelled_recordings([store], benchmark.eval_split)
    assert recordings

    def predict(cut, fit):
        return np.full(fit.crop[2:], class_at(cut.window.end_us), np.int64), seconds

    found = score_in_time(model, benchmark.task, recordings, rate, predict)
    right, scored, early, ages = 0, 0, 0, []
    for one in recordings:
        with np.load(one.recording) as file:
            first = int(file["t"][0])
        for label in one.labels.end_us:
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


def test_recordings_that_are_gone_are_told(place, tmp_path):
    (place / "user").rename(place / "moved")
    try:
        with pytest.raises(DataError, match="are not there"):
            labelled_recordings([PairStore(place / "store")], "test")
    finally:
        (place / "moved").rename(place / "user")


@pytest.mark.parametrize(
    ("benchmark", "options", "message"),
    [
        ("street-depth", {"pace": "real"}, "labels of your own"),
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


def test_the_paths_of_a_store_are_those_of_its_recordings(place):
    [one, *_] = labelled_recordings([PairStore(place / "store")], "train")
    assert Path(one.recording).exists() and one.labels.end_us == TIMES
