"""Masks, token scale and validation on encoders whose tokens are known."""

import math

import pytest
import torch
from torch import nn

from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import DataError
from scaleevent.objectives.distillation import Distillation, token_scale
from scaleevent.objectives.meters import shown_tokens


class Patches(nn.Module):
    """An "encoder" whose tokens are 2x2 pixel patches times a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def tokens(self, x):
        return nn.functional.unfold(x, 2, stride=2).transpose(1, 2) * self.factor

    forward = tokens


def batch(n=2):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(n, 3, 4, 6, generator=generator)
    density = torch.tensor([[0.0, 0.2499, 0.25], [0.1, 1.0, 0.5]]).double().expand(n, 2, 3)
    valid = torch.tensor([[1.0, 1.0, 0.5], [1.0, 0.49, 0.0]]).double().expand(n, 2, 3)
    return {"image": image, "voxel": image.clone(), "density": density, "valid": valid}


def test_masks():
    def weights(mask, tau=64.0):
        return Distillation(Patches(1.0), Patches(1.0), mask=mask, tau=tau).token_weights(batch())[
            0
        ]

    assert weights("hard").tolist() == [False, False, True, False, False, False]
    assert weights("hard", tau=0).tolist() == [True, True, True, True, False, False]
    assert weights("none").tolist() == [True, True, True, True, False, False]
    assert weights("soft").tolist() == pytest.approx([0, 0.9996, 1, 0.4, 0, 0])


def test_equal_tokens_give_no_loss_and_a_known_factor_gives_a_known_l1():
    same = Distillation(Patches(1.0), Patches(1.0), mask="none")
    terms, metrics = same.step(same.model, batch())
    assert all(float(term.detach()) == 0 for term in terms.values())
    assert metrics["cosine"]() == pytest.approx(1)
    assert metrics["active"]() == pytest.approx(4 / 6) and metrics["valid"]() == pytest.approx(
        4 / 6
    )

    double = Distillation(Patches(1.0), Patches(2.0), mask="none", scale=0.5)
    terms, _ = double.step(double.model, batch())
    tokens = Patches(1.0).tokens(batch()["image"])
    tokens = tokens * double.token_weights(batch())[..., None]
    assert terms["l1"].item() == pytest.approx(0.5 * tokens.detach().abs().mean().item(), rel=1e-6)
    assert terms["intra"].item() == pytest.approx(0, abs=1e-9)  # cosine maps ignore the size


def test_states_and_checkpoints_say_which_equation_they_were_trained_with():
    """ "equation" in an older state is a mean over tokens, which has another name now."""
    encoder = Encoder(ARCHS["tiny"])
    named = {name: Distillation(encoder, encoder, name) for name in
             ("released", "equation", "equation-row")}  # fmt: skip
    in_states = {name: one.fingerprint()["structure"] for name, one in named.items()}
    assert in_states["equation-row"] == "equation" != in_states["equation"]
    assert in_states["released"] == "released"
    forms = {name: one.description()["structure"]["reduction"] for name, one in named.items()}
    assert forms == {"released": "mean", "equation": "sum", "equation-row": "rowsum"}


def test_no_gradient_reaches_the_teacher():
    distillation = Distillation(Patches(1.0), Patches(1.5))
    terms, _ = distillation.step(distillation.model, batch())
    terms["l1"].backward()
    assert distillation.teacher.factor.grad is None
    assert distillation.encoder.factor.grad is not None


def test_token_scale_brings_tokens_to_dinov3s_size():
    teacher = Patches(3.0)
    scale = token_scale(teacher, [batch(), batch(4)])
    both = torch.cat(
        [teacher.tokens(b["image"])[shown_tokens(b["valid"])] for b in (batch(), batch(4))]
    ) * scale  # fmt: skip
    assert both.square().mean().sqrt().item() == pytest.approx(0.2)
    hidden = batch() | {"valid": batch()["valid"] * 0}
    with pytest.raises(DataError, match="no image"):
        token_scale(teacher, [hidden])


def test_validation_averages_over_samples():
    distillation = Distillation(Patches(1.0), Patches(2.0))
    whole = distillation.validate([batch(4)])
    data = batch(4)
    parts = [{k: v[i : i + 2] for k, v in data.items()} for i in (0, 2)]
    halves = distillation.validate(parts)
    assert halves == pytest.approx(whole)
    assert whole["val_loss"] == pytest.approx(
        whole["val_l1"] + 10 * whole["val_intra"] + 4 * whole["val_cross"]
    )


def test_held_out_pairs_of_which_no_token_counts_have_no_loss():
    still = batch(4) | {"density": batch(4)["density"] * 0}
    found = Distillation(Patches(1.0), Patches(2.0)).validate([still, still])
    assert found["val_counted"] == 0 and "val_loss" not in found and "val_l1" not in found
    assert all(math.isfinite(value) for value in found.values()) and "val_rank" in found
    soft = Distillation(Patches(1.0), Patches(2.0), mask="none").validate([still])
    assert soft["val_loss"] > 0 and "val_counted" not in soft
