"""Labelled samples from a store, the split of a benchmark, and the authors' lists."""

import numpy as np
import pytest
from conftest import random_events

from scaleevent.benchmarks.samples import LabelledSamples, benchmark_split
from scaleevent.errors import DataError
from scaleevent.grids.inputs import InputSettings, voxel_input
from scaleevent.grids.voxels import voxelize
from scaleevent.grids.windows import Window
from scaleevent.pairs.pair import Label, Pair
from scaleevent.pairs.shard import FORMAT, ShardWriter
from scaleevent.pairs.store import MANIFEST, PairStore, finish_shard
from scaleevent.system.files import write_json
from scaleevent.tasks.depth import Depth
from scaleevent.tasks.flow import Flow

SETTINGS = InputSettings(32, 48, patch=8, stretch=0.05)


def write_store(folder, label_size=(40, 48), splits=("train", "test"), **provenance):
    """Four pairs of two recordings, with depth, flow and the window after."""
    folder.mkdir()
    path = folder / "a.h5"
    with ShardWriter(path) as writer:
        for number in range(4):
            depth = np.full(label_size, 1.0 + number, np.float32)
            depth[:4] = np.nan
            recording = number // 2
            writer.add(
                Pair(
                    recording=f"recording{recording}",
                    image_us=1000 * (number + 1),
                    image=b"",
                    events=random_events(500, 40, 48, 1000, number, 1000 * number),
                    window=Window(1000 * number, 1000 * (number + 1)),
                    after=(
                        Window(1000 * (number + 1), 1000 * (number + 2)),
                        random_events(300, 40, 48, 1000, 9 + number, 1000 * (number + 1)),
                    ),
                    labels={
                        "depth": Label(depth, 1000 * (number + 1), 1000 * (number + 1)),
                        "flow": Label(np.full((2, *label_size), number, np.float32), 0, 1),
                    },
                    provenance=provenance or {"split": splits[recording], "file_index": number},
                )
            )
    entry = finish_shard(path, 4, {}, "job")
    manifest = {"format": FORMAT, "kind": "pairs", "settings": {}, "shards": [entry]}
    write_json(folder / MANIFEST, manifest)
    return PairStore(folder)


def test_input_and_target_of_a_sample(tmp_path):
    samples = LabelledSamples([write_store(tmp_path / "s")], Flow(), SETTINGS)
    sample = samples[1]
    fit = SETTINGS.fit(40, 48)
    events = random_events(300, 40, 48, 1000, 10, 2000)
    after = voxel_input(voxelize(events, Window(2000, 3000), 3), fit)
    assert np.array_equal(sample["after"].numpy(), after)
    assert sample["voxel"].shape == (3, 32, 48) and sample["target"].shape == (2, 32, 48)
    assert "after" not in LabelledSamples(samples.pairs.stores, Depth(), SETTINGS)[1]


def test_the_ground_truth_is_the_label_in_the_inputs_view(tmp_path):
    samples = LabelledSamples([write_store(tmp_path / "s")], Depth(), SETTINGS)
    sample = samples.eval_sample(2)
    rows, columns = SETTINGS.fit(40, 48).crop[2:]
    assert sample.truth.values.shape == samples.size(2) == (rows, columns) == (32, 48)
    assert sample.recording == "recording1" and sample.file_index == 2
    events = random_events(500, 40, 48, 1000, 2, 2000)
    seen = np.zeros((40, 48), bool)
    seen[events.y, events.x] = True
    assert np.array_equal(sample.truth.events, seen[4:36])
    at_input = samples.eval_sample(2, at_input_size=True)
    assert at_input.truth.values.shape == (32, 48)
    assert np.array_equal(at_input.truth.values, samples.target(2).numpy(), equal_nan=True)
    assert samples.identity(3)["image_us"] == 4000


def test_a_label_on_other_pixels_is_refused(tmp_path):
    samples = LabelledSamples([write_store(tmp_path / "s", label_size=(20, 24))], Depth(), SETTINGS)
    with pytest.raises(DataError, match="differ in size") as error:
        samples[0]
    assert "label 20x24" in str(error.value) and "pair 0" in str(error.value)


def test_missing_labels_are_named(tmp_path):
    store = write_store(tmp_path / "s")
    task = Depth()
    object.__setattr__(task, "label", "semantics")
    with pytest.raises(DataError, match="without semantics"):
        LabelledSamples([store], task, SETTINGS)[0]
    assert LabelledSamples([store], task, SETTINGS).eval_sample(0).truth is None


def test_the_split_is_the_recordings(tmp_path):
    samples = LabelledSamples([write_store(tmp_path / "s")], Depth(), SETTINGS)
    split = benchmark_split(samples)
    assert split.train.tolist() == [0, 1] and split.test.tolist() == [2, 3]
    assert samples.recordings(split.test) == {"recording1"}
    lost = LabelledSamples([write_store(tmp_path / "t", splits=("train", ""))], Depth(), SETTINGS)
    with pytest.raises(DataError, match="recording1"):
        benchmark_split(lost)
    lost = LabelledSamples([write_store(tmp_path / "u", splits=("", ""))], Depth(), SETTINGS)
    with pytest.raises(DataError, match="recording0, recording1"):
        benchmark_split(lost)


def test_older_stores_of_scenes_are_split_in_order(tmp_path):
    store = write_store(tmp_path / "s", seed=0, scene=7)
    split = benchmark_split(LabelledSamples([store], Depth(), SETTINGS))
    assert split.train.tolist() == [0, 1, 2] and split.test.tolist() == [3]


def test_the_authors_lists_are_the_first_labels_of_each_sequence(tmp_path):
    store = write_store(tmp_path / "s", sequence="x", split="train", number=3)
    samples = LabelledSamples([store], Depth(), SETTINGS)
    assert benchmark_split(samples, "test", {"x": 4}).train.tolist() == [0, 1, 2, 3]
    assert benchmark_split(samples, "test", {"x": 3, "y": 9}).train.tolist() == []
    assert benchmark_split(samples, "test", {"y": 9}).train.tolist() == []
    older = LabelledSamples([write_store(tmp_path / "t")], Depth(), SETTINGS)
    with pytest.raises(DataError, match="not stored which") as error:
        benchmark_split(older, "test", {"recording0": 9})
    assert "--labels all" in str(error.value)
