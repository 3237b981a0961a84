"""Files of version 0.1.0 load and mean what they meant when they were written.

`encoder_v1`, `task_v1` (random weights, a linear decoder for depth) and `store_v1` (`scaleevent
prepare street --scenes 3 --size 16x24`) were written by commit 4de371c, which also computed the
numbers below.
"""

import numpy as np
import pytest
import torch

from scaleevent.checkpoint import load_encoder, load_task
from scaleevent.commands import info
from scaleevent.config.data import InfoConfig
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.windows import Window, WindowRule
from scaleevent.pairs.store import PairStore, verify_shards
from scaleevent.predictor import Predictor
from tests.conftest import DATA, random_events

ENCODER, TASK, STORE = (
    DATA / name for name in ("encoder_v1.safetensors", "task_v1.safetensors", "store_v1")
)
EVENTS = random_events(6_000, 40, 56, 100_000, seed=3)
AT = 80_000
RULE = WindowRule(quantile=0.1)  # what no rule meant then; the files do not hold one

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_encoder():
    assert load_encoder(ENCODER).input == InputSettings(32, 48, 8)
    features = Predictor.load(ENCODER).features(EVENTS, AT, RULE)
    assert features.shape == (4, 6, 24)
    assert features.abs().mean().item() == pytest.approx(0.8151152729988098, abs=1e-5)
    first = [-0.4868280291557312, -1.5636074542999268, 0.5956341028213501]
    assert features[0, 0, :3].tolist() == pytest.approx(first, abs=1e-5)
    last = [-2.0495028495788574, -0.9781232476234436]
    assert features[3, 5, -2:].tolist() == pytest.approx(last, abs=1e-5)


def test_a_task_model():
    assert load_task(TASK)[1]["benchmark"] == "street-depth"
    depth = Predictor.load(TASK).predict(EVENTS, AT, RULE)
    assert depth.shape == (37, 56) and depth.dtype == torch.float32
    assert depth.mean().item() == pytest.approx(22.910018920898438, rel=1e-5)
    assert depth[0, 0].item() == pytest.approx(21.41583251953125, rel=1e-5)
    assert depth[-1, -1].item() == pytest.approx(26.823467254638672, rel=1e-5)


def test_a_pair_store():
    store = PairStore(STORE)
    verify_shards(store)
    assert len(store) == 3 and store.fingerprint == "ec5395ab754fca6b"
    recorded = [
        (38, 38.0, 23.156696319580078),
        (72, 70.11576080322266, 21.499313354492188),
        (104, 100.46768188476562, 19.477880477905273),
    ]
    for index, (number, voxel_sum, mean_depth) in enumerate(recorded):
        shard, row = store.locate(index)
        events, window = shard.events(row)
        assert len(events) == number and window == Window(950_000, 1_000_000)
        assert np.abs(shard.voxel(row, 3)).sum() == pytest.approx(voxel_sum, rel=1e-5)
        label = shard.label("depth", row)
        assert label is not None and label.values.shape == (16, 24)
        assert np.nanmean(label.values) == pytest.approx(mean_depth, rel=1e-5)


@pytest.mark.parametrize(
    ("path", "facts"),
    [
        (ENCODER, {"kind": "encoder", "parameters": 19_200, "step": 1}),
        (TASK, {"kind": "task", "parameters": 19_225, "task": "depth"}),
        (STORE, {"kind": "pairs", "pairs": 3, "events kept": 214, "version": "0.1.0"}),
    ],
)
def test_info(path, facts):
    found = info.run(InfoConfig(path=path)).facts
    assert {name: found[name] for name in facts} == facts
