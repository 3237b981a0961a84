"""The balanced probe against the objective as printed, and on answers that are planted."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from scaleevent.objectives.probe_scores import confusions, overlap
from scaleevent.objectives.probing import Features, class_shares, fit_ridge, inner_split
from scaleevent.objectives.softmax_probe import class_weights, fit_softmax

CLASSES = 3


def shares_of(rng, samples, places, classes=CLASSES):
    """Shares of cells, some of them partly or wholly without a label; one class is rare."""
    found = rng.dirichlet(np.array([3.0, 2.0, 0.2][:classes]), (samples, places))
    found *= rng.choice([1, 1, 1, 0.4, 0], (samples, places, 1))
    return torch.from_numpy(found)


def standardised(tokens):
    flat = tokens.flatten(0, 1).double()
    return (flat - flat.mean(0)) / flat.std(0)


def objective(x, shares, weight, bias, strength, balance):
    """As the docstring of `fit_softmax` prints it, one number at a time."""
    rows, classes = shares.shape
    frequency = [float(shares[:, k].sum() / shares.sum()) for k in range(classes)]
    raw = [f**-balance if f else 0.0 for f in frequency]
    factor = [c / sum(a * b for a, b in zip(raw, frequency, strict=True)) for c in raw]
    total, mass = 0.0, 0.0
    for i in range(rows):
        scores = [float(x[i] @ weight[:, k]) + float(bias[k]) for k in range(classes)]
        peak = max(scores)
        norm = peak + math.log(sum(math.exp(s - peak) for s in scores))
        for k in range(classes):
            total -= factor[k] * float(shares[i, k]) * (scores[k] - norm)
            mass += factor[k] * float(shares[i, k])
    return total / mass + strength / 2 * float((weight**2).sum())


@pytest.mark.parametrize("balance", [0, 0.5])
def test_it_is_the_minimum_of_the_printed_objective(balance):
    """The oracle is BFGS with numerical gradients of the loops above."""
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.normal(size=(8, 5, 2)) * [1, 30] + [0, 7]).float()
    shares = shares_of(rng, 8, 5)
    linear, strength = fit_softmax(Features.tokens(tokens), shares, balance=balance)
    x, y = standardised(tokens).numpy(), shares.flatten(0, 1)

    def free(point):
        weight, bias = point[:6].reshape(2, 3), point[6:]
        return objective(x, y, weight, bias, strength, balance)

    best = minimize(free, np.zeros(9), method="BFGS")
    weight, bias = linear.weight.numpy(), linear.offsets[0].numpy()
    assert objective(x, y, weight, bias, strength, balance) == pytest.approx(best.fun, abs=2e-5)
    assert weight == pytest.approx(best.x[:6].reshape(2, 3), abs=0.02)
    scores = linear.scores(Features.tokens(tokens)).flatten(0, 1).numpy()
    assert scores == pytest.approx(x @ weight + bias, abs=1e-4)


def test_classes_weigh_by_the_root_of_their_frequency():
    shares = torch.tensor([[[0.64, 0.0, 0.32], [0.0, 0.0, 0.04]]], dtype=torch.float64)
    weights = class_weights(shares)
    assert weights[1] == 0
    assert float(weights[2] / weights[0]) == pytest.approx(math.sqrt(0.64 / 0.36))
    assert float((weights * torch.tensor([0.64, 0, 0.36])).sum()) == pytest.approx(1)
    assert class_weights(shares, 0).tolist() == pytest.approx([1, 0, 1])


@pytest.mark.parametrize("fit", ["balanced", "ridge"])
def test_the_place_alone_is_the_probe_on_one_hot_tokens(fit):
    rng = np.random.default_rng(1)
    shares = shares_of(rng, 12, 6)
    one_hot = Features.tokens(torch.eye(6).expand(12, -1, -1))
    place = Features.place(12, 6)
    if fit == "ridge":
        found = [fit_ridge(one, shares).scores(one) for one in (one_hot, place)]
        assert torch.allclose(*found, atol=1e-6)
    else:
        fits = [fit_softmax(one, shares) for one in (one_hot, place)]
        assert fits[0][1] == fits[1][1]
        found = [fits[0][0].scores(one_hot), fits[1][0].scores(place)]
        odds = [one.double().log_softmax(-1) for one in found]
        assert torch.allclose(*odds, atol=0.02)
    assert float((found[0][0] - found[0][0].mean(0)).abs().max()) > 0.05


@pytest.mark.parametrize("fit", ["balanced", "ridge"])
def test_scene_and_place_is_the_probe_on_both_side_by_side(fit):
    rng = np.random.default_rng(2)
    shares = shares_of(rng, 12, 6)
    tokens = torch.from_numpy(rng.normal(size=(12, 6, 3))).float()
    scene = Features.scene_and_place(tokens)
    spread = tokens.mean(1, keepdim=True).expand(-1, 6, -1)
    dense = Features.tokens(torch.cat([spread, torch.eye(6).expand(12, -1, -1)], 2))
    if fit == "ridge":
        found = [fit_ridge(one, shares).scores(one) for one in (dense, scene)]
        assert torch.allclose(*(one.double() for one in found), atol=1e-5)
    else:
        fits = [fit_softmax(one, shares) for one in (dense, scene)]
        assert fits[0][1] == fits[1][1]
        odds = [f[0].scores(one).double().log_softmax(-1)
                for f, one in zip(fits, (dense, scene), strict=True)]  # fmt: skip
        assert torch.allclose(*odds, atol=0.02)


def test_the_strength_is_chosen_on_whole_training_scenes():
    fitted, held = inner_split(40, 3)
    assert len(held) == 10 and sorted([*fitted, *held]) == list(range(40))
    assert not np.array_equal(held, inner_split(40, 4)[1])
    assert np.array_equal(held, inner_split(40, 3)[1])
    rng = np.random.default_rng(0)
    shares = shares_of(rng, 40, 6)
    noise = torch.from_numpy(rng.normal(size=(40, 6, 30))).float()
    telling = torch.cat([noise, 20 * shares.float()], 2)
    strong = fit_softmax(Features.tokens(noise), shares)[1]
    weak = fit_softmax(Features.tokens(telling), shares)[1]
    assert strong > weak


def test_two_fits_are_the_same(one_thread):
    rng = np.random.default_rng(0)
    shares, tokens = shares_of(rng, 9, 6), torch.from_numpy(rng.normal(size=(9, 6, 4))).float()
    one, two = (fit_softmax(Features.tokens(tokens), shares, seed=1)[0] for _ in range(2))
    assert torch.equal(one.weight, two.weight) and torch.equal(one.offsets, two.offsets)


# Planted answers: a token a pixel, so that nothing is interpolated

GRID = (6, 8)


def scenes(rng, count, rare=0.01):
    """Labels of three classes, the last one rare; (count, 6, 8) uint8."""
    drawn = rng.random((count, *GRID))
    labels = np.where(drawn < 0.5, 0, 1)
    labels[rng.random(labels.shape) < rare] = 2
    return torch.from_numpy(labels.astype(np.uint8))


def iou(fit, fitted, labels, scored, truth):
    shares = class_shares(labels, GRID, CLASSES)
    linear = fit(fitted, shares)
    linear = linear[0] if isinstance(linear, tuple) else linear
    return overlap(confusions(linear.scores(scored), truth, GRID).sum(0))


def test_tokens_that_are_the_class_are_read_without_a_fault():
    rng = np.random.default_rng(0)
    labels, truth = scenes(rng, 30), scenes(rng, 20)
    codes = [
        Features.tokens(torch.eye(CLASSES)[one.long()].flatten(1, 2)) for one in (labels, truth)
    ]
    assert iou(fit_softmax, codes[0], labels, codes[1], truth) == pytest.approx([1, 1, 1])


def test_a_rare_class_is_awarded_by_the_balanced_probe_alone():
    """A sign that shows the rare class always, and others one time in 25: 20% are right."""
    rng = np.random.default_rng(0)
    labels, truth = scenes(rng, 120), scenes(rng, 60)

    def tokens(own):
        rare = (own == 2).numpy()
        sign = rare | (rng.random(rare.shape) < 0.04)
        side = np.where(own.numpy() == 0, -1.0, 1.0) * ~rare + 0.3 * rng.normal(size=rare.shape)
        return Features.tokens(torch.from_numpy(np.stack([sign, side], -1)).float().flatten(1, 2))

    fitted, scored = tokens(labels), tokens(truth)
    ridge, balanced = (iou(fit, fitted, labels, scored, truth) for fit in (fit_ridge, fit_softmax))
    assert ridge[2] == 0 and balanced[2] > 0.15
    assert balanced[:2].min() > 0.85


def test_tokens_without_information_score_as_the_constant_and_places_as_the_layout():
    rng = np.random.default_rng(3)
    layout = np.zeros(GRID, int)
    layout[3:] = 1
    pictures = np.where(rng.random((80, *GRID)) < 0.7, layout, rng.integers(0, 2, (80, *GRID)))
    labels = torch.from_numpy(pictures.astype(np.uint8))
    fitted, truth = labels[:50], labels[50:]
    place = iou(fit_softmax, Features.place(50, 48), fitted, Features.place(30, 48), truth)
    by_hand = [(pictures[50:] == layout)[:, rows].mean() for rows in (slice(0, 3), slice(3, 6))]
    assert np.mean(place[:2]) == pytest.approx(
        np.mean([h / (2 - h) for h in by_hand]), abs=0.02
    )  # of two classes alike, h right of a half and 1 - h of the other taken for it
    noise = torch.from_numpy(rng.normal(size=(80, 48, 5))).float()
    spread = noise[:, torch.randperm(48)]
    empty = iou(fit_softmax, Features.tokens(spread[:50]), fitted,
                Features.tokens(spread[50:]), truth)  # fmt: skip
    assert np.nanmean(empty) < np.mean(place[:2]) - 0.2
