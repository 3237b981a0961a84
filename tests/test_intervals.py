"""Intervals of a benchmark's headline against its metric, and the control of scene and place."""

import numpy as np
import pytest
import torch
from test_baselines import CLASSES, GRID, write_store

from scaleevent.benchmarks.baselines import PLACE_ONLY, SCENE_AND_PLACE, place_baseline
from scaleevent.benchmarks.evaluation import evaluate
from scaleevent.benchmarks.intervals import OURS, beside, headline_intervals
from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.benchmarks.scene_baseline import scene_baselines
from scaleevent.decoders.linear import Linear
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.grids.inputs import InputSettings
from scaleevent.system.ranks import ranks
from scaleevent.tasks.depth import Depth
from scaleevent.tasks.flow import Flow
from scaleevent.tasks.task import GroundTruth


def truths(task, count, rng):
    """Predictions and labels; one label has no pixel that counts."""
    for number in range(count):
        if task is CLASSES:
            label = rng.choice([0, 1, 2, 255], GRID)
            label[:] = 255 if number == 2 else label
            yield rng.integers(0, 3, GRID), label
        elif isinstance(task, Depth):
            label = np.exp(rng.uniform(0, 4, GRID))
            label[:] = np.nan if number == 2 else label
            yield np.exp(rng.uniform(0, 4, GRID)), label
        else:
            label = rng.normal(size=(2, *GRID))
            label[:] = np.nan if number == 2 else label
            yield rng.normal(size=(2, *GRID)), label


@pytest.mark.parametrize("task", [CLASSES, Depth(), Flow()], ids=lambda task: task.name)
def test_the_headline_of_sums_is_that_of_the_metric(task):
    rng = np.random.default_rng(0)
    seen = rng.random(GRID) < 0.5
    states = [task.update(p, GroundTruth(t, seen, "")) for p, t in truths(task, 9, rng)]
    for chosen in (range(9), [0, 0, 4, 2, 7]):
        own = [states[k] for k in chosen]
        expected = task.compute(own, [""] * len(own))[task.headline]
        sums = np.sum([task.headline_parts(state) for state in own], 0)
        assert float(task.headline_of(sums)) == pytest.approx(expected)
        stacked = np.stack([sums, sums])
        assert task.headline_of(stacked) == pytest.approx([expected, expected])


def test_notes_and_facts_say_what_they_cover():
    rng = np.random.default_rng(1)
    seen = np.ones(GRID, bool)
    label = [rng.integers(0, 3, GRID) for _ in range(12)]
    right = [np.where(rng.random(GRID) < 0.9, one, 0) for one in label]
    names = [f"r{k}" for k in range(12)]

    def states(predictions):
        return [
            CLASSES.update(p, GroundTruth(t, seen, ""))
            for p, t in zip(predictions, label, strict=True)
        ]

    rows = {OURS: states(right), PLACE_ONLY: states(np.zeros_like(label)), "nothing": []}
    (note,), facts = headline_intervals(CLASSES, rows, names)
    assert "95% over 12 test recordings" in note and "one training" in note
    found = facts["intervals"]
    low, high = found[f"{OURS} - {PLACE_ONLY}"]
    assert 20 < low < high and found[OURS][0] > found[PLACE_ONLY][1] and "nothing" not in found
    assert headline_intervals(CLASSES, {OURS: []}, []) == ([], {})
    (note,), facts = headline_intervals(CLASSES, rows, ["a", "b"] * 6)
    assert "no interval" in note and facts == {}


SIZE = (16, 24)


def kinds(tmp_path, task):
    """Scenes of two kinds: many events and class 1 (far) everywhere, or few and class 0 (near)."""
    labels = []
    for number in range(24):
        kind = number % 2
        classes = np.full(SIZE, kind, np.uint8)
        classes[:8] = 2
        depth = (4 + 20 * kind + np.zeros(SIZE)).astype(np.float32)
        labels.append({"semantics": classes, "depth": depth})
    store = write_store(tmp_path / task.name, labels, ["train"] * 16 + ["test"] * 8)
    return LabelledSamples([store], task, InputSettings(*SIZE, patch=8))


class Counting(Encoder):
    """Tokens that tell the number of the sample's kind in one channel, and noise in the others."""

    def tokens(self, x):
        found = torch.randn(len(x), 6, self.width, generator=torch.Generator().manual_seed(3))
        found[..., 0] = x.flatten(1)[:, :1]
        return found


@pytest.mark.parametrize("task", [CLASSES, Depth()], ids=lambda task: task.name)
def test_the_kind_of_scene_with_the_place_is_a_control(tmp_path, task, monkeypatch):
    samples = kinds(tmp_path, task)
    inputs = samples.inputs
    monkeypatch.setattr(
        samples, "inputs", lambda index: {"voxel": 0 * inputs(index)["voxel"] + index % 2}
    )
    torch.manual_seed(0)
    encoder = Counting(ARCHS["tiny"]).eval()
    encoder.input = samples.settings
    train, test = np.arange(16), list(range(16, 24))
    (scene,) = scene_baselines(samples, train, encoder)
    place = place_baseline(samples, train)
    decoder = Linear(encoder, task.name, **task.decoder_settings).eval()
    with ranks("cpu") as alone:
        evaluation = evaluate(decoder, samples, test, alone)
    assert len(evaluation.states) == len(evaluation.recordings) == 8
    found = beside((place, scene), samples, test, evaluation)
    assert list(found.results) == [PLACE_ONLY, SCENE_AND_PLACE]
    numbers = [found.results[name][task.headline] for name in (PLACE_ONLY, SCENE_AND_PLACE)]
    if task is CLASSES:
        assert numbers[1] > numbers[0] + 20  # of four classes one is absent
        assert found.results[SCENE_AND_PLACE]["acc"] > 85  # the border is blurred
    else:
        assert numbers[1] < numbers[0] - 5
    assert f"{OURS} - {SCENE_AND_PLACE}" in found.facts["intervals"]


def test_flow_has_no_such_control(tmp_path):
    samples = kinds(tmp_path, Flow())
    encoder = Encoder(ARCHS["tiny"]).eval()
    assert scene_baselines(samples, np.arange(4), encoder) == []
