"""Depth losses against the original's numbers, least squares from numpy, and slow loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scaleevent.decoders.depth_loss import measured, scale_shift_terms, silog

GOLDEN = Path(__file__).parent / "data" / "silog.safetensors"


@pytest.fixture(scope="module")
def golden():
    """DepthAnything/Depth-Anything-V2:metric_depth/util/loss.py, on random maps."""
    return load_file(GOLDEN)


@pytest.mark.parametrize(("dtype", "tolerance"), [("f64", 1e-12), ("f32", 1e-6)])
def test_silog_equals_the_original(golden, dtype, tolerance):
    kind = {"f64": torch.float64, "f32": torch.float32}[dtype]
    prediction, target = golden["in/pred"].to(kind).requires_grad_(), golden["in/target"].to(kind)
    valid = measured(target, 80.0)
    assert torch.equal(valid, golden["in/valid"])
    for balance in (0.5, 0.15, 1.0):
        ours = silog(prediction, target, valid, balance)
        assert abs(ours - golden[f"out/{dtype}/lambda{balance}"]) <= tolerance
    (gradient,) = torch.autograd.grad(silog(prediction, target, valid), prediction)
    assert (gradient - golden[f"grad/{dtype}/lambda0.5/pred"]).abs().max() <= tolerance


def test_measured_excludes_what_is_no_depth():
    target = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 0.0009, 0.001, 80.0, 80.1])
    assert measured(target[None, None], 80.0).flatten().tolist() == [False] * 5 + [True] * 2 + [
        False
    ]


def test_silog_stays_finite_where_a_sigmoid_underflows():
    logits = torch.tensor([[[-200.0, -60.0, 0.0, 3.0]]], requires_grad=True)
    target = torch.full((1, 1, 4), 10.0)
    value = silog(logits.sigmoid() * 80, target, target > 0)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
    assert value > 10  # a prediction of zero is as bad as 1e-12 m, not ignored


def test_silog_of_an_exact_prediction_has_no_gradient():
    prediction = torch.full((1, 2, 3), 7.0, requires_grad=True)
    value = silog(prediction, prediction.detach(), torch.ones(1, 2, 3, dtype=torch.bool))
    value.backward()
    assert value < 1e-12 and not prediction.grad.any()


def test_silog_computes_in_the_targets_precision():
    prediction, target = torch.tensor([[[1e-7, 3.0]]]), torch.tensor([[[1.0, 2.0]]])
    half = silog(prediction.half(), target, target > 0)
    assert half.dtype == torch.float32 and half.isfinite()


@pytest.mark.parametrize("terms", [lambda *maps: {"silog": silog(*maps)}, scale_shift_terms])
def test_without_valid_pixels_the_loss_is_zero_and_in_the_graph(terms):
    prediction = torch.rand(2, 4, 5, requires_grad=True)
    nothing = torch.zeros(2, 4, 5, dtype=torch.bool)
    values = terms(prediction, torch.full((2, 4, 5), torch.nan), nothing)
    sum(values.values()).backward()
    assert all(value == 0 for value in values.values())
    assert prediction.grad is not None and not prediction.grad.any()


def maps(seed: int, share: float = 0.6):
    """Two random pairs of maps, of which a share is valid, and NaN target elsewhere."""
    draw = np.random.default_rng(seed)
    prediction, target = draw.normal(3, 2, (2, 11, 14)), draw.uniform(0.01, 1, (2, 11, 14))
    valid = draw.random((2, 11, 14)) < share
    return prediction, np.where(valid, target, np.nan), valid


def slow_terms(prediction, target, valid):
    """Both terms by numpy's least squares and one pixel at a time."""
    residual = np.full(target.shape, np.nan)
    for image, mask in enumerate(valid):
        x = np.stack([prediction[image][mask], np.ones(mask.sum())], 1)
        best, *_ = np.linalg.lstsq(x, target[image][mask], rcond=None)
        residual[image][mask] = x @ best - target[image][mask]
    gradient = 0.0
    for step in (1, 2, 4, 8):
        coarse = residual[:, ::step, ::step]
        total = 0.0
        for image, row, column in np.ndindex(coarse.shape):
            here = coarse[image, row, column]
            for r, c in ((row + 1, column), (row, column + 1)):
                if r < coarse.shape[1] and c < coarse.shape[2]:
                    total += np.nan_to_num(abs(coarse[image, r, c] - here))
        gradient += total / max(1, np.isfinite(coarse).sum())
    return np.nansum(residual**2) / (2 * valid.sum()), gradient


@pytest.mark.parametrize("seed", range(3))
def test_scale_shift_equals_least_squares_and_a_slow_loop(seed):
    given = maps(seed)
    terms = scale_shift_terms(*map(torch.from_numpy, given))
    fit, gradient = slow_terms(*given)
    assert terms["scale_shift"].item() == pytest.approx(fit, rel=1e-10)
    assert terms["gradient"].item() == pytest.approx(gradient, rel=1e-10)


def test_scale_and_shift_of_each_image_do_not_matter():
    prediction, target, valid = map(torch.from_numpy, maps(5))
    moved = prediction * torch.tensor([[[0.01]], [[40.0]]]) + torch.tensor([[[-3.0]], [[9.0]]])
    for name, value in scale_shift_terms(prediction, target, valid).items():
        assert scale_shift_terms(moved, target, valid)[name].item() == pytest.approx(value.item())
    planted = 0.25 * target + 2
    planted = torch.where(valid, planted, torch.nan)  # what is not valid is not looked at
    assert all(value < 1e-12 for value in scale_shift_terms(planted, target, valid).values())


def test_scale_shift_has_the_gradient_of_its_value():
    prediction, target, valid = map(torch.from_numpy, maps(7))
    prediction = prediction[:, :5, :6].clone().requires_grad_()
    target, valid = target[:, :5, :6], valid[:, :5, :6]
    assert torch.autograd.gradcheck(
        lambda x: tuple(scale_shift_terms(x, target, valid).values()), prediction
    )


@pytest.mark.parametrize("constant", [0.0, 0.7, 1e4])
def test_a_constant_map_is_fitted_by_the_targets_mean(constant):
    target = torch.rand(1, 6, 8)
    prediction = torch.full((1, 6, 8), constant, requires_grad=True)
    terms = scale_shift_terms(prediction, target, torch.ones(1, 6, 8, dtype=torch.bool))
    assert terms["scale_shift"].item() == pytest.approx(target.var(correction=0).item() / 2)
    sum(terms.values()).backward()
    assert prediction.grad.isfinite().all()
