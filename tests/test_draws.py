"""Few-shot subsets, what an epoch draws, the released draw of a score."""

import itertools

import numpy as np
import pytest
from test_labelled import SETTINGS, write_store

from scaleevent.benchmarks.draws import (
    TrainingLabels,
    few_shot,
    mean_and_spread,
    redraw,
    sequences_of,
)
from scaleevent.benchmarks.samples import BenchmarkSplit, LabelledSamples
from scaleevent.config.benchmarks import DSEC_CLASSES
from scaleevent.config.downstream import EvalConfig, FinetuneConfig, finetune_config
from scaleevent.config.settings import load_config
from scaleevent.errors import ConfigError, DataError
from scaleevent.tasks.depth import Depth
from scaleevent.tasks.segmentation import Segmentation
from scaleevent.tasks.task import GroundTruth

SIZES = (939, 681, 235)  # labels of three sequences of DSEC-Semantic


def config(**settings):
    """Of a run that draws from three sequences."""
    return FinetuneConfig(
        benchmark="dsec-semantic", checkpoint="random", **{"batch": 12, **settings}
    )


def labels(**settings):
    """Three sequences from sample 100 on, with a hole between them."""
    cfg = config(**settings)
    starts = (100, 2000, 3000)
    available = np.concatenate([np.arange(n) + s for n, s in zip(SIZES, starts, strict=True)])
    sequences = np.repeat([0, 1, 2], SIZES)
    kept = few_shot(available, sequences, cfg.fraction, cfg.subset, cfg.seed)
    return TrainingLabels(available, sequences, kept, cfg)


def test_subsets_are_taken_of_every_sequence():
    indices, one = np.arange(100, 350), np.zeros(250, int)
    assert few_shot(indices, one, 0.01, "interval", 0).tolist() == [100, 200, 300]
    assert few_shot(indices, one, 0.05, "prefix", 0).tolist() == list(range(100, 113))
    two = np.repeat([7, 3], [150, 100])
    assert few_shot(indices, two, 0.01, "interval", 0).tolist() == [100, 200, 250]
    assert few_shot(indices, two, 0.02, "prefix", 0).tolist() == [100, 101, 102, 103, 250, 251, 252]
    mixed = np.tile([0, 1], 125)  # sequences that alternate
    assert few_shot(indices, mixed, 0.02, "interval", 0).tolist() == [100, 101, 200, 201, 300, 301]
    for strategy in ("interval", "prefix", "random"):
        assert np.array_equal(few_shot(indices, two, 1.0, strategy, 0), indices)
        assert len(few_shot(indices[:2], two[:2], 0.01, strategy, 0)) >= 1


def test_random_subsets_take_any_fraction():
    indices, sequences = np.arange(100, 350), np.zeros(250, int)
    for strategy in ("interval", "prefix"):
        with pytest.raises(ConfigError, match="every k-th"):
            few_shot(indices, sequences, 0.7, strategy, 0)
    drawn = few_shot(indices, sequences, 0.7, "random", 1)
    assert len(drawn) == 175 and (np.diff(drawn) > 0).all() and set(drawn) <= set(indices)
    assert np.array_equal(drawn, few_shot(indices, sequences, 0.7, "random", 1))
    assert not np.array_equal(drawn, few_shot(indices, sequences, 0.7, "random", 2))


def test_recordings_of_one_pair_are_one_sequence(tmp_path):
    store = write_store(tmp_path / "s")
    samples = LabelledSamples([store], Depth(), SETTINGS)
    found = sequences_of(samples)
    assert found[0] == found[1] != found[2] == found[3]
    store.recordings = np.array([b"a", b"b", b"c", b"c"])
    found = sequences_of(samples)
    assert found[0] == found[1] != found[2] == found[3]


def test_a_fraction_of_the_labels_trains_for_as_many_steps():
    full, few = labels(), labels(fraction=0.01)
    assert len(few.kept) == 10 + 7 + 3
    assert few.per_epoch == full.per_epoch == sum(SIZES)
    own = labels(fraction=0.01, steps="subset")
    assert own.per_epoch == 20 and sorted(own.draw(0)) == own.kept.tolist()
    assert "1,855 samples of 20" in few.describe() and "all labels" in few.describe()
    assert "20 samples of 20" in own.describe() and "the subset" in own.describe()
    assert labels(fraction=0.01, steps="subset", batch=24).per_epoch == 24


def test_a_small_subset_is_repeated_in_whole_passes():
    few = labels(fraction=0.01, seed=3)
    drawn = few.draw(4)
    assert len(drawn) == sum(SIZES)
    whole = drawn[: 92 * 20].reshape(92, 20)
    assert (np.sort(whole, axis=1) == few.kept).all()
    assert len(np.unique(whole, axis=0)) == 92 and len(set(drawn[92 * 20 :])) == 15
    assert np.array_equal(drawn, labels(fraction=0.01, seed=3).draw(4))
    assert not np.array_equal(drawn, few.draw(5))
    assert not np.array_equal(drawn, labels(fraction=0.01, seed=4).draw(4))


def chi_square(drawn, expected):
    """Of draws against their probabilities by index."""
    found = np.array([np.count_nonzero(drawn == index) for index in expected])
    wanted = np.array(list(expected.values())) * len(drawn)
    assert found.sum() == len(drawn)
    return ((found - wanted) ** 2 / wanted).sum()


def test_released_epochs_are_2n_draws_balanced_by_sequence():
    every = labels(sampling="released")
    assert every.per_epoch == 2 * sum(SIZES)
    drawn = np.concatenate([every.draw(epoch) for epoch in range(20)])
    shares = [np.isin(drawn, every.available[every.sequences == s]).mean() for s in range(3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.01)
    sizes = np.array(SIZES)[every.sequences]
    expected = dict(zip(every.available.tolist(), 1 / 3 / sizes, strict=True))
    assert chi_square(drawn, expected) < 1854 + 4 * np.sqrt(2 * 1854)  # four SD
    assert np.array_equal(every.draw(3), labels(sampling="released").draw(3))
    assert not np.array_equal(every.draw(3), every.draw(4))


def test_released_epochs_of_an_interval_take_the_label_before_each_draw():
    """As the released loader: frame // k * k, so that a short last interval weighs less."""
    few = labels(fraction=0.01, sampling="released")
    assert few.per_epoch == 2 * sum(SIZES)
    assert labels(fraction=0.01, sampling="released", steps="subset").per_epoch == 40
    drawn = np.concatenate([few.draw(epoch) for epoch in range(20)])
    expected = {}
    for size, start in zip(SIZES, (100, 2000, 3000), strict=True):
        for first in range(0, size, 100):
            expected[start + first] = min(100, size - first) / size / 3
    assert list(expected) == few.kept.tolist()
    assert chi_square(drawn, expected) < 43.8  # 0.1 % point of 19 degrees of freedom
    prefix = labels(fraction=0.01, subset="prefix", sampling="released")
    assert set(prefix.draw(0)) <= set(prefix.kept.tolist())


def test_released_draws_of_sequences_that_alternate_stay_within_what_is_kept():
    """Samples of several stores need not lie sequence by sequence."""
    available, sequences = np.arange(50, 650), np.tile([2, 0, 1], 200)
    cfg = config(fraction=0.1, sampling="released")
    kept = few_shot(available, sequences, cfg.fraction, cfg.subset, cfg.seed)
    drawn = TrainingLabels(available, sequences, kept, cfg).draw(0)
    assert set(drawn.tolist()) == set(kept.tolist())
    shares = [np.isin(drawn, available[sequences == s]).mean() for s in range(3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.06)


@pytest.mark.parametrize(("train", "test", "found"), [
    ((), (0,), "0 training, 1 test"), ((0,), (), "1 training, 0 test"),
])  # fmt: skip
def test_a_benchmark_without_either_part_is_refused(tmp_path, train, test, found):
    samples = LabelledSamples([write_store(tmp_path / "a")], Depth(80.0), SETTINGS)
    split = BenchmarkSplit(*(np.array(part, np.int64) for part in (train, test)))
    with pytest.raises(DataError, match="needs training and test recordings") as caught:
        TrainingLabels.of(samples, split, config())
    assert found in str(caught.value) and str(tmp_path / "a") in str(caught.value)


def test_the_released_preset_draws_as_many_steps_as_the_authors():
    cfg = finetune_config(
        {"benchmark": "dsec-semantic", "checkpoint": "random", "preset": "released"}
    )
    sizes = [n for name, n in cfg.lists.items() if name[-4:-2] not in ("13", "14", "15")]
    assert sum(sizes) == 7945
    sequences = np.repeat(np.arange(8), sizes)
    everything = TrainingLabels(np.arange(7945), sequences, np.arange(7945), cfg)
    assert cfg.epochs == 50 and everything.per_epoch // cfg.batch == 662
    flags = {"benchmark": "ddd17-seg", "checkpoint": "random", "preset": "released"}
    lists = dict(finetune_config(flags).lists)
    assert lists.pop("dir1") == 3571 and sum(lists.values()) == 15005
    assert finetune_config(flags | {"labels": "all"}).lists is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"benchmark": "dsec-depth", "draw": "released"}, "--draw is only for segmentation"),
        ({"benchmark": "street-flow", "draw": "released"}, "--draw is only for segmentation"),
        ({"benchmark": "street-semantic", "labels": "released"}, "only for dsec-semantic, ddd17"),
    ],
)
def test_what_the_authors_did_not_do_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        load_config(EvalConfig, {"checkpoint": "x.safetensors"} | settings)


def test_released_draws_of_a_score_are_balanced_by_sequence():
    """A short sequence weighs as much as a long one; the exact score counts every label once."""
    task = Segmentation.of(DSEC_CLASSES)
    truth = np.array([[0, 1], [2, 3]], np.uint8)
    right = task.update(truth, GroundTruth(truth, truth > 9, "right"))
    wrong = task.update((truth + 1) % 4, GroundTruth(truth, truth > 9, "wrong"))
    states, names = [right] * 90 + [wrong] * 10, ["long"] * 90 + ["short"] * 10
    assert task.compute(states, names)["acc"] == 90
    drawn = redraw(task, states, names, 200)
    assert len({one["acc"] for one in drawn}) > 5
    assert {one["samples"] for one in drawn} == {100}
    mean, spread = mean_and_spread(drawn)
    assert mean["acc"] == pytest.approx(50, abs=1.5)
    assert spread["acc"] == pytest.approx(5, abs=1)  # of a fair coin thrown 100 times, in percent
    again = redraw(task, states, names, 3)
    assert list(again) == list(itertools.islice(drawn, 3))
    mean, spread = mean_and_spread([{"acc": 1, "iou car": 2.0}, {"acc": 3, "iou car": 2.0}])
    assert mean == {"acc": 2, "iou car": 2} and spread == {"acc": np.sqrt(2), "iou car": 0}
