"""Depth probes and scores of probes against loops; intervals that cover what they say."""

import math

import numpy as np
import pytest
import torch

from scaleevent.objectives.probe_scores import (
    LEAST_RECORDINGS,
    Resamples,
    abs_rel,
    confusions,
    depth_errors,
    mean_overlap,
    overlap,
    rmse,
)
from scaleevent.objectives.probing import (
    DEPTH_STRENGTHS,
    Features,
    fit_log_depth,
    fit_ridge,
    inner_split,
    log_depths,
)

GRID = (3, 4)
PLACES = 12


def depths(rng, count):
    """(count, 6, 8) metres in a plane that every scene tilts its own way; some pixels unknown."""
    found = np.exp(rng.uniform(1, 4, (count, 6, 8)))
    found[rng.random(found.shape) < 0.2] = np.nan
    found[:, 0, :2] = 200.0  # beyond what counts
    found[:, :2, 6:] = np.nan  # a cell without depth
    return torch.from_numpy(found.astype(np.float32))


def test_log_depths_of_cells_equal_loops():
    maps = depths(np.random.default_rng(0), 3)
    means, shares = log_depths(maps, GRID, 80.0)
    for n in range(3):
        for p in range(PLACES):
            y, x = 2 * (p // 4), 2 * (p % 4)
            cell = maps[n, y : y + 2, x : x + 2].flatten().tolist()
            known = [math.log(d) for d in cell if 0 < d <= 80]
            assert float(shares[n, p]) == len(known) / 4
            if known:
                assert float(means[n, p]) == pytest.approx(np.mean(known), rel=1e-6)


@pytest.mark.parametrize("kind", ["tokens", "place", "scene and place"])
def test_the_depth_probe_is_weighted_least_squares(kind):
    """Against numpy on the standardised numbers and one-hot places, row by row."""
    rng = np.random.default_rng(1)
    tokens = torch.from_numpy(rng.normal(size=(10, PLACES, 3)) * 5 + 1).float()
    y, w = log_depths(depths(rng, 10), GRID, 80.0)
    eye = np.tile(np.eye(PLACES), (10, 1, 1))
    mean = np.repeat(tokens.numpy().mean(1, keepdims=True), PLACES, 1)
    features, x = {
        "tokens": (Features.tokens(tokens), tokens.numpy()),
        "place": (Features.place(10, PLACES), eye),
        "scene and place": (Features.scene_and_place(tokens), np.concatenate([mean, eye], 2)),
    }[kind]
    linear, strength = fit_log_depth(features, y, w, seed=5)
    flat = x.reshape(120, -1).astype(np.float64)
    flat = (flat - flat.mean(0)) / flat.std(0, ddof=1)
    rows = np.column_stack([flat, np.ones(120)]).reshape(10, PLACES, -1)

    def best(own, strength):
        part, share = rows[own].reshape(-1, rows.shape[2]), w[own].flatten().numpy()
        penalty = strength * share.sum() * np.diag([*np.ones(part.shape[1] - 1), 0])
        gram, right = part.T @ (part * share[:, None]), part.T @ (share * y[own].flatten().numpy())
        return np.linalg.lstsq(gram + penalty, right, rcond=None)[0]

    fitted, checked = inner_split(10, 5)
    errors = [
        float(
            (w[checked].numpy() * (rows[checked] @ best(fitted, s) - y[checked].numpy()) ** 2).sum()
        )
        for s in DEPTH_STRENGTHS
    ]
    assert strength == DEPTH_STRENGTHS[int(np.argmin(errors))]
    found = linear.scores(features)[..., 0].numpy()
    assert found == pytest.approx(rows @ best(np.arange(10), strength), abs=1e-4)
    assert np.std(found) > 0.01


def test_a_planted_log_depth_is_read_and_its_strength_is_weak():
    rng = np.random.default_rng(2)
    logs = rng.uniform(0, 4, (30, 3, 4))
    maps = torch.from_numpy(np.exp(logs)).float()
    code = torch.from_numpy(rng.normal(size=(1, 5)))
    tokens = torch.from_numpy(logs.reshape(30, 12, 1)) * code + 3
    y, w = log_depths(maps[:20], GRID, 80.0)
    linear, strength = fit_log_depth(Features.tokens(tokens[:20]), y, w)
    scores = linear.scores(Features.tokens(tokens[20:]))
    sums = depth_errors(scores, maps[20:], GRID, (0.1, 80.0)).sum(0)
    assert strength == DEPTH_STRENGTHS[-1]
    assert rmse(sums) < 0.05 and abs_rel(sums) < 0.001
    noise = torch.from_numpy(rng.normal(size=(30, 12, 5)))
    _, strength = fit_log_depth(Features.tokens(noise[:20]), y, w)
    assert strength == DEPTH_STRENGTHS[0]


def test_depth_errors_equal_loops():
    rng = np.random.default_rng(3)
    maps = depths(rng, 4)[:, ::2, ::2]  # a pixel a token: nothing is interpolated
    scores = torch.from_numpy(rng.uniform(-3, 6, (4, PLACES, 1)))
    found = depth_errors(scores, maps, GRID, (2.0, 80.0))
    for n in range(4):
        count, squares, relative = 0, 0.0, 0.0
        for truth, log in zip(
            maps[n].flatten().tolist(), scores[n].flatten().tolist(), strict=True
        ):
            if 0 < truth <= 80:
                error = min(max(math.exp(log), 2.0), 80.0) - truth
                count, squares, relative = (
                    count + 1, squares + error**2, relative + abs(error) / truth
                )  # fmt: skip
        assert found[n] == pytest.approx([count, squares, relative], rel=1e-5)
    assert rmse(found.sum(0)) == pytest.approx(math.sqrt(found[:, 1].sum() / found[:, 0].sum()))


def test_confusions_of_scenes_equal_loops_and_sizes_may_differ():
    rng = np.random.default_rng(4)
    labels = [torch.from_numpy(rng.choice([0, 1, 2, 255], (3, 4)).astype(np.uint8)) for _ in "ab"]
    labels.append(labels[0].repeat_interleave(2, 0).repeat_interleave(2, 1))
    scores = torch.from_numpy(rng.normal(size=(3, PLACES, 3)))
    found = confusions(scores, labels, GRID)
    for n in range(2):
        expected = np.zeros((3, 3), int)
        for own, truth in zip(scores[n], labels[n].flatten().tolist(), strict=True):
            if truth < 3:
                expected[truth, int(own.argmax())] += 1
        assert np.array_equal(found[n], expected)
    assert found[2].sum() == 4 * found[0].sum()
    iou = overlap(np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    assert iou[:2] == pytest.approx([3 / 6, 4 / 7]) and np.isnan(iou[2])
    assert mean_overlap(np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])) == pytest.approx(
        100 * (3 / 6 + 4 / 7) / 2
    )


# Intervals


def test_resamples_are_of_recordings_not_of_samples():
    """Four samples of one recording are always drawn together."""
    names = np.repeat([f"r{k}" for k in range(10)], 4)
    resamples = Resamples.of(names, seed=1)
    assert resamples.recordings == 10 and (resamples.counts.sum(1) == 10).all()
    whole = np.repeat(np.arange(10.0), 4)[:, None]
    alone = Resamples.of([f"r{k}" for k in range(40)], seed=1)

    def mean(sums):
        return sums[..., 0] / 40

    wide, narrow = (np.ptp(one.interval(mean, whole)) for one in (resamples, alone))
    assert wide > 1.6 * narrow  # twice as wide, as the recordings are a quarter of the samples
    again = Resamples.of(names, seed=1)
    assert np.array_equal(again.counts, resamples.counts)
    assert not np.array_equal(Resamples.of(names, seed=2).counts, resamples.counts)


def test_an_interval_is_the_quantiles_of_loops_and_of_differences():
    rng = np.random.default_rng(0)
    one, two = (rng.integers(0, 50, (9, 2, 2)) for _ in range(2))
    resamples = Resamples.of([str(k) for k in range(9)])
    values, apart = [], []
    for counts in resamples.counts:
        a, b = (sum(c * m for c, m in zip(counts, sums, strict=True)) for sums in (one, two))
        values.append(float(mean_overlap(a)))
        apart.append(float(mean_overlap(a) - mean_overlap(b)))
    low, high = resamples.interval(mean_overlap, one)
    assert (low, high) == pytest.approx(tuple(np.quantile(values, (0.025, 0.975))))
    low, high = resamples.interval(mean_overlap, one, less=two)
    assert (low, high) == pytest.approx(tuple(np.quantile(apart, (0.025, 0.975))))
    assert resamples.interval(mean_overlap, one, less=one) == (0, 0)
    few = Resamples.of([str(k) for k in range(LEAST_RECORDINGS - 1)])
    assert few.interval(mean_overlap, one[: LEAST_RECORDINGS - 1]) is None


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)

    def error(sums):
        return rmse(np.stack([sums[..., 0], sums[..., 1]], -1))

    inside = 0
    for number in range(200):
        squares = rng.normal(size=(40, 30)) ** 2
        sums = np.stack([np.full(40, 30.0), squares.sum(1)], 1)
        low, high = Resamples.of([str(k) for k in range(40)], number).interval(error, sums)
        inside += low <= 1 <= high
    assert 0.88 <= inside / 200 <= 0.98


def test_a_difference_is_narrower_than_its_parts_where_they_move_together():
    rng = np.random.default_rng(1)
    hard = rng.uniform(1, 20, 60)
    one, two = (np.stack([np.ones(60), hard + k], 1) for k in (0.0, 1.0))
    resamples = Resamples.of([str(k) for k in range(60)])
    low, high = resamples.interval(rmse, two, less=one)
    assert 0 < low < high and high - low < np.ptp(resamples.interval(rmse, one)) / 5


def test_ridge_without_information_is_the_mean():
    shares = torch.rand(5, 4, 3, dtype=torch.float64)
    found = fit_ridge(Features.tokens(torch.zeros(5, 4, 2)), shares)
    assert torch.allclose(found.offsets[0], shares.mean((0, 1)))
