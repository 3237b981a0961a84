"""Rates by depth, frozen parts, and what the optimiser is given."""

import pytest
import torch
from torch import nn

from scaleevent.decoders.decoder import Decoder, Loaded
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.training.optimizer import build_optimizer


class Head(Decoder):
    task = "depth"
    weights = {"term": 1.0}

    def __init__(self, encoder):
        super().__init__(encoder, {})
        self.used, self.unused = nn.Linear(96, 1), nn.Linear(2, 1)

    def forward(self, voxel, after=None):
        return self.used(self.encoder.tokens(voxel))

    def loss(self, raw, target):
        return {"term": raw.mean()}

    def predict(self, raw, size):
        return raw

    def load_published(self, tensors, where=None):
        return Loaded("none", ())

    def dead_parameters(self):
        return "unused.weight", "unused.bias"


@pytest.fixture(scope="module")
def head():
    return Head(Encoder(ARCHS["tiny"]))


def optimizer_of(head, **settings):
    return build_optimizer(head, never=head.dead_parameters(), **settings)


def rates(optimizer, head):
    """Parameter name -> (rate, stage)."""
    names = {id(parameter): name for name, parameter in head.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["stage"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_every_living_parameter_is_trained_once(head):
    given = rates(optimizer_of(head, lr=1.0), head)
    assert given.keys() == {n for n, _ in head.named_parameters() if not n.startswith("unused")}
    assert {rate for rate, _ in given.values()} == {1.0}
    assert not head.unused.weight.requires_grad


def test_layer_decay_falls_from_the_top(head):
    given = rates(
        build_optimizer(
            head, never=head.dead_parameters(), lr=1.0, encoder_lr=0.5, layer_decay=0.8
        ),
        head,
    )
    expected = {
        "used.weight": 1.0,
        "encoder.vit.norm.weight": 0.5,
        "encoder.vit.blocks.3.attn.proj.weight": 0.5,
        "encoder.vit.blocks.2.attn.proj.weight": 0.5 * 0.8,
        "encoder.vit.blocks.0.mlp.fc1.bias": 0.5 * 0.8**3,
        "encoder.vit.patch_embed.proj.weight": 0.5 * 0.8**3,
        "encoder.vit.cls_token": 0.5 * 0.8**3,
        "encoder.vit.reg_token": 0.5 * 0.8**3,
    }
    assert {name: given[name][0] for name in expected} == pytest.approx(expected)
    assert given["used.weight"][1] == "head" and given["encoder.vit.cls_token"][1] == "encoder"


def test_patch_embedding_of_its_own_and_freezing(head):
    given = rates(
        build_optimizer(
            head, never=head.dead_parameters(), lr=1.0, lr_patch=0.1, freeze="released"
        ),
        head,
    )
    assert given["encoder.vit.patch_embed.proj.bias"][0] == 0.1
    assert (
        not {"encoder.vit.cls_token", "encoder.vit.reg_token", "encoder.vit.norm.bias"}
        & given.keys()
    )
    assert "encoder.vit.blocks.0.norm1.bias" in given
    given = rates(optimizer_of(head, lr=1.0, freeze="encoder"), head)
    assert given.keys() == {"used.weight", "used.bias"}
    assert not any(p.requires_grad for p in head.encoder.parameters())


def test_the_logged_rate_is_the_heads(head):
    optimizer = optimizer_of(head, lr=1.0, encoder_lr=2.0)
    assert optimizer.param_groups[-1]["stage"] == "head"


def test_a_step_moves_what_is_trained_and_nothing_else():
    torch.manual_seed(0)
    head = Head(Encoder(ARCHS["tiny"]))
    optimizer = build_optimizer(
        head, never=head.dead_parameters(), lr=0.1, freeze="encoder", weight_decay=0.0
    )
    before = {name: value.clone() for name, value in head.state_dict().items()}
    head(torch.randn(1, 3, 16, 16)).mean().backward()
    optimizer.step()
    moved = {n for n, value in head.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == {"used.weight", "used.bias"}


def test_an_encoder_alone_has_the_rates_of_one_within_a_task_model():
    encoder = Encoder(ARCHS["tiny"])
    settings = {"lr": 9.0, "encoder_lr": 1.0, "lr_patch": 0.1, "freeze": "released"}
    alone = rates(build_optimizer(encoder, **settings), encoder)
    head = Head(encoder)
    within = rates(optimizer_of(head, **settings), head)
    assert {f"encoder.{name}": rate for name, rate in alone.items()} == {
        name: rate for name, rate in within.items() if name.startswith("encoder.")
    }
