"""Flow errors against recorded numbers of the references and slow loops."""

import json
import math

import numpy as np
import pytest
from conftest import DATA
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scaleevent.errors import DataError
from scaleevent.metrics.flow import VARIANTS, compute, update

EXPECTED = json.loads((DATA / "metrics_expected.json").read_text())
WITH = np.load(DATA / "flow.npz")
PREDICTION, TARGET = WITH["pred"], WITH["gt"]
EVENTS, VALID = WITH["event_mask"], WITH["valid"]
NAMES = {  # ours: where recorded, the reference's
    "evflownet_aee": ("evflownet", "AEE"),
    "evflownet_below_3px": ("evflownet", "frac_below_3px"),
    "evflownet_pixels": ("evflownet", "n_points"),
    "tub_rip_epe": ("tub_rip", "EPE"),
    **{f"tub_rip_{n}pe": ("tub_rip", f"{n}PE") for n in (1, 2, 3, 5, 10, 20)},
    "tub_rip_ae": ("tub_rip", "AE"),
    "tudelft_aee": ("tudelft_outlier_uses_pred_magnitude", "AEE"),
    "tudelft_outlier": ("tudelft_outlier_uses_pred_magnitude", "outlier_frac"),
    "bflow_epe": ("bflow_dsec", "epe"),
    **{f"bflow_{n}pe": ("bflow_dsec", f"{n}pe") for n in (1, 2, 3)},
    "bflow_ae": ("bflow_dsec", "ae_deg"),
    "dense_epe": ("kitti_fl_rule_formula", "epe"),
    "dense_fl_all": ("kitti_fl_rule_formula", "fl_all"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("i", range(4))
def test_equals_the_references(name, i):
    reference, theirs = NAMES[name]
    target = TARGET[i]
    if reference != "evflownet":  # the others were recorded with 0 for infinite flow
        target = np.where(np.isfinite(target), target, 0)
    if name.startswith(("bflow", "dense")):
        target = np.where(VALID[i], target, np.nan)
    state = update(PREDICTION[i], target, EVENTS[i])
    assert state[name] == pytest.approx(EXPECTED[reference][i][theirs], rel=1e-5)


def slow(prediction, target, events):
    """`sparse` errors, the outliers' rule and the angle, a pixel at a time."""
    rows = []
    for i in np.ndindex(events.shape):
        (u, v), (a, b) = target[:, *i].tolist(), prediction[:, *i].tolist()
        if events[i] and math.isfinite(u) and math.isfinite(v):
            e, size = math.hypot(a - u, b - v), math.hypot(u, v)
            norms = math.sqrt(1 + u * u + v * v) * math.sqrt(1 + a * a + b * b)
            angle = math.degrees(math.acos(min((1 + u * a + v * b) / norms, 1.0)))
            rows.append((e, *(100 * (e > n) for n in (1, 2, 3)), angle))
            rows[-1] += (100 * (e > 3 and e > 0.05 * size),)
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return dict(zip(("epe", "1pe", "2pe", "3pe", "ae", "fl_all"), means, strict=True)), len(rows)


@pytest.mark.parametrize("scale", [1, 10, 100])
def test_sparse_equals_a_slow_loop(scale):
    rng = np.random.default_rng(scale)
    target = rng.normal(0, scale, (2, 9, 12))
    prediction = target + rng.normal(0, 3, target.shape)
    target[0, rng.random((9, 12)) < 0.1] = np.nan
    target[1, rng.random((9, 12)) < 0.1] = np.inf
    events = rng.integers(0, 3, (9, 12))
    state = update(prediction, target, events)
    expected, count = slow(prediction, target, events)
    assert state["sparse_pixels"] == count
    for name, value in expected.items():
        assert state[f"sparse_{name}"] == pytest.approx(value, rel=1e-9), name
    everywhere = update(prediction, target, np.ones((9, 12), bool))
    for name in expected:
        assert everywhere[f"sparse_{name}"] == everywhere[f"dense_{name}"]


def test_outlier_rules_differ_as_the_references_do():
    """One pixel, 4 px wrong on 100 px: an outlier only for rules without the limit of 5%."""
    target, prediction = np.array([100.0, 0]), np.array([96.0, 0])
    events = np.ones((1, 1), bool)
    state = update(prediction.reshape(2, 1, 1), target.reshape(2, 1, 1), events)
    assert state["dense_3pe"] == 100
    assert state["dense_fl_all"] == state["sparse_fl_all"] == 0
    assert state["bflow_3pe"] == state["bflow_1pe"] == 0
    assert state["tudelft_outlier"] == 0
    assert state["evflownet_below_3px"] == 0
    assert "tub_rip_3pe" not in state  # v is 0
    assert state["tub_rip_pixels"] == 0
    # 5% of the predicted 20 px is below the error of 4 px, 5% of the true 84 px is not
    pair = [np.array([x, 1e-9]).reshape(2, 1, 1) for x in (79.9, 84.0)]
    state = update(*pair, events)
    assert (state["dense_fl_all"], state["tudelft_outlier"]) == (0, 1)
    assert state["tub_rip_3pe"] == pytest.approx(1, rel=1e-4)


flows = arrays(np.float32, (2, 4, 5), elements=st.floats(-200, 200, width=32))


@given(flows)
def test_equal_flow_has_no_error(flow):
    state = update(flow, flow, np.ones((4, 5), bool))
    for name, value in state.items():
        if name == "evflownet_below_3px":
            assert value == pytest.approx(1, abs=1e-4)
        elif not name.endswith("_pixels"):
            assert value == pytest.approx(0, abs=1e-5), name


@given(flows, flows)
def test_shares_fall_with_the_threshold(prediction, target):
    state = update(prediction, target)
    for variant in ("dense", "bflow"):
        fractions = [state[f"{variant}_{n}pe"] for n in (1, 2, 3)]
        assert 100 >= fractions[0] >= fractions[1] >= fractions[2] >= 0
    assert state["dense_3pe"] >= state["dense_fl_all"]


def test_summary_is_the_mean_over_samples():
    states = [update(*sample) for sample in zip(PREDICTION, TARGET, EVENTS, strict=True)]
    result = compute(states)
    assert result["samples"] == 4
    for variant in VARIANTS:
        assert result[f"{variant}_empty"] == 0
        counts = [state[f"{variant}_pixels"] for state in states]
        assert result[f"{variant}_pixels"] == sum(counts)
    assert result["sparse_epe"] == pytest.approx(np.mean([r["sparse_epe"] for r in states]))
    backwards = [json.loads(json.dumps(state)) for state in states[::-1]]
    assert compute(backwards) == result


def test_empty_samples_are_left_out_and_counted():
    whole = update(PREDICTION[0], TARGET[0], EVENTS[0])
    quiet = update(PREDICTION[0], TARGET[0], np.zeros_like(EVENTS[0]))
    unknown = update(PREDICTION[0], np.full_like(TARGET[0], np.nan), EVENTS[0])
    result = compute([unknown, quiet, whole])
    assert (result["dense_empty"], result["sparse_empty"]) == (1, 2)
    assert result["sparse_epe"] == whole["sparse_epe"]
    assert result["dense_epe"] == pytest.approx((quiet["dense_epe"] + whole["dense_epe"]) / 2)
    with pytest.raises(DataError, match="no sample has a pixel"):
        compute([unknown])


def test_without_events_only_the_dense_variants():
    result = compute([update(PREDICTION[0], TARGET[0])])
    assert {name.split("_")[0] for name in result} == {"samples", "dense", "bflow"}


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_predictions_that_are_not_finite_are_refused(value):
    prediction = PREDICTION[0].copy()
    prediction[1, 3, 7] = value
    with pytest.raises(DataError) as caught:
        update(prediction, TARGET[0], where="flying1/12")
    assert caught.value.where == "flying1/12"
    assert "row 3, column 7" in caught.value.found


def test_sizes_are_compared():
    with pytest.raises(DataError, match="differ in size"):
        update(PREDICTION[0], TARGET[0][:, :-1])
    with pytest.raises(DataError, match="differ in size"):
        update(PREDICTION[0], TARGET[0], EVENTS[0][:, :-1])
    with pytest.raises(DataError, match="differ in size"):
        update(np.zeros((3, 4, 5)), np.zeros((3, 4, 5)))
