"""The ridge probe finds a planted linear code and scores as a hand-made confusion matrix."""

import numpy as np
import pytest
import torch

from scaleevent.objectives.probing import ridge_probe


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
