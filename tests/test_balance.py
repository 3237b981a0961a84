"""How the terms stand to each other: gradients term by term, and weights for a stated share."""

from types import SimpleNamespace

import pytest
import torch
from test_distillation import Patches, batch

from scaleevent.config.pretrain import PretrainConfig
from scaleevent.encoders.encoder import ARCHS, Encoder, as_teacher
from scaleevent.errors import ConfigError
from scaleevent.objectives.balance import balanced, gradient_shares, shares
from scaleevent.objectives.distillation import Distillation
from scaleevent.objectives.structures import STRUCTURES
from scaleevent.training.state import CALIBRATED

VALUES = {"l1": 0.2, "intra": 0.03, "cross": 0.05}
WEIGHTS = {"l1": 2.0, "intra": 10.0, "cross": 4.0}


class Samples:
    """A pool of street-like samples for the tiny encoder."""

    def __init__(self, count=6):
        generator = torch.Generator().manual_seed(1)
        self.data = {
            "image": torch.randn(count, 3, 16, 24, generator=generator),
            "voxel": torch.randn(count, 3, 16, 24, generator=generator),
            "density": torch.rand(count, 2, 3, generator=generator).double(),
            "valid": torch.ones(count, 2, 3).double(),
            "index": torch.arange(count),
        }
        self.samples = SimpleNamespace(settings=SimpleNamespace(height=16, width=24))

    def __len__(self):
        return len(self.data["image"])

    def spread(self, most):
        for part in range(0, min(most, len(self)), 2):
            yield {name: value[part : part + 2] for name, value in self.data.items()}


def distillation(**options):
    torch.manual_seed(0)
    teacher, student = as_teacher(Encoder(ARCHS["tiny"])), Encoder(ARCHS["tiny"])
    return Distillation(teacher, student, **{"scale": None} | options)


def test_shares_of_l1():
    found = shares(VALUES, WEIGHTS)
    assert found == pytest.approx({"share_intra": 0.3 / 0.4, "share_cross": 0.2 / 0.4})
    assert shares(VALUES | {"l1": 0.0}, WEIGHTS) == {}


def test_gradients_are_those_of_each_term_alone():
    objective = distillation(mask="none", weights=WEIGHTS, scale=0.2)
    (first, *_) = Samples().spread(2)
    terms, _ = objective.step(objective.model, first)
    objective.encoder.vit.norm.requires_grad_(False)
    found = gradient_shares(terms, WEIGHTS, objective.encoder.parameters())
    assert all(p.grad is None for p in objective.encoder.parameters())
    norms = {}
    for name, weight in WEIGHTS.items():
        objective.encoder.zero_grad()
        terms, _ = objective.step(objective.model, first)
        (weight * terms[name]).backward()
        own = [p.grad for p in objective.encoder.parameters() if p.grad is not None]
        norms[name] = float(torch.cat([g.flatten() for g in own]).double().norm())
    assert found["gradient_l1"] == pytest.approx(norms["l1"], rel=1e-5)
    for name in ("intra", "cross"):
        assert found[f"gradient_{name}"] == pytest.approx(norms[name] / norms["l1"], rel=1e-5)


def test_the_held_out_check_shows_the_balance_on_one_batch():
    """Every sixteenth sample, as many as a batch holds, however the batches are cut."""
    objective = Distillation(Patches(1.0), Patches(1.5), mask="none")
    data = batch(40)
    data = {key: value * torch.linspace(1, 2, 40).view(-1, 1, 1, 1)[:, : value.shape[1]]
            if value.ndim == 4 else value for key, value in data.items()}  # fmt: skip

    def checked(size):
        pieces = zip(*(value.split(size) for value in data.values()), strict=True)
        return objective.validate([dict(zip(data, piece, strict=True)) for piece in pieces])

    found = checked(10)
    fixed = {key: value[::16] for key, value in data.items()}
    terms, _ = objective.step(objective.model, fixed)
    expected = gradient_shares(terms, objective.weights, objective.encoder.parameters())
    assert {k: found[f"val_{k}"] for k in expected} == pytest.approx(expected)
    assert found["val_share_intra"] == pytest.approx(10 * found["val_intra"] / found["val_l1"])
    assert found == pytest.approx(checked(7))
    assert objective.encoder.factor.grad is None


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("mask", ["hard", "none"])
def test_structure_is_set_to_a_share_of_l1(structure, mask):
    objective = distillation(structure=structure, mask=mask, target=0.25)
    objective.calibrate(Samples())
    assert objective.weights["l1"] == 1
    assert objective.weights["intra"] / objective.weights["cross"] == pytest.approx(10 / 4)
    found = objective.validate(Samples().spread(64))
    assert found["val_share_intra"] + found["val_share_cross"] == pytest.approx(0.25)
    assert objective.description()["weights"] == objective.weights
    assert objective.description()["balance"] == 0.25 and "25% of L1" in objective.source


def test_without_a_target_the_weights_stay():
    objective = distillation()
    objective.calibrate(Samples())
    assert objective.weights == {"l1": 1.0, "intra": 10.0, "cross": 4.0}
    assert objective.fingerprint()[CALIBRATED] == {"scale": objective.scale}


def test_proportions_are_kept_and_one_term_may_be_alone():
    assert balanced(VALUES, WEIGHTS, 0.5) == pytest.approx({"l1": 2, "intra": 4, "cross": 1.6})
    alone = balanced(VALUES, WEIGHTS | {"cross": 0.0}, 0.3)
    assert alone == pytest.approx({"l1": 2, "intra": 4, "cross": 0})


def test_nothing_to_balance_is_refused():
    with pytest.raises(ConfigError, match="--balance"):
        balanced({"l1": 0.0, "intra": 0.0, "cross": 0.0}, WEIGHTS, 0.25)
    for weights in ({"lambda_l1": 0}, {"lambda_is": 0, "lambda_cs": 0}):
        with pytest.raises(ValueError, match="balance"):
            PretrainConfig(balance=0.25, **weights)
    assert PretrainConfig(balance=0.25, lambda_cs=0).balance == 0.25


def test_a_later_part_of_a_run_keeps_what_it_was_calibrated_to():
    kept = {"scale": 0.7, "l1": 1.0, "intra": 0.5, "cross": 0.2}
    objective = distillation(target=0.25, kept=kept)
    objective.calibrate(Samples())
    assert objective.fingerprint()[CALIBRATED] == kept
    assert objective.weights == {"l1": 1.0, "intra": 0.5, "cross": 0.2}


def test_ranks_agree():
    objective = distillation(target=0.25, agree=lambda values: [2 * value for value in values])
    alone = distillation(target=0.25, scale=None)
    for one in (objective, alone):
        one.calibrate(Samples())
    assert objective.scale == 2 * alone.scale
