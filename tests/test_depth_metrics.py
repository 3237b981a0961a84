"""Depth errors against recorded numbers of both references and slow loops."""

import json
import math

import numpy as np
import pytest
from conftest import DATA

from scaleevent.errors import ConfigError, DataError
from scaleevent.metrics.depth import align, compute, decode_log_depth, update

EXPECTED = json.loads((DATA / "metrics_expected.json").read_text())
WITH = np.load(DATA / "depth.npz")
TARGET, PREDICTION = WITH["target"], WITH["pred"]

DAE_NAMES = {  # ours: the reference's
    "d1": "threshold_delta_1.25",
    "d2": "threshold_delta_1.25^2",
    "d3": "threshold_delta_1.25^3",
    "abs_rel": "abs_rel_diff",
    "sq_rel": "squ_rel_diff",
    "rmse": "RMS_linear",
    "rmse_log": "RMS_log",
    "silog": "SILog",
    "mean_error": "mean_depth_error",
    "median_diff": "median_diff",
}
PREFIXES = {"dae": "", "dae_10m": "_10", "dae_20m": "_20", "dae_30m": "_30"}


def assert_dae(ours: dict, reference: dict, prefixes=PREFIXES) -> None:
    for variant, prefix in prefixes.items():
        for name, theirs in DAE_NAMES.items():
            expected = reference[f"{prefix}_{theirs}"]
            found = ours[f"{variant}_{name}"]
            assert found == pytest.approx(expected, rel=1e-5, abs=0), (variant, name)


def frames(**settings) -> list[dict]:
    return [update(p, t, **settings) for p, t in zip(PREDICTION, TARGET, strict=True)]


# Recorded numbers


@pytest.mark.parametrize("i", range(6))
def test_equals_e2depth(i):
    assert_dae(frames()[i], EXPECTED["dae_e2depth_per_frame"][i])


@pytest.mark.parametrize("i", range(6))
def test_equals_e2depth_of_log_depth(i):
    metres = decode_log_depth(WITH["pred_logdepth"][i])
    state = update(metres, TARGET[i])
    assert_dae(state, EXPECTED["e2depth_logdepth_per_frame"][i], {"dae": ""})


@pytest.mark.parametrize("i", range(6))
def test_equals_depth_anything(i):
    for name, expected in EXPECTED["dav2_eval_per_frame"][i].items():
        assert frames()[i][f"dav2_{name}"] == pytest.approx(expected, rel=1e-5), name


def test_means_equal_the_references():
    result = compute(frames())
    assert_dae(result, EXPECTED["dae_e2depth_mean"])
    for name, expected in EXPECTED["dav2_eval_mean"].items():
        assert result[f"dav2_{name}"] == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("i", range(6))
def test_least_squares_equals_the_reference(i):
    ours = align(PREDICTION[i].astype(float), TARGET[i].astype(float), "least-squares")
    expected = WITH["ls_scale"][i] * PREDICTION[i].astype(float) + WITH["ls_shift"][i]
    scale, shift = np.polyfit(PREDICTION[i].ravel().astype(float), ours.ravel(), 1)
    assert scale == pytest.approx(WITH["ls_scale"][i], rel=1e-4)
    assert shift == pytest.approx(WITH["ls_shift"][i], rel=1e-4)
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


# Slow loops


def slow(prediction, target, limit=80.0, cutoff=math.inf):
    """One frame, a pixel at a time: (dae, dav2, fraction that each excludes)."""
    clipped = [[min(max(t, 0), limit) if t == t else t for t in row] for row in target.tolist()]
    peak = max(t for row in clipped for t in row if t == t)
    dae, dav2, known = [], [], 0
    for row_p, row_t, row_c in zip(prediction.tolist(), target.tolist(), clipped, strict=True):
        for p, t, c in zip(row_p, row_t, row_c, strict=True):
            known += 0 < t <= limit
            c, q = c / peak * limit, min(max(p, 0), limit)
            if 0 < c < limit and 0 < q < limit and c < cutoff:
                dae.append((q, c))
            if 1e-3 <= t <= limit:
                dav2.append((max(p, 1e-3), t))
    n, e = len(dae), 1e-5
    logs = [math.log(t + e) - math.log(p + e) for p, t in dae]
    first = {
        "d1": sum(max(t / (p + e), p / (t + e)) <= 1.25 for p, t in dae) / n,
        "abs_rel": sum(abs(t - p) / (t + e) for p, t in dae) / n,
        "sq_rel": sum((t - p) ** 2 / (t * t + e) for p, t in dae) / n,
        "rmse": math.sqrt(sum((t - p) ** 2 for p, t in dae) / n),
        "silog": sum(v * v for v in logs) / n - (sum(logs) / n) ** 2,
        "mean_error": sum(abs(t - p) for p, t in dae) / n,
        "excluded": 1 - n / known,
        "pixels": n,
    }
    n = len(dav2)
    logs = [math.log(p / t) for p, t in dav2]
    second = {
        "d1": sum(max(t / p, p / t) < 1.25 for p, t in dav2) / n,
        "sq_rel": sum((t - p) ** 2 / t for p, t in dav2) / n,
        "rmse": math.sqrt(sum((t - p) ** 2 for p, t in dav2) / n),
        "silog": math.sqrt(sum(v * v for v in logs) / n - 0.5 * (sum(logs) / n) ** 2),
        "excluded": 1 - n / known,
        "pixels": n,
    }
    return first, second


@pytest.mark.parametrize("limit", [80.0, 25.0, 300.0])
def test_equals_a_slow_loop(limit):
    rng = np.random.default_rng(3)
    for _ in range(5):
        target = rng.uniform(-0.1, 1.3, (30, 11)) * limit
        target[rng.random(target.shape) < 0.2] = np.nan
        prediction = rng.uniform(-0.1, 1.5, target.shape) * limit
        state = update(prediction, target, max_depth=limit)
        for variant, expected in zip(("dae", "dav2"), slow(prediction, target, limit), strict=True):
            for name, value in expected.items():
                assert state[f"{variant}_{name}"] == pytest.approx(value, rel=1e-9), name
        near, _ = slow(prediction, target, limit, cutoff=10)
        assert state["dae_10m_rmse"] == pytest.approx(near["rmse"], rel=1e-9)


# Planted answers


def test_an_error_at_the_threshold_is_not_below_it():
    state = update(np.array([[64.0, 20.0]]), np.array([[64.0, 16.0]]))
    assert state["dav2_d1"] == 0.5
    assert state["dae_pixels"] == 1  # the frame's maximum never counts


def test_overshooting_hides_pixels_from_dae_and_the_share_tells():
    target = np.tile([5.0, 10.0, 20.0, 80.0], (2, 1))
    prediction = np.tile([5.0, 10.0, 900.0, 80.0], (2, 1))
    state = update(prediction, target)
    assert state["dae_abs_rel"] == pytest.approx(0, abs=1e-5)
    assert state["dae_excluded"] == 0.5
    assert state["dav2_excluded"] == 0
    assert state["dav2_rmse"] == pytest.approx(880 / 2)


def test_alignment():
    target = np.random.default_rng(0).uniform(1, 70, (8, 9))
    target[0, :4] = np.nan, 0, -1, np.inf
    known = (target > 0) & (target < 80)
    prediction = np.where(known, target, 7.0)
    halved = update(prediction / 2, target, alignment="median")
    assert halved["dav2_rmse"] == pytest.approx(0, abs=1e-9)
    shifted = update(prediction / 3 + 5, target, alignment="least-squares")
    assert shifted["dav2_rmse"] == pytest.approx(0, abs=1e-9)
    assert update(prediction / 2, target)["dav2_rmse"] > 1


def test_dae_weighs_sequences_alike_and_dav2_frames():
    target = np.array([[10.0, 20.0, 80.0]])
    far = update(np.array([[20.0, 40.0, 80.0]]), target)
    right = update(target, target)
    result = compute([far, right, right], ["a", "b", "b"])
    assert result["dae_mean_error"] == pytest.approx(15 / 2)
    assert result["dav2_abs_rel"] == pytest.approx(2 / 3 / 3)
    assert result["dae_pixels"] == 6
    assert result["frames"] == 3
    pooled = compute([far, right, right])
    assert pooled["dae_mean_error"] == pytest.approx(15 / 3)


def test_order_and_json_change_nothing():
    states = frames()
    groups = ["a", "b", "a", "c", "b", "a"]
    expected = compute(states, groups)
    order = [4, 2, 0, 5, 1, 3]
    shuffled = [json.loads(json.dumps(states[i])) for i in order]
    again = compute(shuffled, [groups[i] for i in order])
    assert again.keys() == expected.keys()
    for name, value in again.items():
        assert value == pytest.approx(expected[name], rel=1e-15), name


# Frames without anything to measure


def test_empty_frames_are_left_out_and_counted():
    unknown = np.full((4, 5), np.nan)
    whole = update(PREDICTION[0], TARGET[0])
    empty = update(np.ones((4, 5)), unknown)
    assert {name for name in empty if not name.endswith("_pixels")} == set()
    result = compute([empty, whole, empty], ["a", "b", "b"])
    assert (result["frames"], result["dae_empty"], result["dav2_empty"]) == (3, 2, 2)
    for name, value in whole.items():
        assert result[name] == value
    with pytest.raises(DataError, match="no frame has a pixel"):
        compute([empty])


@pytest.mark.parametrize("value", [0.0, -3.0, 500.0, np.inf])
def test_frames_out_of_range_are_empty(value):
    state = update(np.ones((2, 3)), np.full((2, 3), value))
    assert set(state.values()) == {0}


def test_a_variant_may_be_empty_alone():
    far = update(np.full((2, 3), 90.0), np.arange(40.0, 46.0).reshape(2, 3))
    result = compute([far])
    assert result["dae_empty"] == 1
    assert result["dae_excluded"] == 1
    assert "dae_rmse" not in result
    assert result["dav2_rmse"] > 0


# Refusals


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictions_that_are_not_finite_are_refused(value):
    prediction = PREDICTION[0].copy()
    prediction[3, 7] = value
    with pytest.raises(DataError) as caught:
        update(prediction, TARGET[0], where="night1/000004")
    assert caught.value.where == "night1/000004"
    assert "row 3, column 7" in caught.value.found


def test_other_refusals():
    with pytest.raises(DataError, match="differ in size"):
        update(PREDICTION[0], TARGET[0][:-1])
    with pytest.raises(DataError, match="cannot be scaled"):
        update(np.zeros((2, 2)), np.ones((2, 2)), alignment="median")
    with pytest.raises(ConfigError, match="no such alignment"):
        update(np.ones((2, 2)), np.ones((2, 2)), alignment="mode")
    with pytest.raises(ValueError, match="shorter|longer"):
        compute(frames(), ["a"])
