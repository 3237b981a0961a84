"""What is known of each place without events, against counts by hand, and its way into reports."""

import numpy as np
import pytest
import torch
from conftest import DATA, random_events

from scaleevent.benchmarks.baselines import (
    Baseline,
    baseline_scores,
    baselines_for,
    constant_baseline,
    place_baseline,
)
from scaleevent.benchmarks.evaluation import Evaluation
from scaleevent.benchmarks.report import result_table
from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.benchmarks.stamp import UNKNOWN
from scaleevent.checkpoint import load_task, save_task
from scaleevent.commands import info
from scaleevent.config.data import InfoConfig
from scaleevent.decoders.linear import Linear
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import CheckpointError, DataError
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.windows import Window
from scaleevent.pairs.pair import Label, Pair
from scaleevent.pairs.shard import FORMAT, ShardWriter
from scaleevent.pairs.store import MANIFEST, PairStore, finish_shard
from scaleevent.system.files import write_json
from scaleevent.tasks.depth import Depth
from scaleevent.tasks.flow import Flow
from scaleevent.tasks.segmentation import Segmentation

CLASSES = Segmentation(("a", "b", "c", "d"), np.zeros((4, 3), np.uint8))
GRID = (5, 7)


def one_at_a_time(labels):
    """As a store gives them; every label is overwritten by the next, so none can be kept."""

    def targets():
        buffer = np.empty_like(labels[0])
        for label in labels:
            buffer[:] = label
            yield buffer
            buffer[:] = 3

    return targets


def test_the_class_of_a_place_is_the_most_frequent_one():
    rng = np.random.default_rng(0)
    labels = [rng.choice([0, 1, 2, 2, 255], GRID) for _ in range(12)]
    for label in labels:
        label[0] = 255  # never labelled
        label[1] = 3
    labels[0][1, :3], labels[1][1, :3] = 255, 255
    for number, label in enumerate(labels):
        label[2] = number % 2  # a tie of two classes
    found = CLASSES.place_prior(one_at_a_time(labels), GRID)
    everything = np.stack(labels)
    totals = [int((everything == k).sum()) for k in range(4)]
    assert totals[1] != totals[0] and found.dtype == np.uint8
    for y in range(GRID[0]):
        for x in range(GRID[1]):
            counts = [sum(int(label[y, x]) == k for label in labels) for k in range(4)]
            best = max(range(4), key=lambda k: (counts[k], totals[k], -k))
            assert found[y, x] == best
    assert (found[0] == int(np.argmax(totals))).all() and (found[1] == 3).all()


@pytest.mark.parametrize("count", [1, 2, 5, 24])
def test_the_depth_of_a_place_is_the_median_of_half_precision(count):
    rng = np.random.default_rng(count)
    labels = np.exp(rng.uniform(np.log(0.01), np.log(80), (count, *GRID))).astype(np.float32)
    labels[rng.random(labels.shape) < 0.3] = np.nan
    labels[:, 0, 0] = np.nan
    labels[:, 1, 1] = 80.0
    labels[:, 2, 2] = np.linspace(7, 7.01, count)  # within a few steps of half precision
    found = Depth(80.0).place_prior(one_at_a_time(labels), GRID)
    assert found.dtype == np.float16
    medians = np.full(GRID, np.nan, np.float16)
    for y in range(GRID[0]):
        for x in range(GRID[1]):
            known = sorted(float(v) for v in labels[:, y, x] if np.isfinite(v))
            if known:
                medians[y, x] = np.float16(known[(len(known) - 1) // 2])
    rest = sorted(medians[np.isfinite(medians)].tolist())
    expected = np.where(np.isfinite(medians), medians, np.float16(rest[(len(rest) - 1) // 2]))
    assert np.array_equal(found, expected)
    odd = np.isfinite(labels).sum(0) % 2 == 1
    assert np.allclose(found[odd], np.nanmedian(labels[:, odd], 0), rtol=2**-11)


def test_no_depth_of_a_place_is_out_of_range():
    limit = 10.006  # half precision rounds it up
    labels = [np.full(GRID, limit, np.float32), np.full(GRID, 1e-9, np.float32)]
    for label in labels:
        (found,) = np.unique(Depth(limit).place_prior(one_at_a_time([label]), GRID))
        assert 0 < found <= limit


def test_the_flow_of_a_place_is_the_mean():
    rng = np.random.default_rng(0)
    labels = [rng.normal(size=(2, *GRID)).astype(np.float32) for _ in range(6)]
    for number, label in enumerate(labels):
        label[number % 2, number % 5, number] = np.nan  # one component is enough
        label[:, 4, 4] = np.nan
    found = Flow().place_prior(one_at_a_time(labels), GRID)
    sums, counts = np.zeros((2, *GRID)), np.zeros(GRID)
    for label in labels:
        for y in range(GRID[0]):
            for x in range(GRID[1]):
                if np.isfinite(label[:, y, x]).all():
                    sums[:, y, x] += label[:, y, x]
                    counts[y, x] += 1
    assert counts[4, 4] == 0 and counts[0, 0] == 5 and found.dtype == np.float16
    expected = sums / np.maximum(counts, 1)
    expected[:, 4, 4] = [expected[k][counts > 0].mean() for k in (0, 1)]
    assert np.allclose(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("task", "nothing"),
    [
        (CLASSES, np.full(GRID, 255)),
        (Depth(), np.full(GRID, np.nan, np.float32)),
        (Flow(), np.full((2, *GRID), np.nan, np.float32)),
    ],
)
def test_labels_of_nothing_give_no_prior(task, nothing):
    with pytest.raises(DataError, match="no training label"):
        task.place_prior(one_at_a_time([nothing, nothing]), GRID)


# On stores


def write_store(folder, labels, splits):
    """A pair a recording; labels of one pair by name, on sensors of their own size."""
    folder.mkdir()
    path = folder / "a.h5"
    with ShardWriter(path) as writer:
        for number, (own, split) in enumerate(zip(labels, splits, strict=True)):
            height, width = next(iter(own.values())).shape[-2:]
            at = 1000 * (number + 1)
            events = random_events(60, height, width, 1000, number, at - 1000)
            after = random_events(60, height, width, 1000, number, at)
            writer.add(
                Pair(
                    recording=f"{folder.name}-{number}",
                    image_us=at,
                    image=b"",
                    events=events,
                    window=Window(at - 1000, at),
                    after=(Window(at, at + 1000), after),
                    labels={name: Label(values, at, at) for name, values in own.items()},
                    provenance={"split": split},
                )
            )
    entry = finish_shard(path, len(splits), {}, "job")
    manifest = {"format": FORMAT, "kind": "pairs", "settings": {}, "shards": [entry]}
    write_json(folder / MANIFEST, manifest)
    return PairStore(folder)


def street(tmp_path, sizes, task=CLASSES, name="s"):
    """Samples of each size: a layout that holds, and a corner that does not; the last one tests."""
    rng = np.random.default_rng(0)
    labels = []
    for number, (height, width) in enumerate(sizes):
        classes = np.zeros((height, width), np.uint8)
        classes[height // 2 :] = 1
        classes[: height // 4, : width // 4] = 2 if number == len(sizes) - 1 else 3
        classes[rng.random(classes.shape) < 0.05] = 255
        depth = np.where(classes == 255, np.nan, 10.0 + classes).astype(np.float32)
        flow = np.broadcast_to(np.array([width, height])[:, None, None] / 8, (2, height, width))
        labels.append({"semantics": classes, "depth": depth, "flow": flow.astype(np.float32)})
    splits = ["train"] * (len(sizes) - 1) + ["test"]
    settings = InputSettings(16, 24, patch=8, stretch=0.05)
    return LabelledSamples([write_store(tmp_path / name, labels, splits)], task, settings)


def test_the_score_is_a_count_by_hand(tmp_path):
    samples = street(tmp_path, [(40, 48)] * 4)  # the input shows rows 4 to 36
    train, test = np.arange(3), [3]
    place = place_baseline(samples, train)
    assert place.name == "place only" and place.values.shape == (32, 48) == samples.size(0)
    truth, confusion = samples.label(3), np.zeros((4, 4), int)
    for y in range(32):
        for x in range(48):
            votes = [int(samples.label(int(i))[y, x]) for i in train]
            counts = [votes.count(k) for k in range(4)]  # no ties of seen classes in this layout
            if truth[y, x] != 255:
                confusion[truth[y, x], int(np.argmax(counts)) if any(counts) else 1] += 1
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    iou = 100 * confusion.diagonal() / np.maximum(union, 1)
    constant = constant_baseline(samples, train)
    scores = baseline_scores([constant, place], samples, test)
    assert list(scores) == ["b everywhere", "place only"]
    assert scores["place only"]["miou"] == pytest.approx(iou.mean())
    assert scores["place only"]["iou a"] > 75 > scores["b everywhere"]["iou a"] == 0
    assert scores["place only"]["iou c"] == 0  # what is new in the test picture nobody knows


def test_labels_of_other_sizes_meet_on_one_grid(tmp_path):
    sizes = [(32, 48), (64, 96), (16, 24), (128, 192)]
    samples = street(tmp_path, sizes)
    place = place_baseline(samples, np.arange(3))
    assert place.values.shape == (32, 48)
    assert place.values[0, 0] == 3 and place.values[-1, -1] == 1
    assert baseline_scores([place], samples, [3])["place only"]["iou b"] == 100
    samples = street(tmp_path, sizes, Flow(), "f")
    place = place_baseline(samples, np.arange(3))  # vectors are scaled with the grid
    assert place.values.shape == (2, 32, 48)
    assert (place.values[0] == 6).all() and (place.values[1] == 4).all()
    assert baseline_scores([place], samples, [3])["place only"]["dense_epe"] == 0


def test_a_baseline_is_scored_where_the_model_is(tmp_path):
    samples = street(tmp_path, [(32, 48)] * 3)
    for one in (constant_baseline(samples, [0, 1]), place_baseline(samples, [0, 1])):
        at_input = baseline_scores([one], samples, [2], at_input_size=True)[one.name]
        truth = samples.eval_sample(2, at_input_size=True).truth.values
        assert truth.shape == (16, 24) and at_input["pixels"] == (truth != 255).sum()


def test_eval_takes_the_prior_of_the_checkpoint_else_of_the_labels_here(tmp_path):
    samples, train = street(tmp_path, [(32, 48)] * 3, Depth()), np.arange(2)
    prior = np.full((4, 6), 33.0, np.float16)
    constant, own = baselines_for(samples, train, prior, quiet=True)
    assert constant.name.endswith("m everywhere")
    assert own.name == "place only" and own.values is prior
    (alone,) = baselines_for(samples, train[:0], prior, quiet=True)
    assert alone.values is prior
    _, here = baselines_for(samples, train, None, quiet=True)
    assert here.name == "place only, from the training labels here"
    assert np.array_equal(here.values, place_baseline(samples, train).values)
    (nothing,) = baselines_for(samples, train[:0], None, quiet=True)
    scores = baseline_scores([nothing, own], samples, [2])
    assert scores["place only: no training labels here"] == {}
    evaluation = Evaluation({}, 0, 0, {}, UNKNOWN)
    columns, rows = result_table("street-depth", Depth(), "full", evaluation, scores)
    assert [row[0] for row in rows] == [nothing.name, "place only"]
    assert set(rows[0][1:]) == {None} and rows[1][columns.index("rmse")] > 20


# In task files


def model(task):
    torch.manual_seed(0)
    encoder = Encoder(ARCHS["tiny"])
    encoder.input = InputSettings(16, 24, 8)
    return Linear(encoder, task.name, **task.decoder_settings)


DEPTH = Depth()
PRIORS = {
    CLASSES: np.array([[0, 3], [2, 1]], np.uint8),
    DEPTH: np.array([[1.5, 80.0]], np.float16),
    Flow(): np.array([[[-2.5, 0.0]], [[0.25, 9.0]]], np.float16),
}


@pytest.mark.parametrize("task", PRIORS, ids=lambda task: task.name)
def test_a_task_file_holds_the_prior(tmp_path, task):
    prior, decoder = PRIORS[task], model(task)
    save_task(tmp_path / "without.safetensors", decoder, {})
    decoder.place_prior = prior
    save_task(tmp_path / "with.safetensors", decoder, {})
    found = load_task(tmp_path / "with.safetensors")[0].place_prior
    assert found.dtype == prior.dtype and np.array_equal(found, prior)
    assert load_task(tmp_path / "without.safetensors")[0].place_prior is None
    facts = [info.run(InfoConfig(path=path)).facts for path in sorted(tmp_path.iterdir())]
    assert facts[0]["parameters"] == facts[1]["parameters"]  # it is no weight
    shapes = {"with": prior[..., None], "type": prior.astype(np.float32)}
    for name, wrong in shapes.items():
        decoder.place_prior = wrong
        save_task(tmp_path / f"{name}.safetensors", decoder, {})
        with pytest.raises(CheckpointError, match="place prior"):
            load_task(tmp_path / f"{name}.safetensors")


def test_older_task_files_have_none():
    assert load_task(DATA / "task_v1.safetensors")[0].place_prior is None


def test_a_prior_is_as_good_as_a_prediction_on_any_grid():
    depth = Baseline("place only", PRIORS[DEPTH])
    assert depth.predict(DEPTH, (2, 4), 0).tolist() == [[1.5, 1.5, 80.0, 80.0]] * 2
