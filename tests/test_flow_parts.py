"""The parts of the flow decoders against slow loops, worked examples and what must always hold."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent.decoders.flow_parts import (
    Estimate,
    centred_padding,
    crop,
    mixture_nll,
    pixel_grid,
    resize_flow,
    sequence_loss,
    upsample_convex,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_convex_upsampling_is_the_slow_loop():
    factor, (n, c, h, w) = 2, (2, 3, 3, 4)
    x, logits = normal(n, c, h, w), normal(n, 9 * factor**2, h, w, seed=1)
    padded = F.pad(x, (1, 1, 1, 1)).numpy()
    raw = logits.view(n, 9, factor, factor, h, w).numpy()
    expected = np.zeros((n, c, factor * h, factor * w), np.float32)
    for i, y, u, dy, dx in np.ndindex(n, h, w, factor, factor):
        weight = np.exp(raw[i, :, dy, dx, y, u])
        weight /= weight.sum()
        neighbours = padded[i, :, y : y + 3, u : u + 3].reshape(c, 9)
        expected[i, :, factor * y + dy, factor * u + dx] = neighbours @ weight
    np.testing.assert_allclose(upsample_convex(x, logits, factor), expected, atol=1e-6)


def density(error: np.ndarray, info: np.ndarray) -> np.ndarray:
    """The mixture in plain probabilities."""
    weights = np.exp(info[:2]) / np.exp(info[:2]).sum()
    scales = np.exp([np.clip(info[2], 0, 10), 0.0])
    return sum(
        w / (2 * b) * np.exp(-np.abs(error) / b) for w, b in zip(weights, scales, strict=True)
    )


@pytest.mark.parametrize(
    "info", [(0.0, 0.0, 0.0, 0.0), (1.0, -1.0, 2.0, 5.0), (-2.0, 1.0, -3.0, -4.0)]
)
def test_likelihood_is_a_density(info):
    errors = np.linspace(-300, 300, 60_001, dtype=np.float32)
    zeros = torch.zeros(1, 2, 1, errors.size)
    estimate = Estimate(zeros, torch.tensor(info).view(1, 4, 1, 1).expand(1, 4, 1, errors.size))
    target = torch.from_numpy(errors).expand(1, 2, 1, -1)
    likelihood = np.exp(-mixture_nll(estimate, target)[0, 0, 0].numpy())
    np.testing.assert_allclose(likelihood, density(errors, np.array(info)), rtol=1e-4, atol=1e-9)
    assert np.trapezoid(likelihood, errors) == pytest.approx(1, abs=1e-4)


def test_likelihood_stays_finite_far_away():
    info = torch.tensor([50.0, -50.0, 20.0, 0.0]).view(1, 4, 1, 1)
    found = mixture_nll(Estimate(torch.full((1, 2, 1, 1), 1e6), info), torch.zeros(1, 2, 1, 1))
    assert found[0, 0, 0, 0].item() == pytest.approx(
        1e6 * math.exp(-10) + 10 + math.log(2), rel=1e-4
    )


def test_sequence_loss_by_hand():
    """At equal logits and unit scales the likelihood is log 2 + |error|."""
    info = torch.zeros(1, 4, 1, 2)
    target = torch.tensor([[3.0, 0.0], [4.0, 0.0]]).view(1, 2, 1, 2)
    estimates = [Estimate(torch.zeros(1, 2, 1, 2), info), Estimate(target, info)]
    mean = (3 + 0 + 4 + 0) / 4
    expected = 0.5 * (math.log(2) + mean) + math.log(2)
    assert sequence_loss(estimates, target, gamma=0.5).item() == pytest.approx(expected)


def test_sequence_loss_leaves_out_what_has_no_target():
    target = torch.tensor([1.0, math.nan, 390.0, math.inf]).expand(1, 2, 1, 4).clone()
    target[0, 1, 0, 2] = 100  # longer than 400 together
    flow = torch.zeros(1, 2, 1, 4, requires_grad=True)
    info = torch.zeros(1, 4, 1, 4, requires_grad=True)
    loss = sequence_loss([Estimate(flow, info)], target)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) + 1)
    assert flow.grad.isfinite().all() and info.grad.isfinite().all()
    assert flow.grad[..., 0].ne(0).all() and flow.grad[..., 1:].eq(0).all()


def test_sequence_loss_without_any_target_is_a_zero_that_can_be_trained_on():
    flow = torch.zeros(1, 2, 2, 2, requires_grad=True)
    loss = sequence_loss(
        [Estimate(flow, torch.zeros(1, 4, 2, 2))], torch.full((1, 2, 2, 2), math.nan)
    )
    loss.backward()
    assert loss.item() == 0 and flow.grad.eq(0).all()


@given(st.tuples(*[st.integers(1, 30)] * 2), st.tuples(*[st.integers(0, 30)] * 2))
@settings(max_examples=50, deadline=None)
def test_cropping_undoes_padding(size, more):
    target = (size[0] + more[0], size[1] + more[1])
    padding = centred_padding(size, target)
    x = torch.arange(size[0] * size[1]).view(1, 1, *size)
    padded = F.pad(x, padding, value=-1)
    assert padded.shape[-2:] == target
    assert torch.equal(crop(padded, padding), x)
    left, right, top, bottom = padding
    assert 0 <= right - left <= 1 and 0 <= bottom - top <= 1


def test_pixel_grid_has_columns_first():
    grid = pixel_grid(torch.zeros(1, 1, 2, 3))
    assert grid[0].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert grid[1].tolist() == [[0, 0, 0], [1, 1, 1]]


@given(st.tuples(*[st.integers(2, 40)] * 2), st.tuples(*[st.integers(2, 40)] * 2))
@settings(max_examples=50, deadline=None)
def test_resized_flow_points_at_the_same_place(size, new):
    """A constant motion crosses the same fraction of the view on any grid."""
    motion = torch.tensor([3.0, -2.0])
    resized = resize_flow(motion[None, :, None, None].expand(1, 2, *size), new)
    assert resized.shape == (1, 2, *new)
    fraction = motion / torch.tensor([size[1], size[0]])
    found = resized / torch.tensor([new[1], new[0]])[:, None, None]
    torch.testing.assert_close(found, fraction[None, :, None, None].expand_as(found))
