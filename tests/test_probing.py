"""The ridge probe finds a planted linear code and scores as a hand-made confusion matrix."""

import numpy as np
import pytest
import torch

from scaleevent.objectives.probing import place_probe, ridge_probe


def planted(n, seed, noise=0.0):
    """Labels in 4x4 blocks, tokens = a fixed random code of the label."""
    generator = torch.Generator().manual_seed(seed)
    code = torch.randn(3, 8, generator=torch.Generator().manual_seed(9))
    classes = torch.randint(0, 3, (n, 2, 3), generator=generator)
    tokens = code[classes].flatten(1, 2) + noise * torch.randn(n, 6, 8, generator=generator)
    labels = classes.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    return tokens, labels


def test_a_planted_code_is_read_and_noise_is_not():
    train, test = planted(40, 0), planted(20, 1)
    good = ridge_probe(*train, *test, (2, 3), 3)
    assert (good > 0.75).all()  # bilinear upsampling blurs the borders of the blocks
    noise = torch.randn(20, 6, 8)
    bad = ridge_probe(torch.randn(40, 6, 8), train[1], noise, test[1], (2, 3), 3)
    assert np.nanmean(bad) < 0.4


def test_scores_equal_a_count_by_hand():
    tokens = torch.zeros(2, 1, 2)
    tokens[0, 0, 0] = tokens[1, 0, 1] = 1
    labels = torch.tensor([[[0, 0], [0, 255]], [[1, 1], [1, 1]]], dtype=torch.uint8)
    truth = torch.tensor([[[0, 0], [1, 255]], [[1, 1], [1, 0]]], dtype=torch.uint8)
    iou = ridge_probe(tokens, labels, tokens, truth, (1, 1), 3)
    assert iou[:2] == pytest.approx([2 / 4, 3 / 5])
    assert np.isnan(iou[2])  # absent from prediction and truth


def test_the_place_alone_is_the_ridge_on_the_one_hot_of_the_place():
    rng = np.random.default_rng(0)
    layout = np.repeat(np.repeat(rng.integers(0, 3, (3, 4)), 5, 0), 4, 1)
    pictures = np.where(rng.random((9, 15, 16)) < 0.6, layout, rng.integers(0, 3, (9, 15, 16)))
    pictures[rng.random(pictures.shape) < 0.1] = 255
    labels, (length, grid) = torch.from_numpy(pictures.astype(np.uint8)), (12, (3, 4))
    tokens = torch.eye(length).expand(9, -1, -1)
    train, test = labels[:5], labels[5:]
    full = ridge_probe(tokens[:5], train, tokens[5:], test, grid, 3)
    assert np.array_equal(place_probe(train, test, grid, 3), full)
    assert 0.2 < full.mean() < 1


def test_the_place_alone_equals_loops():
    """One token a pixel, so nothing is interpolated: the mean shares of a place decide."""
    rng = np.random.default_rng(1)
    train = rng.choice([0, 1, 2, 255], (7, 4, 5)).astype(np.uint8)
    train[:4] = rng.choice([0, 1, 2], (4, 5))  # four of seven agree
    test = rng.choice([0, 1, 2, 255], (6, 4, 5)).astype(np.uint8)
    hits, unions = [0, 0, 0], [0, 0, 0]
    for y in range(4):
        for x in range(5):
            votes = [sum(int(label[y, x]) == k for label in train) for k in range(3)]
            assert sorted(votes)[-1] > sorted(votes)[-2]
            best = votes.index(max(votes))
            for label in test:
                truth = int(label[y, x])
                for k in range(3):
                    if truth != 255:
                        hits[k] += truth == best == k
                        unions[k] += truth == k or best == k
    found = place_probe(torch.from_numpy(train), torch.from_numpy(test), (4, 5), 3)
    assert found == pytest.approx(np.array(hits) / unions)
